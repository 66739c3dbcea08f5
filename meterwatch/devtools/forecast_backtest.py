"""Forecasts of the past, each made with what was known then, beside seasonal-naive.

`python -m meterwatch.devtools.forecast_backtest --meters bamberg.parquet --transformer ETTh1.csv.gz`. The meters' file
(meter_id, week, slot, kwh by quarter-hour) becomes transformers of 20 to 60 households, drawn by a seed; negative
reads count as 0. From the first origin that has enough before it, a forecast every EVERY_HOURS, learnt anew every day;
the first WARM_ORIGINS only give errors to the band. A band knows the errors of those forecasts alone whose
horizon was over at its origin. "chosen" is what the service does (rules.hindcast), with a band of its own.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.devtools.thermal_fit import measured
from rules.forecast import ForecastProfile, Regression, band, seasonal_naive
from rules.hindcast import ahead

Floats = NDArray[np.float64]

EVERY_HOURS: Final = 12
WARM_ORIGINS: Final = 14
LEARN_MIN_DAYS: Final = 7
BAND_ORIGINS_MAX: Final = 60
LEVELS: Final = np.array([0.1, 0.5, 0.9])
"""Quantiles of the bands."""
SERVED_DAYS: Final = 28
"""Days the service learns from (meterwatch.forecasts)."""
HOUSEHOLDS: Final = (20, 60)
MONDAY, FRIDAY = 0, 4


@dataclass(frozen=True, slots=True)
class Score:
    """Of one forecaster over one set of transformers; loads per unit of each transformer's mean."""

    rmae: float
    """Mean absolute error over that of seasonal-naive."""
    pinball: float
    """Mean over the quantiles."""
    peak_error: float
    """Mean of the forecast's highest load of a day less the real one, absolute; the sum over that of the real ones."""
    covered: float
    """Share of loads inside the 10 % to 90 % band; 0.8 is right."""


def households(path: Path, seed: int = 1) -> Floats:
    """Loads [transformers, quarter-hours] from Monday on, kWh."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["meter_id", "week", "slot", "kwh"]).to_pydict()
    meter, week, slot = (np.asarray(table[name]) for name in ("meter_id", "week", "slot"))
    order = np.lexsort((slot, week, meter))
    kwh = np.maximum(np.asarray(table["kwh"], np.float64)[order], 0).reshape(len(np.unique(meter)), -1)
    rng = np.random.default_rng(seed)
    kwh = kwh[rng.permutation(len(kwh))]
    sizes = np.cumsum(rng.integers(HOUSEHOLDS[0], HOUSEHOLDS[1] + 1, len(kwh)))
    parts = np.split(kwh, sizes[sizes < len(kwh)])
    return np.stack([part.sum(axis=0) for part in parts if len(part) >= HOUSEHOLDS[0]])


def scores(load: Floats, weekday: int, profile: ForecastProfile) -> dict[str, Score]:
    """Back-test of the forecasters on [transformers, steps]."""
    horizon, every = profile.horizon, EVERY_HOURS * profile.hour
    first = profile.history + horizon + LEARN_MIN_DAYS * profile.day
    origins = np.arange(first, load.shape[1] - horizon + 1, every)
    load = load / load.mean(axis=1, keepdims=True)
    said: dict[str, list[Floats]] = {"seasonal-naive": [], "the day before": [], "regression": []}
    for count, origin in enumerate(origins.tolist()):
        if count % (24 // EVERY_HOURS) == 0:
            learnt = Regression.learn(load[:, :origin], origin, weekday, profile)
        at, seen = np.array([origin]), load[:, :origin]
        said["seasonal-naive"].append(seasonal_naive(seen, at, profile)[:, 0])
        said["the day before"].append(np.tile(seen[:, -profile.day :], profile.days))
        said["regression"].append(learnt.forecast(seen, at, weekday, profile)[:, 0])
    real = np.stack([load[:, origin : origin + horizon] for origin in origins.tolist()], axis=1)
    forecasts = {name: np.stack(parts, axis=1) for name, parts in said.items()}
    late = horizon // every
    base = float(np.abs(forecasts["seasonal-naive"] - real)[:, WARM_ORIGINS + late :].mean())
    scored = range(WARM_ORIGINS + late, len(origins))
    found = {}
    for name, one in forecasts.items():
        errors = real - one
        bands = [
            one[:, at] + band(errors[:, max(at - late + 1 - BAND_ORIGINS_MAX, 0) : at - late + 1], LEVELS, profile)
            for at in scored
        ]
        found[name] = _score(one[:, scored.start :], real[:, scored.start :], bands, base, profile)
    served = replace(profile, train_days=SERVED_DAYS)
    chosen = [ahead(load[:, : origins[at]], weekday, served) for at in scored]
    forecast = np.stack([one.forecast for one in chosen], axis=1)
    found["chosen"] = _score(forecast, real[:, scored.start :], [one.quantiles for one in chosen], base, profile)
    return found


def _score(said: Floats, real: Floats, bands: list[Floats], base: float, profile: ForecastProfile) -> Score:
    """said, real [transformers, origins, horizon]; bands: of each origin, [quantiles, transformers, horizon].

    base: mean absolute error of seasonal-naive.
    """
    levels = LEVELS[:, None, None]
    losses, covered = [], []
    for at, one in enumerate(bands):
        above = real[:, at] - one
        losses.append(np.maximum(levels * above, (levels - 1) * above).mean())
        covered.append(((above[0] >= 0) & (above[-1] <= 0)).mean())
    by_day = (*said.shape[:2], profile.days, profile.day)
    peak, real_peak = (part.reshape(by_day).max(axis=-1) for part in (said, real))
    return Score(
        float(np.abs(real - said).mean()) / base,
        float(np.mean(losses)),
        float(np.abs(peak - real_peak).sum() / real_peak.sum()),
        float(np.mean(covered)),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--meters", type=Path, help="the Bamberg households, parquet")
    parser.add_argument("--transformer", type=Path, help="ETTh1.csv.gz")
    options = parser.parse_args()
    for days in (1, 2):
        if options.meters:
            load = households(options.meters)
            _show(f"{len(load)} transformers of households", days, scores(load, MONDAY, ForecastProfile(days=days)))
        if options.transformer:
            load = measured(options.transformer).load[None]
            _show("ETTh1", days, scores(load, FRIDAY, ForecastProfile(days=days, step_s=3600)))


def _show(what: str, days: int, found: dict[str, Score]) -> None:
    for name, score in found.items():
        print(
            f"{what}, {24 * days} h, {name}: rMAE {score.rmae:.3f}, pinball {score.pinball:.4f}, "
            f"peak error {score.peak_error:.1%}, in the band {score.covered:.0%}"
        )


if __name__ == "__main__":
    main()
