"""A storm and a lost phase in a running service: told, kept over a restart, and over when they are over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from test_metrics import START_US, config, free_port, scrape
from typer.testing import CliRunner

from meterwatch import storm_watch
from meterwatch.app import Service, running
from meterwatch.batch import EventCode
from meterwatch.cli import app
from meterwatch.cli.calls import alarm_kpis, explain_alarm, list_alarms
from meterwatch.client import HeadEnd, RegistryFile, event_codes, event_phases, import_registry
from meterwatch.clock import US
from meterwatch.v1 import alarms_pb2 as pb

METERS = 40
TOWN = [
    RegistryFile("head_ends", "head_ends", b"head_end,time_zone,late_window_days\nHES-1,UTC,45"),
    RegistryFile("transformers", "transformers", "\n".join(
        ["transformer,feeder,rated_kva,winding,district", *(f"T{i},,100,Dyn11,North" for i in range(3))]
    ).encode()),
    RegistryFile("meters", "meters", "\n".join([
        "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
        "concentrator,head_end",
        *(f"M{t}-{i:02},T{t},ABC,230,100,,1,900,2020-01-01,,,," for t in range(3) for i in range(METERS)),
    ]).encode()),
]  # fmt: skip
"""Meters with three phases on three transformers of a district."""


def of(transformer: int) -> list[str]:
    return [f"M{transformer}-{i:02}" for i in range(METERS)]


async def asked(call: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(call, *arguments)


async def until(service: Service, done: Callable[[pb.GetKpisResponse], bool]) -> pb.GetKpisResponse:
    async with asyncio.timeout(30):
        while True:
            found: pb.GetKpisResponse = await asked(alarm_kpis, service.address, 1, 1)
            if done(found):
                return found
            await asyncio.sleep(0.02)  # asked every EVERY_S


async def open_alarms(service: Service) -> list[tuple[str, str, str, str]]:
    found = await asked(lambda: list(list_alarms(service.address, pb.AlarmFilter(), active_only=True, most=100)))
    return sorted((a.type, a.asset, a.level, a.alarm_id) for a in found if a.type == "OUTAGE")


def storms_of(dsn: str) -> list[Any]:
    """The table: district, most off, most roots, ended."""
    with psycopg.connect(dsn) as connection:
        query = "SELECT district, meters_off_max, roots_max, ended_at > began_at FROM storms"
        return connection.execute(query).fetchall()


class Sender:
    """A head-end whose events move the clock of the service."""

    def __init__(self, address: str, epoch: int) -> None:
        self._head_end = HeadEnd(address, "HES-1", epoch=epoch, give_up_after_s=30).__enter__()

    def tell(self, at_s: int, meters: list[str], names: list[str]) -> None:
        stamps = [START_US + at_s * US] * len(meters)
        self._head_end.send_events(meters, stamps, event_codes(names), event_phases(names))

    def leave(self) -> None:
        self._head_end.close()

    def passes(self, at_s: int) -> None:
        self._head_end.send_events(["M2-00"], [START_US + at_s * US], [int(EventCode.TAMPER)])


async def test_a_storm_and_a_lost_phase_are_told_outlive_a_restart_and_end(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storm_watch, "EVERY_S", 0.02)
    port = free_port()
    async with running(config(dsn, port)) as service:
        assert not (await asked(import_registry, service.address, TOWN)).error
        sender = await asked(Sender, service.address, 1)
        await asked(sender.tell, 0, of(1), ["dlms:99"] * METERS)
        await asked(sender.tell, 10, of(0)[:3], ["dlms:87"] * 3)
        await asked(sender.passes, 300)
        before = await open_alarms(service)
        assert [row[:3] for row in before] == [("OUTAGE", "T0", "PHASE_LOSS"), ("OUTAGE", "T1", "SUSTAINED")]
        page = await asked(explain_alarm, service.address, before[0][3])
        assert (page.meters.members, page.meters.off) == (METERS, 3)
        [storm] = (await until(service, lambda found: len(found.storm) > 0)).storm
        assert (storm.reason, storm.district, storm.meters, storm.meters_off) == (
            pb.STORM_REASON_OFF, "North", 3 * METERS, METERS,
        )  # fmt: skip
        assert (storm.roots, storm.paging, storm.aside) == (2, 2, 0)
        assert (await asked(scrape, port))["storms{}"] == 1
        shown = await asked(CliRunner().invoke, app, ["alarms", "kpi", "--address", service.address, "-o", "json"])
        [line] = [row for row in json.loads(shown.output) if row["what"] == "storm"]
        assert line["asset"].startswith("North: 40 of 120 meters off, 2 outages, 2 alarms, 0 aside, since 2026-03-02T")
        await asked(sender.leave)

    async with running(config(dsn, free_port())) as service:
        assert await open_alarms(service) == before
        [same] = (await until(service, lambda found: len(found.storm) > 0)).storm
        assert same.since_us == storm.since_us
        sender = await asked(Sender, service.address, 2)
        await asked(sender.tell, 900, of(1), ["dlms:2"] * METERS)
        await asked(sender.tell, 900, of(0)[:3], ["dlms:91"] * 3)
        await asked(sender.passes, 1100)
        assert all(row[2] in ("PHASE_LOSS", "SUSTAINED") for row in await open_alarms(service))
        await until(service, lambda found: found.storm[0].meters_off == 0)
        await asked(sender.passes, 1100 + 700)
        await until(service, lambda found: len(found.storm) == 0)
        async with asyncio.timeout(30):
            while (rows := await asked(storms_of, dsn)) != [("North", METERS, 2, True)]:  # written after it is shown
                assert rows == [("North", METERS, 2, None)]
                await asyncio.sleep(0.02)
        await asked(sender.leave)
    with psycopg.connect(dsn) as connection:
        cleared = connection.execute("SELECT count(*) FROM alarms WHERE rule = 'OUTAGE' AND cleared_at IS NOT NULL")
        assert cleared.fetchone() == (2,)
