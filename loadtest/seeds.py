"""Several seeds of one scenario as one result: the figures over all, their median and their worst.

Counts are added and shares made of the sums; percentiles of the time to a root are of all roots. Pure: records in,
dicts out. A figure that a seed has not (no fault to divide by) is left out of median and worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from loadtest.match import Match, match
from loadtest.record import Record
from loadtest.score import BY_TYPE, percentile

FIGURES: Final = (
    "recall", "false_roots", "false_roots_per_10k_day", "time_to_root_s_p50", "time_to_root_s_p95", "pages_per_fault",
)  # fmt: skip
HEAT_SHARES: Final = ("warned_in_time", "warned_before_hot", "two_hour_rule_before_hot")
OVER_RULE: Final = ("alarms_over_two_hour_rule", "calls_over_two_hour_rule", "alarms_in_book_over_two_hour_rule")
HEAT_COUNTS: Final = ("calls", "escalations", *BY_TYPE, "alarms_for_planning")
BETTER_HIGH: Final = frozenset({"recall", *HEAT_SHARES})
DAY_UNIT_S: Final = 10_000 * 86_400
"""10,000 transformers for a day."""


def together(records: Sequence[Record]) -> dict[str, Any]:
    """The figures over all seeds: counts are added, percentiles are of all roots."""
    faults = sum(record.score["faults"] for record in records)
    pages, false_roots = (sum(record.score[name] for record in records) for name in ("pages", "false_roots"))
    times_s = [t for record in records for t in _root_times_s(match(record))]
    units = sum(record.inputs["transformers"] * record.inputs["simulated_s"] for record in records) / DAY_UNIT_S
    return {
        "seeds": len(records),
        "faults": faults,
        "pages": pages,
        "recall": round(sum(record.score["found"] for record in records) / max(faults, 1), 6),
        "false_roots": false_roots,
        "units_of_10k_transformer_days": round(units, 4),
        "false_roots_per_10k_day": round(false_roots / units, 4),
        "time_to_root_s_p50": percentile(times_s, 50),
        "time_to_root_s_p95": percentile(times_s, 95),
        "pages_per_fault": round(pages / max(faults, 1), 6),
        **heat_together(records),
    }


def heat_together(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of heat over all seeds; none where no seed has them.

    Shares are of all faults that pass 140 C, ratios of all alarms of the two-hour rule; lead_min_p50: median of seeds.
    """
    hot = [record.score.get("hot_faults", 0) for record in records]
    by_rule = [record.inputs.get("two_hour_rule_alarms") or 0 for record in records]
    if not sum(hot) and not sum(by_rule):
        return {}

    def weighed(name: str, weights: Sequence[int]) -> float | None:
        parts = [record.score.get(name) or 0.0 for record in records]
        total = sum(weights)
        return round(sum(w * part for w, part in zip(weights, parts, strict=True)) / total, 6) if total else None

    leads = [lead for record in records if (lead := record.score.get("lead_min_p50")) is not None]
    return {
        "hot_faults": sum(hot),
        "two_hour_rule_alarms": sum(by_rule),
        **{name: weighed(name, hot) for name in HEAT_SHARES},
        "lead_min_p50": percentile(leads, 50),
        **{name: weighed(name, by_rule) for name in OVER_RULE},
        **{name: sum(record.score.get(name, 0) for record in records) for name in HEAT_COUNTS},
    }


def _root_times_s(found: Match) -> list[float]:
    return [
        (told.recorded_us - fault.onset_us) / 1e6
        for fault, told in found.pairs
        if fault.kind == "OUTAGE" and fault.asset_kind != "meter"
    ]


def median_and_worst(scores: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Figure -> its median and its worst over the seeds that have it."""
    result = {}
    for name in (*FIGURES, *HEAT_SHARES, *OVER_RULE):
        values = [score[name] for score in scores if score.get(name) is not None]
        if values:
            worst = min(values) if name in BETTER_HIGH else max(values)
            result[name] = {"median": median(values), "worst": worst}
    return result


def report_of(records: Sequence[Record]) -> dict[str, Any]:
    """What is written of several seeds: `score` as in a record, `over_seeds`, and each seed without its alarms."""
    first = records[0]
    return {
        "scenario": first.scenario,
        "inputs": first.inputs,
        "versions": first.versions,
        "machine": first.machine,
        "commit": first.commit,
        "score": together(records),
        "over_seeds": median_and_worst([record.score for record in records]),
        "seeds": [
            {
                "seed": record.seed, "seconds": record.seconds, "score": record.score, "totals": record.totals,
                "ack_ms": record.ack_ms, "event_ms": record.event_ms, "behind_s_max": record.behind_s_max,
                "required": record.required, "problems": record.problems,
            }
            for record in records
        ],
        "problems": [f"seed {record.seed}: {problem}" for record in records for problem in record.problems],
    }  # fmt: skip


def write(report: dict[str, Any], path: Path) -> None:
    """Write a report of several seeds as JSON."""
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
