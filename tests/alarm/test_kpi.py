"""Laws of the figures about the alarm system."""

from __future__ import annotations

import pytest

from alarm.kpi import WINDOW_US, kpis
from meterwatch.alarms import Began

NOW_US = 1_700_000_000_000_000
FROM_US = NOW_US - 6 * WINDOW_US


def pages(*counts: int, asset: str | None = None) -> list[Began]:
    """So many pages in each window, evenly spread; each of an asset of its own unless one is given."""
    return [
        Began(FROM_US + w * WINDOW_US + (i + 1) * WINDOW_US // count, ("OUTAGE", "transformer", asset or f"{w}-{i}"))
        for w, count in enumerate(counts)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("counts", "operators", "floods", "now"),
    [
        ((10, 10, 0, 0, 0, 0), 1, 0, False),
        ((11, 5, 4, 10, 0, 0), 1, 2, False),
        ((0, 0, 0, 0, 0, 11), 1, 1, True),
        ((11, 11, 0, 0, 0, 0), 2, 0, False),
        ((21, 10, 9, 0, 0, 0), 2, 2, False),
    ],
)
def test_a_flood_begins_above_ten_per_operator_and_ends_below_five(
    counts: tuple[int, ...], operators: int, floods: int, now: bool
) -> None:
    found = kpis(pages(*counts), FROM_US, NOW_US, operators)
    assert (found.flood_windows, found.flood_now, found.windows) == (floods, now, 6)
    assert (found.pages, found.pages_max) == (sum(counts), -(-max(counts) // operators))


@pytest.mark.parametrize(("counts", "chatters"), [((3, 0), True), ((2, 2), False), ((1, 1, 1), False), ((0, 4), True)])
def test_three_times_in_ten_minutes_is_chattering(counts: tuple[int, ...], chatters: bool) -> None:
    found = kpis(pages(*counts, asset="T1"), FROM_US, NOW_US, 1)
    assert found.chattering == ([(("OUTAGE", "transformer", "T1"), sum(counts))] if chatters else [])


def test_the_ten_most_frequent_come_first_and_in_a_fixed_order() -> None:
    began = pages(*[1] * 6, asset="B") + pages(2, asset="C") + pages(2, asset="A") + pages(9)
    found = kpis(began, FROM_US, NOW_US, 1)
    assert [source[2] for source, _ in found.top[:3]] == ["B", "A", "C"]
    assert len(found.top) == 10


def test_silence_is_no_flood() -> None:
    found = kpis([], FROM_US, NOW_US, 1)
    assert (found.pages, found.pages_max, found.flood_now, found.top) == (0, 0, False, [])
