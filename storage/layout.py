"""How the table reads keeps its rows, decided once, at start: in rows or in the columnstore.

    database.columnstore   TimescaleDB can   reads     ->
    auto                   yes               none         columnstore, from now on
    auto                   yes               in rows      rowstore: what is stored stays as it is
    on                     yes               in rows      columnstore: the days stored so far stay in rows
    on                     no                            ConfigError
    off                    -                 in rows      rowstore
    any but off            yes               columnar     columnstore
    off, or cannot any more                  columnar     ConfigError: nothing would keep a read from being stored twice

"Can" is the community edition from 2.21 on, whose COPY compresses as it comes. Promise: what was decided is in
reads_layout, in the transaction that changes the table, so that a kill leaves one or the other. Needs the lease.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal, LiteralString

import psycopg
import structlog
from psycopg import sql

from meterwatch.errors import ConfigError
from storage.arrays import micros
from storage.columnstore import Columnstore
from storage.faults import storage_faults
from storage.fence import Fence
from storage.known import Known
from storage.reads_table import ReadsTable
from storage.rowstore import Rowstore
from storage.settings import version_of

COLUMNSTORE_MIN: Final = (2, 21)
COMMUNITY: Final = "timescale"
Wish = Literal["auto", "on", "off"]

_log = structlog.get_logger(__name__)


class Layout(StrEnum):
    """As in reads_layout."""

    ROWSTORE = "rowstore"
    COLUMNSTORE = "columnstore"


def decide(wish: Wish, recorded: Layout, version: str, licence: str, *, reads_stored: bool) -> Layout:
    """The table above. ConfigError where it says so."""
    can = licence == COMMUNITY and version_of(version) >= COLUMNSTORE_MIN
    here = f"this is TimescaleDB {version} ({licence} edition)"
    wanted = "the columnstore needs the community edition from 2.21 on"
    if recorded is Layout.COLUMNSTORE:
        if not can:
            raise ConfigError([f"the reads of this database are in the columnstore; {wanted}, {here}"])
        if wish == "off":
            raise ConfigError(
                [
                    "database.columnstore is 'off', but the reads of this database are in the columnstore already; "
                    "set it to 'auto', or give another database"
                ]
            )
        return recorded
    if wish == "on" and not can:
        raise ConfigError([f"database.columnstore is 'on'; {wanted}, {here}; set it to 'auto', or change the database"])
    if wish == "on" or (wish == "auto" and can and not reads_stored):
        return Layout.COLUMNSTORE
    return Layout.ROWSTORE


def open_table(dsn: str, wish: Wish) -> tuple[Layout, ReadsTable]:
    """Decide, bring the table there, and return what writes it. Blocking; a database in rows may need minutes."""
    options = "-c TimeZone=UTC -c lock_timeout=20s"
    with storage_faults(), psycopg.connect(dsn, autocommit=True, options=options) as connection:
        connection.execute("SET client_min_messages = error")
        recorded = Layout(_value(connection, "SELECT layout FROM reads_layout"))
        version = _value(connection, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
        licence = _value(connection, "SELECT coalesce(current_setting('timescaledb.license', true), '')")
        stored = bool(_value(connection, "SELECT EXISTS (SELECT FROM read_stamps)"))  # not of reads: a page may be bad
        layout = decide(wish, recorded, version, licence, reads_stored=stored)
        if layout is Layout.ROWSTORE:
            return layout, Rowstore()
        if layout is not recorded:
            _log.info("reads go into the columnstore from now on", rows_stay_rows=stored)
            with connection.transaction():
                make_columnar(connection)
                connection.execute(
                    "ALTER TABLE reads SET (timescaledb.compress, timescaledb.compress_orderby = 'slot, end_at',"
                    " timescaledb.compress_segmentby = '')"
                )
        return layout, columnar_table(connection)


def make_columnar(connection: psycopg.Connection[Any]) -> None:
    """Give up the unique index, which a COPY that compresses cannot keep; a plain one finds the reads kept in rows."""
    connection.execute("DROP INDEX reads_end_slot")
    connection.execute("CREATE INDEX reads_slot_end ON reads (slot, end_at)")
    connection.execute("UPDATE reads_layout SET layout = 'columnstore'")


def columnar_table(connection: psycopg.Connection[Any]) -> Columnstore:
    """What writes a table without a unique index: knows which reads it holds, and shuts out who wrote it before."""
    fence = Fence.taken_over(connection)  # first: nothing is stored behind it that the horizon does not see
    newest = _value(connection, "SELECT max(end_at) FROM reads")
    direct = _value(
        connection, "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.enable_direct_compress_copy')"
    )
    return Columnstore(Known(0 if newest is None else micros(newest)), fence, direct=bool(direct))


def _value(connection: psycopg.Connection[Any], query: LiteralString) -> Any:
    row = connection.execute(sql.SQL(query)).fetchone()
    assert row is not None
    return row[0]
