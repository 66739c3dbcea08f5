"""Blocks of reads as the columns of user rules, each made when an expression first asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Reads
from meterwatch.channels import CHANNEL_BIT, CURRENT, ENERGY, VOLTAGE
from meterwatch.quality import METHOD_MASK, ORIGIN_MASK, ORIGIN_SHIFT, SOURCE_MASK, Origin, Quality
from rules.user.program import BLOCK_ROWS, Bools, Numbers


class Ratings(Protocol):
    """What is needed of a topology, per slot."""

    @property
    def nominal_v(self) -> NDArray[np.float32]: ...
    @property
    def rated_a(self) -> NDArray[np.float32]: ...
    @property
    def contract_kw(self) -> NDArray[np.float32]: ...


_FLAGS: Final = {
    "supply_off": Quality.SUPPLY_OFF,
    "supply_on": Quality.SUPPLY_ON,
    "above_contract": Quality.ABOVE_CONTRACT,
    "device_error": Quality.DEVICE_STATUS,
    "power_mismatch": Quality.POWER_MISMATCH,
    "unit_mismatch": Quality.UNIT_MISMATCH,
}
_REGISTRY: Final = ("nominal_v", "rated_a", "contract_kw")


def is_evidence(quality: NDArray[np.int32]) -> Bools:
    """Reads that somebody measured: neither estimated nor put in by a rule of the sender."""
    origin = (quality & ORIGIN_MASK) >> ORIGIN_SHIFT
    sent: Bools = quality & METHOD_MASK == 0
    measured: Bools = (origin != Origin.ESTIMATED) & (origin != Origin.SUBSTITUTED)
    return sent & measured


def evidence_only(reads: Reads) -> Reads:
    """The reads without those that are none."""
    if not (reads.quality & SOURCE_MASK).any():
        return reads
    mine = is_evidence(reads.quality)
    return reads if mine.all() else reads.take(mine)


def blocks(reads: Reads, topology: Ratings) -> Iterator[tuple[slice, ReadColumns]]:
    """The reads in parts of BLOCK_ROWS."""
    for at in range(0, reads.rows, BLOCK_ROWS):
        part = slice(at, min(at + BLOCK_ROWS, reads.rows))
        yield part, ReadColumns(reads, part, topology)


class ReadColumns:
    """Some rows of `reads`: rules.user.program.Columns."""

    def __init__(self, reads: Reads, part: Any, topology: Ratings) -> None:
        self._reads = reads
        self._part = part
        self._topology = topology
        self.slot = reads.slot[part]
        self.rows = len(self.slot)
        self._known: dict[str, Numbers] = {}

    def take(self, rows: NDArray[np.intp]) -> ReadColumns:
        part = rows + self._part.start if isinstance(self._part, slice) else self._part[rows]
        return ReadColumns(self._reads, part, self._topology)

    def number(self, name: str) -> Numbers:
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._made(name)
        return found

    def flag(self, name: str) -> Bools:
        found: Bools = (self._reads.quality[self._part] & int(_FLAGS[name])) != 0
        return found

    def _made(self, name: str) -> Numbers:
        if name in CHANNEL_BIT:
            return self._channel(name)
        if name in _REGISTRY:
            values: Numbers = getattr(self._topology, name)[self.slot]
            return values
        if name == "interval_s":
            return np.full(self.rows, float(self._reads.interval_s))
        if name in _DERIVED:
            return _DERIVED[name](self)
        raise KeyError(name)

    def _channel(self, name: str) -> Numbers:
        if name not in self._reads.channels:
            return np.full(self.rows, np.nan, np.float64 if name in ENERGY else np.float32)
        values: Numbers = self._reads.channels[name][self._part]
        if name in ENERGY:
            values = values.astype(np.float64)
        if self._reads.mask is not None:
            absent = (self._reads.mask[self._part] & CHANNEL_BIT[name]) == 0
            if absent.any():
                values = np.where(absent, np.nan, values)
        return values

    def power(self, name: str) -> Numbers:
        """Mean kW of an energy."""
        found: Numbers = self.number(name) * (3.6 / self._reads.interval_s)
        return found

    def over_phases(self, names: tuple[str, ...], pick: Callable[[Any, Any], Any]) -> Numbers:
        """Of the channels that are sent at all: the common case of one phase costs nothing."""
        sent = [self.number(name) for name in names if name in self._reads.channels]
        if not sent:
            return np.full(self.rows, np.nan, np.float32)
        found = sent[0]
        for other in sent[1:]:
            found = pick(found, other)
        return found

    def net(self) -> Numbers:
        """Drawn less fed in; what is absent of the two counts as none, unless both are."""
        drawn, fed = self.power("import_wh"), self.power("export_wh")
        if "export_wh" not in self._reads.channels:
            return drawn
        if self._reads.mask is None and "import_wh" in self._reads.channels:
            return drawn - fed
        both = np.isnan(drawn) & np.isnan(fed)
        return np.where(both, np.nan, np.nan_to_num(drawn) - np.nan_to_num(fed))


_DERIVED: Final[dict[str, Callable[[ReadColumns], Numbers]]] = {
    "import_kw": lambda c: c.power("import_wh"),
    "export_kw": lambda c: c.power("export_wh"),
    "net_kw": ReadColumns.net,
    "voltage_min_v": lambda c: c.over_phases(VOLTAGE, np.fmin),
    "voltage_max_v": lambda c: c.over_phases(VOLTAGE, np.fmax),
    "current_min_a": lambda c: c.over_phases(CURRENT, np.fmin),
    "current_max_a": lambda c: c.over_phases(CURRENT, np.fmax),
}
