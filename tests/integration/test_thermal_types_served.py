"""Types of transformers and the air that is forecast, through a real service: live, late, after a restart, replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from databases import Databases
from served import fresh_database
from service_process import ENOUGH_S, import_grid
from test_hot_spot_served import configured, judged, seen, temperature
from test_restart import NEIGHBOUR, START, START_US, STEP_US, TRANSFORMER, load, members
from typer.testing import CliRunner

from meterwatch.app import running
from meterwatch.cli import app
from meterwatch.client import HeadEnd
from meterwatch.config import Config, Rules
from meterwatch.v1 import registry_pb2, registry_pb2_grpc, transformers_pb2, transformers_pb2_grpc
from rules.thermal import ThermalProfile
from tests.rules.twin_oracle import DAY, WARM, Scalar

PROFILES = """
profiles:
  town:
    hot_spot:
      types:
        hot: {oil_rise_k: 90, oil_time_constant_s: 7200}
        onan-large: {loss_ratio: 6.5}
"""
CURVE = load((96, 0.95), (4, 0.9))
HOT = ThermalProfile(oil_rise_k=90, oil_time_constant_s=7200)
LARGE = ThermalProfile(
    oil_rise_k=52, hot_spot_rise_k=26, loss_ratio=6.5, winding_exponent=0.65, oil_time_constant_s=6300,
    winding_time_constant_s=600,
)  # fmt: skip


@pytest.fixture
def own_dsn(cluster: Databases) -> Iterator[str]:
    with fresh_database(cluster) as dsn:
        yield dsn


def configured_with(dsn: str, directory: Path) -> Config:
    path = directory / "profiles.yaml"
    path.write_text(PROFILES)
    return configured(dsn).model_copy(update={"rules": Rules(profile="town", profiles_file=path)})


def send(address: str, transformer: str, first: int, stop: int) -> None:
    """Both transformers have the rating and the number of meters that `load` is made for, or shares of it."""
    meters, share = members(transformer), 13 / len(members(transformer))
    with HeadEnd(address, "HES-1") as head_end:
        for step in range(first + 1, stop + 1):
            end_us = np.full(len(meters), START_US + step * STEP_US)
            wh = np.full(len(meters), round(CURVE[step - 1] * share), np.int32)
            head_end.send_columns(meters, np.arange(len(meters), dtype=np.uint32), end_us, 900, import_wh=wh)
        head_end.flush()


def import_types(address: str, *rows: str) -> Any:
    content = "transformer,thermal_type\n" + "".join(f"{row}\n" for row in rows)
    with grpc.insecure_channel(address) as channel:
        request = registry_pb2.ImportRequest()
        request.file.add(kind="thermal_types", name="types.csv", content=content.encode())
        return registry_pb2_grpc.RegistryStub(channel).Import(request, timeout=ENOUGH_S)


def curve_of(address: str, transformer: str) -> Any:
    with grpc.insecure_channel(address) as channel:
        request = transformers_pb2.GetCurveRequest(
            transformer=transformer, from_us=START_US, to_us=START_US + len(CURVE) * STEP_US
        )
        return transformers_pb2_grpc.TransformersStub(channel).GetCurve(request, timeout=ENOUGH_S)


def rises(thermal: ThermalProfile, load_pu: list[float]) -> list[float]:
    """Hot spot over the air after each window, as the scalar twin of its day has it."""
    first = START_US // STEP_US
    found = []
    for at in range(len(load_pu)):
        day = (first + at) // DAY
        twin = Scalar(thermal)
        for before in range(day * DAY - WARM - first, at + 1):
            twin.step(load_pu[before] if before >= 0 else None)
        found.append(twin.after(0.0))
    return found


async def run_cli(*arguments: str) -> Any:
    done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
    assert done.exit_code == 0, done.output
    return done


async def test_two_types_under_one_load_are_two_temperatures_live_late_and_after_a_restart(
    own_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configured_with(own_dsn, tmp_path)
    async with running(config) as service:
        await asyncio.to_thread(import_grid, service.address)
        answer = await asyncio.to_thread(import_types, service.address, f"{TRANSFORMER},hot", f"{NEIGHBOUR},onan-lareg")
        [error] = answer.error
        assert (error.line, "'onan-lareg'" in error.message, "onan-large" in error.message) == (3, True, True)
        answer = await asyncio.to_thread(import_types, service.address, f"{TRANSFORMER},hot", f"{NEIGHBOUR},onan-large")
        assert not answer.error, answer.error
        await asyncio.to_thread(send, service.address, TRANSFORMER, 0, 60)
        await asyncio.to_thread(send, service.address, NEIGHBOUR, 0, len(CURVE))
        await asyncio.to_thread(send, service.address, TRANSFORMER, 70, len(CURVE))
        await asyncio.to_thread(send, service.address, TRANSFORMER, 60, 70)
        await judged(service)
        told = (await temperature(service.address, TRANSFORMER, NEIGHBOUR)).temperature
        for one, curve, thermal in zip(
            told,
            [await asyncio.to_thread(curve_of, service.address, name) for name in (TRANSFORMER, NEIGHBOUR)],
            (HOT, LARGE),
            strict=True,
        ):
            load_pu = (np.array(curve.kva) / curve.rated_kva).tolist()
            expected = rises(thermal, load_pu)
            assert curve.hot_spot_c == pytest.approx([30 + rise for rise in expected], abs=0.05)
            assert one.hot_spot_c == pytest.approx(30 + expected[-1], abs=0.05)
            assert list(curve.air_c) == [30.0] * len(CURVE)
        assert [one.thermal_type for one in told] == ["hot", "onan-large"]
        assert told[0].hot_spot_c > told[1].hot_spot_c + 20
        alarms = seen(own_dsn)
        assert [one[:2] for one in alarms] == [("UNACK_ACTIVE", "WARNING")]
        listed = await run_cli("alarms", "list", "--type", "HOT_SPOT", "-o", "json", "--address", service.address)
        [alarm] = json.loads(listed.stdout)
        page = (await run_cli("alarms", "explain", alarm["alarm_id"], "--address", service.address)).stdout
        assert "thermal_type" in page
        assert "hot" in page.split("thermal_type", 1)[1].splitlines()[0]
        assert "oil_rise_k" in page
    async with running(config) as service:
        assert seen(own_dsn) == alarms
        assert (await temperature(service.address, TRANSFORMER, NEIGHBOUR)).temperature == told
    monkeypatch.setenv("METERWATCH_DATABASE__URL", own_dsn)
    span = ["--from", START.isoformat(), "--to", (START + timedelta(hours=25)).isoformat()]
    again = [
        "rules",
        "replay",
        *span,
        "-o",
        "json",
        "--all",
        "--profiles",
        str(tmp_path / "profiles.yaml"),
        "--profile",
    ]
    heat = [one for one in json.loads((await run_cli(*again, "town")).stdout) if one["rule"] == "HOT_SPOT"]
    assert [one["difference"] for one in heat] == ["same"]
    heat = [one for one in json.loads((await run_cli(*again, "default")).stdout) if one["rule"] == "HOT_SPOT"]
    assert [one["difference"] for one in heat] == ["gone"], "the default profile has no type of that name"


async def test_air_that_is_forecast_is_for_temperatures_to_come_alone(
    own_dsn: str,
    tmp_path: Path,
) -> None:
    air = tmp_path / "air.csv"
    air.write_text(
        "time,area,celsius\n" + "".join(f"{START + timedelta(hours=h):%Y-%m-%dT%H:%MZ},,44\n" for h in range(72))
    )
    async with running(configured(own_dsn)) as service:
        await asyncio.to_thread(import_grid, service.address)
        await asyncio.to_thread(send, service.address, TRANSFORMER, 0, len(CURVE))
        [before] = (await temperature(service.address, TRANSFORMER)).temperature
        done = await run_cli("ambient", "import", str(air), "--forecast", "--address", service.address)
        assert done.stdout == "72 readings, 72 new or different\n"
        await judged(service)
        [after] = (await temperature(service.address, TRANSFORMER)).temperature
        assert (after.ambient_c, after.hot_spot_c) == (before.ambient_c, before.hot_spot_c)
        listed = await run_cli("ambient", "list", "--forecast", "-o", "json", "--address", service.address)
        assert len(json.loads(listed.stdout)) == 72 - 25
        assert json.loads((await run_cli("ambient", "list", "-o", "json", "--address", service.address)).stdout) == []
        with grpc.insecure_channel(service.address) as channel:
            stub = transformers_pb2_grpc.TransformersStub(channel)
            request = transformers_pb2.PlanLoadRequest(transformer=TRANSFORMER)
            plan = await asyncio.to_thread(stub.PlanLoad, request, ENOUGH_S)
        assert list(plan.air_c) == [44.0] * len(plan.before_kw)
        assert plan.before_hot_spot_c[0] == pytest.approx(after.hot_spot_c + 14, abs=1.0)
