"""The time table of a load test: what each head-end sends when, as finished messages.

Promises: the same world, knobs, start and epoch give the same bytes; a stream's messages come in the order of their
offsets; every read of every meter is in it exactly once but for those `lost` names; copies are counted as such.
Memory holds one interval of a stream and what is late, so a plan of any length can be drawn while it is played.
Refuses to know clocks and connections: offsets are seconds of the machine's clock since the first interval's end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtest.record import Fault
from loadtest.scenarios import Cut, Knobs, Trouble, trouble
from loadtest.world import INTERVAL_S, INTERVAL_US, LAG_MAX_S, MODES, US, Ints, Meters, World, chance
from meterwatch.batch import EventCode
from meterwatch.client.encode import Columns
from meterwatch.client.events import EVENTS_MAX
from meterwatch.v1.ingest_pb2 import SendEventsRequest

GHOST: Final = "GHOST"
"""A meter number nobody has registered: the last entry of each dictionary."""
SNAP_S: Final = 4.0
"""Reads are stamped at most this far off their grid; the service takes 5 s."""
RESENT_AT: Final = 0.85
EVENTS_FLUSH_S: Final = 0.1
GOOD, COPY, NEGATIVE, NOT_FINITE, UNKNOWN, FUTURE = range(6)


class Message(NamedTuple):
    """One request, ready to go."""

    offset_s: float
    paced: bool
    """False: goes as soon as the service takes it; its latency is counted from the send."""
    kind: str
    """reads or events."""
    seq: int
    rows: int
    copies: int
    """Rows the service must find to be duplicates."""
    malformed: int
    """Rows it must reject."""
    request: bytes


class _Rows(NamedTuple):
    """Reads on their way; arrays of length n."""

    meter: Meters
    end_us: Ints
    at_us: Ints
    """When the head-end has it."""
    what: NDArray[np.uint8]
    """GOOD, COPY or how it is damaged."""

    def where(self, rows: NDArray[Any] | slice) -> _Rows:
        return _Rows(self.meter[rows], self.end_us[rows], self.at_us[rows], self.what[rows])


@dataclass(frozen=True)
class Plan:
    """What is sent to a service whose clock shows start_us at offset 0. epoch: of every head-end."""

    world: World
    knobs: Knobs
    start_us: int
    epoch: int = 1

    @cached_property
    def trouble(self) -> Trouble:
        return trouble(self.world, self.knobs, self.start_us)

    @property
    def faults(self) -> list[Fault]:
        """The truth."""
        return self.trouble.faults

    @property
    def seconds(self) -> float:
        """Length of the time table, the machine's clock."""
        return self.knobs.intervals * INTERVAL_S / self.knobs.speed if self.knobs.paced else 0.0

    def intervals_of(self, stream: int) -> range:
        """Numbers of the intervals a stream sends; 0 ends at start_us."""
        return range(-round(self.knobs.backlog_hours * 4) if stream == 0 else 0, self.knobs.intervals)

    def end_us(self, interval: int) -> int:
        return self.start_us + interval * INTERVAL_US

    def dictionary(self, stream: int) -> list[str]:
        """Meter numbers of a stream; the last one is nobody's."""
        return [self.world.name(meter) for meter in self.world.meters_of_stream(stream)] + [GHOST]

    def lost(self, stream: int, interval: int) -> Meters:
        """Meters whose read of this interval never comes: without supply at its end, or lost on the way."""
        own, gone = self._own(stream), self._gone(stream, interval)
        return own[gone]

    def offset_s(self, at_us: Ints) -> NDArray[np.float64]:
        return (at_us - self.start_us) / US / self.knobs.speed

    @cached_property
    def _contradicted(self) -> dict[int, list[int]]:
        """Per interval the meters whose read of it tells a spurious last gasp otherwise."""
        found: dict[int, list[int]] = {}
        for meter, at_us in self.trouble.spurious:
            found.setdefault(-(-(at_us - self.start_us) // INTERVAL_US), []).append(meter)
        return found

    def messages(self, stream: int) -> Iterator[Message]:
        """All messages of a stream, by offset."""
        return heapq.merge(self._reads(stream), self._events(stream), key=lambda message: message.offset_s)

    def arrivals(self, stream: int) -> Iterator[tuple[float, Meters, Ints]]:
        """(offset_s, meters, interval ends) of the good reads of a stream as they come, copies among them."""
        for offset_s, _, rows in self._overtaken(self._parts(stream)):
            good = rows.what <= COPY
            yield offset_s, rows.meter[good], rows.end_us[good]

    def events(self, stream: int) -> Iterator[Message]:
        """The messages with events of a stream, by offset."""
        return self._events(stream)

    def _own(self, stream: int) -> Meters:
        own = self.world.meters_of_stream(stream)
        return np.arange(own.start, own.stop, dtype=np.int32)

    def _gone(self, stream: int, interval: int) -> NDArray[np.bool_]:
        own, end_us = self._own(stream), self.end_us(interval)
        first = int(own[0])
        share = np.array([mode.loss_share for mode in MODES]) * self.knobs.loss_factor
        gone = chance(self.world.seed, 30, own, end_us // US) < share[self.world.mode[own]]
        for meter in self._contradicted.get(interval, ()):
            if own[0] <= meter <= own[-1]:
                gone[meter - first] = False
        for cut in self.trouble.cuts:
            if cut.from_us <= end_us < cut.to_us:
                gone[max(cut.first - first, 0) : max(cut.last - first, 0)] = True
        return gone

    def _interval(self, stream: int, interval: int) -> _Rows:
        """The good reads of one interval, each once."""
        seed, knobs, end_us = self.world.seed, self.knobs, self.end_us(interval)
        meter = self._own(stream)[~self._gone(stream, interval)]
        stamp_s = end_us // US
        mean_s = np.array([mode.lag_s for mode in MODES])[self.world.mode[meter]]
        lag_s = mean_s * (1 / 3 - np.log1p(-chance(seed, 31, meter, stamp_s)))
        late = chance(seed, 32, meter, stamp_s) < knobs.late_share
        told = np.isin(meter, self._contradicted.get(interval, ()))
        late &= ~told
        lag_s[told] = 5.0
        lag_s = np.minimum(lag_s, LAG_MAX_S)
        late_s = (1 + chance(seed, 33, meter, stamp_s) * max(knobs.late_intervals_max - 1, 0)) * INTERVAL_S
        at_us = end_us + ((lag_s + np.where(late, late_s, 0)) * US).astype(np.int64)
        return _Rows(meter, np.full(len(meter), end_us), self._kept(meter, at_us), np.zeros(len(meter), np.uint8))

    def _kept(self, meter: Meters, at_us: Ints) -> Ints:
        """Arrivals, with what a dead concentrator keeps until it is back, and all within the plan."""
        for dead in self.trouble.dead:
            kept = np.isin(meter, dead.meters) & (at_us >= dead.from_us) & (at_us < dead.to_us)
            wait = chance(self.world.seed, 34, meter[kept], dead.to_us // US)
            at_us[kept] = dead.to_us + (60 * US * wait).astype(np.int64)
        return self._clipped(at_us)

    def _clipped(self, at_us: Ints) -> Ints:
        """Nothing comes after the last interval but one more; so all is in the plan."""
        return np.minimum(at_us, self.end_us(self.knobs.intervals) - US)

    def _with_copies(self, rows: _Rows) -> _Rows:
        """Repeats and damaged copies beside the good reads."""
        seed, knobs = self.world.seed, self.knobs
        parts, stamp_s = [rows], rows.end_us // US
        if knobs.duplicate_share:
            again = rows.where(chance(seed, 40, rows.meter, stamp_s) < knobs.duplicate_share)
            wait_us = 2 * INTERVAL_US * chance(seed, 41, again.meter, again.end_us // US)
            at_us = self._kept(again.meter, again.at_us + wait_us.astype(np.int64))
            parts.append(again._replace(at_us=at_us, what=np.full_like(again.what, COPY)))
        if knobs.malformed_share:
            bad = rows.where(chance(seed, 42, rows.meter, stamp_s) < knobs.malformed_share)
            kind = NEGATIVE + (4 * chance(seed, 43, bad.meter, bad.end_us // US)).astype(np.uint8)
            parts.append(bad._replace(what=kind))
        return _joined(parts)

    def _resent(self, stream: int, interval: int) -> _Rows:
        """What head-end 0 sends again at this interval."""
        at = int(RESENT_AT * self.knobs.intervals)
        none = _Rows(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))
        if stream or interval != at or not self.knobs.resent_days:
            return none
        first = max(self.intervals_of(0).start, at - round(self.knobs.resent_days * 96))
        rows = _joined([none, *(self._interval(0, before) for before in range(first, at))])
        rows = rows.where(rows.at_us < self.end_us(at))
        spread_us = np.linspace(0, INTERVAL_US / 2, len(rows.meter)).astype(np.int64)
        return rows._replace(at_us=self.end_us(at) + spread_us, what=np.full_like(rows.what, COPY))

    def _reads(self, stream: int) -> Iterator[Message]:
        index = np.arange(len(self._own(stream)) + 1, dtype=np.uint32)
        for seq, (offset_s, paced, rows) in enumerate(self._overtaken(self._parts(stream)), 1):
            yield self._encoded(stream, seq, offset_s, paced, rows, index)

    def _parts(self, stream: int) -> Iterator[tuple[float, bool, _Rows]]:
        """Rows cut into messages, by offset."""
        pool = self._resent(stream, -(10**9))
        for interval in self.intervals_of(stream):
            new = self._interval(stream, interval)
            if interval < 0:
                yield from ((0.0, False, part) for part in self._split(new))
                continue
            pool = _joined([pool, self._with_copies(new), self._resent(stream, interval)])
            pool = pool.where(np.argsort(pool.at_us, kind="stable"))
            tick = np.floor(self.offset_s(pool.at_us) / self.knobs.flush_s).astype(np.int64)
            until = int(self.offset_s(np.array([self.end_us(interval + 1)]))[0] / self.knobs.flush_s)
            last = interval == self.knobs.intervals - 1
            due = len(tick) if last else int(np.searchsorted(tick, until))
            if self.knobs.paced:
                bounds = np.flatnonzero(np.diff(tick[:due], prepend=-1, append=-1)) if due else np.zeros(1, np.int64)
                for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                    offset_s = (int(tick[low]) + 1) * self.knobs.flush_s
                    yield from ((offset_s, True, part) for part in self._split(pool.where(slice(low, high))))
            else:
                yield from ((0.0, False, part) for part in self._split(pool.where(slice(0, due))))
            pool = pool.where(slice(due, None))

    def _split(self, rows: _Rows) -> Iterator[_Rows]:
        size = self.knobs.reads_per_message
        return (rows.where(slice(at, at + size)) for at in range(0, len(rows.meter), size))

    def _overtaken(self, parts: Iterator[tuple[float, bool, _Rows]]) -> Iterator[tuple[float, bool, _Rows]]:
        """Each message held back until up to `depth` later ones have gone; never sent before its time."""
        depth = self.knobs.out_of_order_depth_messages
        held: list[tuple[int, int, bool, _Rows]] = []
        offset_s = 0.0
        for number, (offset_s, paced, rows) in enumerate(parts):
            wait = int(chance(self.world.seed, 50, np.array([number]), len(rows.meter))[0] * (depth + 1))
            if self._contradicts(rows):
                wait = 0
            heapq.heappush(held, (number + wait, number, paced, rows))
            while held and held[0][0] <= number:
                _, _, was_paced, first = heapq.heappop(held)
                yield offset_s, was_paced, first
        while held:
            _, _, was_paced, first = heapq.heappop(held)
            yield offset_s, was_paced, first

    def _contradicts(self, rows: _Rows) -> bool:
        """True if a spurious last gasp waits for one of these reads."""
        ends_us = np.unique(rows.end_us)
        intervals = ((ends_us - self.start_us) // INTERVAL_US).tolist()
        return any(
            bool(np.isin(rows.meter[rows.end_us == end_us], self._contradicted.get(interval, ())).any())
            for end_us, interval in zip(ends_us.tolist(), intervals, strict=True)
        )

    def _encoded(
        self, stream: int, seq: int, offset_s: float, paced: bool, rows: _Rows, index: NDArray[np.uint32]
    ) -> Message:
        world, meter, what = self.world, rows.meter, rows.what
        first = world.meters_of_stream(stream).start
        interval = np.maximum((rows.end_us - self.start_us) // INTERVAL_US, 0)
        extra_wh = self.trouble.extra_wh
        row = self.trouble.hot_row[world.transformer_of[meter]]
        more = extra_wh[row, np.minimum(interval, extra_wh.shape[1] - 1)]
        channels = world.channels(meter, rows.end_us, more)
        where = (meter - first).astype(np.uint32)
        where[what == UNKNOWN] = len(index) - 1
        stamps = rows.end_us + (np.clip(self._drift_s(meter), -SNAP_S, SNAP_S) * US).astype(np.int64)
        if (what > COPY).any():
            channels["import_wh"][what == NEGATIVE] *= -1
            channels["import_wh"][what == NEGATIVE] -= 1
            channels["voltage_a_v"][what == NOT_FINITE] = np.nan
            stamps[what == FUTURE] += 30 * 86_400 * US
        lengths = np.full(len(meter), INTERVAL_S, np.int32)
        columns = Columns([], where, stamps, lengths, channels, world.mask(meter), None)
        request, count = columns.encode(seq, INTERVAL_S, slice(None), index)
        copies, malformed = int((what == COPY).sum()), int((what > COPY).sum())
        return Message(offset_s, paced, "reads", seq, count, copies, malformed, request)

    def _drift_s(self, meter: NDArray[Any]) -> NDArray[np.float64]:
        """How far a meter's clock is off: of a normal distribution, nearly."""
        parts = [chance(self.world.seed, 60 + i, meter, 0) for i in range(6)]
        drift: NDArray[np.float64] = (np.sum(parts, axis=0) - 3) * np.sqrt(2) * self.knobs.clock_drift_s
        return drift

    def _events(self, stream: int) -> Iterator[Message]:
        """Last gasps and restorations of a stream."""
        told = [event for cut in self.trouble.cuts for event in self._told(stream, cut)]
        own = self.world.meters_of_stream(stream)
        for one, gasp_us in self.trouble.spurious:
            if one in own:
                told.append((np.array([one]), np.array([gasp_us]), np.array([gasp_us + 2 * US]), EventCode.POWER_FAIL))
        if not told:
            return
        meter, at_us, arrival_us = (np.concatenate([part[i] for part in told]) for i in range(3))
        code = np.concatenate([np.full(len(part[0]), int(part[3])) for part in told])
        order = np.argsort(arrival_us, kind="stable")
        order = order[arrival_us[order] < self.end_us(self.knobs.intervals)]  # what happens after the run is not told
        meter, at_us, arrival_us, code = meter[order], at_us[order], arrival_us[order], code[order]
        at_us = at_us + (self._drift_s(meter) * US).astype(np.int64)
        tick = np.floor(self.offset_s(arrival_us) / EVENTS_FLUSH_S).astype(np.int64)
        bounds = np.flatnonzero(np.diff(tick, prepend=-1, append=-1)).tolist()
        seq = 0
        for start, stop in pairwise(bounds):
            for low in range(start, stop, EVENTS_MAX):
                part = slice(low, min(low + EVENTS_MAX, stop))
                seq += 1
                request = SendEventsRequest(head_end=self.world.head_end(stream), epoch=self.epoch, seq=seq)
                names, index = np.unique(meter[part], return_inverse=True)
                request.meter.extend(self.world.name(m) for m in names.tolist())
                request.meter_index.extend(index.tolist())
                request.at_us.extend(at_us[part].tolist())
                request.code.extend(code[part].tolist())
                offset_s = (int(tick[low]) + 1) * EVENTS_FLUSH_S if self.knobs.paced else 0.0
                data = request.SerializeToString()
                yield Message(offset_s, self.knobs.paced, "events", seq, part.stop - low, 0, 0, data)

    def _told(self, stream: int, cut: Cut) -> list[tuple[NDArray[Any], Ints, Ints, EventCode]]:
        """(meters, times, arrivals, code) of the events of one cut."""
        own = self.world.meters_of_stream(stream)
        meter = np.arange(max(cut.first, own.start), min(cut.last, own.stop))
        if not len(meter):
            return []
        seed, stamp, knobs = self.world.seed, cut.from_us // US, self.knobs
        p = np.array([mode.gasp_probability for mode in MODES])[self.world.mode[meter]]
        if knobs.gasp_probability >= 0:
            p = np.full(len(meter), knobs.gasp_probability)
        gasps = meter[chance(seed, 70, meter, stamp) < p] if cut.last - cut.first > 1 else meter
        at_us = cut.from_us + (2 * US * chance(seed, 71, gasps, stamp)).astype(np.int64)
        delay_s = np.minimum(1 - 5 * np.log1p(-chance(seed, 72, gasps, stamp)), 25)
        if cut.kind == "OUTAGE":
            late = chance(seed, 73, gasps, stamp) < knobs.late_gasp_share
            delay_s = np.where(late, 300 + 900 * chance(seed, 74, gasps, stamp), delay_s)
        back_us = cut.to_us + (3 * US * chance(seed, 75, meter, stamp)).astype(np.int64)
        slowest_s = 8.0 if cut.kind == "MOMENTARY" else 20.0
        back_s = np.minimum(1 - 4 * np.log1p(-chance(seed, 76, meter, stamp)), slowest_s)
        return [
            (gasps, at_us, at_us + (delay_s * US).astype(np.int64), EventCode.POWER_FAIL),
            (meter, back_us, back_us + (back_s * US).astype(np.int64), EventCode.POWER_RESTORED),
        ]


def _joined(parts: list[_Rows]) -> _Rows:
    meter, end_us, at_us, what = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return _Rows(meter, end_us, at_us, what)
