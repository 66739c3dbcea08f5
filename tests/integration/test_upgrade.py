"""An older database with data in it: the first start of this code brings it here, loses nothing of it and goes on."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import Databases
from psycopg import sql
from served import fresh_database
from service_process import ServiceProcess, until
from test_sound import live, verdicts_of

from meterwatch.client import HeadEnd, import_registry
from meterwatch.clock import US
from meterwatch.devtools.torture.town import HEAD_ENDS, METER, METERS, START_US, STEP_S, end_us, registry
from storage import migrate as module

START = datetime.fromtimestamp(START_US // US, UTC)
STEPS = 132
THEN = (1, 9, 31)
"""Schema versions: the first; with the index by end and all checks; with audit log and readers."""
GIVEN = (
    "feeders", "transformers", "head_ends", "concentrators", "meters", "meter_transformers", "meter_links", "batches",
    "reads", "read_versions", "events", "quarantine", "register_reads", "register_versions", "alarm_log",
)  # fmt: skip
"""What nothing can make anew: it stays row for row."""
ALARMS = "SELECT alarm_id, rule, asset_kind, asset_id, state, onset_at, raised_at, cleared_at FROM alarms"


def tables(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """Columns that can be written, by table."""
    found: dict[str, list[str]] = {}
    for table, column in connection.execute(
        "SELECT c.table_name, c.column_name FROM information_schema.columns c JOIN information_schema.tables"
        " USING (table_schema, table_name) WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        " AND is_generated = 'NEVER' AND table_name <> 'schema_version' ORDER BY 1, ordinal_position"
    ):
        found.setdefault(table, []).append(column)
    return found


def chosen(table: str, columns: list[str]) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table))


def rows(connection: psycopg.Connection[Any], table: str, columns: list[str]) -> Counter[str]:
    of = sql.SQL("SELECT one::text FROM ({}) AS one").format(chosen(table, columns))
    return Counter(row for (row,) in connection.execute(of))


def copy(source: psycopg.Connection[Any], target: psycopg.Connection[Any]) -> None:
    """What the newer database holds and the older one has a place for, as it was or would have been then."""
    new = tables(source)
    target.execute("SET session_replication_role = replica")  # tables in any order
    for table, columns in tables(target).items():
        both = [column for column in columns if column in new.get(table, ())]
        if not both:
            continue
        target.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))  # what a migration put there
        into = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, both))
        )
        with (
            source.cursor().copy(sql.SQL("COPY ({}) TO STDOUT").format(chosen(table, both))) as out,
            target.cursor().copy(into) as back,
        ):
            for data in out:
                back.write(data)
    target.execute("SET session_replication_role = origin")
    then = tables(target)
    fields = [*then["alarms"], *(name.removesuffix("_at") + "_us" for name in then["alarms"] if name.endswith("_at"))]
    target.execute(  # as the code of then wrote it
        "UPDATE alarm_log SET alarm = (SELECT jsonb_object_agg(key, value) FROM jsonb_each(alarm) WHERE key = ANY(%s))",
        (fields,),
    )
    if "register_reads" not in then:
        target.execute("DELETE FROM batches WHERE kind = 3")
    for table, column in target.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND is_identity = 'YES'"
    ).fetchall():
        names = {"table": sql.Identifier(table), "column": sql.Identifier(column), "name": sql.Literal(table),
                 "number": sql.Literal(column)}  # fmt: skip
        target.execute(
            sql.SQL(
                "SELECT setval(pg_get_serial_sequence({name}, {number}),"
                " (SELECT coalesce(max({column}), 0) + 1 FROM {table}))"
            ).format(**names)
        )


@pytest.fixture(scope="module")
def lived(cluster: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of this code, after a day and a half of a town."""
    with fresh_database(cluster) as dsn:
        with ServiceProcess(dsn, START, tmp_path_factory.mktemp("lived") / "service.log") as process:
            process.start()
            answer = import_registry(process.address, registry())
            assert not answer.error, answer.error
            live(process.address)
            with psycopg.connect(dsn, autocommit=True) as connection:
                judged = "SELECT count(*) >= %s FROM meter_days"
                until(lambda: connection.execute(judged, (METERS,)).fetchone() == (True,), "the first day is judged")
        yield dsn


@pytest.mark.parametrize("version", THEN)
async def test_a_database_of_an_older_schema_is_brought_here_with_all_it_holds(
    cluster: Databases, lived: str, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    cluster.create_database(name)
    dsn = cluster.dsn_of(name)
    every = module.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(module, "migrations", lambda: [one for one in every if one[0] <= version])
        assert module.migrate(dsn) == version
    with psycopg.connect(lived) as source, psycopg.connect(dsn, autocommit=True) as old:
        copy(source, old)
        there = tables(old)
        given = {table: rows(old, table, there[table]) for table in GIVEN if table in there}
        alarms = sorted(old.execute(ALARMS).fetchall())
    assert all(given[table] for table in ("meters", "batches", "reads", "read_versions", "events", "alarm_log"))
    with ServiceProcess(dsn, START, tmp_path / "service.log") as process:
        process.start()
        with psycopg.connect(dsn, autocommit=True) as new:
            reached = new.execute("SELECT max(version) FROM schema_version").fetchone()
            assert reached == (every[-1][0],)
            for table, before in given.items():
                assert not before - rows(new, table, there[table]), f"{table} has lost something"
            assert sorted(new.execute(ALARMS).fetchall()) == alarms
            with HeadEnd(process.address, HEAD_ENDS[0], 2) as head_end:
                head_end.send_columns(METER[:2], np.arange(2), np.full(2, end_us(STEPS)), STEP_S, import_wh=[5, 6])
                assert head_end.flush().accepted == 2
            until(lambda: new.execute("SELECT count(*) FROM meter_days_owed").fetchone() == (0,), "days are judged")
            until(lambda: new.execute("SELECT count(*) FROM interruptions_owed").fetchone() == (0,), "they are written")
        verdicts = await verdicts_of(dsn)
        assert {name: verdict.found for name, verdict in verdicts.items() if verdict.found} == {}
    cluster.drop_database(name)
