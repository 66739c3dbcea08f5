"""A meter that is moved counts for each transformer while it hung there, however late its reads or the news of it."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest
from loads_plant import START_US, VARH_PER_WH, Cells, Plant, W, plant

from meterwatch import stored_loads
from meterwatch.registry_csv import KINDS, RegistryCsv, parse
from storage.registry import RegistryStore

US = 1_000_000


def sums(made: Plant) -> Cells:
    """The oracle: every stored read, one by one, where its meter hung when it ended."""
    stays = made.sql(
        "SELECT slot, transformer_id, extract(epoch FROM valid_from) * 1000000,"
        " CASE WHEN valid_to = 'infinity' THEN 9e18 ELSE extract(epoch FROM valid_to) * 1000000 END"
        " FROM meter_transformers"
    )
    total: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for slot, end_s, length, wh in made.sql(
        "SELECT slot, extract(epoch FROM end_at)::bigint, interval_s, import_wh FROM reads"
    ):
        for transformer in [t for s, t, since, until in stays if s == slot and since < end_s * US <= until]:
            varh, start_s = round(max(wh, 0) * VARH_PER_WH), end_s - length
            for window in range(start_s // W, (end_s - 1) // W + 1):
                since, until = max(window * W - start_s, 0), min((window + 1) * W - start_s, length)
                cell = total[transformer, window]
                cell[0] += wh * until // length - wh * since // length
                cell[1] += varh * until // length - varh * since // length
                cell[2] += (7500 if slot % 2 == 0 else 1000) * (until - since)
    return {key: (cell[0], cell[1], cell[2]) for key, cell in total.items() if any(cell)}


async def move(made: Plant, meter: int, transformer: str, back: int) -> None:
    """Import the news that the meter was moved that many windows before the start of the test."""
    contract = "7.5" if meter % 2 == 0 else ""
    row = dict.fromkeys(KINDS["meters"].columns, "") | {
        "meter": f"M-{meter}", "transformer": transformer, "contract_kw": contract, "installed_on": "2020-01-01",
    }  # fmt: skip
    text = f"{','.join(row)}\n{','.join(row.values())}\n"
    imported = await RegistryStore(made.pool).import_files(
        parse([RegistryCsv("meters", "meters.csv", text.encode())]), START_US - back * W * US
    )
    assert not imported.problems
    await made.start(own=False)


async def send(made: Plant, rows: list[tuple[int, int, int, int]]) -> None:
    stored = await asyncio.to_thread(made.write, [(*row, False) for row in rows])
    await made.evaluate([stored])


async def test_reads_of_before_the_move_count_for_the_old_transformer(dsn: str) -> None:
    async with plant(dsn) as made:
        made.sql("TRUNCATE transformer_loads_dirty")
        await made.start()
        await send(made, [(1, back, 900, 100 + back) for back in range(8, 40)])
        assert {t for t, _ in made.table()} == {2}
        await move(made, 1, "T1", 20)
        assert made.table() == sums(made), "the windows since the move are counted again"
        assert {t for t, _ in made.table()} == {1, 2}
        await send(made, [(1, back, 900, 7) for back in (*range(0, 8), *range(40, 60))])
        assert made.table() == sums(made), "late reads of before the move are the old transformer's"
        await made.start()
        assert made.table() == sums(made)


async def test_news_of_a_move_weeks_ago_is_heeded_too(dsn: str) -> None:
    """Windows that have left the ring of 48 h are counted again from the move on, and no others."""
    async with plant(dsn) as made:
        made.sql("TRUNCATE transformer_loads_dirty")
        await made.start()
        await send(made, [(3, back, 900, 100 + back) for back in range(1, 1500, 7)])
        await send(made, [(5, back, 3600, 900 + back) for back in range(1, 300, 7)])
        await send(made, [(2, back, 900, 5) for back in range(1, 1500, 50)])
        assert made.rules is not None
        assert made.desk is not None
        await made.rules.record(made.desk, await made.rules.evaluate(START_US, whole=True), [])
        assert made.sql("SELECT count(*) FROM transformer_loads_owed") == [(0,)], "or they are counted again too"
        untouched = {key: cell for key, cell in made.table().items() if key[1] < START_US // US // W - 1300}
        made.sql("UPDATE transformer_loads SET varh = varh + 1 WHERE window_end < to_timestamp(%s)",
                 START_US // US - 1300 * W)  # fmt: skip
        await move(made, 3, "T1", 1000)
        await move(made, 5, "T1", 1001)
        made.sql("UPDATE transformer_loads SET varh = varh - 1 WHERE window_end < to_timestamp(%s)",
                 START_US // US - 1300 * W)  # fmt: skip
        assert untouched.items() <= made.table().items(), "what is older than the move stays as it was stored"
        assert made.table() == sums(made)
        assert made.sql("SELECT count(*) FROM transformer_loads_dirty") == [(0,)]


async def test_what_is_too_much_at_once_waits_for_the_next_start(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_loads, "CELLS_MAX", 1)
    async with plant(dsn) as made:
        made.sql("TRUNCATE transformer_loads_dirty")
        await made.start()
        await send(made, [(3, back, 900, 100 + back) for back in range(1, 1500, 7)])
        await move(made, 3, "T1", 1000)
        assert made.sql("SELECT count(*) FROM transformer_loads_dirty") == [(1,)], "one mark of the two transformers"
        assert made.table() != sums(made)
        await made.start()
        assert made.sql("SELECT count(*) FROM transformer_loads_dirty") == [(0,)]
        assert made.table() == sums(made)


@pytest.mark.parametrize("seed", range(3))
async def test_moves_and_reads_in_any_order_leave_the_sums_of_the_reads(dsn: str, seed: int) -> None:
    rnd = random.Random(seed)
    rows = [
        (rnd.randrange(1, 6), back, 900, rnd.randrange(40_000))
        for back in rnd.sample(range(900), 200)
    ]  # fmt: skip
    places_of = (("T2", 700), ("T1", 400), ("T2", 30))
    moves: list[Any] = [(meter, name, back) for meter in (1, 2) for name, back in places_of]
    todo: list[Any] = [rows[at : at + 20] for at in range(0, len(rows), 20)]
    places = sorted(rnd.sample(range(len(todo) + len(moves)), len(moves)))
    for place, one in zip(places, moves, strict=True):
        todo.insert(place, one)
    async with plant(dsn) as made:
        made.sql("TRUNCATE transformer_loads_dirty")
        await made.start()
        for one in todo:
            await (send(made, one) if isinstance(one, list) else move(made, *one))
            if rnd.random() < 0.2:
                await made.start()
        await made.start()
        assert made.table() == sums(made)
