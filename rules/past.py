"""Ladders over windows that have left the ring: late and corrected reads, judged as the ring judges.

Argument. A few valid windows in a row below every threshold (`Ladder.calm_windows`) bring a ladder to rest from any
state. So a change in windows a..b cannot be felt beyond the first such calm after b, and the fold may begin cold at the
last calm before a: what it says of the windows between is what a fold over all time would say. An asset without a calm
before is followed back to its oldest load; one without a calm after is followed to the ring, which goes on from the
state it has there, and the verdict is joined with the ring's (`with_ring`).

One PastLadders has the assets of one kind and all rules over them: the same loads are looked at by each. The loads are
asked for and given piece by piece, so memory is a piece a rule, however long the time. What a load means (`Measured`)
is the function by which the ring knows it. Refuses to know: the database, alarms, the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeVar

import numpy as np

from meterwatch.episodes import Episode, Verdict
from meterwatch.loads import Loads
from rules.apart import Apart
from rules.ladder import NEVER, Bools, Floats, Ints, Ladder, LadderState, Span, at_most
from rules.late import Late
from rules.load import Members, Sums
from rules.rungs import Rungs, Windows

TRANSFORMERS_TOGETHER: Final = 500
PIECE_CELLS: Final = 100_000
"""Cells of one piece, 0.8 MB a column. Pieces begin with FIRST_WINDOWS and double up to it."""
FIRST_WINDOWS: Final = 16
"""Four hours: most transformers are calm somewhere in them."""
FOLD_WINDOWS: Final = 96
"""Folded together: who is at rest in a day of them is not stepped through it."""
KEPT_WINDOWS: Final = 96
"""Of the piece before, for the evidence of an episode that ends early in the next."""
_T = TypeVar("_T")


class Measured(NamedTuple):
    """A ladder of the ring, and what it climbs."""

    rungs: Rungs
    rated: Bools
    """Assets that are judged."""
    meaning: Callable[[Ints, Sums], Floats]
    """b [windows, assets] of these assets with these sums; NaN: not rated."""


class PastLadders:
    """The rules over the assets of one kind, as rules.late.JudgesPast."""

    def __init__(
        self, rules: Sequence[Measured], members: Members, windows: Windows, window_us: int, of: Ints, apart: Apart
    ) -> None:
        """of: the asset to whose load each transformer adds; -1: none. apart: where the rules are run."""
        self.apart = apart
        self._rules, self._members, self._windows, self._of = list(rules), members, windows, of
        self.window_us = window_us
        self.asset_kind = rules[0].rungs.asset_kind
        rated = np.logical_or.reduce([one.rated for one in rules])
        self.late = Late(rated)
        self._parts = np.bincount(of[of >= 0], minlength=len(rated))

    @property
    def tail(self) -> int:
        """Oldest window of the ring."""
        return self._windows.tail

    def note(self, cells: Loads, turn: int) -> None:
        """These cells of transformers changed, before the ring."""
        asset = self._of[cells.transformer]
        mine = asset >= 0
        self.late.note(asset[mine], cells.window[mine], turn)
        for one in self._rules:
            missed = self.apart.missed(one.rungs.named)
            if missed is not None:
                missed.note(asset[mine], cells.window[mine] * self.window_us)

    def waiting(self, now_us: int) -> Ints:
        return self.late.waiting()

    def part(self, waiting: Ints) -> int:
        parts = np.cumsum(self._parts[waiting[:TRANSFORMERS_TOGETHER]])
        return max(int(np.searchsorted(parts, TRANSFORMERS_TOGETHER, "right")), 1)

    def made_of(self, assets: Ints) -> Ints:
        chosen = np.zeros(len(self._parts) + 1, np.bool_)  # the last one stands for none (-1)
        chosen[assets] = True
        return np.flatnonzero(chosen[self._of])

    def fold(self, assets: Ints, oldest: int) -> LaddersFold:
        return LaddersFold(self, assets, oldest)

    def spans(self, one: Measured, assets: Ints) -> tuple[Ints, Ints]:
        """First and last window of these that changed before the ring, as far as this ladder has not told of them.

        What else of such an asset changed in the ring and has left it since then is among them.
        """
        first, last, touched_from = self.late.first[assets], self.late.last[assets], one.rungs.touched_from[assets]
        return np.minimum(first, touched_from), np.where(touched_from < self.tail, self.tail - 1, last)

    def ladders(self) -> list[Measured]:
        return self._rules

    def sums(self, cells: Loads, assets: Ints, first: int, stop: int) -> Sums:
        """What these assets carried in these windows, from all cells of the transformers they are made of."""
        place = np.full(len(self._parts) + 1, -1, np.int64)  # the last one stands for none (-1)
        place[assets] = np.arange(len(assets))
        return self._members.sums(cells, place[self._of], len(assets), first, stop)


class LaddersFold:
    """Some assets of one kind, through all rules over them; the pieces that several of these want are read once."""

    def __init__(self, ladders: PastLadders, assets: Ints, oldest: int) -> None:
        self._ladders, self._assets = ladders, assets
        self.transformers = ladders.made_of(assets)
        cells = max(len(self.transformers), 1)
        self._all: list[tuple[LadderFold, Ints]] = []
        self._wanted = 0, 0
        for one in ladders.ladders():
            columns = np.flatnonzero(one.rated[assets])
            if len(columns):
                ask, named = ladders.apart.ask, one.rungs.named
                made = ask(named, None, self._fold_of, one, columns, oldest, PIECE_CELLS // cells)
                self._all += [] if made is None else [(made, columns)]

    def _fold_of(self, one: Measured, columns: Ints, oldest: int, windows_max: int) -> LadderFold | None:
        assets = self._assets[columns]
        spans = self._ladders.spans(one, assets)
        return LadderFold(one, assets, *spans, oldest, self._ladders.tail, windows_max)

    @property
    def _folds(self) -> list[tuple[LadderFold, Ints]]:
        """Those of rules at work, and their columns."""
        suspended = self._ladders.apart.suspended
        return [(fold, columns) for fold, columns in self._all if fold.named not in suspended]

    def wanted(self) -> tuple[int, int] | None:
        wants = sorted(span for fold, _ in self._folds if (span := self._ask(fold, None, fold.wanted)) is not None)
        if not wants:
            return None
        first, stop = wants[0]
        for begin, end in wants[1:]:
            if begin <= stop:
                stop = max(stop, end)
        self._wanted = first, stop
        return first, stop

    def given(self, cells: Loads) -> None:
        first, stop = self._wanted  # not asked again: a rule that raises at the second time would want no more
        sums = self._ladders.sums(cells, self._assets, first, stop)
        for fold, columns in self._folds:
            span = self._ask(fold, None, fold.wanted)
            if span is not None and span[1] <= stop:
                self._ask(fold, None, fold.given, sums.take(slice(span[0] - first, span[1] - first), columns))

    def result(self) -> tuple[list[Verdict], Callable[[], None]]:
        late, assets = self._ladders.late, self._assets

        def taken() -> None:
            for fold, _ in self._folds:
                self._ask(fold, None, fold.taken)
            late.judged(assets)  # at the end: what waits is owed by a rule that raises in between

        verdicts: list[Verdict] = []
        for fold, _ in self._folds:
            verdicts += self._ask(fold, [], fold.verdicts)
        return verdicts, taken

    def _ask(self, fold: LadderFold, otherwise: _T, call: Callable[..., _T], *arguments: Sums) -> _T:
        return self._ladders.apart.ask(fold.named, otherwise, call, *arguments)


class LadderFold:
    """Some assets, ascending, through one ladder; of each the windows that changed, before the ring."""

    def __init__(
        self, measured: Measured, index: Ints, first: Ints, last: Ints, oldest: int, tail: int, windows_max: int
    ) -> None:
        """oldest: no window before it has a load. windows_max: of a piece, as far as a calm fits into it."""
        self.measured, self.index, self.named = measured, index, measured.rungs.named
        rungs = measured.rungs
        self._ladder = Ladder(rungs.profile)
        self._coverage_min, self._window_us = rungs.profile.coverage_min, rungs.profile.window_s * 1_000_000
        self._first, self._last, self._oldest, self._tail = first, last, oldest, tail
        n = len(index)
        self._begin = np.full(n, -1, np.int64)
        """Of each: the window after the calm before; -1: not found yet."""
        self._end = np.full(n, NEVER)
        """Of each: the window after the calm that follows; NEVER: not found (yet)."""
        self._state = LadderState.cold(n, len(rungs.profile.levels))
        self._episodes: dict[int, list[tuple[Span, Episode]]] = {}
        self._piece_max = max(windows_max, 2 * self._ladder.calm_windows)
        self._piece = min(FIRST_WINDOWS, self._piece_max)
        self._back: int | None = int(first.min())
        """Windows before it are still to be looked through, backwards; None: the fold goes forward."""
        self._at = 0
        self._kept: tuple[Floats, Floats] = (np.zeros((0, n)), np.zeros((0, n)))

    def wanted(self) -> tuple[int, int] | None:
        """As in rules.late.Fold."""
        if self._back is not None:
            return max(self._back - self._piece, min(self._oldest, self._back - 1)), self._back
        if self._at >= self._tail or (self._end < NEVER).all():
            return None
        return self._at, min(self._at + self._piece, self._tail)

    def given(self, sums: Sums) -> None:
        """What these assets carried in the windows wanted."""
        wanted = self.wanted()
        assert wanted is not None
        load, coverage = self.measured.meaning(self.index, sums), sums.coverage
        usable = (coverage >= self._coverage_min) & ~np.isnan(load)
        load[~usable] = 0.0
        self._piece = min(2 * self._piece, self._piece_max)
        if self._back is not None:
            self._look_back(wanted[0], load, usable, coverage)
        else:
            self._fold(wanted[0], load, usable, coverage)

    def _calm(self, load: Floats, usable: Bools, coverage: Floats) -> Bools:
        """[windows + 1, assets]: True where the windows just before are calm, and enough of them."""
        calm = usable & (at_most(load, self._heard(coverage)) < self._ladder.calm_pu)
        count = np.cumsum(np.concatenate([np.zeros((1, calm.shape[1]), np.int64), calm]), axis=0)
        found = np.zeros(count.shape, np.bool_)
        k = self._ladder.calm_windows
        found[k:] = count[k:] - count[:-k] == k
        return found

    def _heard(self, coverage: Floats) -> Floats | None:
        return coverage if self.measured.rungs.adds_up else None

    def _look_back(self, from_window: int, load: Floats, usable: Bools, coverage: Floats) -> None:
        after_calm = self._calm(load, usable, coverage)
        windows = np.arange(from_window, from_window + len(after_calm))
        after_calm &= windows[:, None] <= self._first
        newest = np.where(after_calm.any(axis=0), windows[len(windows) - 1 - np.argmax(after_calm[::-1], axis=0)], -1)
        self._begin = np.where(self._begin < 0, newest, self._begin)
        if (self._begin >= 0).all() or from_window <= self._oldest:
            self._begin = np.where(self._begin < 0, np.minimum(from_window, self._first), self._begin)
            self._back, self._at = None, int(self._begin.min())
            self._piece = min(FIRST_WINDOWS, self._piece_max)
        else:  # the next piece ends within this one: a calm may lie across the border
            self._back = from_window + self._ladder.calm_windows - 1

    def _fold(self, first: int, load: Floats, usable: Bools, coverage: Floats) -> None:
        stop = first + len(load)
        ended: dict[int, list[Span]] = {}
        everyone = slice(0, len(self.index))
        for at in range(0, len(load), FOLD_WINDOWS):
            some = slice(at, at + FOLD_WINDOWS)
            places = np.arange(len(self.index))
            heard = self._heard(coverage[some])
            self._ladder.fold(self._state, everyone, places, first + at, load[some], usable[some], ended, heard)
        b, share = (np.concatenate(two) for two in zip(self._kept, (load, coverage), strict=True))
        shown_from = stop - len(b)
        after_calm = self._calm(load, usable, coverage)
        windows = np.arange(first, stop + 1)
        after_calm &= windows[:, None] - self._ladder.calm_windows > self._last
        end = np.where(after_calm.any(axis=0), windows[np.argmax(after_calm, axis=0)], NEVER)
        self._end = np.minimum(self._end, end)
        dress = self.measured.rungs.dress
        for i, spans in ended.items():
            mine = [one for one in spans if _cleared(one) >= self._begin[i] and one.onset < self._end[i]]
            dressed = [dress(int(self.index[i]), one, shown_from, b[:, i], share[:, i]) for one in mine]
            self._episodes.setdefault(i, []).extend(zip(mine, dressed, strict=True))
        self._kept = b[-KEPT_WINDOWS:], share[-KEPT_WINDOWS:]
        self._at = stop

    def verdicts(self) -> list[Verdict]:
        """What is known of each asset between its two calms; until_us None where only the ring knows the end."""
        rungs, window_us = self.measured.rungs, self._window_us
        return [
            Verdict(
                rungs.rule,
                rungs.asset_kind,
                asset,
                begin * window_us + 1,
                tuple(episode for _, episode in self._episodes.get(i, ())),
                until_us=None if end == NEVER else end * window_us,
            )
            for i, (asset, begin, end) in enumerate(
                zip(self.index.tolist(), self._begin.tolist(), self._end.tolist(), strict=True)
            )
        ]

    def taken(self) -> None:
        """Of assets whose verdict the ring ends it is to know their states before its tail."""
        rows = np.flatnonzero(self._end == NEVER)
        self.measured.rungs.rebase(self.index[rows], self._state.take(rows))


def with_ring(past: list[Verdict], ring: list[Verdict], tail: int, window_us: int) -> list[Verdict]:
    """Both together: a verdict of the past that only the ring can end goes on in the ring's; one an asset and span."""
    lasting = {(one.rule, one.asset_kind, one.asset_id): one for one in past if one.until_us is None}
    found = [verdict for verdict in past if verdict.until_us is not None]
    for verdict in ring:
        before = lasting.pop((verdict.rule, verdict.asset_kind, verdict.asset_id), None)
        if before is not None:
            later = [e for e in verdict.episodes if e.cleared_us is None or e.cleared_us > tail * window_us]
            verdict = replace(before, episodes=(*before.episodes, *later))
        found.append(verdict)
    return found + list(lasting.values())


def _cleared(span: Span) -> int:
    return NEVER if span.cleared is None else span.cleared
