"""Calls of the product that look up days, balances, interruptions and loads by a list of keys."""

from __future__ import annotations

import numpy as np
from asked import NEXT, WINDOW_S, Asked, crossed, lookup
from young_world import (
    DAY,
    DAY_US,
    ENDS,
    METERS,
    RECEIVED_US,
    START_US,
    STEP_US,
)

from meterwatch.loads import LoadChange, Loads
from meterwatch.weather import Reading
from storage import load_estimates
from storage.ambient import AmbientStore
from storage.arrivals import Arrivals
from storage.estimates import EstimateStore
from storage.flexibility import FlexibilityStore
from storage.forecasts import ForecastStore
from storage.interruptions import InterruptionStore, Known
from storage.loads import load_view, mark_evaluated
from storage.meter_days import COLUMNS, DayStore
from storage.past_loads import PastLoads


@lookup
async def days_of_meters_judged(ask: Asked) -> int:
    start_us = np.full(ask.keys, START_US - DAY_US // 2, np.int64)
    end_us = start_us + DAY_US
    async with DayStore(ask.pool).step() as step:
        assert len((await step.reads(ask.slots, start_us, end_us))[0]) == ENDS * ask.keys
        await step.events(ask.slots, start_us, end_us)
        await step.registers(ask.slots, start_us, end_us)
        assert len((await step.stored(ask.slots, [DAY - back for back in (0, 1, 3, 7)]))[0]) == 4 * ask.keys
        slot, marked_us = crossed(ask)
        ones = np.ones(len(slot), np.int32)
        await step.mark_reads(slot, marked_us, ones * 8192, ones)
        columns = [np.full(ask.keys, START_US if name.endswith(("_at", "_end")) else 1, np.int64) for name in COLUMNS]
        await step.store(DAY, ask.slots, columns)
        await step.owe_later(ask.slots, [DAY - 1, DAY - 2])
        await step.owe_estimates(ask.slots, [DAY - 1, DAY - 2])
        at = [np.full(ask.keys, START_US, np.int64)] * 2
        wh = [np.ones(ask.keys, np.int64)] * 3
        await step.store_registers(DAY - 1, ask.slots, [ask.slots, np.ones(ask.keys, np.int32), *at, *wh])
        figures = tuple(np.zeros(ask.keys) for _ in range(3))
        await step.store_clocks(DAY, ask.slots, figures, np.ones(ask.keys, np.int64))
    return ENDS * ask.keys


@lookup
async def balances_of_transformers(ask: Asked) -> int:
    """Of those to which some of the meters belong, with their ten meters each."""
    async with DayStore(ask.pool).step() as step:
        energy = await step.energy(DAY, ask.slots, START_US, START_US + DAY_US, METERS + 1)
        measured = len(energy[0])
        assert measured >= ask.keys / 4
        await step.store_balances(DAY, energy, np.zeros(measured), np.arange(measured) % 2 == 0)
    return 10 * ask.keys


@lookup
async def marks_of_days_owed_and_taken(ask: Asked) -> int:
    days = DayStore(ask.pool)
    await days.owe(np.full(ask.keys, DAY - 1, np.int32), ask.slots)
    marks, _ = await days.owed(DAY - 1, ask.keys)
    async with days.step() as step:
        await step.paid(marks)
    estimates = EstimateStore(ask.pool)
    marks, _ = await estimates.owed(DAY - 1, ask.keys)
    await estimates.paid(marks)
    return METERS  # marks of that day, of which the oldest are taken


@lookup
async def reads_and_events_not_judged(ask: Asked) -> int:
    """A scan of all that has the ends of these batches."""
    await DayStore(ask.pool).unjudged()
    return METERS * ENDS


@lookup
async def interruptions_of_some_meters(ask: Asked) -> int:
    store = InterruptionStore(ask.pool)
    marks = await store.owe([("meter", slot, START_US) for slot in ask.slots.tolist()])
    start_us = np.full(ask.keys, START_US + 1, np.int64)
    known = Known(ask.slots, START_US - 3 * 3_600_000_000, ask.slots, start_us, start_us + 1)
    await store.write([known], marks)
    return 5 * ask.keys


@lookup
async def loads_and_marks_committed(ask: Asked) -> int:
    """What is owed is settled at once, all of it."""
    async with ask.pool.connection() as connection, connection.transaction(force_rollback=True):
        cursor = connection.cursor()
        for phases, past_owed in ((False, False), (True, True)):
            await cursor.execute("SELECT batch_id FROM batches WHERE NOT evaluated LIMIT 4")
            batch_ids = [row[0] for row in await cursor.fetchall()]
            await mark_evaluated(cursor, batch_ids, _change(ask, phases, past_owed))
    return METERS * 4


def _change(ask: Asked, phases: bool, past_owed: bool) -> LoadChange:
    n = ask.keys
    ones = np.ones(n, np.int64)
    window = np.full(n, START_US // STEP_US, np.int64)
    phase_wh = np.ones((n, 3), np.int64) if phases else None
    counted, added = (Loads(ask.transformers, window + i, ones, ones, ones, phase_wh) for i in (0, 1))
    return LoadChange(
        WINDOW_S, counted, ones, added, ones, ask.transformers, ones, past_owed, (1, 2), np.arange(1, 1 + n)
    )


@lookup
async def loads_of_some_transformers(ask: Asked) -> int:
    first = START_US // STEP_US
    for phases in (False, True):
        past = PastLoads(ask.pool, WINDOW_S, phases=phases)
        assert await past.oldest(ask.transformers) is not None
        assert len(await past.between(ask.transformers, first, first + 4)) == 4 * ask.keys
        async with load_view(ask.pool, WINDOW_S, phases=phases) as view:
            cells = view.loads(START_US, START_US + 4 * STEP_US, ask.transformers.tolist())
            assert sum([len(one) async for one in cells]) == 4 * ask.keys
    loads, _ = await ForecastStore(ask.pool, WINDOW_S).loads(ask.transformers, first, first + 4)
    assert len(loads) == 4 * ask.keys
    [end_us, *_] = await Arrivals(ask.pool).loads(ask.transformers.astype(np.int32), START_US, START_US + 4 * STEP_US)
    assert len(end_us) == 4
    return 5 * ask.keys


@lookup
async def load_estimates_of_some_transformers(ask: Asked) -> int:
    span = (START_US, START_US + 4 * STEP_US)
    async with ask.pool.connection() as connection, connection.transaction():
        await load_estimates.told_of(connection, ask.transformers, *span)
        ones = np.ones(ask.keys, np.int64)
        cells = Loads(ask.transformers, np.full(ask.keys, START_US // STEP_US, np.int64), ones, ones, ones)
        await load_estimates.store_estimates(connection, ask.transformers, span, WINDOW_S, cells, ones)
    return 4 * ask.keys


@lookup
async def what_customers_can_spare(ask: Asked) -> int:
    store = FlexibilityStore(ask.pool)
    assert len((await store.at(ask.slots, START_US))[0]) == ask.keys
    assert len((await store.energy(ask.slots, START_US))[0]) == ask.keys
    return 8 * ask.keys


@lookup
async def temperatures_of_some_areas(ask: Asked) -> int:
    store = AmbientStore(ask.pool)
    areas = [f"D{n}" for n in range(min(ask.keys, 20))]
    await store.record([Reading(area, START_US, 9.0 + next(NEXT) % 7) for area in areas], RECEIVED_US)
    assert len(await store.readings(START_US, START_US + 3 * 3_600_000_000, areas=areas)) == 4 * len(areas)
    return 4 * 100  # of all areas in that time
