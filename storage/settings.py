"""Is this database one on which an ack may mean durable? Asked at start, where a no ends the start with one sentence
each, and again of every new connection: settings change while a service runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import psycopg
import structlog
from psycopg import errors as pg

from meterwatch.errors import ConfigError, StorageUnavailable

TIMESCALEDB_MIN = (2, 11)
DURABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply"),
}
"""Settings without which a COMMIT that is reported may be lost, and what they may be."""
_SESSION: Final = "SELECT " + ", ".join(f"current_setting('{name}')" for name in DURABLE)
_log = structlog.get_logger(__name__)


def not_durable(found: Mapping[str, str]) -> list[str]:
    """What of DURABLE is otherwise, a sentence each."""
    return [
        f"{name} is {found.get(name)}; expected {' or '.join(wanted)}, or an ack would not mean durable; change it in "
        "the database"
        for name, wanted in DURABLE.items()
        if found.get(name) not in wanted
    ]


def check_session(connection: psycopg.Connection[Any]) -> None:
    """StorageUnavailable unless a COMMIT of this new connection means durable. Costs a round trip."""
    _durable(connection.execute(_SESSION).fetchone())


async def check_async_session(connection: psycopg.AsyncConnection[Any]) -> None:
    """The same for the event loop: what a pool does with each connection it has made."""
    _durable(await (await connection.execute(_SESSION)).fetchone())


def _durable(row: Any) -> None:
    if problems := not_durable(dict(zip(DURABLE, row, strict=True))):
        _log.error("THE DATABASE WOULD NOT KEEP WHAT IT COMMITS, nothing is written", problems=problems)
        raise StorageUnavailable("the database is set so that a commit may be lost; an operator must set it back", 10.0)


def check_settings(dsn: str) -> dict[str, str]:
    """Return {setting: value} with timescaledb_version and _license. ConfigError names what must change."""
    try:
        with psycopg.connect(
            dsn, autocommit=True, connect_timeout=10, options="-c synchronous_commit=on", client_encoding="utf8"
        ) as connection:
            found: dict[str, str] = dict(
                connection.execute(
                    "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes',"
                    " 'synchronous_commit', 'transaction_read_only', 'server_version', 'server_encoding',"
                    " 'timescaledb.license')"
                ).fetchall()
            )
            connection.execute("SET client_min_messages = warning")
            try:
                connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            except pg.ReadOnlySqlTransaction:
                pass  # told below
            except psycopg.Error as error:
                raise ConfigError(
                    [
                        f"the database has no TimescaleDB ({str(error).splitlines()[0]}); install it there, or leave "
                        "database.url out to use the embedded one"
                    ]
                ) from None
            row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
            license_row = connection.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    except psycopg.OperationalError as error:
        text = str(error).splitlines()[0]
        if "password" in text or "authentication" in text or "does not exist" in text:
            raise ConfigError([f"the database refused the connection: {text}; correct database.url"]) from None
        raise StorageUnavailable(f"the database does not answer: {text}") from None
    problems = not_durable(found)
    if found["transaction_read_only"] != "off":
        problems.append("transaction_read_only is on; expected off: the database is read-only; change it there")
    if found["server_encoding"] != "UTF8":
        problems.append(
            f"the encoding of the database is {found['server_encoding']}; names of all scripts must fit into it; make"
            " it anew: CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'"
        )
    found["timescaledb_version"] = row[0] if row else ""
    found["timescaledb_license"] = license_row[0] if license_row and license_row[0] else ""
    if row and version_of(row[0]) < TIMESCALEDB_MIN:
        problems.append(f"TimescaleDB is {row[0]}; expected at least 2.11; run ALTER EXTENSION timescaledb UPDATE")
    if problems:
        raise ConfigError(problems)
    return found


def version_of(text: str) -> tuple[int, ...]:
    """Major and minor of a version such as 2.29.2 or 2.22.0-dev."""
    return tuple(int(part) for part in text.split(".")[:2])
