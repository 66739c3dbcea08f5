"""Overload of transformers: the load ratio b = S / S_rated per window, folded through a ladder of levels.

The sums of the members' reads live in a ring of windows as integers, so the order of reads does not matter and a
corrected read (-1 old, +1 new) leaves no residue. A verdict is a pure function of the ring and of the ladder's state at
its tail; two checkpoints (tail, and a few windows behind the head) only save work. Estimated and substituted reads are
not evidence: they add neither energy nor coverage.

Promises: any order, split or re-send of reads inside the ring gives the same verdicts; of windows that have left it
this module only knows that they changed, and `rules.past` judges them. An episode begins with the first level latched
and ends with the last; it is emitted only once a level at or above `page_from_level` was latched, so HEAVY by itself is
no alarm. Refuses to know: alarms, the database, the wall clock, other rules. Membership is that of the one Topology
given; a registry change means a new Overload and a rebuild.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from meterwatch.batch import ReadChange
from meterwatch.episodes import Verdict
from meterwatch.loads import LoadChange, Loads
from meterwatch.topology import Topology
from rules.ladder import NEVER, Bools, Floats, Ints, Ladder, LadderState, OverloadProfile, Span, span_of, top_level
from rules.load import Members, joined
from rules.rated import Rated

__all__ = ["Overload", "OverloadProfile"]

RULE = "OVERLOAD"
US = 1_000_000
TOGETHER_CELLS = 200_000
"""Unsaved sums, some of the same cell, that are kept one by one: 8 MB."""
UNSAVED_CELLS_MAX = 100_000
"""More different cells are not waited with."""
SCATTERED_CELLS_MIN = 1000
"""So few are cheap to save, whatever they are: 40 ms of the database."""
FOLD_CELLS = 250_000
"""Cells of the ring looked at together: 2 MB a column, however many transformers there are."""
SCATTERED_READS_PER_CELL = 20
"""In the order of the meters a group of 50,000 reads has 100 reads a cell, in random order 5."""


class Overload:
    """The rule. Not thread-safe: one evaluator calls it.

    What the reads add to the cells is kept until `unsaved()` was stored and `saved()` was called.
    Restart: make a new one, `restore` the stored cells of at least the ring span in rising time, judge. An episode that
    began before the cells given is dated to the first of them.
    """

    def __init__(self, topology: Topology, profile: OverloadProfile | None = None) -> None:
        self._profile = self.profile = profile or OverloadProfile()
        self._ladder, levels = Ladder(self._profile), self._profile.levels
        n, windows = len(topology.transformer), self._profile.ring_windows
        self._n = n
        self.members = Members(topology, self._profile.window_s, self._profile.assumed_power_factor)
        self.rated = Rated(topology, self._profile, self.members)

        self._wh = np.zeros((windows, n), np.int64)
        self._varh = np.zeros((windows, n), np.int64)
        self._covered = np.zeros((windows, n), np.int64)
        self._expected: list[Ints] = [np.zeros(0, np.int64)] * windows
        self._head = -1
        self._base = LadderState.cold(n, len(levels))  # before the ring's tail
        self._near = LadderState.cold(n, len(levels))  # before window head - checkpoint_windows
        self._near_closed: dict[int, list[Span]] = {}  # ended between the two
        self._near_stale = np.zeros(n, np.bool_)
        self._touched_from = np.full(n, NEVER)
        self._touched_to = np.full(n, -1, np.int64)
        self._told = np.ones(n, np.bool_)
        """Its last verdict named an episode; at first nobody knows what was told before."""
        self._late_from = np.full(n, NEVER)
        self._late_to = np.full(n, -1, np.int64)
        """Windows changed after they had left the ring; `rules.past` judges them."""
        self._late_turn = np.full(n, NEVER)
        """In which turn the first of them came."""
        self.turn = 0
        """So often reads were observed."""
        self._added: list[Loads] = []
        self._added_cells = self._added_reads = 0
        self._full = False
        self._counted = Loads.none()
        self._recounted: Ints = np.zeros(0, np.int64)
        """Transformers whose cells of the ring were counted anew since they were saved."""
        self.heard: Callable[[Loads], None] = lambda _: None
        """Told of cells by rising window, of less time than the ring holds, before they are added and it moves."""

    # The ring

    @property
    def head(self) -> int:
        """Newest window; -1: none yet."""
        return self._head

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

    def sums(self, index: Ints, first: int, stop: int) -> tuple[Ints, Ints, Ints]:
        """wh, varh and covered weight-seconds [windows, transformers] of windows of the ring."""
        at = np.ix_(np.arange(first, stop) % self._profile.ring_windows, index)
        return self._wh[at], self._varh[at], self._covered[at]

    def known(self, index: Ints, first: int, stop: int) -> Floats:
        """b [windows, transformers] of windows of the ring; NaN where it is not known: no rating, or too few reads."""
        b, coverage = self._load(index, first, stop)
        return np.where(coverage >= self._profile.coverage_min, b, np.nan)

    def _load(self, index: Ints, first: int, stop: int) -> tuple[Floats, Floats]:
        rows = np.arange(first, stop) % self._profile.ring_windows
        at = np.ix_(rows, index)
        expected = np.stack([self._expected[row][index] for row in rows.tolist()])
        b = self.rated.ratio(index, self._wh[at], self._varh[at])
        coverage = np.divide(self._covered[at], expected, out=np.zeros(b.shape), where=expected > 0)
        return b, coverage

    def _expect(self, window: int) -> None:
        self._expected[window % self._profile.ring_windows] = self.members.expected(window)

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
                if (kept := _since(spans, min(self.tail, int(self._touched_from[transformer]))))
            }
            if self._head == head:
                return
        self._head = head
        for window in range(self.tail, head + 1):
            self._expect(window)

    # Reads in

    def observe(self, change: ReadChange, now_us: int) -> None:
        """Add what changed in the stored reads. `now_us` is not used: the ring moves with event time."""
        self.turn += 1
        cells, last = self.members.cells(change)
        if not len(cells):
            return
        self._added.append(cells)
        self._added_cells += len(cells)
        self._added_reads += len(last)
        if self._added_cells > TOGETHER_CELLS:
            self._added = [joined(self._added, self._n)]
            self._added_cells = len(self._added[0])
            self._full = self._added_cells > UNSAVED_CELLS_MAX
        first, newest = int(cells.window[0]), int(cells.window[-1])
        if newest - first < self._profile.ring_windows:
            self._add(cells)
        else:  # days of reads at once, in the order of their time
            for window in range(first, newest + 1, self._profile.ring_windows // 2):
                part = slice(*np.searchsorted(cells.window, (window, window + self._profile.ring_windows // 2)))
                if part.start < part.stop:
                    self._add(cells.take(part))

    def _add(self, cells: Loads) -> None:
        """Cells by rising window, of less time than the ring holds."""
        self.heard(cells)
        self.begin(int(cells.window[-1]))
        if int(cells.window[0]) < self.tail:
            self._note_late(cells.take(cells.window < self.tail))
        at, cells = self._touch(cells)
        for ring, sums in self._rings(cells):
            ring[at] += sums

    @property
    def window_us(self) -> int:
        """Length of a window."""
        return self._profile.window_s * US

    def begin(self, window: int) -> None:
        """Make this the newest window, unless a newer one is known."""
        if window > self._head:
            self._advance(window)

    def restore(self, cells: Loads) -> None:
        """Set cells to what is stored of them. Those older than the ring are passed over, and empty ones beyond it.

        Only a read that counts moves the ring, as in observe.
        """
        counts = cells.window[cells.covered > 0]
        if len(counts):
            self.begin(int(counts.max()))
        cells = cells.take(cells.window <= self._head)
        if not len(cells):
            return
        at, cells = self._touch(cells)
        for ring, sums in self._rings(cells):
            ring[at] = sums
        np.maximum(self._touched_from, self.tail, out=self._touched_from)  # what was stored before is no news

    def restless(self, cells: Loads) -> Ints:
        """Transformers that may have a level latched or held before these cells, of one window each."""
        rated, expected = self.rated.vah[cells.transformer], self.members.expected_of(cells)
        low = np.hypot(cells.wh, cells.varh) * self._profile.loss_factor < rated * self._profile.levels[0].clear_pu
        calm = low & (cells.covered >= expected * self._profile.coverage_min)
        return cells.transformer[~calm & (rated > 0)]

    def recount(self, cells: Loads, transformers: Ints, owed: Loads | None = None) -> None:
        """Set cells to what was counted anew in the stored reads; the next commit stores them so. Once, after a start.

        transformers: those of which the whole ring was counted. owed: the cells touched by batches not evaluated.
        """
        self.restore(cells)
        self._counted, self._recounted = cells, transformers
        if owed is not None and self._head >= 0:
            self._note_late(owed.take(owed.window < self.tail))

    # Windows that have left the ring

    def _note_late(self, cells: Loads) -> None:
        np.minimum.at(self._late_from, cells.transformer, cells.window)
        np.maximum.at(self._late_to, cells.transformer, cells.window)
        np.minimum.at(self._late_turn, cells.transformer, self.turn)

    def late(self) -> tuple[Ints, Ints, Ints]:
        """Transformers with windows changed after they had left the ring, and the first and last of those of each.

        In the order in which they came, those of one turn by time. What else of such a transformer changed in the ring
        and has left it since then is among the windows.
        """
        index = np.flatnonzero((self._late_to >= 0) & (self.rated.vah > 0))
        index = index[np.lexsort((self._late_from[index], self._late_turn[index]))]
        first, last = self._late_from[index], self._late_to[index]
        left = self._touched_from[index] < self.tail
        return index, np.minimum(first, self._touched_from[index]), np.where(left, self.tail - 1, last)

    @property
    def judged_turn(self) -> int:
        """All that was observed up to this turn is judged, or waits in the ring for its moment."""
        late = self._late_turn[(self._late_to >= 0) & (self.rated.vah > 0)]
        return int(late.min(initial=self.turn + 1)) - 1

    def late_judged(self, judged: Ints, index: Ints, state: LadderState) -> None:
        """What `late()` said of `judged` is judged; `state` is that of `index`, some of them, before the ring's tail.

        Those are others than the ring knew: what it says of them is told anew, from its tail on.
        """
        self._late_from[judged], self._late_to[judged], self._late_turn[judged] = NEVER, -1, NEVER
        self._base.put(index, state)
        self._near_stale[index] = True
        for transformer in index.tolist():
            self._near_closed.pop(transformer, None)
        self._touched_from[index] = self.tail
        self._touched_to[index] = np.maximum(self._touched_to[index], self.tail)
        self._told[index] = True

    def unsaved_cells(self) -> tuple[Loads, Loads]:
        """The cells counted anew, and what was added to them and to others, since `saved()`."""
        return self._counted, joined(self._added, self._n)

    def unsaved(self) -> LoadChange:
        """What is to be stored of the cells since `saved()`."""
        counted, added = self.unsaved_cells()
        digest = self.members.digest()[self._recounted] if len(self._recounted) else self._recounted
        expected_counted, expected_added = self.members.expected_of(counted), self.members.expected_of(added)
        window_s = self._profile.window_s
        return LoadChange(window_s, counted, expected_counted, added, expected_added, self._recounted, digest)

    @property
    def scattered(self) -> bool:
        """The unsaved reads are many and few of them share a cell: saving them with more to come costs less."""
        if len(self._recounted) or len(self._counted) or self._full:
            return False
        return self._added_cells > max(SCATTERED_CELLS_MIN, self._added_reads // SCATTERED_READS_PER_CELL)

    def saved(self) -> None:
        """What `unsaved()` said is stored."""
        self._added, self._added_cells, self._added_reads, self._full = [], 0, 0, False
        self._counted, self._recounted = Loads.none(), np.zeros(0, np.int64)

    def _rings(self, cells: Loads) -> tuple[tuple[Ints, Ints], ...]:
        rings = (self._wh, self._varh, self._covered)
        return tuple(zip((ring.reshape(-1) for ring in rings), (cells.wh, cells.varh, cells.covered), strict=True))

    def _touch(self, cells: Loads) -> tuple[Ints, Loads]:
        """The cells inside the ring and their places in it, marked as changed; cells come by rising window."""
        if int(cells.window[0]) < self.tail:
            cells = cells.take(cells.window >= self.tail)
            if not len(cells):
                return cells.window, cells
        window, transformer = cells.window, cells.transformer
        first = int(window[0])
        if first == int(window[-1]):
            self._touched_from[transformer] = np.minimum(self._touched_from[transformer], first)
            self._touched_to[transformer] = np.maximum(self._touched_to[transformer], first)
        else:
            np.minimum.at(self._touched_from, transformer, window)
            np.maximum.at(self._touched_to, transformer, window)
        if first < self._checkpoint:
            self._near_stale[transformer[window < self._checkpoint]] = True
        return (window % self._profile.ring_windows) * self._n + transformer, cells

    # The ladder

    def _fold(self, state: LadderState, index: Ints, first: int, stop: int) -> dict[int, list[Span]]:
        """Take `state` of the transformers `index` through windows first..stop-1; returns the episodes that ended."""
        closed: dict[int, list[Span]] = {}
        if stop <= first or not len(index):
            return closed
        together = max(FOLD_CELLS // (stop - first), 1)
        for at in range(0, len(index), together):
            some = slice(at, at + together)
            load, coverage = self._load(index[some], first, stop)
            usable = (coverage >= self._profile.coverage_min) & ~np.isnan(load)
            load[~usable] = 0.0
            self._ladder.fold(state, some, index, first, load, usable, closed)
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
            over = [span for span in self._near_closed.pop(transformer, ()) if _end(span) < self.tail]
            over += closed.get(transformer, ())
            if over:
                self._near_closed[transformer] = over
        self._near_stale[stale] = False

    # Verdicts out

    def judge(self, now_us: int) -> list[Verdict]:
        """Verdicts of the transformers whose windows changed since the last call, in rising id.

        A transformer without an episode gets one only to take back what was told of it: most transformers are calm most
        of the time, and a verdict on each cost more than the sums. Windows that end after `now_us` wait for a later
        call. from_us is 1 us after the start of the ring, or of the first window changed since the last call, if that
        has left the ring meanwhile: an episode that ended with the window before it has left the verdict.
        """
        if self._head < 0:
            return []
        window_us = self._profile.window_s * US
        stop = min(self._head + 1, now_us // window_us)
        index = np.flatnonzero(self._touched_from < stop)
        self._settle()
        since = np.minimum(self._touched_from[index], self.tail)
        waiting = self._touched_to[index] >= stop
        self._touched_from[index] = np.where(waiting, stop, NEVER)
        self._touched_to[index[~waiting]] = -1

        restless = ~self._calm(index, stop)
        spans = self._spans(index[restless], since[restless], stop)
        load, coverage = self._load(np.array(list(spans), np.int64), self.tail, max(stop, self.tail + 1))
        episodes = {
            transformer: tuple(
                self.rated.episode(transformer, span, self.tail, load[:, i], coverage[:, i]) for span in known
            )
            for i, (transformer, known) in enumerate(spans.items())
        }
        told = self._told[index]
        told[np.searchsorted(index, np.array(list(spans), np.int64))] = True
        self._told[index] = False
        self._told[list(spans)] = True
        return [
            Verdict(RULE, "transformer", t, first * window_us + 1, episodes.get(t, ()))
            for t, first in zip(index[told].tolist(), since[told].tolist(), strict=True)
        ]

    def _calm(self, index: Ints, stop: int) -> Bools:
        """True where no episode is known: none ended lately, no level is latched or held, nothing since reaches one."""
        load, coverage = self._load(index, self._checkpoint, max(stop, self._checkpoint))
        reached = (coverage >= self._profile.coverage_min) & (load >= self._profile.levels[0].raise_pu)
        held = self._near.latched[index].any(axis=1) | (self._near.hold_s[index] > 0).any(axis=1)
        ended = np.isin(index, np.fromiter(self._near_closed, np.int64, len(self._near_closed)))
        calm: Bools = ~(reached.any(axis=0) | held | ended)
        return calm

    def _spans(self, index: Ints, since: Ints, stop: int) -> dict[int, list[Span]]:
        """The episodes known of these transformers, each from its window of `since` on, of those that have one."""
        state = self._near.take(index)
        recent = self._fold(state, index, self._checkpoint, stop)
        open_now = (state.latched.any(axis=1) & (state.raised >= 0)).tolist()
        top = top_level(state.latched).tolist()
        spans: dict[int, list[Span]] = {}
        for i, transformer in enumerate(index.tolist()):
            known = _since(self._near_closed.get(transformer, ()), int(since[i])) + recent.get(transformer, [])
            if open_now[i]:
                known.append(span_of(state, i, top[i], None))
            if known:
                spans[transformer] = known
        return spans


def _end(span: Span) -> int:
    return NEVER if span.cleared is None else span.cleared


def _since(spans: Sequence[Span], window: int) -> list[Span]:
    """Those that ended in that window or later."""
    return [span for span in spans if _end(span) >= window]
