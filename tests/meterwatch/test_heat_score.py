"""The heatwave through rules and book: what gets hot is warned of in time, with fewer alarms than by two hours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alarm.profile import AlarmProfile
from loadtest.scenarios import SCENARIOS
from loadtest.score import BY_TYPE, WARNS
from meterwatch.devtools.heat_score import play, together

KNOBS = replace(SCENARIOS["heatwave"][2], speed=1.0, edge_transformers_share=0.1, hot_transformers_share=0.08)


def test_what_gets_hot_is_warned_of_in_time_with_fewer_alarms_for_people() -> None:
    records = [play(1500, 1, KNOBS), play(2000, 2, KNOBS, forecasts=False)]
    figures = together(records)
    assert figures["seeds"] == 2
    assert figures["hot_faults"] > 0
    assert figures["warned_in_time"] == 1
    assert figures["warned_before_hot"] >= figures["two_hour_rule_before_hot"]
    assert figures["alarms_over_two_hour_rule"] < 1
    assert figures["two_hour_rule_alarms"] == sum(one.inputs["two_hour_rule_alarms"] for one in records)
    told = [told for one in records for told in one.told if told.type in WARNS]
    book = [one for one in told if (one.paged or one.for_planning) and not one.retracted]
    by_rule = figures["two_hour_rule_alarms"]
    assert figures["alarms_in_book_over_two_hour_rule"] == pytest.approx(len(book) / by_rule, abs=1e-3)
    assert [figures[name] for name in BY_TYPE] == [sum(one.type == kind for one in book) for kind in BY_TYPE.values()]
    calls, escalations = sum(one.calls for one in told), sum(one.escalations for one in told)
    assert (figures["calls"], figures["escalations"]) == (calls, escalations)
    assert figures["calls_over_two_hour_rule"] == pytest.approx(calls / by_rule, abs=1e-3)
    assert figures["alarms_over_two_hour_rule"] == pytest.approx((calls + escalations) / by_rule, abs=1e-3)
    pages = [one for one in book if one.paged]
    assert {one.asset for one in pages} <= {one.asset for one in told if one.calls}


def test_forecasts_call_nobody_unless_the_profile_says_so_and_change_nothing_else_of_who_is_called() -> None:
    quiet, none = play(1500, 1, KNOBS), play(1500, 1, KNOBS, forecasts=False)
    loud = play(1500, 1, KNOBS, profile=AlarmProfile(for_planning=()))
    for record, foretold in ((quiet, 0), (loud, quiet.score["alarms_of_forecast"])):
        ahead = [told for told in record.told if told.type == "FORECAST_OVERLOAD" and told.paged]
        assert (len(ahead), record.score["alarms_of_forecast"] > 0) == (foretold, True)
    assert [told for told in quiet.told if not told.for_planning] == none.told
    assert quiet.score["alarms_over_two_hour_rule"] == none.score["alarms_over_two_hour_rule"]
    assert quiet.score["lead_min_p50"] <= loud.score["lead_min_p50"]
    assert quiet.score["escalations"] < loud.score["escalations"]


def test_a_seed_plays_the_same_heatwave_again() -> None:
    one, two = play(1000, 3, KNOBS, forecasts=False), play(1000, 3, KNOBS, forecasts=False)
    assert one.told == two.told
    assert one.faults == two.faults
