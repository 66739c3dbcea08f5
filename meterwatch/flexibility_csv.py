"""What customers have agreed to spare, as a CSV file: text into typed rows, with every error in one list.

UTF-8 (a byte order mark and CRLF are fine), separated by commas, a header that names exactly COLUMNS in any order. An
empty cell takes its default: not protected, nothing to spare, may not be limited, never was.
Promises: pure; never raises on content; at most PROBLEMS_MAX problems. Refuses to know who is registered.
"""

from __future__ import annotations

import csv
import io
import math
from datetime import UTC, datetime
from typing import Final, NamedTuple

from meterwatch.clock import US

COLUMNS: Final = ("meter", "protected", "shift_kw", "avoid_kw", "limit_to_kw", "limited_at")
PROBLEMS_MAX: Final = 200
KW_MAX: Final = 1e6
WORDS: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False, "": False}


class Flexibility(NamedTuple):
    """One customer."""

    meter: str
    protected: bool
    shift_kw: float
    avoid_kw: float
    limit_to_kw: float | None
    """None: may not be limited."""
    limited_us: int | None
    """None: never limited or disconnected."""


def parsed(name: str, content: bytes) -> tuple[list[Flexibility], list[str]]:
    """Rows and problems, each problem as "file:line: what arrived; what was expected"."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return [], [f"{name}: byte {error.start} is no UTF-8; save the file as UTF-8"]
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[Flexibility] = []
    problems: list[str] = []
    seen: set[str] = set()
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if sorted(header) != sorted(COLUMNS):
            return [], [f"{name}:1: the columns are {', '.join(header)}; expected {', '.join(COLUMNS)}"]
        for cells in reader:
            if not cells:
                continue
            where = f"{name}:{reader.line_num}"
            if len(cells) != len(COLUMNS):
                problems.append(f"{where}: {len(cells)} values arrived; expected {len(COLUMNS)}")
                continue
            row, wrong = _row(dict(zip(header, (cell.strip() for cell in cells), strict=True)))
            if row.meter in seen:
                wrong.append(f"meter {row.meter!r} is named twice; keep one line")
            seen.add(row.meter)
            problems += [f"{where}: {one}" for one in wrong]
            rows.append(row)
    except csv.Error as error:
        problems.append(f"{name}:{reader.line_num}: {error}; mend the line")
    return ([], problems[:PROBLEMS_MAX]) if problems else (rows, [])


def _row(cell: dict[str, str]) -> tuple[Flexibility, list[str]]:
    wrong: list[str] = []

    def kw(column: str) -> float | None:
        text = cell[column]
        try:
            value = float(text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and not 0 <= value <= KW_MAX:
            wrong.append(f"{column} is {text[:40]!r}; expected kW from 0 to {KW_MAX:g}, or nothing")
            return None
        return value

    if not cell["meter"]:
        wrong.append("meter is empty; expected a meter number")
    protected = WORDS.get(cell["protected"].lower())
    if protected is None:
        wrong.append(f"protected is {cell['protected'][:40]!r}; expected yes or no")
    limited_us = None
    if cell["limited_at"]:
        try:
            at = datetime.fromisoformat(cell["limited_at"])
            limited_us = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()) * US
        except (ValueError, OverflowError):
            wrong.append(f"limited_at is {cell['limited_at'][:40]!r}; expected a time such as 2026-01-31T12:00Z")
    row = Flexibility(
        cell["meter"], bool(protected), kw("shift_kw") or 0.0, kw("avoid_kw") or 0.0, kw("limit_to_kw"), limited_us
    )
    return row, wrong
