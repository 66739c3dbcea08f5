"""The numbers of the rules, by name, with unit and source. A rule holds no literal; a profile is one set of them.

Marks: (std) a standard or published practice, (ours) our choice, (check) quoted from memory of a standard: keep it
configurable. The overload ladder stands in rules.ladder. A profile is immutable; changing one means a new one and a
re-evaluation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Final

from meterwatch.errors import ConfigError
from rules.contract_levels import ContractProfile
from rules.ladder import PHASE, UNBALANCE, OverloadProfile
from rules.seasons import Season
from rules.twin import HotSpotProfile

CELLULAR: Final = ("GPRS", "CDMA", "GSM", "3G", "4G", "5G", "LTE", "LTE-M", "NB-IOT", "CELLULAR")
"""Communication modes that reach the head-end by themselves, in capitals."""


def _rise(profile: Any, *rising: tuple[str, ...]) -> None:
    """ConfigError where a limit is below the one before it, or a probability is not between 0 and 1."""
    problems = [
        f"{low} is {getattr(profile, low)}, {high} is {getattr(profile, high)}; expected {low} to be at most {high}"
        for names in rising
        for low, high in pairwise(names)
        if getattr(profile, low) > getattr(profile, high)
    ]
    problems += [
        f"{one.name} is {getattr(profile, one.name)}; expected between 0 and 1"
        for one in fields(profile)
        if one.name.startswith("p_") and not 0 < getattr(profile, one.name) < 1
    ]
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class OutageProfile:
    """Limits of OUTAGE. ConfigError lists everything that does not fit together."""

    onset_window_s: int = 120
    """Failures within this span belong together. (ours)"""
    clock_slack_s: int = 30
    """Meters' clocks disagree by this much: ON votes this near an onset or a restoration say nothing. (ours)"""
    meters_min: int = 3
    """Distinct meters off that make a transformer suspect. (ours)"""
    meters_min_small: int = 2
    """The same for a transformer of at most small_members meters. (ours)"""
    small_members: int = 10
    meters_min_tiny: int = 1
    """The same for a transformer of at most tiny_members meters; it counts for its feeder. (ours)"""
    tiny_members: int = 2
    contradiction_share: float = 0.10
    """More than this share of the observed meters ON during it: no outage of the transformer. (ours)"""
    p_gasp: float = 0.6
    """Probability that a meter without supply reports it: RF mesh and modes not named here, the lowest. (ours)"""
    p_gasp_plc: float = 0.8
    """The same by PLC. (ours)"""
    p_gasp_cellular: float = 0.9
    """The same for the modes named in CELLULAR. (ours)"""
    p_false: float = 1e-4
    """Probability that a meter with supply reports off. (ours)"""
    p_false_terminal: float = 1e-8
    """The same for the transformer's own terminal: its word is enough. (ours)"""
    bellwether_weight: int = 2
    """Ordinary meters that a bellwether counts for. (ours)"""
    phase_share: float = 0.90
    """Of the meters off, this share on one phase, and the others ON: a lost phase. (ours)"""
    phase_lost_s_max: int = 86_400
    """A phase counts as back when its meter has said nothing of it for so long. (ours)"""
    planned_late_s: int = 900
    """Planned work explains what begins so much earlier than it, or lasts so much longer. (ours)"""
    p_on_in_outage: float = 1e-3
    """Probability of an ON vote from a meter without supply. (ours)"""
    p_read_in_outage: float = 0.02
    """Probability that the next read of a meter without supply comes in time: on battery, or supply was back. (ours)"""
    p_read: float = 0.98
    """The same with supply: the target of read success. (ours)"""
    path_missing_share: float = 0.20
    """An overdue read counts while at most this share of the others on its path is missing too. (ours)"""
    prior: float = 1e-5
    """Probability of an outage of a given transformer at a given moment. (ours)"""
    posterior_min: float = 0.99
    """Raise at this certainty. (ours)"""
    root_hold_s: int = 60
    """T_on: a transformer or feeder outage is raised after this. (ours)"""
    thin_share: float = 0.10
    """Fewer reports than this share of those to be expected: the meters off must be so for longer. (ours)"""
    thin_hold_s: int = 180
    """So long, in place of root_hold_s: restless meters come back sooner. (ours)"""
    feeder_transformers_min: int = 2
    """Transformers failing together that make a feeder outage. (ours)"""
    feeder_share: float = 0.30
    """And this share of the feeder's transformers. (ours)"""
    momentary_s: int = 60
    """T_on of a meter: a shorter interruption of it is no evidence on its transformer. (ours)"""
    sustained_s: int = 300
    """A meter's interruption is momentary up to this: IEEE 1366, 5 min; 180 in EN 50160. (std)"""
    restored_share: float = 0.95
    """Share of the affected meters ON that ends an outage. (ours)"""
    restore_hold_s: int = 60
    """T_off: supply must hold this long. (ours)"""
    nested_after_s: int = 600
    """What is still off this long after the root cleared is an outage of its own. (ours)"""

    def __post_init__(self) -> None:
        _rise(
            self, ("momentary_s", "sustained_s"), ("root_hold_s", "thin_hold_s"), ("tiny_members", "small_members"),
            ("meters_min_tiny", "meters_min_small", "meters_min"), ("p_read_in_outage", "p_read"),
            ("p_false_terminal", "p_false"), ("prior", "posterior_min"),
            *(("p_false", gasp) for gasp in ("p_gasp", "p_gasp_plc", "p_gasp_cellular")),
        )  # fmt: skip

    def p_gasp_of(self, comm_mode: str) -> float:
        """Probability that a meter without supply reports it by this communication mode, before anything is learnt."""
        if comm_mode.upper() in CELLULAR:
            return self.p_gasp_cellular
        return self.p_gasp_plc if "PLC" in comm_mode.upper() else self.p_gasp

    @property
    def overdue_log_odds(self) -> float:
        """What one overdue read adds to the log odds of an outage."""
        return math.log((1 - self.p_read_in_outage) / (1 - self.p_read))

    def meters_needed(self, members: int) -> int:
        """Distinct meters off that make a transformer of so many meters suspect."""
        if members <= self.tiny_members:
            return self.meters_min_tiny
        return self.meters_min_small if members <= self.small_members else self.meters_min

    def thresholds(self, kind: str) -> dict[str, Any]:
        """The limits an episode of this kind was judged by, for its evidence."""
        if kind == "meter":
            return {"sustained_s": self.sustained_s, "restore_hold_s": self.restore_hold_s}
        own: dict[str, Any] = {
            "onset_window_s": self.onset_window_s,
            "root_hold_s": self.root_hold_s,
            "restored_share": self.restored_share,
            "restore_hold_s": self.restore_hold_s,
            "posterior_min": self.posterior_min,
        }
        if kind == "feeder":
            return own | {
                "feeder_transformers_min": self.feeder_transformers_min,
                "feeder_share": self.feeder_share,
            }
        return own | {"meters_min": self.meters_min, "contradiction_share": self.contradiction_share}


@dataclass(frozen=True, slots=True)
class SilenceProfile:
    """Limits of COMM_LOSS. ConfigError lists everything that does not fit together."""

    grace_s: int = 2700
    """A read may come this long after its interval end: PLC, RF mesh and unknown modes. (ours)"""
    grace_cellular_s: int = 1800
    """The same for modes named in cellular. (ours)"""
    cellular: tuple[str, ...] = CELLULAR
    """Communication modes, in capitals."""
    lost_share: float = 0.80
    """A concentrator is lost when this share of its meters is overdue. (ours)"""
    lost_meters_min: int = 3
    """And at least so many of them (all, if it has fewer). (ours)"""
    back_share: float = 0.20
    """A lost concentrator is back when fewer than this share are overdue. (ours)"""
    meter_silent_s: int = 86_400
    """A single meter is reported after this silence. (ours)"""
    head_end_gone_s: int = 1800
    """A head-end is reported after being disconnected this long. (ours)"""
    judge_every_s: int = 10
    """Who has become silent is asked this often; a fraction of the shortest grace. (ours)"""

    def __post_init__(self) -> None:
        _rise(self, ("back_share", "lost_share"), ("judge_every_s", "grace_cellular_s"), ("judge_every_s", "grace_s"))

    def grace_of(self, comm_mode: str) -> int:
        """Seconds a read may be late by this communication mode."""
        return self.grace_cellular_s if comm_mode.upper() in self.cellular else self.grace_s


@dataclass(frozen=True, slots=True)
class RuleProfile:
    """One named set of limits for all rules."""

    name: str = "default"
    outage: OutageProfile = field(default_factory=OutageProfile)
    silence: SilenceProfile = field(default_factory=SilenceProfile)
    overload: OverloadProfile = field(default_factory=OverloadProfile)
    contract: ContractProfile = field(default_factory=ContractProfile)
    hot_spot: HotSpotProfile = field(default_factory=HotSpotProfile)


EN50160 = RuleProfile(name="en50160", outage=OutageProfile(sustained_s=180))
"""Interruptions are long from 3 min on. (std)"""

FAST_OVERLOAD = RuleProfile(name="fast-overload", overload=OverloadProfile.fast())
"""OVERLOAD after 30 minutes instead of 2 hours. (ours)"""

SEASONAL = RuleProfile(
    name="seasonal",
    overload=OverloadProfile(
        seasons=(
            Season("spring", "03-01", 1.0),
            Season("summer", "06-01", 0.95),
            Season("autumn", "09-15", 1.0),
            Season("winter", "11-15", 1.10),
        )
    ),
)
"""The limits of load follow the air: 10 % more in the cold, 5 % less in the heat. (ours)"""

PHASES = RuleProfile(name="phases", overload=OverloadProfile(phase_levels=(PHASE,), unbalance_levels=(UNBALANCE,)))
"""Transformers are judged by phase too: for registries in which the phases of single-phase meters are right. (ours)"""

PROFILES: Final = {profile.name: profile for profile in (RuleProfile(), EN50160, FAST_OVERLOAD, SEASONAL, PHASES)}
"""By name, as the configuration chooses them (rules.profile)."""
