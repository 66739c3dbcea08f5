"""Overload of transformers and feeders: the load ratio b = S / S_rated per window, taken through ladders of levels.

The sums of the members' reads live in a ring of windows as integers, so the order of reads does not matter and a
corrected read (-1 old, +1 new) leaves no residue. Estimated and substituted reads are not evidence: they add neither
energy nor coverage. Ladders (`rules.rungs`) look at the ring: OVERLOAD of transformers, REVERSE of what they deliver
upwards, PHASE and UNBALANCE where phases are counted, OVERLOAD of feeders out of the sums of their transformers.

Promises: any order, split or re-send of reads inside the ring gives the same verdicts; of windows that have left it
this module only notes that they changed, and `rules.past` judges them for every ladder. An episode begins with the
first level latched and ends with the last; it is emitted only once a level at or above `page_from_level` was latched,
so HEAVY by itself is no alarm. Refuses to know: alarms, the database, the wall clock, other rules. Membership is that
of the one Topology given; a registry change means a new Overload and a rebuild.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from meterwatch.batch import ReadChange
from meterwatch.episodes import Verdict
from meterwatch.loads import LoadChange, Loads
from meterwatch.topology import Topology
from rules.apart import Apart, Owing, Rule
from rules.feeders import Feeders
from rules.ladder import NEVER, Floats, Ints, Ladder, OverloadProfile
from rules.load import Members, Sums, joined, share_of
from rules.past import Measured, PastLadders
from rules.phase_ladders import PhaseLadders
from rules.rated import Rated
from rules.rungs import Rungs, Windows

__all__ = ["Overload", "OverloadProfile"]

RULE = "OVERLOAD"
REVERSE = "REVERSE"
US = 1_000_000
TOGETHER_CELLS = 200_000
"""Unsaved sums, some of the same cell, that are kept one by one: 8 MB."""
UNSAVED_CELLS_MAX = 100_000
"""More different cells are not waited with."""
SCATTERED_CELLS_MIN = 1000
"""So few are cheap to save, whatever they are: 40 ms of the database."""
SCATTERED_READS_PER_CELL = 20
"""In the order of the meters a group of 50,000 reads has 100 reads a cell, in random order 5."""


class Overload:
    """The rule. Not thread-safe: one evaluator calls it.

    What the reads add to the cells is kept until `unsaved()` was stored and `saved()` was called.
    Restart: make a new one, `restore` the stored cells of at least the ring span in rising time, judge. An episode that
    began before the cells given is dated to the first of them.
    """

    def __init__(self, topology: Topology, profile: OverloadProfile | None = None, apart: Apart | None = None) -> None:
        """apart: where the ladders are run; nothing but verdicts rests on one of them."""
        self.apart = apart or Apart(raising=True)
        self._profile = self.profile = profile or OverloadProfile()
        n, windows = len(topology.transformer), self._profile.ring_windows
        self._n = n
        self._windows = Windows(windows, self._profile.checkpoint_windows)
        profile = self._profile
        known = profile.coverage_min if profile.by_phase else None
        self.members = Members(topology, profile.window_s, profile.assumed_power_factor, known)
        self.rated = Rated(topology, self._profile, self.members)

        self._wh = np.zeros((windows, n), np.int64)
        self._varh = np.zeros((windows, n), np.int64)
        self._covered = np.zeros((windows, n), np.int64)
        self._expected: list[Ints] = [np.zeros(0, np.int64)] * windows
        rated, reverse = self.rated, self._profile.of_reverse
        self._rungs = Rungs(RULE, "transformer", n, self._profile, self._windows, self._load, rated.episode)
        self._reverse = Rungs(REVERSE, "transformer", n, reverse, self._windows, self._upwards, rated.reverse)
        self._phases: PhaseLadders | None = None
        if self.members.phase is not None:
            self._phases = PhaseLadders(topology, self.members, profile, self._windows, self.sums, self.apart)
        self._feeders = Feeders(topology, self._profile.of_feeders, self._windows)
        self._calm_vah = rated.vah * Ladder(self._profile).calm_pu
        self._ladders = [self._rungs, self._reverse, self._feeders.rungs]
        if self._phases is not None:
            self._ladders += self._phases.rungs
        self.past = self._of_the_past()
        """Who judges windows that changed after they had left the ring: of transformers, of feeders."""
        for one in self._ladders:
            self.apart.add(one.named, one.assets, partial(self._owing, one))
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
        self._marks: Ints = np.zeros(0, np.int64)

    # The ring

    @property
    def head(self) -> int:
        """Newest window; -1: none yet."""
        return self._head

    @property
    def tail(self) -> int:
        """Oldest window of the ring."""
        return self._windows.tail

    @property
    def _head(self) -> int:
        return self._windows.head

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

    def sums(self, index: Ints, first: int, stop: int) -> Sums:
        """What these transformers carried in windows of the ring, without the phases."""
        rows = np.arange(first, stop) % self._profile.ring_windows
        at = np.ix_(rows, index)
        expected = np.array([self._expected[row][index] for row in rows.tolist()], np.int64).reshape(
            len(rows), len(index)
        )
        return Sums(self._wh[at], self._varh[at], self._covered[at], expected.reshape(len(rows), len(index)))

    def known(self, index: Ints, first: int, stop: int) -> Floats:
        """b [windows, transformers] of windows of the ring; NaN where it is not known: no rating, or too few reads."""
        b, coverage = self._load(index, first, stop)
        return np.where(coverage >= self._profile.coverage_min, b, np.nan)

    def _load(self, index: Ints, first: int, stop: int) -> tuple[Floats, Floats]:
        sums = self.sums(index, first, stop)
        return self.rated.load(index, sums), sums.coverage

    def _upwards(self, index: Ints, first: int, stop: int) -> tuple[Floats, Floats]:
        sums = self.sums(index, first, stop)
        return self.rated.upwards(index, sums), sums.coverage

    def _expect(self, window: int) -> None:
        expected = self._expected[window % self._profile.ring_windows] = self.members.expected(window)
        self.apart.ask(self._feeders.rungs.named, None, self._feeders.expect, window, expected)

    def _advance(self, head: int) -> None:
        """Make `head` the newest window; what drops out of the ring is folded into the base states."""
        count = self._windows.count
        if self._head >= 0:
            self._each(Rungs.settle)
            for _ in range(min(head - self._head, 2 * count)):  # then the ring is empty and the states are at rest
                self._each(Rungs.leave)
                self._windows.head += 1
                for ring in (self._wh, self._varh, self._covered):
                    ring[self._head % count] = 0
                if self._phases is not None:
                    self._phases.single[self._head % count] = 0
                self._expect(self._head)
            self._each(Rungs.left)
            if self._head == head:
                return
        self._windows.head = head
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
        if self._phases is not None and cells.phase_wh is not None:
            self._phases.flat[at] += cells.phase_wh
        self._tell(at, cells, cells)

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
        news = Loads(cells.transformer, cells.window, *(sums - ring[at] for ring, sums in self._rings(cells)))
        for ring, sums in self._rings(cells):
            ring[at] = sums
        if self._phases is not None and cells.phase_wh is not None:
            self._phases.flat[at] = cells.phase_wh
        self._tell(at, cells, news)
        self._each(partial(Rungs.nothing_before, tail=self.tail))  # what was stored before is no news

    def restless(self, cells: Loads) -> Ints:
        """Transformers that may have a level latched or held before these cells, of one window, or whose feeder may."""
        expected = self.members.expected_of(cells)
        apparent = np.hypot(cells.wh, cells.varh) * self._profile.loss_factor
        low = apparent < self._calm_vah[cells.transformer] * share_of(cells.covered, expected)
        calm = low & (cells.covered >= expected * self._profile.coverage_min)
        own = cells.transformer[~calm & (self.rated.vah[cells.transformer] > 0)]
        if not len(cells):
            return own
        if self._phases is not None:
            own = np.union1d(own, self._phases.restless(cells))
        expected, feeders = self.members.expected(int(cells.window[0])), self._feeders
        return np.union1d(own, self.apart.ask(feeders.rungs.named, own[:0], feeders.restless, cells, expected))

    def recount(self, cells: Loads, transformers: Ints, owed: Loads | None = None, marks: Ints | None = None) -> None:
        """Set cells to what was counted anew in the stored reads; the next commit stores them so. Once, after a start.

        transformers: those of which the whole ring was counted. owed: the cells touched by batches not evaluated, or
        by a change of the registry. marks: what the commit pays by it.
        """
        self.restore(cells)
        self._counted, self._recounted = cells, transformers
        self._marks = np.zeros(0, np.int64) if marks is None else marks
        if owed is not None and len(owed) and self._head >= 0:
            self.heard(owed)
            self._note_late(owed.take(owed.window < self.tail))

    # Windows that have left the ring

    def _of_the_past(self) -> list[PastLadders]:
        rated = self.rated
        of_transformers = [
            Measured(self._rungs, rated.vah > 0, rated.load),
            Measured(self._reverse, rated.vah > 0, rated.upwards),
            *(self._phases.past if self._phases is not None else []),
        ]
        of_feeders, feeder_of = self._feeders.past
        return [
            PastLadders(rules, self.members, self._windows, self.window_us, of, self.apart)
            for rules, of in ((of_transformers, np.arange(self._n)), (of_feeders, feeder_of))
            if rules
        ]

    def _note_late(self, cells: Loads) -> None:
        for one in self.past:
            one.note(cells, self.turn)

    def unsaved_cells(self) -> tuple[Loads, Loads]:
        """The cells counted anew, and what was added to them and to others, since `saved()`; by rising window."""
        if len(self._added) > 1:
            self._added = [joined(self._added, self._n)]
        return self._counted, self._added[0] if self._added else Loads.none()

    def unsaved(self, *, owing: bool = False) -> LoadChange:
        """What is to be stored of the cells since `saved()`.

        owing: something of the past is not judged yet. A crash before it is, is to count and judge it again, so the
        marks stay.
        """
        counted, added = self.unsaved_cells()
        digest = self.members.digest()[self._recounted] if len(self._recounted) else self._recounted
        expected_counted, expected_added = self.members.expected_of(counted), self.members.expected_of(added)
        window_s = self._profile.window_s
        columns = (counted, expected_counted, added, expected_added, self._recounted, digest)
        return LoadChange(window_s, *columns, marks=self._marks[:0] if owing else self._marks)

    @property
    def scattered(self) -> bool:
        """The unsaved reads are many and few of them share a cell: saving them with more to come costs less."""
        if len(self._recounted) or len(self._counted) or self._full:
            return False
        return self._added_cells > max(SCATTERED_CELLS_MIN, self._added_reads // SCATTERED_READS_PER_CELL)

    def saved(self, *, owing: bool = False) -> None:
        """What `unsaved()` said is stored."""
        self._added, self._added_cells, self._added_reads, self._full = [], 0, 0, False
        self._counted, self._recounted = Loads.none(), np.zeros(0, np.int64)
        if not owing:
            self._marks = self._marks[:0]

    def _rings(self, cells: Loads) -> tuple[tuple[Ints, Ints], ...]:
        rings = (self._wh, self._varh, self._covered)
        return tuple(zip((ring.reshape(-1) for ring in rings), (cells.wh, cells.varh, cells.covered), strict=True))

    def _touch(self, cells: Loads) -> tuple[Ints, Loads]:
        """The cells inside the ring and their places in it, marked as changed; cells come by rising window."""
        if int(cells.window[0]) < self.tail:
            cells = cells.take(cells.window >= self.tail)
            if not len(cells):
                return cells.window, cells
        self.apart.ask(self._rungs.named, None, self._rungs.touch, cells.transformer, cells.window)
        return (cells.window % self._profile.ring_windows) * self._n + cells.transformer, cells

    def _tell(self, at: Ints, cells: Loads, news: Loads) -> None:
        """The other ladders, of cells in the ring that have changed, and by how much."""
        if not len(cells):
            return
        wh, varh = self._wh.reshape(-1)[at], self._varh.reshape(-1)
        self.apart.ask(self._reverse.named, None, self._tell_reverse, at, cells, wh, varh)
        self.apart.ask(self._feeders.rungs.named, None, self._feeders.add, news)
        if self._phases is not None:
            self._phases.touch(cells, at, wh, varh[at])

    def _tell_reverse(self, at: Ints, cells: Loads, wh: Ints, varh: Ints) -> None:
        reached = wh < 0
        up = np.flatnonzero(reached)
        if len(up):
            b = self.rated.ratio(cells.transformer[up], wh[up], varh[at[up]])
            reached[up] = b >= self._reverse.lowest_pu
        self._reverse.touch_where(reached, cells.transformer, cells.window)

    # Verdicts out

    def recall(self, rule: str, transformers: Ints) -> None:
        """This was told of these before a restart: say again what is known of them."""
        for one in self._ladders:
            if (one.rule, one.asset_kind) == (rule, "transformer"):
                self.apart.ask(one.named, None, one.recall, transformers)

    def supplied_by(self, feeder: int) -> Ints:
        """Transformers that feeder supplies."""
        return self._feeders.supplied_by(feeder)

    def judge(self, now_us: int) -> list[Verdict]:
        """Verdicts on the transformers, their reverse flow, the feeders, and the phases; see Rungs.judge."""
        verdicts: list[Verdict] = []
        for one in self._ladders:
            verdicts += self.apart.ask(one.named, [], one.judge, now_us)
        return verdicts

    # Ladders that are suspended

    def _each(self, step: Callable[[Rungs], None]) -> None:
        for one in self._ladders:
            self.apart.ask(one.named, None, step, one)

    def _owing(self, one: Rungs) -> Owing:
        """What a ladder that has raised has not told of: all of the ring, and what was changed before it."""
        begin, changed = max(self.tail, 0), np.flatnonzero(one.touched_from < self.tail)
        asset, window = changed, one.touched_from[changed]
        for past in self.past:
            if one in (measured.rungs for measured in past.ladders()):
                late = np.flatnonzero(past.late.last >= 0)
                asset, window = np.concatenate([asset, late]), np.concatenate([window, past.late.first[late]])
        return Owing(begin * self.window_us if self._head >= 0 else NEVER, asset, window * self.window_us)

    def owe(self, rule: Rule, from_us: int, asset: Ints, start_us: Ints) -> None:
        """A ladder missed this while it was suspended (rules.apart.Missed). Of the ring all is judged anyway."""
        for past in self.past:
            if rule in (measured.rungs.named for measured in past.ladders()):
                past.late.owe(from_us // self.window_us, asset, start_us // self.window_us, self.tail, self.turn)
