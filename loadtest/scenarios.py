"""What a load test does to its fleet: the knobs, the scenarios by name, and the faults they come to.

Promises: the same world, knobs and start give the same faults; assets that are to be off, silent, hot or restless are
different ones, so that each fault has one right alarm. The truth is what was done, not what a rule should make of it.
Refuses to know messages and time tables: that is loadtest.plan's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray

from loadtest.heat import Heat, heat
from loadtest.record import Fault
from loadtest.world import INTERVAL_S, INTERVAL_US, PLC, US, Asset, Ints, Meters, World


@dataclass(frozen=True, slots=True)
class Knobs:
    """Everything that can be turned. Shares are 0 to 1."""

    intervals: int = 12
    """Quarter-hours the run plays."""
    speed: float = 60.0
    """Seconds of the simulated clock in one of the machine's."""
    streams: int = 2
    drivers: int = 1
    """Processes that send; streams are dealt out to them."""
    reads_per_message: int = 5_000
    flush_s: float = 0.5
    """A head-end sends what it has this often; the machine's seconds."""
    paced: bool = True
    """False: everything goes as fast as it is accepted, and latency is from the send."""
    backlog_hours: float = 0.0
    """Head-end 0 was away for so long and begins with what it has kept, as fast as it is accepted."""
    three_phase_share: float = 0.2
    meters_per_transformer: int = 0
    """Mean of half to one and a half; 0: 15 to 65."""
    late_share: float = 0.0
    """Reads that come 1 to late_intervals_max intervals late."""
    late_intervals_max: int = 4
    loss_factor: float = 1.0
    """On the share of reads that each communication mode loses."""
    duplicate_share: float = 0.0
    """Reads that come twice."""
    resent_days: float = 0.0
    """Head-end 0 sends everything of so many days again, towards the end."""
    clock_drift_s: float = 0.0
    """Standard deviation of the meters' clocks. Reads are stamped at most 5 s off the grid, events carry all of it."""
    out_of_order_depth_messages: int = 0
    """A message is overtaken by up to so many."""
    malformed_share: float = 0.0
    """Damaged copies of reads: negative, not finite, of the future, of a meter nobody knows."""
    dst_day: bool = False
    """Play the day on which Berlin's clocks go forward."""
    gasp_probability: float = -1.0
    """Last gasps that arrive; negative: as each communication mode does."""
    late_gasp_share: float = 0.02
    """Of those that arrive: 5 to 20 minutes late."""
    spurious_events_per_1000_meters: float = 0.0
    """Last gasps of meters that have supply, told otherwise by their next read within 5 minutes."""
    feeders_out_share: float = 0.0
    feeders_out_within_s: float = 300.0
    """The feeders go one after the other within this time."""
    transformers_out: int = 0
    meters_out: int = 0
    """Single meters without supply whose last gasp arrives."""
    outage_min: float = 60.0
    """Mean length; half of it to one and a half."""
    momentary_transformers: int = 0
    """Transformers without supply for 10 to 25 s."""
    flapping_meters: int = 0
    """Meters that lose supply for under 90 s three to six times."""
    flapping_together: int = 1
    """So many of them on one transformer, at the same time."""
    planned_transformers: int = 0
    """Without supply for work that the service was told of."""
    dead_concentrators: int = 0
    hot_transformers_share: float = 0.0
    """Climb to 1.12 .. hot_peak of their rating for hours."""
    hot_peak: float = 1.45
    """The most of them."""
    warm_transformers_share: float = 0.0
    """Climb to 0.90 .. 0.97 and must not page."""
    edge_transformers_share: float = 0.0
    """Hover about their rating: 1.01 .. 1.04 for two to three hours, 0.96 .. 0.99 for half an hour, and so on."""
    stalled_subscribers: int = 0
    """Subscribers that never read, beside the one that follows."""
    behind_limit_s: float = 1.0
    """A generator further behind its schedule than this fails the run."""

    def __post_init__(self) -> None:
        for name, least in (("intervals", 1), ("streams", 1), ("drivers", 1), ("reads_per_message", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        for name in ("speed", "flush_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        for knob in fields(self):
            value = getattr(self, knob.name)
            if knob.name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{knob.name} is {value}; expected 0 to 1")
            if isinstance(value, int | float) and value < 0 and knob.name != "gasp_probability":
                raise ValueError(f"{knob.name} is {value}; expected 0 or more")
        if self.gasp_probability > 1:
            raise ValueError(f"gasp_probability is {self.gasp_probability}; expected 0 to 1, negative: by mode")


PLANNED_SPARE_S: Final = 900
"""Planned work is announced with so much to spare at either end."""
SILENCE_SURE_S: Final = 900 + 2700 + 900
"""A concentrator that is dead for less need not be told: an interval and the grace of its mode from the last read,
which ended up to an interval before it died. (docs/rules.md, COMM_LOSS)"""
_TROUBLE: Final[dict[str, Any]] = {
    "late_share": 0.02,
    "duplicate_share": 0.005,
    "out_of_order_depth_messages": 2,
    "spurious_events_per_1000_meters": 0.5,
}
SCENARIOS: Final[dict[str, tuple[str, int, Knobs]]] = {
    "day": (
        "the canonical day: a little of everything",
        2_000,
        Knobs(
            intervals=96, speed=480, feeders_out_share=0.1, transformers_out=2, meters_out=3, dead_concentrators=1,
            momentary_transformers=2, hot_transformers_share=0.05, warm_transformers_share=0.05, **_TROUBLE,
        ),
    ),
    "steady": ("the fleet's natural rate", 10_000, Knobs(intervals=8, speed=120)),
    "flatout": ("as fast as accepted", 50_000, Knobs(intervals=8, paced=False, reads_per_message=10_000)),
    "catchup": ("a head-end returns after 24 h", 10_000, Knobs(intervals=4, backlog_hours=24)),
    "storm": (
        "10 % of the feeders lose supply within minutes while reads flow",
        10_000,
        Knobs(
            intervals=16, meters_per_transformer=100, feeders_out_share=0.1, transformers_out=3, meters_out=5,
            dead_concentrators=1, momentary_transformers=5, flapping_meters=6, flapping_together=2,
            planned_transformers=2, gasp_probability=0.6, late_gasp_share=0.05, **_TROUBLE,
        ),
    ),
    "heatwave": (
        "transformers climb over their rating for hours, others come near",
        10_000,
        Knobs(
            intervals=40, speed=120, hot_transformers_share=0.04, hot_peak=1.7, warm_transformers_share=0.08,
            edge_transformers_share=0.02, late_share=0.01,
        ),
    ),
    "chaos": (
        "all knobs at once",
        10_000,
        Knobs(
            intervals=32, speed=120, streams=4, late_share=0.1, late_intervals_max=6, duplicate_share=0.05,
            resent_days=1, clock_drift_s=3, out_of_order_depth_messages=8, malformed_share=0.01, dst_day=True,
            late_gasp_share=0.1, spurious_events_per_1000_meters=2, feeders_out_share=0.1, transformers_out=3,
            meters_out=5, momentary_transformers=5, flapping_meters=10, dead_concentrators=2,
            hot_transformers_share=0.02, warm_transformers_share=0.04, stalled_subscribers=4,
        ),
    ),
}  # fmt: skip
"""Name -> (one line, meters, knobs)."""


def turned(knobs: Knobs, settings: list[str]) -> Knobs:
    """Knobs with `name=value` settings applied; ValueError names what is wrong."""
    types = get_type_hints(Knobs)
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in types or not equals:
            raise ValueError(f"{setting!r} arrived; expected knob=value with a knob out of {', '.join(types)}")
        try:
            values[name] = text.lower() in ("1", "true", "yes") if types[name] is bool else types[name](text)
        except ValueError:
            raise ValueError(f"{setting!r} arrived; {name} expects {types[name].__name__}") from None
    return replace(knobs, **values)


class Cut(NamedTuple):
    """Meters first..last-1 have no supply in [from_us, to_us)."""

    kind: str
    first: int
    last: int
    from_us: int
    to_us: int


class Dead(NamedTuple):
    """Meters behind a concentrator that keeps what they say until it is back."""

    meters: Meters
    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """All that is done to the fleet."""

    cuts: list[Cut] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    hot_row: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32 [transformers]: row of extra_wh, 0 for none."""
    extra_wh: NDArray[np.int32] = field(default_factory=lambda: np.zeros((1, 1), np.int32))
    """int32 [1 + hot and warm, intervals]: on top, per meter."""
    spurious: list[tuple[int, int]] = field(default_factory=list)
    """(meter, at_us)."""
    planned: list[Fault] = field(default_factory=list)
    """The work that the service is told of before the run; its span is longer than that of the fault."""
    faults: list[Fault] = field(default_factory=list)
    two_hour_rule_alarms: int = 0
    """How often "two hours above the rating" would have warned."""


def trouble(world: World, knobs: Knobs, start_us: int) -> Trouble:
    """Draw the faults of a run whose first interval ends at start_us."""
    rng = np.random.default_rng((world.seed, 100))
    out = Trouble(hot_row=np.zeros(world.transformers, np.int32))
    horizon_us = knobs.intervals * INTERVAL_US
    feeders = rng.permutation(world.feeders)
    count = min(round_up(knobs.feeders_out_share * world.feeders), world.feeders - 1)
    first_us = start_us + int(horizon_us * 0.25)
    for number in feeders[:count].tolist():
        onset_us = first_us + int(rng.uniform(0, knobs.feeders_out_within_s) * US)
        _cut(out, world.feeder(number), "OUTAGE", onset_us, _until(rng, knobs, onset_us))
    spared = np.sort(feeders[count:])
    rest = rng.permutation(np.concatenate([np.array(world.transformers_of_feeder(f)) for f in spared.tolist()]))
    free = rest.tolist()
    silent = _silence(out, world, knobs, start_us, horizon_us, free)
    free = [transformer for transformer in free if transformer not in silent]
    for transformer in _take(free, knobs.transformers_out):
        onset_us = first_us + int(rng.uniform(0, 0.2) * horizon_us)
        _cut(out, world.transformer(transformer), "OUTAGE", onset_us, _until(rng, knobs, onset_us))
    for transformer in _take(free, knobs.momentary_transformers):
        onset_us = start_us + int(rng.uniform(0.1, 0.8) * horizon_us)
        _cut(out, world.transformer(transformer), "MOMENTARY", onset_us, onset_us + int(rng.uniform(10, 25) * US))
    _heat(out, world, knobs, start_us, free, rng)
    for transformer in _take(free, knobs.meters_out):
        onset_us = first_us + int(rng.uniform(0, 0.2) * horizon_us)
        _cut(out, world.meter(_member(world, transformer, rng)), "OUTAGE", onset_us, _until(rng, knobs, onset_us))
    for first in range(0, knobs.flapping_meters, max(knobs.flapping_together, 1)):
        for transformer in _take(free, 1):
            asset = world.transformer(transformer)
            together = min(knobs.flapping_together, knobs.flapping_meters - first, asset.meters)
            since_us = start_us + int(rng.uniform(0.1, 0.8) * horizon_us)
            for number in rng.choice(np.arange(asset.first, asset.last), together, replace=False).tolist():
                _flap(out, world.meter(number), since_us, rng)
    for transformer in _take(free, knobs.planned_transformers):
        _plan_work(out, world.transformer(transformer), knobs, first_us, rng)
    _spurious(out, world, knobs, start_us, free, rng)
    return out


def round_up(value: float) -> int:
    """A share of a few is at least one, none stays none."""
    return 0 if value <= 0 else max(round(value), 1)


def _take(free: list[int], count: int) -> list[int]:
    taken, free[:] = free[:count], free[count:]
    return taken


def _member(world: World, transformer: int, rng: np.random.Generator) -> int:
    asset = world.transformer(transformer)
    return int(rng.integers(asset.first, asset.last))


def _until(rng: np.random.Generator, knobs: Knobs, onset_us: int) -> int:
    return onset_us + int(knobs.outage_min * rng.uniform(0.5, 1.5) * 60 * US)


def _cut(out: Trouble, asset: Asset, kind: str, from_us: int, to_us: int) -> None:
    shown = "METER_OUTAGE" if kind == "OUTAGE" and asset.kind == "meter" else kind
    out.cuts.append(Cut(shown, asset.first, asset.last, from_us, to_us))
    out.faults.append(Fault(kind, asset.kind, asset.name, from_us, to_us, asset.meters))


def _silence(out: Trouble, world: World, knobs: Knobs, start_us: int, horizon_us: int, free: list[int]) -> set[int]:
    """Concentrators that die at a fifth of the run, for 1 h 45 min or half of the run; their transformers."""
    silent: set[int] = set()
    from_us = start_us + int(0.2 * horizon_us)
    to_us = from_us + min(6300 * US, int(0.7 * horizon_us))
    for transformer in free:
        if len(out.dead) == knobs.dead_concentrators:
            break
        asset = world.transformer(transformer)
        wired = np.flatnonzero(world.mode[asset.first : asset.last] == PLC)
        if len(wired):
            name = world.concentrator_of(asset.first + int(wired[0]))
            meters = world.behind(name)
            out.dead.append(Dead(meters, from_us, to_us))
            sure = to_us - from_us >= SILENCE_SURE_S * US
            out.faults.append(Fault("COMM_LOSS", "concentrator", name, from_us, to_us, len(meters), expected=sure))
            silent.add(transformer)
    return silent


def _heat(out: Trouble, world: World, knobs: Knobs, start_us: int, free: list[int], rng: np.random.Generator) -> None:
    """Curves of load over rating: up within a sixth of the run, there for three fifths of it, and down again."""
    hot = _take(free, round_up(knobs.hot_transformers_share * world.transformers))
    warm = _take(free, round_up(knobs.warm_transformers_share * world.transformers))
    edge = _take(free, round_up(knobs.edge_transformers_share * world.transformers))
    end_us = start_us + np.arange(knobs.intervals, dtype=np.int64) * INTERVAL_US
    rows = [np.zeros(knobs.intervals, np.int32)]
    ramp = np.interp(np.linspace(0, 1, knobs.intervals), [0, 0.05, 0.2, 0.8, 0.9, 1], [0, 0, 1, 1, 0, 0])
    warnings = 0
    for transformer, kind in (*((t, "hot") for t in hot), *((t, "warm") for t in warm), *((t, "edge") for t in edge)):
        peak = _peak(kind, knobs, rng)
        base, asset = world.natural_load(transformer, end_us), world.transformer(transformer)
        window_wh = world.window_wh(transformer)
        more = np.maximum(base + (peak - base) * ramp - base, 0) * window_wh / asset.meters
        extra = more.astype(np.int32)
        rows.append(extra)
        out.hot_row[transformer] = len(rows) - 1
        load = base + extra * asset.meters / window_wh
        truth = heat(load, INTERVAL_S)
        warnings += len(truth.rule_s)
        if (load > 1.0).any() and (kind == "hot" or truth.rule_s):
            out.faults.append(_overload(asset, load, end_us, truth, expected=kind == "hot"))
    object.__setattr__(out, "extra_wh", np.stack(rows))
    object.__setattr__(out, "two_hour_rule_alarms", warnings)


def _peak(kind: str, knobs: Knobs, rng: np.random.Generator) -> float | NDArray[np.float64]:
    if kind == "edge":
        return _hovering(knobs.intervals, rng)
    return rng.uniform(1.12, knobs.hot_peak) if kind == "hot" else rng.uniform(0.90, 0.97)


def _overload(asset: Asset, load: NDArray[np.float64], end_us: Ints, truth: Heat, *, expected: bool) -> Fault:
    """From the first interval above the rating to the first one below 0.95 after the last of them."""
    over = np.flatnonzero(load > 1.0)
    below = np.flatnonzero((load < 0.95) & (np.arange(len(load)) > over[-1]))
    first_us = int(end_us[0]) - INTERVAL_US
    hot_us, rule_us = (
        None if at_s is None else first_us + round(at_s * US)
        for at_s in (truth.hot_s, truth.rule_s[0] if truth.rule_s else None)
    )
    return Fault(
        "OVERLOAD", "transformer", asset.name, int(end_us[over[0]]) - INTERVAL_US,
        int(end_us[below[0]]) if len(below) else None, asset.meters, hot_us, rule_us, expected,
    )  # fmt: skip


def _hovering(intervals: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Load over rating by intervals, above and below it in turn."""
    parts: list[NDArray[np.float64]] = []
    while sum(map(len, parts)) < intervals:
        parts += [rng.uniform(1.01, 1.04, int(rng.integers(8, 13))), rng.uniform(0.96, 0.99, 2)]
    return np.concatenate(parts)[:intervals]


def _plan_work(out: Trouble, asset: Asset, knobs: Knobs, first_us: int, rng: np.random.Generator) -> None:
    """Off within the time that was given for it."""
    onset_us = first_us + int(rng.uniform(0, 600) * US)
    until_us = _until(rng, knobs, onset_us)
    _cut(out, asset, "PLANNED", onset_us, until_us)
    spare_us = PLANNED_SPARE_S * US
    out.planned.append(replace(out.faults[-1], onset_us=onset_us - spare_us, end_us=until_us + spare_us))


def _flap(out: Trouble, asset: Asset, since_us: int, rng: np.random.Generator) -> None:
    at_us = first_us = since_us + int(rng.uniform(0, 10) * US)
    for _ in range(int(rng.integers(3, 7))):
        until_us = at_us + int(rng.uniform(20, 90) * US)
        out.cuts.append(Cut("MOMENTARY", asset.first, asset.last, at_us, until_us))
        at_us = until_us + int(rng.uniform(75, 150) * US)
    out.faults.append(Fault("MOMENTARY", asset.kind, asset.name, first_us, until_us, 1))


def _spurious(
    out: Trouble, world: World, knobs: Knobs, start_us: int, free: list[int], rng: np.random.Generator
) -> None:
    """Each 10 to 120 s before an interval's end, so that the read of it contradicts in time."""
    count = round(knobs.spurious_events_per_1000_meters * world.meters / 1000) if free else 0
    for transformer in rng.choice(free, count).tolist() if count else ():
        meter = _member(world, transformer, rng)
        end_us = start_us + int(rng.integers(1, max(knobs.intervals - 1, 2))) * INTERVAL_US
        at_us = end_us - int(rng.uniform(10, 120) * US)
        out.spurious.append((meter, at_us))
        out.faults.append(Fault("NOISE", "meter", world.name(meter), at_us, at_us + INTERVAL_S * US, 1))
