"""Receipts of subscribers in the database: the newest messages of each, at most KEPT_MAX and a round of trimming.

Refuses to know what a receipt stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg_pool import AsyncConnectionPool

from meterwatch.receipts import SentMessage
from storage.arrays import micros, moment
from storage.faults import storage_faults

KEPT_MAX: Final = 5_000
"""Messages of one subscriber."""
OWNER_ROWS_MAX: Final = 40_000
"""Messages of all subscribers of one certificate's or token's name: what stands before the slash."""
ROWS_MAX: Final = 200_000
"""Messages of all."""
TRIM_EVERY: Final = 2_000
"""Messages between two rounds of trimming; a round reads the whole table."""
_WRITE: Final = """
INSERT INTO subscriber_receipts (receipt_no, subscriber, seqs, sent_at, received_at, shown_at)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (receipt_no) DO UPDATE SET shown_at = excluded.shown_at"""
_TRIM: Final = """
DELETE FROM subscriber_receipts WHERE receipt_no IN (
    SELECT receipt_no FROM (
        SELECT receipt_no, row_number() OVER (PARTITION BY subscriber ORDER BY receipt_no DESC) AS of_subscriber,
               row_number() OVER (PARTITION BY split_part(subscriber, '/', 1) ORDER BY receipt_no DESC) AS of_owner,
               row_number() OVER (ORDER BY receipt_no DESC) AS of_all
        FROM subscriber_receipts) AS ranked
    WHERE of_subscriber > %s OR of_owner > %s OR of_all > %s)"""
_OF: Final = """
SELECT receipt_no, subscriber, seqs, sent_at, received_at, shown_at FROM subscriber_receipts
WHERE seqs && %s::bigint[] ORDER BY receipt_no DESC LIMIT %s"""


class ReceiptStore:
    """The table over a connection pool. Every method may raise as storage_faults says."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._trimmed = 0
        """Last number at the last round of trimming."""

    async def last_number(self) -> int:
        """Highest number there is; 0: none."""
        with storage_faults():
            async with self._pool.connection() as connection:
                cursor = await connection.execute("SELECT coalesce(max(receipt_no), 0) FROM subscriber_receipts")
                return int((await cursor.fetchall())[0][0])

    async def write(self, receipts: Sequence[SentMessage]) -> None:
        """Keep confirmed messages, or when they were shown; all or nothing. Repeatable."""
        rows = [
            (
                one.number, one.subscriber, list(one.seqs), moment(one.sent_us), moment(one.received_us),
                None if one.shown_us is None else moment(one.shown_us),
            )
            for one in receipts
            if one.received_us is not None
        ]  # fmt: skip
        last = max((one.number for one in receipts), default=0)
        trims = last >= self._trimmed + TRIM_EVERY
        with storage_faults():
            async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(_WRITE, rows)
                if trims:
                    await cursor.execute(_TRIM, (KEPT_MAX, OWNER_ROWS_MAX, ROWS_MAX))
        if trims:
            self._trimmed = last

    async def of(self, seqs: Sequence[int], limit: int) -> list[SentMessage]:
        """Messages with one of these transitions, newest first."""
        with storage_faults():
            async with self._pool.connection() as connection:
                rows = await (await connection.execute(_OF, (list(seqs), limit))).fetchall()
        return [
            SentMessage(
                number, subscriber, tuple(found), max(found, default=0), micros(sent), micros(received),
                None if shown is None else micros(shown),
            )
            for number, subscriber, found, sent, received, shown in rows
        ]  # fmt: skip
