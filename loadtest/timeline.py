"""Faults against alarms, one row each, worst first: what truly was as a bar, what was told as marks above it.

A table with a small drawing in each row rather than one drawing, so that it can be read aloud, searched, copied and
printed over pages. Missed faults and false alarms are red and say so in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from loadtest.match import QUIET, FalsePage, Match
from loadtest.record import Fault, Record, Told
from loadtest.score import cleared_late
from meterwatch.plot import text

ROWS_MAX: Final = 200
MISSED_MAX: Final = 100
FALSE_MAX: Final = 60
"""Shares of the rows, so that a flood of one kind leaves room for the others; what is left over is filled up."""
NAME_CHARS_MAX: Final = 60
STEPS_S: Final = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the picture."""

    look: str
    """Class of the row: missed, false, late, told, quiet."""
    says: str
    fault: Fault | None
    told: Told | None


def rows(record: Record, found: Match) -> list[Row]:
    """All rows, worst first: missed by size, false, cleared late, told by slowness, then faults that paged nobody."""
    missed = [Row("missed", "missed", one, None) for one in sorted(found.missed, key=lambda one: -one.meters)]
    false = [_false(one) for one in sorted(found.false, key=lambda one: not one.false_root)]
    slowest = sorted(found.pairs, key=lambda pair: pair[0].onset_us - pair[1].recorded_us)
    told = [Row("late", "told, cleared late", *pair) for pair in slowest if cleared_late(*pair, record.inputs)]
    told += [Row("told", "told", *pair) for pair in slowest if not cleared_late(*pair, record.inputs)]
    quiet = [Row("quiet", "must page nobody", one, None) for one in record.faults if one.kind in QUIET]
    quiet.sort(key=lambda row: row.fault.onset_us if row.fault else 0)
    first = missed[:MISSED_MAX] + false[:FALSE_MAX] + told + quiet
    room = max(0, ROWS_MAX - len(first))
    more_missed = missed[MISSED_MAX : MISSED_MAX + room]
    more_false = false[FALSE_MAX : FALSE_MAX + room - len(more_missed)]
    return missed[:MISSED_MAX] + more_missed + false[:FALSE_MAX] + more_false + told + quiet


def timeline(record: Record, found: Match) -> str:
    """The table, at most ROWS_MAX rows; empty text where there is nothing to show."""
    every = rows(record, found)
    shown = every[:ROWS_MAX]
    if not shown:
        return ""
    start_us, stop_us = _range(shown, record.inputs)
    scale = _Scale(start_us, stop_us)
    total = len(found.missed) + len(found.false) + len(found.pairs)
    total += sum(one.kind in QUIET for one in record.faults)
    of = f"{len(shown)} of {total}, worst first" if total > len(shown) else "worst first"
    body = "".join(_row(row, scale) for row in shown)
    return (
        f'<div class="wide"><table class="time"><caption>Faults and alarms, {of}. Bar: the fault as it truly was. Dot: '
        "when the service recorded the alarm; stroke: when it cleared it. Simulated time, UTC.</caption><colgroup>"
        '<col style="width:24%"><col style="width:6%"><col style="width:8%"><col style="width:9%">'
        '<col style="width:20%"><col></colgroup><thead><tr><th scope="col">fault or alarm</th>'
        '<th scope="col" class="n">meters</th><th scope="col" class="n">told after</th>'
        '<th scope="col" class="n">cleared after</th><th scope="col">outcome</th>'
        f'<th scope="col">{scale.axis()}</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def moment(us: int | None) -> str:
    """UTC microseconds for people; a stamp no calendar has is shown as it is."""
    if us is None:
        return "-"
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us):%Y-%m-%d %H:%M:%S}"
    except OverflowError:
        return f"{us} us"


def span(seconds: float) -> str:
    """A duration for people."""
    sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
    if seconds < 120:
        return f"{sign}{seconds:.3g} s"
    if seconds < 7200:
        return f"{sign}{seconds / 60:.3g} min"
    return f"{sign}{seconds / 3600:.3g} h" if seconds < 172_800 else f"{sign}{seconds / 86_400:.3g} d"


def clip(name: object) -> str:
    """A name of bearable length, safe for the page."""
    whole = str(name)
    return text(whole if len(whole) <= NAME_CHARS_MAX else whole[: NAME_CHARS_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}")


def _false(one: FalsePage) -> Row:
    return Row("false", f"false: {one.because}", None, one.alarm)


def _range(shown: list[Row], inputs: Mapping[str, Any]) -> tuple[int, int]:
    times: list[int] = []
    for row in shown:
        if row.fault:
            times += [row.fault.onset_us, row.fault.end_us or row.fault.onset_us]
        if row.told:
            times += [row.told.onset_us, row.told.recorded_us, row.told.cleared_us or row.told.recorded_us]
    start, stop = min(times), max(times)
    if inputs.get("end_us") and any(_open(row) for row in shown):
        stop = max(stop, int(inputs["end_us"]))
    margin = max((stop - start) // 50, 1_000_000)
    return start - margin, stop + margin


def _open(row: Row) -> bool:
    return bool((row.fault and row.fault.end_us is None) or (row.told and row.told.cleared_us is None))


class _Scale:
    """Simulated time -> percent of the drawing's width."""

    def __init__(self, start_us: int, stop_us: int) -> None:
        self._start, self._span = start_us, stop_us - start_us

    def at(self, us: int | None) -> float:
        """Place of a moment; None: the right edge."""
        return 100.0 if us is None else min(100.0, max(0.0, (us - self._start) * 100 / self._span))

    def axis(self) -> str:
        """Times along the top."""
        step_s = next((step for step in STEPS_S if self._span / 1e6 / step <= 6), STEPS_S[-1])
        first = -(-self._start // (step_s * 1_000_000))
        parts = []
        for n in range(first, first + 8):
            us = n * step_s * 1_000_000
            if us > self._start + self._span:
                break
            word = moment(us)
            word = word[5:10] if step_s >= 86_400 else (word[11:16] if step_s >= 60 else word[11:19])
            if step_s < 86_400 and n * step_s % 86_400 == 0 and self._span > 86_400_000_000:
                word = moment(us)[5:10]
            anchor = "end" if self.at(us) > 95 else "mid"
            parts.append(f'<text x="{self.at(us):.2f}%" y="11" class="{anchor}">{word}</text>')
        return f'<svg aria-hidden="true">{"".join(parts)}</svg>'


def _row(row: Row, scale: _Scale) -> str:
    fault, told = row.fault, row.told
    drawing = ""
    told_after = cleared_after = "-"
    if fault:
        left, right = scale.at(fault.onset_us), scale.at(fault.end_us)
        width = max(right - left, 0.3)
        drawing += f'<rect class="truth" x="{left:.2f}%" y="5" width="{width:.2f}%" height="9" rx="1"/>'
        what, kind, name, meters = fault.kind, fault.asset_kind, fault.asset, f"{fault.meters:,}"
    elif told:
        what, kind, name, meters = told.type, told.asset_kind, told.asset, "-"
    if told:
        left, right = scale.at(told.recorded_us), scale.at(told.cleared_us)
        drawing += f'<line class="alarm" x1="{left:.2f}%" x2="{max(left, right):.2f}%" y1="3" y2="3"/>'
        drawing += f'<circle class="mark" cx="{left:.2f}%" cy="3.5" r="3.5"/>'
        if told.cleared_us is not None:
            drawing += f'<line class="alarm" x1="{right:.2f}%" x2="{right:.2f}%" y1="0" y2="9"/>'
    if fault and told:
        told_after = span((told.recorded_us - fault.onset_us) / 1e6)
        if fault.end_us is not None and told.cleared_us is not None:
            cleared_after = span((told.cleared_us - fault.end_us) / 1e6)
    since = moment(fault.onset_us if fault else told.onset_us if told else None)
    bad = ' class="bad"' if row.look in ("missed", "false", "late") else ""
    return (
        f'<tr class="{row.look}"><th scope="row" title="{text(name)}, from {since}">'
        f"{clip(what)} {clip(kind)} {clip(name)}</th>"
        f'<td class="n">{meters}</td><td class="n">{told_after}</td><td class="n">{cleared_after}</td>'
        f"<td{bad}>{text(row.says)}</td>"
        f'<td><svg aria-hidden="true">{drawing}</svg></td></tr>'
    )
