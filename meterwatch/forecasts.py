"""Forecasts of transformers, every hour: stored, and told of where overload or heat is to be expected.

A pass goes over all rated transformers, TOGETHER at a time: read their loads, forecast in a thread, store, tell the
alarm desk. While the database is away a step waits; one that fails by an error of ours is logged, counted, and tried
again in an hour, so that it stops none of the others. What is open is taken from the alarm book, so a restart goes on.
Who has too few days of loads, too many gaps, or has not been heard for STALE_S is not forecast.
Refuses to know: how reads become loads; it sees stored loads alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import structlog
from numpy.typing import NDArray

from alarm.desk import AlarmDesk
from meterwatch.alarms import Alarm
from meterwatch.background import in_background
from meterwatch.clock import US, Clock
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.known_air import KnownAir, known_air
from meterwatch.metrics import Metrics
from meterwatch.topology import Topology
from rules import forecast_overload
from rules.air import air_was, air_will_be
from rules.forecast import ForecastProfile, chances
from rules.forecast_overload import ForecastLimits, Outlook, Told
from rules.hindcast import Ahead, Forecaster, ahead, days_needed, ladder_chances
from rules.ladder import OverloadProfile
from rules.load_curve import LoadCurves, filled, temperatures
from rules.plates import Plates
from rules.thermal import Thermal, ThermalParameters
from rules.twin import HotSpotProfile
from storage.ambient import AmbientStore
from storage.arrays import moment
from storage.forecasts import Forecast, ForecastStore

TOGETHER: Final = 16
"""Transformers forecast at once: 70 MB while they learn."""
EVERY_US: Final = 3600 * US
DAY_US: Final = 86_400 * US
DAYS_MAX: Final = 75
"""Loads of so many whole days are read."""
KNOWN_SHARE: Final = 0.9
"""Of the windows of the days used. (ours)"""
STALE_S: Final = 7200
"""The newest load may be so old. (ours)"""
RECENT_S: Final = 10_800
"""Loads before the forecast that the ladder begins with: longer than any hold."""
AIR_US: Final = 3 * DAY_US
"""Air of so long ago is read: the last day, and what the present temperatures rest on."""
PROFILE: Final = ForecastProfile(train_days=28)
"""Four weeks to learn from cost a sixth of sixty days. (ours)"""
THERE: Final = frozenset({"OVERLOAD", "HOT_SPOT"})
"""Rules that say of now what is forecast here."""
_log = structlog.get_logger(__name__)
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Forecasts:
    """See the module head. `run()` is a task; the service serves without it."""

    def __init__(
        self,
        store: ForecastStore,
        desk: AlarmDesk,
        topology: Callable[[], Topology],
        clock: Clock,
        metrics: Metrics,
        overload: OverloadProfile,
        waiting_rows: Callable[[], int] = lambda: 0,
        limits: ForecastLimits | None = None,
        *,
        hot_spot: HotSpotProfile | None = None,
        ambient: AmbientStore | None = None,
    ) -> None:
        self._store = store
        self._desk = desk
        self._topology = topology
        self._clock = clock
        self._metrics = metrics
        self._overload = overload
        self._waiting_rows = waiting_rows
        self._limits = limits or ForecastLimits()
        self._hot_spot = hot_spot or HotSpotProfile()
        self._ambient = ambient
        self._air = KnownAir()
        """As it was when the pass began."""
        self._hour = -1
        """Of the pass that is finished."""
        self._under_way: int | None = None
        self._next = 0
        """First transformer of the next step."""

    async def run(self) -> None:
        """Forecast until cancelled."""
        await in_background(
            "forecasting", self.once, self._metrics.forecast_steps_failed.inc, self._waiting_rows, self._metrics.jobs
        )

    async def once(self) -> bool:
        """One step of a pass; False: this hour's is done. A pass that takes longer than its hour is finished first."""
        if self._under_way is None:
            hour = self._clock.now_us() // EVERY_US
            if hour <= self._hour:
                return False
            if not await self._may_forecast():
                self._hour = hour
                return False
            self._air = await self._known_air()
            self._under_way, self._next = hour, 0
        topology = self._topology()
        rated = np.flatnonzero(np.nan_to_num(topology.rated_kva) > 0)
        some = rated[rated >= self._next][:TOGETHER]
        if not len(some):
            self._hour, self._under_way = self._under_way, None
            return True
        before, self._next = self._next, int(some[-1]) + 1
        try:
            await self._step(topology, some.astype(np.int64))
        except (StorageUnavailable, Overloaded):
            self._next = before
            raise
        return True

    async def _known_air(self) -> KnownAir:
        now_us = self._clock.now_us()
        return await known_air(self._ambient, now_us - AIR_US, now_us, self._hot_spot.ambient_max_age_s * US)

    async def _may_forecast(self) -> bool:
        """False: no load is old enough, and nothing is open that a forecast would have to end."""
        oldest_us = await self._store.oldest_us()
        if oldest_us is not None and self._clock.now_us() - oldest_us >= days_needed(PROFILE) * DAY_US:
            return True
        return any(a.rule == forecast_overload.RULE and a.cleared_us is None for a in self._desk.book)

    @property
    def behind_s(self) -> float:
        """How long the pass under way takes already; 0: none is."""
        return 0.0 if self._under_way is None else max(self._clock.now_us() - self._under_way * EVERY_US, 0) / US

    async def _step(self, topology: Topology, transformers: Ints) -> None:
        now_us = self._clock.now_us()
        window_us = self._overload.window_s * US
        first, weekday = self._begin(topology, now_us, window_us)
        stop = now_us // window_us
        loads, expected = await self._store.loads(transformers, first, stop)
        curves = LoadCurves.of(loads, expected, transformers, first, stop, self._overload)
        load_pu = curves.usable(self._overload.coverage_min) / topology.rated_kva[transformers][:, None]
        around = self._around(topology, transformers, stop, now_us)
        made = await asyncio.to_thread(self._forecast, load_pu, around, weekday, stop, now_us)
        forecasts = {int(transformers[row]): forecast for row, (forecast, _) in made.items()}
        await self._store.store(forecasts)
        outlooks = {int(transformers[row]): outlook for row, (_, outlook) in made.items()}
        await self._tell(topology, transformers, outlooks, now_us)
        self._metrics.forecasts.inc(len(forecasts))

    def _around(self, topology: Topology, transformers: Ints, stop: int, now_us: int) -> _Around:
        profile, window_us = self._hot_spot, self._overload.window_s * US
        parameters = Plates.of(profile.thermal, profile.types, topology, transformers).on(now_us // DAY_US)
        warm_up = round(profile.thermal.warm_up_of(parameters) / self._overload.window_s)
        district = [topology.transformer_district[one] for one in transformers.tolist()]
        areas = sorted(set(district))
        of = [areas.index(one) for one in district]
        was = air_was(profile, self._air.told, areas, stop - warm_up, stop, window_us)
        will_be = air_will_be(
            profile, self._air.told, self._air.forecast, areas, stop, stop + PROFILE.horizon, window_us, now_us
        )
        return _Around(parameters, was.T[of], will_be.T[of])

    async def _tell(self, topology: Topology, transformers: Ints, outlooks: dict[int, Outlook], now_us: int) -> None:
        def lasting(rule: str, transformer: int) -> list[Alarm]:
            return [a for a in self._desk.book.of(rule, "transformer", transformer) if a.cleared_us is None]

        verdicts = [
            forecast_overload.verdict(
                one, topology.transformer[one], outlooks.get(one),
                next((_told(alarm) for alarm in lasting(forecast_overload.RULE, one)), None),
                frozenset(rule for rule in THERE if lasting(rule, one)), now_us, self._limits,
            )
            for one in transformers.tolist()
        ]  # fmt: skip
        if said := [verdict for verdict in verdicts if verdict is not None]:
            await self._desk.record(said, [])

    def _begin(self, topology: Topology, now_us: int, window_us: int) -> tuple[int, int]:
        """First window, at a local midnight, and its weekday; the region's days are taken to have 24 hours."""
        midnight = moment(now_us).astimezone(region_zone(topology)).replace(hour=0, minute=0, second=0, microsecond=0)
        days = DAY_US // window_us
        first = int(midnight.timestamp()) * US // window_us - DAYS_MAX * days
        return first, (midnight.weekday() - DAYS_MAX) % 7

    def _forecast(
        self, load_pu: Floats, around: _Around, weekday: int, stop: int, now_us: int
    ) -> dict[int, tuple[Forecast, Outlook]]:  # fmt: skip
        """By row: of those that can be forecast, together where they have equally many days."""
        found: dict[int, tuple[Forecast, Outlook]] = {}
        days = usable_days(load_pu, PROFILE.day)
        for count in np.unique(days[days > 0]).tolist():
            rows = np.flatnonzero(days == count)
            skipped = (DAYS_MAX - count) * PROFILE.day
            load = filled(load_pu[rows, skipped:], self._overload.window_s)
            said = ahead(load, (weekday + DAYS_MAX - count) % 7, PROFILE)
            found |= self._dressed(rows, load, said, around.take(rows), stop, now_us)
        return found

    def _dressed(
        self, rows: NDArray[np.intp], load: Floats, said: Ahead, around: _Around, stop: int, now_us: int
    ) -> dict[int, tuple[Forecast, Outlook]]:
        window_s = self._overload.window_s
        end_us = (stop + 1 + np.arange(PROFILE.horizon)) * (window_s * US)
        model, past = Thermal(around.parameters), min(around.was_c.shape[1], load.shape[1])
        state = temperatures(model, load[:, -past:], window_s, around.was_c[:, -past:]).state
        p_over, p_hot = chances(
            said.forecast, said.errors, around.parameters, state, around.will_be_c, self._limits.hot_c, PROFILE
        )
        hot_spot_c = temperatures(model, said.quantiles[1], window_s, around.will_be_c, state).hot_spot_c
        ladder = ladder_chances(load[:, -(RECENT_S // window_s) :], said, self._overload)
        result = {}
        for at, row in enumerate(rows.tolist()):
            late = ladder.raised_step[at]
            overload_us = None if np.isnan(late) else int(end_us[int(late)])
            hot_chance = float(p_hot[at, -1])
            hot = np.flatnonzero(p_hot[at] >= hot_chance / 2) if hot_chance > 0 else np.zeros(0, np.intp)
            peak = int(said.quantiles[1, at].argmax())
            p10, p50, p90 = said.quantiles[:, at]
            forecast = Forecast(
                now_us, int(end_us[0]), window_s, int(said.forecaster[at]), said.errors.shape[1],
                float(ladder.chance[at]), overload_us, p10, p50, p90, p_over[at], p_hot[at], hot_spot_c[at],
            )  # fmt: skip
            outlook = Outlook(
                now_us, float(ladder.chance[at]), overload_us, hot_chance, int(end_us[hot[0]]) if len(hot) else None,
                float(ladder.peak[at]), int(end_us[peak]), Forecaster(int(said.forecaster[at])).name,
            )  # fmt: skip
            result[row] = forecast, outlook
        return result


class _Around(NamedTuple):
    """What heats transformers besides their loads."""

    parameters: ThermalParameters
    was_c: Floats
    """Air of the windows before now, [n, windows]."""
    will_be_c: Floats
    """Of those of the forecast."""

    def take(self, rows: NDArray[np.intp]) -> _Around:
        return _Around(self.parameters.take(rows), self.was_c[rows], self.will_be_c[rows])


def usable_days(load_pu: Floats, day: int) -> Ints:
    """Whole days that each row [n, steps] can be forecast from, in steps of a week; 0: it cannot be.

    The first known load begins them; KNOWN_SHARE of them is known, and one of the last STALE_S.
    """
    steps = load_pu.shape[1]
    known = ~np.isnan(load_pu)
    since = np.where(known.any(axis=1), np.argmax(known, axis=1), steps)
    whole = (DAYS_MAX * day - since) // day
    least = days_needed(PROFILE)
    days = np.where(whole >= least, least + (np.minimum(whole, DAYS_MAX) - least) // 7 * 7, 0)
    fresh = known[:, -(STALE_S * day // 86_400) :].sum(axis=1)
    for row, count in enumerate(days.tolist()):
        if count and not (fresh[row] and known[row, (DAYS_MAX - count) * day :].mean() >= KNOWN_SHARE):
            days[row] = 0
    return days.astype(np.int64)


def region_zone(topology: Topology) -> ZoneInfo:
    """The time zone of the most head-ends; UTC without any."""
    zones = Counter(zone for zone, name in zip(topology.head_end_zone, topology.head_end, strict=False) if name)
    return ZoneInfo(zones.most_common(1)[0][0] if zones else "UTC")


def _told(alarm: Alarm) -> Told:
    return Told(alarm.onset_us, alarm.level, alarm.severity, alarm.summary, dict(alarm.evidence))
