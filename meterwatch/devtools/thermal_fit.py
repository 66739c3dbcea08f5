"""The thermal model beside a real transformer: fit on the first year, judge on the second.

`python -m meterwatch.devtools.thermal_fit ETTh1.csv.gz`. The file has no ambient temperature and no rating: ambient is
a wave of the year and one of the day, fitted too; the rating is the load that the first year exceeds in 0.1 % of its
hours. Time constant and loss ratio come from a grid, whose candidates are stepped
as so many transformers, all else by least squares on changes over FIT_HOURS: changes, because a level that drifts
from one year to the next would be taken for load. Judged as an operator would use it: from the oil temperature
measured now, with the load as it came, so many hours ahead.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rules.thermal import Thermal, ThermalParameters, ThermalProfile

Floats = NDArray[np.float64]

HOUR_S: Final = 3600.0
YEAR_HOURS: Final = 8760
FIT_HOURS: Final = 6
AHEAD_HOURS: Final = (1, 3, 6, 12, 24, 48)
RATED_QUANTILE: Final = 0.999
TIME_CONSTANTS_H: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)
LOSS_RATIOS: Final = (1, 3, 5, 8, 12)


@dataclass(frozen=True, slots=True)
class Measured:
    """Hourly: load in any unit, oil temperature in C, each [hours]."""

    load: Floats
    oil_c: Floats


@dataclass(frozen=True, slots=True)
class Fit:
    """What the first year says."""

    profile: ThermalProfile
    """With the rise and the time constant of the oil, and the loss ratio."""
    wave_k: Floats
    """Of the ambient: cosine and sine of the year, cosine and sine of the day."""
    ambient_c: float
    """Mean of the ambient, with all that is constant."""


def measured(path: Path) -> Measured:
    """ETTh1.csv.gz; the load is the apparent one of the high side."""
    with gzip.open(path) as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file)))
    column = {name: np.array([float(row[name]) for row in rows]) for name in ("HUFL", "HULL", "OT")}
    return Measured(np.hypot(column["HUFL"], column["HULL"]), column["OT"])


def waves(hours: int) -> Floats:
    """[hours, 4]: cosine and sine of the year, of the day."""
    angle = 2 * np.pi * np.arange(hours)
    return np.stack([wave(angle / length) for length in (365.25 * 24, 24) for wave in (np.cos, np.sin)], axis=1)


def oil_rises(load_pu: Floats, parameters: ThermalParameters) -> Floats:
    """Top oil over ambient [hours, n] of so many transformers that carry the same load."""
    model = Thermal(parameters)
    state = model.steady(load_pu[0], 0.0)
    rises = np.empty((len(load_pu), len(parameters)))
    for hour, load in enumerate(load_pu):
        model.step(state, HOUR_S, np.full(len(parameters), load), 0.0)
        rises[hour] = state.oil_rise_k
    return rises


def fit(load_pu: Floats, oil_c: Floats) -> Fit:
    """The numbers with the least squared error of the change over FIT_HOURS."""
    constant_h, ratio = (np.ravel(part) for part in np.meshgrid(TIME_CONSTANTS_H, LOSS_RATIOS))
    own: dict[str, ArrayLike] = {"oil_rise_k": 1.0, "oil_time_constant_s": constant_h * HOUR_S, "loss_ratio": ratio}
    rises = oil_rises(load_pu, ThermalParameters.of(ThermalProfile(), len(ratio), own))
    wave, change = waves(len(load_pu)), oil_c[FIT_HOURS:] - oil_c[:-FIT_HOURS]
    best, found = np.inf, None
    for candidate in range(len(ratio)):
        known = np.column_stack((rises[:, candidate], wave))
        weights = np.linalg.lstsq(known[FIT_HOURS:] - known[:-FIT_HOURS], change, rcond=None)[0]
        error = float(np.mean(((known[FIT_HOURS:] - known[:-FIT_HOURS]) @ weights - change) ** 2))
        if weights[0] > 0 and error < best:
            best, found = error, (candidate, weights)
    if found is None:
        raise ValueError("no candidate in which the oil warms with the load; the columns may be mixed up")
    candidate, weights = found
    profile = replace(
        ThermalProfile(),
        oil_rise_k=float(weights[0]),
        oil_time_constant_s=float(constant_h[candidate] * HOUR_S),
        loss_ratio=float(ratio[candidate]),
    )
    level = float(np.mean(oil_c - np.column_stack((rises[:, candidate], wave)) @ weights))
    return Fit(profile, np.asarray(weights[1:], np.float64), level)


def modelled(one: Fit, load_pu: Floats) -> Floats:
    """Oil temperature [hours] by load and ambient alone."""
    rise = oil_rises(load_pu, ThermalParameters.of(one.profile, 1))[:, 0]
    return rise + waves(len(load_pu)) @ one.wave_k + one.ambient_c


def ahead_rmse_k(model_c: Floats, oil_c: Floats, hours: int, since: int) -> float:
    """RMSE from hour `since` on of the measurement `hours` ago plus what the model changed since; K.

    With a constant model that is persistence.
    """
    said = oil_c[since - hours : -hours] + model_c[since:] - model_c[since - hours : -hours]
    return float(np.sqrt(np.mean((said - oil_c[since:]) ** 2)))


def compare(of: Measured) -> tuple[Fit, dict[str, dict[int, float]], dict[str, float]]:
    """The fit on year one; RMSE on year two by arm and hours ahead; RMSE without any measurement by arm."""
    load_pu = of.load / np.quantile(of.load[:YEAR_HOURS], RATED_QUANTILE)
    fitted = fit(load_pu[:YEAR_HOURS], of.oil_c[:YEAR_HOURS])
    unfitted = Fit(ThermalProfile(), np.zeros(4), ThermalProfile().ambient_c)
    model_c = modelled(fitted, load_pu)
    arms = {
        "persistence": np.zeros(len(load_pu)),
        "defaults, not fitted": modelled(unfitted, load_pu),
        "fitted, without its load": model_c - oil_rises(load_pu, ThermalParameters.of(fitted.profile, 1))[:, 0],
        "fitted": model_c,
    }
    ahead = {
        name: {hours: ahead_rmse_k(said, of.oil_c, hours, YEAR_HOURS) for hours in AHEAD_HOURS}
        for name, said in arms.items()
    }
    alone = {
        name: float(np.sqrt(np.mean((arms[name] - of.oil_c)[YEAR_HOURS:] ** 2)))
        for name in ("defaults, not fitted", "fitted")
    }
    return fitted, ahead, alone


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="ETTh1.csv.gz")
    fitted, ahead, alone = compare(measured(parser.parse_args().file))
    profile = fitted.profile
    print(
        f"fitted on the first year: oil_rise_k {profile.oil_rise_k:.1f}, oil_time_constant_s "
        f"{profile.oil_time_constant_s:.0f}, loss_ratio {profile.loss_ratio:g}, ambient {fitted.ambient_c:.1f} C"
    )
    print(f"RMSE on the second year, K; hours ahead:    {''.join(f'{hours:8}' for hours in AHEAD_HOURS)}")
    for name, errors in ahead.items():
        print(f"{name:44}{''.join(f'{error:8.2f}' for error in errors.values())}")
    print(f"without a measurement: {', '.join(f'{name} {error:.1f} K' for name, error in alone.items())}")


if __name__ == "__main__":
    main()
