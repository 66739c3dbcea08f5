"""User rules that raise in a running service: one alone, or all on one kind of asset; reads are acknowledged, the
others told, and mended all alarms are as if nothing had been. They raise while a file is there, at a start too.
"""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from databases import Databases
from served import fresh_database
from service_process import ENOUGH_S, ServiceProcess, free_port, until
from test_failpoints import START, START_US, STEP_US, World, living
from typer.testing import CliRunner

from meterwatch.cli import app
from meterwatch.v1 import rules_pb2, rules_pb2_grpc

DAY_STEPS = 96
RULES = """
groups:
  - name: meters
    rules:
      - {alert: heavy, expr: import_kw > 1}
      - {alert: long_heavy, expr: import_kw > 1, for: 30m, keep_firing_for: 15m}
  - name: loads
    rules:
      - {alert: busy, on: transformer, expr: load_ratio > 1, for: 30m}
      - {alert: half, on: transformer, expr: load_ratio > 0.5}
"""
ALARMS = """
SELECT rule, asset_kind, asset, onset_at, raised_at, cleared_at FROM alarms
WHERE state <> 'RETRACTED' AND rule LIKE 'USER/%' ORDER BY 1, 2, 3, 4"""
TOLD_OF = """
SELECT asset FROM alarms WHERE rule = 'SYSTEM' AND level = 'RULE_SUSPENDED' AND cleared_at IS NULL"""
ASIDE = {("USER/long_heavy", "meter"), ("USER", "transformer")}


def raising(file: Path) -> str:
    """Program in which one rule on meters, and what all on transformers rest on, raise while the file is there."""
    return f"""
from pathlib import Path
from meterwatch.user_loads import LoadRows
from rules.user.kernel import Kernel
def may_raise(kernel, name, mine):
    method = getattr(kernel, name)
    def raises(*arguments, **options):
        if Path({str(file)!r}).exists() and mine(arguments):
            raise FloatingPointError("made on purpose")
        return method(*arguments, **options)
    setattr(kernel, name, raises)
for name in ("_pick", "_judge_rule"):
    may_raise(Kernel, name, lambda arguments: arguments[2].rule.name == "long_heavy")
may_raise(LoadRows, "rows", lambda arguments: True)
"""


def loaded(world: World, transformer: str, steps: Any, pu: float) -> None:
    meters = world.members[transformer]
    wh = round(pu * world.rated_kva[transformer] * 250 / len(meters))
    world.send(meters, START_US + np.asarray(steps) * STEP_US, wh, 230.0)


def before(world: World, names: list[str]) -> None:
    loaded(world, names[0], [-3, -2, -1], 1.5)
    loaded(world, names[1], [-3, -2, -1], 1.5)
    world.head_end.flush()


def meanwhile(world: World, names: list[str]) -> None:
    """What comes while rules stand aside: an end, a beginning, what begins and ends, and days late what was not so."""
    told, corrected, new, late = names
    loaded(world, told, range(9), 0.1)
    loaded(world, corrected, [-2], 0.1)
    loaded(world, new, range(5), 1.5)
    loaded(world, new, range(5, 9), 0.1)
    loaded(world, late, np.arange(-5 * DAY_STEPS, -5 * DAY_STEPS + 8), 1.5)
    loaded(world, late, np.arange(-5 * DAY_STEPS + 8, -5 * DAY_STEPS + 12), 0.1)
    world.head_end.flush()


def alarms(world: World) -> list[Any]:
    return world.connection.execute(ALARMS).fetchall()


def told(dsn: str, output: Path, settings: dict[str, str]) -> list[Any]:
    """The alarms of the story where nothing raises."""
    with ServiceProcess(dsn, START, output, **settings) as process, living(process, dsn) as world:
        names = [next(world.free) for _ in range(4)]
        before(world, names)
        meanwhile(world, names)
        return alarms(world)


def test_user_rules_that_raise_stand_aside_and_mended_the_alarms_are_the_same(
    cluster: Databases, tmp_path: Path
) -> None:
    broken, port, rules_file = tmp_path / "broken", free_port(), tmp_path / "rules.yaml"
    rules_file.write_text(RULES, "utf-8")
    files = {"METERWATCH_RULES__FILES": f'["{rules_file}"]'}
    with (
        fresh_database(cluster) as dsn,
        fresh_database(cluster) as sound,
        ServiceProcess(
            dsn, START, tmp_path / "output", raising(broken), METERWATCH_METRICS__PORT=str(port), **files
        ) as process,
        living(process, dsn) as world,
        grpc.insecure_channel(process.address) as channel,
    ):
        stub = rules_pb2_grpc.RulesStub(channel)

        def suspended() -> dict[tuple[str, str], Any]:
            request = rules_pb2.ListSuspendedRequest()
            found = stub.ListSuspended(request, timeout=ENOUGH_S, wait_for_ready=True).rule
            return {(one.rule, one.asset_kind): one for one in found}

        def told_of() -> list[Any]:
            return world.connection.execute(TOLD_OF).fetchall()

        names = [next(world.free) for _ in range(4)]
        before(world, names)
        stood = [row for row in alarms(world) if row[0] != "USER/heavy"]
        assert {row[0] for row in stood} == {"USER/long_heavy", "USER/busy", "USER/half"}
        broken.touch()
        meanwhile(world, names)  # acknowledged
        assert suspended().keys() == ASIDE
        until(lambda: told_of() == [("rule-user",)], "operators are told")
        assert [row for row in alarms(world) if row[0] != "USER/heavy"] == stood, "what was told stays as it was"
        [one] = [one for key, one in suspended().items() if key[0] == "USER"]
        assert one.error == "FloatingPointError: made on purpose"
        assert one.alarms == sum(row[0] in ("USER/busy", "USER/half") and row[-1] is None for row in stood)
        listed = CliRunner().invoke(app, ["rules", "list", "--address", process.address])
        assert listed.exit_code == 1
        assert "stands aside since" in listed.output
        doctor = CliRunner().invoke(
            app, ["doctor", "--address", process.address, "-o", "json"], env={"METERWATCH_DATABASE__URL": dsn}
        )
        assert "USER/long_heavy meter has raised and stands aside since" in doctor.output
        for path, text in (("readyz", "ok; standing aside: "), ("metrics", "meterwatch_rules_suspended 2.0")):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=ENOUGH_S) as answer:
                assert text in answer.read().decode()

        process.kill()
        process.start()  # they raise at the start, too, and keep nothing from starting
        world.overload(next(world.free))
        world.head_end.flush()
        assert suspended().keys() == ASIDE
        resumed = stub.Resume(rules_pb2.ResumeRequest(), timeout=ENOUGH_S)
        assert {(one.rule, one.asset_kind) for one in resumed.rule} == ASIDE

        broken.unlink()
        assert not stub.Resume(rules_pb2.ResumeRequest(), timeout=ENOUGH_S).rule
        until(lambda: not told_of(), "the alarm is over")
        mine = [row for row in alarms(world) if row[2] in names or row[2] in of(world, names)]
        expected = told(sound, tmp_path / "sound", files)
        assert mine == [row for row in expected if row[2] in names or row[2] in of(world, names)]
        assert {row[0] for row in mine} == {"USER/heavy", "USER/long_heavy", "USER/busy", "USER/half"}

        assert world.connection.execute("SELECT count(*) FROM suspended_rules").fetchone() == (0,)
        world.kept()


def of(world: World, transformers: list[str]) -> set[str]:
    return {meter for name in transformers for meter in world.members[name]}


def test_a_reload_has_user_rules_work_again_and_judges_what_they_missed(cluster: Databases, tmp_path: Path) -> None:
    """The file is mended, or the rule taken out: of one that is gone nothing is owed."""
    broken, rules_file = tmp_path / "broken", tmp_path / "rules.yaml"
    rules_file.write_text(RULES, "utf-8")
    settings = {"METERWATCH_RULES__FILES": f'["{rules_file}"]'}
    with (
        fresh_database(cluster) as dsn,
        ServiceProcess(dsn, START, tmp_path / "output", raising(broken), **settings) as process,
        living(process, dsn) as world,
    ):
        broken.touch()
        name = next(world.free)
        loaded(world, name, range(3), 1.5)
        world.head_end.flush()
        broken.unlink()
        rules_file.write_text(RULES.replace("for: 30m}", "for: 45m}"), "utf-8")
        reloaded = CliRunner().invoke(app, ["rules", "reload", "--address", process.address])
        assert reloaded.exit_code == 0, reloaded.output
        told_of = {row[0] for row in alarms(world) if row[2] in {name, *of(world, [name])}}
        assert told_of == {"USER/heavy", "USER/long_heavy", "USER/busy", "USER/half"}

        broken.touch()
        loaded(world, name, range(3, 5), 1.5)
        world.head_end.flush()
        meters_only = RULES.partition("  - name: loads")[0]
        rules_file.write_text("".join(line for line in meters_only.splitlines(True) if "long_heavy" not in line))
        assert CliRunner().invoke(app, ["rules", "reload", "--address", process.address]).exit_code == 0
        listed = CliRunner().invoke(app, ["rules", "list", "--address", process.address])
        assert listed.exit_code == 0, listed.output
        assert world.connection.execute("SELECT count(*) FROM suspended_rules").fetchone() == (0,)
        world.kept()
