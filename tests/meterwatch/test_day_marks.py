"""Who is marked to be judged again: exactly the meter-days of closed local days, each once until it is judged."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch import day_marks
from meterwatch.day_marks import DayMarks
from meterwatch.local_days import as_date, as_number, day_of, day_starts_us

US = 1_000_000
ZONES = ("Europe/Berlin", "UTC", "Asia/Shanghai")
ZONE_OF = ["Europe/Berlin", "Europe/Berlin", "Asia/Shanghai", "UTC"]  # the last without a head-end
OPEN = date(2026, 3, 30)


def marks(*, open_day: date = OPEN) -> DayMarks:
    topology: Any = SimpleNamespace(head_end_zone=ZONES, head_end_of=np.array([0, 0, 2, -1], np.int32))
    found = DayMarks(topology)
    found.open_day = dict.fromkeys(found.zones, as_number(open_day))
    return found


def observe(to: DayMarks, reads: list[tuple[int, int]]) -> None:
    to.observe(np.array([slot for slot, _ in reads], np.int32), np.array([at for _, at in reads], np.int64))


async def saved(of: DayMarks) -> list[tuple[int, date]]:
    found: list[tuple[int, date]] = []

    async def owe(day: np.ndarray, slot: np.ndarray) -> None:
        found.extend((int(s), as_date(int(d))) for d, s in zip(day, slot, strict=True))

    await of.save(owe)
    return found


def local_date(slot: int, end_us: int) -> date:
    """The oracle: what a calendar on the wall says a microsecond before the end."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=end_us - 1)
    return at.astimezone(ZoneInfo(ZONE_OF[slot])).date()


moments = st.one_of(
    st.integers(as_number(date(2026, 3, 26)) * 96, as_number(date(2026, 4, 2)) * 96).map(lambda n: n * 900 * US),
    st.integers(0, as_number(date(2026, 4, 2)) * 96).map(lambda n: n * 900 * US + 1),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 3), moments), max_size=30), max_size=4))
async def test_every_late_meter_day_is_marked_once_and_nothing_else(changes):
    of = marks()
    for reads in changes:
        observe(of, reads)
    expected = {(slot, local_date(slot, at)) for reads in changes for slot, at in reads}
    found = await saved(of)
    if len({day for _, day in expected}) <= day_marks.REMEMBERED_DAYS:
        assert len(found) == len(set(found))
    assert set(found) == {(slot, day) for slot, day in expected if day < OPEN}
    assert await saved(of) == []


async def test_a_meter_day_is_marked_again_once_it_is_being_judged():
    of, at = marks(), [(1, day_starts_us("Europe/Berlin")[as_number(date(2026, 3, 20))] + 1)]
    observe(of, at)
    assert await saved(of) == [(1, date(2026, 3, 20))]
    observe(of, at)
    assert await saved(of) == []
    of.judging(as_number(date(2026, 3, 20)), np.array([1], np.int32))
    observe(of, at)
    assert await saved(of) == [(1, date(2026, 3, 20))]


async def test_marks_that_could_not_be_saved_are_kept():
    of = marks()
    observe(of, [(3, 5)])

    async def fails(day: Any, slot: Any) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await of.save(fails)
    assert await saved(of) == [(3, date(1970, 1, 1))]


async def test_another_registry_keeps_what_is_not_saved():
    of = marks()
    observe(of, [(3, 5)])
    of.replace(SimpleNamespace(head_end_zone=("UTC",), head_end_of=np.array([-1] * 9, np.int32)))
    observe(of, [(8, 5)])
    assert await saved(of) == [(3, date(1970, 1, 1)), (8, date(1970, 1, 1))]


async def test_what_is_remembered_is_bounded():
    of = marks()
    for day in range(2 * day_marks.REMEMBERED_DAYS):
        observe(of, [(3, day * 86_400 * US + 1)])
    assert len(of._marked) == day_marks.REMEMBERED_DAYS
    assert len(await saved(of)) == 2 * day_marks.REMEMBERED_DAYS


@pytest.mark.parametrize(
    ("zone", "day", "quarter_hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 92),
        ("Europe/Berlin", date(2026, 3, 28), 96),
        ("Europe/Berlin", date(2026, 10, 25), 100),
        ("Europe/Berlin", date(2024, 2, 29), 96),
        ("Europe/Berlin", date(2026, 12, 31), 96),
        ("Europe/Berlin", date(2038, 1, 19), 96),  # when 32 bits of seconds are over
        ("Europe/Berlin", date(2038, 3, 28), 92),
        ("America/New_York", date(2026, 11, 1), 100),
        ("Australia/Lord_Howe", date(2026, 4, 5), 98),  # by half an hour
        ("Asia/Kolkata", date(2026, 3, 29), 96),
        ("UTC", date(2016, 12, 31), 96),  # with a leap second, which POSIX does not count
    ],
)
def test_local_days_are_as_long_as_summer_time_makes_them(zone, day, quarter_hours):
    begin, end = day_starts_us(zone)[as_number(day) :][:2]
    assert (end - begin) // (900 * US) == quarter_hours
    assert day_of(zone, np.array([begin, begin + 1, end, end + 1])).tolist() == [
        as_number(day) + by for by in (-1, 0, 0, 1)
    ]  # fmt: skip


def test_a_zone_nobody_knows_is_utc():
    assert (day_starts_us("Nowhere/Land") == day_starts_us("UTC")).all()
