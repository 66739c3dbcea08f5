"""An explanation as a page for a person, for the command line and the console.

Pure: a message gives something rich can print. Every text from outside goes through `visible`; nothing is markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

import orjson
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from meterwatch.alarms import AlarmType
from meterwatch.texts import visible
from meterwatch.v1 import alarms_pb2 as pb

METERS_MAX: Final = 40
"""On the page; the message has more."""
VALUE_CHARS_MAX: Final = 160
NAMES_MAX: Final = 12
"""Of a list in the evidence; the meters have a table of their own."""
_ELSEWHERE: Final = {
    *("thresholds", "raise_pu", "hold_s", "clear_pu", "clear_s", "coverage_min"),
    *("windows", "rules", "meters"),
}
"""Parts of the evidence that other sections show."""


def at(time_us: int, zone: tzinfo) -> str:
    """A time to the second in a zone; a dash for 0."""
    if not time_us:
        return "-"
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC).astimezone(zone)
    return moment.strftime("%Y-%m-%d %H:%M:%S %Z")


def _short(time_us: int, zone: tzinfo) -> str:
    """The same without year and zone, for tables."""
    return at(time_us, zone)[5:19] if time_us else "-"


def after(time_us: int, since_us: int) -> str:
    """How long after something, e.g. '1 min 10 s later'; empty if one of the two is not there."""
    if not time_us or not since_us:
        return ""
    seconds = abs(time_us - since_us) // 1_000_000
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    named = [f"{n} {unit}" for n, unit in parts if n][:2] or ["0 s"]
    return " ".join(named) + (" later" if time_us >= since_us else " before")


def explain_page(found: pb.ExplainResponse, zone: tzinfo) -> RenderableType:
    """The whole page."""
    alarm = found.alarm
    head = Text(visible(f"{alarm.alarm_id}  {alarm.type} {alarm.asset_kind} {alarm.asset}"), style="bold")
    place = ", ".join(
        f"{what} {name}" for what, name in (("feeder", alarm.feeder), ("district", alarm.district)) if name
    )
    state = pb.AlarmState.Name(alarm.state).removeprefix("ALARM_STATE_")
    severity = pb.Severity.Name(alarm.severity).removeprefix("SEVERITY_")
    parts: list[RenderableType] = [
        head,
        Text(visible(f"{severity} {alarm.level}, {state}, version {alarm.version}" + (f", {place}" if place else ""))),
        Text(visible(alarm.summary)),
    ]
    sections: list[tuple[str, RenderableType | None]] = [
        ("Times", _times(found, zone)),
        ("Judged by", _limits(found)),
        ("Evidence", _evidence(alarm, zone)),
        ("Meters", _meters(found, zone)),
        ("Load", _load(found, zone)),
        ("One call with", _called_with(found)),
        ("Folded into", _parent(found)),
        ("Folded into this one", _children(found)),
        ("What happened", _changes(found, zone)),
        ("Who was told", _deliveries(found, zone)),
        ("Who had it on the screen", _receipts(found, zone)),
    ]
    for title, body in sections:
        if body is not None:
            parts += [Text(f"\n{title}", style="bold underline"), Padding(body, (0, 0, 0, 2))]
    return Group(*parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool = True) -> Table:
    table = Table(box=None, pad_edge=False, show_header=header, header_style="dim")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(visible(str(cell))) for cell in row))
    return table


def _times(found: pb.ExplainResponse, zone: tzinfo) -> Table:
    alarm = found.alarm
    arrived_us = min((m.said_arrived_us for m in found.meters.meter if m.said == "OFF" and m.said_us), default=0)
    silent_us = min((m.due_us for m in found.meters.meter if m.said == "SILENT" and m.due_us), default=0)
    rows = [
        ("fault began", alarm.onset_us, ""),
        ("first of it arrived", arrived_us, after(arrived_us, alarm.onset_us)),
        ("first read overdue", silent_us, after(silent_us, alarm.onset_us)),
        ("condition met", alarm.raised_us, after(alarm.raised_us, alarm.onset_us)),
        ("recorded and shown", alarm.recorded_us, after(alarm.recorded_us, alarm.onset_us)),
        ("acknowledged", alarm.acknowledged_us, after(alarm.acknowledged_us, alarm.recorded_us)),
        ("cleared", alarm.cleared_us, after(alarm.cleared_us, alarm.onset_us)),
        ("shelved until", alarm.shelved_until_us, ""),
    ]
    shown = [(name, at(time_us, zone), gap) for name, time_us, gap in rows if time_us or name == "cleared"]
    return _table(("", "", ""), shown, header=False)


def _limits(found: pb.ExplainResponse) -> RenderableType:
    told = found.told_by or "not on record"
    rules = Text(visible(f"told by {told}; in force now {found.rules_version or 'unknown'}"))
    if not found.limit:
        return rules
    rows = [(one.name, _value(one.told_json), _value(one.now_json)) for one in found.limit]
    return Group(rules, _table(("limit", "then", "now"), rows))


def _evidence(alarm: pb.Alarm, zone: tzinfo) -> RenderableType | None:
    evidence = orjson.loads(alarm.evidence_json or "{}")
    rows = [(name, _shown(name, value, zone)) for name, value in evidence.items() if name not in _ELSEWHERE]
    return _table(("", ""), rows, header=False) if rows else None


LOADED: Final = (
    *(AlarmType.OVERLOAD, AlarmType.REVERSE, AlarmType.PHASE, AlarmType.UNBALANCE),
    *(AlarmType.HOT_SPOT, AlarmType.FORECAST_OVERLOAD, AlarmType.CONTRACT),
)


def _meters(found: pb.ExplainResponse, zone: tzinfo) -> RenderableType | None:
    seen = found.meters
    if not seen.members:
        return None
    outage = found.alarm.type == AlarmType.OUTAGE
    counts = f"{seen.silent} were silent, of {seen.members}"
    if outage:
        counts = f"{seen.off} said OFF, {seen.on} said ON, {counts}"
    if seen.looked_at < seen.members:
        counts += f" ({seen.looked_at} looked at)"
    # Of an overload only the silent matter: they are what its coverage lacks.
    meters = [m for m in seen.meter if found.alarm.type not in LOADED or m.said == "SILENT"]
    columns = ("meter", "transformer", "said", "since", "by", "arrived", "heard last", "due", "back")
    rows = [
        (
            m.meter, m.transformer, m.said, _short(m.said_us, zone), m.said_by.lower(),
            after(m.said_arrived_us, m.said_us), _short(m.heard_us, zone), _short(m.due_us, zone),
            _short(m.back_us, zone),
        )
        for m in meters[:METERS_MAX]
    ]  # fmt: skip
    if not rows:
        return Text(counts)
    if len(rows) < seen.looked_at:
        counts += f"; {len(rows)} of them:"
    return Group(Text(counts), _table(columns, rows))


def _load(found: pb.ExplainResponse, zone: tzinfo) -> RenderableType | None:
    if not found.load:
        return None
    rated = orjson.loads(found.alarm.evidence_json or "{}").get("rated_kva")
    peak = max(one.b for one in found.load)
    rows = [
        (
            at(one.end_us, zone), f"{one.b:.2f}", _bar(one.b, peak), f"{one.coverage:.0%}",
            "" if one.valid else "no", one.level, _held(one.hold_s), _held(one.clear_s),
        )
        for one in found.load
    ]  # fmt: skip
    columns = ("window end", "b", "", "coverage", "counts", "level", "next held", "below clear")
    table = _table(columns, rows)
    return table if rated is None else Group(Text(f"b = load over {rated:g} kVA"), table)


def _held(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds else ""


def _bar(b: float, peak: float) -> str:
    return "#" * round(20 * b / peak) if peak > 0 else ""


def _called_with(found: pb.ExplainResponse) -> Table | None:
    if len(found.called_with) < 2:
        return None
    rows = [
        ("leads" if i == 0 else "", "this one" if one.alarm_id == found.alarm.alarm_id else one.alarm_id, one.type,
         pb.Priority.Name(one.priority).removeprefix("PRIORITY_"), one.summary)
        for i, one in enumerate(found.called_with)
    ]  # fmt: skip
    return _table(("", "alarm", "type", "priority", ""), rows)


def _parent(found: pb.ExplainResponse) -> RenderableType | None:
    if not found.HasField("parent"):
        return None
    return Text(visible(f"{found.parent.alarm_id}: {found.parent.summary}"))


def _children(found: pb.ExplainResponse) -> RenderableType | None:
    if not found.child_count:
        return None
    counts = ", ".join(
        f"{one.alarms} {pb.AlarmState.Name(one.state).removeprefix('ALARM_STATE_')}" for one in found.child_count
    )
    return Group(Text(counts), _table(("alarm", "summary"), ((c.alarm_id, c.summary) for c in found.child)))


def _changes(found: pb.ExplainResponse, zone: tzinfo) -> Table:
    def rows() -> Iterator[tuple[str, ...]]:
        for one in found.change:
            said = f": {one.note}" if one.note else ""
            yield str(one.version), at(one.recorded_us, zone), one.kind, one.operator + said
            for changed in one.field:
                if changed.name.endswith("_us"):
                    before, now = (at(orjson.loads(j) or 0, zone) for j in (changed.before_json, changed.after_json))
                else:
                    before, now = _value(changed.before_json), _value(changed.after_json)
                yield "", "", f"  {changed.name}", f"{before} -> {now}"

    return _table(("", "when", "what", "who, or before -> after"), rows())


def _deliveries(found: pb.ExplainResponse, zone: tzinfo) -> Table | None:
    if not found.delivery:
        return None
    rows = [
        (
            at(d.made_us, zone), d.change, d.department, d.route, d.target, d.step or "", d.outcome,
            after(d.ended_us, d.made_us), d.attempts, d.last_error,
        )
        for d in found.delivery
    ]  # fmt: skip
    columns = ("made", "what", "department", "route", "target", "step", "outcome", "", "tries", "last error")
    return _table(columns, rows)


def _receipts(found: pb.ExplainResponse, zone: tzinfo) -> Table | None:
    if not found.receipt:
        return None
    rows = [
        (
            r.subscriber, r.kind, at(r.committed_us, zone), at(r.sent_us, zone),
            _seconds(r.received_us, r.sent_us), _seconds(r.shown_us, r.received_us),
        )
        for r in found.receipt
    ]  # fmt: skip
    return _table(("subscriber", "what", "committed", "sent", "received", "shown"), rows)


def _seconds(time_us: int, since_us: int) -> str:
    """How long after something; a dash for what nobody has confirmed."""
    return f"{(time_us - since_us) / 1e6:.2f} s later" if time_us else "-"


def _value(json: str) -> str:
    value = orjson.loads(json)
    return "-" if value is None else _shown("", value)


def _shown(name: str, value: Any, zone: tzinfo = UTC) -> str:
    """A value in one line: names counted, long ones cut."""
    if name.endswith("_us") and isinstance(value, int):
        return at(value, zone)
    if isinstance(value, list) and len(value) > NAMES_MAX:
        return f"{', '.join(map(str, value[:NAMES_MAX]))} and {len(value) - NAMES_MAX} more"
    if isinstance(value, dict):
        items = list(value.items())
        more = f" and {len(items) - NAMES_MAX} more" if len(items) > NAMES_MAX else ""
        text = ", ".join(f"{key} {_shown(str(key), inner, zone)}" for key, inner in items[:NAMES_MAX]) + more
    elif isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = str(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 3] + "..."
