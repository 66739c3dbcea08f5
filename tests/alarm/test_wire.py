"""Laws of the encoder: what is encoded once says what each transition says by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from alarm_cases import episode, names, verdict

from alarm import wire
from alarm.book import Book
from alarm.wire import Encoder, transition_to_wire
from meterwatch.alarms import AlarmFilter, Draft, Priority, Transition, TransitionKind
from meterwatch.episodes import Severity
from meterwatch.errors import Rejected
from meterwatch.v1 import alarms_pb2 as pb

VERDICTS = [verdict(episode(10, evidence={"affected": asset}), asset_id=asset) for asset in range(4)]
LOG = [draft.numbered(seq, 7) for seq, draft in enumerate(Book([], names()).reconcile(VERDICTS, 0), 1)]


def sent(encoder: Encoder, transitions: list[Transition], together: bool) -> list[pb.SubscribeResponse]:
    return [pb.SubscribeResponse.FromString(raw) for raw in encoder.responses(transitions, together)]


def test_one_by_one_each_is_a_message_of_its_own() -> None:
    expected = [pb.SubscribeResponse(transition=transition_to_wire(transition)) for transition in LOG]
    encoder = Encoder()
    assert sent(encoder, LOG, together=False) == expected
    assert sent(encoder, LOG, together=False) == expected  # now those that were kept


@pytest.mark.parametrize("some", [LOG, LOG[1:3], LOG[:1], [LOG[0], LOG[3]]], ids=len)
def test_together_they_are_one_message_byte_for_byte_readable_as_protobuf_itself_makes_it(
    some: list[Transition],
) -> None:
    encoder = Encoder()
    list(encoder.responses(LOG, together=True))
    (message,) = sent(encoder, some, together=True)
    assert message == pb.SubscribeResponse(
        transitions=pb.Transitions(transition=[transition_to_wire(transition) for transition in some])
    )


def test_nothing_makes_no_message() -> None:
    assert sent(Encoder(), [], together=True) == sent(Encoder(), [], together=False) == []


def test_messages_stay_below_their_limit_in_bytes_and_no_transition_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(next(Encoder().responses(LOG[:1], together=True)))
    monkeypatch.setattr(wire, "RESPONSE_BYTES_MAX", int(2.5 * size))
    parts = [message.transitions.transition for message in sent(Encoder(), LOG, together=True)]
    assert [len(part) for part in parts] == [2, 2]
    assert [t.seq for part in parts for t in part] == [1, 2, 3, 4]
    monkeypatch.setattr(wire, "RESPONSE_BYTES_MAX", 1)
    assert [len(message.transitions.transition) for message in sent(Encoder(), LOG, together=True)] == [1, 1, 1, 1]


def test_only_the_newest_are_kept_and_the_forgotten_are_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def counting(transition: Transition) -> pb.Transition:
        encoded.append(transition.seq)
        return transition_to_wire(transition)

    monkeypatch.setattr(wire, "ENCODED_MAX", 3)
    monkeypatch.setattr(wire, "transition_to_wire", counting)
    encoder = Encoder()
    for some in (LOG, LOG[1:], [replace(LOG[3], was=LOG[3].alarm)], LOG[:1]):
        sent(encoder, some, together=True)
    assert encoded == [1, 2, 3, 4, 1]


NORTH, SOUTH = AlarmFilter(districts=frozenset({"North"})), AlarmFilter(districts=frozenset({"South"}))


def test_a_filter_of_departments_is_one_of_what_concerns_any_of_them() -> None:
    message = pb.AlarmFilter(department=["crews", "noc"], priority_min=pb.PRIORITY_HIGH)
    wanted = wire.filter_of(message, lambda departments: (NORTH, SOUTH) if departments == ["crews", "noc"] else ())
    assert (wanted.any_of, wanted.priority_min) == ((NORTH, SOUTH), Priority.HIGH)
    north = Book([], names()).reconcile([verdict(episode(1))], 0)[0].alarm
    for one in (north, replace(north, district="South"), replace(north, district="East")):
        for priority in (Priority.LOW, Priority.CRITICAL):
            alarm = replace(one, priority=priority)
            assert wanted.matches(alarm) is (alarm.district != "East" and priority is Priority.CRITICAL)


def test_an_alarm_that_leaves_a_department_is_told_as_leaving() -> None:
    wanted = AlarmFilter(any_of=(AlarmFilter(severity_min=Severity.HIGH, districts=frozenset({"North"})),))
    before = Book([], names()).reconcile([verdict(episode(1))], 0)[0].alarm
    after = replace(before, severity=Severity.LOW, version=2)
    left = Draft(TransitionKind.SEVERITY, after, was=before).numbered(1, 0)
    assert wanted.wants(left)
    assert not wanted.wants(replace(left, was=after))
    assert wanted.wants(replace(left, was=None))  # the log no longer tells: it may have been
    elsewhere = replace(after, district="South")
    assert not wanted.wants(replace(left, alarm=elsewhere, was=None))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"department": ["noc"]}, "FILTER_INVALID"),
        ({"department": ["noc"] * 65}, "FILTER_TOO_LARGE"),
        ({"type": ["OUTAGE"] * 65}, "FILTER_TOO_LARGE"),
        ({"district": ["North"] * 1001}, "FILTER_TOO_LARGE"),
        ({"priority_min": 5}, "FILTER_INVALID"),
        ({"label": [pb.WantedLabel(name="crew")]}, "FILTER_INVALID"),
        ({"label": [pb.WantedLabel(name="crew", value=["x"] * 101)]}, "FILTER_INVALID"),
        ({"label": [pb.WantedLabel(name="crew", value=["x"])] * 21}, "FILTER_TOO_LARGE"),
    ],
)
def test_a_filter_that_names_what_does_not_exist_or_too_much_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Rejected) as raised:
        wire.filter_of(pb.AlarmFilter(**changes))
    assert raised.value.reason == reason
