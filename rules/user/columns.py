"""The columns an expression may name, by what a rule is on: reads of meters, windows of transformers and of feeders.

A number that is absent or not finite is NaN, and what is computed of NaN is unknown, neither true nor false. A truth
column is never unknown. Only what follows from the stored read and the registry is here: nothing of when it arrived or
of what is judged later about its day, so that the law of event time holds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class On(StrEnum):
    """What a rule is evaluated on, and the kind of its asset."""

    METER = "meter"
    TRANSFORMER = "transformer"
    FEEDER = "feeder"


class Kind(StrEnum):
    """Type of a column and of a part of an expression."""

    NUMBER = "number"
    TRUTH = "truth"


class ColumnType(NamedTuple):
    """One column."""

    kind: Kind
    unit: str
    text: str


def _number(unit: str, text: str) -> ColumnType:
    return ColumnType(Kind.NUMBER, unit, text)


def _truth(text: str) -> ColumnType:
    return ColumnType(Kind.TRUTH, "", text)


_METER: Final = {
    "import_wh": _number("Wh", "energy drawn in the interval"),
    "export_wh": _number("Wh", "energy fed in"),
    "import_varh": _number("varh", "reactive energy drawn"),
    "export_varh": _number("varh", "reactive energy fed in"),
    "import_kw": _number("kW", "mean power drawn"),
    "export_kw": _number("kW", "mean power fed in"),
    "net_kw": _number("kW", "mean power drawn less fed in; one of the two is enough"),
    "voltage_a_v": _number("V", "of phase A"),
    "voltage_b_v": _number("V", "of phase B"),
    "voltage_c_v": _number("V", "of phase C"),
    "voltage_min_v": _number("V", "lowest of the phases present"),
    "voltage_max_v": _number("V", "highest of the phases present"),
    "current_a_a": _number("A", "of phase A"),
    "current_b_a": _number("A", "of phase B"),
    "current_c_a": _number("A", "of phase C"),
    "current_min_a": _number("A", "lowest of the phases present"),
    "current_max_a": _number("A", "highest of the phases present"),
    "power_factor": _number("", "as sent, -1 to 1"),
    "interval_s": _number("s", "length of the interval"),
    "nominal_v": _number("V", "of the meter, from the registry"),
    "rated_a": _number("A", "of the meter, from the registry"),
    "contract_kw": _number("kW", "of the meter, from the registry"),
    "supply_off": _truth("all phases present below 0.6 Un and no current (SUPPLY_OFF)"),
    "supply_on": _truth("a phase at or above 0.8 Un (SUPPLY_ON)"),
    "above_contract": _truth("V07"),
    "device_error": _truth("V09: critical error, clock or data invalid by the meter's own word"),
    "power_mismatch": _truth("V11"),
    "unit_mismatch": _truth("V05"),
}
_LOAD: Final = {
    "net_kw": _number("kW", "mean active power of the members, drawn less fed in"),
    "net_kvar": _number("kvar", "mean reactive power of the members"),
    "load_kva": _number("kVA", "apparent power"),
    "rated_kva": _number("kVA", "from the registry; of a feeder the sum of its transformers"),
    "load_ratio": _number("", "load_kva / rated_kva"),
    "coverage": _number("", "share of the expected energy that has reported, 0 to 1"),
}
COLUMNS: Final = {On.METER: _METER, On.TRANSFORMER: _LOAD, On.FEEDER: _LOAD}
"""By what a rule is on; name -> column."""
