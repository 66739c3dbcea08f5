"""What was known at any moment is what a dictionary held then; real database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterwatch.batch import Batch, Edit, Reads, Rejects
from meterwatch.errors import Rejected, Stale
from meterwatch.quality import ORIGIN_RANK, ORIGIN_SHIFT, Origin
from storage.arrays import moment
from storage.rowstore import Rowstore
from storage.writer import Writer

NOW_US = 1_767_225_600_000_000
STEP_US = 900_000_000
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
Key = tuple[int, int]
"""slot, step"""

values = st.tuples(st.integers(0, 2), st.sampled_from([Origin.MEASURED, Origin.REREAD, Origin.ESTIMATED]))
batches = st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 1)), values, min_size=1, max_size=5)
STEP = st.tuples(st.integers(0, 2), st.booleans(), batches)
"""Microseconds since the last one (0: the same instant of the service's clock), by hand, the reads."""


@pytest.fixture
def writer(dsn: str) -> Iterator[Writer]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches, read_edits")
    made = Writer(dsn, {})
    yield made
    made.close()


def batch(seq: int, rows: dict[Key, tuple[int, Origin]], edit: str = "", expected: int = 0) -> Batch:
    keys = sorted(rows)
    reads = Reads(
        np.array([slot for slot, _ in keys], np.int32),
        np.array([NOW_US + step * STEP_US for _, step in keys], np.int64),
        900,
        np.array([int(rows[key][1]) << ORIGIN_SHIFT for key in keys], np.int32),
        {"import_wh": np.array([rows[key][0] for key in keys], np.int32)},
    )
    by_hand = Edit(edit, "ada", "typing error", np.full(len(keys), expected)) if edit else None
    return Batch(0 if edit else 1, 1, seq, b"%d" % seq, reads, NO_REJECTS, 0, len(keys), by_hand)


def known(connection: psycopg.Connection[Any], query: str, *values: Any) -> dict[Key, tuple[int, int]]:
    rows = connection.execute(
        f"SELECT slot, (extract(epoch FROM end_at) * 1000000)::bigint, import_wh, quality >> 24 {query}".encode(),
        values,
    ).fetchall()
    found = {(slot, (end_us - NOW_US) // STEP_US): (wh, origin) for slot, end_us, wh, origin in rows}
    assert len(found) == len(rows)
    return found


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, min_size=1, max_size=6))
def test_what_was_known_at_a_moment_is_what_was_current_then(writer: Writer, dsn: str, sent: list[Any]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches, read_edits")
        writer.table = Rowstore()  # as after a restart
        now: dict[Key, tuple[int, Origin]] = {}
        were: set[tuple[Key, tuple[int, Origin]]] = set()
        at: dict[int, dict[Key, tuple[int, int]]] = {}
        edits = 0
        now_us = NOW_US
        for seq, (later_us, by_hand, rows) in enumerate(sent, 1):
            now_us += later_us
            if by_hand:
                rows = {key: (wh, Origin.EDITED) for key, (wh, _) in rows.items()}
                edits += len(rows)
            writer.write([batch(seq, rows, f"action {seq}" if by_hand else "")], now_us)
            for key, value in rows.items():
                better = key not in now or ORIGIN_RANK[value[1]] >= ORIGIN_RANK[now[key][1]]
                if better and ((key, value) not in were or by_hand):
                    now[key] = value
                were.add((key, value))
            at[now_us] = {key: (wh, int(origin)) for key, (wh, origin) in now.items()}
        for moment_us, expected in at.items():
            assert known(connection, "FROM reads_as_of(%s)", moment(moment_us)) == expected
        assert known(connection, "FROM reads_as_of(%s)", moment(NOW_US - 1)) == {}
        assert known(connection, "FROM reads_as_of('infinity')") == known(connection, "FROM reads")
        assert connection.execute("SELECT count(*) FROM read_edits").fetchone() == (edits,)


def test_two_versions_of_one_instant_are_one_read(writer: Writer, dsn: str) -> None:
    """A writer that read the clock earlier may commit later; at each moment one version counts all the same."""
    for seq, (clock_us, wh) in enumerate([(100, 1), (102, 2), (101, 3), (105, 4)], 1):
        writer.write([batch(seq, {(1, 0): (wh, Origin.MEASURED)})], NOW_US + clock_us)
    with psycopg.connect(dsn, autocommit=True) as connection:
        told = [
            [wh for wh, _ in known(connection, "FROM reads_as_of(%s)", moment(NOW_US + us)).values()]
            for us in (99, 100, 101, 102, 105)
        ]
    assert told == [[], [1], [3], [3], [4]]


def test_a_question_about_one_meter_looks_its_reads_up_by_index(writer: Writer, dsn: str) -> None:
    everyone = {(slot, step): (1, Origin.MEASURED) for slot in range(1000) for step in range(90)}
    writer.write([batch(1, {key: read for key, read in everyone.items() if key[1] < 2})], NOW_US)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE reads")  # of a day with two intervals
        writer.write([batch(2, everyone)], NOW_US)
        connection.execute("ANALYZE read_stamps")
        writer.write([batch(3, {(1, 0): (2, Origin.MEASURED)})], NOW_US + 1)
        connection.execute("SET enable_seqscan = off")  # so few rows may be scanned otherwise
        plan = "\n".join(
            row[0]
            for row in connection.execute(
                "EXPLAIN SELECT found.* FROM (VALUES (1), (2)) AS k (slot) CROSS JOIN LATERAL"
                " (SELECT sum(import_wh) FROM reads_as_of(%s) r WHERE r.slot = k.slot AND end_at > %s) AS found",
                (moment(NOW_US), moment(NOW_US - 1)),
            )
        )
    assert re.search(r"Index Cond: .*\(end_at = s.end_at\) .*\(slot = ", plan), plan
    assert plan.count("Index Cond: ((slot = ") == 1, plan
    assert "Function Scan" not in plan


def test_an_edit_is_kept_with_who_when_why_and_both_values(writer: Writer, dsn: str) -> None:
    writer.write([batch(1, {(1, 0): (7, Origin.MEASURED)})], NOW_US)
    writer.write([batch(2, {(1, 0): (8, Origin.EDITED), (1, 1): (9, Origin.EDITED)}, "a")], NOW_US + 5)
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
        rows = connection.execute(
            "SELECT action_id, operator, reason, recorded_at, version, old, new FROM read_edits ORDER BY end_at"
        ).fetchall()
    edited = int(Origin.EDITED) << ORIGIN_SHIFT
    who = ("a", "ada", "typing error", moment(NOW_US + 5))
    old = {"version": 1, "quality": 0, "interval_s": 900, "import_wh": 7}
    assert rows == [
        (*who, 2, old, {"version": 2, "quality": edited, "interval_s": 900, "import_wh": 8}),
        (*who, 1, None, {"version": 1, "quality": edited, "interval_s": 900, "import_wh": 9}),
    ]


def test_an_edit_back_to_an_earlier_edited_value_is_an_edit(writer: Writer, dsn: str) -> None:
    for seq, wh in enumerate([1, 2, 1], 1):
        [done] = writer.write([batch(seq, {(1, 0): (wh, Origin.EDITED)}, f"{seq}")], NOW_US + seq)
    assert (done.versions, done.duplicates) == (1, 0)
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert known(connection, "FROM reads") == {(1, 0): (1, int(Origin.EDITED))}


def test_a_stale_edit_and_a_used_action_change_nothing(writer: Writer, dsn: str) -> None:
    writer.write([batch(1, {(1, 0): (1, Origin.MEASURED)})], NOW_US)
    with pytest.raises(Stale):
        writer.write([batch(2, {(1, 0): (5, Origin.EDITED)}, "a", expected=2)], NOW_US)
    writer.write([batch(3, {(1, 0): (5, Origin.EDITED)}, "a", expected=1)], NOW_US)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM batches")  # the ledger forgets after retention.ledger_days
        with pytest.raises(Rejected):
            writer.write([batch(3, {(1, 0): (6, Origin.EDITED)}, "a")], NOW_US)
        assert known(connection, "FROM reads") == {(1, 0): (5, int(Origin.EDITED))}
        assert connection.execute("SELECT count(*) FROM read_versions").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM batches").fetchone() == (0,)
