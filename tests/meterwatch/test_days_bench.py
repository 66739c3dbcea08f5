"""The measurement of judging days, on a fleet of two transformers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterwatch.devtools.days_bench import measure


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where PostgreSQL may go whose account it runs under; pytest's own are for the owner alone."""
    made = Path(tempfile.mkdtemp(prefix="meterwatch-test-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_the_same_days_judged_twice_give_the_same_and_what_it_cost_is_told(directory: Path) -> None:
    first, second = measure(200, directory, rounds=2)
    assert first["reads"] == second["reads"] == 200 * 192 - 2 * 16, "two of them have a gap"
    assert first["digest"] == second["digest"]
    for figures in (first, second):
        assert min(figures[what][whose] for what in ("first", "again") for whose in ("service", "postgres")) > 0
        assert {"reads", "checks", "rest"} <= set(figures["parts"])
