"""The filter line: `district=North,South type=outage state=unack severity=high text`. All of it must apply.

Pure: a line gives a predicate over rows, or a sentence about what is wrong with it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

from meterwatch.console.rows import SEVERITY, STATE, Row

Wanted = Callable[[Row], bool]

_TEXT: Final[dict[str, Callable[[Row], str]]] = {
    "type": lambda row: row.type,
    "district": lambda row: row.district,
    "feeder": lambda row: row.feeder,
    "asset": lambda row: row.asset,
    "kind": lambda row: row.asset_kind,
    "level": lambda row: row.level,
    "assigned": lambda row: row.assigned_to,
}
_SHORT: Final = {"UNACK": "UNACK_ACTIVE", "ACK": "ACK_ACTIVE", "RTN": "RTN_UNACK"}
_OVER: Final = ("no", "yes", "only")
LABEL: Final = "label."
KEYS: Final = (*_TEXT, "state", "severity", "shelved", f"{LABEL}NAME")


def wanted(line: str) -> Wanted | None:
    """What a filter line lets through; None: everything. ValueError says what is wrong with it."""
    try:
        tokens = shlex.split(line)
    except ValueError:
        raise ValueError("a quotation mark is missing") from None
    tests = [_test(token) for token in tokens]
    if not tests:
        return None
    return lambda row: all(test(row) for test in tests)


def _test(token: str) -> Wanted:
    name, given, values = token.partition("=")
    if not given:
        text = token.casefold()
        return lambda row: any(
            text in part.casefold() for part in (row.asset, row.summary, row.district, row.feeder, row.alarm_id)
        )
    name, chosen = name.lower(), {value.casefold() for value in values.split(",") if value}
    if name in _TEXT:
        of = _TEXT[name]
        return lambda row: of(row).casefold() in chosen
    if name.startswith(LABEL):
        label = name.removeprefix(LABEL)
        return lambda row: dict(row.labels).get(label, "").casefold() in chosen
    match name:
        case "state":
            states = _states(chosen)
            return lambda row: row.state in states
        case "severity":
            least = _severity(values)
            return lambda row: row.severity >= least
        case "shelved":
            if values not in _OVER:
                raise ValueError(f"shelved={values} arrived; no, yes or only was expected")
            return lambda row: values == "yes" or row.overlaid is (values == "only")
    raise ValueError(f"{name}= is no filter; there are {', '.join(KEYS)}, or a word without =")


def _states(chosen: set[str]) -> set[int]:
    names = {_SHORT.get(one.upper(), one.upper()) for one in chosen}
    found = {value for value, name in STATE.items() if name in names}
    if len(found) < len(names):
        raise ValueError(f"state={','.join(sorted(chosen))} arrived; {', '.join(_SHORT)} or SUPPRESSED was expected")
    return found


def _severity(name: str) -> int:
    for value, known in SEVERITY.items():
        if known.startswith(name.upper()) and value and name:
            return value
    raise ValueError(f"severity={name} arrived; low, medium, high or critical was expected")
