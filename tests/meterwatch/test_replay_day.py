"""The measurement of a replay, on a fleet of two transformers for two hours."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterwatch.devtools.replay_day import measure


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where PostgreSQL may go whose account it runs under; pytest's own are for the owner alone."""
    made = Path(tempfile.mkdtemp(prefix="meterwatch-test-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_small_fleet_is_replayed_and_its_cost_is_told(directory: Path) -> None:
    found = measure(200, directory, intervals=8)
    assert (found["meters"], found["reads"]) == (200, 1600)
    assert found["rss_mb_max"] > 0
    assert found["python_cpu_s_per_mread"] > 0
    again = measure(200, directory)
    assert again["reads"] == 1600, "what is there is replayed as it is"
