"""Learnt delivery: bounded, from what was reported, written ahead of the faults it is used for."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from meterwatch.clock import ReplayClock
from meterwatch.delivery import DAY_US, FIRST_WEIGHT, P_MAX, P_MIN, Learnt, Reported, learn
from meterwatch.learning import Learning

TODAY_US = 20_000 * DAY_US
counts = st.integers(0, 500).flatmap(lambda affected: st.tuples(st.integers(0, affected), st.just(affected)))


@given(st.lists(st.dictionaries(st.sampled_from(["PLC", "4G"]), counts)), st.floats(0.05, 0.99), st.randoms())
def test_what_is_learnt_is_the_share_reported_within_bounds_in_any_order(outages, first, random) -> None:  # type: ignore[no-untyped-def]
    rows = learn(outages, lambda _: first, TODAY_US)
    for row in rows:
        some = sum(outage.get(row.comm_mode, (0, 0))[0] for outage in outages)
        every = sum(outage.get(row.comm_mode, (0, 0))[1] for outage in outages)
        assert abs(row.p_gasp - (FIRST_WEIGHT * first + some) / (FIRST_WEIGHT + every)) <= 0.05 + 1e-4
        assert P_MIN <= row.p_gasp <= P_MAX
    shuffled = list(outages)
    random.shuffle(shuffled)
    assert learn(shuffled, lambda _: first, TODAY_US) == rows


class Sink:
    """A store in memory."""

    def __init__(self, told: Reported) -> None:
        self.told, self.rows, self.asked = told, list[Learnt](), list[tuple[int, int]]()

    async def outages(self, from_us: int, to_us: int, lasted_us: int) -> list[Reported]:
        self.asked.append((from_us, to_us))
        return [self.told]

    async def learnt(self) -> list[Learnt]:
        return list(self.rows)

    async def keep(self, rows: list[Learnt], now_us: int) -> None:
        self.rows += rows


def test_rows_are_for_faults_after_they_were_written_and_only_what_changed_is_kept() -> None:
    store, taught = Sink({"PLC": (300, 600)}), list[list[Learnt]]()

    async def tell(rows: list[Learnt]) -> None:
        taught.append(rows)

    def look(now_us: int) -> None:
        asyncio.run(Learning(store, ReplayClock(now_us), lambda _: 0.8, tell).look())

    look(TODAY_US + 1)
    assert [(row.from_us, row.comm_mode, row.p_gasp) for row in store.rows] == [(TODAY_US + DAY_US, "PLC", 0.575)]
    assert store.asked[0][1] < TODAY_US
    look(TODAY_US + 2)
    look(TODAY_US + DAY_US)
    assert len(store.rows) == 1
    store.told = {"PLC": (0, 600)}
    look(TODAY_US + DAY_US)
    assert [row.from_us for row in store.rows] == [TODAY_US + DAY_US, TODAY_US + 2 * DAY_US]
    assert len(taught) == 2
