"""Whichever call to the database fails in the life of a batch: the right error, and one re-send settles it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import psycopg
import pytest
from databases import both_layouts, table_of
from nth_call import NthCall

from meterwatch.batch import Batch, Column, EventBatch, Events, Reads, Rejects, Stored
from meterwatch.errors import Overloaded, StorageBroken, StorageUnavailable
from meterwatch.registers import RegisterBatch, RegisterReads
from storage.writer import Writer

NOW_US = 1_767_225_600_000_000
STEP_US = 900_000_000
HEAD_END = 1
TRANSIENT = ("40P01", "40001")
"""Tried again by the writer itself wherever a transaction of its own has begun."""
ERRORS: dict[str, type[Exception]] = {
    **dict.fromkeys((*TRANSIENT, "57P01", "57P03", "08006", "53300", "25006"), StorageUnavailable),
    "53100": Overloaded,
    "53200": Overloaded,
    "XX001": StorageBroken,
}
CALLS_MAX = 60
LONG = bool(os.environ.get("METERWATCH_FAULT_SEEDS"))
"""Every error at every call, before and after a COMMIT is done; else those that differ for the code."""
DIFFER = ("40P01", "57P01", "25006", "53100", "XX001")
"""Tried again, session over, session goes on, no room, damaged."""
SHORT = [*((state, False) for state in DIFFER), ("57P01", True)]
CASES = [(state, done) for state in ERRORS for done in (False, True)] if LONG else SHORT
BOTH = CASES if LONG else [("40P01", False), ("57P01", True)]
_step = itertools.count(1)
_epoch = itertools.count(1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> NthCall:
    return NthCall(monkeypatch)


@pytest.fixture
def writer(dsn: str) -> Iterator[Writer]:
    made = Writer(dsn, {1: "UNKNOWN_METER"}, table=table_of(dsn))
    yield made
    made.close()


def rejects(row: int) -> Rejects:
    return Rejects(np.array([row], np.uint32), np.array([1], np.uint8), [b'{"meter": "nobody"}'])


def group(epoch: int, end_us: int, wh: int) -> list[Batch]:
    """Two batches: reads, one of them rejected; and another value for one read of the first."""

    def reads(slots: list[int], wh: int) -> Reads:
        n = len(slots)
        columns: dict[str, Column] = {"import_wh": np.full(n, wh, np.int32)}
        return Reads(np.array(slots, np.int32), np.full(n, end_us, np.int64), 900, np.zeros(n, np.int32), columns)

    first = Batch(HEAD_END, epoch, 1, b"first", reads([1, 2, 3], wh), rejects(3), 0, 4)
    none = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
    return [first, Batch(HEAD_END, epoch, 2, b"second", reads([2], wh + 1), none, 0, 1)]


Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def row(dsn: str) -> Iterator[Ask]:
    """The one row of a query, on a connection that no test breaks."""
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
        yield lambda query, *parameters: connection.execute(query, parameters).fetchone()


_T = TypeVar("_T")


def failing(work: Callable[[], _T], expected: type[Exception]) -> _T | None:
    """What the work gives; None if it ends with an error, which is then the expected one."""
    try:
        return work()
    except (StorageUnavailable, Overloaded, StorageBroken) as error:
        if type(error) is not expected:
            raise AssertionError(f"expected {expected.__name__}") from error
        return None


def changes(stored: list[Stored]) -> list[tuple[int, int, int]]:
    return [
        (int(slot), int(wh), int(sign))
        for one in stored
        if one.change is not None
        for slot, wh, sign in zip(one.change.slot, one.change.import_wh, one.change.sign, strict=True)
    ]


@pytest.mark.parametrize(("state", "done"), CASES)
def test_a_group_of_batches(writer: Writer, row: Ask, calls: NthCall, state: str, done: bool) -> None:
    whichever_call_fails(writer, row, calls, state, done)


@both_layouts
@pytest.mark.parametrize(("state", "done"), BOTH)
def test_a_group_of_batches_in_either_layout(writer: Writer, row: Ask, calls: NthCall, state: str, done: bool) -> None:
    whichever_call_fails(writer, row, calls, state, done)


def whichever_call_fails(writer: Writer, row: Ask, calls: NthCall, state: str, done: bool) -> None:
    for n in range(1, CALLS_MAX):
        epoch, end_us = next(_epoch), NOW_US + next(_step) * STEP_US
        batches = group(epoch, end_us, 100)
        calls.arm(n, state, done=done)
        told = failing(lambda batches=batches: writer.write(batches, NOW_US), ERRORS[state]) or []
        calls.disarm()
        fired = calls.fired
        again = writer.write(batches, NOW_US)
        assert [(s.accepted, s.versions, len(s.rejected_row)) for s in again] == [(3, 0, 1), (0, 1, 0)], (n, fired)
        heard = sorted(changes(told) + changes(again))
        assert heard == [(1, 100, 1), (2, 100, -1), (2, 100, 1), (2, 101, 1), (3, 100, 1)], (n, fired)
        kept = "SELECT count(*), sum(import_wh) FROM reads WHERE end_at = to_timestamp(%s / 1e6)"
        assert row(kept, end_us) == (3, 301), (n, fired)
        assert row("SELECT count(*) FROM read_versions WHERE end_at = to_timestamp(%s / 1e6)", end_us) == (1,)
        assert row("SELECT count(*) FROM batches WHERE epoch = %s", epoch) == (2,)
        assert row("SELECT count(*) FROM quarantine WHERE epoch = %s", epoch) == (1,)
        if not fired:
            assert n > 5
            return
        assert told or state not in TRANSIENT, (n, fired, "tried again inside")
    raise AssertionError(f"more than {CALLS_MAX} calls for a group")


@pytest.mark.parametrize(("state", "done"), CASES)
def test_events(writer: Writer, row: Ask, calls: NthCall, state: str, done: bool) -> None:
    for n in range(1, CALLS_MAX):
        epoch, at_us = next(_epoch), NOW_US + next(_step) * STEP_US
        events = Events(np.array([1, 2], np.int32), np.full(2, at_us, np.int64), np.ones(2, np.int16))
        request = EventBatch(HEAD_END, epoch, 1, b"d", events, rejects(2), 3)
        calls.arm(n, state, done=done)
        told = failing(lambda request=request: writer.write_events([request], NOW_US), ERRORS[state])
        new = [slot for _, fresh in told or [] for slot in fresh.slot.tolist()]
        assert told or state not in TRANSIENT, (n, calls.fired, "tried again inside")
        calls.disarm()
        ((stored, fresh),) = writer.write_events([request], NOW_US)
        assert (stored.accepted, len(stored.rejected_row)) == (2, 1), (n, calls.fired)
        assert sorted(new + fresh.slot.tolist()) == [1, 2], (n, calls.fired)
        assert row("SELECT count(*) FROM events WHERE at = to_timestamp(%s / 1e6)", at_us) == (2,)
        if not calls.fired:
            assert n > 3
            return
    raise AssertionError(f"more than {CALLS_MAX} calls for a request")


@pytest.mark.parametrize(("state", "done"), CASES)
def test_registers(writer: Writer, row: Ask, calls: NthCall, state: str, done: bool) -> None:
    for n in range(1, CALLS_MAX):
        epoch, at_us = next(_epoch), NOW_US + next(_step) * STEP_US
        reads = RegisterReads(
            np.array([1, 2], np.int32), np.full(2, at_us, np.int64), np.ones(2, np.int16), np.array([5, 6], np.int64)
        )
        request = RegisterBatch(HEAD_END, epoch, 1, b"d", reads, rejects(2), 0, 3)
        calls.arm(n, state, done=done)
        told = failing(lambda request=request: writer.write_registers(request, NOW_US), ERRORS[state])
        changed = len(told[1].slot) if told else 0
        assert told or state not in TRANSIENT, (n, calls.fired, "tried again inside")
        calls.disarm()
        stored, change = writer.write_registers(request, NOW_US)
        assert (stored.accepted, len(stored.rejected_row)) == (2, 1), (n, calls.fired)
        assert changed + len(change.slot) == 2, (n, calls.fired)
        assert row("SELECT count(*) FROM register_reads WHERE at = to_timestamp(%s / 1e6)", at_us) == (2,)
        if not calls.fired:
            assert n > 3
            return
    raise AssertionError(f"more than {CALLS_MAX} calls for a request")
