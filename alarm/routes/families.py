"""Who speaks for whom at a target: alarms of one cause and asset call once (meterwatch.one_call).

A notice *speaks* for its family while the target has been told of its alarm as one that calls, and it still does. What
another of the family has to say is held back if it would call anew at no higher rank than one that speaks; if it has
been told itself, it is neither repeated nor escalated while a graver one speaks. Ends, falls and acknowledgements of
what was told are told as ever: they call nobody. So each target has one call for an asset, at the priority of the
gravest, and one that is told only of some of the rules is called for those.

All of it follows from the notices as they are kept, so a start needs nothing else. Refuses to know messages and time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from alarm.routes.faces import active, face, told_face
from meterwatch.alarms import AlarmState
from meterwatch.notices import Notice, NoticeKey
from meterwatch.one_call import Family, OneCall, Rank, calls, rank


class Families:
    """The notices of targets that are people, by target and family. notices: all there are, as they are."""

    def __init__(self, one_call: OneCall, notices: Mapping[NoticeKey, Notice]) -> None:
        self._one_call, self._notices = one_call, notices
        self._members: dict[tuple[str, Family], set[NoticeKey]] = {}

    def keep(self, notice: Notice) -> None:
        """Take a notice."""
        if (family := self._one_call.family_of(notice.alarm)) is not None:
            self._members.setdefault((notice.target, family), set()).add(notice.key)

    def forget(self, notice: Notice) -> None:
        """A notice is gone, or is no longer one to people."""
        family = self._one_call.family_of(notice.alarm)
        if family is None or (members := self._members.get((notice.target, family))) is None:
            return
        members.discard(notice.key)
        if not members:
            del self._members[notice.target, family]

    def clear(self) -> None:
        self._members = {}

    def others(self, notice: Notice) -> Iterator[Notice]:
        """The other notices of its family at its target."""
        family = self._one_call.family_of(notice.alarm)
        members: Collection[NoticeKey] = () if family is None else self._members.get((notice.target, family), ())
        yield from (self._notices[key] for key in sorted(members) if key != notice.key)

    def holds_back(self, notice: Notice) -> bool:
        """True: what is to be told would call, and somebody was called for it already."""
        return _would_call(notice) and self.silent(notice)

    def silent(self, notice: Notice) -> bool:
        """True: another one speaks for it."""
        alarm, anew = notice.alarm, _calls_anew(notice)
        for other in self.others(notice):
            if not _speaks(other):
                continue
            if anew and _told_rank(other) >= rank(alarm.rule, alarm.priority):
                return True
            if not anew and self._one_call.place_of(other.alarm) < self._one_call.place_of(alarm):
                return True
        return False


def held_back(notice: Notice) -> bool:
    """True: there is something to tell, and it waits for who speaks to be over."""
    return notice.due_us is None and (notice.told is None or face(notice.alarm) != told_face(notice.told))


def _speaks(notice: Notice) -> bool:
    told = notice.told
    return told is not None and not told.lost and active(told.state, told.pages) and calls(notice.alarm)


def _told_rank(notice: Notice) -> Rank:
    """The lower of what was told and what is so now: a call that falls does not hide one that stays."""
    assert notice.told is not None
    return rank(notice.alarm.rule, min(notice.told.priority, notice.alarm.priority))


def _calls_anew(notice: Notice) -> bool:
    """True: the target was never told that it calls, or not that it is so grave."""
    told = notice.told
    return told is None or not active(told.state, told.pages) or notice.alarm.severity > told.severity


def _would_call(notice: Notice) -> bool:
    if notice.told is None:
        return True
    if not calls(notice.alarm):
        return False
    unacknowledged = notice.alarm.state is AlarmState.UNACK_ACTIVE
    return _calls_anew(notice) or (unacknowledged and notice.told.state is AlarmState.ACK_ACTIVE)
