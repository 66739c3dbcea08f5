"""FORECAST_OVERLOAD: a transformer that will probably be overloaded, or too hot, within the forecast's horizon.

One alarm per predicted episode: it begins with the forecast that says so first, is amended by those after it, and ends
when the predicted thing is there (CAME_TRUE), or the forecast no longer says so (WITHDRAWN), or there is no forecast
any more (UNKNOWN). Raising and clearing have limits of their own, so that a forecast on the edge does not flap.
It depends on when forecasts were made and not on the reads alone: the law of event time is not for this rule.
Refuses to know: how forecasts are made, the database, alarms of other rules beyond "there is one".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.errors import ConfigError

RULE: Final = "FORECAST_OVERLOAD"
US: Final = 1_000_000
LEADS_H: Final = (1, 3, 6, 12, 24, 48)
"""When less than so much time is left, the alarm is told anew. (ours)"""


@dataclass(frozen=True, slots=True)
class ForecastLimits:
    """Limits of the rule. ConfigError lists everything that does not fit."""

    overload_raise: float = 0.5
    """Chance of an OVERLOAD alarm within the horizon that raises. (ours)"""
    overload_clear: float = 0.3
    """Below it that is over. (ours)"""
    hot_raise: float = 0.3
    """Chance of a hot spot above `hot_c` within the horizon that raises. (ours)"""
    hot_clear: float = 0.2
    """Below it that is over. (ours)"""
    hot_c: float = 140.0
    """Gas bubbles form in the oil. (check)"""
    stale_s: int = 6 * 3600
    """An alarm that no forecast has spoken of for so long is over. (ours)"""

    def __post_init__(self) -> None:
        problems = [
            f"{what}_clear is {low}, {what}_raise {high}; expected 0 <= clear < raise <= 1"
            for what, low, high in (
                ("overload", self.overload_clear, self.overload_raise), ("hot", self.hot_clear, self.hot_raise),
            )
            if not 0 <= low < high <= 1
        ]  # fmt: skip
        if self.stale_s <= 0:
            problems.append(f"stale_s is {self.stale_s}; expected above 0")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a forecast says of one transformer."""

    made_us: int
    overload_chance: float
    """Of an OVERLOAD alarm within the horizon."""
    overload_us: int | None
    """When half of the paths that end in one have raised it."""
    hot_chance: float
    hot_us: int | None
    """When half of the paths that get so hot are."""
    peak_pu: float
    """Highest load of the P50 path."""
    peak_us: int
    forecaster: str


@dataclass(frozen=True, slots=True)
class Told:
    """The open alarm of this rule."""

    onset_us: int
    level: str
    severity: Severity
    summary: str
    evidence: dict[str, Any]


def verdict(
    transformer: int, name: str, outlook: Outlook | None, told: Told | None, there: frozenset[str], now_us: int,
    limits: ForecastLimits,
) -> Verdict | None:  # fmt: skip
    """What is to be said of one transformer; None: nothing.

    told: its open alarm. there: rules that say now what was predicted (OVERLOAD, a temperature), by name; while one
    does, nothing is predicted.
    """
    if outlook is None:
        stale = told is not None and now_us - int(told.evidence.get("made_us", told.onset_us)) > limits.stale_s * US
        return _over(transformer, name, told, "UNKNOWN", now_us, {}) if told is not None and stale else None
    if there:
        by = {"by": sorted(there)}
        return _over(transformer, name, told, "CAME_TRUE", now_us, by) if told is not None else None
    low = told is not None
    hot = outlook.hot_us is not None and outlook.hot_chance >= (limits.hot_clear if low else limits.hot_raise)
    over = outlook.overload_us is not None and outlook.overload_chance >= (
        limits.overload_clear if low else limits.overload_raise
    )
    if not hot and not over:
        return _over(transformer, name, told, "WITHDRAWN", now_us, _figures(outlook)) if told is not None else None
    onset_us = now_us if told is None else told.onset_us
    times_us = [us for us, said in ((outlook.hot_us, hot), (outlook.overload_us, over)) if said and us is not None]
    expected_us = min(times_us)
    left_s = max(expected_us - now_us, 0) // US
    first_us = expected_us if told is None else int(told.evidence.get("first_expected_us", expected_us))
    evidence = _figures(outlook) | {
        "expected_us": expected_us,
        "lead_s": left_s,
        "first_expected_us": first_us,
        "first_lead_s": (first_us - onset_us) // US,
        "stage": _stage(left_s),
        "overload_raise": limits.overload_raise,
        "overload_clear": limits.overload_clear,
        "hot_raise": limits.hot_raise,
        "hot_clear": limits.hot_clear,
        "hot_c": limits.hot_c,
    }
    severity, level = (Severity.HIGH, "HOT_SPOT") if hot else (Severity.MEDIUM, "OVERLOAD")
    chance = (
        f"hot spot above {limits.hot_c:g} C with chance {outlook.hot_chance:.0%}"
        if hot
        else f"overload with chance {outlook.overload_chance:.0%}"
    )
    summary = (
        f"Transformer {name}: {chance}, expected {_clock(expected_us)} ({_hours(left_s)} ahead); peak "
        f"{outlook.peak_pu:.2f} x its rating at {_clock(outlook.peak_us)}"
    )
    episode = Episode(onset_us, onset_us, None, severity, level, summary, evidence)
    return _said(transformer, episode)


def _over(
    transformer: int, name: str, told: Told, outcome: str, now_us: int, more: dict[str, Any]
) -> Verdict:  # fmt: skip
    why = {
        "CAME_TRUE": "what was forecast is there",
        "WITHDRAWN": "the forecast no longer says so",
        "UNKNOWN": "there is no forecast any more",
    }[outcome]
    evidence = told.evidence | more | {"outcome": outcome}
    summary = f"Transformer {name}: {why}. It was: {told.summary}"
    cleared_us = max(now_us, told.onset_us)
    return _said(
        transformer,
        Episode(told.onset_us, told.onset_us, cleared_us, told.severity, told.level, summary, evidence),
    )


def _said(transformer: int, episode: Episode) -> Verdict:
    """Alarms of other times are left alone: nobody can forecast them again."""
    return Verdict(RULE, "transformer", transformer, episode.onset_us, (episode,), retract=False)


def _figures(outlook: Outlook) -> dict[str, Any]:
    return {
        "made_us": outlook.made_us,
        "overload_chance": round(outlook.overload_chance, 4),
        "hot_chance": round(outlook.hot_chance, 4),
        "peak_b": round(outlook.peak_pu, 4),
        "peak_us": outlook.peak_us,
        "forecaster": outlook.forecaster,
    }


def _stage(left_s: int) -> str:
    return next((f"within {hours} h" for hours in LEADS_H if left_s <= hours * 3600), "later")


def _clock(stamp_us: int) -> str:
    return datetime.fromtimestamp(stamp_us // US, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _hours(seconds: int) -> str:
    return f"{seconds / 3600:.1f} h"
