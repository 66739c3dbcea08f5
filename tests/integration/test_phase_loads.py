"""What single-phase members drew is stored by phase with the loads, and a start finds it again; real database."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from databases import both_layouts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads_plant import ROWS, Plant, W, as_put_off, plant

from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin
from rules.profile import PHASES
from rules.rungs import Rungs

pytestmark = both_layouts
PLACES = {1: "A", 2: "B", 3: "ABC", 4: "C", 5: "A", 6: "?"}
STEP = st.tuples(st.sampled_from(["send", "send", "send", "lose", "restart"]), st.sampled_from([300, 900, 3600]), ROWS)
Phases = dict[tuple[int, int], list[int]]


def table(made: Plant) -> Phases:
    found = made.sql(
        "SELECT transformer_id, extract(epoch FROM window_end)::bigint / 900 - 1, wh_a, wh_b, wh_c"
        " FROM transformer_loads"
    )
    return {(t, w): sums for t, w, *sums in found if any(sums)}


def by_hand(made: Plant) -> Phases:
    """Every stored read of a single-phase member, one by one."""
    of = dict(made.sql("SELECT slot, transformer_id FROM meter_transformers"))
    total: Phases = defaultdict(lambda: [0, 0, 0])
    for slot, end_s, length, quality, wh in made.sql(
        "SELECT slot, extract(epoch FROM end_at)::bigint, interval_s, quality, import_wh FROM reads"
    ):
        origin = (quality & ORIGIN_MASK) >> ORIGIN_SHIFT
        if slot not in of or len(PLACES[slot]) > 1 or origin in (Origin.ESTIMATED, Origin.SUBSTITUTED):
            continue
        start_s = end_s - length
        for window in range(start_s // W, (end_s - 1) // W + 1):
            since, until = max(window * W - start_s, 0), min((window + 1) * W - start_s, length)
            total[of[slot], window]["ABC".index(PLACES[slot])] += wh * until // length - wh * since // length
    return {key: sums for key, sums in total.items() if any(sums)}


def place(made: Plant) -> None:
    for slot, phases in PLACES.items():
        made.sql("UPDATE meters SET phases = %s WHERE slot = %s", phases, slot)


async def live(made: Plant, steps: Any) -> None:
    for what, interval_s, rows in steps:
        rows = [(meter, back, interval_s, wh, guess) for meter, back, _, wh, guess in rows]
        if what == "restart":
            await made.start()
            continue
        stored = await asyncio.to_thread(made.write, rows)
        if what == "lose":  # stored, and the service died before it was evaluated
            await made.start()
        else:
            await made.evaluate([stored])


def ring_of(made: Plant) -> tuple[list[Rungs], np.ndarray, int]:
    assert made.rules is not None
    overload = made.rules.engine.overload
    phases = overload._phases
    assert phases is not None
    return phases.rungs, phases.single, overload.tail


@settings(max_examples=12, suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(STEP, min_size=2, max_size=6), st.booleans())
def test_the_sums_by_phase_are_those_of_the_stored_reads_and_survive_a_restart(
    dsn: str, steps: Any, put_off: bool
) -> None:
    async def run() -> None:
        async with plant(dsn) as made:
            place(made)
            made.profile = PHASES
            await made.start()
            await live(made, steps)
            _, before, tail = ring_of(made)
            await made.start()
            _, after, again = ring_of(made)
            assert table(made) == by_hand(made)
            if by_hand(made):
                assert tail == again
                np.testing.assert_array_equal(before, after)

    with pytest.MonkeyPatch.context() as patch:
        if put_off:
            as_put_off(patch)
        asyncio.run(run())


async def test_a_database_without_phases_is_counted_anew_when_the_profile_asks_for_them(dsn: str) -> None:
    async with plant(dsn) as made:
        place(made)
        await made.start()
        await made.evaluate(
            [made.write([(meter, back, 900, 1000 + meter, False) for meter in PLACES for back in range(9)])]
        )
        assert made.sql("SELECT count(*) FROM transformer_loads WHERE wh_a IS NOT NULL") == [(0,)]
        made.profile = PHASES
        await made.start()
        assert table(made) == by_hand(made)
