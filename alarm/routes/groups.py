"""Groups of notices: what of each is due, and when. What is due of one group goes in one message.

A group is there while it has notices. It is due as early as the earliest of what is due in it, and then *ripe*, until
nothing of it is due any more. Refuses to know messages and clocks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from meterwatch.notices import Notice

GroupKey = tuple[str, str, int, str]
"""target, route, step, group."""


@dataclass(slots=True)
class Group:
    due: set[str] = field(default_factory=set)
    """Alarms with something to tell."""
    due_us: int | None = None
    flushed_us: int | None = None
    """When a message told something of it last."""
    members: int = 0


def group_key(notice: Notice) -> GroupKey:
    """The group of a notice."""
    return notice.target, notice.route, notice.step, notice.group


class Groups:
    """All groups there are."""

    def __init__(self) -> None:
        self._groups: dict[GroupKey, Group] = {}
        self.ripe: dict[str, set[GroupKey]] = {}
        """By target; one without any may be left behind, empty."""

    def __getitem__(self, key: GroupKey) -> Group:
        return self._groups[key]

    def get(self, key: GroupKey) -> Group | None:
        """A group; None: it has no notices."""
        return self._groups.get(key)

    def of(self, notice: Notice) -> Group:
        """The group of a notice that was kept."""
        return self._groups[group_key(notice)]

    def keep(self, notice: Notice) -> None:
        """A notice more."""
        self._groups.setdefault(group_key(notice), Group()).members += 1

    def forget(self, notice: Notice) -> None:
        """A notice less; nothing of it is due."""
        self.undo(notice)
        key = group_key(notice)
        self._groups[key].members -= 1
        if not self._groups[key].members:
            del self._groups[key]

    def due(self, notice: Notice, due_us: int) -> bool:
        """Put a notice among those due. True: by that its group is due earlier than it was."""
        group = self.of(notice)
        group.due.add(notice.alarm.alarm_id)
        if group.due_us is not None and due_us >= group.due_us:
            return False
        group.due_us = due_us
        return True

    def undo(self, notice: Notice) -> None:
        """Take a notice from among those due."""
        group = self.of(notice)
        group.due.discard(notice.alarm.alarm_id)
        if not group.due:
            group.due_us = None
            self.ripe.get(notice.target, set()).discard(group_key(notice))

    def ripen(self, key: GroupKey) -> None:
        """What is due of a group may be told now."""
        self.ripe.setdefault(key[0], set()).add(key)

    def keep_ripe_only(self, targets: Collection[str]) -> None:
        """Forget what is ripe of all other targets."""
        self.ripe = {target: keys for target, keys in self.ripe.items() if target in targets}
