"""Every interval end with a read is in read_stamps, so that who asks for a meter's reads by ends misses none."""

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from databases import both_layouts, table_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterwatch.batch import Batch, Reads, Rejects
from storage.arrays import moment
from storage.writer import Writer

T0_US = 1_767_225_600_000_000
STEP_US = 900_000_000
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])


def batch(seq: int, keys: list[tuple[int, int]], wh: int = 1) -> Batch:
    slot, step = (np.array(column) for column in zip(*sorted(keys), strict=True))
    count = len(slot)
    wh_of = np.full(count, wh, np.int32)
    end_us = T0_US + step.astype(np.int64) * STEP_US
    reads = Reads(slot.astype(np.int32), end_us, 900, np.zeros(count, np.int32), {"import_wh": wh_of})
    return Batch(1, 1, seq, b"%d" % seq, reads, NO_REJECTS, 0, count)


@pytest.fixture
def writer(dsn: str) -> Iterator[Writer]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches, read_stamps")
    made = Writer(dsn, {}, table=table_of(dsn))
    yield made
    made.close()


def unlisted(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM reads WHERE NOT EXISTS (SELECT FROM read_stamps s WHERE s.end_at = reads.end_at)"
        ).fetchone()
    assert row is not None
    return int(row[0])


KEYS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 12)), min_size=1, max_size=12, unique=True)


@both_layouts
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(KEYS, min_size=1, max_size=4))
def test_whatever_is_stored_has_its_end_listed(writer: Writer, dsn: str, sent: list[list[tuple[int, int]]]) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE reads, read_versions, batches, read_stamps")
    writer.close()  # a new connection: it cannot rely on what the last one recorded
    writer.table = table_of(dsn)
    writer.write([batch(n, keys, wh=n) for n, keys in enumerate(sent, 1)], T0_US)
    assert unlisted(dsn) == 0


@both_layouts
def test_the_view_shows_the_reads_of_a_meter(writer: Writer, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO meters (slot, meter, installed_at) VALUES (1, 'M-1', '2020-01-01')")
        writer.write([batch(1, [(1, 1), (1, 3), (2, 2)])], T0_US)
        writer.write([batch(2, [(1, 1)], wh=9)], T0_US)
        found = connection.execute(
            "SELECT end_at, import_kwh::float8 FROM meter_reads WHERE meter = 'M-1' AND end_at > %s ORDER BY 1",
            (moment(T0_US),),
        ).fetchall()
    assert found == [(moment(T0_US + STEP_US), 0.009), (moment(T0_US + 3 * STEP_US), 0.001)]
