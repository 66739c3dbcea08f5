"""Where the tests get their databases: a private embedded cluster, or the server that a URL names.

METERWATCH_TEST_DATABASE_URL: a TimescaleDB (2.11 or later) whose user may create databases; every test database is made
and dropped there. Where it is the community edition the reads of the service are in the columnstore. Tests that stop or
kill the database itself keep to the embedded one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from storage import columnstore
from storage.embedded import EmbeddedCluster, find_or_provision
from storage.layout import Layout, columnar_table, make_columnar, open_table
from storage.migrate import migrate
from storage.reads_table import ReadsTable
from storage.rowstore import Rowstore

VARIABLE: Final = "METERWATCH_TEST_DATABASE_URL"
PREFIX: Final = "meterwatch-test-"
IN_MEMORY, ON_DISK = Path("/dev/shm"), Path("/tmp")
IN_MEMORY_BYTES_MIN: Final = 8 * 2**30
"""Two clusters with an eighth of it for WAL each, and what the largest tests store."""
LEFT_S: Final = 3600
"""So old a cluster that nobody uses was left by tests that were killed."""


class Server(Protocol):
    """Where databases can be made."""

    def create_database(self, name: str) -> None: ...
    def dsn_of(self, database: str) -> str: ...
    def drop_database(self, name: str) -> None: ...


class Databases:
    """The databases of this run of the tests. Migrating takes a second, copying what is migrated a tenth of that."""

    def __init__(self, server: Server, maintenance: str) -> None:
        """maintenance: URL of the database from which others are copied."""
        self._server = server
        self._maintenance = maintenance
        self._templates: dict[Layout, str] = {}

    def create_database(self, name: str) -> None:
        """Make an empty database with the extension."""
        self._server.create_database(name)

    def dsn_of(self, database: str) -> str:
        return self._server.dsn_of(database)

    def drop_database(self, name: str) -> None:
        self._server.drop_database(name)

    def migrated(self, name: str, layout: Layout = Layout.ROWSTORE) -> str:
        """Make a migrated database; its URL. As if migrated itself: its log has an identity of its own."""
        if layout not in self._templates:
            self._templates[layout] = self._template(layout)
        with psycopg.connect(self._maintenance, autocommit=True) as connection:
            copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(copy.format(sql.Identifier(name), sql.Identifier(self._templates[layout])))
        with psycopg.connect(self.dsn_of(name), autocommit=True) as connection:
            connection.execute("UPDATE service_identity SET log_id = gen_random_uuid(), created_at = now()")
        return self.dsn_of(name)

    def _template(self, layout: Layout) -> str:
        """Make the database that others of this layout are copies of. Nobody can connect to it: a copy needs that."""
        name = f"template_{uuid.uuid4().hex[:12]}"
        self.create_database(name)
        prepared(self.dsn_of(name), layout)
        with psycopg.connect(self._maintenance, autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        return name

    def close(self) -> None:
        """Drop what copies were made of."""
        for name in self._templates.values():
            self.drop_database(name)


class NamedServer:
    """The server of a URL; its database is only used to make others."""

    def __init__(self, url: str) -> None:
        self._url = url

    def create_database(self, name: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(self.dsn_of(name), autocommit=True) as connection:
            connection.execute("SET client_min_messages = error")  # a banner
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")

    def dsn_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{quote(database)}"))

    def drop_database(self, name: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def databases() -> Iterator[Databases]:
    """The server for this run of the tests."""
    if url := os.environ.get(VARIABLE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(columnstore, "DIRECT_ROWS_MIN", 1)  # the tests' batches are small and are to be compressed
            made = Databases(NamedServer(url), url)
            yield made
            made.close()
        return
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_place()))
    try:
        with EmbeddedCluster(path, find_or_provision(print)) as running:
            yield Databases(running, running.dsn_of("postgres"))
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _place() -> Path:
    """In memory where there is room, so that nobody waits for a disk: what kill -9 leaves is the same there, and tests
    that cut the power have clusters of their own. Not TMPDIR: as root PostgreSQL runs as another user, who must get in.
    """
    if not IN_MEMORY.is_dir():
        return ON_DISK
    for left in IN_MEMORY.glob(f"{PREFIX}*/owner.lock"):  # by tests that were killed; memory is not to be lost to them
        with suppress(FileNotFoundError):  # somebody else tidies up
            if time.time() - left.stat().st_mtime > LEFT_S and _free(left):
                shutil.rmtree(left.parent, ignore_errors=True)
    return IN_MEMORY if shutil.disk_usage(IN_MEMORY).free >= IN_MEMORY_BYTES_MIN else ON_DISK


def _free(lock: Path) -> bool:
    """Nobody holds a lock."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def described() -> str:
    """Versions, for the header of the report."""
    if url := os.environ.get(VARIABLE):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = error")
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            found = connection.execute(
                "SELECT current_setting('server_version'), extversion, current_setting('timescaledb.license')"
                " FROM pg_extension WHERE extname = 'timescaledb'"
            ).fetchone()
            assert found is not None
            return f"PostgreSQL {found[0].split()[0]}, TimescaleDB {found[1]} ({found[2]} edition, {VARIABLE})"
    install = find_or_provision(lambda _: None)
    return f"PostgreSQL {install.postgres_version}, TimescaleDB {install.timescaledb_version} ({install.origin})"


def compresses(dsn: str) -> bool:
    """The database has a columnstore that takes a COPY."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT current_setting('timescaledb.license') = 'timescale' AND EXISTS (SELECT FROM pg_settings"
            " WHERE name = 'timescaledb.enable_direct_compress_copy')"
        ).fetchone()
        return bool(row and row[0])


def prepared(dsn: str, layout: Layout) -> None:
    """Migrate a database and give its reads a layout. Without a columnstore the reads stay rows, and nothing keeps one
    from being stored twice but the service: all of its rules apply, only the compression is missing."""
    migrate(dsn)
    if layout is Layout.COLUMNSTORE:
        if compresses(dsn):
            open_table(dsn, "on")
        else:
            with psycopg.connect(dsn) as connection:
                make_columnar(connection)


def table_of(dsn: str) -> ReadsTable:
    """What a service that starts now writes reads with."""
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
        row = connection.execute("SELECT layout FROM reads_layout").fetchone()
        assert row is not None
        return Rowstore() if row[0] == Layout.ROWSTORE else columnar_table(connection)


both_layouts = pytest.mark.parametrize("layout", list(Layout), indirect=True, scope="module")
"""Every test of a module, or one of its own, with the reads in rows and without a unique index."""
