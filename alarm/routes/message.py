"""What one message tells: the notices it covers, in their order, and where it belongs if all of them belong there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from alarm.routes.faces import change_of
from alarm.routes.model import Target
from meterwatch.notices import Delivery, Item, Notice, NoticeKey


def message_of(
    number: int,
    target: Target,
    covered: Sequence[Notice],
    counted: Collection[NoticeKey],
    waiting: int,
    now_us: int,
) -> Delivery:
    """A message of these notices. counted: keys of those it counts and does not show, unless it had nothing to show.

    waiting: notices due for the target that found no place in it.
    """
    items = tuple(
        Item(
            alarm_id=notice.alarm.alarm_id,
            seq=notice.alarm.seq,
            change=change_of(notice),
            was_severity=None if notice.told is None else notice.told.severity,
            shown=i < target.shown_max and (i == 0 or notice.key not in counted),
        )
        for i, notice in enumerate(covered)
    )
    places = {(notice.route, notice.step, notice.group) for notice in covered}
    departments = {notice.department for notice in covered}
    route, step, group = places.pop() if len(places) == 1 else ("", 0, "")
    department = departments.pop() if len(departments) == 1 else ""
    return Delivery(number, target.name, route, department, step, group, items, waiting, now_us)
