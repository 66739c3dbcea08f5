"""Registry files: nine kinds of CSV into typed rows, with every error of every file in one list.

A file is UTF-8 (a byte order mark and CRLF are fine), separated by commas, with a header row that names exactly the
columns of its kind in any order. An optional value may be empty and then takes its default. A row with an error makes
no row, but its name still counts as named, so that one bad transformer is not a hundred errors in its meters.
Promises: pure; never raises on content; at most PROBLEMS_MAX problems, in the order of files and lines.
Refuses to know what is stored already: references are checked by storage.registry.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, NamedTuple

from meterwatch.registry_values import (
    day,
    identifier,
    instant,
    interval,
    phases,
    positive,
    text_value,
    time_zone,
    whole,
)

PROBLEMS_MAX: Final = 200
INSTALLED_DEFAULT: Final = date(2000, 1, 1)


class Problem(NamedTuple):
    """One error: where, and what arrived; what was expected; what to change."""

    file: str
    line: int
    message: str


class HeadEnd(NamedTuple):
    head_end: str
    time_zone: str
    late_window_days: int


class Feeder(NamedTuple):
    feeder: str
    substation: str
    district: str
    ampacity_a: float | None


class Transformer(NamedTuple):
    transformer: str
    feeder: str | None
    rated_kva: float
    winding: str
    district: str


class Concentrator(NamedTuple):
    concentrator: str
    head_end: str | None
    comm_mode: str


class Meter(NamedTuple):
    meter: str
    transformer: str | None
    phases: str
    nominal_v: float
    rated_a: float
    contract_kw: float | None
    multiplier: float
    interval_s: int
    installed_on: date
    terminal_type: str
    comm_mode: str
    concentrator: str | None
    head_end: str | None


class Registers(NamedTuple):
    """What the registers of a meter look like, and which device they are in."""

    meter: str
    device: str
    digits: int | None
    lsb_wh: float


class CheckMeter(NamedTuple):
    """A meter that measures what a transformer delivers."""

    meter: str
    transformer: str | None


class ThermalNumbers(NamedTuple):
    """What the type plate of a transformer says of its temperatures; None: the profile's."""

    transformer: str
    oil_rise_k: float | None
    hot_spot_rise_k: float | None
    loss_ratio: float | None
    oil_exponent: float | None
    winding_exponent: float | None
    oil_time_constant_s: float | None
    winding_time_constant_s: float | None


class ThermalTypeOf(NamedTuple):
    """Which thermal type of the profile a transformer has; None: none."""

    transformer: str
    thermal_type: str | None


class ServiceTimes(NamedTuple):
    """From when to when a meter is in service, to the second."""

    meter: str
    installed_at: str | None
    retired_at: str | None


Row = (
    HeadEnd | Feeder | Transformer | Concentrator | Meter | Registers | CheckMeter | ThermalNumbers | ThermalTypeOf
    | ServiceTimes
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RegistryCsv:
    """One file as it arrived."""

    kind: str
    name: str
    content: bytes


@dataclass(slots=True)
class Parsed:
    """All rows of all files, by kind; `where[kind][i]` is (file, line) of `rows[kind][i]`."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    where: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    named: dict[str, dict[str, tuple[str, int]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    """Names seen, with the place of the first, bad rows included."""
    unreadable: set[str] = field(default_factory=set)
    """Kinds of which a whole file could not be read: what it names is not known."""
    kinds: list[str] = field(default_factory=list)
    """Kinds that arrived, in order, once each."""
    problems: list[Problem] = field(default_factory=list)

    def report(self, file: str, line: int, message: str) -> None:
        """Keep the problem unless PROBLEMS_MAX are kept already."""
        if not self.full:
            self.problems.append(Problem(file, line, message))

    @property
    def full(self) -> bool:
        return len(self.problems) >= PROBLEMS_MAX


class _Column(NamedTuple):
    read: Callable[[str], Any]
    """Raises ValueError with `expected; change` for a value that will not do."""
    default: Any = None
    required: bool = False


_REFERENCE = _Column(identifier)
_TEXT = _Column(text_value, "")


class Kind(NamedTuple):
    """One kind of file. The first column is the name of the row."""

    row: Callable[..., Row]
    columns: dict[str, _Column]
    references: dict[str, str]
    """Column -> kind it refers to."""


KINDS: Final[dict[str, Kind]] = {
    "head_ends": Kind(
        HeadEnd,
        {
            "head_end": _Column(identifier, required=True),
            "time_zone": _Column(time_zone, "UTC"),
            "late_window_days": _Column(whole(1, 36_500), 45),
        },
        {},
    ),
    "feeders": Kind(
        Feeder,
        {
            "feeder": _Column(identifier, required=True),
            "substation": _TEXT,
            "district": _TEXT,
            "ampacity_a": _Column(positive),
        },
        {},
    ),
    "transformers": Kind(
        Transformer,
        {
            "transformer": _Column(identifier, required=True),
            "feeder": _REFERENCE,
            "rated_kva": _Column(positive, required=True),
            "winding": _TEXT,
            "district": _TEXT,
        },
        {"feeder": "feeders"},
    ),
    "concentrators": Kind(
        Concentrator,
        {"concentrator": _Column(identifier, required=True), "head_end": _REFERENCE, "comm_mode": _TEXT},
        {"head_end": "head_ends"},
    ),
    "meters": Kind(
        Meter,
        {
            "meter": _Column(identifier, required=True),
            "transformer": _REFERENCE,
            "phases": _Column(phases, "?"),
            "nominal_v": _Column(positive, 230.0),
            "rated_a": _Column(positive, 100.0),
            "contract_kw": _Column(positive),
            "multiplier": _Column(positive, 1.0),
            "interval_s": _Column(interval, 900),
            "installed_on": _Column(day, INSTALLED_DEFAULT),
            "terminal_type": _TEXT,
            "comm_mode": _TEXT,
            "concentrator": _REFERENCE,
            "head_end": _REFERENCE,
        },
        {"transformer": "transformers", "concentrator": "concentrators", "head_end": "head_ends"},
    ),
    "registers": Kind(
        Registers,
        {
            "meter": _Column(identifier, required=True),
            "device": _TEXT,
            "digits": _Column(whole(1, 15)),
            "lsb_wh": _Column(positive, 1.0),
        },
        {"meter": "meters"},
    ),
    "check_meters": Kind(
        CheckMeter,
        {"meter": _Column(identifier, required=True), "transformer": _REFERENCE},
        {"meter": "meters", "transformer": "transformers"},
    ),
    "thermal": Kind(
        ThermalNumbers,
        {
            "transformer": _Column(identifier, required=True),
            **{name: _Column(positive) for name in ThermalNumbers._fields[1:]},
        },
        {"transformer": "transformers"},
    ),
    "thermal_types": Kind(
        ThermalTypeOf,
        {"transformer": _Column(identifier, required=True), "thermal_type": _REFERENCE},
        {"transformer": "transformers"},
    ),
    "service_times": Kind(
        ServiceTimes,
        {
            "meter": _Column(identifier, required=True),
            "installed_at": _Column(instant),
            "retired_at": _Column(instant),
        },
        {"meter": "meters"},
    ),
}
"""In the order in which they refer to each other."""


def parse(files: Iterable[RegistryCsv]) -> Parsed:
    """Parse all files. About 1 s for 100 000 meters: call it in a thread."""
    parsed = Parsed()
    for file in files:
        if parsed.full:
            break
        if file.kind not in KINDS:
            parsed.report(
                file.name, 1, f"kind {_shown(file.kind)} arrived; one of {', '.join(KINDS)} was expected; name one"
            )
            continue
        if file.kind not in parsed.kinds:
            parsed.kinds.append(file.kind)
        reader = _open(parsed, file)
        order = _header(parsed, file, reader) if reader else None
        if reader is None or order is None:
            parsed.unreadable.add(file.kind)
        else:
            _rows(parsed, file, reader, order)
    return parsed


def _open(parsed: Parsed, file: RegistryCsv) -> _Reader | None:
    nul = file.content.find(b"\0")
    if nul >= 0:
        line = file.content.count(b"\n", 0, nul) + 1
        parsed.report(
            file.name, line, "a NUL byte arrived; CSV text in UTF-8 was expected; export the file as CSV UTF-8"
        )
        return None
    try:
        text = file.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.content.count(b"\n", 0, error.start) + 1
        byte = file.content[error.start]
        parsed.report(file.name, line, f"byte 0x{byte:02x} arrived; UTF-8 was expected; export the file as CSV UTF-8")
        return None
    return _Reader(text)


class _Reader:
    """csv.reader with the line on which each row starts."""

    def __init__(self, text: str) -> None:
        self._reader = csv.reader(io.StringIO(text, newline=""), strict=True)

    def next(self) -> tuple[int, list[str]] | None:
        """(line, cells) of the next row that is not blank; None at the end. Raises csv.Error."""
        while True:
            line = self._reader.line_num + 1
            cells = next(self._reader, None)
            if cells is None:
                return None
            if any(cells):
                return line, cells

    @property
    def line(self) -> int:
        return self._reader.line_num


def _header(parsed: Parsed, file: RegistryCsv, reader: _Reader) -> list[str] | None:
    """Column names in the order of the file; None after a report."""
    expected = list(KINDS[file.kind].columns)
    try:
        first = reader.next()
    except csv.Error as error:
        parsed.report(file.name, reader.line, f"{error}; a header row was expected; correct the quotes")
        return None
    wanted = f"{','.join(expected)} was expected"
    if first is None:
        parsed.report(file.name, 1, f"an empty file arrived; the header {wanted}; add it")
        return None
    line, cells = first
    names = [cell.strip() for cell in cells]
    if any(";" in name for name in names):
        parsed.report(file.name, line, f"a header with semicolons arrived; {wanted}; export the file with commas")
        return None
    wrong = (
        [f"column {name} is missing" for name in expected if name not in names]
        + [f"column {_shown(name)} is not known" for name in dict.fromkeys(names) if name not in expected]
        + [f"column {name} occurs {names.count(name)} times" for name in expected if names.count(name) > 1]
    )
    if wrong:
        parsed.report(file.name, line, f"{', '.join(wrong)}; {wanted}; correct the header")
    return None if wrong else names


def _rows(parsed: Parsed, file: RegistryCsv, reader: _Reader, order: Sequence[str]) -> None:
    kind = KINDS[file.kind]
    name_column = next(iter(kind.columns))
    name_at = order.index(name_column)
    places = [(name, order.index(name), column) for name, column in kind.columns.items()]
    cells_of: dict[str, dict[str, Any]] = {name: {} for name in kind.columns if name != name_column}
    named, rows, where = parsed.named[file.kind], parsed.rows[file.kind], parsed.where[file.kind]
    while not parsed.full:
        try:
            found = reader.next()
        except csv.Error as error:
            parsed.report(file.name, reader.line, f"{error}; comma-separated values were expected; correct the quotes")
            parsed.unreadable.add(file.kind)
            return
        if found is None:
            return
        line, cells = found
        if len(cells) != len(order):
            message = (
                f"{len(cells)} values arrived; {len(order)} were expected; add or remove commas, or quote the value"
            )
            parsed.report(file.name, line, message)
            if name_at < len(cells):
                named.setdefault(cells[name_at].strip(), (file.name, line))
            continue
        values: list[Any] = []
        for name, at, column in places:
            cell = cells[at].strip()
            known = cells_of.get(name)
            if known is not None and cell in known:
                values.append(known[cell])
                continue
            try:
                value = _value(cell, column)
            except ValueError as error:
                parsed.report(file.name, line, f"{name} {_shown(cell)} arrived; {error}")
                continue
            if known is not None:
                known[cell] = value
            values.append(value)
        name = cells[name_at].strip()
        before = named.setdefault(name, (file.name, line))
        if before != (file.name, line):
            message = f"{name_column} {_shown(name)} arrived again, first in {before[0]} line {before[1]}"
            parsed.report(file.name, line, f"{message}; each name once was expected; remove one of the rows")
        elif len(values) == len(places):
            rows.append(kind.row(*values))
            where.append((file.name, line))


def _value(cell: str, column: _Column) -> Any:
    if cell:
        return column.read(cell)
    if column.required:
        raise ValueError("a value was expected; fill it in")
    return column.default


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
