"""The engine as a whole: what it wants to know, and what it does not begin."""

from __future__ import annotations

import numpy as np
import pytest
from towns import T0, town

from meterwatch.batch import EventCode, Events
from meterwatch.clock import US
from rules.engine import MARGIN_S, Engine


def last_gasp(slot: int, at_us: int) -> Events:
    return Events(
        np.array([slot], np.int32), np.array([at_us], np.int64), np.array([int(EventCode.POWER_FAIL)], np.int16)
    )


def test_evidence_beyond_the_reach_of_its_group_begins_no_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rules.engine.HISTORY_METER_DAYS", 70)  # 10 meters: a week
    engine = Engine(town(feeders=2, transformers=2, meters=5))
    oldest_us = T0 - 7 * 86_400 * US
    engine.observe_events(last_gasp(0, oldest_us - 1), T0)
    assert engine.wanted() == []
    engine.observe_events(last_gasp(0, oldest_us), T0)
    [wanted] = engine.wanted()
    assert wanted.from_us == oldest_us - MARGIN_S * US
    assert len(wanted.slots) == 10
