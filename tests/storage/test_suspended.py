"""What is written of rules that stand aside: the first error's time, the earliest beginnings; and nothing once paid."""

from __future__ import annotations

import numpy as np
import psycopg

from storage.pool import new_pool
from storage.suspended import Kept, SuspendedStore

S = 1_000_000


def kept(since_s: int, from_s: int, error: str, missed: dict[int, int], asset_kind: str = "transformer") -> Kept:
    asset, first_s = np.array(list(missed), np.int64), np.array(list(missed.values()), np.int64)
    return Kept("OVERLOAD", asset_kind, since_s * S, from_s * S, error, asset, first_s * S)


def plain(one: Kept) -> tuple[object, ...]:
    missed = zip(one.asset.tolist(), (one.first_us // S).tolist(), strict=True)
    return (one.rule, one.asset_kind, one.since_us // S, one.from_us // S, one.error, dict(missed))


async def test_what_is_kept_again_keeps_the_first_error_and_the_earliest_of_what_was_missed(dsn: str) -> None:
    async with new_pool(dsn) as pool:
        store = SuspendedStore(pool)
        await store.keep(kept(1000, 900, "a", {3: 500, 4: 600}))
        await store.keep(kept(1000, 900, "a", {}))
        await store.keep(kept(2000, 950, "b", {3: 550, 4: 400, 5: 800}))
        await store.keep(kept(3000, 700, "c", {}, "feeder"))
        assert [plain(one) for one in await store.kept()] == [
            ("OVERLOAD", "feeder", 3000, 700, "c", {}),
            ("OVERLOAD", "transformer", 1000, 900, "b", {3: 500, 4: 400, 5: 800}),
        ]
        await store.paid("OVERLOAD", "transformer")
        assert [plain(one)[1] for one in await store.kept()] == ["feeder"]
        await store.paid("OVERLOAD", "feeder")
        assert await store.kept() == []
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM suspended_rules_missed").fetchone() == (0,)
