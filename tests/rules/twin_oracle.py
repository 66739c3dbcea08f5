"""One transformer and one run of its day, in scalar words: what rules.twin is compared with."""

from __future__ import annotations

from math import exp, log

from rules.thermal import ThermalProfile
from rules.twin import HotSpotProfile

PROFILE = HotSpotProfile()
DAY, WARM = 96, 72
"""Quarter-hours of a day, and of the warm-up before it."""


class Scalar:
    """One transformer, one run."""

    def __init__(self, thermal: ThermalProfile = PROFILE.thermal) -> None:
        self.thermal = thermal
        self.b, self.guessed, self.heard = PROFILE.begin_pu, 0.0, False
        self.oil, self.winding = self.goes_to()

    def goes_to(self) -> tuple[float, float]:
        t = self.thermal
        oil = t.oil_rise_k * ((self.b**2 * t.loss_ratio + 1) / (t.loss_ratio + 1)) ** t.oil_exponent
        return oil, t.hot_spot_rise_k * self.b ** (2 * t.winding_exponent)

    def step(self, b: float | None) -> None:
        t, left = self.thermal, exp(-900 / self.thermal.oil_time_constant_s)
        self.guessed *= left
        if b is None:
            self.guessed += (1 - left) * self.heard
        else:
            self.b, self.heard = b, True
        oil, winding = self.goes_to()
        self.oil = oil + (self.oil - oil) * left
        self.winding = winding + (self.winding - winding) * exp(-900 / t.winding_time_constant_s)

    def after(self, seconds: float) -> float:
        """Hot spot over ambient so much later at the present load."""
        t, (oil, winding) = self.thermal, self.goes_to()
        return (
            oil
            + winding
            + (self.oil - oil) * exp(-seconds / t.oil_time_constant_s)
            + (self.winding - winding) * exp(-seconds / t.winding_time_constant_s)
        )

    def hottest_within(self, seconds: float) -> float:
        t, (oil, winding) = self.thermal, self.goes_to()
        slope_oil = (self.oil - oil) / t.oil_time_constant_s
        slope_winding = (self.winding - winding) / t.winding_time_constant_s
        moments = [0.0, seconds]
        if slope_oil * slope_winding < 0:
            turn = log(-slope_winding / slope_oil) / (1 / t.winding_time_constant_s - 1 / t.oil_time_constant_s)
            if 0 < turn < seconds:
                moments.append(turn)
        return max(map(self.after, moments))

    def level(self, ambient_c: float, more_k: float) -> int:
        t, hot = self.thermal, ambient_c + self.after(0.0)
        soon = ambient_c + self.hottest_within(t.high_within_s) >= t.high_c
        return max(sum(hot + more_k >= limit for limit in (t.warning_c, t.high_c, t.critical_c)), 2 * soon)
