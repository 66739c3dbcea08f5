"""Profiles are chosen by name, and their numbers reach every rule of the engine."""

from __future__ import annotations

import numpy as np
import pytest
from towns import T0, town

from meterwatch.batch import EventCode, Events, ReadChange
from meterwatch.clock import US
from meterwatch.episodes import Episode
from rules.engine import Engine
from rules.profile import PROFILES

METERS, WINDOW_US = 5, 900 * US
START_US = T0 // WINDOW_US * WINDOW_US


def reads(end_us: int, share_of_rating: float) -> ReadChange:
    """A quarter-hour of one transformer of 400 kVA; the meters send their reactive energy: none."""
    wh = np.full(METERS, round(share_of_rating * 400_000 / 4 / METERS), np.int32)
    none, yes = np.zeros(METERS, np.int32), np.ones(METERS, np.bool_)
    return ReadChange(
        slot=np.arange(METERS, dtype=np.int32),
        end_us=np.full(METERS, end_us),
        interval_s=np.full(METERS, 900, np.int32),
        quality=none,
        import_wh=wh,
        export_wh=none,
        import_varh=none,
        export_varh=none,
        has_energy=yes,
        has_reactive=yes,
        sign=np.ones(METERS, np.int8),
    )


def told(engine: Engine, rule: str, now_us: int) -> list[Episode]:
    for wanted in engine.wanted():
        nothing = np.zeros(0, np.int32)
        engine.given(wanted, [], Events(nothing, nothing.astype(np.int64), nothing.astype(np.int16)))
    return [episode for v in engine.evaluate(now_us) if v.rule == rule for episode in v.episodes]


@pytest.mark.parametrize(("name", "windows"), [("default", 8), ("fast-overload", 2)])
def test_the_hold_of_the_overload_is_that_of_the_profile(name: str, windows: int) -> None:
    engine = Engine(town(feeders=1, transformers=1, meters=METERS), PROFILES[name])
    raised = []
    for i in range(1, 10):
        end_us = START_US + i * WINDOW_US
        engine.observe_reads(reads(end_us, 1.1), end_us)
        raised += [i] * len(told(engine, "OVERLOAD", end_us))
    assert raised[0] == windows


@pytest.mark.parametrize(("name", "hold_s"), [("default", 300), ("en50160", 180)])
def test_the_length_of_a_momentary_interruption_is_that_of_the_profile(name: str, hold_s: int) -> None:
    engine = Engine(town(feeders=1, transformers=1, meters=METERS), PROFILES[name])
    off = Events(np.zeros(1, np.int32), np.full(1, START_US), np.full(1, EventCode.POWER_FAIL, np.int16))
    engine.wanted()
    engine.observe_events(off, START_US)
    for wanted in engine.wanted():
        engine.given(wanted, [], off)
    assert told(engine, "OUTAGE", START_US + (hold_s - 1) * US) == []
    (episode,) = told(engine, "OUTAGE", START_US + hold_s * US)
    assert episode.raised_us == START_US + hold_s * US
