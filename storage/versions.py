"""A value that differs from the stored one: the higher rank becomes the current read, the other a version beside it.

Few reads come here, so they go through a staging table and plain SQL that a reader can follow. Equal rank: the later
arrival wins. A value that was current once and comes again is a duplicate. Runs inside the caller's transaction and
locks the reads it decides on; in the columnstore, where rows cannot be locked, the caller holds them (storage.known)
and says in which parts they are settled: each decompresses the batches in its box and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import ReadChange, Reads
from meterwatch.channels import CHANNEL_NAMES, ENERGY
from meterwatch.quality import SOURCE_MASK, rank
from storage.arrays import moment
from storage.probe import LOOKED_UP
from storage.rows import COLUMNS, HEADER, TRAILER, encode

_COPY: Final = f"COPY staging (row_no, {', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_SAME: Final = (
    "(s.interval_s, s.quality & {mask}, {s}) IS NOT DISTINCT FROM (r.interval_s, r.quality & {mask}, {r})".format(
        mask=SOURCE_MASK,
        s=", ".join(f"s.{name}" for name in CHANNEL_NAMES),
        r=", ".join(f"r.{name}" for name in CHANNEL_NAMES),
    )
)
_WITHIN: Final = "r.end_at BETWEEN %(first)s AND %(last)s"
"""Every join on `reads` says it: without it each row is looked up in every chunk there is."""


class _Statements(NamedTuple):
    plan: str | None
    """Settings under which stored reads are found and changed; None: the statements leave one plan."""
    current: str
    keep_old: str
    set_new: str


def _statements(plan: str | None, found: str, lock: str, order: str, set_new: str) -> _Statements:
    """found: staged rows `s` with the stored read `r` of each; set_new: puts the staged ones in their place."""
    return _Statements(
        plan,
        f"""
SELECT s.row_no,
       {_SAME} OR (%(again)s AND EXISTS (SELECT FROM read_versions r WHERE r.slot = s.slot AND r.end_at = s.end_at
                                           AND {_WITHIN} AND {_SAME})) AS same,
       s.quality, r.quality, r.interval_s, {", ".join(f"r.{name}" for name in ENERGY)}
FROM {found.format(lock=lock)} {order}
""",
        f"""
INSERT INTO read_versions (superseded_at, {", ".join(COLUMNS)})
SELECT s.received_at, {", ".join(f"r.{name}" for name in COLUMNS)} FROM {found.format(lock="LIMIT 1")}
""",
        set_new,
    )


_STAGED: Final = "(SELECT * FROM staging WHERE row_no = ANY(%(rows)s) ORDER BY slot, end_at) AS s"
"""In the order in which all writers lock."""
_ONE: Final = LOOKED_UP.format(slot="s.slot", at="s.end_at", first="%(first)s", last="%(last)s")
_BY_KEY: Final = f"{_STAGED} CROSS JOIN LATERAL ({_ONE} {{lock}}) AS r"
_NEW: Final = (
    "SET received_at = {s}.received_at, interval_s = {s}.interval_s, quality = {s}.quality, version = r.version + 1, "
    + ", ".join(f"{name} = {{s}}.{name}" for name in CHANNEL_NAMES)
)
BY_KEY: Final = _statements(
    None,
    _BY_KEY,
    lock="FOR UPDATE",
    order="",
    set_new=f"""
INSERT INTO reads AS r ({", ".join(COLUMNS)}) SELECT {", ".join(COLUMNS)} FROM {_STAGED}
ON CONFLICT (end_at, slot) DO UPDATE {_NEW.format(s="excluded")}
""",
)
"""All of them are stored and locked; said as an INSERT each is looked up. As an UPDATE joined to them, by whatever key,
each read between the first and the last end was compared with each of them where statistics say that there are few."""
_JOINED: Final = "r.slot = s.slot AND r.end_at = s.end_at AND s.row_no = ANY(%(rows)s)"
_BOX: Final = "r.slot BETWEEN %(low)s AND %(high)s"
_SCANNED: Final = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = off; SET LOCAL enable_nestloop = off"
BY_BOX: Final = _statements(
    _SCANNED,
    f"staging s JOIN reads r ON {_JOINED} AND {_WITHIN} AND {_BOX}",
    lock="",
    order="ORDER BY s.slot, s.end_at",
    set_new=f"UPDATE reads r {_NEW.format(s='s')} FROM staging s WHERE {_JOINED} AND {_BOX} AND {_WITHIN}",
)
_KEEP_LOSER: Final = f"""
INSERT INTO read_versions (superseded_at, {", ".join(COLUMNS)})
SELECT s.received_at, {", ".join("0" if name == "version" else f"s.{name}" for name in COLUMNS)}
FROM staging s WHERE s.row_no = ANY(%s)
"""


class Race(Exception):
    """Another writer changed the same reads meanwhile."""


class Versions(NamedTuple):
    """What became of the reads given to `supersede`."""

    won: NDArray[np.intp]
    """Rows that are current now."""
    lost: int
    """Versions kept beside a better current one."""
    replaced: ReadChange | None
    """The reads that `won` replaced, with sign -1."""


def create_staging(connection: psycopg.Connection[Any]) -> None:
    """Make the connection's staging table."""
    connection.execute("CREATE TEMP TABLE staging (LIKE reads) ON COMMIT DELETE ROWS")
    connection.execute("ALTER TABLE staging ADD row_no integer")


def supersede(
    cursor: psycopg.Cursor[Any],
    reads: Reads,
    now_us: int,
    parts: Sequence[NDArray[np.intp]] | None = None,
    *,
    insist: bool = False,
) -> Versions:
    """Settle `reads`, each of which is stored with other values; what neither won nor lost is a duplicate.

    parts: the columnstore's, rows settled together; None: the reads are in rows. insist: a value that was current once
    is meant to be so again (an edit, an estimate), not one that comes a second time.
    """
    with cursor.copy(_COPY) as copy:
        copy.write(HEADER)
        copy.write(encode(reads, now_us, numbered=True))
        copy.write(TRAILER)
    cursor.execute("ANALYZE staging")
    winners: list[tuple[Any, ...]] = []
    lost = 0
    for part in [np.arange(reads.rows)] if parts is None else parts:
        won_here, lost_here = _settle(cursor, reads, part, BY_KEY if parts is None else BY_BOX, insist)
        winners += won_here
        lost += lost_here
    cursor.execute("DELETE FROM staging")
    won = np.array([row[0] for row in winners], np.intp)
    return Versions(won, lost, _replaced(reads, winners) if winners else None)


def _settle(
    cursor: psycopg.Cursor[Any], reads: Reads, part: NDArray[np.intp], statements: _Statements, insist: bool
) -> tuple[list[tuple[Any, ...]], int]:
    """The winners among these rows, as `current` shows them, and how many lost. Plans see the box as constants."""
    slot, end_us = reads.slot[part], reads.end_us[part]
    box = {
        "first": moment(int(end_us.min())),
        "last": moment(int(end_us.max())),
        "low": int(slot.min()),
        "high": int(slot.max()),
        "again": not insist,
    }
    if statements.plan:
        cursor.execute(statements.plan)
    current = cursor.execute(statements.current, {**box, "rows": part.tolist()}, prepare=False).fetchall()
    if len(current) != len(part):
        raise Race
    differing = [row for row in current if not row[1]]
    winners = [row for row in differing if rank(row[2]) >= rank(row[3])]
    losers = [row[0] for row in differing if rank(row[2]) < rank(row[3])]
    if winners:
        rows = {**box, "rows": [row[0] for row in winners]}
        cursor.execute(statements.keep_old, rows, prepare=False)
        cursor.execute(statements.set_new, rows, prepare=False)
        if cursor.rowcount != len(winners):
            raise Race
    if losers:
        cursor.execute(_KEEP_LOSER, (losers,))
    return winners, len(losers)


def _replaced(reads: Reads, winners: list[tuple[Any, ...]]) -> ReadChange:
    at = np.array([row[0] for row in winners])
    value = np.array([[0 if item is None else item for item in row[3:9]] for row in winners], np.int32)
    absent = np.array([[item is None for item in row[5:9]] for row in winners], np.bool_)
    return ReadChange(
        slot=reads.slot[at],
        end_us=reads.end_us[at],
        quality=value[:, 0],
        interval_s=value[:, 1],
        import_wh=value[:, 2],
        export_wh=value[:, 3],
        import_varh=value[:, 4],
        export_varh=value[:, 5],
        has_energy=~np.logical_and(absent[:, 0], absent[:, 1]),
        has_reactive=~np.logical_and(absent[:, 2], absent[:, 3]),
        sign=np.full(len(at), -1, np.int8),
    )
