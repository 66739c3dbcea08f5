"""The registry in the database: import of parsed files, the topology for the rules, lists of assets.

An import is one transaction under an advisory lock: rows are copied into temporary tables, compared and merged there
with one statement per kind, so 100 000 meters are a few seconds and a second import of the same files writes nothing.
Ids are given out here, dense and in name order; a check or a refused import uses none up. Memberships are
effective-dated: a change closes the open row at valid_from and opens a new one there.
Promises: all or nothing, with every error placed in its file. Refuses to know CSV (meterwatch.registry_csv).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
import psycopg_pool
from psycopg import sql

from meterwatch.registry_csv import KINDS, Parsed, Problem
from meterwatch.topology import Topology
from storage.arrays import moment
from storage.faults import storage_faults
from storage.registry_sql import ASSET_QUERIES, ASSETS_OF, MEMBERSHIPS, MERGES, Membership, tables_of
from storage.snapshot import snapshot
from storage.topology import load_topology

IMPORT_LOCK: Final = 0x6D657472  # "metr": one import at a time per database
BLOCK_ROWS: Final = 2000
PAGE_MAX: Final = 10_000


class Count(NamedTuple):
    """Rows of one kind in an import; changed counts a row whose values or membership differ."""

    added: int
    changed: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Imported:
    """Outcome of an import: counts by kind, or the problems because of which nothing was written."""

    counts: dict[str, Count] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class AssetRow(NamedTuple):
    """One asset as ListAssets shows it; attributes by the names of the CSV columns."""

    kind: str
    name: str
    parent: str
    attributes: dict[str, str]


class RegistryStore:
    """Writes and reads the registry. Every call takes one connection of the pool for its duration."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def import_files(self, parsed: Parsed, valid_from_us: int, dry_run: bool = False) -> Imported:
        """Merge the parsed files in one transaction; with dry_run count only. Raises StorageUnavailable."""
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction(force_rollback=dry_run):
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (IMPORT_LOCK,))
                problems = await _unknown_references(connection, parsed)
                if problems:
                    return Imported(problems=problems)
                outcome = Imported()
                try:
                    async with connection.transaction():
                        for kind in KINDS:
                            if kind in parsed.kinds:
                                outcome.counts[kind] = await _merge(connection, kind, parsed, valid_from_us)
                        await _refuse_no_service(connection, parsed)
                except _ImportRefused as refused:
                    return Imported(problems=refused.problems)
                if not dry_run:
                    await _advance_identities(connection, parsed)
                    if any(count.added or count.changed for count in outcome.counts.values()):
                        await _take_statistics(connection, parsed)
        return outcome

    async def load_topology(self, now_us: int) -> Topology:
        """The registry as arrays, memberships as of now_us. Raises StorageUnavailable."""
        with storage_faults():
            async with snapshot(self._pool) as connections:
                return await load_topology(connections, now_us)

    async def list_assets(
        self, kind: str, parent: str = "", after_name: str = "", limit: int = 1000, districts: Collection[str] = ()
    ) -> list[AssetRow]:
        """Up to `limit` assets by name (byte order) after `after_name`, below `parent` if given, as last imported.

        districts: only assets of these; of kinds that belong to none, none. Left out: all.

        KeyError for an unknown kind. Raises StorageUnavailable.
        """
        query = sql.SQL(
            "SELECT * FROM ({}) AS asset WHERE {} AND (%(parent)s::text = '' OR parent = %(parent)s)"
            ' AND name COLLATE "C" > %(after)s ORDER BY name COLLATE "C" LIMIT %(limit)s'
        ).format(sql.SQL(ASSET_QUERIES[kind]), sql.SQL(ASSETS_OF[kind] if districts else "true"))
        parameters = {"parent": parent, "after": after_name, "limit": limit, "districts": sorted(districts)}
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(query, parameters)
                columns = [column.name for column in cursor.description or ()]
                rows = await cursor.fetchall()
        return [
            AssetRow(kind, row[0], row[1], {n: _plain(v) for n, v in zip(columns[2:], row[2:], strict=True)})
            for row in rows
        ]


class _ImportRefused(Exception):
    """Rolls the transaction back."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__()
        self.problems = problems


async def _unknown_references(connection: psycopg.AsyncConnection[Any], parsed: Parsed) -> list[Problem]:
    """The problems of the files plus one for each reference to what neither they nor the database name."""
    missing: dict[str, set[str]] = {}
    for kind in KINDS:
        asked = await asyncio.to_thread(_references, parsed, kind)
        if asked and kind not in parsed.unreadable:
            query = sql.SQL("SELECT name FROM unnest(%s::text[]) AS name EXCEPT SELECT {} FROM {}").format(
                sql.Identifier(MERGES[kind].name), sql.Identifier(MERGES[kind].table)
            )
            cursor = await connection.execute(query, (sorted(asked),))
            missing[kind] = {row[0] for row in await cursor.fetchall()}
    await asyncio.to_thread(_report_missing, parsed, missing)
    return parsed.problems


def _references(parsed: Parsed, kind: str) -> set[str]:
    """Names of that kind which rows refer to and no file names."""
    asked: set[str] = set()
    for other, shape in KINDS.items():
        for column, target in shape.references.items():
            if target == kind:
                asked.update(name for row in parsed.rows[other] if (name := getattr(row, column)) is not None)
    return asked - parsed.named[kind].keys()


def _report_missing(parsed: Parsed, missing: dict[str, set[str]]) -> None:
    for kind, shape in KINDS.items():
        for column, target in shape.references.items():
            unknown = missing.get(target)
            if not unknown:
                continue
            for row, (file, line) in zip(parsed.rows[kind], parsed.where[kind], strict=True):
                name = getattr(row, column)
                if name in unknown:
                    message = f"{column} {name!r} arrived; one in {target} or in the registry was expected"
                    parsed.report(file, line, f"{message}; add it to {target}, or correct the name")


async def _refuse_no_service(connection: psycopg.AsyncConnection[Any], parsed: Parsed) -> None:
    """Refuse meters that would be retired before they are installed."""
    if not {"meters", "service_times"} & set(parsed.kinds):
        return
    cursor = await connection.execute(
        "SELECT meter, installed_at, retired_at FROM meters WHERE retired_at <= installed_at ORDER BY meter LIMIT 200"
    )
    problems = [
        Problem(
            *(parsed.named["service_times"].get(meter) or parsed.named["meters"].get(meter) or ("meters", 1)),
            f"meter {meter!r} would be in service from {installed.isoformat()} to {retired.isoformat()}; an end after"
            " the beginning was expected; correct installed_at, retired_at or installed_on",
        )
        for meter, installed, retired in await cursor.fetchall()
    ]
    if problems:
        raise _ImportRefused(problems)


async def _merge(connection: psycopg.AsyncConnection[Any], kind: str, parsed: Parsed, valid_from_us: int) -> Count:
    """Bring one kind and its memberships to what the files say."""
    merge = MERGES[kind]
    values = [sql.Identifier(name) for name in merge.values]
    names: dict[str, sql.Composable] = {
        "table": sql.Identifier(merge.table),
        "key": sql.Identifier(merge.key),
        "name": sql.Identifier(merge.name),
        "source": sql.SQL(merge.source),
        "values": sql.SQL(", ").join(values),
        "old": _row_of("t", merge.values),
        "new": _row_of("s", merge.values),
        "copied": sql.SQL(merge.copied),
    }

    async def run(text: LiteralString, parameters: tuple[Any, ...] = ()) -> psycopg.AsyncCursor[Any]:
        return await connection.execute(sql.SQL(text).format(**names), parameters or None, prepare=False)

    await run("CREATE TEMP TABLE arrived ({copied}, file text, line integer) ON COMMIT DROP")
    async with connection.cursor() as cursor, cursor.copy("COPY arrived FROM STDIN") as copy:
        for first in range(0, len(parsed.rows[kind]), BLOCK_ROWS):
            await copy.write(await asyncio.to_thread(_block, parsed, kind, first))
    await run("ANALYZE arrived")
    await run(
        "CREATE TEMP TABLE staged ON COMMIT DROP AS SELECT s.*, t.{key} IS NULL AS added,"
        " t.{key} IS NOT NULL AND ({old}) IS DISTINCT FROM ({new}) AS changed,"
        " coalesce(t.{key}, (SELECT coalesce(max({key}), 0) FROM {table}) + (row_number() OVER"
        ' (PARTITION BY t.{key} IS NULL ORDER BY s.{name} COLLATE "C"))::integer) AS id'
        " FROM ({source}) AS s LEFT JOIN {table} t ON t.{name} = s.{name}"
    )
    await run("ANALYZE staged")
    if values:
        await run(
            "INSERT INTO {table} ({key}, {name}, {values}) SELECT s.id, s.{name}, {new} FROM staged s WHERE s.added"
            " ORDER BY s.id"
        )
        names["assign"] = sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(value) for value in values)
        await run("UPDATE {table} t SET {assign} FROM staged s WHERE t.{key} = s.id AND s.changed")
    await run("CREATE TEMP TABLE touched ON COMMIT DROP AS SELECT id FROM staged WHERE changed")
    for membership in MEMBERSHIPS.get(kind, ()):
        await _move(connection, membership, merge.name, valid_from_us)
    cursor = await run(
        "SELECT count(*) FILTER (WHERE added), count(*) FILTER (WHERE NOT added AND id IN (SELECT id FROM touched)),"
        " count(*) FROM staged"
    )
    added, changed, rows = await cursor.fetchone() or (0, 0, 0)
    await run("DROP TABLE arrived, staged, touched")
    return Count(added, changed, rows - added - changed)


async def _move(
    connection: psycopg.AsyncConnection[Any], membership: Membership, name: LiteralString, valid_from_us: int
) -> None:
    """Close memberships that changed at valid_from and open the new ones there.

    A membership that began at valid_from, or the only one and later, is corrected in place. A change before the
    latest one would rewrite history and is refused.
    """
    values = [sql.Identifier(value) for value in membership.values]
    names: dict[str, sql.Composable] = {
        "table": sql.Identifier(membership.table),
        "owner": sql.Identifier(membership.owner),
        "name": sql.Identifier(name),
        "values": sql.SQL(", ").join(values),
        "old": sql.SQL(", ").join(_comparable("o", value) for value in membership.values),
        "new": sql.SQL(", ").join(_comparable("s", value) for value in membership.values),
        "assign": sql.SQL(", ").join(sql.SQL("{0} = m.{0}").format(value) for value in values),
        "moved": sql.SQL(", ").join(sql.SQL("s.{}").format(value) for value in values),
        "first_from": sql.SQL(membership.first_from),
    }
    at = moment(valid_from_us)

    async def run(text: LiteralString, *parameters: Any) -> psycopg.AsyncCursor[Any]:
        return await connection.execute(sql.SQL(text).format(**names), parameters or None, prepare=False)

    await run(
        "CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT s.id, s.{name} AS name, {moved}, s.file, s.line,"
        " num_nonnulls({new}) = 0 AS none, {first_from} AS first_from, o.valid_from AS open_from, h.ended, h.rows"
        " FROM staged s LEFT JOIN {table} o ON o.{owner} = s.id AND o.valid_to = 'infinity'"
        " LEFT JOIN (SELECT {owner} AS id, max(valid_to) AS ended, count(*) AS rows FROM {table} GROUP BY {owner}) AS h"
        " ON h.id = s.id WHERE ({old}) IS DISTINCT FROM ({new})"
    )
    cursor = await run(
        "SELECT file, line, name, coalesce(open_from, ended) FROM moved WHERE (open_from > %s AND rows > 1)"
        " OR (open_from IS NULL AND ended > %s) ORDER BY file, line LIMIT 200",
        at,
        at,
    )
    late = await cursor.fetchall()
    if late:
        raise _ImportRefused(
            [
                Problem(
                    file,
                    line,
                    f"{' and '.join(membership.values)} of {asset!r} would change at {at.isoformat()}, but changed at"
                    f" {since.isoformat()} already; a later time was expected; give valid_from after that",
                )
                for file, line, asset, since in late
            ]
        )
    if membership.table == "meter_transformers":
        await run(_LOADS_DIRTY, at, at)
    await run(
        "UPDATE {table} t SET {assign} FROM moved m WHERE NOT m.none AND t.{owner} = m.id"
        " AND t.valid_from = m.open_from AND m.open_from >= %s",
        at,
    )
    await run(
        "DELETE FROM {table} t USING moved m WHERE m.none AND t.{owner} = m.id AND t.valid_from = m.open_from"
        " AND m.open_from >= %s",
        at,
    )
    await run(
        "UPDATE {table} t SET valid_to = %s FROM moved m WHERE t.{owner} = m.id AND t.valid_from = m.open_from"
        " AND m.open_from < %s",
        at,
        at,
    )
    await run(
        "INSERT INTO {table} ({owner}, {values}, valid_from) SELECT id, {values},"
        " coalesce(CASE WHEN ended IS NULL THEN first_from END, %s) FROM moved"
        " WHERE NOT none AND (open_from IS NULL OR open_from < %s) ORDER BY id",
        at,
        at,
    )
    await run("INSERT INTO touched SELECT id FROM moved")
    await run("DROP TABLE moved")


_LOADS_DIRTY: Final[LiteralString] = """
WITH since AS (
    SELECT m.id, m.transformer_id, greatest(
        CASE WHEN m.open_from >= %s THEN m.open_from WHEN m.open_from IS NULL AND m.ended IS NULL THEN m.first_from
             ELSE %s END, (SELECT min(end_at) FROM read_stamps)) AS from_at
    FROM moved m JOIN staged s ON s.id = m.id WHERE NOT s.added)
INSERT INTO transformer_loads_dirty (transformer_id, from_at)
SELECT transformer_id, min(from_at) FROM (
    SELECT transformer_id, from_at FROM since WHERE transformer_id IS NOT NULL
    UNION ALL
    SELECT t.transformer_id, s.from_at
    FROM since s JOIN meter_transformers t ON t.slot = s.id AND t.valid_to = 'infinity'
) AS changed GROUP BY transformer_id"""
"""Whose loads a change of meters that are there already makes others, the transformer left and the one entered, and
from when on."""


def _row_of(alias: LiteralString, columns: Sequence[LiteralString]) -> sql.Composable:
    """These columns of a table; of none something that never changes."""
    if not columns:
        return sql.SQL("true")
    return sql.SQL(", ").join(sql.SQL("{}.{}").format(sql.SQL(alias), sql.Identifier(column)) for column in columns)


def _comparable(alias: LiteralString, column: LiteralString) -> sql.Composed:
    """A membership value with no value as NULL."""
    whole = sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(column))
    return sql.SQL(_NONE[column]).format(whole) if column in _NONE else whole


_NONE: Final[dict[str, LiteralString]] = {"comm_mode": "nullif({}, '')", "multiplier": "nullif({}, 1)"}
"""Membership columns in which a value stands for none."""


async def _advance_identities(connection: psycopg.AsyncConnection[Any], parsed: Parsed) -> None:
    """Let rows added by hand continue after ours."""
    for kind in parsed.kinds:
        merge = MERGES[kind]
        query = sql.SQL(
            "SELECT setval(pg_get_serial_sequence({table_name}, {key_name}), max({key})) FROM {table}"
            " HAVING max({key}) IS NOT NULL"
        ).format(
            table_name=sql.Literal(merge.table),
            key_name=sql.Literal(merge.key),
            key=sql.Identifier(merge.key),
            table=sql.Identifier(merge.table),
        )
        await connection.execute(query)


async def _take_statistics(connection: psycopg.AsyncConnection[Any], parsed: Parsed) -> None:
    """Let PostgreSQL know what is there now, not in a minute: until then every question is planned for what was."""
    tables = map(sql.Identifier, tables_of(parsed.kinds))
    await connection.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(tables)))


def _block(parsed: Parsed, kind: str, first: int) -> bytes:
    """BLOCK_ROWS rows in COPY's text format."""
    rows = parsed.rows[kind][first : first + BLOCK_ROWS]
    where = parsed.where[kind][first : first + BLOCK_ROWS]
    return b"".join(_line((*row, *place)) for row, place in zip(rows, where, strict=True))


def _line(values: Iterable[object]) -> bytes:
    return ("\t".join(map(_copied, values)) + "\n").encode()


def _copied(value: object) -> str:
    if value is None:
        return r"\N"
    if isinstance(value, date):
        return f"{value.isoformat()} 00:00:00+00"
    text = str(value)
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        text = text.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
    return text


def _plain(value: object) -> str:
    if value is None:
        return ""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
