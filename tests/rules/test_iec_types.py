"""The shipped thermal types beside the equations of IEC 60076-7, with its numbers, in plain arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.plates import SHIPPED_TYPES, ThermalType
from rules.thermal import PARAMETERS, Thermal, ThermalParameters, ThermalProfile

TYPES = {one.name: one for one in SHIPPED_TYPES}
AMBIENT_C = 30.0


@dataclass
class Iec:
    """A column of the standard's tables of thermal characteristics; times in minutes."""

    oil_rise_k: float
    gradient_k: float
    loss_ratio: float
    x: float
    y: float
    oil_min: float
    winding_min: float
    k11: float
    k21: float
    k22: float

    def rises(self, load: float) -> tuple[float, float]:
        """Where top oil over ambient, and the hot spot over top oil, go."""
        loss = (1 + self.loss_ratio * load**2) / (1 + self.loss_ratio)
        return self.oil_rise_k * loss**self.x, self.gradient_k * load**self.y

    def after(self, before: float, load: float, minutes: float) -> tuple[float, float]:
        """Top oil and hot spot so long after a step of the load up from long at `before`, C."""
        (oil, gradient), (oil_to, gradient_to) = self.rises(before), self.rises(load)
        oil_s = 1 - exp(-minutes / (self.k11 * self.oil_min))
        fast, slow = 1 - exp(-minutes / (self.k22 * self.winding_min)), 1 - exp(-minutes * self.k22 / self.oil_min)
        top_c = AMBIENT_C + oil + (oil_to - oil) * oil_s
        return top_c, top_c + gradient + (gradient_to - gradient) * (self.k21 * fast - (self.k21 - 1) * slow)


DISTRIBUTION = Iec(55, 23, 5, 0.8, 1.6, 180, 4, 1.0, 1.0, 2.0)
LARGE = Iec(52, 26, 6, 0.8, 1.3, 210, 10, 0.5, 2.0, 2.0)
"""ONAN, medium and large."""


def ours(of: ThermalType, before: float, load: float, minutes: float) -> tuple[float, float]:
    given_ = {name: getattr(of, name) for name in PARAMETERS}
    model = Thermal(ThermalParameters.of(ThermalProfile(), 1, given_))
    state = model.steady(before, AMBIENT_C)
    model.step(state, minutes * 60, np.array([load]), AMBIENT_C)
    return float(state.top_oil_c[0]), float(state.hot_spot_c[0])


loads = st.tuples(st.floats(0, 1.5), st.floats(0, 1.0)).map(lambda two: (two[0], two[0] + two[1]))


@given(loads, st.floats(1, 3000))
def test_a_distribution_transformer_is_that_of_the_standard(load: tuple[float, float], minutes: float) -> None:
    assert ours(TYPES["onan-medium"], *load, minutes) == pytest.approx(DISTRIBUTION.after(*load, minutes), abs=1e-6)


@given(loads, st.floats(1, 3000))
def test_the_oil_of_a_large_one_is_that_of_the_standard_and_its_hot_spot_lacks_the_overshoot(
    load: tuple[float, float], minutes: float
) -> None:
    (oil, hot), (oil_told, hot_told) = LARGE.after(*load, minutes), ours(TYPES["onan-large"], *load, minutes)
    assert oil_told == pytest.approx(oil, abs=1e-6)
    rises = LARGE.rises(load[1])[1] - LARGE.rises(load[0])[1]
    assert -0.5 * rises - 1e-6 <= hot_told - hot <= 0.01 * rises + 1e-6
    assert ours(TYPES["onan-large"], *load, 3000)[1] == pytest.approx(
        LARGE.after(*load, 3000)[1], abs=0.01 * rises + 1e-6
    )
