"""The table of transformer loads is the sum of the evaluated reads, whatever happened on the way; real database."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from databases import both_layouts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads_plant import METERS, ROWS, START_US, US, W, as_put_off, plant

import rules.heat_past
import rules.overload
import rules.past
from alarm.desk import AlarmDesk
from meterwatch import wired_rules
from meterwatch.errors import StorageUnavailable
from meterwatch.wired_rules import hear
from storage.alarms import AlarmStore
from storage.history import History
from storage.registry import RegistryStore

pytestmark = both_layouts


@pytest.fixture
def put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    as_put_off(monkeypatch)


STEP = st.tuples(st.sampled_from(["send", "send", "send", "lose", "restart"]), st.sampled_from([300, 900, 3600]), ROWS)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, min_size=2, max_size=6), st.booleans(), st.booleans())
def test_the_table_is_the_sum_of_the_stored_reads_and_the_ring_is_the_table(
    dsn: str, steps: Any, put_off: bool, settled: bool
) -> None:
    async def live() -> None:
        async with plant(dsn) as made:
            await made.start()
            for what, interval_s, rows in steps:
                rows = [(meter, back, interval_s, wh, guess) for meter, back, _, wh, guess in rows]
                if what == "restart":
                    await made.start()
                    continue
                stored = await asyncio.to_thread(made.write, rows)
                if what == "lose":  # stored, and the service died before it was evaluated
                    made.lost.append(stored)
                    await made.start()
                else:
                    await made.evaluate([stored])
            assert made.rules is not None
            assert made.desk is not None
            if settled:
                await made.rules.settle(made.desk)
                assert made.table() == made.sums()
            alive = made.rules.engine.overload
            await made.start()
            assert made.rules is not None
            again = made.rules.engine.overload
            for window in range(alive.tail, alive._head + 1) if made.sums() else ():
                for mine, its in zip(alive.load(window), again.load(window), strict=True):
                    np.testing.assert_array_equal(mine, its)
            assert made.table() == made.sums()

    with pytest.MonkeyPatch.context() as patch:
        if put_off:
            as_put_off(patch)
        asyncio.run(live())


class _Unknown(AlarmStore):
    """Commits, and then says that it does not know."""

    fails = 0

    async def commit(self, *arguments: Any, **named: Any) -> list[int]:
        done = await super().commit(*arguments, **named)
        if self.fails:
            self.fails -= 1
            raise StorageUnavailable("the connection broke in COMMIT")
        return done


async def test_a_commit_of_unknown_outcome_that_is_repeated_adds_nothing(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        assert made.rules is not None
        store = _Unknown(made.pool)
        made.desk = await AlarmDesk.open(store, await RegistryStore(made.pool).load_topology(START_US), made.clock)
        stored = made.write([(1, 0, 900, 500, False), (2, 400, 900, 70, False)])
        store.fails = 1
        with pytest.raises(StorageUnavailable):
            await made.evaluate([stored])
        assert made.table() == made.sums()
        await made.rules.record(made.desk, [], [stored.batch_id])
        assert made.table() == made.sums()
        await made.evaluate([made.write([(1, 1, 900, 20, False)])])
        assert made.table() == made.sums()


async def test_a_commit_that_failed_is_made_up_for_by_the_next(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        assert made.rules is not None
        assert made.desk is not None
        stored = made.write([(1, 0, 900, 500, False)])
        made.rules.observe_reads([stored], START_US)
        assert made.table() == {}
        await made.rules.record(made.desk, [], [stored.batch_id])
        assert made.table() == made.sums() != {}


async def test_an_older_database_is_counted_once_from_its_reads(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(meter, back, 900, 100 * meter + back, False) for back in range(3)])
                             for meter in range(1, METERS + 1)])  # fmt: skip
        expected = made.sums()
        made.sql("TRUNCATE transformer_loads, transformer_members")
        await made.start()
        assert made.table() == expected
        made.sql("UPDATE reads SET import_wh = 0")  # so a second count would show
        await made.start()
        assert made.table() == expected


async def test_scattered_loads_come_within_seconds(dsn: str, put_off: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with plant(dsn) as made:
        await made.start()
        assert made.rules is not None
        assert made.desk is not None
        await made.evaluate([made.write([(1, 0, 900, 500, False)])])
        assert made.table() == {}
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(1,)]
        assert not made.rules.due
        monkeypatch.setattr(wired_rules, "PUT_OFF_S", 0.0)
        assert made.rules.due
        await made.rules.record(made.desk, [], [])
        assert made.table() == made.sums() != {}
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)]
        await made.rules.settle(made.desk)
        assert made.table() == made.sums()


async def test_loads_put_off_are_counted_after_a_crash(dsn: str, put_off: None) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 500, False), (2, 300, 900, 7, False)])])
        await made.evaluate([made.write([(1, 0, 900, 400, False), (3, 1, 900, 7, False)])])
        assert made.table() == {}
        await made.start()
        assert made.table() == made.sums() != {}


@pytest.mark.parametrize("scattered", [False, True])
async def test_what_is_owed_of_the_past_survives_a_crash(
    dsn: str, scattered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hours above the rating, five days late; no time to judge them before the crash."""
    overload = [(1, back, 900, 3000 if back >= 480 else 0, False) for back in range(470, 489)]
    overload += [(meter, back, 900, 0, False) for meter in (3, 5) for back in range(470, 489)]
    if scattered:
        as_put_off(monkeypatch)
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1, False)])])
        monkeypatch.setattr(wired_rules.TimeShare, "goes_on", lambda share: False)
        await made.evaluate([made.write(overload)])
        await made.evaluate([made.write([(2, 0, 900, 1, False)])])
        assert made.rules is not None
        assert made.desk is not None
        await made.rules.settle(made.desk)
        assert made.rules.past_owed == 1
        assert made.table() == made.sums()
        assert made.sql("SELECT count(*) FROM alarms WHERE rule = 'OVERLOAD'") == [(0,)]
        assert made.sql("SELECT bool_and(counted) FROM transformer_loads_owed") == [(True,)]
        await made.start()
        assert made.table() == made.sums()
        assert made.sql("SELECT state FROM alarms WHERE rule = 'OVERLOAD'") == [("NORMAL",)]
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)]


async def test_temperatures_that_wait_are_owed_and_found_after_a_crash(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third above the rating for a day, until two hours ago; no time to look back before the crash."""
    hot = [
        (meter, back, 900, 3000 if meter == 1 and back >= 8 else 0, False) for meter in (1, 3, 5) for back in range(100)
    ]
    query = "SELECT count(*) FROM alarms WHERE rule = 'HOT_SPOT'"
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1, False)])])
        with monkeypatch.context() as patch:
            patch.setattr(wired_rules.TimeShare, "goes_on", lambda share: False)
            await made.evaluate([made.write(hot)])
            assert made.rules is not None
            assert made.rules.past_owed == 1
            assert not made.rules.due
        assert made.sql("SELECT bool_and(counted) FROM transformer_loads_owed") == [(True,)]
        assert made.sql(query) == [(0,)]
        await made.start()
        assert made.sql(query) == [(1,)]
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)]


async def test_who_owes_too_much_is_judged_before_the_next_ack(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wired_rules, "OWED_MAX", 2)
    monkeypatch.setattr(wired_rules.TimeShare, "goes_on", lambda share: False)
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1, False)])])
        owed = []
        for meter in (1, 2, 1, 2):
            await made.evaluate([made.write([(meter, 480, 900, 1 + len(owed), False)])])
            assert made.rules is not None
            owed.append(made.rules.past_owed)
        assert owed == [1, 2, 0, 1]


async def test_a_batch_owes_nothing_once_its_past_is_judged(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1, False)])])
        monkeypatch.setattr(rules.past, "TRANSFORMERS_TOGETHER", 1)
        monkeypatch.setattr(rules.heat_past, "TRANSFORMERS_TOGETHER", 1)
        pieces: list[bool] = []
        assert made.rules is not None
        monkeypatch.setattr(made.rules._past, "goes_on", lambda: pieces.pop() if pieces else False)
        for meter in (1, 2):  # of two transformers
            await made.evaluate([made.write([(meter, 480, 900, 1, False)])])
        owed = "SELECT count(*) FROM transformer_loads_owed"
        for left in (1, 0):
            assert not made.rules.due
            pieces[:] = [False, True, True]  # of loads and of heat
            await made.rules.evaluate(START_US)
            assert made.rules.due
            await made.rules.record(made.desk, [], [])  # type: ignore[arg-type]
            assert (made.sql(owed), made.rules.past_owed) == ([(left,)], left)
        assert made.table() == made.sums()


async def test_loads_put_off_survive_a_change_of_the_registry(dsn: str, put_off: None) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 500, False), (2, 0, 900, 7, False)])])
        waiting = made.write([(1, 1, 900, 999, False), (1, 0, 900, 1, False)])
        made.sql("UPDATE meter_transformers SET transformer_id = 2 WHERE slot = 2")
        await made.start(own=False)
        assert made.rules is not None
        assert made.desk is not None
        await made.evaluate([waiting])
        await made.evaluate([made.write([(2, 3, 900, 8, False)])])
        await made.rules.settle(made.desk)
        assert made.table() == made.sums()


async def test_a_meter_that_moves_is_counted_where_it_is_now(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(meter, back, 900, 100 * meter, False) for back in range(3)])
                             for meter in range(1, METERS + 1)])  # fmt: skip
        waiting = made.write([(1, 1, 900, 999, False), (6, 300, 900, 5, False)])  # written, and not evaluated yet
        made.sql("UPDATE meter_transformers SET transformer_id = 2 WHERE slot = 2")
        made.sql("INSERT INTO meter_transformers VALUES (6, 1, '2020-01-01', 'infinity')")
        await made.start(own=False)
        await made.evaluate([waiting])
        assert made.table() == made.sums()
        await made.evaluate([made.write([(1, 2, 900, 1, False)])])
        assert made.table() == made.sums()
        await made.start()
        assert made.table() == made.sums()


async def test_the_curve_shows_power_share_and_coverage(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 0, 900, 1000, False), (3, 0, 900, 500, False)])])
        [(name, kw, kva, share, coverage)] = made.sql(
            "SELECT transformer, kw, kva, share_of_rating, coverage FROM transformer_load_curve"
        )
    assert (name, float(kw)) == ("T2", 6.0)
    assert kva == pytest.approx(6 / 0.95, rel=1e-3)
    assert share == pytest.approx(kva / 9)
    assert coverage == pytest.approx(2 / 3)


async def test_a_meter_heard_before_the_start_is_known_to_have_been(dsn: str) -> None:
    async with plant(dsn) as made:
        await made.start()
        await made.evaluate([made.write([(1, 3, 900, 1, False), (1, 5, 900, 1, False), (4, 0, 900, 1, False)])])
        await made.start()
        assert made.rules is not None
        in_place = made.rules
        await hear(lambda: in_place, History(made.pool), METERS + 1, 0)
        slot, at_us = in_place.engine.silence.last_heard()
    assert dict(zip(slot.tolist(), at_us.tolist(), strict=True)) == {1: START_US - 3 * W * US, 4: START_US}
