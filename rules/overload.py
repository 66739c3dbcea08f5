"""Overload of transformers: the load ratio b = S / S_rated per window, folded through a ladder of levels.

The sums of the members' reads live in a ring of windows as integers, so the order of reads does not matter and a
corrected read (-1 old, +1 new) leaves no residue. A verdict is a pure function of the ring and of the ladder's state at
its tail; two checkpoints (tail, and a few windows behind the head) only save work. Estimated and substituted reads are
not evidence: they add neither energy nor coverage.

Promises: any order, split or re-send of reads inside the ring gives the same verdicts. An episode begins with the first
level latched and ends with the last; it is emitted only once a level at or above `page_from_level` was latched, so
HEAVY by itself is no alarm. Refuses to know: alarms, the database, the wall clock, other rules. Membership is that of
the one Topology given; a registry change means a new Overload and a rebuild.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import sqrt
from typing import Any

import numpy as np

from meterwatch.batch import ReadChange
from meterwatch.episodes import Episode, Verdict
from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin
from meterwatch.topology import Topology
from rules.ladder import NEVER, Floats, Ints, Ladder, LadderState, OverloadProfile, Span, span_of, top_level

__all__ = ["Overload", "OverloadProfile"]

RULE = "OVERLOAD"
US = 1_000_000
CONTRACT_W_UNKNOWN = 1000
"""Weight of a meter without a contract, in watts."""
EVIDENCE_WINDOWS_MAX = 16


class Overload:
    """The rule. Not thread-safe: one evaluator calls it.

    Restart: make a new one, observe the stored reads of at least the ring span in rising time, judge. An episode that
    began before the reads given is dated to the first of them.
    """

    def __init__(self, topology: Topology, profile: OverloadProfile | None = None) -> None:
        self._topology = topology
        self._profile = profile or OverloadProfile()
        self._ladder, levels = Ladder(self._profile), self._profile.levels
        power_factor = self._profile.assumed_power_factor
        self._varh_per_wh = sqrt(1 - power_factor**2) / power_factor

        n, windows = len(topology.transformer), self._profile.ring_windows
        self._n = n
        contract = topology.contract_kw.astype(np.float64)
        watts = np.rint(np.where(np.isnan(contract), CONTRACT_W_UNKNOWN, contract * 1000))
        self._weight: Ints = watts.astype(np.int64)
        self._members: Ints = np.bincount(
            topology.transformer_of[(topology.transformer_of >= 0) & (topology.installed_us != NEVER)], minlength=n
        ).astype(np.int64)
        self._installed_sorted = np.sort(topology.installed_us)
        self._retired_sorted = np.sort(topology.retired_us)
        self._expected_key: tuple[int, int] | None = None
        self._expected_row = np.zeros(n, np.int64)
        rated = np.nan_to_num(topology.rated_kva.astype(np.float64))
        self._rated_vah: Floats = np.maximum(rated, 0.0) * (1000 * self._profile.window_s / 3600)
        """Apparent energy of a window at b = 1; 0: not rated, never judged."""

        self._wh = np.zeros((windows, n), np.int64)
        self._varh = np.zeros((windows, n), np.int64)
        self._covered = np.zeros((windows, n), np.int64)
        self._expected = np.zeros((windows, n), np.int64)
        self._head = -1
        self._base = LadderState.cold(n, len(levels))  # before the ring's tail
        self._near = LadderState.cold(n, len(levels))  # before window head - checkpoint_windows
        self._near_closed: dict[int, list[Span]] = {}  # ended between the two
        self._near_stale = np.zeros(n, np.bool_)
        self._touched_from = np.full(n, NEVER)
        self._touched_to = np.full(n, -1, np.int64)
        self.older_than_ring = 0
        """Reads ignored because their windows had left the ring."""

    # The ring

    @property
    def tail(self) -> int:
        """Oldest window of the ring."""
        return self._head - self._profile.ring_windows + 1

    @property
    def _checkpoint(self) -> int:
        return self._head - self._profile.checkpoint_windows

    def window_of(self, end_us: int) -> int:
        """Number of the window in which an interval with this end lies."""
        return (end_us - 1) // (self._profile.window_s * US)

    def load(self, window: int) -> tuple[Floats, Floats]:
        """b and coverage (0..1) of every transformer in one window; KeyError outside the ring.

        b is NaN for a transformer without a rating. It is not scaled up for missing reads.
        """
        if self._head < 0 or not self.tail <= window <= self._head:
            raise KeyError(f"window {window}; expected {self.tail} to {self._head}, the windows of the ring")
        b, coverage = self._load(np.arange(self._n), window, window + 1)
        return b[0], coverage[0]

    def _load(self, index: Ints, first: int, stop: int) -> tuple[Floats, Floats]:
        rows = np.arange(first, stop) % self._profile.ring_windows
        at = np.ix_(rows, index)
        expected, rated = self._expected[at], self._rated_vah[index]
        apparent = np.hypot(self._wh[at], self._varh[at]) * self._profile.loss_factor
        b = np.divide(apparent, rated, out=np.full(apparent.shape, np.nan), where=rated > 0)
        coverage = np.divide(self._covered[at], expected, out=np.zeros(apparent.shape), where=expected > 0)
        return b, coverage

    def _expect(self, window: int) -> None:
        """Fill in the weight-seconds expected of the meters in service in a whole window."""
        start_us = window * self._profile.window_s * US
        end_us = start_us + self._profile.window_s * US
        key = (
            int(np.searchsorted(self._installed_sorted, start_us, "right")),
            int(np.searchsorted(self._retired_sorted, end_us, "left")),
        )
        if key != self._expected_key:
            tree = self._topology
            served = (tree.transformer_of >= 0) & (tree.installed_us <= start_us) & (tree.retired_us >= end_us)
            self._expected_key, self._expected_row = key, np.zeros(self._n, np.int64)
            np.add.at(self._expected_row, tree.transformer_of[served], self._weight[served] * self._profile.window_s)
        self._expected[window % self._profile.ring_windows] = self._expected_row

    def _advance(self, head: int) -> None:
        """Make `head` the newest window; what drops out of the ring is folded into the base state."""
        windows = self._profile.ring_windows
        if self._head >= 0:
            self._settle()
            everyone = np.arange(self._n)
            for _ in range(min(head - self._head, 2 * windows)):  # then the ring is empty and the states are at rest
                self._fold(self._base, everyone, self.tail, self.tail + 1)
                closed = self._fold(self._near, everyone, self._checkpoint, self._checkpoint + 1)
                for transformer, spans in closed.items():
                    self._near_closed.setdefault(transformer, []).extend(spans)
                self._head += 1
                for ring in (self._wh, self._varh, self._covered):
                    ring[self._head % windows] = 0
                self._expect(self._head)
            self._near_closed = {
                transformer: kept
                for transformer, spans in self._near_closed.items()
                if (kept := [span for span in spans if span.cleared is not None and span.cleared >= self.tail])
            }
            if self._head == head:
                return
        self._head = head
        for window in range(self.tail, head + 1):
            self._expect(window)

    # Reads in

    def observe(self, change: ReadChange, now_us: int) -> None:
        """Add what changed in the stored reads. `now_us` is not used: the ring moves with event time."""
        transformer = self._topology.transformer_of[change.slot].astype(np.int64)
        origin = (change.quality & ORIGIN_MASK) >> ORIGIN_SHIFT
        guess = (origin == Origin.ESTIMATED) | (origin == Origin.SUBSTITUTED)
        rows = np.flatnonzero((transformer >= 0) & change.has_energy & ~guess)
        if not len(rows):
            return
        window_s, transformer, sign = self._profile.window_s, transformer[rows], change.sign[rows].astype(np.int64)
        length_s = change.interval_s[rows].astype(np.int64)
        end_s = change.end_us[rows] // US
        start_s = end_s - length_s
        first, last = start_s // window_s, (end_s - 1) // window_s
        if int(last.max()) > self._head:
            self._advance(int(last.max()))
        self.older_than_ring += int(np.count_nonzero(last < self.tail))

        wh = change.import_wh[rows].astype(np.int64) - change.export_wh[rows]
        varh = change.import_varh[rows].astype(np.int64) - change.export_varh[rows]
        assumed = np.rint(np.maximum(wh, 0) * self._varh_per_wh).astype(np.int64)
        varh = np.where(change.has_reactive[rows], varh, assumed)

        read, window, since, until = _parts(first, last, start_s, length_s, window_s, self.tail)
        transformer, sign, length_s = transformer[read], sign[read], length_s[read]
        cell = (window % self._profile.ring_windows) * self._n + transformer
        whole = until - since == length_s
        for ring, energy in ((self._wh, wh[read]), (self._varh, varh[read])):
            if not whole.all():
                energy = np.where(whole, energy, energy * until // length_s - energy * since // length_s)
            np.add.at(ring.reshape(-1), cell, sign * energy)
        weight = self._weight[change.slot[rows]][read]
        np.add.at(self._covered.reshape(-1), cell, sign * weight * (until - since))
        np.minimum.at(self._touched_from, transformer, window)
        np.maximum.at(self._touched_to, transformer, window)
        self._near_stale[transformer[window < self._checkpoint]] = True

    # The ladder

    def _fold(self, state: LadderState, index: Ints, first: int, stop: int) -> dict[int, list[Span]]:
        """Take `state` of the transformers `index` through windows first..stop-1; returns the episodes that ended."""
        closed: dict[int, list[Span]] = {}
        if stop <= first or not len(index):
            return closed
        load, coverage = self._load(index, first, stop)
        usable = (coverage >= self._profile.coverage_min) & ~np.isnan(load)
        for window, b, valid in zip(range(first, stop), np.where(usable, load, 0.0), usable, strict=True):
            for i in np.flatnonzero(self._ladder.step(state, window, b, valid)):
                if state.raised[i] >= 0:
                    closed.setdefault(int(index[i]), []).append(span_of(state, int(i), int(state.worst[i]), window))
        return closed

    def _settle(self) -> None:
        """Refold from the ring's tail the transformers that got reads older than the near checkpoint."""
        stale = np.flatnonzero(self._near_stale)
        if not len(stale):
            return
        state = self._base.take(stale)
        closed = self._fold(state, stale, self.tail, self._checkpoint)
        self._near.put(stale, state)
        for transformer in stale.tolist():
            self._near_closed.pop(transformer, None)
        self._near_closed.update(closed)
        self._near_stale[stale] = False

    # Verdicts out

    def judge(self, now_us: int) -> list[Verdict]:
        """Verdicts of the transformers whose windows changed since the last call, in rising id.

        Windows that end after `now_us` wait for a later call. from_us is 1 us after the start of the ring: an episode
        that ended with the window before it has left the verdict.
        """
        if self._head < 0:
            return []
        window_us = self._profile.window_s * US
        stop = min(self._head + 1, now_us // window_us)
        index = np.flatnonzero(self._touched_from < stop)
        self._settle()
        state = self._near.take(index)
        recent = self._fold(state, index, self._checkpoint, stop)
        waiting = self._touched_to[index] >= stop
        self._touched_from[index] = np.where(waiting, stop, NEVER)
        self._touched_to[index[~waiting]] = -1

        open_now = (state.latched.any(axis=1) & (state.raised >= 0)).tolist()
        top = top_level(state.latched).tolist()
        from_us = self.tail * window_us + 1
        spans: dict[int, list[Span]] = {}
        for i, transformer in enumerate(index.tolist()):
            known = [*self._near_closed.get(transformer, ()), *recent.get(transformer, ())]
            if open_now[i]:
                known.append(span_of(state, i, top[i], None))
            if known:
                spans[transformer] = known
        load, coverage = self._load(np.array(list(spans), np.int64), self.tail, max(stop, self.tail + 1))
        episodes = {
            transformer: tuple(self._episode(transformer, span, load[:, i], coverage[:, i]) for span in known)
            for i, (transformer, known) in enumerate(spans.items())
        }
        return [Verdict(RULE, "transformer", t, from_us, episodes.get(t, ())) for t in index.tolist()]

    def _episode(self, transformer: int, span: Span, load: Floats, coverage: Floats) -> Episode:
        """Dress an episode for people. load, coverage: its transformer's windows from the tail to now."""
        profile, window_us = self._profile, self._profile.window_s * US
        end = len(load) if span.cleared is None else span.cleared + 1 - self.tail
        b, share = load[:end].tolist(), coverage[:end].tolist()
        seen = np.flatnonzero(coverage[:end] >= profile.coverage_min)
        newest = int(seen[-1]) if len(seen) else 0
        shown = [
            {"end_us": (self.tail + i + 1) * window_us, "b": round(b[i], 4), "coverage": round(share[i], 4)}
            for i in range(max(0, newest - EVIDENCE_WINDOWS_MAX + 1, span.onset - self.tail), newest + 1)
        ]
        level = profile.levels[span.level]
        name, rated = self._topology.transformer[transformer], float(self._topology.rated_kva[transformer])
        onset_us, since = span.onset * window_us, _clock(span.onset * window_us)
        cleared_us = None if span.cleared is None else (span.cleared + 1) * window_us
        if cleared_us is None:
            lasted = _duration((self.tail + newest + 1 - span.onset) * profile.window_s)
            now = f"{b[newest]:.2f} x its {rated:g} kVA since {since}"
            summary = f"Transformer {name} loaded {now} (peak {span.peak:.2f}), {level.name} for {lasted}"
        else:
            lasted = _duration((cleared_us - onset_us) // US)
            upto = f"up to {span.peak:.2f} x its {rated:g} kVA from {since} to {_clock(cleared_us)}"
            summary = f"Transformer {name} was loaded {upto}, at worst {level.name}, over after {lasted}"
        evidence: dict[str, Any] = {
            "peak_b": round(span.peak, 4),
            "rated_kva": rated,
            "worst_level": profile.levels[span.worst].name,
            "members": int(self._members[transformer]),
            "coverage": round(share[newest], 4),
            "coverage_min": profile.coverage_min,
            "raise_pu": level.raise_pu,
            "hold_s": level.hold_s,
            "clear_pu": level.clear_pu,
            "clear_s": level.clear_s,
            "windows": shown,
        }
        raised_us = (span.raised + 1) * window_us
        return Episode(onset_us, raised_us, cleared_us, level.severity, level.name, summary, evidence)


def _parts(first: Ints, last: Ints, start_s: Ints, length_s: Ints, window_s: int, tail: int) -> tuple[Any, ...]:
    """Cut reads at the borders of the windows: (read, window, since, until), the windows from `tail` on.

    The energy of a part is that up to its end, rounded down, less that up to its start; so the parts add up to the
    read exactly, whatever its length. since, until: seconds from the start of the read.
    """
    if (first == last).all():  # no read crosses a border: the everyday case
        read: Any = slice(None) if first.min() >= tail else np.flatnonzero(first >= tail)
        return read, first[read], np.zeros_like(length_s[read]), length_s[read]
    count = last - first + 1
    read = np.repeat(np.arange(len(first)), count)
    window = np.arange(len(read)) - np.repeat(np.cumsum(count) - count - first, count)
    since = np.maximum(window * window_s - start_s[read], 0)
    until = np.minimum((window + 1) * window_s - start_s[read], length_s[read])
    kept = window >= tail
    return read[kept], window[kept], since[kept], until[kept]


def _clock(stamp_us: int) -> str:
    return datetime.fromtimestamp(stamp_us // US, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _duration(seconds: int) -> str:
    hours, minutes = divmod(seconds // 60, 60)
    return " ".join(part for part in (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "") if part)
