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
from loadtest.score import percentile

FIGURES: Final = (
    "recall", "false_roots", "false_roots_per_10k_day", "time_to_root_s_p50", "time_to_root_s_p95", "pages_per_fault",
)  # fmt: skip
BETTER_HIGH: Final = frozenset({"recall"})
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
    for name in FIGURES:
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
