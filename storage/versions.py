"""A value that differs from the stored one: the higher rank becomes the current read, the other a version beside it.

Few reads come here, so they go through a staging table and plain SQL that a reader can follow. Equal rank: the later
arrival wins. A value that was current once and comes again is a duplicate. Runs inside the caller's transaction and
locks the reads it decides on.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import ReadChange, Reads
from meterwatch.channels import CHANNEL_NAMES, ENERGY
from meterwatch.quality import ORIGIN_MASK, ORIGIN_RANK, ORIGIN_SHIFT
from storage.arrays import moment
from storage.rows import COLUMNS, HEADER, TRAILER, encode

_COPY: Final = f"COPY staging (row_no, {', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_SAME: Final = (
    "(s.interval_s, s.quality & {mask}, {s}) IS NOT DISTINCT FROM (r.interval_s, r.quality & {mask}, {r})".format(
        mask=ORIGIN_MASK,
        s=", ".join(f"s.{name}" for name in CHANNEL_NAMES),
        r=", ".join(f"r.{name}" for name in CHANNEL_NAMES),
    )
)
_WITHIN: Final = "r.end_at BETWEEN %(first)s AND %(last)s"
"""Every join on `reads` says it: without it each row is looked up in every chunk there is."""
_CURRENT: Final = f"""
SELECT s.row_no, {_SAME} OR EXISTS (
           SELECT FROM read_versions r WHERE r.slot = s.slot AND r.end_at = s.end_at AND {_WITHIN} AND {_SAME}) AS same,
       s.quality, r.quality, r.interval_s, {", ".join(f"r.{name}" for name in ENERGY)}
FROM staging s JOIN reads r ON r.slot = s.slot AND r.end_at = s.end_at
WHERE {_WITHIN}
ORDER BY s.slot, s.end_at FOR UPDATE OF r
"""
_KEEP_OLD: Final = f"""
INSERT INTO read_versions (superseded_at, {", ".join(COLUMNS)})
SELECT s.received_at, {", ".join(f"r.{name}" for name in COLUMNS)}
FROM staging s JOIN reads r ON r.slot = s.slot AND r.end_at = s.end_at
WHERE s.row_no = ANY(%(rows)s) AND {_WITHIN}
"""
_SET_NEW: Final = f"""
UPDATE reads r SET received_at = s.received_at, interval_s = s.interval_s, quality = s.quality, version = r.version + 1,
    {", ".join(f"{name} = s.{name}" for name in CHANNEL_NAMES)}
FROM staging s WHERE r.slot = s.slot AND r.end_at = s.end_at AND s.row_no = ANY(%(rows)s) AND {_WITHIN}
"""
_KEEP_LOSER: Final = f"""
INSERT INTO read_versions (superseded_at, {", ".join(COLUMNS)})
SELECT s.received_at, {", ".join(f"s.{name}" for name in COLUMNS)} FROM staging s WHERE s.row_no = ANY(%s)
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


def supersede(cursor: psycopg.Cursor[Any], reads: Reads, now_us: int) -> Versions:
    """Settle `reads`, each of which is stored with other values; what neither won nor lost is a duplicate."""
    with cursor.copy(_COPY) as copy:
        copy.write(HEADER)
        copy.write(encode(reads, now_us, numbered=True))
        copy.write(TRAILER)
    cursor.execute("ANALYZE staging")
    cursor.execute("SET LOCAL enable_hashjoin = off")
    cursor.execute("SET LOCAL enable_mergejoin = off")
    span: dict[str, Any] = {"first": moment(int(reads.end_us.min())), "last": moment(int(reads.end_us.max()))}
    current = cursor.execute(_CURRENT, span).fetchall()
    if len(current) != reads.rows:
        raise Race
    differing = [row for row in current if not row[1]]
    winners = [row for row in differing if _rank(row[2]) >= _rank(row[3])]
    losers = [row[0] for row in differing if _rank(row[2]) < _rank(row[3])]
    if winners:
        numbers = [row[0] for row in winners]
        cursor.execute(_KEEP_OLD, {"rows": numbers, **span})
        cursor.execute(_SET_NEW, {"rows": numbers, **span})
        if cursor.rowcount != len(numbers):
            raise Race
    if losers:
        cursor.execute(_KEEP_LOSER, (losers,))
    cursor.execute("DELETE FROM staging")
    won = np.array([row[0] for row in winners], np.intp)
    return Versions(won, len(losers), _replaced(reads, winners) if winners else None)


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


def _rank(quality: int) -> int:
    return ORIGIN_RANK.get((quality & ORIGIN_MASK) >> ORIGIN_SHIFT, 0)  # type: ignore[call-overload, no-any-return]
