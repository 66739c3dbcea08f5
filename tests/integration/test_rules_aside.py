"""Rules that raise in a running service: reads are acknowledged, outages told, and mended all alarms are as if nothing
had been. What the ladders, CONTRACT, HOT_SPOT and COMM_LOSS say raises while a file is there.
"""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from databases import Databases
from served import fresh_database
from service_process import ENOUGH_S, ServiceProcess, free_port, import_grid, until
from test_failpoints import DAY_US, START, START_US, STEP_US, World, living
from test_hot_spot_served import CURVE, configured
from test_restart import TRANSFORMER, send_curve
from typer.testing import CliRunner

from meterwatch.app import running
from meterwatch.batch import EventCode
from meterwatch.cli import app
from meterwatch.own_parts import part_of_rule
from meterwatch.v1 import rules_pb2, rules_pb2_grpc
from meterwatch.wired_rules import WiredRules
from rules.silence import Silence

SUSPENDED = {
    ("OVERLOAD", "transformer"),
    ("REVERSE", "transformer"),
    ("OVERLOAD", "feeder"),
    ("CONTRACT", "meter"),
    ("HOT_SPOT", "transformer"),
    ("COMM_LOSS", ""),
}
"""PHASE and UNBALANCE are not in the profile."""
ALARMS = """
SELECT rule, asset_kind, asset, level, onset_at, raised_at, cleared_at FROM alarms
WHERE state <> 'RETRACTED' AND rule NOT IN ('COMM_LOSS', 'SYSTEM') ORDER BY 1, 2, 3, 5"""
TOLD_OF = "SELECT asset FROM alarms WHERE rule = 'SYSTEM' AND level = 'RULE_SUSPENDED' AND cleared_at IS NULL"


def raising(file: Path) -> str:
    """Program in which rules raise while the file is there."""
    return f"""
from pathlib import Path
from rules.contract import Contract
from rules.hot_spot import HotSpot
from rules.rungs import Rungs
from rules.silence import Silence
def may_raise(kernel, name):
    method = getattr(kernel, name)
    def raises(*arguments, **options):
        if Path({str(file)!r}).exists():
            raise FloatingPointError("a kernel that raises")
        return method(*arguments, **options)
    setattr(kernel, name, raises)
for kernel, name in ((Rungs, "judge"), (HotSpot, "judge"), (Contract, "taken"), (Silence, "judge")):
    may_raise(kernel, name)
"""


def loaded(world: World, transformer: str, end_us: Any, pu: float) -> None:
    meters = world.members[transformer]
    world.send(meters, end_us, round(pu * world.rated_kva[transformer] * 250 / len(meters)), 230.0)


def story(world: World, names: list[str]) -> None:
    """What comes while rules stand aside: of now, five days late, and a correction of what was told before."""
    now, late, told, dark = names
    loaded(world, now, START_US + STEP_US, 2.1)
    begin_us = START_US - 5 * DAY_US
    loaded(world, late, begin_us + np.arange(1, 90) * STEP_US, 0.3)
    loaded(world, late, begin_us + np.arange(40, 44) * STEP_US, 2.1)
    loaded(world, told, START_US + STEP_US, 0.3)
    meters = world.members[dark]
    stamps = START_US + STEP_US + np.arange(len(meters)) * 10_000
    world.head_end.send_events(meters, stamps, np.full(len(meters), int(EventCode.POWER_FAIL)))
    loaded(world, now, START_US + 2 * STEP_US, 2.1)
    world.head_end.flush()
    assert world.alarms("OUTAGE", dark)[0][0] == "UNACK_ACTIVE"


def named(rules: Any) -> set[tuple[str, str]]:
    return {(one.rule, one.asset_kind) for one in rules}


def told_of(world: World) -> set[str]:
    """Who operators know to stand aside."""
    return {asset for (asset,) in world.connection.execute(TOLD_OF)}


def alarms(world: World) -> list[Any]:
    """Those that stand when nothing of the past waits to be judged."""
    owed = "SELECT count(*) FROM transformer_loads_owed"
    until(lambda: world.connection.execute(owed).fetchone() == (0,), "all is judged")
    return world.connection.execute(ALARMS).fetchall()


def told(dsn: str, output: Path) -> list[Any]:
    """The alarms of the story where nothing raises."""
    with ServiceProcess(dsn, START, output) as process, living(process, dsn) as world:
        names = [next(world.free) for _ in range(4)]
        world.overload(names[2])
        world.head_end.flush()
        story(world, names)
        return alarms(world)


def test_rules_that_raise_stand_aside_and_mended_the_alarms_are_the_same(cluster: Databases, tmp_path: Path) -> None:
    broken, port = tmp_path / "broken", free_port()
    settings = {"METERWATCH_METRICS__PORT": str(port)}
    with (
        fresh_database(cluster) as dsn,
        fresh_database(cluster) as sound,
        ServiceProcess(dsn, START, tmp_path / "output", raising(broken), **settings) as process,
        living(process, dsn) as world,
        grpc.insecure_channel(process.address) as channel,
    ):
        rules = rules_pb2_grpc.RulesStub(channel)

        def suspended() -> list[Any]:
            request = rules_pb2.ListSuspendedRequest()
            return list(rules.ListSuspended(request, timeout=ENOUGH_S, wait_for_ready=True).rule)

        assert not suspended()
        names = [next(world.free) for _ in range(4)]
        world.overload(names[2])
        world.head_end.flush()
        before = world.alarms("OVERLOAD", names[2])
        broken.touch()
        story(world, names)  # acknowledged, and the outage is told
        until(lambda: named(suspended()) == SUSPENDED, "all that raise are known to stand aside")
        of_each = {part_of_rule(rule).asset for rule, _ in SUSPENDED}
        until(lambda: told_of(world) == of_each, "operators are told of each")
        assert not world.alarms("OVERLOAD", names[0])
        assert world.alarms("OVERLOAD", names[2]) == before, "what was told stays as it was"
        [one] = [one for one in suspended() if (one.rule, one.asset_kind) == ("OVERLOAD", "transformer")]
        assert (one.error, one.alarms) == ("FloatingPointError: a kernel that raises", 2)
        listed = CliRunner().invoke(app, ["rules", "list", "--address", process.address])
        assert listed.exit_code == 1
        assert "stands aside since 2024-11-12T00:" in listed.output
        for path, text in (("readyz", "ok; standing aside: "), ("metrics", "meterwatch_rules_suspended 6.0")):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=ENOUGH_S) as answer:
                assert text in answer.read().decode()
        said = process.output.read_text()
        assert said.count("a rule has raised and stands aside") == len(SUSPENDED), "each once"
        assert "a kernel that raises" in said

        process.kill()
        process.start()  # they raise at the start, too, and keep nothing from starting
        until(lambda: named(suspended()) == SUSPENDED, "all that raise are known to stand aside")
        assert one.since_us in {again.since_us for again in suspended()}
        resumed = rules.Resume(rules_pb2.ResumeRequest(), timeout=ENOUGH_S)
        assert named(resumed.rule) == SUSPENDED

        broken.unlink()
        assert not rules.Resume(rules_pb2.ResumeRequest(), timeout=ENOUGH_S).rule
        assert not suspended()
        until(lambda: not told_of(world), "the alarms of those that stood aside are over")
        assert alarms(world) == told(sound, tmp_path / "sound")

        broken.touch()
        another = next(world.free)
        world.overload(another)
        world.head_end.flush()
        assert suspended()
        broken.unlink()
        process.kill()
        process.start()  # which mends as well
        [(state, _, level, *_)] = world.alarms("OVERLOAD", another)
        assert (state, level) == ("UNACK_ACTIVE", "EMERGENCY_3")
        assert world.connection.execute("SELECT count(*) FROM suspended_rules").fetchone() == (0,)
        world.kept()


async def test_comm_loss_at_work_again_knows_who_was_heard_meanwhile(
    cluster: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is hearing that raised: else whoever spoke in between would be silent since before."""
    with fresh_database(cluster) as dsn:
        async with running(configured(dsn)) as service:
            await asyncio.to_thread(import_grid, service.address)
            with monkeypatch.context() as patch:
                patch.setattr(Silence, "heard", lambda *_: 1 // 0)
                await asyncio.to_thread(send_curve, service.address, CURVE[:3], 0)
                rules = service.pipeline.rules
                assert isinstance(rules, WiredRules)
                assert [str(one) for one in rules.suspended] == ["COMM_LOSS"]
            topology, heard = service.pipeline.topology(), rules.engine.silence.last_heard()[0]
            spoke = np.flatnonzero(topology.transformer_of == topology.transformer.index(TRANSFORMER))
            assert not np.isin(spoke, heard).any()
            assert not await asyncio.to_thread(resumed, service.address)
            rules = service.pipeline.rules
            assert isinstance(rules, WiredRules)
            async with asyncio.timeout(ENOUGH_S):
                while not np.isin(spoke, rules.engine.silence.last_heard()[0]).all():  # noqa: ASYNC110  (a job's work)
                    await asyncio.sleep(0.01)


def resumed(address: str) -> list[Any]:
    with grpc.insecure_channel(address) as channel:
        return list(rules_pb2_grpc.RulesStub(channel).Resume(rules_pb2.ResumeRequest(), timeout=ENOUGH_S).rule)
