"""Limits on the figures of a run, as given on the command line: `ack_p99_ms<500`.

Promises: a limit that cannot be read is refused before anything starts; one on a figure that the run does not have
fails, and says which there are. Refuses to know units: they are in the names.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from loadtest.record import Record

_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_LIMIT: Final = re.compile(
    r"\s*([a-zA-Z0-9_.]+)\s*(<=|>=|==|<|>)\s*([+-]?[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*"
)


class Limit(NamedTuple):
    """One of them."""

    text: str
    key: str
    compare: str
    value: float


def limit(text: str) -> Limit:
    """Read one; ValueError says what is wrong."""
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} arrived; expected a figure, one of < <= > >= == and a number, as ack_p99_ms<500")
    return Limit(text.strip(), found[1], found[2], float(found[3].replace("_", "")))


def figures(record: Record) -> dict[str, float]:
    """Every number of a run by a flat name: ack_p99_ms, alarm_p50_ms, acked_reads_per_s, recall, OUTAGE_recall, ..."""
    out: dict[str, float] = {"seconds": record.seconds, "behind_s_max": record.behind_s_max}
    for what, percentiles in (("ack", record.ack_ms), ("alarm", record.alarm_ms), ("event", record.event_ms)):
        out |= {f"{what}_{name}_ms": value for name, value in percentiles.items()}
    out |= record.rates | record.totals | {f"{name}_cpu_s": value for name, value in record.cpu_s.items()}
    return out | _flat(record.score, "")


def _flat(values: Mapping[str, Any], before: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = "" if key == "by_kind" else f"{before}{key}_"
            out |= _flat(value, inner)
        elif isinstance(value, list):
            out[f"{before}{key}"] = len(value)
        elif isinstance(value, int | float):
            out[f"{before}{key}"] = value
    return out


def check(record: Record, limits: list[Limit]) -> list[dict[str, Any]]:
    """Each limit with the value found and whether it holds."""
    have = figures(record)
    out: list[dict[str, Any]] = []
    for one in limits:
        value = have.get(one.key)
        ok = value is not None and _COMPARE[one.compare](value, one.value)
        row: dict[str, Any] = {"limit": one.text, "value": value, "ok": ok}
        if value is None:
            row["note"] = f"no figure {one.key}; there are {', '.join(sorted(have))}"
        out.append(row)
    return out
