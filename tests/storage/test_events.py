"""Requests of events in groups: the same answers, the same table and the same news as one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterwatch.batch import EventBatch, Events, Rejects
from storage.writer import Writer

NOW_US = 1_767_225_600_000_000
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
Told = list[tuple[int, int, int]]
"""slot, second, code"""


@pytest.fixture
def writer(dsn: str) -> Iterator[Writer]:
    made = Writer(dsn, {})
    yield made
    made.close()


def request(seq: int, told: Told) -> EventBatch:
    table = np.array(told, np.int64).reshape(-1, 3)
    events = Events(table[:, 0].astype(np.int32), NOW_US + table[:, 1] * 1_000_000, table[:, 2].astype(np.int16))
    return EventBatch(1, 7, seq, repr(told).encode(), events, NO_REJECTS, len(told))


def empty(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE events")
        connection.execute("TRUNCATE batches")


def told(events: Events) -> Told:
    return [
        (slot, (at - NOW_US) // 1_000_000, code)
        for slot, at, code in zip(events.slot.tolist(), events.at_us.tolist(), events.code.tolist(), strict=True)
    ]


requests = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 2)), max_size=6), min_size=1, max_size=5
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.integers(1, 5))
def test_a_group_leaves_what_one_by_one_leaves(writer: Writer, dsn: str, sent: list[Told], cut: int) -> None:
    empty(dsn)
    stored: set[tuple[int, int, int]] = set()
    expected = []
    for one in sent:
        fresh = []
        for event in one:
            if event not in stored:
                stored.add(event)
                fresh.append(event)
        expected.append((fresh, len(one) - len(fresh)))
    group = [request(seq, one) for seq, one in enumerate(sent, 1)]
    parts = [group[at : at + cut] for at in range(0, len(group), cut)]
    answers = [answer for part in parts for answer in writer.write_events(part, NOW_US)]
    assert [(told(events), answer.duplicates) for answer, events in answers] == expected
    assert [answer.accepted for answer, _ in answers] == [len(fresh) for fresh, _ in expected]
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*), count(DISTINCT (slot, at, code)) FROM events").fetchone()
    assert row == (len(stored), len(stored))


def test_a_key_twice_in_a_group_is_answered_once_for_all(writer: Writer, dsn: str) -> None:
    empty(dsn)
    one = request(1, [(1, 1, 1)])
    other = EventBatch(1, 7, 1, b"other content", one.events, NO_REJECTS, 1)
    (first, _), (again, news), (reused, _) = writer.write_events([one, one, other], NOW_US)
    assert (first.accepted, first.replayed, again.replayed, again.batch_id) == (1, False, True, first.batch_id)
    assert news.rows == 0
    assert reused.reused


def test_two_phases_lost_in_the_same_moment_are_two_events_and_the_same_again_is_none(writer: Writer, dsn: str) -> None:
    empty(dsn)
    slot, at_us, code = np.zeros(3, np.int32), np.full(3, NOW_US, np.int64), np.full(3, 3, np.int16)
    lost = Events(slot, at_us, code, np.array([1, 2, 1], np.uint8))
    requests = [EventBatch(1, 7, seq, bytes([seq]), lost, NO_REJECTS, 3) for seq in (1, 2)]
    (first, news), (again, nothing) = writer.write_events(requests, NOW_US)
    assert (first.accepted, first.duplicates, news.phases.tolist()) == (2, 1, [1, 2])
    assert (again.accepted, again.duplicates, nothing.rows) == (0, 3, 0)
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT phases FROM events WHERE code = 3 ORDER BY phases").fetchall()
    assert rows == [(1,), (2,)]
