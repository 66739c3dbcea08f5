"""The heatwave through rules and book: what gets hot is warned of in time, with fewer pages than by two hours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.scenarios import SCENARIOS
from meterwatch.devtools.heat_score import play, together

KNOBS = replace(SCENARIOS["heatwave"][2], speed=1.0, edge_transformers_share=0.1, hot_transformers_share=0.08)


def test_what_gets_hot_is_warned_of_in_time_with_fewer_pages() -> None:
    records = [play(2000, seed, KNOBS) for seed in (1, 2)]
    figures = together(records)
    assert figures["seeds"] == 2
    assert figures["hot_faults"] > 0
    assert figures["warned_in_time"] == 1
    assert figures["warned_before_hot"] >= figures["two_hour_rule_before_hot"]
    assert figures["alarms_over_two_hour_rule"] <= 1
    assert figures["two_hour_rule_alarms"] == sum(one.inputs["two_hour_rule_alarms"] for one in records)
    pages = sum(told.paged and told.type in ("OVERLOAD", "HOT_SPOT") for one in records for told in one.told)
    assert figures["alarms_over_two_hour_rule"] == pytest.approx(pages / figures["two_hour_rule_alarms"], abs=1e-3)


def test_a_seed_plays_the_same_heatwave_again() -> None:
    one, two = play(1000, 3, KNOBS), play(1000, 3, KNOBS)
    assert one.told == two.told
    assert one.faults == two.faults
