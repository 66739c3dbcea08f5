"""An explanation as a message: an alarm's record, what each change changed, its family, and what a witness saw.

Pure. What differs between two versions is computed here from the log, so the log keeps no differences of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from alarm.wire import STATE_TO_WIRE, alarm_to_wire
from meterwatch.alarms import Alarm, AlarmState, Transition
from meterwatch.explained import CHILDREN_SHOWN, MetersSeen, Seen
from meterwatch.v1 import alarms_pb2 as pb

TOLD_BY: Final = "rules"
"""Key of the evidence that says which rules told it."""
_UNTOLD: Final = {"version", "seq", "recorded_us", "evidence"}
"""Fields that differ of themselves, or are compared in parts."""
_OVERLOAD_LIMITS: Final = ("raise_pu", "hold_s", "clear_pu", "clear_s", "coverage_min")


def differences(was: Alarm | None, now: Alarm) -> Iterator[tuple[str, Any, Any]]:
    """(name, before, after) of each field, and of each part of the evidence as evidence.name; None: not there."""
    if was is None:
        return
    before, after = was.to_json(), now.to_json()
    for name in after:
        if name not in _UNTOLD and before[name] != after[name]:
            yield name, before[name], after[name]
    for name in was.evidence | now.evidence:
        old, new = was.evidence.get(name), now.evidence.get(name)
        if old != new:
            yield f"evidence.{name}", old, new


def limits_told(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The limits an alarm was judged by, out of its evidence."""
    named: dict[str, Any] = dict(evidence.get("thresholds", {}))
    return named | {name: evidence[name] for name in _OVERLOAD_LIMITS if name in evidence}


def explanation(
    alarm: Alarm,
    transitions: Sequence[Transition],
    parent: Alarm | None,
    children: Mapping[AlarmState, int],
    worst: Sequence[Alarm],
    seen: Seen,
) -> pb.ExplainResponse:
    """All of it as one message. worst: children, at most CHILDREN_SHOWN are taken."""
    told = limits_told(alarm.evidence)
    return pb.ExplainResponse(
        alarm=alarm_to_wire(alarm),
        change=map(_change, transitions),
        rules_version=seen.rules_version,
        told_by=str(alarm.evidence.get(TOLD_BY, "")),
        limit=[
            pb.ExplainedLimit(name=name, told_json=_json(value), now_json=_json(seen.limits.get(name)))
            for name, value in told.items()
        ],
        parent=None if parent is None else alarm_to_wire(parent),
        child_count=[pb.ChildCount(state=STATE_TO_WIRE[state], alarms=n) for state, n in sorted(children.items())],
        child=map(alarm_to_wire, worst[:CHILDREN_SHOWN]),
        meters=None if seen.meters is None else _meters(seen.meters),
        load=[pb.LoadSeen(**_fields(one)) for one in seen.load],
        delivery=[pb.Delivery(**_fields(one)) for one in seen.deliveries],
    )


def _change(transition: Transition) -> pb.ExplainedChange:
    action = transition.action
    return pb.ExplainedChange(
        seq=transition.seq,
        kind=transition.kind.value,
        version=transition.alarm.version,
        recorded_us=transition.recorded_us,
        operator=action.operator if action else "",
        note=action.note if action else "",
        field=[
            pb.FieldChange(name=name, before_json=_json(before), after_json=_json(after))
            for name, before, after in differences(transition.was, transition.alarm)
        ],
    )


def _meters(seen: MetersSeen) -> pb.MetersSeen:
    return pb.MetersSeen(
        members=seen.members,
        looked_at=seen.looked_at,
        off=seen.off,
        on=seen.on,
        silent=seen.silent,
        meter=[pb.MeterSeen(**_fields(one)) for one in seen.shown],
    )


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
