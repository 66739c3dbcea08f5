"""What the writer says when the database fails it, and that nothing committed is lost to the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest
from databases import both_layouts, table_of
from psycopg import errors as pg
from psycopg.errors import lookup
from psycopg_pool import PoolTimeout

from meterwatch.batch import Batch, Column, EventBatch, Events, Reads, Rejects
from meterwatch.errors import MeterwatchError, Overloaded, StorageBroken, StorageUnavailable
from storage.faults import fault_of, storage_faults
from storage.writer import Writer

NOW_US = 1_767_225_600_000_000
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
SECRET = 'connection to server at "db.example" (10.0.0.7), user "me", failed: postgresql://me:hunter2@db.example/x'

TABLE: list[tuple[str, type[MeterwatchError]]] = [
    *((state, StorageUnavailable) for state in ("57P01", "57P02", "57P03", "57P05", "08000", "08003", "08006")),
    *((state, StorageUnavailable) for state in ("25006", "53300", "40P01", "40001", "55P03", "57014", "58030")),
    *((state, Overloaded) for state in ("53100", "53200")),
    *((state, StorageBroken) for state in ("XX001", "XX002")),
]


@pytest.mark.parametrize(("state", "ours"), TABLE)
def test_each_sqlstate_has_its_meaning_and_no_secret(state: str, ours: type[MeterwatchError]) -> None:
    with pytest.raises(ours) as raised, storage_faults():
        raise lookup(state)(SECRET)
    assert state in str(raised.value)
    for secret in ("db.example", "10.0.0.7", "hunter2", '"me"'):
        assert secret not in str(raised.value)


SAYS = {
    "40P01": "rolled the transaction back: it and others waited for each other's locks",
    "40001": "rolled the transaction back, because of another",
    "40002": "rolled the transaction back",
    "40003": "cannot say whether the transaction was committed",
    "25006": "is read-only",
    "57P03": "takes no connections",
    "57014": "took too long, or an operator cancelled it",
    "53000": "has run out of something",
    "53400": "reached a limit of its configuration",
    "55000": "was not in a state for it",
    "58030": "the system below the database failed",
    "08006": "the connection to the database broke",
    "XX002": "an index is damaged",
}


@pytest.mark.parametrize(("state", "says"), SAYS.items())
def test_an_error_the_database_sent_is_told_as_what_it_is_and_never_as_no_answer(state: str, says: str) -> None:
    told = str(fault_of(lookup(state)(SECRET)))
    assert says in told
    assert "did not answer" not in told


def test_without_an_answer_of_the_database_it_is_told_whether_it_was_asked() -> None:
    assert "no connection to the database was free" in str(fault_of(PoolTimeout("x")))
    assert "did not answer" in str(fault_of(psycopg.OperationalError("x")))


async def test_what_a_cancelled_query_says_does_not_keep_its_task_alive() -> None:
    tried = 0

    async def ask_until_cancelled() -> None:
        nonlocal tried
        while True:
            tried += 1
            try:
                with storage_faults():
                    try:
                        await asyncio.sleep(3600)
                    except asyncio.CancelledError:
                        raise lookup("57014")("canceling statement due to user request") from None
            except StorageUnavailable:
                continue

    task = asyncio.create_task(ask_until_cancelled())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert (task.cancelled(), tried) == (True, 1)


@pytest.mark.parametrize("state", ["22003", "22P04", "23505", "42601", "42P01", "54000", "XX000", "0A000"])
def test_a_defect_is_no_outage(state: str) -> None:
    assert fault_of(lookup(state)("x")) is None


def test_an_unreachable_database_is_told_without_its_address() -> None:
    writer = Writer("postgresql://me:hunter2@127.0.0.1:1/x", {})
    with pytest.raises(StorageUnavailable) as raised:
        writer.write([batch(1, [1])], NOW_US)
    for secret in ("127.0.0.1", "hunter2", "me"):
        assert secret not in str(raised.value).split()


@pytest.fixture
def writer(dsn: str) -> Iterator[Writer]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in ("reads", "read_versions", "batches", "quarantine", "events"):
            connection.execute(f"TRUNCATE {table}")  # type: ignore[arg-type]
    made = Writer(dsn, {1: "UNKNOWN_METER"}, table=table_of(dsn))
    yield made
    made.close()


def batch(seq: int, wh: list[int]) -> Batch:
    n = len(wh)
    columns: dict[str, Column] = {"import_wh": np.array(wh, np.int32)}
    end_us = np.full(n, NOW_US, np.int64)
    reads = Reads(np.arange(n, dtype=np.int32) + 100 * seq, end_us, 900, np.zeros(n, np.int32), columns)
    return Batch(1, 7, seq, f"{seq}{wh}".encode(), reads, NO_REJECTS, 0, n)


def count(dsn: str, table: str) -> Any:
    with psycopg.connect(dsn) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # type: ignore[arg-type,index]


def break_commits(monkeypatch: pytest.MonkeyPatch, error: Exception, nth: int = 1, *, committed: bool = True) -> None:
    """The nth transaction from now ends with `error`; with `committed`, after the database has committed it."""
    original, seen = psycopg.Connection.transaction, [0]

    @contextmanager
    def transaction(self: Any) -> Iterator[Any]:
        seen[0] += 1
        broken = seen[0] == nth
        with original(self) as inner:
            yield inner
            if broken and not committed:
                raise error
        if broken:
            self.close()
            raise error

    monkeypatch.setattr(psycopg.Connection, "transaction", transaction)


@both_layouts
def test_a_commit_of_unknown_outcome_is_settled_by_the_resend_with_its_change(
    writer: Writer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = [batch(1, [10, 20]), batch(2, [30])]
    break_commits(monkeypatch, pg.AdminShutdown("gone"))
    with pytest.raises(StorageUnavailable):
        writer.write(group, NOW_US)
    assert count(dsn, "reads") == 3
    again = writer.write(group, NOW_US)
    assert [(s.accepted, s.replayed) for s in again] == [(2, False), (1, False)]
    assert [s.change.import_wh.tolist() for s in again if s.change] == [[10, 20], [30]]
    third = writer.write(group, NOW_US)
    assert [(s.accepted, s.replayed, s.change) for s in third] == [(2, True, None), (1, True, None)]
    assert count(dsn, "reads") == 3


@both_layouts
def test_a_commit_that_failed_is_simply_written_again(
    writer: Writer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_commits(monkeypatch, pg.AdminShutdown("gone"), committed=False)
    with pytest.raises(StorageUnavailable):
        writer.write([batch(1, [10])], NOW_US)
    assert count(dsn, "reads") == 0
    (again,) = writer.write([batch(1, [10])], NOW_US)
    assert (again.accepted, again.replayed) == (1, False)
    assert len(writer._doubts) == 0


def test_batches_committed_before_their_group_failed_keep_their_change(
    writer: Writer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.write([batch(1, [10])], NOW_US)
    writer.table = table_of(dsn)  # as after a restart
    known = batch(1, [10]).reads
    group = [Batch(1, 8, 1, b"again", known, NO_REJECTS, 0, 1), batch(2, [30]), batch(3, [40])]
    break_commits(monkeypatch, pg.AdminShutdown("gone"), nth=4, committed=False)  # 1: group; 2, 3: done; 4: breaks
    with pytest.raises(StorageUnavailable):
        writer.write(group, NOW_US)
    again = writer.write(group, NOW_US)
    assert [(s.duplicates, s.accepted, s.replayed) for s in again] == [(1, 0, False), (0, 1, False), (0, 1, False)]
    assert [s.change.import_wh.tolist() for s in again if s.change] == [[30], [40]]


@both_layouts
def test_events_of_an_unknown_commit_keep_what_was_new(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(np.array([1, 2], np.int32), np.full(2, NOW_US, np.int64), np.ones(2, np.int16))
    group = [EventBatch(1, 7, 1, b"d", events, NO_REJECTS, 2)]
    break_commits(monkeypatch, pg.AdminShutdown("gone"))
    with pytest.raises(StorageUnavailable):
        writer.write_events(group, NOW_US)
    ((stored, fresh),) = writer.write_events(group, NOW_US)
    assert (stored.accepted, stored.replayed, fresh.slot.tolist()) == (2, False, [1, 2])
    ((stored, fresh),) = writer.write_events(group, NOW_US)
    assert (stored.accepted, stored.replayed, fresh.rows) == (2, True, 0)


@both_layouts
def test_after_a_poison_batch_the_writer_goes_on(writer: Writer, dsn: str) -> None:
    poison = batch(1, [1])
    rejects = Rejects(np.array([0], np.uint32), np.array([1], np.uint8), [b"no json"])
    poison = Batch(1, 7, 1, b"d", poison.reads, rejects, 0, 2)
    with pytest.raises(psycopg.DataError):
        writer.write([poison, batch(2, [5])], NOW_US)
    assert count(dsn, "reads") == 0
    with pytest.raises(psycopg.DataError):
        writer.write([poison], NOW_US)
    assert writer.write([batch(2, [5])], NOW_US)[0].accepted == 1


@both_layouts
def test_rows_that_do_not_add_up_are_refused_and_nothing_is_stored(writer: Writer, dsn: str) -> None:
    good = batch(1, [1])
    with pytest.raises(StorageBroken):
        writer.write([Batch(1, 7, 1, b"d", good.reads, NO_REJECTS, 0, 5)], NOW_US)
    assert count(dsn, "reads") == 0
    assert writer.write([good], NOW_US)[0].accepted == 1


@both_layouts
def test_a_killed_backend_costs_one_answer(writer: Writer, dsn: str) -> None:
    writer.write([batch(1, [1])], NOW_US)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                      " AND datname = current_database() AND backend_type = 'client backend'")  # fmt: skip
    with pytest.raises(StorageUnavailable):
        writer.write([batch(2, [1])], NOW_US)
    assert writer.write([batch(2, [1])], NOW_US)[0].accepted == 1
