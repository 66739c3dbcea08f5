"""The whole database into one file, and back: pg_dump and pg_restore, with what TimescaleDB wants around them.

Promises: a backup is one snapshot and ingestion goes on meanwhile; a file is there whole or not at all, and nobody but
its owner reads it; nothing is restored over anything; the log of alarms has another identity afterwards, so that no
cursor from before the restore is taken for one of after it. Refuses to know what the tables mean: whether the result is
sound `doctor` says.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from meterwatch.errors import ConfigError, StorageUnavailable

LOOK_EVERY_S: Final = 2.0
Say = Callable[[str], None]


def backup(dsn: str, pg_dump: str, path: Path, say: Say) -> int:
    """Write the database into a new file; its size in bytes. ConfigError if the file exists."""
    if path.exists():
        raise ConfigError([f"{path} exists; a new file was expected; name another"])
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)  # before anything is in it: what people consume
    try:
        _run(dsn, [pg_dump, "--format=custom", "--no-owner", f"--file={part}"], lambda: _grown(part, say))
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def restore(dsn: str, pg_restore: str, path: Path, say: Say) -> None:
    """Fill an empty database from a file. ConfigError if there is no file, or tables in the database already.

    The database must run the version of TimescaleDB from which the backup was made; any PostgreSQL from that one's on.
    """
    if not path.is_file():
        raise ConfigError([f"{path} is no file; a backup was expected; name it"])
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
        connection.execute("SET client_min_messages = error")
        row = connection.execute("SELECT to_regclass('public.reads') IS NULL").fetchone()
        if row is None or not row[0]:
            raise ConfigError(["the database holds reads already; an empty one was expected; name another"])
        connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        connection.execute("SELECT timescaledb_pre_restore()")
        try:
            _run(dsn, [pg_restore, "--no-owner", "--exit-on-error", str(path)], lambda: _filled(connection, say))
        finally:
            connection.execute("SELECT timescaledb_post_restore()")
        # what subscribers had after the backup may get other transitions under the same cursors
        connection.execute("UPDATE service_identity SET log_id = gen_random_uuid()")
        say("gathering statistics")
        connection.execute("ANALYZE")


def for_program(dsn: str) -> tuple[str, dict[str, str]]:
    """Where a program of PostgreSQL connects to, and its environment with the password: everybody sees a command."""
    where = conninfo_to_dict(dsn)
    password = where.pop("password", None)
    environment = os.environ | ({"PGPASSWORD": str(password)} if password is not None else {})
    return make_conninfo("", **where), environment


def _run(dsn: str, command: list[str], look: Callable[[], None]) -> None:
    """Run a program of PostgreSQL on the database."""
    where, environment = for_program(dsn)
    command = [*command, f"--dbname={where}"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    _, said = process.communicate(timeout=LOOK_EVERY_S)
                    break
                look()
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        name = Path(command[0]).name
        raise StorageUnavailable(f"{name} failed: {said.strip().splitlines()[-1] if said.strip() else 'no message'}")


def _grown(path: Path, say: Say) -> None:
    if path.exists():
        say(f"{path.stat().st_size / 1e6:,.0f} MB written, compressed")


def _filled(connection: psycopg.Connection[tuple[object, ...]], say: Say) -> None:
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    say(f"{int(str(row[0])) / 1e6:,.0f} MB in the database" if row else "")
