"""FORECAST_OVERLOAD on real loads: how many overloads it tells of in advance, how early, and how often for nothing.

`python -m meterwatch.devtools.forecast_alarms --meters bamberg.parquet`. Transformers as in forecast_backtest, each
rated so that it is above its rating for OVER_SHARE of the quarter-hours. From the first hour with enough days on a
forecast every hour, of loads before it alone, and the rule's verdict, as the service does it; the truth is the ladder
over the loads as they came. The temperature is left out: a rating by quantile says nothing of it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.devtools.forecast_backtest import MONDAY, SERVED_DAYS, households
from rules.forecast import ForecastProfile
from rules.forecast_overload import ForecastLimits, Outlook, Told, verdict
from rules.hindcast import Forecaster, ahead, days_needed, ladder_chances
from rules.ladder import Ladder, LadderState, OverloadProfile, Span, span_of

Floats = NDArray[np.float64]

OVER_SHARE: Final = 0.03
RECENT: Final = 12
"""Windows before a forecast that the ladder begins with."""
STEP_US: Final = 900 * US


@dataclass(slots=True)
class Found:
    """Counts over all transformers."""

    overloads: int = 0
    """Alarms of the ladder in the judged span, none under way at its beginning."""
    warned: int = 0
    """Of them, those with a forecast alarm open when they were raised."""
    alarms: int = 0
    withdrawn: int = 0
    leads_h: list[float] | None = None
    """From the forecast alarm to the OVERLOAD alarm."""


def overloads(load_pu: Floats, profile: OverloadProfile) -> list[Span]:
    """Episodes of one transformer that raised an alarm, in windows; the last one may last."""
    ladder, state = Ladder(profile), LadderState.cold(1, len(profile.levels))
    found: list[Span] = []
    for window, b in enumerate(load_pu):
        if ladder.step(state, window, np.array([b]), np.array([True]))[0] and state.raised[0] >= 0:
            found.append(span_of(state, 0, int(state.worst[0]), window))
    if state.latched.any() and state.raised[0] >= 0:
        found.append(span_of(state, 0, int(state.worst[0]), None))
    return found


def judged(load_pu: Floats, weekday: int, forecast: ForecastProfile, overload: OverloadProfile) -> Found:
    """Forecast [transformers, windows] every hour from the first one that may be; what came of it."""
    first = days_needed(forecast) * forecast.day
    origins = range(first, load_pu.shape[1], forecast.hour)
    truth = [overloads(row, overload) for row in load_pu]
    told: list[Told | None] = [None] * len(load_pu)
    result = Found(leads_h=[])
    assert result.leads_h is not None
    for origin in origins:
        seen = load_pu[:, :origin]
        said = ahead(seen, weekday, forecast)
        chances = ladder_chances(seen[:, -RECENT:], said, overload)
        for row, spans in enumerate(truth):
            step = chances.raised_step[row]
            late_us = None if np.isnan(step) else (origin + int(step) + 1) * STEP_US
            outlook = Outlook(
                origin * STEP_US, float(chances.chance[row]), late_us, 0.0, None, float(chances.peak[row]),
                origin * STEP_US, Forecaster(int(said.forecaster[row])).name,
            )  # fmt: skip
            here = any(one.raised < origin and (one.cleared is None or one.cleared >= origin) for one in spans)
            there = frozenset({"OVERLOAD"} if here else ())
            answer = verdict(row, str(row), outlook, told[row], there, origin * STEP_US, ForecastLimits())
            if answer is None:
                continue
            [episode] = answer.episodes
            result.alarms += told[row] is None
            before, told[row] = told[row], None
            if episode.cleared_us is None:
                told[row] = Told(episode.onset_us, episode.level, episode.severity, episode.summary, episode.evidence)
            elif episode.evidence["outcome"] == "CAME_TRUE" and before is not None:
                result.warned += 1
                raised = max(one.raised for one in spans if one.raised < origin)
                result.leads_h.append(((raised + 1) * STEP_US - before.onset_us) / (3600 * US))
            else:
                result.withdrawn += 1
    result.overloads = sum(one.raised >= first for spans in truth for one in spans)
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--meters", type=Path, required=True, help="the Bamberg households, parquet")
    given = parser.parse_args()
    load = households(given.meters)
    load_pu = load / np.quantile(load, 1 - OVER_SHARE, axis=1, keepdims=True)
    found = judged(load_pu, MONDAY, ForecastProfile(train_days=SERVED_DAYS), OverloadProfile())
    lead = median(found.leads_h) if found.leads_h else float("nan")
    print(
        f"{len(load)} transformers: {found.overloads} OVERLOAD alarms, {found.warned} of them forecast, "
        f"{lead:.1f} h before at the median; {found.alarms} forecast alarms, {found.withdrawn} withdrawn"
    )


if __name__ == "__main__":
    main()
