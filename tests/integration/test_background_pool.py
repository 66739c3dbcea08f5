"""The jobs in the background have few connections of their own, and those who are waited for need none of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from databases import Databases
from served import ENOUGH_S, METERS, fresh_database, fresh_end_us, serving

from meterwatch.v1 import ingest_pb2 as pb
from storage.pool import BACKGROUND_SIZE_MAX


def test_an_ack_waits_for_no_job_in_the_background(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        pool = served.service.gaps._arrived._pool
        assert served.service.days._store._pool is pool, "they read much at once"
        assert pool.max_size == BACKGROUND_SIZE_MAX
        let_go = asyncio.Event()
        held = asyncio.Event()

        async def hold_all() -> None:
            async with AsyncExitStack() as stack:
                for _ in range(BACKGROUND_SIZE_MAX):
                    await stack.enter_async_context(pool.connection(timeout=ENOUGH_S))
                held.set()
                await let_go.wait()

        holding = asyncio.run_coroutine_threadsafe(hold_all(), served.loop)
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(held.wait(), ENOUGH_S), served.loop).result(ENOUGH_S)
        with served.stream() as raw:
            count = len(METERS)
            batch = pb.ReadBatch(
                seq=1, interval_s=900, meter_index=range(count), stamp_us=[fresh_end_us()] * count,
                import_wh=[100] * count,
            )  # fmt: skip
            assert raw.ask(batch).ack.accepted == count
        served.loop.call_soon_threadsafe(let_go.set)
        holding.result(ENOUGH_S)
