"""A ladder over the windows of a ring, for the assets of one kind: what of their loads is an episode.

The loads belong to somebody else and are asked for by asset and window; so one kernel serves transformers, feeders and
what else has a ratio per window. A verdict is a pure function of the ring and of the ladder's state at its tail; two
checkpoints (tail, and a few windows behind the head) only save work.

Promises: whoever says of each change in the ring which cells it touched (`touch`), and calls `leave` before the oldest
window leaves it, gets the same verdicts for any order, split or re-send. An episode is told once a level at or above
`page_from_level` was latched. Refuses to know: where loads come from, reads, alarms, the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from meterwatch.episodes import Episode, Verdict
from rules.apart import Rule
from rules.ladder import NEVER, Bools, Floats, Ints, Ladder, LadderState, OverloadProfile, Span, span_of, top_level

US = 1_000_000
FOLD_CELLS = 250_000
"""Cells of the ring looked at together: 2 MB a column, however many assets there are."""


@dataclass(slots=True)
class Windows:
    """Which windows the ring holds: `count` up to `head`; -1: none yet."""

    count: int
    behind: int
    """The near checkpoint lies so many windows behind the head."""
    head: int = -1

    @property
    def tail(self) -> int:
        """Oldest window of the ring."""
        return self.head - self.count + 1

    @property
    def checkpoint(self) -> int:
        return self.head - self.behind


class Rungs:
    """One rule over one kind of asset."""

    def __init__(
        self,
        rule: str,
        asset_kind: str,
        assets: int,
        profile: OverloadProfile,
        windows: Windows,
        load: Callable[[Ints, int, int], tuple[Floats, Floats]],
        dress: Callable[[int, Span, int, Floats, Floats], Episode],
        *,
        adds_up: bool = True,
    ) -> None:
        """load(index, first, stop): b and coverage [windows, assets] of the ring; b NaN: not rated, never judged.

        dress(asset, span, first, b, coverage [windows]): the episode for people. adds_up: what was not heard would have
        added to b.
        """
        self.adds_up = adds_up
        self.rule, self.asset_kind, self.profile = rule, asset_kind, profile
        self.named, self.assets = Rule(rule, asset_kind), assets
        self._windows, self._load, self.dress = windows, load, dress
        self._ladder = Ladder(profile)
        levels = len(profile.levels)
        self._base = LadderState.cold(assets, levels)  # before the ring's tail
        self._near = LadderState.cold(assets, levels)  # before the near checkpoint
        self._near_closed: dict[int, list[Span]] = {}  # ended between the two
        self._near_stale = np.zeros(assets, np.bool_)
        self.touched_from = np.full(assets, NEVER)
        """First window changed since the last judgement, of each asset; NEVER: none."""
        self._touched_to = np.full(assets, -1, np.int64)
        self._told = np.ones(assets, np.bool_)
        """Its last verdict named an episode; at first nobody knows what was told before."""
        self._everyone = np.arange(assets)
        self._watched = np.zeros(assets, np.bool_)
        """Of these a level was once reached, as far as `touch_where` was told."""
        self.lowest_pu = self._ladder.lowest_pu
        """Below this nothing changes for an asset at rest."""

    def touch(self, asset: Ints, window: Ints) -> None:
        """These cells changed, by rising window, all in the ring."""
        first = int(window[0])
        if first == int(window[-1]):
            self.touched_from[asset] = np.minimum(self.touched_from[asset], first)
            self._touched_to[asset] = np.maximum(self._touched_to[asset], first)
        else:
            np.minimum.at(self.touched_from, asset, window)
            np.maximum.at(self._touched_to, asset, window)
        if first < self._windows.checkpoint:
            self._near_stale[asset[window < self._windows.checkpoint]] = True

    def touch_where(self, reached: Bools, asset: Ints, window: Ints) -> None:
        """In place of `touch`, where most assets never reach a level: reached tells whether a cell now does.

        An asset of which no level was ever reached has no episode, so its changes are no news.
        """
        self._watched[asset[reached]] = True
        mine = np.flatnonzero(self._watched[asset])
        if len(mine):
            self.touch(asset[mine], window[mine])

    def recall(self, assets: Ints) -> None:
        """Something was told of these in another life of the rule: say again what is known of them."""
        self._watched[assets] = True
        if self._windows.head >= 0 and len(assets):
            self.touch(assets, np.full(len(assets), self._windows.head))

    def nothing_before(self, tail: int) -> None:
        """What changed before this window is no news."""
        np.maximum(self.touched_from, tail, out=self.touched_from)

    def leave(self) -> None:
        """The ring is about to go on by one window: its oldest is folded into the base state."""
        tail, checkpoint = self._windows.tail, self._windows.checkpoint
        self._fold(self._base, self._everyone, tail, tail + 1)
        for asset, spans in self._fold(self._near, self._everyone, checkpoint, checkpoint + 1).items():
            self._near_closed.setdefault(asset, []).extend(spans)

    def left(self) -> None:
        """The ring has gone on: episodes that ended before it are forgotten, unless they are still to be told."""
        tail = self._windows.tail
        self._near_closed = {
            asset: kept
            for asset, spans in self._near_closed.items()
            if (kept := _since(spans, min(tail, int(self.touched_from[asset]))))
        }

    def rebase(self, index: Ints, state: LadderState) -> None:
        """These assets had another state before the ring's tail than was known; they are told anew from there on."""
        tail = self._windows.tail
        self._base.put(index, state)
        self._near_stale[index] = True
        for asset in index.tolist():
            self._near_closed.pop(asset, None)
        self._watched[index] = True
        self.touched_from[index] = tail
        self._touched_to[index] = np.maximum(self._touched_to[index], tail)
        self._told[index] = True

    def settle(self) -> None:
        """Refold from the ring's tail the assets with changes older than the near checkpoint."""
        stale = np.flatnonzero(self._near_stale)
        if not len(stale):
            return
        tail = self._windows.tail
        state = self._base.take(stale)
        closed = self._fold(state, stale, tail, self._windows.checkpoint)
        self._near.put(stale, state)
        for asset in stale.tolist():
            over = [span for span in self._near_closed.pop(asset, ()) if _end(span) < tail]
            over += closed.get(asset, ())
            if over:
                self._near_closed[asset] = over
        self._near_stale[stale] = False

    def judge(self, now_us: int) -> list[Verdict]:
        """Verdicts of the assets whose windows changed since the last call, in rising id.

        An asset without an episode gets one only to take back what was told of it: most are calm most of the time, and
        a verdict on each cost more than the sums. Windows that end after `now_us` wait for a later call. from_us is
        1 us after the start of the ring, or of the first window changed since the last call, if that has left the ring
        meanwhile: an episode that ended with the window before it has left the verdict.
        """
        head, tail = self._windows.head, self._windows.tail
        if head < 0:
            return []
        window_us = self.profile.window_s * US
        stop = min(head + 1, now_us // window_us)
        index = np.flatnonzero(self.touched_from < stop)
        self.settle()
        if not len(index):
            return []
        since = np.minimum(self.touched_from[index], tail)
        restless = ~self._calm(index, stop)
        spans = self._spans(index[restless], since[restless], stop)
        load, coverage = self._load(np.array(list(spans), np.int64), tail, max(stop, tail + 1))
        episodes = {
            asset: tuple(self.dress(asset, span, tail, load[:, i], coverage[:, i]) for span in known)
            for i, (asset, known) in enumerate(spans.items())
        }
        told = self._told[index]
        told[np.searchsorted(index, np.array(list(spans), np.int64))] = True
        self._told[index] = False
        self._told[list(spans)] = True
        waiting = self._touched_to[index] >= stop  # from here on they count as told of
        self.touched_from[index] = np.where(waiting, stop, NEVER)
        self._touched_to[index[~waiting]] = -1
        return [
            Verdict(self.rule, self.asset_kind, asset, first * window_us + 1, episodes.get(asset, ()))
            for asset, first in zip(index[told].tolist(), since[told].tolist(), strict=True)
        ]

    def _fold(self, state: LadderState, index: Ints, first: int, stop: int) -> dict[int, list[Span]]:
        """Take `state` of the assets `index` through windows first..stop-1; returns the episodes that ended."""
        closed: dict[int, list[Span]] = {}
        if stop <= first or not len(index):
            return closed
        together = max(FOLD_CELLS // (stop - first), 1)
        for at in range(0, len(index), together):
            some = slice(at, at + together)
            load, coverage = self._load(index[some], first, stop)
            usable = (coverage >= self.profile.coverage_min) & ~np.isnan(load)
            load[~usable] = 0.0
            self._ladder.fold(state, some, index, first, load, usable, closed, coverage if self.adds_up else None)
        return closed

    def _calm(self, index: Ints, stop: int) -> Bools:
        """True where no episode is known: none ended lately, no level is latched or held, nothing since reaches one."""
        checkpoint = self._windows.checkpoint
        load, coverage = self._load(index, checkpoint, max(stop, checkpoint))
        reached = (coverage >= self.profile.coverage_min) & (load >= self._ladder.lowest_pu)
        held = self._near.latched[index].any(axis=1) | (self._near.hold_s[index] > 0).any(axis=1)
        ended = np.isin(index, np.fromiter(self._near_closed, np.int64, len(self._near_closed)))
        calm: Bools = ~(reached.any(axis=0) | held | ended)
        return calm

    def _spans(self, index: Ints, since: Ints, stop: int) -> dict[int, list[Span]]:
        """The episodes known of these assets, each from its window of `since` on, of those that have one."""
        state = self._near.take(index)
        recent = self._fold(state, index, self._windows.checkpoint, stop)
        open_now = (state.latched.any(axis=1) & (state.raised >= 0)).tolist()
        top = top_level(state.latched).tolist()
        spans: dict[int, list[Span]] = {}
        for i, asset in enumerate(index.tolist()):
            known = _since(self._near_closed.get(asset, ()), int(since[i])) + recent.get(asset, [])
            if open_now[i]:
                known.append(span_of(state, i, top[i], None))
            if known:
                spans[asset] = known
        return spans


def _end(span: Span) -> int:
    return NEVER if span.cleared is None else span.cleared


def _since(spans: Sequence[Span], window: int) -> list[Span]:
    """Those that ended in that window or later."""
    return [span for span in spans if _end(span) >= window]
