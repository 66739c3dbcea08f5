"""A replay holds one page of reads, however long the span: real database, small pages, outages among them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import psycopg
import pytest
from databases import table_of
from loads_plant import SETUP, START_US, batch
from psycopg_pool import AsyncConnectionPool

import storage.history
from meterwatch.batch import ReadChange
from meterwatch.replay import SLICE_US, WARM_UP_US, replay
from rules.engine import Engine
from rules.profile import PROFILES
from storage.writer import Writer

PAGE_ROWS = 100
QUARTER_US = 900_000_000
DAYS = 12


@pytest.fixture(scope="module")
def stored(dsn: str) -> str:
    """Twelve days of five meters; meter 3 is without supply for an hour a day."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SETUP)  # type: ignore[arg-type]
    writer = Writer(dsn, {}, table=table_of(dsn))
    for seq, first in enumerate(range(1, DAYS * 96 + 1, 96), 1):
        rows = [(meter, back, 900, 500, False) for meter in range(1, 6) for back in range(first, first + 96)]
        writer.write([batch(seq, rows)], START_US)
    writer.close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE reads SET quality = quality | 64"
            " WHERE slot = 3 AND extract(hour FROM end_at AT TIME ZONE 'UTC') = 3"
        )
    return dsn


async def run(dsn: str, days: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Pages read, the most of them alive at once, and what progress was told."""
    pages: list[weakref.ref[Any]] = []
    alive: list[int] = []
    told: list[tuple[int, int, int]] = []
    observe = Engine.observe_reads

    def watched(self: Engine, change: ReadChange, now_us: int, **how: Any) -> None:
        assert len(change.slot) <= PAGE_ROWS
        pages.append(weakref.ref(change.end_us))
        observe(self, change, now_us, **how)

    def progress(*one: int) -> None:
        told.append(one)  # type: ignore[arg-type]
        gc.collect()
        alive.append(sum(page() is not None for page in pages))

    monkeypatch.setattr(storage.history, "PAGE_ROWS", PAGE_ROWS)
    monkeypatch.setattr(Engine, "observe_reads", watched)
    options = {"autocommit": True, "options": "-c TimeZone=UTC"}
    async with AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False, kwargs=options) as pool:
        found = await replay(pool, START_US - days * 96 * QUARTER_US, START_US, PROFILES["default"], progress)
    assert found.reads == told[-1][2]
    return len(pages), max(alive), told


async def test_pages_are_let_go_however_long_the_span(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short, most, _ = await run(stored, 1, monkeypatch)
    with monkeypatch.context() as again:
        long, most_of_long, told = await run(stored, DAYS - 2, again)
    assert long > 3 * short
    assert most_of_long <= most <= 3
    slices = (DAYS - 2) * 96 * QUARTER_US // SLICE_US + WARM_UP_US // SLICE_US
    assert told[-1] == (slices, slices, (DAYS * 96 - 1) * 5), "one end is that of the span's begin"
    assert [reads for *_, reads in told] == sorted(reads for *_, reads in told)
