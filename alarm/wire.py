"""Alarms to and from protobuf: one function per message, and the limits of a filter.

Absent times are 0 on the wire, absent texts empty. The state's name on the wire is ours with a prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import orjson

from alarm.hub import Coalesced
from alarm.kpi import STALE_US, Kpis
from alarm.shaping import CHATTERING, REPEATS
from alarm.storm import Storms
from meterwatch.alarms import (
    Action,
    Alarm,
    AlarmFilter,
    AlarmState,
    AlarmType,
    AssetShelf,
    Priority,
    Source,
    Transition,
    TransitionKind,
    names_a_type,
)
from meterwatch.episodes import Severity
from meterwatch.errors import Missing, Rejected, Stale
from meterwatch.texts import check_text
from meterwatch.v1 import alarms_pb2 as pb

TYPES_MAX: Final = 64
PLACES_MAX: Final = 1000
"""Districts or feeders in one filter; both limits as in alarms.proto."""
DEPARTMENTS_MAX: Final = 64
LABELS_MAX, LABEL_VALUES_MAX = 20, 100
NAME_CHARS_MAX: Final = 256
RESPONSE_BYTES_MAX: Final = 1 << 20
"""Per message of a subscription: well below the 4 MiB at which clients refuse one."""
ENCODED_MAX: Final = 2048
"""Encoded transitions kept: more than wait for a subscriber before they are folded (hub.QUEUE_MAX)."""
ID_CHARS_MAX, PERSON_CHARS_MAX, NOTE_CHARS_MAX = 64, 128, 2000

STATE_TO_WIRE: Final = {state: pb.AlarmState.Value(f"ALARM_STATE_{state.value}") for state in AlarmState}
STATE_OF_WIRE: Final = {value: state for state, value in STATE_TO_WIRE.items()}
PRIORITY_TO_WIRE: Final = {priority: pb.Priority.Value(f"PRIORITY_{priority.name}") for priority in Priority}
ACTION_OF_WIRE: Final[dict[int, TransitionKind]] = {
    pb.ACTION_KIND_ACKNOWLEDGE: TransitionKind.ACKNOWLEDGED,
    pb.ACTION_KIND_SHELVE: TransitionKind.SHELVED,
    pb.ACTION_KIND_UNSHELVE: TransitionKind.UNSHELVED,
    pb.ACTION_KIND_OUT_OF_SERVICE: TransitionKind.OUT_OF_SERVICE,
    pb.ACTION_KIND_RETURN_TO_SERVICE: TransitionKind.RETURNED_TO_SERVICE,
    pb.ACTION_KIND_COMMENT: TransitionKind.COMMENTED,
    pb.ACTION_KIND_ASSIGN: TransitionKind.ASSIGNED,
}


def alarm_to_wire(alarm: Alarm, stands_under: str = "") -> pb.Alarm:
    """An alarm as a message. stands_under: the alarm in whose call it is."""
    return pb.Alarm(
        alarm_id=alarm.alarm_id,
        type=alarm.rule,
        asset_kind=alarm.asset_kind,
        asset=alarm.asset,
        feeder=alarm.feeder,
        district=alarm.district,
        state=STATE_TO_WIRE[alarm.state],
        severity=pb.Severity.ValueType(int(alarm.severity)),
        level=alarm.level,
        onset_us=alarm.onset_us,
        raised_us=alarm.raised_us,
        cleared_us=alarm.cleared_us or 0,
        recorded_us=alarm.recorded_us,
        version=alarm.version,
        parent_id=alarm.parent_id or "",
        summary=alarm.summary,
        evidence_json=orjson.dumps(
            alarm.evidence, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS
        ).decode(),
        acknowledged_by=alarm.acknowledged_by or "",
        acknowledged_us=alarm.acknowledged_us or 0,
        note=alarm.note or "",
        shelved_until_us=alarm.shelved_until_us or 0,
        shelved_until_normal=alarm.shelved_once,
        shelved_by=alarm.shelved_by or "",
        shelved_reason=alarm.shelved_reason or "",
        out_of_service_by=alarm.out_of_service_by or "",
        out_of_service_reason=alarm.out_of_service_reason or "",
        assigned_to=alarm.assigned_to or "",
        priority=PRIORITY_TO_WIRE[alarm.priority],
        announced_us=alarm.announced_us or alarm.recorded_us,
        repeats=alarm.evidence.get(REPEATS, 0),
        chattering=alarm.evidence.get(CHATTERING, False),
        label=alarm.labels,
        stands_under=stands_under,
        for_planning=alarm.for_planning,
    )


def transition_to_wire(transition: Transition) -> pb.Transition:
    """A transition as a message."""
    return pb.Transition(
        seq=transition.seq,
        kind=transition.kind.value,
        alarm=alarm_to_wire(transition.alarm),
        recorded_us=transition.recorded_us,
        operator=transition.action.operator if transition.action else "",
        note=transition.action.note if transition.action else "",
    )


def coalesced_to_wire(item: Coalesced) -> bytes:
    """What was folded, as a message of the stream."""
    return pb.SubscribeResponse(
        coalesced=pb.Coalesced(merged=item.merged, first_seq=item.first_seq, last_seq=item.last_seq)
    ).SerializeToString()


class Encoder:
    """Transitions as messages of the stream; each is encoded once, however many subscribers it goes to.

    Messages with several are the messages with one of each, end to end: protobuf merges a field that comes again, and
    repeated fields append. The newest ENCODED_MAX are kept; a cursor stands for the same bytes for ever.
    """

    def __init__(self) -> None:
        self._single: dict[int, bytes] = {}
        self._together: dict[int, bytes] = {}

    def responses(self, transitions: Sequence[Transition], together: bool) -> Iterator[bytes]:
        """Each by itself; or together, RESPONSE_BYTES_MAX or a single one a message."""
        if not together:
            yield from (self._one(transition, self._single, _alone) for transition in transitions)
            return
        parts = [self._one(transition, self._together, _among_others) for transition in transitions]
        first = size = 0
        for end, part in enumerate(parts):
            size += len(part)
            if size > RESPONSE_BYTES_MAX and end > first:
                yield b"".join(parts[first:end])
                first, size = end, len(part)
        if parts:
            yield b"".join(parts[first:])

    def _one(
        self, transition: Transition, known: dict[int, bytes], encode: Callable[[pb.Transition], pb.SubscribeResponse]
    ) -> bytes:
        encoded = known.get(transition.seq)
        if encoded is None:
            encoded = known[transition.seq] = encode(transition_to_wire(transition)).SerializeToString()
            if len(known) > ENCODED_MAX:
                del known[next(iter(known))]
        return encoded


def _alone(transition: pb.Transition) -> pb.SubscribeResponse:
    return pb.SubscribeResponse(transition=transition)


def _among_others(transition: pb.Transition) -> pb.SubscribeResponse:
    return pb.SubscribeResponse(transitions=pb.Transitions(transition=[transition]))


def kpis_to_wire(found: Kpis, paging: Sequence[Alarm], now_us: int) -> pb.GetKpisResponse:
    """Figures of a span, and of what pages now."""
    return pb.GetKpisResponse(
        windows=found.windows,
        pages=found.pages,
        pages_under=found.pages_under,
        pages_max=found.pages_max,
        flood_windows=found.flood_windows,
        flood_now=found.flood_now,
        paging=len(paging),
        stale=sum(alarm.cleared_us is None and alarm.recorded_us < now_us - STALE_US for alarm in paging),
        chattering=[_source(source, times) for source, times in found.chattering],
        top=[_source(source, times) for source, times in found.top],
    )


def _source(source: Source, pages: int) -> pb.AlarmSource:
    return pb.AlarmSource(type=source[0], asset_kind=source[1], asset=source[2], pages=pages)


Concerns = Callable[[Sequence[str]], tuple[AlarmFilter, ...]]
"""The alarms of departments, by name. Rejected when one does not exist."""


def no_departments(names: Sequence[str]) -> tuple[AlarmFilter, ...]:
    """Where there is no routes file."""
    if names:
        raise Rejected(
            "FILTER_INVALID", f"filter.department has {names[0][:40]!r}; there are none without alarms.routes_file"
        )
    return ()


def filter_of(message: pb.AlarmFilter, concerns: Concerns = no_departments) -> AlarmFilter:
    """A filter from the wire. Rejected when it is larger than allowed or names what does not exist."""
    for field, names, limit in (
        ("type", message.type, TYPES_MAX),
        ("district", message.district, PLACES_MAX),
        ("feeder", message.feeder, PLACES_MAX),
        ("state", message.state, len(STATE_OF_WIRE)),
        ("department", message.department, DEPARTMENTS_MAX),
        ("label", message.label, LABELS_MAX),
    ):
        if len(names) > limit:
            raise Rejected(
                "FILTER_TOO_LARGE",
                f"filter.{field} has {len(names)} entries; at most {limit} are allowed; use fewer, or none for all",
            )
    for name in message.type:
        if not names_a_type(name):
            raise Rejected(
                "FILTER_INVALID", f"filter.type has {name[:40]!r}; expected {', '.join(AlarmType)}; use one of them"
            )
    for one in message.label:
        if not 1 <= len(one.value) <= LABEL_VALUES_MAX:
            raise Rejected(
                "FILTER_INVALID",
                f"filter.label {one.name[:40]!r} has {len(one.value)} values; expected 1 to {LABEL_VALUES_MAX}",
            )
        for text in (one.name, *one.value):
            check_text("filter.label", text, 1, NAME_CHARS_MAX)
    for name in (*message.district, *message.feeder):
        check_text("filter entry", name, 1, NAME_CHARS_MAX)
    for field, least in (("severity_min", message.severity_min), ("priority_min", message.priority_min)):
        if least not in (0, *Severity):
            raise Rejected("FILTER_INVALID", f"filter.{field} is {least}; 0 to 4 are defined")
    unknown = [value for value in message.state if value not in STATE_OF_WIRE]
    if unknown:
        raise Rejected("FILTER_INVALID", f"filter.state has {unknown[0]}; the values are 1 to {len(STATE_OF_WIRE)}")
    return AlarmFilter(
        rules=frozenset(message.type),
        districts=frozenset(message.district),
        feeders=frozenset(message.feeder),
        severity_min=Severity(message.severity_min or Severity.LOW),
        states=frozenset(STATE_OF_WIRE[value] for value in message.state),
        paging_only=message.paging_only,
        priority_min=Priority(message.priority_min or Priority.LOW),
        any_of=concerns(list(message.department)),
        labels=tuple((one.name, frozenset(one.value)) for one in message.label),
    )


def targets_of(message: pb.ActOnManyRequest, concerns: Concerns = no_departments) -> dict[str, int] | AlarmFilter:
    """The alarms an action is for. Rejected unless it names some, each once, or gives a filter."""
    named = {target.alarm_id: target.expected_version for target in message.target}
    of_act = message.act.alarm_id or message.act.expected_version
    if len(named) < len(message.target) or bool(named) == message.HasField("filter") or of_act:
        raise Rejected(
            "ACTION_INVALID",
            f"{len(message.target)} targets, {len(named)} different, filter {message.HasField('filter')}; expected "
            "either targets, each once, or a filter, and act without an alarm",
        )
    for alarm_id in named:
        check_text("alarm_id", alarm_id, 1, ID_CHARS_MAX)
    return named or filter_of(message.filter, concerns)


def result_of(alarm_id: str, answer: Alarm | Missing | Rejected | Stale) -> pb.ActResult:
    """What became of one alarm of many."""
    if isinstance(answer, Alarm):
        return pb.ActResult(alarm_id=alarm_id, alarm=alarm_to_wire(answer))
    return pb.ActResult(alarm_id=alarm_id, reason=answer.reason, message=answer.message)


def shelf_to_wire(shelf: AssetShelf) -> pb.AssetShelf:
    """A shelf over an asset as a message."""
    return pb.AssetShelf(
        type=shelf.rule,
        asset_kind=shelf.asset_kind,
        asset=shelf.asset,
        until_us=shelf.until_us,
        operator=shelf.operator,
        reason=shelf.reason,
    )


def shelf_of(message: pb.ShelveAssetRequest) -> AssetShelf:
    """A shelf over an asset from the wire. Rejected when a text is too long or the type does not exist."""
    check_text("action_id", message.action_id, 1, ID_CHARS_MAX)
    check_text("operator", message.operator, 1, PERSON_CHARS_MAX)
    check_text("reason", message.reason, 0, NOTE_CHARS_MAX)
    for name in ("asset_kind", "asset"):
        check_text(name, getattr(message, name), 0, NAME_CHARS_MAX)
    if message.type and not names_a_type(message.type):
        raise Rejected("ACTION_INVALID", f"type is {message.type[:40]!r}; expected {', '.join(AlarmType)}, or none")
    return AssetShelf(
        message.action_id,
        message.type,
        message.asset_kind,
        message.asset,
        message.shelve_s,
        message.operator,
        message.reason,
    )


def action_of(message: pb.ActRequest) -> Action:
    """An action from the wire. Rejected when a text is too long or the kind does not exist."""
    check_text("action_id", message.action_id, 1, ID_CHARS_MAX)
    check_text("operator", message.operator, 1, PERSON_CHARS_MAX)
    check_text("note", message.note, 0, NOTE_CHARS_MAX)
    check_text("assignee", message.assignee, 0, PERSON_CHARS_MAX)
    kind = ACTION_OF_WIRE.get(message.kind)
    if kind is None:
        raise Rejected("ACTION_INVALID", f"kind is {message.kind}; expected 1 to {len(ACTION_OF_WIRE)}; give one")
    return Action(
        message.action_id,
        message.alarm_id,
        kind,
        message.operator,
        message.note,
        shelve_s=message.shelve_s,
        once=message.until_normal,
        assignee=message.assignee,
    )


def storms_to_wire(storms: Storms, paging: Sequence[Alarm]) -> list[pb.Storm]:
    """Storms that last, with what pages in them now."""
    found = []
    for storm in storms.lasting():
        there = [alarm for alarm in paging if storm.covers(alarm.district)]
        found.append(
            pb.Storm(
                reason=pb.StormReason.Value(f"STORM_REASON_{storm.reason.value}"),
                district=storm.district,
                since_us=storm.since_us,
                meters=storm.now.meters,
                meters_off=storm.now.off,
                roots=storm.now.roots,
                paging=len(there),
                aside=sum(storms.stands_aside(alarm) for alarm in there),
            )
        )
    return found
