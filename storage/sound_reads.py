"""Invariants of reads: one current row each, found under its end, with its older values in a line behind it."""

from __future__ import annotations

from typing import Final

from storage.layout import Layout
from storage.sound import Findings, Inspected, Unsound

_INDEX: Final = """
SELECT bool_and(i.indisvalid AND i.indisunique) FROM pg_index i WHERE i.indexrelid = to_regclass('reads_end_slot')"""
_TWICE: Final = """
SELECT end_at, slot, count(*) FROM reads WHERE end_at >= %(first)s AND end_at < %(last)s
GROUP BY end_at, slot HAVING count(*) > 1 ORDER BY 1, 2 LIMIT %(most)s"""
_STAMPLESS: Final = """
SELECT r.end_at, r.n FROM (
    SELECT end_at, count(*) AS n FROM reads WHERE end_at >= %(first)s AND end_at < %(last)s GROUP BY 1) AS r
WHERE NOT EXISTS (SELECT FROM read_stamps s WHERE s.end_at = r.end_at) ORDER BY 1 LIMIT %(most)s"""
_VERSIONS: Final = """
WITH told AS (
    SELECT slot, end_at, version, received_at, superseded_at, false AS current FROM read_versions
    WHERE end_at >= %(first)s AND end_at < %(last)s AND version > 0
    UNION ALL
    SELECT slot, end_at, version, received_at, NULL, true FROM reads
    WHERE end_at >= %(first)s AND end_at < %(last)s AND version > 1
), lined AS (
    SELECT *, lag(version) OVER line AS before, lag(superseded_at) OVER line AS since,
           lead(version) OVER line IS NULL AS last
    FROM told WINDOW line AS (PARTITION BY slot, end_at ORDER BY version, current)
)
SELECT slot, end_at, version, CASE
    WHEN version <> coalesce(before, 0) + 1 THEN format('version %%s follows %%s', version, coalesce(before, 0))
    WHEN last AND NOT current THEN format('version %%s is the last one and not current', version)
    ELSE format('version %%s is of %%s, the one before it ended %%s', version, received_at, since) END
FROM lined WHERE version <> coalesce(before, 0) + 1 OR (last AND NOT current)
   OR (before IS NOT NULL AND since IS DISTINCT FROM received_at)
ORDER BY 1, 2, 3 LIMIT %(most)s"""


async def a_read_exists_once(db: Inspected) -> Findings:
    """No meter has two current reads of one end; where reads are in rows the unique index sees to it."""
    [(kept,)] = await db.find(_INDEX)
    if kept:
        return
    if db.layout is Layout.ROWSTORE:
        yield Unsound(
            "index reads_end_slot", "missing, invalid or not unique", "a valid unique index on reads (end_at, slot)",
            "stop the service, delete the doubled reads named here, CREATE UNIQUE INDEX reads_end_slot ON reads"
            " (end_at, slot)",
        )  # fmt: skip
    async for first, last in db.chunks("reads"):
        for end_at, slot, n in await db.find(_TWICE, first=first, last=last):
            yield Unsound(
                f"read of meter slot {slot} ending {end_at}", f"{n} rows", "1 row",
                "keep the row with the highest version and delete the others, while the service is stopped",
            )  # fmt: skip


async def reads_have_their_stamp(db: Inspected) -> Findings:
    """Every end that a read has is in read_stamps, or queries by meter do not find it."""
    async for first, last in db.chunks("reads"):
        for end_at, n in await db.find(_STAMPLESS, first=first, last=last):
            yield Unsound(
                f"{n} reads ending {end_at}", "no row in read_stamps", "one",
                f"INSERT INTO read_stamps VALUES ('{end_at}')",
            )  # fmt: skip


async def versions_stand_in_a_line(db: Inspected) -> Findings:
    """The versions of a read are 1, 2, 3 and so on, each from when the one before it ended; the last is current."""
    async for first, last in db.chunks("reads"):
        for slot, end_at, _, found in await db.find(_VERSIONS, first=first, last=last):
            yield Unsound(
                f"read of meter slot {slot} ending {end_at}", found,
                "versions from 1 without a gap in reads and read_versions, the last one in reads",
                "the history of this read is damaged: compare with a backup",
            )  # fmt: skip
