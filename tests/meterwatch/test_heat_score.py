"""The heatwave through rules and book: what gets hot is warned of in time, with fewer alarms than by two hours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.scenarios import SCENARIOS
from loadtest.score import BY_TYPE, WARNS
from meterwatch.devtools.heat_score import play, together

KNOBS = replace(SCENARIOS["heatwave"][2], speed=1.0, edge_transformers_share=0.1, hot_transformers_share=0.08)


def test_what_gets_hot_is_warned_of_in_time_with_fewer_alarms() -> None:
    records = [play(1500, 1, KNOBS), play(2000, 2, KNOBS, forecasts=False)]
    figures = together(records)
    assert figures["seeds"] == 2
    assert figures["hot_faults"] > 0
    assert figures["warned_in_time"] == 1
    assert figures["warned_before_hot"] >= figures["two_hour_rule_before_hot"]
    assert figures["alarms_over_two_hour_rule"] <= 1
    assert figures["two_hour_rule_alarms"] == sum(one.inputs["two_hour_rule_alarms"] for one in records)
    pages = [told for one in records for told in one.told if told.paged and told.type in WARNS]
    assert figures["pages_over_two_hour_rule"] == pytest.approx(len(pages) / figures["two_hour_rule_alarms"], abs=1e-3)
    assert [figures[name] for name in BY_TYPE] == [
        sum(told.type == kind for told in pages) for kind in BY_TYPE.values()
    ]
    assert figures["alarms_of_forecast"] > 0
    came_true = [told for told in pages if told.type == "FORECAST_OVERLOAD" and told.parent_id]
    alarms = (len(pages) - len(came_true)) / figures["two_hour_rule_alarms"]
    assert figures["alarms_over_two_hour_rule"] == pytest.approx(alarms, abs=1e-3)
    assert not any(
        told.paged and told.parent_id for one in records for told in one.told if told.type != "FORECAST_OVERLOAD"
    )


def test_a_seed_plays_the_same_heatwave_again() -> None:
    one, two = play(1000, 3, KNOBS, forecasts=False), play(1000, 3, KNOBS, forecasts=False)
    assert one.told == two.told
    assert one.faults == two.faults
