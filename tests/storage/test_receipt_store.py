"""Laws of the table of receipts, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import psycopg_pool
import pytest

from meterwatch.receipts import SentMessage
from storage import receipts as module
from storage.receipts import ReceiptStore

NOW_US = 1_700_000_000_123_457


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[ReceiptStore]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("TRUNCATE subscriber_receipts")
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool:
        yield ReceiptStore(pool)


def receipt(number: int, *seqs: int, subscriber: str = "Kim") -> SentMessage:
    return SentMessage(number, subscriber, seqs, max(seqs), NOW_US, NOW_US + 1)


async def test_a_receipt_comes_back_as_it_was_and_again_with_when_it_was_shown(store: ReceiptStore) -> None:
    assert await store.last_number() == 0
    one, other = receipt(3, 7, 9), receipt(4, 9, subscriber="Lee")
    await store.write([one, other])
    assert await store.of([9], 10) == [other, one]
    await store.write([replace(one, shown_us=NOW_US + 5)])
    assert await store.of([7, 8], 10) == [replace(one, shown_us=NOW_US + 5)]
    assert await store.of([9], 1) == [other]
    assert await store.of([8], 10) == []
    assert await store.last_number() == 4


async def test_the_newest_are_kept_of_each_subscriber_and_of_all(
    store: ReceiptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in (("KEPT_MAX", 3), ("ROWS_MAX", 5), ("TRIM_EVERY", 10)):
        monkeypatch.setattr(module, name, limit)
    await store.write([receipt(i, 1, subscriber="Kim" if i < 6 else "Lee") for i in range(1, 10)])
    assert len(await store.of([1], 100)) == 9  # no round of trimming yet
    await store.write([receipt(10, 1, subscriber="Max")])
    kept = [(one.number, one.subscriber) for one in await store.of([1], 100)]
    assert kept == [(10, "Max"), (9, "Lee"), (8, "Lee"), (7, "Lee")]


async def test_a_subscriber_that_says_most_does_not_push_the_others_out(
    store: ReceiptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in (("KEPT_MAX", 3), ("ROWS_MAX", 5), ("TRIM_EVERY", 1)):
        monkeypatch.setattr(module, name, limit)
    await store.write([receipt(1, 1, subscriber="Lee")])
    for number in range(2, 20):
        await store.write([receipt(number, 1)])
    assert {one.subscriber for one in await store.of([1], 100)} == {"Kim", "Lee"}


async def test_one_person_under_many_names_does_not_push_the_others_out(
    store: ReceiptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in (("KEPT_MAX", 3), ("OWNER_ROWS_MAX", 4), ("ROWS_MAX", 6), ("TRIM_EVERY", 1)):
        monkeypatch.setattr(module, name, limit)
    await store.write([receipt(1, 1, subscriber="room/desk")])
    for number in range(2, 20):
        await store.write([receipt(number, 1, subscriber=f"eve/{number}")])
    kept = [one.subscriber for one in await store.of([1], 100)]
    assert kept == ["eve/19", "eve/18", "eve/17", "eve/16", "room/desk"]
