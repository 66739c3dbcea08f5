"""Register reads are stored once; the later arrival wins and the old value stays readable; real database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_writer_faults import break_commits

from meterwatch.batch import Rejects
from meterwatch.errors import StorageUnavailable
from meterwatch.registers import LOOKBACK_US, RegisterBatch, RegisterChange, RegisterReads
from storage.writer import Writer

NOW_US = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
Row = tuple[int, int, int, int]
"""slot, hour, register, Wh"""


@pytest.fixture
def writer(dsn: str) -> Iterator[Writer]:
    empty(dsn)
    made = Writer(dsn, {})
    yield made
    made.close()


def empty(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in ("register_reads", "register_versions", "batches"):
            connection.execute(f"TRUNCATE {table}")


def request(seq: int, rows: list[Row]) -> RegisterBatch:
    table = np.array(rows, np.int64).reshape(-1, 4)
    reads = RegisterReads(
        table[:, 0].astype(np.int32), NOW_US + table[:, 1] * HOUR_US, table[:, 2].astype(np.int16), table[:, 3]
    )
    return RegisterBatch(1, 7, seq, repr(rows).encode(), reads, NO_REJECTS, 0, len(rows))


def stored(dsn: str, table: str = "register_reads") -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT slot, ((extract(epoch FROM at) * 1000000)::bigint - %s) / %s, register, value_wh, version"
            f" FROM {table} ORDER BY 1, 2, 3, version",
            (NOW_US, HOUR_US),
        ).fetchall()


def touched(change: RegisterChange) -> set[tuple[int, int]]:
    return {(s, (at - NOW_US) // HOUR_US) for s, at in zip(change.slot.tolist(), change.at_us.tolist(), strict=True)}


def test_the_same_request_again_has_the_same_answer_and_writes_nothing(writer: Writer, dsn: str) -> None:
    first, change = writer.write_registers(request(1, [(1, 0, 1, 5), (1, 0, 2, 6)]), NOW_US)
    again, nothing = writer.write_registers(request(1, [(1, 0, 1, 5), (1, 0, 2, 6)]), NOW_US + 1)
    assert (first.accepted, first.versions, first.duplicates, first.replayed) == (2, 0, 0, False)
    assert (again.accepted, again.versions, again.duplicates, again.replayed) == (2, 0, 0, True)
    assert touched(change) == {(1, 0)}
    assert touched(nothing) == set()
    other, _ = writer.write_registers(request(1, [(1, 0, 1, 7)]), NOW_US)
    assert other.reused
    assert stored(dsn) == [(1, 0, 1, 5, 1), (1, 0, 2, 6, 1)]


def test_the_later_value_is_current_and_the_one_before_it_is_kept(writer: Writer, dsn: str) -> None:
    writer.write_registers(request(1, [(1, 0, 1, 5)]), NOW_US)
    answer, change = writer.write_registers(request(2, [(1, 0, 1, 8), (1, 1, 1, 9)]), NOW_US + 5)
    assert (answer.accepted, answer.versions, answer.duplicates) == (1, 1, 0)
    assert touched(change) == {(1, 0), (1, 1)}
    assert stored(dsn) == [(1, 0, 1, 8, 2), (1, 1, 1, 9, 1)]
    assert stored(dsn, "register_versions") == [(1, 0, 1, 5, 1)]
    answer, change = writer.write_registers(request(3, [(1, 0, 1, 5)]), NOW_US + 9)  # it was current once
    assert (answer.accepted, answer.versions, answer.duplicates, touched(change)) == (0, 0, 1, set())


def test_with_a_late_read_comes_the_next_one_of_that_register(writer: Writer) -> None:
    writer.write_registers(request(1, [(1, 48, 1, 9), (1, 40, 2, 9), (2, 30, 1, 9)]), NOW_US)
    _, change = writer.write_registers(request(2, [(1, 0, 1, 5)]), NOW_US)
    assert touched(change) == {(1, 0), (1, 48)}
    before = 48 - LOOKBACK_US // HOUR_US
    _, change = writer.write_registers(request(3, [(2, before - 19, 1, 5)]), NOW_US)
    assert touched(change) == {(2, before - 19)}  # longer ago than a register is looked back for


def test_an_answer_lost_in_its_commit_is_told_with_what_it_changed(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks when all is committed and before we know."""
    break_commits(monkeypatch, psycopg.OperationalError("gone"))
    with pytest.raises(StorageUnavailable):
        writer.write_registers(request(1, [(1, 0, 1, 5)]), NOW_US)
    monkeypatch.undo()
    answer, change = writer.write_registers(request(1, [(1, 0, 1, 5)]), NOW_US)
    assert (answer.accepted, answer.replayed, touched(change)) == (1, False, {(1, 0)})
    answer, change = writer.write_registers(request(1, [(1, 0, 1, 5)]), NOW_US)
    assert (answer.replayed, touched(change)) == (True, set())


rows = st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), st.integers(0, 2))
requests = st.lists(st.lists(rows, max_size=5, unique_by=lambda row: row[:3]), min_size=1, max_size=5)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests)
def test_what_is_stored_and_answered_is_what_a_dictionary_says(writer: Writer, dsn: str, sent: list[list[Row]]) -> None:
    empty(dsn)
    current: dict[tuple[int, int, int], list[int]] = {}
    for seq, one in enumerate(sent, 1):
        accepted = versions = 0
        for slot, hour, register, wh in one:
            values = current.setdefault((slot, hour, register), [])
            accepted += not values
            if wh not in values:
                versions += bool(values)
                values.append(wh)
        answer, _ = writer.write_registers(request(seq, one), NOW_US + seq)
        assert (answer.accepted, answer.versions) == (accepted, versions)
        assert answer.accepted + answer.versions + answer.duplicates == len(one)
    assert stored(dsn) == sorted((*key, values[-1], len(values)) for key, values in current.items())
