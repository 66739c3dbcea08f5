"""The bench's taxes: what a less convenient load costs beside the plain one, by CPU of all processes."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from loadtest.arms import Arms, Calendar, Figure
from loadtest.cpu import TICK_S
from loadtest.database import Database
from loadtest.fleet import THREE_PHASE, Fleet
from loadtest.load import Load


def taxes(
    database: Database,
    fleet: Fleet,
    calendar: Calendar,
    arms: Arms,
    intervals: int,
    rounds: int,
    say: Callable[[Figure], None],
) -> tuple[list[Figure], dict[str, float]]:
    """Each variant in turn with the plain load, so that both meet the same table; CPU of all processes per read.

    On a day of their own: a COPY into a chunk costs the more the fuller the chunk is.
    """
    plain, day_us = Load(0, intervals), fleet.end_us(calendar.next_day())
    database.make_chunk(day_us)
    variants = {
        "order_tax": Load(0, intervals, shuffled=True),
        "small_batch_tax": Load(0, intervals, batch_rows=1_000),
        "three_phase_tax": Load(0, intervals, channels=THREE_PHASE),
        "late_tax": Load(0, intervals, late_share=0.1),
    }
    runs: list[Figure] = []
    figures: dict[str, float] = {}
    for key, load in variants.items():
        ratios: list[float] = []
        for _ in range(rounds):
            pair, grown = [], []
            for arm, one in ((f"{key} plain", plain), (key, load)):
                table_before = database.chunk_bytes(day_us)[1]
                pair.append(arms.through_service(arm, calendar.take(one)))
                grown.append((database.chunk_bytes(day_us)[1] - table_before) / pair[-1].stored)
                say(pair[-1])
            ratio = pair[1].all_s_per_mread / max(pair[0].all_s_per_mread, TICK_S)
            if key == "three_phase_tax" and all(grown):
                ratio *= grown[0] / grown[1]  # per byte stored
            ratios.append(ratio)
            runs += pair
        figures[key] = median(ratios)
    return runs, figures
