"""meterwatch db: status, url, shell, backup, restore. Only restore starts a database and writes into it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import psycopg
import typer

from meterwatch.backup import backup, for_program, restore
from meterwatch.cli.output import Output, OutputOption, listing
from meterwatch.config import Config, load_config
from meterwatch.errors import StorageUnavailable
from storage.embedded import EmbeddedCluster, PgInstall, cache_dir, data_dir, find_or_provision
from storage.embedded.provision import find_installed

app = typer.Typer(no_args_is_help=True)

TABLES: Final = ("reads", "read_versions", "events", "quarantine", "alarms", "alarm_log", "batches", "meters")
COUNTED_MAX: Final = 100_000
"""Fewer rows are counted, more are estimated."""
EDITION: Final = {
    "apache": "apache: hypertables and dropping of old chunks; compression is absent and not used",
    "timescale": "timescale: compression is available; the service uses hypertables and dropping of old chunks only",
}


def embedded(config: Config) -> tuple[Path, PgInstall | None]:
    """Data directory of the embedded database, and its programs if they are there."""
    return config.database.data_dir or data_dir(), find_installed(cache_dir())


def dsn_of(config: Config) -> str:
    """URL of the database in use; StorageUnavailable if it is the embedded one and it does not run."""
    if config.database.url is not None:
        return config.database.url.get_secret_value()
    directory, install = embedded(config)
    url = None if install is None else EmbeddedCluster(directory, install).running_dsn()
    if url is None:
        raise StorageUnavailable(
            f"the embedded database in {directory} is not running; start the service (meterwatch serve), which runs it"
        )
    return url


@app.command()
def url(context: typer.Context) -> None:
    """Print the URL for psql and other programs; it contains the password if there is one."""
    print(dsn_of(load_config(context.obj)))


@app.command()
def shell(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="For psql, after --, such as: -- -c 'TABLE meters'")
    ] = None,
) -> None:
    """Open psql on the database."""
    config = load_config(context.obj)
    program = _program(config, "psql")
    where, environment = for_program(dsn_of(config))
    os.execve(program, [program, where, *(arguments or ())], environment)


def _program(config: Config, name: str) -> str:
    """A program of PostgreSQL: the embedded database's own, else the system's."""
    _, install = embedded(config)
    own = None if install is None else install.program(name)
    found = own if own is not None and Path(own).exists() else shutil.which(name)
    if found is None:
        raise StorageUnavailable(
            f"{name} is not installed; install postgresql-client, or use other programs with db url"
        )
    return found


@app.command("backup")
def back_up(
    context: typer.Context, path: Annotated[Path, typer.Argument(help="A new file, such as meterwatch.dump")]
) -> None:
    """Write the whole database into a file, while the service runs."""
    config = load_config(context.obj)
    size = backup(dsn_of(config), _program(config, "pg_dump"), path, note)
    print(f"{path}: {size:,} bytes")


@app.command("restore")
def bring_back(
    context: typer.Context, path: Annotated[Path, typer.Argument(help="A file that db backup has written")]
) -> None:
    """Fill an empty database from a backup, while no service runs: the URL's, or a new embedded one."""
    config = load_config(context.obj)
    if config.database.url is not None:
        restore(dsn_of(config), _program(config, "pg_restore"), path, note)
    else:
        directory = config.database.data_dir or data_dir()
        with EmbeddedCluster(directory, find_or_provision(note)) as cluster:
            restore(cluster.dsn, _program(config, "pg_restore"), path, note)
    print("restored; start the service and run: meterwatch doctor")


@app.command()
def status(context: typer.Context, output: OutputOption = Output.table) -> None:
    """Show versions, edition, sizes and rows."""
    with psycopg.connect(dsn_of(load_config(context.obj)), connect_timeout=10, autocommit=True) as connection:
        rows = [{"what": what, "value": value} for what, value in facts(connection)]
    listing(rows, ("what", "value"), output)


def note(text: str) -> None:
    print(text, file=sys.stderr)


def facts(connection: psycopg.Connection[Any]) -> list[tuple[str, Any]]:
    """What `db status` shows, as (name, value)."""
    edition = one(connection, "SELECT current_setting('timescaledb.license', true)")
    found: list[tuple[str, Any]] = [
        ("postgresql", one(connection, "SHOW server_version")),
        ("timescaledb", one(connection, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")),
        ("edition", EDITION.get(str(edition), str(edition))),
        ("schema version", schema_version(connection)),
        ("size, bytes", one(connection, "SELECT pg_database_size(current_database())")),
    ]
    for table in TABLES:
        if one(connection, f"SELECT to_regclass('public.{table}')") is not None:
            rows = one(connection, f"SELECT approximate_row_count('{table}')")
            if rows < COUNTED_MAX:  # the estimate is 0 until the table has been analysed
                rows = one(connection, f"SELECT count(*) FROM (SELECT FROM {table} LIMIT {COUNTED_MAX}) AS counted")
            found.append((f"{table}, rows", f"{rows} or more" if rows == COUNTED_MAX else rows))
    return found


def schema_version(connection: psycopg.Connection[Any]) -> int:
    """Highest migration applied; 0 in an empty database."""
    if one(connection, "SELECT to_regclass('public.schema_version')") is None:
        return 0
    return int(one(connection, "SELECT coalesce(max(version), 0) FROM schema_version"))


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    """First value of the first row; None if there is none."""
    row = connection.execute(query.encode()).fetchone()
    return None if row is None else row[0]
