"""A transformer heats up by reads through gRPC, with the clock replayed: its alarm, a restart amid it, and the air."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from databases import Databases
from pydantic import SecretStr
from served import fresh_database
from service_process import import_grid
from test_restart import START, START_US, STEP_US, TRANSFORMER, load, send_curve
from typer.testing import CliRunner

from meterwatch.app import Service, running
from meterwatch.cli import app
from meterwatch.config import ClockSection, Config, Database, Server
from meterwatch.v1 import registry_pb2, registry_pb2_grpc, thermal_pb2, thermal_pb2_grpc

ENOUGH_S = 60.0
CURVE = load((80, 0.6), (16, 1.7), (60, 0.4))
HOT_FROM = 80


@pytest.fixture
def own_dsn(cluster: Databases) -> Iterator[str]:
    with fresh_database(cluster) as dsn:
        yield dsn


def configured(dsn: str) -> Config:
    clock = ClockSection(mode="replay", start=START)
    return Config(server=Server(port=0), database=Database(url=SecretStr(dsn)), clock=clock)


def hot(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        return connection.execute(
            "SELECT alarm_id, version, state, severity, level, onset_at, raised_at, cleared_at, evidence FROM alarms"
            " WHERE rule = 'HOT_SPOT' ORDER BY onset_at, alarm_id"
        ).fetchall()


def seen(dsn: str) -> list[tuple[str, str, int, int | None]]:
    """State, level, onset and end in quarter-hours."""

    def quarter(at: Any) -> int | None:
        return None if at is None else round((at - START).total_seconds() / 900)

    return [(row[2], row[4], quarter(row[5]) or 0, quarter(row[7])) for row in hot(dsn)]


async def judged(service: Service) -> None:
    """The rules have been asked twice since now, the second time for what follows without a read, and owe nothing."""
    pipeline, done = service.pipeline, 0
    judge = pipeline._judge

    async def counted(batch: Any) -> None:
        nonlocal done
        await judge(batch)
        done += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_judge", counted)
        async with asyncio.timeout(ENOUGH_S):
            while done < 2 or pipeline.rules.due:  # noqa: ASYNC110  (nothing tells when a tick is over)
                await asyncio.sleep(0.01)


def _temperature(address: str, *names: str) -> Any:
    with grpc.insecure_channel(address) as channel:
        request = thermal_pb2.ListTemperaturesRequest(transformer=names)
        return thermal_pb2_grpc.ThermalStub(channel).ListTemperatures(request, timeout=ENOUGH_S)


async def temperature(address: str, *names: str) -> Any:
    return await asyncio.to_thread(_temperature, address, *names)


def tell_air(address: str, *readings: tuple[str, int, float]) -> Any:
    """Area, quarter-hour, celsius."""
    request = thermal_pb2.ImportAmbientRequest()
    for area, quarter, celsius in readings:
        request.reading.add(area=area, at_us=START_US + quarter * STEP_US, celsius=celsius)
    with grpc.insecure_channel(address) as channel:
        return thermal_pb2_grpc.ThermalStub(channel).ImportAmbient(request, timeout=ENOUGH_S)


async def test_reads_heat_a_transformer_and_a_restart_in_mid_episode_changes_nothing(own_dsn: str) -> None:
    async with running(configured(own_dsn)) as service:
        await asyncio.to_thread(import_grid, service.address)
        await asyncio.to_thread(send_curve, service.address, CURVE[: HOT_FROM + 1], 0)
        [(state, level, onset, _)] = seen(own_dsn)
        assert (state, level, onset) == ("UNACK_ACTIVE", "HIGH", HOT_FROM), "140 C is less than an hour away"
        await asyncio.to_thread(send_curve, service.address, CURVE[: HOT_FROM + 12], HOT_FROM + 1)
        before = hot(own_dsn)
        told = await temperature(service.address, TRANSFORMER)
    assert [one[:4] for one in seen(own_dsn)] == [("UNACK_ACTIVE", "CRITICAL", HOT_FROM, None)]
    assert 160 <= before[0][8]["hot_spot_c"] < told.temperature[0].hot_spot_c, "told when it became critical"
    assert told.at_us == START_US + (HOT_FROM + 12) * STEP_US
    async with running(configured(own_dsn)) as service:
        assert hot(own_dsn) == before
        again = await temperature(service.address, TRANSFORMER)
        assert again == told
        await asyncio.to_thread(send_curve, service.address, CURVE, HOT_FROM + 12)
        [(alarm_id, _, state, severity, level, onset_at, raised_at, cleared_at, evidence)] = hot(own_dsn)
    assert (alarm_id, state, level, onset_at, raised_at) == (
        before[0][0], "RTN_UNACK", "CRITICAL", before[0][5], before[0][6],
    )  # fmt: skip
    assert severity == 4
    assert cleared_at is not None
    assert evidence["peak_hot_spot_c"] > 160


async def test_air_told_late_raises_and_colder_air_takes_back(own_dsn: str, tmp_path: Path) -> None:
    """At 0.95 of the rating 30 C is no trouble and 50 C is."""
    curve = load((96, 0.95))
    async with running(configured(own_dsn)) as service:
        await asyncio.to_thread(import_grid, service.address)
        await asyncio.to_thread(send_curve, service.address, curve, 0)
        assert seen(own_dsn) == []
        file = tmp_path / "air.csv"
        file.write_text("time,area,celsius\n" + "".join(f"2024-11-12T{h:02}:00Z,,50\n" for h in range(12, 24)))
        done = await asyncio.to_thread(
            CliRunner().invoke, app, ["ambient", "import", str(file), "--address", service.address]
        )
        assert (done.exit_code, done.stdout) == (0, "12 readings, 12 new or different\n")
        await judged(service)
        [(state, level, onset, cleared)] = seen(own_dsn)
        assert (state, level, onset, cleared) == ("UNACK_ACTIVE", "WARNING", 47, None)
        before = hot(own_dsn)
    async with running(configured(own_dsn)) as service:
        assert hot(own_dsn) == before
        again = await asyncio.to_thread(
            CliRunner().invoke, app, ["ambient", "import", str(file), "--address", service.address]
        )
        assert again.stdout == "12 readings, 0 new or different\n"
        await asyncio.to_thread(tell_air, service.address, *(("", 4 * hour, 20.0) for hour in range(12, 24)))
        await judged(service)
        assert [state for state, *_ in seen(own_dsn)] == ["RETRACTED"]
        shown = await asyncio.to_thread(
            CliRunner().invoke, app, ["temperatures", TRANSFORMER, "--address", service.address, "--output", "json"]
        )
        assert TRANSFORMER in shown.stdout


async def test_numbers_of_its_own_make_a_transformer_hotter(own_dsn: str) -> None:
    thermal = "transformer," + ",".join(registry_columns()) + f"\n{TRANSFORMER},90,,,,,,\n"
    async with running(configured(own_dsn)) as service:
        await asyncio.to_thread(import_grid, service.address)
        await asyncio.to_thread(send_curve, service.address, load((96, 0.95)), 0)
        [before] = (await temperature(service.address, TRANSFORMER)).temperature
        assert seen(own_dsn) == []
        with grpc.insecure_channel(service.address) as channel:
            request = registry_pb2.ImportRequest()
            request.file.add(kind="thermal", name="thermal.csv", content=thermal.encode())
            answer = await asyncio.to_thread(registry_pb2_grpc.RegistryStub(channel).Import, request, ENOUGH_S)
        assert not answer.error, answer.error
        [after] = (await temperature(service.address, TRANSFORMER)).temperature
        assert after.top_oil_c - after.ambient_c == pytest.approx(
            (before.top_oil_c - before.ambient_c) * 90 / 55, rel=1e-3
        )
        assert [one[:2] for one in seen(own_dsn)] == [("UNACK_ACTIVE", "WARNING")]


def registry_columns() -> tuple[str, ...]:
    from meterwatch.registry_csv import ThermalNumbers

    return ThermalNumbers._fields[1:]


@pytest.mark.parametrize(
    ("celsius", "quarter", "reason"),
    [(71.0, 1, "celsius"), (float("nan"), 1, "celsius"), (20.0, 10**6, "at_us")],
)
async def test_air_that_cannot_be_is_refused(own_dsn: str, celsius: float, quarter: int, reason: str) -> None:
    async with running(configured(own_dsn)) as service:
        with pytest.raises(grpc.RpcError, match=reason) as refused:
            await asyncio.to_thread(tell_air, service.address, ("", quarter, celsius))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


async def test_an_unknown_transformer_is_no_temperature(own_dsn: str) -> None:
    async with running(configured(own_dsn)) as service:
        with pytest.raises(grpc.RpcError, match="registered ones") as refused:
            await temperature(service.address, "nobody")
        assert not (await temperature(service.address)).temperature
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
