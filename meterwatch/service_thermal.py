"""meterwatch.v1.Thermal over gRPC: the air is told, and what transformers have come to by it and their loads is asked.

Promise: an answer to ImportAmbient means the readings are stored and the rules have them; what they say of the time
concerned follows with the next judgement.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import numpy as np

from meterwatch.access.identity import Identity, caller, check_sees
from meterwatch.clock import Clock
from meterwatch.errors import Missing, Rejected
from meterwatch.topology import Topology
from meterwatch.v1 import thermal_pb2 as pb
from meterwatch.v1 import thermal_pb2_grpc
from meterwatch.weather import Reading
from rules.hot_spot import HotSpot
from storage.ambient import FORECAST, LISTED_MAX, MEASURED, AmbientStore

DAY_US: Final = 86_400_000_000
READINGS_MAX: Final = 10_000
TRANSFORMERS_MAX: Final = 1000
HOTTEST: Final = 20
CELSIUS_MIN, CELSIUS_MAX = -60.0, 70.0
"""As the table has it."""
AHEAD_US: Final = 120_000_000
"""A clock may be so far ahead of ours."""
FORECAST_US: Final = 15 * DAY_US
"""A forecast may be of so far ahead."""
AT_US_MAX: Final = 7_258_118_400_000_000  # 2200-01-01


class Pipeline(Protocol):
    """What is needed of the pipeline."""

    clock: Clock

    def topology(self) -> Topology: ...
    def check_ready(self) -> None: ...


class ThermalService(thermal_pb2_grpc.ThermalServicer):
    """Servicer of meterwatch.v1.Thermal. changed: lets the rules have the air as it is stored now."""

    def __init__(
        self,
        store: AmbientStore,
        pipeline: Pipeline,
        rule: Callable[[], HotSpot],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._rule = rule
        self._changed = changed

    async def ImportAmbient(self, request: pb.ImportAmbientRequest, context: Any) -> pb.ImportAmbientResponse:
        """Store, and let the rules have it. Rejected BAD_AMBIENT with the first reading that will not do."""
        self._pipeline.check_ready()
        now_us = self._pipeline.clock.now_us()
        if len(request.reading) > READINGS_MAX:
            raise Rejected(
                "BAD_AMBIENT", f"{len(request.reading)} readings arrived; at most {READINGS_MAX} are taken; send parts"
            )
        for number, one in enumerate(request.reading):
            if problem := _problem(one, now_us + (FORECAST_US if request.forecast else AHEAD_US)):
                raise Rejected("BAD_AMBIENT", f"reading {number}: {problem}")
        readings = [Reading(one.area, one.at_us, one.celsius) for one in request.reading]
        changed = await self._store.record(readings, now_us, FORECAST if request.forecast else MEASURED)
        if changed and not request.forecast:
            await self._changed()
        return pb.ImportAmbientResponse(changed=changed)

    async def ListAmbient(self, request: pb.ListAmbientRequest, context: Any) -> pb.ListAmbientResponse:
        """List what is stored. Rejected BAD_QUERY."""
        now_us, ahead_us = self._pipeline.clock.now_us(), FORECAST_US if request.forecast else 0
        to_us = request.to_us or now_us + ahead_us
        from_us = request.from_us or (min(now_us, to_us) if request.forecast else to_us - DAY_US)
        if not 0 <= from_us <= to_us <= AT_US_MAX:
            raise Rejected(
                "BAD_QUERY", f"from_us {from_us} and to_us {to_us} arrived; 0 <= from_us <= to_us was expected"
            )
        table = FORECAST if request.forecast else MEASURED
        found = await self._store.readings(from_us, to_us, LISTED_MAX, table=table)
        identity = caller(context)
        return pb.ListAmbientResponse(
            reading=[
                pb.AmbientReading(area=one.area, at_us=one.at_us, celsius=one.celsius)
                for one in found
                if not one.area or identity.sees(one.area)
            ]
        )

    async def ListTemperatures(self, request: pb.ListTemperaturesRequest, context: Any) -> pb.ListTemperaturesResponse:
        """Say how hot they are. Missing UNKNOWN_ASSET, Rejected BAD_QUERY."""
        self._pipeline.check_ready()
        topology, rule = self._pipeline.topology(), self._rule()
        if max(len(request.transformer), request.hottest) > TRANSFORMERS_MAX:
            raise Rejected("BAD_QUERY", f"at most {TRANSFORMERS_MAX} transformers are told at once; ask in parts")
        identity = caller(context)
        index = (
            _named(request.transformer, topology, identity)
            if request.transformer
            else _hottest(rule, topology, request.hottest or HOTTEST, identity)
        )
        now = rule.present(index, self._pipeline.clock.now_us())
        if now is None:
            return pb.ListTemperaturesResponse()
        if not request.transformer:
            order = np.argsort(-now.hot_spot_c, kind="stable")
        else:
            order = np.arange(len(index))
        types = rule.plates.take(index).types_on((now.at_us - 1) // DAY_US)
        return pb.ListTemperaturesResponse(
            at_us=now.at_us,
            temperature=[
                pb.TransformerTemperature(
                    transformer=topology.transformer[index[i]],
                    share_of_rating=now.load_pu[i],
                    unknown_s=now.unknown_s[i],
                    top_oil_c=now.top_oil_c[i],
                    hot_spot_c=now.hot_spot_c[i],
                    ambient_c=now.ambient_c[i],
                    minutes_to_high=now.seconds_to_high[i] / 60,
                    ageing_factor=now.ageing[i],
                    life_today_s=now.life_today_s[i],
                    thermal_type=types[i],
                )
                for i in order.tolist()
            ],
        )


def _problem(one: pb.AmbientReading, latest_us: int) -> str:
    if not CELSIUS_MIN <= one.celsius <= CELSIUS_MAX:  # NaN as well
        return f"celsius {one.celsius} arrived; {CELSIUS_MIN:g} to {CELSIUS_MAX:g} were expected; correct it"
    if not 0 < one.at_us <= latest_us:
        return (
            f"at_us {one.at_us} arrived; a time up to now, of a forecast up to {FORECAST_US // DAY_US} days on, was "
            "expected, in microseconds since 1970; correct it"
        )
    return ""


def _hottest(rule: HotSpot, topology: Topology, most: int, identity: Identity) -> np.typing.NDArray[np.int64]:
    """The hottest of what the caller may see."""
    if not identity.districts:
        return rule.hottest(most)
    order = rule.hottest(len(topology.transformer))
    seen = [at for at in order.tolist() if identity.sees(topology.transformer_district[at])]
    return np.array(seen[:most], np.int64)


def _named(names: Any, topology: Topology, identity: Identity) -> np.typing.NDArray[np.int64]:
    number = {name: at for at, name in enumerate(topology.transformer) if name}
    if unknown := [name for name in names if name not in number]:
        raise Missing(
            "UNKNOWN_ASSET",
            f"transformer {', '.join(one[:64] for one in unknown[:5])} arrived; registered ones were expected; correct "
            "or import them",
        )
    for name in names:
        check_sees(identity, topology.transformer_district[number[name]], f"transformer {name}")
    return np.array([number[name] for name in names], np.int64)
