"""The ledger alone: every row is accounted for, and a re-send is answered as the first time, whatever else was sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import psycopg
import pytest
from test_writer import NOW_US, batch

from meterwatch.batch import Batch, Rejects
from meterwatch.errors import StorageBroken
from storage.ledger import EVENTS, READS, REGISTERS, Entry, enter, find

REASONS = {1: "UNKNOWN_METER", 3: "FUTURE"}


def sent(seq: int, rejected: dict[int, int], head_end_id: int = 1, epoch: int = 7) -> Batch:
    """Two reads and what was rejected: row -> reason."""
    row, reason = np.array([*rejected], np.uint32), np.array([*rejected.values()], np.uint8)
    rejects = Rejects(row, reason, [b"{}" for _ in rejected])
    made = batch(seq, [10, 20])
    return replace(made, head_end_id=head_end_id, epoch=epoch, rejects=rejects, rows_sent=2 + len(rejected))


@pytest.mark.parametrize("missing", [-1, 1])
@pytest.mark.parametrize("counts", [(2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0)])
def test_a_row_too_few_or_too_many_is_never_entered(dsn: str, counts: tuple[int, int, int], missing: int) -> None:
    whole = sent(1, {4: 1})
    wrong = replace(whole, rows_sent=whole.rows_sent + missing)
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        with pytest.raises(StorageBroken, match=f"3 rows accounted for, {wrong.rows_sent} sent"):
            enter(cursor, READS, [Entry(wrong, *counts, None)], NOW_US, REASONS)
        assert find(connection, READS, [wrong]) == [None]
        enter(cursor, READS, [Entry(whole, *counts, None)], NOW_US, REASONS)
        connection.rollback()


def test_the_answer_of_a_re_send_is_the_first_one_of_its_own_stream_and_kind(dsn: str) -> None:
    first = sent(1, {4: 1, 70_000: 3})
    others = [sent(1, {}, head_end_id=2), sent(1, {}, epoch=8), sent(2, {1: 3})]
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        entries = [Entry(first, 1, 1, 0, None), *(Entry(one, 0, 1, 1, None) for one in others)]
        answers = enter(cursor, READS, entries, NOW_US, REASONS)
        found = find(connection, READS, [others[2], first, sent(3, {})])
        assert len({one.batch_id for one in answers}) == 4
        again, told = found[0], found[1]
        assert again is not None
        assert told is not None
        assert found[2] is None
        assert (again.batch_id, again.rejected_row.tolist()) == (answers[3].batch_id, [1])
        assert (told.batch_id, told.accepted, told.versions, told.duplicates) == (answers[0].batch_id, 1, 1, 0)
        assert (told.rejected_row.tolist(), told.rejected_reason.tolist()) == ([4, 70_000], [1, 3])
        assert (told.replayed, told.reused) == (True, False)
        assert find(connection, EVENTS, [first]) == find(connection, REGISTERS, [first]) == [None]
        [other] = find(connection, READS, [replace(first, digest=b"another")])
        assert other is not None
        assert (other.replayed, other.reused) == (False, True)
        connection.rollback()


def test_the_ledger_keeps_what_was_sent_and_between_which_ends_and_quarantine_every_rejected_row(dsn: str) -> None:
    made = sent(1, {4: 1, 9: 3})
    made.reads.end_us[1] = NOW_US - 900_000_000
    nothing = replace(sent(2, {0: 1}), reads=batch(2, []).reads, rows_sent=1)
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection, connection.cursor() as cursor:
        entries = [Entry(made, 2, 0, 0, None), Entry(nothing, 0, 0, 0, None)]
        enter(cursor, READS, entries, NOW_US + 5, REASONS)
        kept = connection.execute(
            "SELECT seq, rows_sent, rejected, extract(epoch FROM last_end - first_end)::int,"
            " (extract(epoch FROM received_at) * 1e6)::bigint FROM batches ORDER BY seq"
        ).fetchall()
        rows = connection.execute("SELECT seq, row_no, reason FROM quarantine ORDER BY seq, row_no").fetchall()
        connection.rollback()
    assert kept == [(1, 4, 2, 900, NOW_US + 5), (2, 1, 1, None, NOW_US + 5)]
    assert rows == [(1, 4, "UNKNOWN_METER"), (1, 9, "FUTURE"), (2, 0, "UNKNOWN_METER")]
