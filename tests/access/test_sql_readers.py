"""People with psql who may see some districts: what they see, and that there is no way around it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "of-the-test"
VIEWS = ("my_districts", "my_transformers", "my_meters", "my_reads", "my_loads", "my_alarms")
GRID = """
INSERT INTO transformers (transformer_id, transformer, rated_kva, district)
VALUES (1, 'T-N', 400, 'North'), (2, 'T-S', 400, 'South'), (3, 'T-0', 400, '');
INSERT INTO meters (slot, meter, installed_at)
VALUES (1, 'M-N', '2020-01-01'), (2, 'M-S', '2020-01-01'), (3, 'M-moved', '2020-01-01');
INSERT INTO meter_transformers VALUES (1, 1, '2020-01-01', 'infinity'), (2, 2, '2020-01-01', 'infinity'),
    (3, 1, '2020-01-01', '2026-01-02'), (3, 2, '2026-01-02', 'infinity');
INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version, import_wh)
SELECT at, at, slot, 900, 0, 1, 100 FROM unnest(ARRAY[1, 2, 3]) AS slot,
    unnest(ARRAY['2026-01-01 12:00Z', '2026-01-02 00:00Z', '2026-01-03 12:00Z']::timestamptz[]) AS at;
INSERT INTO transformer_loads (window_end, transformer_id, wh, varh, covered_weight_s, expected_weight_s)
SELECT '2026-01-01 12:00Z', id, 1, 1, 1, 1 FROM unnest(ARRAY[1, 2, 3]) AS id;
INSERT INTO alarms (alarm_id, rule, asset_kind, asset_id, asset, district, state, severity, level, onset_at, raised_at,
    recorded_at, version, seq, summary, evidence)
SELECT 'A-' || d, 'OUTAGE', 'transformer', 1, 'T', d, 'UNACK_ACTIVE', 3, 'L', now(), now(), now(), 1, 1, '', '{}'
FROM unnest(ARRAY['North', 'South', '']) AS d;
"""


@pytest.fixture(scope="module")
def owner(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
        connection.execute(GRID)
        yield connection


@pytest.fixture
def reader(owner: psycopg.Connection) -> Iterator[str]:
    """A role that sees North; roles belong to the whole server, so its name is its own."""
    name = f"reader_{uuid.uuid4().hex[:12]}"
    owner.execute("SELECT make_reader(%s, ARRAY['North'])", (name,))
    owner.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), PASSWORD))
    yield name
    owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


@pytest.fixture
def asking(dsn: str, reader: str) -> Iterator[Any]:
    """SQL as the reader, signed in."""
    with psycopg.connect(dsn, user=reader, password=PASSWORD, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off; SET TimeZone = 'UTC'")  # as he can say himself
        yield lambda query: connection.execute(query).fetchall()


def test_a_reader_sees_its_districts(asking: Any) -> None:
    assert asking("SELECT district FROM my_districts") == [("North",)]
    assert asking("SELECT transformer FROM my_transformers") == [("T-N",)]
    assert asking("SELECT DISTINCT district FROM my_alarms") == [("North",)]
    assert asking("SELECT transformer FROM my_loads") == [("T-N",)]
    assert sorted(asking("SELECT meter FROM my_meters")) == [("M-N",), ("M-moved",)]


def test_a_reader_sees_reads_of_a_meter_for_the_time_it_hung_there(asking: Any) -> None:
    """The interval that ends when it was moved was still measured here."""
    rows = asking("SELECT meter, end_at::text FROM my_reads ORDER BY meter, end_at")
    first, moved, last = "2026-01-01 12:00:00+00", "2026-01-02 00:00:00+00", "2026-01-03 12:00:00+00"
    assert rows == [("M-N", first), ("M-N", moved), ("M-N", last), ("M-moved", first), ("M-moved", moved)]


def test_a_reader_gets_at_no_table_or_view_but_its_own(owner: psycopg.Connection, asking: Any) -> None:
    rows = owner.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'").fetchall()
    names = {name for (name,) in rows}
    assert len(names) > 30
    assert set(VIEWS) <= names
    for name in sorted(names - set(VIEWS)):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            asking(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name)))


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO reader_districts VALUES (session_user, 'South')",
        "UPDATE my_alarms SET note = 'x'",
        "DELETE FROM my_reads",
        "SELECT make_reader(session_user::text, ARRAY['South'])",
        "SELECT * FROM reads_as_of(now())",
        "SELECT * FROM reliability_indices('all', 'month', current_date, current_date + 1)",
        "SET SESSION AUTHORIZATION pg_monitor",
        "SET ROLE pg_read_all_data",
        "SELECT pg_read_file('postgresql.conf')",
        "CREATE TABLE mine (x integer)",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_a_reader_has_no_way_around(asking: Any, query: str) -> None:
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        asking(query)


def test_a_condition_of_the_reader_sees_no_row_of_others(asking: Any) -> None:
    """security_barrier: a condition that tells what it is given is asked after the filter."""
    rows = asking(
        "SELECT asset FROM my_alarms WHERE CASE WHEN district = 'South' THEN 1 / (severity - 3) > 0 ELSE true END"
    )
    assert len(rows) == 1


def test_a_reader_gets_other_districts_and_keeps_nothing_of_the_old(
    owner: psycopg.Connection, reader: str, asking: Any
) -> None:
    owner.execute("SELECT make_reader(%s, ARRAY['South', 'South'])", (reader,))
    assert asking("SELECT DISTINCT district FROM my_alarms") == [("South",)]


@pytest.mark.parametrize("districts", ["'{}'", "NULL", "ARRAY['North', '']", "ARRAY['North', NULL]"])
def test_a_reader_needs_districts_with_names(owner: psycopg.Connection, districts: str) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="needs districts"):
        owner.execute(f"SELECT make_reader('nobody', {districts})")  # type: ignore[arg-type]


def test_a_role_that_is_there_for_something_else_is_left_alone(owner: psycopg.Connection) -> None:
    [(superuser,)] = owner.execute("SELECT session_user").fetchall()
    with pytest.raises(psycopg.errors.DuplicateObject):
        owner.execute("SELECT make_reader(%s, ARRAY['North'])", (superuser,))


def test_a_reader_signs_in_read_only_and_with_a_limit_of_time(dsn: str, reader: str) -> None:
    with psycopg.connect(dsn, user=reader, password=PASSWORD) as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchall() for name in ("transaction_read_only", "statement_timeout")
        ]  # type: ignore[arg-type]
    assert shown == [[("on",)], [("1min",)]]


def test_a_reader_who_takes_a_lock_keeps_no_change_from_the_audit_log(dsn: str, asking: Any) -> None:
    asking("SELECT pg_advisory_lock(1835365473)")  # what the chain was locked with
    with psycopg.connect(dsn) as writing:
        writing.execute(
            "SET lock_timeout = '20s';"
            "INSERT INTO audit_log (at, who, how, method, object, outcome, peer, calls)"
            " VALUES (now(), '', 'local', 'Alarms/Act', 'beside a reader', 'OK', '', 1)"
        )
        held = writing.execute("SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'")
        assert not held.fetchall()  # nothing is locked that a reader may lock
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        asking("SELECT FROM audit_settled FOR KEY SHARE")


def test_as_the_page_says_no_reader_takes_an_advisory_lock(owner: psycopg.Connection, asking: Any) -> None:
    page = (ROOT / "docs" / "access.md").read_text("utf-8")
    [block] = [one for one in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if "advisory" in one]
    asking("SELECT pg_advisory_lock(1), pg_try_advisory_xact_lock_shared(2), pg_advisory_unlock(1)")
    owner.execute(block.replace("meterwatch", owner.info.user))
    for lock in ("pg_advisory_lock(1)", "pg_try_advisory_lock(1, 2)", "pg_advisory_xact_lock_shared(1)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            asking(f"SELECT {lock}")
