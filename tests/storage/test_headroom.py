"""Load, coverage and headroom in SQL, and the losses of a district: as added up by hand, by the tree of their time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from math import hypot, sqrt
from typing import Any

import numpy as np
import psycopg
import pytest

START = datetime(2026, 2, 1, tzinfo=UTC)
STEP = timedelta(minutes=15)
MOVED = START + 4 * STEP
"""T1 goes from F0 to F1 after four windows."""
WINDOWS = 8
SETUP = """
TRUNCATE transformer_loads, transformer_days, transformers, feeders CASCADE;
INSERT INTO feeders (feeder_id, feeder, ampacity_a) VALUES (0, 'F0', 100), (1, 'F1', NULL);
INSERT INTO transformers (transformer_id, transformer, rated_kva, district) VALUES
  (0, 'T0', 400, 'North'), (1, 'T1', 100, 'North'), (2, 'T2', 250, 'South');
"""


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """The tree of this module; nothing of it is kept."""
    with psycopg.connect(dsn) as connection:
        connection.execute(SETUP)
        connection.cursor().executemany(
            "INSERT INTO transformer_feeders (transformer_id, feeder_id, valid_from, valid_to) VALUES (%s, %s, %s, %s)",
            [
                (0, 0, START, "infinity"),
                (1, 0, START, MOVED),
                (1, 1, MOVED, "infinity"),
            ],
        )
        yield connection
        connection.rollback()


def test_headroom_and_load_of_feeders_are_sums_over_the_tree_of_their_time(
    connection: psycopg.Connection[Any],
) -> None:
    rng = np.random.default_rng(3)
    cells = {
        (t, w): [int(v) for v in rng.integers((-9000, -900, 0), (90_000, 40_000, 900))]
        for t in (0, 1, 2)
        for w in range(WINDOWS)
        if (t, w) != (0, 2)
    }
    connection.cursor().executemany(
        "INSERT INTO transformer_loads VALUES (%s, %s, %s, %s, %s, 900)",
        [(START + (w + 1) * STEP, t, *sums) for (t, w), sums in cells.items()],
    )
    found = {
        (feeder, end): row
        for feeder, end, *row in connection.execute(
            "SELECT * FROM feeder_load_curve(%s, %s, 20)", (START, START + WINDOWS * STEP)
        )
    }
    below = {("F0", w): [t for t in (0, 1) if (t, w) in cells and (t == 0 or w < 4)] for w in range(WINDOWS)} | {
        ("F1", w): [1] for w in range(4, WINDOWS)
    }
    expected = {}
    for (feeder, w), members in below.items():
        wh, varh, covered = (sum(cells[t, w][i] for t in members) for i in range(3))
        kva, rated = hypot(wh, varh) / 250, 100 * 20 * sqrt(3) if feeder == "F0" else None
        shares = (
            (kva / rated, covered / (900 * len(members)), rated - kva)
            if rated
            else (None, covered / (900 * len(members)), None)
        )
        expected[feeder, START + (w + 1) * STEP] = [rated, wh / 250, kva, *shares, len(members)]
    assert found.keys() == expected.keys()
    for place, row in expected.items():
        assert found[place] == [one if one is None else pytest.approx(one) for one in row], place

    curve = connection.execute("SELECT transformer, window_end, headroom_kva FROM transformer_load_curve").fetchall()
    assert {(name, end): headroom for name, end, headroom in curve} == {
        (f"T{t}", START + (w + 1) * STEP): pytest.approx((400, 100, 250)[t] - hypot(*sums[:2]) / 250)
        for (t, w), sums in cells.items()
    }


def test_losses_of_a_district_are_of_the_transformers_that_were_judged(connection: psycopg.Connection[Any]) -> None:
    day = date(2026, 2, 1)
    connection.cursor().executemany(
        "INSERT INTO transformer_days VALUES (%s, %s, %s, %s, 9, 1, 1, %s, false)",
        [(day, 0, 1000, 950, 0.05), (day, 1, 3000, 2700, 0.1), (day, 2, 5000, 1000, None)],
    )
    assert connection.execute("SELECT * FROM district_losses").fetchall() == [("North", day, 2, 4000, 3650, 0.0875)]
