"""What is stored makes user rules and every job beside the rules raise, each time: the service starts, takes reads,
tells outages and overloads, and tells of what does not work; mended it makes good what it owes.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from databases import Databases
from served import fresh_database
from service_process import ServiceProcess, free_port, until
from test_failpoints import DAY_US, START, START_US, STEP_US, World, living
from test_user_rules_aside import RULES, loaded

from meterwatch.batch import EventCode

POISON_WH = 77
JOBS = {
    "counting gaps", "estimating", "figures of alarms", "forecasting", "indices", "interruptions", "judging days",
    "learning delivery", "looking for storms", "the time of alarms", "upkeep",
}  # fmt: skip
TOLD_OF = """
SELECT asset, summary FROM alarms WHERE rule = 'SYSTEM' AND asset IN ('jobs', 'rule-user') AND cleared_at IS NULL"""
NEXT_DAY = {"METERWATCH_CLOCK__START": (START + timedelta(days=1, hours=3)).isoformat()}


def raising(file: Path) -> str:
    """Program in which, while the file is there, user rules and day checks raise for a value, and other jobs always."""
    return f"""
import numpy as np
from pathlib import Path
from alarm.book import Book
from meterwatch import alarm_figures, gap_watch, interruptions, jobs, judged_days, own_alarms, own_conditions
from meterwatch import storm_watch, user_rules_at_work
from storage.arrived import Arrived
from storage.delivery import DeliveryStore
from storage.estimates import EstimateStore
from storage.forecasts import ForecastStore
from storage.service_reliability import Indices
from storage.upkeep import Upkeep
jobs.AGAIN_S = jobs.AGAIN_S_MAX = gap_watch.EVERY_S = own_alarms.EVERY_S = own_conditions.SETTLES_S = 0.2
jobs.FAILS_S = 20.0
def may_raise(owner, name, mine=lambda *_: True):
    method = getattr(owner, name)
    def raises(*arguments, **options):
        if Path({str(file)!r}).exists() and mine(*arguments):
            raise ValueError("poison")
        return method(*arguments, **options)
    setattr(owner, name, raises)
def poisoned(values):
    return bool((np.asarray(values) == {POISON_WH}).any())
may_raise(user_rules_at_work, "blocks", lambda reads, _: poisoned(reads.channels["import_wh"]))
may_raise(judged_days, "judge", lambda reads, _: poisoned(reads.import_wh))
for owner, name in (
    (alarm_figures, "read_kpis"), (storm_watch, "read_kpis"), (interruptions, "interruptions"), (Arrived, "ask"),
    (DeliveryStore, "outages"), (EstimateStore, "oldest"), (ForecastStore, "oldest_us"), (Indices, "zone"),
    (Upkeep, "_drop"), (Book, "expire"),
):
    may_raise(owner, name)
"""


def test_what_is_stored_and_raises_each_time_keeps_no_service_from_starting(cluster: Databases, tmp_path: Path) -> None:
    poison, rules_file = tmp_path / "poison", tmp_path / "rules.yaml"
    rules_file.write_text(RULES, "utf-8")
    settings = {
        "METERWATCH_RULES__FILES": f'["{rules_file}"]',
        "METERWATCH_METRICS__PORT": str(free_port()),
        "METERWATCH_CLOCK__MODE": "simulated",
        "METERWATCH_CLOCK__START": (START + timedelta(hours=3)).isoformat(),
    }
    with (
        fresh_database(cluster) as dsn,
        ServiceProcess(dsn, START, tmp_path / "output", raising(poison), **settings) as process,
        living(process, dsn) as world,
    ):

        def told() -> dict[str, str]:
            return dict(world.connection.execute(TOLD_OF).fetchall())

        poison.touch()
        sick, heavy, dark = (next(world.free) for _ in range(3))
        world.send(world.members[sick], START_US + np.arange(1, 5) * STEP_US, POISON_WH, 230.0)
        off(world, dark, START_US + STEP_US)
        loaded(world, heavy, range(1, 5), 1.5)
        world.head_end.flush()
        process.kill()
        process.start(NEXT_DAY)
        until(lambda: set(told()) == {"jobs", "rule-user"}, "operators are told")
        until(lambda: all(name in told().get("jobs", "") for name in JOBS), f"of {JOBS}")
        assert "USER meter: ValueError: poison" in told()["rule-user"]
        overloaded, unlit = next(world.free), next(world.free)
        off(world, unlit, START_US + DAY_US + STEP_US)
        world.overload(overloaded)
        world.head_end.flush()
        for rule, asset in (("OVERLOAD", overloaded), ("OUTAGE", unlit)):
            until(partial(world.alarms, rule, asset), f"{rule} is told")
        assert process.alive

        poison.unlink()
        process.kill()
        process.start(NEXT_DAY)
        until(lambda: not told(), "all work")
        members = world.members[heavy]
        heavies = "SELECT count(*) FROM alarms WHERE rule = 'USER/heavy' AND asset = ANY(%s)"
        assert world.connection.execute(heavies, (members,)).fetchone() == (len(members),)
        judged = "SELECT count(*) FROM meter_days WHERE import_wh >= 4 * %s"
        until(lambda: count(world, judged, POISON_WH) >= len(world.members[sick]), "the day is judged")
        until(lambda: count(world, "SELECT count(*) FROM interruptions") > 0, "the interruptions are written")
        world.kept()


def off(world: World, transformer: str, at_us: int) -> None:
    """The last gasps of its meters."""
    meters = world.members[transformer]
    stamps = at_us + np.arange(len(meters)) * 10_000
    world.head_end.send_events(meters, stamps, np.full(len(meters), int(EventCode.POWER_FAIL)))


def count(world: World, query: str, *arguments: Any) -> int:
    found = world.connection.execute(query, arguments).fetchone()
    assert found is not None
    return int(found[0])
