"""meterwatch.v1.Transformers over gRPC: curves, forecasts and load plans of one transformer at a time.

Promises: a call reads the loads of one transformer over at most SPAN_US_MAX. A plan is advice: nothing is switched or
recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.access.identity import Identity, caller, check_sees
from meterwatch.alarms import Alarm, AlarmState, AlarmType
from meterwatch.clock import US, Clock
from meterwatch.episodes import Verdict
from meterwatch.errors import Missing, Rejected
from meterwatch.flexibility_csv import PROBLEMS_MAX, parsed
from meterwatch.known_air import known_air, told_air
from meterwatch.topology import TERMINAL, Topology
from meterwatch.v1 import transformers_pb2 as pb
from meterwatch.v1 import transformers_pb2_grpc
from rules.air import air_was, air_will_be
from rules.hindcast import Forecaster
from rules.ladder import OverloadProfile
from rules.load_curve import LoadCurves, temperatures
from rules.load_plan import Customers, LoadPlan, PlanProfile, load_plan
from rules.plates import Plates
from rules.thermal import Thermal
from rules.twin import Days, HotSpotProfile, run
from storage.ambient import AmbientStore
from storage.flexibility import FlexibilityStore
from storage.forecasts import Forecast, ForecastStore

DAY_US: Final = 86_400 * US
USUAL_US: Final = 7 * DAY_US
SPAN_US_MAX: Final = 92 * DAY_US
TO_US_MAX: Final = 7_258_118_400_000_000  # 2200-01-01
LASTS_S: Final = 4 * 3600
"""Without a forecast the newest load goes on for so long. (ours)"""
NEWEST_S: Final = 7200
"""The newest load may be so old."""
FILE_BYTES_MAX: Final = 8 * 1024 * 1024
TARGET_PU_MAX: Final = 2.0
Floats = NDArray[np.float64]
Within = Callable[[Sequence[Verdict]], Awaitable[list[Alarm]]]


class TransformersService(transformers_pb2_grpc.TransformersServicer):
    """Servicer of meterwatch.v1.Transformers. within: alarms that such verdicts are about."""

    def __init__(
        self,
        forecasts: ForecastStore,
        flexibility: FlexibilityStore,
        within: Within,
        topology: Callable[[], Topology],
        clock: Clock,
        overload: OverloadProfile,
        ambient: AmbientStore | None = None,
        hot_spot: HotSpotProfile | None = None,
    ) -> None:
        self._forecasts = forecasts
        self._flexibility = flexibility
        self._within = within
        self._topology = topology
        self._clock = clock
        self._overload = overload
        self._window_us = overload.window_s * US
        self._ambient = ambient
        self._hot_spot = hot_spot or HotSpotProfile()

    async def GetCurve(self, request: pb.GetCurveRequest, context: Any) -> pb.GetCurveResponse:
        """Load, coverage, temperatures and alarms."""
        topology, number = self._named(request.transformer, caller(context))
        to_us = request.to_us or self._clock.now_us()
        from_us = request.from_us or to_us - USUAL_US
        if not (0 <= from_us < to_us <= TO_US_MAX and to_us - from_us <= SPAN_US_MAX):
            raise Rejected(
                "BAD_QUERY",
                f"from_us {from_us} and to_us {to_us} arrived; 0 <= from_us < to_us and at most "
                f"{SPAN_US_MAX // DAY_US} days between them were expected, in microseconds since 1970; correct them",
            )
        first, stop = -(-from_us // self._window_us), to_us // self._window_us
        days, stop = Days.of(self._hot_spot, self._overload.window_s), max(stop, first)
        begin = days.begin_of(first)
        curves = await self._curves(number, begin, stop)
        rated_kva = _rated(topology, number)
        load_pu = curves.usable(self._overload.coverage_min) / rated_kva if rated_kva else np.zeros_like(curves.kva)
        district = topology.transformer_district[number]
        told = await told_air(
            self._ambient,
            begin * self._window_us,
            stop * self._window_us,
            self._hot_spot.ambient_max_age_s * US,
            {district},
        )
        air = air_was(self._hot_spot, told, [district], begin, stop, self._window_us)
        plates = self._plates(topology, number)
        hot = await asyncio.to_thread(run, self._hot_spot, days, plates, begin, load_pu.T, air)
        shown = slice(first - begin, None)
        verdicts = [Verdict(type_, "transformer", number, from_us, (), until_us=to_us) for type_ in AlarmType]
        alarms = sorted(await self._within(verdicts), key=lambda alarm: alarm.onset_us)
        return pb.GetCurveResponse(
            rated_kva=rated_kva,
            first_end_us=(first + 1) * self._window_us,
            window_s=self._overload.window_s,
            kva=curves.kva[0, shown],
            coverage=curves.coverage[0, shown],
            coverage_min=self._overload.coverage_min,
            top_oil_c=hot.top_oil_c[shown, 0],
            hot_spot_c=hot.hot_spot_c[shown, 0],
            ambient_c=air[-1, 0],
            air_c=air[shown, 0],
            alarm=[_alarm(alarm) for alarm in alarms if alarm.state is not AlarmState.RETRACTED],
        )

    async def GetForecast(self, request: pb.GetForecastRequest, context: Any) -> pb.GetForecastResponse:
        """The newest forecast."""
        topology, number = self._named(request.transformer, caller(context))
        found = await self._forecasts.newest(number)
        if found is None:
            raise Missing(
                "NO_FORECAST",
                f"transformer {request.transformer!r} has no forecast; it needs weeks of loads with few gaps and a "
                "rating (docs/forecast.md); ask again when an hour has begun",
            )
        rated_kva = _rated(topology, number)
        return pb.GetForecastResponse(
            made_us=found.made_us,
            rated_kva=rated_kva,
            first_end_us=found.first_end_us,
            step_s=found.step_s,
            forecaster=Forecaster(found.forecaster).name,
            paths=found.paths,
            p10_kva=found.p10 * rated_kva,
            p50_kva=found.p50 * rated_kva,
            p90_kva=found.p90 * rated_kva,
            p_over=found.p_over,
            p_hot=found.p_hot,
            hot_spot_c=found.hot_spot_c,
            overload_chance=found.overload_chance,
            overload_us=found.overload_us,
        )

    async def PlanLoad(self, request: pb.PlanLoadRequest, context: Any) -> pb.PlanLoadResponse:
        """A plan for the steps from now on."""
        topology, number = self._named(request.transformer, caller(context))
        target_pu = request.target_pu or PlanProfile().target_pu
        if not 0 < target_pu <= TARGET_PU_MAX:
            raise Rejected("BAD_QUERY", f"target_pu is {target_pu}; expected above 0 and at most {TARGET_PU_MAX:g}")
        rated_kva, now_us = _rated(topology, number), self._clock.now_us()
        if not rated_kva:
            raise Rejected("NOT_RATED", f"transformer {request.transformer!r} has no rating; import one")
        begun = now_us // self._window_us
        own = self._plates(topology, number).on(now_us // DAY_US)
        warm_up = round(self._hot_spot.thermal.warm_up_of(own) / self._overload.window_s)
        curves = await self._curves(number, begun - warm_up, begun)
        past_pu = curves.usable(self._overload.coverage_min) / rated_kva
        forecast = await self._forecasts.newest(number)
        ahead_pu = _ahead(forecast, begun * self._window_us, request.load == pb.PLAN_FOR_P90)
        by_forecast = ahead_pu is not None
        if ahead_pu is None:
            ahead_pu = self._as_now(past_pu[0], request.transformer)
        profile = PlanProfile(window_s=self._overload.window_s, target_pu=target_pu)
        kw = self._overload.assumed_power_factor * rated_kva
        slots = _members(topology, number)
        customers = await self._customers(topology, slots, ahead_pu * kw, now_us)
        plan = await asyncio.to_thread(load_plan, ahead_pu * kw, target_pu * kw, customers, profile)
        district = topology.transformer_district[number]
        from_us = min((begun - warm_up) * self._window_us, now_us - DAY_US)
        known = await known_air(self._ambient, from_us, now_us, self._hot_spot.ambient_max_age_s * US, {district})
        was_c = air_was(self._hot_spot, known.told, [district], begun - warm_up, begun, self._window_us).T
        will_be_c = air_will_be(
            self._hot_spot,
            known.told,
            known.forecast,
            [district],
            begun,
            begun + len(ahead_pu),
            self._window_us,
            now_us,
        ).T
        model = Thermal(own)
        state = temperatures(model, past_pu, self._overload.window_s, was_c).state
        before_c, after_c = (
            temperatures(model, load_pu[None], self._overload.window_s, will_be_c, state).hot_spot_c
            for load_pu in (ahead_pu, plan.load_kw / kw)
        )
        return pb.PlanLoadResponse(
            step=self._steps(plan, topology, slots, begun),
            met=not plan.shortfall_kw.any(),
            limit_kw=target_pu * kw,
            first_end_us=(begun + 1) * self._window_us,
            step_s=self._overload.window_s,
            before_kw=ahead_pu * kw,
            after_kw=plan.load_kw,
            shortfall_kw=plan.shortfall_kw,
            before_hot_spot_c=before_c[0],
            after_hot_spot_c=after_c[0],
            customers=len(slots),
            protected=int(customers.protected.sum()),
            forecast=by_forecast,
            air_c=will_be_c[0],
        )

    async def ImportFlexibility(
        self, request: pb.ImportFlexibilityRequest, context: Any
    ) -> pb.ImportFlexibilityResponse:
        """Take a file whole, or nothing of it."""
        if len(request.content) > FILE_BYTES_MAX:
            raise Rejected("TOO_LARGE", f"{len(request.content)} bytes arrived; at most {FILE_BYTES_MAX} are taken")
        name = request.name[:200] or "flexibility.csv"
        rows, problems = await asyncio.to_thread(parsed, name, request.content)
        slots = self._topology().slots_of([row.meter for row in rows])
        problems += [
            f"{name}: meter {rows[at].meter[:64]!r} is not in the registry; correct or import it"
            for at in np.flatnonzero(slots < 0).tolist()
        ]
        if problems:
            return pb.ImportFlexibilityResponse(error=problems[:PROBLEMS_MAX])
        if not request.dry_run:
            await self._flexibility.store(slots.tolist(), rows, request.valid_from_us or self._clock.now_us())
        return pb.ImportFlexibilityResponse(customers=len(rows))

    def _named(self, name: str, identity: Identity) -> tuple[Topology, int]:
        topology = self._topology()
        if not name or name not in topology.transformer:
            raise Missing(
                "UNKNOWN_ASSET",
                f"transformer {name[:64]!r} arrived; a registered one was expected; take a name from ListAssets",
            )
        number = topology.transformer.index(name)
        check_sees(identity, topology.transformer_district[number], f"transformer {name}")
        return topology, number

    async def _curves(self, number: int, first: int, stop: int) -> LoadCurves:
        mine = np.array([number])
        loads, expected = await self._forecasts.loads(mine, first, stop)
        return LoadCurves.of(loads, expected, mine, first, stop, self._overload)

    def _plates(self, topology: Topology, number: int) -> Plates:
        """Its thermal numbers by day."""
        thermal, types = self._hot_spot.thermal, self._hot_spot.types
        return Plates.of(thermal, types, topology, np.array([number]))

    def _as_now(self, past_pu: Floats, name: str) -> Floats:
        recent = past_pu[-(NEWEST_S // self._overload.window_s) :]
        known = recent[~np.isnan(recent)]
        if not len(known):
            raise Missing(
                "NO_LOAD", f"transformer {name!r} has neither a forecast nor a load of the last {NEWEST_S // 3600} h"
            )
        return np.full(LASTS_S // self._overload.window_s, known[-1])

    async def _customers(self, topology: Topology, slots: NDArray[np.int32], load_kw: Floats, at_us: int) -> Customers:
        """Each draws its share of the transformer's load: by the newest judged day, else by contract, else evenly."""
        n = len(slots)
        contract = np.nan_to_num(topology.contract_kw[slots].astype(np.float64), nan=1.0)
        day_slot, day_wh = await self._flexibility.energy(slots, at_us)
        drawn = np.zeros(n)
        drawn[np.searchsorted(slots, day_slot)] = np.maximum(day_wh, 0)
        weight = drawn if drawn.any() else contract
        share = weight / weight.sum() if weight.sum() > 0 else np.full(n, 1 / max(n, 1))
        slot, protected, shift, avoid, limit_to, limited_us = await self._flexibility.at(slots, at_us)
        at = np.searchsorted(slots, slot)

        def laid(values: NDArray[Any], default: float, dtype: Any) -> NDArray[Any]:
            column = np.full(n, default, dtype)
            column[at] = values
            return column

        return Customers(
            share[:, None] * load_kw, laid(protected, 0, np.bool_), laid(shift, 0, np.float64),
            laid(avoid, 0, np.float64), laid(limit_to, np.nan, np.float64), laid(limited_us, 0, np.int64),
        )  # fmt: skip

    def _steps(self, plan: LoadPlan, topology: Topology, slots: NDArray[np.int32], begun: int) -> list[pb.PlanStep]:
        return [
            pb.PlanStep(
                measure=pb.PlanMeasure.ValueType(int(one.measure)),
                meter=topology.meter[int(slots[one.customer])],
                from_us=(begun + one.first) * self._window_us,
                to_us=(begun + one.stop) * self._window_us,
                kw=one.kw,
            )
            for one in plan.steps
        ]


def _ahead(forecast: Forecast | None, begun_us: int, careful: bool) -> Floats | None:
    """What is left of a forecast from now on; None: nothing."""
    if forecast is None:
        return None
    past = (begun_us - (forecast.first_end_us - forecast.step_s * US)) // (forecast.step_s * US)
    left: Floats = (forecast.p90 if careful else forecast.p50)[max(past, 0) :]
    return left if len(left) and past >= 0 else None


def _members(topology: Topology, number: int) -> NDArray[np.int32]:
    """Slots of the customers, ascending; the transformer's own terminal is none."""
    return np.flatnonzero((topology.member_of == number) & (topology.witness != TERMINAL)).astype(np.int32)


def _rated(topology: Topology, number: int) -> float:
    return max(float(np.nan_to_num(topology.rated_kva[number])), 0.0)


def _alarm(alarm: Alarm) -> pb.CurveAlarm:
    return pb.CurveAlarm(
        alarm_id=alarm.alarm_id, type=alarm.rule, level=alarm.level, onset_us=alarm.onset_us,
        cleared_us=alarm.cleared_us, summary=alarm.summary,
    )  # fmt: skip
