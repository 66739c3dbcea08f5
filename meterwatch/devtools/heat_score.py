"""The rules and the alarm book against heatwaves whose truth is known, over several seeds.

`python -m meterwatch.devtools.heat_score --seeds 10 --json FILE`. The fleet, the loads and the truth are those of
`meterwatch loadtest --scenario heatwave`; so is the score. Without wire, database and machine clock, as storm_score:
what the head-ends send reaches rules.engine and alarm.book in the order of its arrival, judged every TICK_S of
simulated time. OVERLOAD, HOT_SPOT and, every hour, FORECAST_OVERLOAD (heat_forecasts) tell what they see. Counted is
what people get of them, as calls and escalations (meterwatch.one_call), and what the book has. A forecast of what would
come after the run is left out of both: nobody knows whether it is right. --forecasts-call: they call as the rest does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alarm.book import Book
from alarm.profile import AlarmProfile
from loadtest.plan import Plan
from loadtest.record import Record
from loadtest.scenarios import SCENARIOS, Knobs, turned
from loadtest.score import score
from loadtest.seeds import HEAT_COUNTS, HEAT_SHARES, OVER_RULE, heat_together
from loadtest.world import INTERVAL_S, World
from meterwatch.alarms import Alarm
from meterwatch.batch import ReadChange
from meterwatch.clock import US
from meterwatch.devtools.heat_forecasts import HeatForecasts
from meterwatch.devtools.storm_score import START_US, Arrival, Audience, arrivals, topology_of
from meterwatch.quality import Quality
from rules import forecast_overload
from rules.engine import Engine

TICK_S: Final = 60
"""Reads reach the rules this often."""
AFTER_S: Final = 1200
"""The last reads come so long after the last interval."""
FIGURES: Final = (
    "hot_faults", *HEAT_SHARES, "lead_min_p50",
    *OVER_RULE, *HEAT_COUNTS, "recall", "precision",
)  # fmt: skip


def play(
    meters: int, seed: int, knobs: Knobs, *, forecasts: bool = True, profile: AlarmProfile | None = None
) -> Record:
    """One heatwave through rules and book; the record with its score. forecasts: they take part."""
    began_s = time.monotonic()
    world = World(meters, knobs.streams, seed, knobs.three_phase_share, knobs.meters_per_transformer)
    plan = Plan(world, knobs, START_US)
    topology = topology_of(world)
    engine, book, audience = Engine(topology), Book([], topology, profile), Audience()
    for stream in range(world.streams):
        engine.silence.head_end_connected(stream, START_US)
    ahead = HeatForecasts(plan, topology, engine.overload, book, audience.take) if forecasts else None
    end_us = plan.end_us(knobs.intervals)
    coming, seen = arrivals(plan), np.zeros((meters, knobs.intervals), np.bool_)
    following = next(coming, None)
    for now_us in range(START_US, end_us + AFTER_S * US, TICK_S * US):
        parts: list[Arrival] = []
        while following is not None and START_US + int(following.offset_s * knobs.speed * US) <= now_us:
            parts += [following] if len(following.meter) else []
            following = next(coming, None)
        if parts:
            engine.observe_reads(_new(plan, seen, parts), now_us)
        drafts = book.reconcile(engine.evaluate(now_us), now_us)
        book.apply([draft.alarm for draft in drafts])
        for draft in drafts:
            audience.take(draft.alarm)
        if ahead is not None and now_us < end_us:
            ahead.at(now_us)
    told = [one for one in audience.told() if not _beyond(audience.alarms[one.alarm_id], end_us)]
    record = Record(
        scenario="heatwave",
        inputs={
            "meters": meters, "transformers": world.transformers, "feeders": world.feeders, **asdict(knobs),
            "interval_s": INTERVAL_S, "start_us": START_US, "end_us": end_us,
            "simulated_s": knobs.intervals * INTERVAL_S, "target": "rules and book", "clock": "simulated",
            "two_hour_rule_alarms": plan.trouble.two_hour_rule_alarms, "forecasts": forecasts,
            "for_planning": list(book.profile.for_planning),
            "forecasts_beyond": len(audience.alarms) - len(told),
        },
        seed=seed, versions={}, machine={}, commit="", started_at="", seconds=round(time.monotonic() - began_s, 1),
        faults=plan.faults, told=told,
    )  # fmt: skip
    record.score = score(record)
    return record


def _beyond(alarm: Alarm, end_us: int) -> bool:
    """A forecast of something after the run that had not come true by its end."""
    if alarm.rule != forecast_overload.RULE or alarm.evidence.get("outcome") == "CAME_TRUE":
        return False
    return int(alarm.evidence["first_expected_us"]) >= end_us


def _new(plan: Plan, seen: NDArray[np.bool_], parts: Sequence[Arrival]) -> ReadChange:
    """Those of the reads that were not stored yet, with their energy."""
    meter = np.concatenate([part.meter for part in parts]).astype(np.int64)
    end_us = np.concatenate([part.end_us for part in parts])
    interval = (end_us - plan.start_us) // (INTERVAL_S * US)
    key = np.unique(meter * seen.shape[1] + interval)
    meter, interval = key // seen.shape[1], key % seen.shape[1]
    new = ~seen[meter, interval]
    meter, interval = meter[new], interval[new]
    seen[meter, interval] = True
    slot, end_us = meter.astype(np.int32), plan.start_us + interval * (INTERVAL_S * US)
    row = plan.trouble.hot_row[plan.world.transformer_of[slot]]
    values = plan.world.channels(slot, end_us, plan.trouble.extra_wh[row, interval])
    rows = len(slot)
    none, yes = np.zeros(rows, np.int32), np.ones(rows, np.bool_)
    return ReadChange(
        slot, end_us, np.full(rows, INTERVAL_S, np.int32), np.full(rows, Quality.SUPPLY_ON, np.int32),
        values["import_wh"], none, values["import_varh"], none, yes, yes, np.ones(rows, np.int8),
    )  # fmt: skip


def together(records: Sequence[Record]) -> dict[str, Any]:
    """The figures over all seeds: those of loadtest.seeds, and the shares of faults told and of pages that told."""

    def share(name: str, weights: Sequence[int]) -> float | None:
        total = sum(weights)
        parts = [record.score.get(name) or 0.0 for record in records]
        return round(sum(w * part for w, part in zip(weights, parts, strict=True)) / total, 6) if total else None

    return {
        "seeds": len(records),
        **heat_together(records),
        "recall": share("recall", [record.score["faults"] for record in records]),
        "precision": share("precision", [record.score["pages"] for record in records]),
    }


def main() -> None:
    """Command line: a line per seed, the figures over all; exit 1 if a warning was too late, or alarms are no fewer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--meters", type=int, default=10_000)
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE")
    parser.add_argument("--no-forecasts", action="store_true", help="the rules alone")
    parser.add_argument("--forecasts-call", action="store_true", help="as in a profile with for_planning: []")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    knobs = turned(SCENARIOS["heatwave"][2], ["speed=1", *given.set])
    profile = AlarmProfile(for_planning=()) if given.forecasts_call else None
    records: list[Record] = []
    print(f"{'seed':>6} {' '.join(FIGURES)}")
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        records.append(play(given.meters, seed, knobs, forecasts=not given.no_forecasts, profile=profile))
        _show(str(seed), records[-1].score)
        sys.stdout.flush()
    figures = together(records)
    _show("all", figures)
    if given.json:
        seeds = [{"seed": one.seed, "seconds": one.seconds, "score": one.score} for one in records]
        report = {"score": figures, "inputs": records[0].inputs, "seeds": seeds}
        given.json.write_text(json.dumps(report, indent=1), "utf-8")
    fewer = (figures.get("alarms_over_two_hour_rule") or 0) < 1
    raise SystemExit(0 if figures.get("warned_in_time") == 1 and fewer else 1)


def _show(name: str, figures: dict[str, Any]) -> None:
    shown = {one: "-" if figures.get(one) is None else f"{figures[one]:.4g}" for one in FIGURES}
    print(f"{name:>6} " + " ".join(f"{value:>{len(one)}}" for one, value in shown.items()))


if __name__ == "__main__":
    main()
