"""The bench's arm about catching up: a day that a head-end sends meter by meter, beside reads sent as they fall due.

The clock of the service stands at the end of the day when the backlog comes: before it all meters send the day's last
interval, so that nobody is silent. By interval and by meter it is the same day, of as many other meters.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Final

from loadtest.arms import Arms, Calendar, Figure, middle
from loadtest.database import Database
from loadtest.fleet import Fleet
from loadtest.load import Backlog, Load

DAY_INTERVALS: Final = 95
"""Not 96: after 24 h without a read a meter is silent, and that is another matter."""


def catch_up(
    arms: Arms,
    database: Database,
    fleet: Fleet,
    calendar: Calendar,
    part: float,
    intervals: int,
    rounds: int,
    say: Callable[[Figure], None],
) -> tuple[list[Figure], dict[str, float]]:
    """Live, then a day by interval, then by meter, in turn. part: of the meters in each backlog; intervals: of live."""
    runs: list[Figure] = []
    for _ in range(rounds):
        runs.append(arms.through_service("live", calendar.take(Load(0, intervals))))
        say(runs[-1])
        day = calendar.take(Load(0, DAY_INTERVALS))
        last = day.first + DAY_INTERVALS - 1
        for at in (day.first, last):
            database.make_chunk(fleet.end_us(at))
        arms.through_service("clock", Load(last, 1))
        for arm, piece in (("backlog by interval", (0.0, part)), ("backlog by meter", (part, 2 * part))):
            backlog = Backlog(day.first, DAY_INTERVALS - 1, piece, by_meter=arm == "backlog by meter")
            runs.append(arms.through_service(arm, backlog))
            say(runs[-1])
    live, by_interval, by_meter = (
        [one for one in runs if one.arm == arm] for arm in ("live", "backlog by interval", "backlog by meter")
    )
    return runs, {
        "catchup_over_flatout": middle(by_meter, "rate") / middle(live, "rate"),
        "catchup_over_flatout_by_cpu": middle(live, "all_s_per_mread") / middle(by_meter, "all_s_per_mread"),
        "catchup_by_meter_over_by_interval": middle(by_meter, "rate") / middle(by_interval, "rate"),
        "catchup_service_cpu_s_per_mread": median(one.service_s / one.reads for one in by_meter) * 1e6,
    }
