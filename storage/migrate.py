"""Bring a database to the schema of this code: storage/migrations/NNNN_name.sql, in order, each in one transaction.

Two services migrating at once: one waits for the other (advisory lock, released by PostgreSQL when its holder dies,
so a kill leaves nothing to break by hand, which is why this is not a migration library with a lock table). A database
newer than the code is refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg

from meterwatch.errors import ConfigError

DIRECTORY = Path(__file__).with_name("migrations")
LOCK = 0x6D657465  # "mete": one key for everything that must happen once per database


def migrations() -> list[tuple[int, str, str]]:
    """(version, file name, SQL) in order."""
    return [(int(path.name[:4]), path.name, path.read_text()) for path in sorted(DIRECTORY.glob("*.sql"))]


def migrate(dsn: str) -> int:
    """Apply what is missing; return the version reached. ConfigError if the database is newer or was altered."""
    known = migrations()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, file text NOT NULL,"
            " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied: dict[int, str] = dict(connection.execute("SELECT version, sha256 FROM schema_version").fetchall())
        newest = max(applied, default=0)
        if newest > known[-1][0]:
            raise ConfigError(
                [
                    f"the database has schema version {newest}, this meterwatch knows {known[-1][0]}: "
                    "run the newer meterwatch, or give another database"
                ]
            )
        for version, name, sql in known:
            digest = hashlib.sha256(sql.encode()).hexdigest()
            if version not in applied:
                with connection.transaction():
                    connection.execute(sql.encode())
                    connection.execute(
                        "INSERT INTO schema_version (version, file, sha256) VALUES (%s, %s, %s)",
                        (version, name, digest),
                    )
            elif applied[version] != digest:
                raise ConfigError([f"migration {name} was changed after it was applied: restore the file"])
        return known[-1][0]
