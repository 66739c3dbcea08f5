"""Where the tests get their databases: a private embedded cluster, or the server that a URL names.

METERWATCH_TEST_DATABASE_URL: a TimescaleDB (2.11 or later) whose user may create databases; every test database is made
and dropped there. Where it is the community edition the reads of the service are in the columnstore. Tests that stop or
kill the database itself keep to the embedded one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


class Databases(Protocol):
    """A server that databases can be made on."""

    def create_database(self, name: str) -> None: ...
    def dsn_of(self, database: str) -> str: ...
    def drop_database(self, name: str) -> None: ...


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
            yield NamedServer(url)
        return
    path = Path(tempfile.mkdtemp(prefix="meterwatch-test-", dir="/tmp"))  # as root PostgreSQL runs as another user
    with EmbeddedCluster(path, find_or_provision(print)) as running:
        yield running
    shutil.rmtree(path, ignore_errors=True)


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
