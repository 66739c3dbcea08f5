"""Invariants of alarms: the table is the log folded, the log has no gap, and what others keep of it agrees with it."""

from __future__ import annotations

from typing import Final

from meterwatch.alarms import ALARM_FIELDS, PAGED
from storage.sound import Findings, Inspected, Unsound

_BACKUP: Final = (
    "the alarm log was changed by hand or lost rows: restore the newest backup and send again what came since"
)


def _differs(field: str) -> str:
    """The field's name where the alarms table says something else than the log, as SQL."""
    column = f"(extract(epoch FROM a.{field[:-3]}_at) * 1000000)::bigint" if field.endswith("_us") else f"a.{field}"
    return (
        f"CASE WHEN l.alarm ? '{field}' AND l.alarm->'{field}' IS DISTINCT FROM"
        f" coalesce(to_jsonb({column}), 'null') THEN '{field}' END"
    )


_LOG: Final = """
SELECT (SELECT min(seq) FROM alarm_log), (SELECT max(seq) FROM alarm_log), (SELECT max(seq) FROM alarm_cursor)"""
_GAPS: Final = """
SELECT seq, next FROM (SELECT seq, lead(seq) OVER (ORDER BY seq) AS next FROM alarm_log) AS log
WHERE next <> seq + 1 ORDER BY 1 LIMIT %(most)s"""
_VERSIONS: Final = """
SELECT alarm_id, before, version FROM (
    SELECT alarm_id, version, seq, lag(version) OVER line AS before, lag(seq) OVER line AS seq_before
    FROM alarm_log WINDOW line AS (PARTITION BY alarm_id ORDER BY version)) AS log
WHERE version <> before + 1 OR seq < seq_before OR (before IS NULL AND version <> 1 AND %(whole)s)
ORDER BY 1, 3 LIMIT %(most)s"""
_FOLDED: Final = f"""
SELECT alarm_id, logged, found FROM (
    SELECT a.alarm_id, l.alarm IS NOT NULL AS logged,
           array_remove(ARRAY[{", ".join(map(_differs, ALARM_FIELDS))}], NULL) AS found
    FROM alarms a LEFT JOIN LATERAL (
        SELECT alarm FROM alarm_log l WHERE l.alarm_id = a.alarm_id ORDER BY version DESC LIMIT 1) AS l ON true
) AS compared WHERE NOT logged OR cardinality(found) > 0 ORDER BY 1 LIMIT %(most)s"""
_UNTABLED: Final = """
SELECT DISTINCT alarm_id FROM alarm_log l WHERE NOT EXISTS (SELECT FROM alarms a WHERE a.alarm_id = l.alarm_id)
ORDER BY 1 LIMIT %(most)s"""
_TWO: Final = """
SELECT rule, asset_kind, asset, onset_at, array_agg(alarm_id ORDER BY alarm_id) FROM alarms
WHERE state <> 'RETRACTED' GROUP BY 1, 2, 3, 4 HAVING count(*) > 1 ORDER BY 1, 2, 3, 4 LIMIT %(most)s"""
_PAGES_IF: Final = (
    "coalesce({row}.alarm->>'state' = ANY(%(paged)s) AND {row}.alarm->>'shelved_until_us' IS NULL"
    " AND {row}.alarm->>'out_of_service_by' IS NULL AND {row}.alarm->>'for_planning' IS DISTINCT FROM 'true', false)"
)
_PAGES: Final = f"""
WITH began AS (
    SELECT l.seq FROM alarm_log l LEFT JOIN alarm_log p ON p.alarm_id = l.alarm_id AND p.version = l.version - 1
    WHERE {_PAGES_IF.format(row="l")} AND NOT {_PAGES_IF.format(row="p")}
)
SELECT seq, 'missing' FROM began WHERE NOT EXISTS (SELECT FROM alarm_pages g WHERE g.seq = began.seq)
UNION ALL
SELECT seq, 'too much' FROM alarm_pages WHERE NOT EXISTS (SELECT FROM began WHERE began.seq = alarm_pages.seq)
UNION ALL
SELECT seq, 'doubled' FROM alarm_pages GROUP BY seq HAVING count(*) > 1 ORDER BY 1, 2 LIMIT %(most)s"""
_ACTIONS: Final = """
SELECT x.action_id, x.alarm_id, x.kind, x.seq, l.alarm_id, l.kind FROM alarm_actions x LEFT JOIN alarm_log l USING (seq)
WHERE x.seq >= coalesce((SELECT min(seq) FROM alarm_log), 0)
  AND (l.alarm_id, l.kind) IS DISTINCT FROM (x.alarm_id, x.kind) ORDER BY x.seq, x.alarm_id LIMIT %(most)s"""
_PARENTS: Final = """
SELECT alarm_id, parent_id FROM alarms a WHERE parent_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM alarms p WHERE p.alarm_id = a.parent_id) ORDER BY 1 LIMIT %(most)s"""
_DELIVERIES: Final = """
SELECT format('route_cursor at %%s', r.seq), format('alarm_cursor at %%s', c.seq)
FROM route_cursor r CROSS JOIN alarm_cursor c WHERE r.seq > c.seq
UNION ALL
SELECT format('delivery %%s', d.delivery_no), format('next_delivery_no %%s', r.next_delivery_no)
FROM deliveries d CROSS JOIN route_cursor r WHERE d.delivery_no >= r.next_delivery_no
UNION ALL
SELECT format('delivery %%s with %%s alarms', d.delivery_no, d.alarms), format('%%s in delivery_alarms', count(a.seq))
FROM deliveries d LEFT JOIN delivery_alarms a USING (delivery_no) WHERE %(whole)s
GROUP BY d.delivery_no, d.alarms HAVING count(a.seq) <> d.alarms
UNION ALL
SELECT format('delivery_alarms of delivery %%s', delivery_no), 'no such delivery' FROM delivery_alarms a
WHERE NOT EXISTS (SELECT FROM deliveries d WHERE d.delivery_no = a.delivery_no) GROUP BY delivery_no
UNION ALL
SELECT format('delivery_alarms of delivery %%s, cursor %%s', a.delivery_no, a.seq), 'a log that does not say so'
FROM delivery_alarms a LEFT JOIN alarm_log l USING (seq)
WHERE a.seq >= coalesce((SELECT min(seq) FROM alarm_log), 0) AND l.alarm_id IS DISTINCT FROM a.alarm_id
UNION ALL
SELECT format('notice of alarm %%s to %%s', n.alarm_id, n.target), 'told of a cursor not given out'
FROM notices n CROSS JOIN alarm_cursor c WHERE greatest(n.seq, n.told_seq) > c.seq
ORDER BY 1, 2 LIMIT %(most)s"""
_RECEIPTS: Final = """
SELECT receipt_no, subscriber, told.seq, c.seq FROM subscriber_receipts CROSS JOIN LATERAL unnest(seqs) AS told (seq)
CROSS JOIN alarm_cursor c WHERE told.seq > c.seq OR told.seq < 1 ORDER BY 1, 3 LIMIT %(most)s"""


def _whole(db: Inspected) -> bool:
    """No alarm and no part of the log was ever dropped for its age."""
    return db.retention.alarms_days is None


async def cursors_have_no_gap(db: Inspected) -> Findings:
    """The cursors of alarm_log follow each other without a gap, up to the last one given out."""
    [(oldest, newest, given)] = await db.find(_LOG)
    expected = newest if newest is not None else 0 if _whole(db) else given
    if given != expected:
        yield Unsound("alarm_cursor", f"seq {given}", f"seq {expected}, the newest of alarm_log", _BACKUP)
    if oldest is not None and oldest != 1 and _whole(db):
        yield Unsound("alarm_log", f"begins with cursor {oldest}", "cursor 1: nothing is ever dropped here", _BACKUP)
    for seq, following in await db.find(_GAPS):
        yield Unsound(f"alarm_log after cursor {seq}", f"cursor {following}", f"cursor {seq + 1}", _BACKUP)


async def versions_of_an_alarm_have_no_gap(db: Inspected) -> Findings:
    """The versions of an alarm in the log rise by 1, in the order of their cursors."""
    for alarm_id, before, version in await db.find(_VERSIONS, whole=_whole(db)):
        yield Unsound(
            f"alarm {alarm_id} in alarm_log", f"version {version} after {before or 0}", f"version {(before or 0) + 1}"
            " with a higher cursor", _BACKUP,
        )  # fmt: skip


async def alarms_are_their_last_transition(db: Inspected) -> Findings:
    """Every alarm is as its last transition left it, and every alarm of the log is there."""
    for alarm_id, logged, fields in await db.find(_FOLDED):
        found = f"another {', '.join(fields)}" if logged else "not in alarm_log"
        yield Unsound(
            f"alarm {alarm_id}", found, "the row as its newest transition in alarm_log",
            "the log is the truth: stop the service, set the row to the log's `alarm`, start it",
        )  # fmt: skip
    if _whole(db):
        for (alarm_id,) in await db.find(_UNTABLED):
            yield Unsound(
                f"alarm {alarm_id}", "in alarm_log and not in alarms", "a row as its newest transition", _BACKUP
            )


async def an_episode_has_one_alarm(db: Inspected) -> Findings:
    """No two alarms that stand are of the same rule, asset and onset."""
    for rule, kind, asset, onset_at, alarms in await db.find(_TWO):
        yield Unsound(
            f"{rule} of {kind} {asset} since {onset_at}", f"alarms {', '.join(alarms)}", "one alarm",
            "acknowledge the later one and report this: the service must not make it",
        )  # fmt: skip


async def pages_follow_from_the_log(db: Inspected) -> Findings:
    """alarm_pages has the transitions with which an alarm began to call for somebody, each once."""
    if not _whole(db):
        return
    for seq, found in await db.find(_PAGES, paged=sorted(state.value for state in PAGED)):
        yield Unsound(
            f"alarm_pages, cursor {seq}", found, "one row for each transition that begins to page",
            "only the figures of the alarm system are wrong: make the table anew as migration 0013 does",
        )  # fmt: skip


async def actions_are_in_the_log(db: Inspected) -> Findings:
    """Every action of an operator made the transition whose cursor it has."""
    for action_id, alarm_id, kind, seq, logged_id, logged_kind in await db.find(_ACTIONS):
        found = f"cursor {seq} is {logged_kind} of {logged_id}" if logged_id else f"no cursor {seq} in alarm_log"
        yield Unsound(f"action {action_id} on alarm {alarm_id}", found, f"{kind} of it at that cursor", _BACKUP)


async def parents_are_there(db: Inspected) -> Findings:
    """The alarm into which another one is folded exists."""
    if not _whole(db):
        return
    for alarm_id, parent_id in await db.find(_PARENTS):
        yield Unsound(f"alarm {alarm_id}", f"folded into {parent_id}, which is not there", "its parent", _BACKUP)


async def deliveries_follow_from_the_log(db: Inspected) -> Findings:
    """What departments were told is numbered, complete, and of transitions that were committed."""
    for what, found in await db.find(_DELIVERIES, whole=_whole(db)):
        yield Unsound(
            what, found, "deliveries below the next number, each with its alarms, of cursors that were given out",
            "tell the department by hand what it was not told; the route goes on with the next transition",
        )  # fmt: skip


async def receipts_are_of_the_log(db: Inspected) -> Findings:
    """Subscribers confirmed only cursors that were given out."""
    for receipt_no, subscriber, seq, given in await db.find(_RECEIPTS):
        yield Unsound(
            f"receipt {receipt_no} of {subscriber}", f"cursor {seq}", f"a cursor up to {given}",
            "the receipt is of another log, or the log lost its end: compare with a backup",
        )  # fmt: skip
