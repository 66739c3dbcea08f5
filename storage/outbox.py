"""What the routes keep: their cursor in the alarm log, claims, notices, and the messages with every try.

Promise: a commit is one transaction, so the cursor never says more than the notices know and no notice is told without
its message. A message stays as it was made. Refuses to know when somebody is to be told, and how.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from meterwatch.alarms import Alarm, AlarmState, Priority
from meterwatch.episodes import Severity
from meterwatch.notices import (
    Change,
    Changes,
    Claim,
    Delivery,
    DeliveryState,
    Item,
    Kept,
    Notice,
    NoticeState,
    Parcel,
    Receipt,
    TargetCount,
    Told,
)
from storage.faults import storage_faults

RECEIPTS_MAX: Final = 1000
"""In one answer; as routes.proto says."""
ERROR_CHARS_MAX: Final = 500
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)

_NOTICE: Final = """
INSERT INTO notices (target, alarm_id, route, department, step, group_key, seq, due_at, urged, told_seq, told_state,
                     told_severity, told_pages, told_at, delivery_no, told_priority, state)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (target, alarm_id) DO UPDATE SET
  route = EXCLUDED.route, department = EXCLUDED.department, step = EXCLUDED.step, group_key = EXCLUDED.group_key,
  seq = EXCLUDED.seq, due_at = EXCLUDED.due_at, urged = EXCLUDED.urged, told_seq = EXCLUDED.told_seq,
  told_state = EXCLUDED.told_state, told_severity = EXCLUDED.told_severity, told_pages = EXCLUDED.told_pages,
  told_at = EXCLUDED.told_at, delivery_no = EXCLUDED.delivery_no, told_priority = EXCLUDED.told_priority,
  state = EXCLUDED.state"""
_CLAIM: Final = """
INSERT INTO route_claims (route, alarm_id, since_at, step) VALUES (%s, %s, %s, %s)
ON CONFLICT (route, alarm_id) DO UPDATE SET since_at = EXCLUDED.since_at, step = EXCLUDED.step"""
_DELIVERY: Final = """
INSERT INTO deliveries (delivery_no, target, route, department, step, group_key, alarms, waiting, made_at, queued_at,
                        next_try_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_ITEM: Final = """
INSERT INTO delivery_alarms (delivery_no, position, alarm_id, seq, change, was_severity, shown)
VALUES (%s, %s, %s, %s, %s, %s, %s)"""
_CURSOR: Final = """
INSERT INTO route_cursor (seq, next_delivery_no) VALUES (coalesce(%(seq)s, 0), coalesce(%(number)s, 1))
ON CONFLICT (only_row) DO UPDATE SET
  seq = coalesce(%(seq)s, route_cursor.seq), next_delivery_no = coalesce(%(number)s, route_cursor.next_delivery_no)"""
_OPEN: Final = """
SELECT n.*, l.alarm, coalesce(d.state = 'DEAD', false) AS lost FROM notices n JOIN alarm_log l ON l.seq = n.seq
LEFT JOIN deliveries d ON d.delivery_no = n.delivery_no WHERE n.state = 'OPEN'"""
_RECEIPTS: Final = """
SELECT a.alarm_id, a.seq, a.change, a.shown, d.* FROM delivery_alarms a JOIN deliveries d USING (delivery_no)
WHERE true {} ORDER BY d.delivery_no DESC, a.position LIMIT %(limit)s"""
_COUNTS: Final = """
SELECT target, count(*) FILTER (WHERE state = 'WAITING') AS waiting, count(*) FILTER (WHERE state = 'SENT') AS sent,
       count(*) FILTER (WHERE state = 'DEAD') AS dead, min(queued_at) FILTER (WHERE state = 'WAITING') AS oldest,
       coalesce((array_agg(last_error ORDER BY delivery_no) FILTER (WHERE state = 'WAITING'))[1], '') AS last_error
FROM deliveries GROUP BY target ORDER BY target"""


class Outbox:
    """The tables of the routes over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def load(self, made_since_us: int) -> Kept:
        """What is not over, and when messages were made since a time of the service's clock."""
        cursors = await self._rows("SELECT seq, next_delivery_no FROM route_cursor")
        notices = await self._rows(_OPEN)
        claims = await self._rows("SELECT route, alarm_id, since_at, step FROM route_claims")
        made = await self._rows(
            "SELECT target, made_at FROM deliveries WHERE made_at > %s ORDER BY made_at", (_at(made_since_us),)
        )
        waiting = await self._rows(
            "SELECT target, count(*) AS n FROM deliveries WHERE state = 'WAITING' GROUP BY target"
        )
        made_us: dict[str, list[int]] = {}
        for row in made:
            made_us.setdefault(row["target"], []).append(_us(row["made_at"]))
        return Kept(
            cursor=cursors[0]["seq"] if cursors else None,
            next_number=cursors[0]["next_delivery_no"] if cursors else 1,
            notices=tuple(map(_notice, notices)),
            claims=tuple(Claim(r["route"], r["alarm_id"], _us_or_none(r["since_at"]), r["step"]) for r in claims),
            made_us=made_us,
            waiting={row["target"]: row["n"] for row in waiting},
        )

    async def commit(self, changes: Changes, queued_us: int) -> None:
        """Write one step of the routes; all or nothing. After StorageUnavailable the outcome is unknown: load again."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
                await _write(cursor, changes, _at(queued_us))

    async def next_parcel(self, target: str) -> Parcel | None:
        """The oldest message that waits for a target."""
        rows = await self._rows(
            "SELECT * FROM deliveries WHERE target = %s AND state = 'WAITING' ORDER BY delivery_no LIMIT 1", (target,)
        )
        if not rows:
            return None
        head = rows[0]
        items = await self._rows(
            "SELECT a.*, l.alarm FROM delivery_alarms a LEFT JOIN alarm_log l ON l.seq = a.seq AND a.shown "
            "WHERE a.delivery_no = %s ORDER BY a.position",
            (head["delivery_no"],),
        )
        pairs = [(_item(row), row["alarm"]) for row in items]
        delivery = Delivery(
            number=head["delivery_no"],
            target=head["target"],
            route=head["route"],
            department=head["department"],
            step=head["step"],
            group=head["group_key"],
            items=tuple(item for item, _ in pairs),
            waiting=head["waiting"],
            made_us=_us(head["made_at"]),
        )
        shown = tuple((item, Alarm.from_json(alarm)) for item, alarm in pairs if alarm is not None)
        return Parcel(delivery, shown, head["attempts"], _us(head["next_try_at"]), _us(head["queued_at"]))

    async def tried(
        self, number: int, state: DeliveryState, tried_us: int, ended_us: int, next_try_us: int, error: str
    ) -> None:
        """Write down a try: when it began and ended, what came of it, when the next one may be. Repeatable."""
        await self._execute(
            "UPDATE deliveries SET state = %(state)s, attempts = attempts + 1, "
            "first_try_at = coalesce(first_try_at, %(tried)s), last_try_at = %(tried)s, next_try_at = %(next)s, "
            "ended_at = CASE WHEN %(state)s = 'WAITING' THEN NULL ELSE %(ended)s END, last_error = %(error)s "
            "WHERE delivery_no = %(number)s AND state = 'WAITING' "
            "AND last_try_at IS DISTINCT FROM %(tried)s",
            {
                "number": number,
                "state": state.value,
                "tried": _at(tried_us),
                "ended": _at(ended_us),
                "next": _at(next_try_us),
                "error": error[:ERROR_CHARS_MAX].replace("\0", ""),
            },
        )

    async def retry(self, target: str, now_us: int) -> int:
        """Let the dead messages of a target wait again, from now on; how many."""
        return await self._execute(
            "UPDATE deliveries SET state = 'WAITING', queued_at = %(now)s, next_try_at = %(now)s, ended_at = NULL "
            "WHERE target = %(target)s AND state = 'DEAD'",
            {"target": target, "now": _at(now_us)},
        )

    async def told_active(self, target: str, after: str, limit: int) -> list[Alarm]:
        """Alarms a target was told of as active, as they were then, by alarm_id from `after` on."""
        rows = await self._rows(
            "SELECT l.alarm FROM notices n JOIN alarm_log l ON l.seq = n.told_seq WHERE n.target = %s "
            "AND n.state = 'OPEN' AND n.told_pages AND n.told_state IN ('UNACK_ACTIVE', 'ACK_ACTIVE') "
            "AND n.alarm_id > %s ORDER BY n.alarm_id LIMIT %s",
            (target, after, limit),
        )
        return [Alarm.from_json(row["alarm"]) for row in rows]

    async def receipts(
        self, *, alarm_id: str = "", target: str = "", state: str = "", limit: int = RECEIPTS_MAX
    ) -> list[Receipt]:
        """Who was told of what, newest first. Cost: by index with an alarm or target, else the newest ones."""
        given = {"a.alarm_id": alarm_id, "d.target": target, "d.state": state}
        where = "".join(f"AND {column} = %({column})s " for column, value in given.items() if value)
        return [_receipt(row) for row in await self._rows(_RECEIPTS.format(where), given | {"limit": limit})]

    async def notices_of(self, alarm_id: str) -> list[Notice]:
        """What each target knows, or is to know, of an alarm."""
        rows = await self._rows(
            "SELECT n.*, l.alarm, coalesce(d.state = 'DEAD', false) AS lost FROM notices n "
            "JOIN alarm_log l ON l.seq = n.seq LEFT JOIN deliveries d ON d.delivery_no = n.delivery_no "
            "WHERE n.alarm_id = %s ORDER BY n.target",
            (alarm_id,),
        )
        return [_notice(row) for row in rows]

    async def counts(self) -> list[TargetCount]:
        """The deliveries by target. Cost: linear in those kept."""
        return [
            TargetCount(r["target"], r["waiting"], r["sent"], r["dead"], _us_or_none(r["oldest"]), r["last_error"])
            for r in await self._rows(_COUNTS)
        ]

    async def _rows(self, query: str, values: Any = None) -> list[dict[str, Any]]:
        with storage_faults():
            async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(query.encode(), values)
                rows: list[dict[str, Any]] = await cursor.fetchall()
                return rows

    async def _execute(self, query: str, values: Any) -> int:
        with storage_faults():
            async with self._pool.connection() as connection:
                done = await connection.execute(query.encode(), values)
                return int(done.rowcount)


async def _write(cursor: psycopg.AsyncCursor[Any], changes: Changes, queued_at: datetime) -> None:
    if changes.notices:
        await cursor.executemany(_NOTICE, [_notice_row(notice) for notice in changes.notices.values()])
    ended = [key for key, claim in changes.claims.items() if claim is None]
    if ended:
        await cursor.executemany("DELETE FROM route_claims WHERE route = %s AND alarm_id = %s", ended)
    kept = [claim for claim in changes.claims.values() if claim is not None]
    if kept:
        rows = [(claim.route, claim.alarm_id, _at_or_none(claim.since_us), claim.step) for claim in kept]
        await cursor.executemany(_CLAIM, rows)
    if changes.deliveries:
        await cursor.executemany(_DELIVERY, [_delivery_row(one, queued_at) for one in changes.deliveries])
        await cursor.executemany(_ITEM, [row for one in changes.deliveries for row in _item_rows(one)])
    if changes.targets is not None:
        await cursor.execute(
            "UPDATE deliveries SET state = 'DEAD', ended_at = %s, last_error = 'its target is no longer in the file' "
            "WHERE state = 'WAITING' AND NOT target = ANY(%s)",
            (queued_at, sorted(changes.targets)),
        )
    if changes.cursor is not None or changes.next_number is not None:
        await cursor.execute(_CURSOR, {"seq": changes.cursor, "number": changes.next_number})


def _notice_row(notice: Notice) -> Sequence[object]:
    told = notice.told
    return (
        notice.target, notice.alarm.alarm_id, notice.route, notice.department, notice.step, notice.group,
        notice.alarm.seq, _at_or_none(notice.due_us), notice.urged and notice.urged.value,
        *((None,) * 7 if told is None else (
            told.seq, told.state.value, int(told.severity), told.pages, _at(told.at_us), told.number, int(told.priority)
        )),
        notice.state.value,
    )  # fmt: skip


def _notice(row: dict[str, Any]) -> Notice:
    told = None
    if row["told_seq"] is not None:
        told = Told(
            row["told_seq"], AlarmState(row["told_state"]), Severity(row["told_severity"]), row["told_pages"],
            _us(row["told_at"]), row["delivery_no"], Priority(row["told_priority"] or row["told_severity"]),
            row["lost"],
        )  # fmt: skip
    return Notice(
        target=row["target"],
        alarm=Alarm.from_json(row["alarm"]),
        route=row["route"],
        department=row["department"],
        step=row["step"],
        group=row["group_key"],
        due_us=_us_or_none(row["due_at"]),
        urged=None if row["urged"] is None else Change(row["urged"]),
        told=told,
        state=NoticeState(row["state"]),
    )


def _delivery_row(one: Delivery, queued_at: datetime) -> Sequence[object]:
    return (
        one.number, one.target, one.route, one.department, one.step, one.group, len(one.items), one.waiting,
        _at(one.made_us), queued_at, queued_at,
    )  # fmt: skip


def _item_rows(one: Delivery) -> list[Sequence[object]]:
    return [
        (
            one.number,
            i,
            item.alarm_id,
            item.seq,
            item.change.value,
            item.was_severity and int(item.was_severity),
            item.shown,
        )
        for i, item in enumerate(one.items)
    ]


def _item(row: dict[str, Any]) -> Item:
    was = None if row["was_severity"] is None else Severity(row["was_severity"])
    return Item(row["alarm_id"], row["seq"], Change(row["change"]), was, row["shown"])


def _receipt(row: dict[str, Any]) -> Receipt:
    return Receipt(
        alarm_id=row["alarm_id"],
        seq=row["seq"],
        change=Change(row["change"]),
        shown=row["shown"],
        number=row["delivery_no"],
        target=row["target"],
        route=row["route"],
        department=row["department"],
        step=row["step"],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        made_us=_us(row["made_at"]),
        queued_us=_us(row["queued_at"]),
        first_try_us=_us_or_none(row["first_try_at"]),
        last_try_us=_us_or_none(row["last_try_at"]),
        next_try_us=_us(row["next_try_at"]) if row["state"] == "WAITING" else None,
        ended_us=_us_or_none(row["ended_at"]),
        last_error=row["last_error"],
    )


def _at(us: int) -> datetime:
    return _EPOCH + us * _US


def _us(at: datetime) -> int:
    return (at - _EPOCH) // _US


def _at_or_none(us: int | None) -> datetime | None:
    return None if us is None else _at(us)


def _us_or_none(at: datetime | None) -> int | None:
    return None if at is None else _us(at)
