"""meterwatch.v1.Gaps over gRPC: what is overdue, as a stream of runs, and how complete what meters owe is.

Promises: at most RUNS_MAX runs in a message and one part of the meters in memory; a client that reads slowly slows its
own question. A span that cannot be answered in bounded memory is refused with what to ask instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Protocol

import numpy as np

from meterwatch.access.identity import Identity, caller, check_head_end
from meterwatch.batch import Reads
from meterwatch.channels import CHANNEL_BIT
from meterwatch.clock import Clock
from meterwatch.errors import Denied, Missing, Rejected
from meterwatch.estimation import Estimation
from meterwatch.gap_watch import DIMENSIONS, HOUR_US, RECENT_US, SPAN_US_MAX, GapWatch, Slots, groups_of
from meterwatch.quality import METHOD_MASK, METHOD_SHIFT
from meterwatch.topology import Topology
from meterwatch.v1 import gaps_pb2, gaps_pb2_grpc

RUNS_MAX: Final = 10_000
METERS_MAX: Final = 1000
ROWS_MAX: Final = 100_000
TO_US_MAX: Final = 7_258_118_400_000_000  # 2200-01-01


class Pipeline(Protocol):
    """What is needed of the pipeline."""

    clock: Clock

    def topology(self) -> Topology: ...
    def check_ready(self) -> None: ...


class GapsService(gaps_pb2_grpc.GapsServicer):
    """Servicer of meterwatch.v1.Gaps."""

    def __init__(self, gaps: GapWatch, estimation: Estimation, pipeline: Pipeline) -> None:
        self._gaps = gaps
        self._estimation = estimation
        self._pipeline = pipeline

    async def List(self, request: gaps_pb2.GapsRequest, context: Any) -> AsyncIterator[gaps_pb2.GapsResponse]:
        """Stream the runs asked for."""
        self._pipeline.check_ready()
        topology = self._pipeline.topology()
        from_us, to_us = span(request.from_us, request.to_us, self._pipeline.clock.now_us(), RECENT_US)
        slots = _mine(_slots(request, topology), request, topology, caller(context))
        async for found in self._gaps.missing(slots, from_us, to_us):
            for at in range(0, len(found.slot), RUNS_MAX):
                part = slice(at, at + RUNS_MAX)
                meters = [topology.meter[slot] for slot in found.slot[part].tolist()]
                yield gaps_pb2.GapsResponse(
                    meter=meters,
                    interval_s=[found.interval_s] * len(meters),
                    first_end_us=found.first_us[part].tolist(),
                    last_end_us=found.last_us[part].tolist(),
                    reads=found.reads[part].tolist(),
                )

    async def Completeness(self, request: gaps_pb2.CompletenessRequest, context: Any) -> gaps_pb2.CompletenessResponse:
        """Count."""
        self._pipeline.check_ready()
        from_us, to_us = span(request.from_us, request.to_us, self._pipeline.clock.now_us(), 24 * HOUR_US)
        by = {gaps_pb2.CompletenessBy.Name(one).removeprefix("COMPLETENESS_BY_").lower() for one in request.by}
        if by - {"hour", *DIMENSIONS}:
            raise Rejected("BAD_QUERY", f"by {sorted(by)} arrived; {', '.join(('hour', *DIMENSIONS))} were expected")
        dimensions = [one for one in DIMENSIONS if one in by]
        topology, identity = self._pipeline.topology(), caller(context)
        groups = groups_of(topology, dimensions)
        seen = np.flatnonzero(topology.in_districts(identity.districts)) if identity.districts else None
        counts = await self._gaps.count(groups, from_us, to_us, None if seen is None else seen.astype(np.int32))
        expected, present = counts.expected, counts.present
        if "hour" not in by:
            expected, present = expected.sum(axis=1, keepdims=True), present.sum(axis=1, keepdims=True)
        group, hour = np.nonzero(expected)
        if len(group) > ROWS_MAX:
            raise Rejected("BAD_QUERY", f"{len(group)} rows come of it; at most {ROWS_MAX} are sent; ask in parts")
        return gaps_pb2.CompletenessResponse(
            row=[
                gaps_pb2.CompletenessRow(
                    hour_us=from_us + n * HOUR_US if "hour" in by else 0,
                    expected=int(expected[number, n]),
                    present=int(present[number, n]),
                    **dict(zip(dimensions, groups.labels[number], strict=True)),
                )
                for number, n in zip(group.tolist(), hour.tolist(), strict=True)
            ]
        )

    async def Estimate(
        self, request: gaps_pb2.EstimateRequest, context: Any
    ) -> AsyncIterator[gaps_pb2.EstimateResponse]:
        """Estimate, and stream what was written."""
        self._pipeline.check_ready()
        topology, now_us = self._pipeline.topology(), self._pipeline.clock.now_us()
        from_us, to_us = span(request.from_us, request.to_us, now_us, 24 * HOUR_US)
        to_us = min(to_us, now_us - self._gaps.longest_grace_us())
        slots = _slots(request, topology)
        if request.head_end:
            lacking = [found.slot async for found in self._gaps.missing(slots, from_us, to_us)]
            slots = np.unique(np.concatenate([np.zeros(0, np.int32), *lacking]))
        found = self._estimation.on_demand(slots, from_us, to_us, dry_run=request.dry_run)
        async for reads in found:
            for at in range(0, reads.rows, RUNS_MAX):
                yield _estimates(reads.take(np.arange(at, min(at + RUNS_MAX, reads.rows))), topology)


def _estimates(reads: Reads, topology: Topology) -> gaps_pb2.EstimateResponse:
    method = (reads.quality & METHOD_MASK) >> METHOD_SHIFT
    assert reads.mask is not None
    energy = {
        name: np.where(reads.mask & CHANNEL_BIT[name], reads.channels[name], -1).tolist()
        for name in ("import_wh", "export_wh")
    }
    return gaps_pb2.EstimateResponse(
        meter=[topology.meter[slot] for slot in reads.slot.tolist()],
        end_us=reads.end_us.tolist(),
        interval_s=[reads.interval_s] * reads.rows,
        method=method.tolist(),
        **energy,
    )


def span(from_us: int, to_us: int, now_us: int, usual_us: int) -> tuple[int, int]:
    """The span asked for, with what was left out. Rejected BAD_QUERY."""
    to_us = to_us or now_us
    from_us = from_us or to_us - usual_us
    if not (0 <= from_us < to_us <= TO_US_MAX and to_us - from_us <= SPAN_US_MAX):
        raise Rejected(
            "BAD_QUERY",
            f"from_us {from_us} and to_us {to_us} arrived; 0 <= from_us < to_us and at most {SPAN_US_MAX // HOUR_US} h "
            "between them were expected, in microseconds since 1970; correct the span or ask in parts",
        )
    return from_us, to_us


def slots_of(meters: list[str], topology: Topology) -> Slots:
    """Slots of registered meters, ascending. Missing UNKNOWN_ASSET, Rejected BAD_QUERY."""
    if len(meters) > METERS_MAX:
        raise Rejected("BAD_QUERY", f"{len(meters)} meters arrived; at most {METERS_MAX} were expected; ask in parts")
    slots = topology.slots_of(meters)
    if (slots < 0).any():
        named = ", ".join(meters[at][:64] for at in np.flatnonzero(slots < 0)[:5].tolist())
        raise Missing(
            "UNKNOWN_ASSET", f"meter {named} arrived; registered meters were expected; correct or import them"
        )
    return np.unique(slots).astype(np.int32)


def _mine(slots: Slots, request: gaps_pb2.GapsRequest, topology: Topology, identity: Identity) -> Slots:
    """What of it the caller may see: a head-end its own meters, others those of their districts. Denied by name."""
    if identity.only_head_end:
        if request.head_end:
            check_head_end(identity, request.head_end)
        allowed = topology.head_end_of == _number(topology.head_end, identity.name)
    elif identity.districts:
        allowed = topology.in_districts(identity.districts)
    else:
        return slots
    if request.meter and not allowed[slots].all():
        named = topology.meter[int(slots[~allowed[slots]][0])]
        raise Denied("OUT_OF_SCOPE", f"meter {named} is none of those {identity.name!r} may ask for; ask for others")
    mine: Slots = slots[allowed[slots]]
    return mine


def _number(names: Sequence[str], name: str) -> int:
    """Index of a registered name; -2 for one that is not: no array has it."""
    return names.index(name) if name in names else -2


def _slots(request: gaps_pb2.GapsRequest | gaps_pb2.EstimateRequest, topology: Topology) -> Slots:
    if bool(request.head_end) == bool(request.meter):
        raise Rejected("BAD_QUERY", "a head-end or meters were expected, one of the two; give head_end or meter")
    if request.meter:
        return slots_of(list(request.meter), topology)
    if request.head_end not in topology.head_end:
        raise Denied(
            "HEAD_END_UNKNOWN",
            f"head-end {request.head_end[:64]!r} is not in the registry; a registered one was expected",
        )
    number = topology.head_end.index(request.head_end)
    return np.flatnonzero(topology.head_end_of == number).astype(np.int32)
