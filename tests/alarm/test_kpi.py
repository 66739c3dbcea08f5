"""Laws of the figures about the alarm system."""

from __future__ import annotations

import pytest

from alarm.kpi import WINDOW_US, kpis
from meterwatch.alarms import Pages

NOW_US = 1_700_000_000_000_000
FROM_US = NOW_US - 6 * WINDOW_US


def pages(*counts: int) -> Pages:
    """So many pages in each window, the oldest first."""
    return Pages(dict(enumerate(reversed(counts))), [], [])


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
    assert found.pages_now == counts[-1]


def test_silence_is_no_flood() -> None:
    found = kpis(Pages({}, [], []), FROM_US, NOW_US, 1)
    assert (found.pages, found.pages_max, found.flood_now, found.top) == (0, 0, False, [])
