"""Invariants of the registry: what rows refer to is there, and who hangs where is one thing at a time.

There are no foreign keys from the hypertables (they deadlock), so this is where their references are checked.
"""

from __future__ import annotations

from typing import Final, LiteralString, NamedTuple

from storage.sound import Findings, Inspected, Unsound


class Reference(NamedTuple):
    """A column that names a meter or transformer; `chunked` by this column, if the table is long."""

    table: LiteralString
    column: LiteralString
    chunked: LiteralString = ""


METERS: Final = (
    Reference("reads", "slot", "end_at"), Reference("read_versions", "slot", "end_at"),
    Reference("events", "slot", "at"), Reference("register_reads", "slot", "at"),
    Reference("register_versions", "slot", "at"), Reference("meter_days", "slot", "day"),
    Reference("register_days", "slot", "day"), Reference("meter_clocks", "slot"),
    Reference("meter_days_owed", "slot"), Reference("estimates_owed", "slot"), Reference("interruptions", "slot"),
    Reference("meter_registers", "slot"), Reference("meter_multipliers", "slot"), Reference("check_meters", "slot"),
    Reference("customer_flexibility", "slot"), Reference("read_edits", "slot"),
)  # fmt: skip
TRANSFORMERS: Final = (
    Reference("transformer_loads", "transformer_id", "window_end"),
    Reference("transformer_load_estimates", "transformer_id", "window_end"),
    Reference("transformer_days", "transformer_id", "day"), Reference("transformer_loads_dirty", "transformer_id"),
    Reference("transformer_forecasts", "transformer_id"), Reference("check_meters", "transformer_id"),
)  # fmt: skip
"""Not transformer_members: it has a row for each number, also of those that were never given."""
MEMBERSHIPS: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("meter_transformers", "slot"), ("transformer_feeders", "transformer_id"), ("meter_links", "slot"),
    ("meter_registers", "slot"), ("check_meters", "slot"), ("meter_multipliers", "slot"),
)  # fmt: skip
_ORPHANS: Final[LiteralString] = (
    "SELECT {column}, n FROM (SELECT {column}, count(*) AS n FROM {table} {where} GROUP BY 1) AS r"
    " WHERE NOT EXISTS (SELECT FROM {parent} p WHERE p.{key} = r.{column}) ORDER BY 1 LIMIT %(most)s"
)
_OVERLAPS: Final[LiteralString] = (
    "SELECT {owner}, valid_from::text, valid_to::text, next::text FROM (SELECT {owner}, valid_from, valid_to,"
    " lead(valid_from) OVER (PARTITION BY {owner} ORDER BY valid_from) AS next FROM {table}) AS t"
    " WHERE next < valid_to ORDER BY 1, 2 LIMIT %(most)s"
)
_INTERRUPTIONS: Final = """
SELECT slot, from_at, to_at, next FROM (
    SELECT *, lead(from_at) OVER (PARTITION BY slot ORDER BY from_at) AS next FROM interruptions) AS i
WHERE next < coalesce(to_at, 'infinity')
  AND next < coalesce((SELECT min(from_at) FROM interruptions_owed), 'infinity')
ORDER BY 1, 2 LIMIT %(most)s"""


async def meters_are_registered(db: Inspected) -> Findings:
    """Every slot that a row carries is a meter's."""
    async for found in _orphans(db, METERS, "meters", "slot", "a meter"):
        yield found


async def transformers_are_registered(db: Inspected) -> Findings:
    """Every transformer_id that a row carries is a transformer's."""
    async for found in _orphans(db, TRANSFORMERS, "transformers", "transformer_id", "a transformer"):
        yield found


async def _orphans(
    db: Inspected, references: tuple[Reference, ...], parent: LiteralString, key: LiteralString, what: str
) -> Findings:
    for one in references:
        query = _ORPHANS.replace("{column}", one.column).replace("{table}", one.table)
        query = query.replace("{parent}", parent).replace("{key}", key)
        rows: list[tuple[int, int]] = []
        if one.chunked:
            here = query.replace("{where}", "WHERE {c} >= %(first)s AND {c} < %(last)s".replace("{c}", one.chunked))
            async for first, last in db.chunks(one.table):
                bounds = (first.date(), last.date()) if one.chunked == "day" else (first, last)
                rows += await db.find(here, first=bounds[0], last=bounds[1])
        else:
            rows = await db.find(query.replace("{where}", ""))
        for number, n in rows:
            yield Unsound(
                f"{one.table}, {one.column} {number}", f"{n} rows, and it is not in {parent}", f"{what} of that number",
                "a registry import never deletes one: restore the row from a backup, or delete what refers to it",
            )  # fmt: skip


async def memberships_do_not_overlap(db: Inspected) -> Findings:
    """At any time a meter has one transformer, link, register and multiplier, a transformer one feeder."""
    for table, owner in MEMBERSHIPS:
        for number, since, until, following in await db.find(
            _OVERLAPS.replace("{table}", table).replace("{owner}", owner)
        ):
            yield Unsound(
                f"{table} of {owner} {number} from {since}", f"until {until}, and the next one from {following}",
                f"until {following} at the latest",
                f"UPDATE {table} SET valid_to of that row, then restart the service",
            )  # fmt: skip


async def interruptions_do_not_overlap(db: Inspected) -> Findings:
    """An interruption of a meter has ended when the next one begins; those marked to be written anew are left out."""
    for slot, from_at, to_at, following in await db.find(_INTERRUPTIONS):
        yield Unsound(
            f"interruptions of meter slot {slot} from {from_at}",
            f"until {to_at or 'now'}, and the next one from {following}", f"an end at {following} at the latest",
            "the indices count it twice: INSERT INTO interruptions_owed (asset_kind, asset_id, from_at) a row for its"
            " feeder (or transformer, or the meter itself) and restart the service",
        )  # fmt: skip
