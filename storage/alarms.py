"""Alarms in the database: the table of what is, the log of what happened, the actions of operators.

Promise: a commit is one transaction, and cursors are given out in commit order. The cursor row is updated, hence
locked, in the transaction that writes the transitions, so no reader ever sees a cursor whose predecessor is still on
its way (a plain sequence loses rows there). Cursors have no gaps. Refuses to know what a transition means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from meterwatch.alarms import (
    ALARM_FIELDS,
    PAGED,
    Action,
    Alarm,
    AlarmFilter,
    AlarmState,
    AssetShelf,
    Draft,
    Pages,
    Source,
    Transition,
    TransitionKind,
)
from meterwatch.episodes import Verdict
from meterwatch.errors import StorageBroken
from meterwatch.loads import LoadChange
from storage.faults import storage_faults
from storage.loads import mark_evaluated

TRANSITIONS_MAX: Final = 1000
"""Of one alarm, in get(); as alarms.proto says."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_AT: Final = tuple(name for name in ALARM_FIELDS if name.endswith("_us"))
_COLUMNS: Final = tuple(name[:-3] + "_at" if name in _AT else name for name in ALARM_FIELDS)
_SHELF_FIELDS: Final = tuple(f.name for f in fields(AssetShelf))
_ACTION_FIELDS: Final = tuple(f.name for f in fields(Action))
_SELECT: Final = sql.SQL("SELECT {} FROM alarms ").format(sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)))
_UPSERT: Final = sql.SQL("INSERT INTO alarms ({}) VALUES ({}) ON CONFLICT (alarm_id) DO UPDATE SET {}").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)),
    sql.SQL(", ").join(sql.SQL("%s") for _ in _COLUMNS),
    sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(c)) for c in _COLUMNS[1:]),
)
_PAGES_BY_WINDOW: Final = """
SELECT floor(extract(epoch FROM greatest(%(now)s - recorded_at, interval '0')) * 1000000 / %(window)s)::integer AS back,
       count(*) FILTER (WHERE under IS NULL) AS pages, count(under) AS under
FROM alarm_pages WHERE recorded_at > %(from)s {mine} GROUP BY 1"""
_PAGES_BY_SOURCE: Final = """
WITH spaced AS (
    SELECT rule, asset_kind, asset, recorded_at - lag(recorded_at, %(before)s::integer)
        OVER (PARTITION BY rule, asset_kind, asset ORDER BY recorded_at, seq) AS took
    FROM alarm_pages WHERE recorded_at > %(from)s {mine}
), counted AS MATERIALIZED (
    SELECT rule COLLATE "C" AS rule, asset_kind COLLATE "C" AS asset_kind, asset COLLATE "C" AS asset,
           count(*) AS pages, coalesce(bool_or(took < %(window)s * interval '1 microsecond'), false) AS chatters
    FROM spaced GROUP BY 1, 2, 3
)
SELECT 'top' AS kind, * FROM (SELECT * FROM counted ORDER BY pages DESC, rule, asset_kind, asset LIMIT %(top)s) AS t
UNION ALL
SELECT 'chattering', * FROM (
    SELECT * FROM counted WHERE chatters ORDER BY rule, asset_kind, asset LIMIT %(most)s) AS c"""
_MINE: Final = (
    "AND seq IN (SELECT l.seq FROM alarm_log l"
    " WHERE l.recorded_at > %(from)s AND l.alarm->>'district' = ANY(%(districts)s))"
)
_LOG: Final = (
    "SELECT l.seq, l.kind, l.recorded_at, l.alarm, p.alarm AS was, a.action_id, a.alarm_id, a.operator, a.note, "
    "a.shelve_s, a.once, a.assignee FROM alarm_log l LEFT JOIN alarm_actions a ON a.seq = l.seq "
    "LEFT JOIN alarm_log p ON p.alarm_id = l.alarm_id AND p.version = l.version - 1 "
)


class AlarmStore:
    """Alarms over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def load_open_and_recent(self, since_us: int) -> list[Alarm]:
        """Alarms that are not finished, that last, shelved ones, and finished ones that ended at or after since_us."""
        query = _SELECT + sql.SQL(
            "WHERE state IN ('UNACK_ACTIVE', 'ACK_ACTIVE', 'RTN_UNACK', 'SUPPRESSED') "
            "OR shelved_until_at IS NOT NULL OR coalesce(cleared_at, onset_at) >= %s "
            "OR (cleared_at IS NULL AND state = 'NORMAL')"
        )
        return [_alarm(row) for row in await self._rows(query, (_at(since_us),))]

    async def began_between(self, from_us: int, to_us: int) -> list[Alarm]:
        """Alarms with from_us <= onset < to_us, oldest first."""
        query = _SELECT + sql.SQL("WHERE onset_at >= %s AND onset_at < %s ORDER BY onset_at, alarm_id")
        return [_alarm(row) for row in await self._rows(query, (_at(from_us), _at(to_us)))]

    async def within(self, verdicts: Sequence[Verdict]) -> list[Alarm]:
        """Alarms that these verdicts are about: of their rule, asset and span."""
        query = _SELECT + sql.SQL(
            "JOIN unnest(%s::text[], %s::text[], %s::integer[], %s::timestamptz[], %s::timestamptz[])"
            " AS v (r, k, i, since, until) ON (rule, asset_kind, asset_id) = (r, k, i)"
            " WHERE (cleared_at IS NULL OR cleared_at >= since) AND (until IS NULL OR onset_at < until)"
        )
        columns = (
            [v.rule for v in verdicts], [v.asset_kind for v in verdicts], [v.asset_id for v in verdicts],
            [_at(v.from_us) for v in verdicts], [None if v.until_us is None else _at(v.until_us) for v in verdicts],
        )  # fmt: skip
        return [_alarm(row) for row in await self._rows(query, columns)]

    async def commit(
        self,
        drafts: Sequence[Draft],
        evaluated_batch_ids: Sequence[int],
        *,
        now_us: int,
        loads: LoadChange | None = None,
        shelf: AssetShelf | None = None,
    ) -> list[int]:
        """Write transitions, the actions or the batches and loads they follow from; all or nothing.

        Returns the cursors, one per draft. After StorageUnavailable the outcome is unknown: compare newest_seq().
        loads None: those of these batches come with a later commit. A repetition adds no loads.
        """
        if not drafts and not evaluated_batch_ids and not loads and not shelf:
            return []
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
                seqs = await _take_seqs(cursor, len(drafts))
                done = [draft.numbered(seq, now_us) for draft, seq in zip(drafts, seqs, strict=True)]
                if done:
                    await cursor.executemany(
                        "INSERT INTO alarm_log (seq, alarm_id, version, kind, recorded_at, alarm) "
                        "VALUES (%s, %s, %s, %s, %s, %s)",
                        [
                            (t.seq, t.alarm.alarm_id, t.alarm.version, t.kind.value, _at(now_us), _log_json(t.alarm))
                            for t in done
                        ],
                    )
                    await cursor.executemany(_UPSERT, [_values(t.alarm) for t in done])
                await _write_actions(cursor, done)
                await _write_pages(cursor, done, [draft.under for draft in drafts])
                await _write_shelf(cursor, shelf, now_us)
                await mark_evaluated(cursor, evaluated_batch_ids, loads)
        return seqs

    async def log_after(self, seq: int, limit: int) -> list[Transition]:
        """Transitions after a cursor, oldest first. The first one is seq + 1 unless the log begins later."""
        rows = await self._rows(sql.SQL(_LOG + "WHERE l.seq > %s ORDER BY l.seq LIMIT %s"), (seq, limit))
        return [_transition(row) for row in rows]

    async def oldest_seq(self) -> int:
        """Cursor of the oldest transition in the log; the next one to come if it is empty."""
        query = "SELECT coalesce((SELECT min(seq) FROM alarm_log), (SELECT seq + 1 FROM alarm_cursor)) AS seq"
        return int((await self._rows(sql.SQL(query), ()))[0]["seq"])

    async def newest_seq(self) -> int:
        """Last cursor given out; 0 if none."""
        return int((await self._rows(sql.SQL("SELECT seq FROM alarm_cursor"), ()))[0]["seq"])

    async def log_id(self) -> str:
        """Identity of this log: cursors of another log mean nothing here."""
        return str((await self._rows(sql.SQL("SELECT log_id FROM service_identity"), ()))[0]["log_id"])

    async def list_page(
        self, wanted: AlarmFilter, *, active_only: bool, limit: int, after: tuple[int, str] | None = None
    ) -> list[Alarm]:
        """Alarms newest first; `after` is (recorded_us, alarm_id) of the last one of the page before."""
        where, values = _where(wanted, paging=active_only or wanted.paging_only)
        if after is not None:
            where.append(sql.SQL("(recorded_at < %s OR (recorded_at = %s AND alarm_id > %s))"))
            values += [_at(after[0]), _at(after[0]), after[1]]
        query = (
            _SELECT
            + sql.SQL("WHERE ")
            + sql.SQL(" AND ").join(where)
            + sql.SQL(" ORDER BY recorded_at DESC, alarm_id LIMIT %s")
        )
        return [_alarm(row) for row in await self._rows(query, (*values, limit))]

    async def get(self, alarm_id: str) -> tuple[Alarm, list[Transition]] | None:
        """An alarm with its first TRANSITIONS_MAX transitions, oldest first; None if there is none."""
        found = await self.get_many([alarm_id])
        if not found:
            return None
        query = sql.SQL(_LOG + "WHERE l.alarm_id = %s ORDER BY l.version LIMIT %s")
        rows = await self._rows(query, (alarm_id, TRANSITIONS_MAX))
        return found[0], [_transition(row) for row in rows]

    async def pages(
        self, from_us: int, now_us: int, *, window_us: int, chatter_count: int, top: int, most: int,
        districts: Collection[str] = (),
    ) -> Pages:  # fmt: skip
        """What began to page after from_us; calls counted in windows back from now_us.

        top: so many of the most frequent sources; most: so many of those that began chatter_count times within a
        window. districts: only of these; none: of all.
        """
        span = {"from": _at(from_us), "now": _at(now_us), "window": window_us, "districts": sorted(districts)}
        mine = sql.SQL(_MINE if districts else "")
        limits = {"before": chatter_count - 1, "top": top, "most": most}
        windows = await self._rows(sql.SQL(_PAGES_BY_WINDOW).format(mine=mine), span)
        sources = await self._rows(sql.SQL(_PAGES_BY_SOURCE).format(mine=mine), span | limits)

        def chosen(which: str) -> list[tuple[Source, int]]:
            return [
                ((row["rule"], row["asset_kind"], row["asset"]), row["pages"])
                for row in sources
                if row["kind"] == which
            ]

        pages = {row["back"]: row["pages"] for row in windows if row["pages"]}
        under = sum(row["under"] for row in windows)
        return Pages(pages, chosen("top"), chosen("chattering"), under)

    async def get_many(self, alarm_ids: Sequence[str]) -> list[Alarm]:
        """Those of the alarms that exist."""
        rows = await self._rows(_SELECT + sql.SQL("WHERE alarm_id = ANY(%s)"), (list(alarm_ids),))
        return [_alarm(row) for row in rows]

    async def children(
        self, alarm_id: str, limit: int, districts: Collection[str] = ()
    ) -> tuple[dict[AlarmState, int], list[Alarm]]:
        """How many alarms are folded into this one, by state, and the worst of them. Cost: by their number.

        districts: only of these; none: of all.
        """
        theirs = sql.SQL("WHERE parent_id = %s AND (%s OR district = ANY(%s)) ")
        which = (alarm_id, not districts, sorted(districts))
        query = sql.SQL("SELECT state, count(*) AS alarms FROM alarms ") + theirs + sql.SQL("GROUP BY state")
        counts = {AlarmState(row["state"]): row["alarms"] for row in await self._rows(query, which)}
        worst = _SELECT + theirs + sql.SQL("ORDER BY severity DESC, onset_at, alarm_id LIMIT %s")
        return counts, [_alarm(row) for row in await self._rows(worst, (*which, limit))] if counts else []

    async def find_actions(self, action_id: str) -> list[tuple[Action, Alarm]]:
        """What was done under this id, each with the alarm as it was after it."""
        query = (
            "SELECT a.*, l.alarm FROM alarm_actions a JOIN alarm_log l USING (seq) WHERE a.action_id = %s ORDER BY seq"
        )
        rows = await self._rows(sql.SQL(query), (action_id,))
        return [(_action(row), Alarm.from_json(row["alarm"])) for row in rows]

    async def load_shelves(self, now_us: int) -> list[AssetShelf]:
        """Shelves over assets that last."""
        query = (
            "SELECT * FROM (SELECT DISTINCT ON (rule, asset_kind, asset) * FROM asset_shelves"
            " WHERE recorded_at > %s ORDER BY rule, asset_kind, asset, shelf_no DESC) AS s WHERE until_at > %s"
        )
        longest = timedelta(hours=8)
        rows = await self._rows(sql.SQL(query), (_at(now_us) - longest, _at(now_us)))
        return [_shelf(row) for row in rows]

    async def find_shelf(self, action_id: str) -> AssetShelf | None:
        """The shelf over an asset put there under this id."""
        rows = await self._rows(sql.SQL("SELECT * FROM asset_shelves WHERE action_id = %s"), (action_id,))
        return _shelf(rows[0]) if rows else None

    async def _rows(
        self, query: sql.Composable, values: Sequence[object] | Mapping[str, object]
    ) -> list[dict[str, Any]]:
        with storage_faults():
            async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(query, values)
                rows: list[dict[str, Any]] = await cursor.fetchall()
                return rows


def _where(wanted: AlarmFilter, paging: bool = False) -> tuple[list[sql.Composable], list[Any]]:
    """Conditions on the alarms table, and their values; paging: and AlarmFilter.calls_for."""
    states = {state.value for state in wanted.states}
    where: list[sql.Composable] = [sql.SQL("severity >= %s"), sql.SQL("priority >= %s")]
    values: list[Any] = [int(wanted.severity_min), int(wanted.priority_min)]
    if paging:
        where.append(sql.SQL("shelved_until_at IS NULL AND out_of_service_by IS NULL"))
        if not wanted.rules:
            where.append(sql.SQL("NOT for_planning"))
        paged = {state.value for state in PAGED}
        states = states & paged if states else paged
        if not states:
            where.append(sql.SQL("false"))
    for column, chosen in (
        ("rule", wanted.rules),
        ("district", wanted.districts),
        ("feeder", wanted.feeders),
        ("state", states),
    ):
        if chosen and column == "rule":  # USER means every USER/NAME
            where.append(sql.SQL("(rule = ANY(%s) OR split_part(rule, '/', 1) = ANY(%s))"))
            values += [sorted(chosen)] * 2
        elif chosen:
            where.append(sql.SQL("{} = ANY(%s)").format(sql.Identifier(column)))
            values.append(sorted(chosen))
    for name, labelled in wanted.labels:
        where.append(sql.SQL("evidence -> 'labels' ->> %s::text = ANY(%s)"))
        values += [name, sorted(labelled)]
    if wanted.any_of:
        several: list[sql.Composable] = []
        for one in wanted.any_of:
            conditions, theirs = _where(one, one.paging_only)
            several.append(sql.SQL(" AND ").join(conditions))
            values += theirs
        where.append(sql.SQL("(({}))").format(sql.SQL(") OR (").join(several)))
    return where, values


async def _take_seqs(cursor: psycopg.AsyncCursor[Any], count: int) -> list[int]:
    if count == 0:
        return []
    await cursor.execute("UPDATE alarm_cursor SET seq = seq + %s RETURNING seq", (count,))
    row = await cursor.fetchone()
    if row is None:
        raise StorageBroken("table alarm_cursor is empty; it must hold one row; restore it from a backup")
    last = int(row[0])
    return list(range(last - count + 1, last + 1))


async def _write_actions(cursor: psycopg.AsyncCursor[Any], transitions: Sequence[Transition]) -> None:
    """One row per transition that an operator made."""
    rows = [(t.action, _at(t.recorded_us), t.seq) for t in transitions if t.action is not None]
    if rows:
        await cursor.executemany(
            "INSERT INTO alarm_actions (action_id, alarm_id, kind, operator, note, shelve_s, once, assignee, "
            "recorded_at, seq) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [(*(getattr(action, name) for name in _ACTION_FIELDS), at, seq) for action, at, seq in rows],
        )


async def _write_shelf(cursor: psycopg.AsyncCursor[Any], shelf: AssetShelf | None, now_us: int) -> None:
    if shelf is not None:
        await cursor.execute(
            "INSERT INTO asset_shelves (action_id, rule, asset_kind, asset, shelve_s, operator, reason, until_at,"
            " recorded_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (*(getattr(shelf, name) for name in _SHELF_FIELDS[:-1]), _at(shelf.until_us), _at(now_us)),
        )


def _shelf(row: dict[str, Any]) -> AssetShelf:
    return AssetShelf(**({name: row[name] for name in _SHELF_FIELDS[:-1]} | {"until_us": _us(row["until_at"])}))


async def _write_pages(
    cursor: psycopg.AsyncCursor[Any], transitions: Sequence[Transition], under: Sequence[str | None]
) -> None:
    """One row per transition with which an alarm began to page; under: in whose call."""
    rows = [
        (t.seq, _at(t.recorded_us), t.alarm.rule, t.alarm.asset_kind, t.alarm.asset, whose)
        for t, whose in zip(transitions, under, strict=True)
        if t.alarm.pages and not (t.was is not None and t.was.pages)
    ]
    if rows:
        await cursor.executemany(
            "INSERT INTO alarm_pages (seq, recorded_at, rule, asset_kind, asset, under) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            rows,
        )


def _values(alarm: Alarm) -> list[object]:
    row = alarm.to_json()
    for name in _AT:
        if row[name] is not None:
            row[name] = _at(row[name])
    row["evidence"] = _json(row["evidence"])
    return list(row.values())


def _alarm(row: dict[str, Any]) -> Alarm:
    named = dict(zip(ALARM_FIELDS, row.values(), strict=True))
    for name in _AT:
        if named[name] is not None:
            named[name] = _us(named[name])
    return Alarm.from_json(named)


def _transition(row: dict[str, Any]) -> Transition:
    was = None if row["was"] is None else Alarm.from_json(row["was"])
    kind = TransitionKind(row["kind"])
    action = None if row["action_id"] is None else _action(row)
    return Transition(row["seq"], kind, Alarm.from_json(row["alarm"]), _us(row["recorded_at"]), was, action)


def _action(row: dict[str, Any]) -> Action:
    named = {name: row[name] for name in _ACTION_FIELDS}
    return Action(**(named | {"kind": TransitionKind(row["kind"])}))


def _log_json(alarm: Alarm) -> str:
    return _json(alarm.to_json())


def _json(value: object) -> str:
    """JSON for a jsonb column; NaN and infinity, which jsonb refuses, become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def _at(us: int) -> datetime:
    return _EPOCH + us * _US


def _us(at: datetime) -> int:
    return (at - _EPOCH) // _US
