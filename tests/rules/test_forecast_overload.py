"""FORECAST_OVERLOAD: what a forecast makes of an alarm, step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meterwatch.episodes import Episode, Severity
from meterwatch.errors import ConfigError
from rules.forecast_overload import RULE, ForecastLimits, Outlook, Told, verdict

H = 3600 * 1_000_000
NOW = 500_000 * H
LIMITS = ForecastLimits()
NOBODY: frozenset[str] = frozenset()
CALM = Outlook(NOW, 0.1, NOW + 9 * H, 0.0, None, 0.7, NOW + 8 * H, "REGRESSION")
LOADED = replace(CALM, overload_chance=0.8)
HOT = replace(LOADED, hot_chance=0.4, hot_us=NOW + 5 * H)


def said(
    outlook: Outlook | None, told: Told | None = None, there: frozenset[str] = NOBODY, now: int = NOW
) -> Episode | None:
    found = verdict(7, "T", outlook, told, there, now, LIMITS)
    if found is None:
        return None
    assert (found.rule, found.asset_kind, found.asset_id, found.retract) == (RULE, "transformer", 7, False)
    [episode] = found.episodes
    return episode


def open_of(episode: Episode | None) -> Told:
    assert episode is not None
    return Told(episode.onset_us, episode.level, episode.severity, episode.summary, episode.evidence)


def test_a_chance_at_the_limit_raises_and_one_below_does_not() -> None:
    assert said(CALM) is None
    assert said(replace(CALM, overload_chance=LIMITS.overload_raise - 1e-9)) is None
    episode = said(replace(CALM, overload_chance=LIMITS.overload_raise))
    assert episode is not None
    assert (episode.level, episode.severity, episode.onset_us) == ("OVERLOAD", Severity.MEDIUM, NOW)
    assert episode.evidence["lead_s"] == 9 * 3600
    assert said(replace(CALM, hot_chance=0.4, hot_us=None)) is None  # no moment, nothing to tell


def test_heat_is_graver_than_load_and_comes_with_its_own_time() -> None:
    episode = said(HOT)
    assert episode is not None
    assert (episode.level, episode.severity) == ("HOT_SPOT", Severity.HIGH)
    assert episode.evidence["expected_us"] == NOW + 5 * H
    assert "hot spot above 140 C" in episode.summary


def test_an_open_alarm_lasts_between_the_two_limits_and_keeps_its_beginning() -> None:
    first = open_of(said(LOADED))
    later = said(replace(LOADED, overload_chance=0.4, made_us=NOW + H), first, now=NOW + H)
    assert later is not None
    assert (later.onset_us, later.raised_us, later.cleared_us) == (NOW, NOW, None)
    assert (later.evidence["lead_s"], later.evidence["first_lead_s"]) == (8 * 3600, 9 * 3600)
    assert said(replace(LOADED, overload_chance=0.4)) is None  # nothing open: not enough to raise


@pytest.mark.parametrize(
    ("outlook", "there", "outcome"),
    [
        (CALM, NOBODY, "WITHDRAWN"),
        (LOADED, frozenset({"OVERLOAD"}), "CAME_TRUE"),
        (CALM, frozenset({"OVERLOAD"}), "CAME_TRUE"),
        (None, NOBODY, "UNKNOWN"),
    ],
)
def test_how_it_ends(outlook: Outlook | None, there: frozenset[str], outcome: str) -> None:
    first = open_of(said(LOADED))
    now = NOW + 7 * H
    over = said(outlook, first, there, now)
    assert over is not None
    assert (over.onset_us, over.cleared_us, over.evidence["outcome"]) == (NOW, now, outcome)


def test_heat_too_has_a_limit_to_raise_and_a_lower_one_to_clear() -> None:
    first = open_of(said(HOT))
    between = said(replace(HOT, overload_chance=0.0, hot_chance=0.25), first)
    assert between is not None
    assert (between.level, between.cleared_us) == ("HOT_SPOT", None)
    below = said(replace(HOT, overload_chance=0.0, hot_chance=0.19), first)
    assert below is not None
    assert below.evidence["outcome"] == "WITHDRAWN"


def test_a_missed_forecast_or_two_end_nothing() -> None:
    first = open_of(said(LOADED))
    assert said(None, first, now=NOW + 6 * H) is None
    assert said(None, first, now=NOW + 6 * H + 1) is not None


def test_while_it_is_there_nothing_is_forecast() -> None:
    assert said(HOT, there=frozenset({"OVERLOAD"})) is None


def test_less_time_left_is_a_stage_of_its_own() -> None:
    stages = [
        episode.evidence["stage"]
        for hours in (50, 30, 9, 5, 2, 0.5)
        if (episode := said(replace(LOADED, overload_us=NOW + int(hours * H)))) is not None
    ]
    assert stages == ["later", "within 48 h", "within 12 h", "within 6 h", "within 3 h", "within 1 h"]


def test_limits_that_do_not_fit_are_all_named() -> None:
    with pytest.raises(ConfigError) as refused:
        ForecastLimits(overload_raise=0.2, hot_clear=-1, stale_s=0)
    assert len(refused.value.problems) == 3
