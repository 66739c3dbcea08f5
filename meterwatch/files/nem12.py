"""NEM12 and NEM13 files (AEMO Meter Data File Format) to columns.

A NEM12 file is 100 (header), then per register a 200 (NMI, register, unit, interval length), per day a 300 (all values
of the day, one quality), after a 300 the 400s that give parts of the day their own quality, 500 (transactions,
ignored), and 900.

    register E import, B export, Q import reactive, K export reactive; others (averages, checks, voltage) are counted
             and not carried
    suffix   the register's second character names the physical meter: E1 B1 Q1 K1 are the channels of meter `NMI`,
             E2 Q2 those of meter `NMI-2`. Two import registers of one NMI are therefore two meters, never a sum
    time     market time, a fixed offset from UTC without daylight saving (utc_offset_s, default UTC+10); a day's
             values end at 00:00 + length, + 2 lengths, ... of that fixed clock
    value    rounded half to even to whole Wh, counted (FileReads.rounding_wh)
    quality  A actual; F final substitute; S, E estimate; N missing: counted, no value; V: the 400s say

A NEM13 file (250 records) holds accumulated reads: each becomes one row whose interval is the whole period between two
visits. The service does not store intervals beyond a day; FileReads.storable() leaves them out and counts them.
Direction E (from the grid) is import.

Promises: all or nothing, all problems with their lines. Refuses to know which NMI is registered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from meterwatch.channels import CHANNEL_NAMES, INTERVALS_S
from meterwatch.files.columns import ACTUAL, ESTIMATED, MISSING, SUBSTITUTED, FileReads, Problem, Problems
from meterwatch.files.decimals import BadCells, energy

MARKET_OFFSET_S = 36_000
"""Market time of the NEM: UTC+10 all year. Western Australia's files use UTC+8 (28,800)."""

RECORDS = frozenset({"100", "200", "250", "300", "400", "500", "550", "900"})

_DAY_S = 86_400
_CHANNEL = {"E": 0, "B": 1, "Q": 2, "K": 3}
_DIRECTION = {"E": 0, "I": 1}
_WH_PER_UNIT = {"wh": 1, "kwh": 1000, "mwh": 1_000_000}
_VARH_PER_UNIT = {"varh": 1, "kvarh": 1000, "mvarh": 1_000_000}
_METHOD = {"A": ACTUAL, "F": SUBSTITUTED, "S": ESTIMATED, "E": ESTIMATED, "N": MISSING}
_QUALITY = re.compile(r"[AEFNSV]\d{0,2}", re.ASCII)
_NMI = re.compile(r"[A-Za-z0-9]{1,20}", re.ASCII)
_COUNT = re.compile(r"\d{1,6}", re.ASCII)
_SUFFIX = re.compile(r"[A-Z0-9][A-Z0-9]", re.ASCII)
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d))?", re.ASCII)
_MINUTES = tuple(s // 60 for s in INTERVALS_S if s < _DAY_S)
_MISSING_REASON = "missing reading (quality N)"


class _Bad(Exception):
    """A record that cannot be read, with the message for its line."""


@dataclass
class _Register:
    """A 200 record."""

    line: int
    name: str
    meter: int
    length_s: int
    channel: int = 0
    wh_per_unit: int = 1
    skip: str = ""
    """Reason why the values are counted and not carried."""


@dataclass
class _Day:
    """A 300 record and the 400s that follow it."""

    line: int
    start_us: int
    texts: list[str]
    quality: str
    method: NDArray[np.uint8]
    covered: int = 0
    """Intervals 1..covered have their quality from 400 records."""


@dataclass
class _Parts:
    """Values read so far: per part (one day of one register) scalars, per value arrays."""

    line: list[int] = field(default_factory=list)
    meter: list[int] = field(default_factory=list)
    channel: list[int] = field(default_factory=list)
    length_s: list[int] = field(default_factory=list)
    end_us: list[NDArray[np.int64]] = field(default_factory=list)
    value: list[NDArray[np.int64]] = field(default_factory=list)
    method: list[NDArray[np.uint8]] = field(default_factory=list)


class _Reader:
    def __init__(self, source: str, utc_offset_s: int) -> None:
        self.source = source
        self.utc_offset_us = utc_offset_s * 1_000_000
        self.problems = Problems(source)
        self.version = ""
        self.ended = False
        self.meters: dict[str, int] = {}
        self.register: _Register | None = None
        self.day: _Day | None = None
        self.data_records = 0
        self.parts = _Parts()
        self.skipped: Counter[str] = Counter()
        self.rounded = 0
        self.rounding_wh = 0.0

    # one record ----------

    def record(self, line: int, text: str) -> None:
        fields = [cell.strip() for cell in text.split(",")]
        kind = fields[0]
        if kind not in RECORDS:
            raise _Bad(f"record {kind[:20]!r}; expected one of {', '.join(sorted(RECORDS))}; is this a NEM12 file?")
        if self.ended:
            raise _Bad(f"record {kind} after the 900 end record; expected nothing; one file holds one 100..900")
        if kind != "400":
            self.close_day()
        if kind == "100":
            self.header(fields)
        elif not self.version:
            raise _NoHeader(f"a {kind} record before the header; expected 100,NEM12,... first; ask the sender for it")
        elif kind == "200":
            self.register = None
            self.require("NEM12", kind)
            self.register = self.open_register(line, fields)
        elif kind == "300":
            self.require("NEM12", kind)
            self.data_records += 1
            if self.register is None:
                if not self.problems.found:
                    raise _Bad("a 300 record without a 200 record before it; expected 200 first")
                return
            self.day = self.open_day(line, fields, self.register)
        elif kind == "400":
            if self.day is not None:
                self.event(fields, self.day)
            elif not self.problems.found:
                raise _Bad("a 400 record without a 300 record before it; expected 300 first")
        elif kind == "250":
            self.require("NEM13", kind)
            self.data_records += 1
            self.accumulated(line, fields)
        elif kind == "900":
            self.ended = True

    def header(self, fields: list[str]) -> None:
        if self.version:
            raise _Bad("a second 100 record; expected one header; split the file")
        version = fields[1].upper() if len(fields) > 1 else ""
        if version not in ("NEM12", "NEM13"):
            raise _NoHeader(f"format {version[:20]!r} in the 100 record; expected NEM12 or NEM13")
        self.version = version

    def require(self, version: str, kind: str) -> None:
        if self.version != version:
            raise _Bad(f"a {kind} record in a {self.version} file; it belongs to {version}; correct the 100 record")

    def open_register(self, line: int, fields: list[str]) -> _Register:
        if len(fields) < 9:
            raise _Bad(f"a 200 record of {len(fields)} fields; expected at least 9, to the interval length")
        suffix, unit, minutes = fields[4].upper(), fields[7].lower(), fields[8]
        if not _SUFFIX.fullmatch(suffix):
            raise _Bad(f"NMI suffix {fields[4][:20]!r}; expected a register such as E1")
        if minutes not in map(str, _MINUTES):
            raise _Bad(f"interval length {minutes[:20]!r}; expected one of {_MINUTES} minutes")
        name = f"{fields[1]} {suffix}"
        length_s = int(minutes) * 60
        channel = _CHANNEL.get(suffix[0])
        if channel is None:
            what = f"register {suffix[0]}x ({fields[7] or 'no unit'}): not interval energy"
            return _Register(line, name, -1, length_s, skip=what)
        units = _WH_PER_UNIT if channel < 2 else _VARH_PER_UNIT
        if unit not in units:
            raise _Bad(f"unit {fields[7][:20]!r} for register {suffix}; expected one of {', '.join(units)} in any case")
        meter = self.meter(fields[1], "" if suffix[1] == "1" else suffix[1])
        return _Register(line, name, meter, length_s, channel, units[unit])

    def meter(self, nmi: str, part: str) -> int:
        if not _NMI.fullmatch(nmi):
            raise _Bad(f"NMI {nmi[:40]!r}; expected 1 to 20 letters and digits")
        return self.meters.setdefault(f"{nmi}-{part}" if part else nmi, len(self.meters))

    def open_day(self, line: int, fields: list[str], register: _Register) -> _Day:
        local = _stamp(fields[1] if len(fields) > 1 else "")
        wanted = _DAY_S // register.length_s
        count = next((i for i, cell in enumerate(fields[2:]) if cell[:1].isalpha()), None)
        if count is None:
            raise _Bad(f"no quality after the values of {fields[1]}; expected {wanted} values, then A, E, F, N, S or V")
        if count != wanted:
            raise _Bad(
                f"{count} values before quality {fields[2 + count][:20]!r}; expected {wanted}, because the 200 record "
                f"on line {register.line} says {register.length_s // 60} min; correct the interval length or the values"
            )
        quality = fields[2 + count]
        method = np.full(wanted, _method(quality), np.uint8)
        return _Day(line, local - self.utc_offset_us, fields[2 : 2 + count], quality, method)

    def event(self, fields: list[str], day: _Day) -> None:
        count = len(day.texts)
        if len(fields) < 4 or not (_COUNT.fullmatch(fields[1]) and _COUNT.fullmatch(fields[2])):
            raise _Bad("a 400 record without first interval, last interval and quality; expected such as 400,1,20,F14")
        first, last, quality = int(fields[1]), int(fields[2]), fields[3]
        if first != day.covered + 1 or not first <= last <= count:
            day.covered = count  # said once: close_day must not say it again
            raise _Bad(
                f"a 400 record for intervals {first} to {last}; expected it to begin where the one before ended, and "
                f"to end within the {count} of the day on line {day.line}"
            )
        if quality[:1] == "V":
            raise _Bad("quality V in a 400 record; expected A, E, F, N or S (V says in a 300 record that 400s follow)")
        day.method[first - 1 : last] = _method(quality)
        day.covered = last

    def close_day(self) -> None:
        """Take over the values of the open day, now that all its 400 records are known."""
        day, register = self.day, self.register
        self.day = None
        if day is None or register is None:
            return
        count = len(day.texts)
        if day.covered < count and (day.covered or day.quality[0] == "V"):
            self.problems.add(
                day.line,
                f"quality {day.quality} with 400 records for intervals 1 to {day.covered} of {count}; expected 400 "
                f"records for all {count}",
            )
            return
        if register.skip:
            self.skipped[register.skip] += count
            return
        have = np.flatnonzero(day.method != MISSING)
        self.skipped[_MISSING_REASON] += count - len(have)
        try:
            values = energy([day.texts[i] for i in have], register.wh_per_unit)
        except BadCells as bad:
            at = int(have[bad.at[0]])
            self.problems.add(day.line, f"value {day.texts[at][:40]!r} of interval {at + 1}; expected {bad.expected}")
            return
        self.rounded += values.rounded
        self.rounding_wh += values.difference_wh
        end_us = day.start_us + (have + 1) * (register.length_s * 1_000_000)
        self.add(day.line, register.meter, register.channel, register.length_s, end_us, values.wh, day.method[have])

    def accumulated(self, line: int, fields: list[str]) -> None:
        if len(fields) < 20:
            raise _Bad(f"a 250 record of {len(fields)} fields; expected at least 20, to the unit")
        channel = _DIRECTION.get(fields[7].upper())
        if channel is None:
            raise _Bad(f"direction {fields[7][:20]!r}; expected E (from the grid) or I (into the grid)")
        unit = fields[19].lower()
        if unit in _VARH_PER_UNIT:
            channel += 2
        elif unit not in _WH_PER_UNIT:
            units = ", ".join(_WH_PER_UNIT | _VARH_PER_UNIT)
            raise _Bad(f"unit {fields[19][:20]!r}; expected one of {units} in any case")
        start_us, end_us = _stamp(fields[9]), _stamp(fields[14])
        if not start_us < end_us < start_us + 2**31 * 1_000_000:
            raise _Bad(f"read of {fields[14]} after that of {fields[9]}; expected the current read to be the later one")
        method = max(_method(fields[10]), _method(fields[15]))
        meter = self.meter(fields[1], "" if fields[4] == "11" else fields[4])
        if method == MISSING:
            self.skipped[_MISSING_REASON] += 1
            return
        try:
            values = energy(fields[18:19], (_WH_PER_UNIT | _VARH_PER_UNIT)[unit])
        except BadCells as bad:
            raise _Bad(f"quantity {fields[18][:40]!r}; expected {bad.expected}") from None
        self.rounded += values.rounded
        self.rounding_wh += values.difference_wh
        end = np.array([end_us - self.utc_offset_us], np.int64)
        self.add(line, meter, channel, (end_us - start_us) // 1_000_000, end, values.wh, np.array([method], np.uint8))

    def add(
        self,
        line: int,
        meter: int,
        channel: int,
        length_s: int,
        end_us: NDArray[np.int64],
        value: NDArray[np.int64],
        method: NDArray[np.uint8],
    ) -> None:
        parts = self.parts
        parts.line.append(line)
        parts.meter.append(meter)
        parts.channel.append(channel)
        parts.length_s.append(length_s)
        parts.end_us.append(end_us)
        parts.value.append(value)
        parts.method.append(method)

    # the whole file ----------

    def run(self, blocks: Iterable[tuple[int, list[str]]]) -> FileReads:
        line = 0
        for first, lines in blocks:
            for line, text in enumerate(lines, first):
                if not text.strip(", \t"):
                    continue
                try:
                    self.record(line, text)
                except _NoHeader as bad:
                    self.problems.add(line, str(bad))
                    self.problems.raise_if_any()
                except _Bad as bad:
                    self.problems.add(line, str(bad))
                if self.problems.full:
                    self.problems.raise_if_any()
        if not self.ended:
            self.close_day()
            self.problems.add(line, "the file ends without a 900 record; it was cut off; fetch it again")
        elif not self.data_records:
            wanted = "200 and 300" if self.version == "NEM12" else "250"
            self.problems.add(line, f"the file holds no reads; expected {wanted} records between 100 and 900")
        reads = self.merge()
        self.problems.raise_if_any()
        return reads

    def merge(self) -> FileReads:
        """Bring the registers of a meter into one row per interval end."""
        parts = self.parts
        sizes = [len(values) for values in parts.value]
        part = np.repeat(np.arange(len(sizes)), sizes)
        meter = np.array(parts.meter, np.uint32)[part] if sizes else np.empty(0, np.uint32)
        channel = np.array(parts.channel, np.int64)[part] if sizes else np.empty(0, np.int64)
        length_s = np.array(parts.length_s, np.int32)[part] if sizes else np.empty(0, np.int32)
        end_us = np.concatenate([np.empty(0, np.int64), *parts.end_us])
        value = np.concatenate([np.empty(0, np.int64), *parts.value])
        method = np.concatenate([np.empty(0, np.uint8), *parts.method])

        order = np.lexsort((part, channel, end_us, meter))
        part, meter, channel, length_s = part[order], meter[order], channel[order], length_s[order]
        end_us, value, method = end_us[order], value[order], method[order]
        new_row = np.ones(len(order), np.bool_)
        new_row[1:] = (meter[1:] != meter[:-1]) | (end_us[1:] != end_us[:-1])
        again = np.zeros(len(order), np.bool_)
        again[1:] = ~new_row[1:] & (channel[1:] == channel[:-1])
        self.conflicts(part, new_row, again, length_s, value)
        self.skipped["duplicate value"] += int(again.sum())

        row = np.cumsum(new_row) - 1
        rows = int(new_row.sum())
        worst = np.zeros(rows, np.uint8)
        np.maximum.at(worst, row, method)
        present = np.zeros(rows, np.uint32)
        channels = {}
        for i in np.unique(channel).tolist():
            here = channel == i
            channels[CHANNEL_NAMES[i]] = column = np.zeros(rows, np.int64)
            column[row[here]] = value[here]  # duplicates here are equal, conflicts() has seen to it
            present[row[here]] |= np.uint32(1 << i)
        everywhere = bool((present == sum(1 << CHANNEL_NAMES.index(name) for name in channels)).all())
        return FileReads(
            source=self.source,
            meter=list(self.meters),
            meter_index=meter[new_row],
            end_us=end_us[new_row],
            interval_s=length_s[new_row],
            channels=channels,
            method=worst,
            present=None if everywhere else present,
            skipped={reason: count for reason, count in self.skipped.items() if count},
            rounded_values=self.rounded,
            rounding_wh=self.rounding_wh,
            notes=(_ACCUMULATED_NOTE.format(self.data_records),) if self.version == "NEM13" else (),
        )

    def conflicts(
        self,
        part: NDArray[np.int64],
        new_row: NDArray[np.bool_],
        again: NDArray[np.bool_],
        length_s: NDArray[np.int32],
        value: NDArray[np.int64],
    ) -> None:
        """Report values given twice and differently, and meters with two interval lengths; once per part."""
        lines = np.array(self.parts.line)
        differ = np.flatnonzero(again[1:] & (value[1:] != value[:-1])) + 1
        lengths = np.flatnonzero(~new_row[1:] & (length_s[1:] != length_s[:-1])) + 1
        for at in differ[np.unique(part[differ], return_index=True)[1]][:50].tolist():
            one, two = lines[part[at - 1]], lines[part[at]]
            message = f"a value is {value[at]} Wh here and {value[at - 1]} Wh on line {one}; keep one of them"
            self.problems.extend([Problem(int(two), message)])
        for at in lengths[np.unique(part[lengths], return_index=True)[1]][:50].tolist():
            one, two = sorted((lines[part[at - 1]], lines[part[at]]))
            message = f"one meter, two interval lengths on one day, here and on line {one}; split the file"
            self.problems.extend([Problem(int(two), message)])


class _NoHeader(_Bad):
    """Without a header nothing that follows can be read."""


_ACCUMULATED_NOTE = (
    "NEM13: {} accumulated reads, one row each, whose interval is the whole period. They are not interval data: the "
    "service stores intervals up to one day and refuses these"
)


def _method(quality: str) -> int:
    if not _QUALITY.fullmatch(quality):
        raise _Bad(f"quality {quality[:20]!r}; expected A, E, F, N, S or V, and for E, F, S a two-digit method")
    return _METHOD.get(quality[0], ACTUAL)


def _stamp(text: str) -> int:
    """Return yyyymmdd or yyyymmddhhmmss of the file's own clock as if it were UTC, microseconds."""
    match = _STAMP.fullmatch(text)
    if not match:
        raise _Bad(f"date {text[:20]!r}; expected yyyymmdd or yyyymmddhhmmss")
    try:
        year, month, day, hour, minute, second = (int(digits or 0) for digits in match.groups())
        return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()) * 1_000_000
    except ValueError as error:
        raise _Bad(f"date {text!r} does not exist ({error}); expected yyyymmdd or yyyymmddhhmmss") from None


def read_nem12(source: str, blocks: Iterable[tuple[int, list[str]]], utc_offset_s: int = MARKET_OFFSET_S) -> FileReads:
    """Read NEM12 or NEM13 given as blocks of lines (files.lines); rows sorted by meter and end; raise FileError."""
    return _Reader(source, utc_offset_s).run(blocks)
