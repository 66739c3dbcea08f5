"""A database that cannot hold every name is refused at the start, in a sentence."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from databases import Databases
from psycopg import sql

from meterwatch.errors import ConfigError
from storage.settings import check_settings


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def other(request: pytest.FixtureRequest, dsn: str, cluster: Databases) -> Iterator[tuple[str, str]]:
    """Encoding, and a database that has it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    made = "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C' LOCALE_PROVIDER libc"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL(made).format(sql.Identifier(name), sql.Literal(request.param)))
    yield request.param, cluster.dsn_of(name)
    cluster.drop_database(name)


def test_a_database_of_another_encoding_than_utf8_is_refused(other: tuple[str, str]) -> None:
    encoding, dsn = other
    with pytest.raises(ConfigError) as refused:
        check_settings(dsn)
    [problem] = refused.value.problems
    assert problem.startswith(f"the encoding of the database is {encoding};")
    assert "ENCODING 'UTF8'" in problem


def test_what_a_sound_database_says_is_text(dsn: str) -> None:
    found = check_settings(dsn)
    assert (found["server_encoding"], found["fsync"]) == ("UTF8", "on")
