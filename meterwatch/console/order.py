"""The alarms in the order of their urgency, kept up change by change.

Argument. Alarms stand in groups: the top, and one for each alarm that others are folded into. A group is a list of keys
in ascending order, so a change is a deletion and an insertion by bisection: some microseconds to find the place, and
moving 8 bytes for each alarm behind it, 50 us among 100,000. Nothing is sorted but a snapshot. An alarm whose parent is
not there stands at the top, and moves when the parent comes or goes. Alarms of one call (meterwatch.one_call) stand
behind the one that leads it, and move with it.

Promise: whatever the order and the repetitions in which versions come, the lists are those of sorting the newest
version of each alarm that is not finished. Pure; no clock, no terminal, no wire.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from meterwatch.console.rows import Key, Row
from meterwatch.one_call import Family, OneCall, Place

TOP: Final = ""
OVER_MAX: Final = 10_000
"""Finished alarms remembered, so that an old version that comes late does not bring one back."""


class Lines(Protocol):
    """Alarms, line by line: Order, or Frozen."""

    @property
    def rows(self) -> int: ...
    def row(self, index: int) -> Row: ...
    def index(self, alarm_id: str) -> int | None: ...
    def count(self, alarm_id: str) -> int: ...
    def stands_under(self, index: int) -> bool: ...


class Frozen:
    """Lines as they were."""

    def __init__(self, rows: Sequence[Row], counts: dict[str, int], under: Sequence[bool]) -> None:
        self._rows = rows
        self._counts = counts
        self._under = under

    @property
    def rows(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Row:
        return self._rows[index]

    def index(self, alarm_id: str) -> int | None:
        return next((i for i, row in enumerate(self._rows) if row.alarm_id == alarm_id), None)

    def count(self, alarm_id: str) -> int:
        return self._counts.get(alarm_id, 0)

    def stands_under(self, index: int) -> bool:
        return self._under[index]


class Order:
    """The alarms that are not finished, and the part of them that is looked at."""

    def __init__(self, aside: Callable[[Row], bool] = lambda _: False, one_call: OneCall | None = None) -> None:
        self._aside, self._one_call = aside, one_call or OneCall()
        self._rows: dict[str, Row] = {}
        self._over: dict[str, int] = {}
        self._children: dict[str, set[str]] = {}
        """Alarms by the parent they name, there or not."""
        self._families: dict[Family, set[str]] = {}
        """Alarms that are there, by what they may be called for once."""
        self._groups: dict[str, list[Key]] = {TOP: []}
        self._wanted: Callable[[Row], bool] | None = None
        self._group = TOP
        self._shown = self._groups[TOP]

    @classmethod
    def of(
        cls, rows: Iterable[Row], aside: Callable[[Row], bool] = lambda _: False, one_call: OneCall | None = None
    ) -> Order:
        """As apply on an empty one, for a whole snapshot. aside: who is shown after the others."""
        order = cls(aside, one_call)
        newest: dict[str, Row] = {}
        for row in rows:
            known = newest.get(row.alarm_id)
            if known is None or row.version > known.version:
                newest[row.alarm_id] = row
        order._rows = {alarm_id: row for alarm_id, row in newest.items() if not row.finished}
        for row in newest.values():
            if row.finished:
                order._remember(row)
            elif row.parent_id:
                order._children.setdefault(row.parent_id, set()).add(row.alarm_id)
        order._sort()
        return order

    def put_aside(self, aside: Callable[[Row], bool], one_call: OneCall | None = None) -> None:
        """Others are shown after the rest now, or behind who leads; None: as before. Cost: a sort of all."""
        self._aside, self._one_call = aside, one_call or self._one_call
        self._groups = {TOP: []}
        self._sort()
        self.show(self._group, self._wanted)

    def _sort(self) -> None:
        self._families = {}
        for row in self._rows.values():
            self._join(row)
        for row in self._rows.values():
            self._groups.setdefault(self._group_of(row), []).append(self._key(row))
        for keys in self._groups.values():
            keys.sort()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, alarm_id: str) -> Row | None:
        """The newest version of an alarm that is not finished."""
        return self._rows.get(alarm_id)

    def count(self, alarm_id: str) -> int:
        """How many alarms are folded into this one."""
        return len(self._children.get(alarm_id, ()))

    # What is looked at: Lines

    @property
    def group(self) -> str:
        """TOP, or the alarm whose children are shown."""
        return self._group

    def show(self, group: str, wanted: Callable[[Row], bool] | None) -> None:
        """Look at a group, and of it at what is wanted; None: all. Cost: one look at each of the group."""
        self._group, self._wanted = group, wanted
        keys = self._groups.setdefault(group, [])
        self._shown = keys if wanted is None else [key for key in keys if wanted(self._rows[key[-1]])]

    @property
    def rows(self) -> int:
        """Lines that are looked at."""
        return len(self._shown)

    def row(self, index: int) -> Row:
        """The alarm on a line."""
        return self._rows[self._shown[index][-1]]

    def stands_under(self, index: int) -> bool:
        """True: the alarm on a line is in the call of another one."""
        return self._shown[index][-2]

    def index(self, alarm_id: str) -> int | None:
        """The line an alarm is on; None if it is not looked at."""
        row = self._rows.get(alarm_id)
        if row is None:
            return None
        key = self._key(row)
        at = bisect_left(self._shown, key)
        return at if at < len(self._shown) and self._shown[at] == key else None

    def frozen(self) -> Frozen:
        """What is looked at, as it is now."""
        counts = {alarm_id: len(children) for alarm_id, children in self._children.items()}
        return Frozen([self._rows[key[-1]] for key in self._shown], counts, [key[-2] for key in self._shown])

    # Changes

    def apply(self, rows: Iterable[Row]) -> None:
        """Take versions of alarms, in any order, again or for the first time."""
        for row in rows:
            self._take(row)

    def _take(self, row: Row) -> None:
        alarm_id, known = row.alarm_id, self._rows.get(row.alarm_id)
        if row.version <= (self._over.get(alarm_id, 0) if known is None else known.version):
            return
        with_family = self._rekey_family(row)
        if known is not None and not row.finished and known.parent_id == row.parent_id:
            self._move(known, row)
            with_family()
            return
        if known is not None:
            self._remove(known)
        if row.finished:
            self._remember(row)
        else:
            self._over.pop(alarm_id, None)
            self._add(row)
        with_family()

    def _remember(self, row: Row) -> None:
        self._over[row.alarm_id] = row.version
        if len(self._over) > OVER_MAX:
            del self._over[next(iter(self._over))]

    def _move(self, known: Row, row: Row) -> None:
        old = self._key(known)
        self._rows[row.alarm_id] = row
        new = self._key(row)
        group = self._group_of(row)
        self._drop(group, old)
        self._put(group, new)

    def _add(self, row: Row) -> None:
        """Put an alarm in its place. Its parent's key changes with the first child; its own children come to it."""
        parent = row.parent_id
        with_parent = self._rekey(parent)
        if parent:
            self._children.setdefault(parent, set()).add(row.alarm_id)
        with_parent()
        orphans = [self._rows[child] for child in self._children.get(row.alarm_id, ())]
        for orphan in orphans:
            self._drop(TOP, self._key(orphan))
        self._rows[row.alarm_id] = row
        self._join(row)
        self._put(self._group_of(row), self._key(row))
        for orphan in orphans:
            self._put(row.alarm_id, self._key(orphan))

    def _remove(self, row: Row) -> None:
        orphans = [self._rows[child] for child in self._children.get(row.alarm_id, ())]
        for orphan in orphans:
            self._drop(row.alarm_id, self._key(orphan))
        self._drop(self._group_of(row), self._key(row))
        del self._rows[row.alarm_id]
        self._leave(row)
        for orphan in orphans:
            self._put(TOP, self._key(orphan))
        with_parent = self._rekey(row.parent_id)
        if row.parent_id:
            siblings = self._children[row.parent_id]
            siblings.discard(row.alarm_id)
            if not siblings:
                del self._children[row.parent_id]
        with_parent()

    def _rekey(self, alarm_id: str) -> Callable[[], None]:
        """Note an alarm's place before its count of children changes; the call then moves it to its new one."""
        row = self._rows.get(alarm_id) if alarm_id else None
        if row is None:
            return lambda: None
        group, old = self._group_of(row), self._key(row)

        def back() -> None:
            new = self._key(row)
            if new != old:
                self._drop(group, old)
                self._put(group, new)

        return back

    def _family(self, row: Row) -> Family | None:
        return self._one_call.family(row.type, row.asset_kind, row.asset)

    def _join(self, row: Row) -> None:
        if (family := self._family(row)) is not None:
            self._families.setdefault(family, set()).add(row.alarm_id)

    def _leave(self, row: Row) -> None:
        if (family := self._family(row)) is not None:
            self._families[family].discard(row.alarm_id)
            if not self._families[family]:
                del self._families[family]

    def _rekey_family(self, row: Row) -> Callable[[], None]:
        """Note the places of the others of its family before it changes; the call then moves them to their new ones."""
        family = self._family(row)
        others = () if family is None else self._families.get(family, ())
        before = [(one, self._key(self._rows[one])) for one in others if one != row.alarm_id and self._rows[one].calls]

        def back() -> None:
            for alarm_id, old in before:
                other = self._rows[alarm_id]
                if (new := self._key(other)) != old:
                    self._drop(self._group_of(other), old)
                    self._put(self._group_of(other), new)

        return back

    def _group_of(self, row: Row) -> str:
        return row.parent_id if row.parent_id in self._rows else TOP

    def _key(self, row: Row) -> Key:
        leader = self._leader(row)
        if leader is None:
            return row.key(root=row.alarm_id in self._children, aside=self._aside(row))
        key = leader.key(root=False, aside=self._aside(leader))  # that of others must not change with its children
        return key if leader is row else row.key_under(key)

    def _leader(self, row: Row) -> Row | None:
        """Who leads the call it is in; None: it calls for nobody, or what it is of calls for each alarm."""
        family = self._family(row)
        if family is None or not row.calls:
            return None
        calling = [one for alarm_id in self._families[family] if (one := self._rows[alarm_id]).calls]
        return min(calling, key=self._place)

    def _place(self, row: Row) -> Place:
        return self._one_call.place(row.type, row.urgency, row.onset_us, row.alarm_id)

    def _put(self, group: str, key: Key) -> None:
        keys = self._groups.setdefault(group, [])
        insort(keys, key)
        if group == self._group and self._shown is not keys and self._wants(key):
            insort(self._shown, key)

    def _drop(self, group: str, key: Key) -> None:
        keys = self._groups[group]
        del keys[bisect_left(keys, key)]
        if group == self._group and self._shown is not keys:
            at = bisect_left(self._shown, key)
            if at < len(self._shown) and self._shown[at] == key:
                del self._shown[at]
        if not keys and group not in (TOP, self._group):
            del self._groups[group]

    def _wants(self, key: Key) -> bool:
        return self._wanted is None or self._wanted(self._rows[key[-1]])
