"""The indices of a running service: by call, by command and as metrics, of one outage told by hand."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from pydantic import SecretStr
from test_metrics import free_port, scrape
from typer.testing import CliRunner

from meterwatch import reliability_figures
from meterwatch.app import Service, running
from meterwatch.cli import app
from meterwatch.client import HeadEnd, RegistryFile, import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Metrics, Server
from meterwatch.v1 import reliability_pb2 as pb
from meterwatch.v1 import reliability_pb2_grpc

NOON_US = 1_772_449_200 * US
"""2026-03-02 12:00 in Berlin."""
METERS = 8
FILES = {
    "head_ends": "head_end,time_zone,late_window_days\nH,Europe/Berlin,45",
    "feeders": "feeder,substation,district,ampacity_a\nF,S,North,400",
    "transformers": "transformer,feeder,rated_kva,winding,district\nT,F,400,Dyn11,North",
    "meters": "\n".join(
        [
            "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,"
            "comm_mode,concentrator,head_end",
            *(f"M{i},T,A,230,100,,1,900,2020-01-01,,,,H" for i in range(METERS)),
        ]
    ),
}


async def told(service: Service) -> None:
    """Four of eight meters go off for an hour, one of them flickers later, and time goes on."""
    files = [RegistryFile(kind, kind, text.encode()) for kind, text in FILES.items()]
    answer = await asyncio.to_thread(import_registry, service.address, files)
    assert not answer.error, answer.error

    def send() -> None:
        with HeadEnd(service.address, "H") as head_end:
            off = [f"M{i}" for i in range(4)]
            head_end.send_events(off, [NOON_US + i * US for i in range(4)], [1] * 4)
            head_end.send_events(off, [NOON_US + 3600 * US] * 4, [2] * 4)
            for at_s in (7_200, 7_380):
                head_end.send_events(["M0"], [NOON_US + at_s * US], [1])
                head_end.send_events(["M0"], [NOON_US + (at_s + 60) * US], [2])
            head_end.send_events(["M7"], [NOON_US + 10_800 * US], [2])
            head_end.flush()

    await asyncio.to_thread(send)
    await service.interruptions.flush()


async def test_the_call_the_command_and_the_metrics_say_the_same(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reliability_figures, "EVERY_S", 0.05)
    port = free_port()
    config = Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection.model_validate({"mode": "simulated", "start": "2026-03-02T22:00:00Z"}),
        metrics=Metrics(port=port),
    )
    async with running(config) as service:
        await told(service)
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub = reliability_pb2_grpc.ReliabilityStub(channel)
            request = pb.GetIndicesRequest(by=pb.INDEX_PLACE_FEEDER, per=pb.INDEX_PERIOD_DAY, first_day="2026-03-02")
            answer = await stub.GetIndices(request)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetIndices(pb.GetIndicesRequest(by=1, per=1, first_day="02.03.2026"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (answer.time_zone, answer.behind) == ("Europe/Berlin", 0)
        unplanned, planned = answer.index
        assert (unplanned.place, unplanned.period, unplanned.customers) == ("F", "2026-03-02", METERS)
        assert (unplanned.interruptions, unplanned.momentary_events) == (4, 1)
        assert (unplanned.saifi, unplanned.maifi_e) == (0.5, 0.125)
        assert unplanned.saidi_min == pytest.approx((4 * 3600 - 6) / 60 / METERS)
        assert unplanned.caidi_min == pytest.approx((4 * 3600 - 6) / 60 / 4)
        assert (planned.planned, planned.saifi, planned.HasField("caidi_min")) == (True, 0, False)

        arguments = ["indices", "--per", "day", "--from", "2026-03-02", "--address", service.address, "-o", "json"]
        shown = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert shown.exit_code == 0, shown.output
        assert [row["saifi"] for row in json.loads(shown.stdout)] == [0.5, 0]

        samples: dict[str, float] = {}
        while not samples.get("reliability_maifi_e{North,month,no}"):
            await asyncio.sleep(0.05)  # asked every EVERY_S
            samples = await asyncio.to_thread(scrape, port)
        assert samples["reliability_saifi{,day,no}"] == samples["reliability_saifi{North,month,no}"] == 0.5
        assert samples["reliability_saidi_minutes{,day,yes}"] == 0
        assert samples["reliability_maifi_e{,month,no}"] == 0.125
        assert "reliability_caidi_minutes{,day,yes}" not in samples
