"""Which layout the reads get: a table of wishes and editions, and what becomes of reads that are there already."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from databases import Databases, compresses

from meterwatch.batch import Batch, Reads, Rejects
from meterwatch.errors import ConfigError
from storage.layout import Layout, Wish, decide, make_columnar, open_table
from storage.writer import Writer

ROWS, COLUMNS = Layout.ROWSTORE, Layout.COLUMNSTORE
COMMUNITY, OLD, APACHE = ("2.21.0", "timescale"), ("2.20.3", "timescale"), ("2.29.2", "apache")
NOW_US = 1_767_225_600_000_000


@pytest.mark.parametrize(
    ("wish", "recorded", "edition", "reads_stored", "expected"),
    [
        ("auto", ROWS, COMMUNITY, False, COLUMNS),
        ("auto", ROWS, COMMUNITY, True, ROWS),
        ("on", ROWS, COMMUNITY, True, COLUMNS),
        ("on", ROWS, COMMUNITY, False, COLUMNS),
        ("off", ROWS, COMMUNITY, False, ROWS),
        ("auto", COLUMNS, COMMUNITY, True, COLUMNS),
        ("on", COLUMNS, COMMUNITY, True, COLUMNS),
        ("auto", ROWS, OLD, False, ROWS),
        ("auto", ROWS, APACHE, False, ROWS),
        ("off", ROWS, APACHE, True, ROWS),
    ],
)
def test_what_each_wish_comes_to(
    wish: Wish, recorded: Layout, edition: tuple[str, str], reads_stored: bool, expected: Layout
) -> None:
    assert decide(wish, recorded, *edition, reads_stored=reads_stored) is expected


@pytest.mark.parametrize(
    ("wish", "recorded", "edition", "said"),
    [
        ("on", ROWS, APACHE, "TimescaleDB 2.29.2 (apache edition)"),
        ("on", ROWS, OLD, "from 2.21 on"),
        ("off", COLUMNS, COMMUNITY, "in the columnstore already"),
        ("auto", COLUMNS, APACHE, "needs the community edition"),
        ("auto", COLUMNS, OLD, "needs the community edition"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    wish: Wish, recorded: Layout, edition: tuple[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        decide(wish, recorded, *edition, reads_stored=False)
    assert said in str(refused.value)


@pytest.fixture
def fresh(cluster: Databases) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield cluster.migrated(name)
    cluster.drop_database(name)


def batch(seq: int, slots: range) -> Batch:
    slot = np.array(slots, np.int32)
    reads = Reads(slot, np.full(len(slot), NOW_US), 900, np.zeros(len(slot), np.int32), {})
    return Batch(
        1, 1, seq, b"%d" % seq, reads, Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), []), 0, len(slot)
    )


def recorded(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT layout FROM reads_layout").fetchone()
        assert row is not None
        return str(row[0])


def test_a_fresh_database_gets_the_columnstore_where_there_is_one(fresh: str) -> None:
    expected = COLUMNS if compresses(fresh) else ROWS
    assert open_table(fresh, "auto")[0] is expected
    assert recorded(fresh) == expected
    assert open_table(fresh, "auto")[0] is expected


def test_reads_in_rows_stay_in_rows_until_the_columnstore_is_asked_for(fresh: str) -> None:
    layout, table = open_table(fresh, "off")
    writer = Writer(fresh, {}, table=table)
    writer.write([batch(1, range(50))], NOW_US)
    assert (layout, open_table(fresh, "auto")[0]) == (ROWS, ROWS)
    if not compresses(fresh):
        with pytest.raises(ConfigError):
            open_table(fresh, "on")
        assert recorded(fresh) == ROWS
    else:
        layout, writer.table = open_table(fresh, "on")
        [again] = writer.write([batch(2, range(100))], NOW_US)
        assert (layout, again.accepted, again.duplicates) == (COLUMNS, 50, 50)
        with pytest.raises(ConfigError):
            open_table(fresh, "off")
    writer.close()


def test_a_database_without_its_unique_index_is_never_taken_for_rows(fresh: str) -> None:
    with psycopg.connect(fresh) as connection:
        make_columnar(connection)
    for wish in ("off", "auto") if not compresses(fresh) else ("off",):
        with pytest.raises(ConfigError):
            open_table(fresh, wish)  # type: ignore[arg-type]
