"""Interval reads as plain CSV with a header.

    meter        meter number, 1 to 64 letters, digits and . _ : -
    end          interval end, or `start` for the interval start: ISO 8601, 2026-01-31T13:15:00+01:00 or ...Z
    interval_s   length of the interval in seconds; may instead be given once for the file
    fold         0 or 1: first or second pass of a repeated local hour
    a channel    import_wh, export_wh, import_varh, export_varh (whole numbers), voltage_a_v .. device_status; or
                 import_kwh, export_kwh, import_kvarh, export_kvarh (decimals, rounded half to even to whole Wh)

Columns come in any order; an empty cell is an absent channel. A time without offset is refused unless a time zone is
given for the file; then a time in the spring gap is refused and a time in the repeated autumn hour needs `fold`.
23:59:60 is read as 23:59:59.

Promises: all or nothing, up to PROBLEMS_MAX problems with their lines; whole columns at a time (loops run over blocks,
columns, and distinct meters and times). Refuses to know whether a meter exists or a value is plausible, and leaves
repeated reads to the service.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from meterwatch.channels import CHANNEL_BIT, CHANNELS, ENERGY, INTERVALS_S
from meterwatch.files.columns import ACTUAL, PROBLEMS_MAX, FileError, FileReads, Problems
from meterwatch.files.decimals import WH_MAX, BadCells, energy, numbers, whole_numbers

_KILO = {name.replace("_", "_k"): name for name in ENERGY}
_KEYS = ("meter", "end", "start", "interval_s", "fold")
_COLUMNS = (*_KEYS, *CHANNEL_BIT, *_KILO)
_METER = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?::(\d\d)(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_BAD_TIME: Final = np.iinfo(np.int64).min


_Cell = str | tuple[str, str]
"""A time, or a time and its fold."""

_Column = NDArray[Any]


class _BadTime(ValueError):
    """A time cell that names no instant, and why."""


class _Times:
    """Time cells to UTC microseconds; every distinct text is read once."""

    def __init__(self, zone: ZoneInfo | None) -> None:
        self.zone = zone
        self.known: dict[_Cell, int] = {}
        self.bad: dict[_Cell, str] = {}

    def read(self, cells: Sequence[_Cell]) -> NDArray[np.int64]:
        """Return UTC us [n]; _BAD_TIME where the cell is in `bad`."""
        for cell in dict.fromkeys(cells):
            if cell not in self.known:
                try:
                    self.known[cell] = self.parse(*((cell, "") if isinstance(cell, str) else cell))
                except _BadTime as bad:
                    self.known[cell] = _BAD_TIME
                    self.bad[cell] = str(bad)
        return np.fromiter(map(self.known.__getitem__, cells), np.int64, len(cells))

    def parse(self, text: str, fold: str) -> int:
        match = _TIME.fullmatch(text)
        if not match:
            raise _BadTime(f"time {text[:40]!r}; expected ISO 8601 such as 2026-01-31T13:15:00+01:00")
        day, clock, second, fraction, offset = match.groups()
        try:
            date.fromisoformat(day)
            if clock is None:
                raise _BadTime(f"time {text!r} has no time of day; expected such as {day}T13:15:00+01:00")
            if second == "60" and clock.endswith(":59"):
                second, fraction = "59", None
            local = datetime.fromisoformat(f"{day}T{clock}:{second or '00'}{fraction or ''}{offset or ''}")
        except _BadTime:
            raise
        except ValueError as error:
            raise _BadTime(f"time {text!r} does not exist ({error}); expected a real date and time") from None
        if fold not in ("", "0", "1"):
            raise _BadTime(f"fold {fold[:20]!r}; expected 0, 1 or nothing")
        if local.tzinfo is None:
            local = self.in_zone(local, fold)
        return (local - _EPOCH) // _US

    def in_zone(self, local: datetime, fold: str) -> datetime:
        if self.zone is None:
            raise _BadTime(f"time '{local}' has no offset; expected one (Z, +01:00), or give the file's time zone")
        first, second = (local.replace(tzinfo=self.zone, fold=n) for n in (0, 1))
        before, after = (local_time.utcoffset() or timedelta() for local_time in (first, second))
        if before == after:
            return first
        where = f"{local:%H:%M} {{}} on {local:%Y-%m-%d} in {self.zone.key}"
        if before < after:
            raise _BadTime(where.format("does not exist") + "; the clock went forward; write times with their offset")
        if not fold:
            raise _BadTime(where.format("occurs twice") + "; expected an offset, or 0 or 1 in a column `fold`")
        return second if fold == "1" else first


class _Reader:
    def __init__(self, source: str, time_zone: str | None, interval_s: int | None) -> None:
        self.source = source
        self.problems = Problems(source)
        self.interval_s = interval_s
        zone = None
        if time_zone is not None:
            try:
                zone = ZoneInfo(time_zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise FileError(
                    source, 0, f"time zone {time_zone[:60]!r} is unknown; expected such as Europe/Berlin"
                ) from None
        if interval_s is not None and interval_s not in INTERVALS_S:
            raise FileError(source, 0, f"interval of {interval_s} s; expected one of {INTERVALS_S}")
        self.times = _Times(zone)
        self.meters: dict[str, int] = {}
        self.bad_meters: set[str] = set()
        self.header: list[str] = []
        self.rounded = 0
        self.rounding_wh = 0.0
        self.empty_rows = 0
        self.data_rows = 0
        self.out: list[tuple[_Column, _Column, _Column, _Column, dict[str, _Column]]] = []
        """Per block: meter index, end_us, interval_s, present, channels."""

    # header ----------

    def read_header(self, line: int, text: str) -> None:
        say = self.problems.add
        try:
            names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
        except csv.Error:
            say(line, "quotes or line ends are broken in the header; expected LF or CRLF; export the file again")
            self.problems.raise_if_any()
        for mark, what in ((";", "semicolons"), ("\t", "tabs")):
            if mark in text and "," not in text:
                say(line, f"the header is separated by {what}; expected commas and decimal points; export it so")
                self.problems.raise_if_any()
        for name in names:
            if name not in _COLUMNS:
                say(line, f"column {name[:40]!r} is unknown; expected {', '.join(_COLUMNS)}")
        for name in sorted({name for name in names if names.count(name) > 1}):
            say(line, f"column {name[:40]!r} occurs twice; expected once")
        if "meter" not in names:
            say(line, "no column `meter`; expected a header such as meter,end,interval_s,import_wh")
        if ("end" in names) == ("start" in names):
            say(line, f"{'both' if 'end' in names else 'neither'} `end` and `start`; expected one of these columns")
        if "interval_s" not in names and self.interval_s is None:
            say(line, "no column `interval_s`; expected one, or give the interval length for the file")
        if not set(names) & {*CHANNEL_BIT, *_KILO}:
            say(line, "no channel column; expected at least one such as import_wh or import_kwh")
        for kilo, name in _KILO.items():
            if kilo in names and name in names:
                say(line, f"both `{kilo}` and `{name}`; expected one of them")
        self.problems.raise_if_any()
        self.header = names

    # one block ----------

    def split(self, first: int, lines: list[str]) -> tuple[list[Sequence[str]], NDArray[np.int64]]:
        """Split lines into cells; return rows with the header's number of cells, and their line numbers."""
        reader = csv.reader(lines, strict=True, skipinitialspace=True)
        rows: list[list[str]] = []
        try:
            rows.extend(reader)
        except csv.Error as error:
            at = _open_quote(lines, max(reader.line_num, 1) - 1)
            self.problems.add(first + at, f"quotes or line ends are broken ({error}); correct the line")
            return [], np.empty(0, np.int64)
        if len(rows) != len(lines):
            at = _open_quote(lines, 0)
            self.problems.add(first + at, "a quoted cell goes on to the next line; expected one row per line")
            return [], np.empty(0, np.int64)
        numbers_of_lines = np.arange(first, first + len(rows))
        width = len(self.header)
        widths = np.fromiter(map(len, rows), np.int64, len(rows))
        odd = np.flatnonzero((widths != width) & (widths != 0))
        for i in odd[: PROBLEMS_MAX + 1].tolist():
            why = "export with commas" if ";" in lines[i] else "is there a decimal comma? correct the line"
            self.problems.add(first + i, f"{widths[i]} cells; expected {width} as in the header; {why}")
        good = widths == width
        if good.all():
            return list(rows), numbers_of_lines
        return [row for row in rows if len(row) == width], numbers_of_lines[good]

    def cells(
        self, at: NDArray[np.int64], name: str, texts: Sequence[str], convert: Callable[[Sequence[str]], Any]
    ) -> Any:
        """Convert a column; report its bad cells, and return None."""
        try:
            return convert(texts)
        except BadCells as bad:
            for i in bad.at[: PROBLEMS_MAX + 1]:
                hint = "; write a decimal point" if "," in texts[i] else ""
                if name in ENERGY and "." in texts[i]:
                    hint = f"; for fractions use {name.replace('_', '_k')}"
                self.problems.add(int(at[i]), f"{name} {texts[i][:40]!r}; expected {bad.expected}{hint}")
            return None

    def block(self, first: int, lines: list[str]) -> None:
        rows, at = self.split(first, lines)
        self.data_rows += len(rows)
        if not rows:
            return
        columns: dict[str, Sequence[str]] = dict(zip(self.header, zip(*rows, strict=True), strict=True))
        del rows
        meter = self.meter_column(at, columns["meter"])
        interval = self.interval_column(at, columns.get("interval_s"))
        end_us = self.time_column(at, columns, interval)
        present = np.zeros(len(at), np.uint32)
        channels = {}
        for name in self.header:
            if name not in _KEYS:
                channel = _KILO.get(name, name)
                channels[channel] = self.channel_column(at, name, channel, columns[name], present)
        if self.problems.found:
            return
        if not present.all():
            keep = present != 0
            self.empty_rows += int((~keep).sum())
            meter, end_us, interval, present = meter[keep], end_us[keep], interval[keep], present[keep]
            channels = {name: values[keep] for name, values in channels.items()}
        self.out.append((meter, end_us, interval, present, channels))

    def meter_column(self, at: NDArray[np.int64], texts: Sequence[str]) -> NDArray[np.uint32]:
        for text in dict.fromkeys(texts):
            if text not in self.meters:
                self.meters[text] = len(self.meters)
                if not _METER.fullmatch(text):
                    self.bad_meters.add(text)
        if self.bad_meters:
            for i in [i for i, text in enumerate(texts) if text in self.bad_meters][: PROBLEMS_MAX + 1]:
                message = f"meter {texts[i][:40]!r}; expected 1 to 64 letters, digits and . _ : -"
                self.problems.add(int(at[i]), message)
        return np.fromiter(map(self.meters.__getitem__, texts), np.uint32, len(texts))

    def interval_column(self, at: NDArray[np.int64], texts: Sequence[str] | None) -> NDArray[np.int32]:
        if texts is None:
            return np.full(len(at), self.interval_s, np.int32)
        if self.interval_s is not None and "" in texts:
            texts = [text or str(self.interval_s) for text in texts]
        values = self.cells(at, "interval_s", texts, lambda t: whole_numbers(t, 1, 86_400))
        if values is None:
            return np.full(len(at), INTERVALS_S[0], np.int32)
        for i in np.flatnonzero(~np.isin(values, INTERVALS_S))[: PROBLEMS_MAX + 1].tolist():
            self.problems.add(int(at[i]), f"interval_s {values[i]}; expected one of {INTERVALS_S}")
        return np.asarray(values.astype(np.int32))

    def time_column(
        self, at: NDArray[np.int64], columns: dict[str, Sequence[str]], interval: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        name = "end" if "end" in columns else "start"
        texts = columns[name]
        fold = columns.get("fold")
        cells = texts if fold is None else tuple(zip(texts, fold, strict=True))
        us = self.times.read(cells)
        for i in np.flatnonzero(us == _BAD_TIME)[: PROBLEMS_MAX + 1].tolist():
            self.problems.add(int(at[i]), f"{name}: {self.times.bad[cells[i]]}")
        return us if name == "end" else us + interval.astype(np.int64) * 1_000_000

    def channel_column(
        self, at: NDArray[np.int64], name: str, channel: str, texts: Sequence[str], present: NDArray[np.uint32]
    ) -> NDArray[Any]:
        """Convert one channel, and mark its rows in `present`."""
        bit = np.uint32(CHANNEL_BIT[channel])
        if "" in texts:
            present[np.fromiter(map(bool, texts), np.bool_, len(texts))] |= bit
            texts = [text or "0" for text in texts]
        else:
            present |= bit
        nothing: NDArray[Any] = np.zeros(len(texts), np.int64)
        if name in _KILO:
            converted = self.cells(at, name, texts, lambda t: energy(t, 1000))
            if converted is None:
                return nothing
            self.rounded += converted.rounded
            self.rounding_wh += converted.difference_wh
            values: NDArray[Any] = converted.wh
            return values
        if name in ENERGY:
            converted = self.cells(at, name, texts, lambda t: whole_numbers(t, -WH_MAX, WH_MAX))
        elif name == "device_status":
            converted = self.cells(at, name, texts, lambda t: whole_numbers(t, 0, 2**32 - 1).astype(np.uint32))
        else:
            converted = self.cells(at, name, texts, _float32)
        return nothing if converted is None else converted

    # the whole file ----------

    def run(self, blocks: Iterable[tuple[int, list[str]]]) -> FileReads:
        try:
            for first, lines in blocks:
                skip = 0
                if not self.header:
                    skip = next((i for i, text in enumerate(lines) if text.strip()), len(lines))
                    if skip == len(lines):
                        continue
                    self.read_header(first + skip, lines[skip])
                    skip += 1
                self.block(first + skip, lines[skip:])
                if self.problems.full:
                    break
        except FileError as error:
            self.problems.extend(error.problems if error.problems[0] not in self.problems.found else ())
        if not self.data_rows and not self.problems.found:
            self.problems.add(0, "no row after the header; expected reads")
        self.problems.raise_if_any()
        return self.join()

    def join(self) -> FileReads:
        meter, end_us, interval, present = (np.concatenate([part[i] for part in self.out]) for i in range(4))
        names = [channel.name for channel in CHANNELS if channel.name in self.out[0][4]]
        channels = {name: np.concatenate([part[4][name] for part in self.out]) for name in names}
        channels = {name: values for name, values in channels.items() if (present & CHANNEL_BIT[name]).any()}
        everywhere = bool((present == sum(CHANNEL_BIT[name] for name in channels)).all())
        return FileReads(
            source=self.source,
            meter=list(self.meters),
            meter_index=meter,
            end_us=end_us,
            interval_s=interval,
            channels=channels,
            method=np.full(len(end_us), ACTUAL, np.uint8),
            present=None if everywhere else present,
            skipped={"row without a reading": self.empty_rows} if self.empty_rows else {},
            rounded_values=self.rounded,
            rounding_wh=self.rounding_wh,
        )


def _open_quote(lines: list[str], otherwise: int) -> int:
    """Return the index of the first line with an odd number of quotes: csv reports the line where it gave up."""
    return next((i for i, text in enumerate(lines) if text.count('"') % 2), otherwise)


def _float32(texts: Sequence[str]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values = numbers(texts).astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    infinite = np.flatnonzero(~np.isfinite(values))
    if len(infinite):
        raise BadCells(infinite.tolist(), "a number that a 32-bit float can hold")
    return values


def read_csv(
    source: str,
    blocks: Iterable[tuple[int, list[str]]],
    *,
    time_zone: str | None = None,
    interval_s: int | None = None,
) -> FileReads:
    """Read a CSV file given as blocks of lines (meterwatch.files.lines); rows in file order; raise FileError."""
    return _Reader(source, time_zone, interval_s).run(blocks)
