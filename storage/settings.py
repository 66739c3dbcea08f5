"""Is this database one on which an ack may mean durable? Asked at start; a no ends the start with one sentence each."""

from __future__ import annotations

import psycopg
from psycopg import errors as pg

from meterwatch.errors import ConfigError, StorageUnavailable

TIMESCALEDB_MIN = (2, 11)


def check_settings(dsn: str) -> dict[str, str]:
    """Return {setting: value} with timescaledb_version and _license. ConfigError names what must change."""
    try:
        with psycopg.connect(
            dsn, autocommit=True, connect_timeout=10, options="-c synchronous_commit=on"
        ) as connection:
            found: dict[str, str] = dict(
                connection.execute(
                    "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes',"
                    " 'synchronous_commit', 'transaction_read_only', 'server_version', 'timescaledb.license')"
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
    problems = [
        f"{name} is {found[name]}; expected {wanted}, or an ack would not mean durable; change it in the database"
        for name, wanted in (("fsync", "on"), ("full_page_writes", "on"), ("transaction_read_only", "off"))
        if found.get(name) != wanted
    ]
    if found["synchronous_commit"] not in ("on", "remote_apply"):
        problems.append(f"synchronous_commit is {found.get('synchronous_commit')}; expected on or remote_apply")
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
