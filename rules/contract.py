"""CONTRACT: meters that draw more than their contracted power, window by window, through a ladder of levels.

Argument. A read below every limit changes nothing for a meter at rest; so one look at a table of limits, in Wh and by
meter, is all that most reads cost, and a meter without a contract has a limit that no read reaches. Meters not at rest,
or of which something was told, are *watched*: their limit is below every read. What comes in the order of time moves
their ladder forward. What does not (late, corrected, or the first above a limit after a start) is not guessed: the
meter is *touched*, and its episodes around that time are found anew from the stored reads, by the same steps, between
two calms (`rules.past`). So the episodes depend on the stored reads alone.

One alarm an episode, from the first level latched to the last one unlatched, told once `page_from_level` is latched.
What is looked at waits until the next judgement, so that the price is by judgement and not by batch. Memory: 10 bytes a
meter and 4 for each length of interval, and some 150 for each meter not at rest. Refuses to know: the database, alarms,
the clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import ReadChange
from meterwatch.dated import first_changes
from meterwatch.episodes import Episode, Verdict
from meterwatch.topology import Topology
from rules.apart import Owing
from rules.contract_demand import demand
from rules.contract_levels import ContractProfile
from rules.contract_state import Looked, Restless, Rows, Slots, calm_rows, quiet_rows, walk
from rules.ladder import NEVER, Bools, Floats, Ints, Ladder, LadderState, Span, span_of, top_level
from rules.rated import clock, duration
from rules.user.kernel import Span as Touched

RULE = "CONTRACT"
US = 1_000_000
HOUR_S = 3600
"""What lasts is said when its level changes, and on the hour: the book then knows how far it was seen. (ours)"""
OWED_US = 2 * HOUR_S * US
"""Of a rule that raises all reads are owed that end so long before the newest or later, and of each meter what is older
and came since: most reads come in this time, so few meters are noted one by one. (ours)"""
NOBODY = np.iinfo(np.int32).max
"""Limit of a meter without a contract."""


class Contract:
    """The rule. Not thread-safe: one evaluator calls it.

    After a start: `begin`, and `touch` what may have changed unseen. `wanted`, `judge` and `judged` as those of
    rules.user.kernel.Kernel, with the stored reads as changes of sign +1.
    """

    def __init__(self, topology: Topology, profile: ContractProfile | None = None) -> None:
        self.profile = profile or ContractProfile()
        self._ladder = Ladder(self.profile.as_ladder())
        self._topology = topology
        self._window_us = self.profile.window_s * US
        self._least_w = _least_w(topology)
        self._any = bool(np.isfinite(self._least_w).any())
        self._limit_wh: dict[int, Slots] = {}
        """By length of interval: a read of at least so much is looked at."""
        self._seen = np.full(topology.slots, -1, np.int32)
        """Per slot, the newest window in which a read ended."""
        self._known = self._newest = -1
        """Newest window stored before the start; and of all that was seen."""
        self.newest_us = 0
        self.keep_us_max = self._ladder.calm_windows * self._window_us
        self._restless = Restless(topology.slots, len(self.profile.levels))
        self._looked: list[Looked] = []
        self._told = np.zeros(topology.slots, np.bool_)
        self._marked = np.zeros(topology.slots, np.bool_)
        self._touched: list[Touched] = []
        self._ready: dict[int, Verdict] = {}

    @property
    def watches(self) -> bool:
        """Some meter has a contract, had one, or was told of."""
        return self._any

    def concerns(self, slot: Slots) -> Bools:
        """Whose reads may be judged."""
        mine: Bools = np.isfinite(self._least_w[slot]) | self._told[slot]
        return mine

    @property
    def restless(self) -> int:
        """Meters not at rest."""
        self._settle()
        return len(self._restless)

    def begin(self, known_us: int, told: Slots) -> None:
        """After a start: reads up to known_us are stored, and of these meters something was told."""
        self._known = self._newest = (known_us - 1) // self._window_us if known_us else -1
        self._seen[:] = self._known
        self.newest_us = known_us
        self._told[told] = True
        self._any |= len(told) > 0
        self._limit_wh.clear()

    def replaces(self, before: Contract) -> None:
        """Judge anew what contracts say now of a time that was judged by others. Before `begin`."""
        old, new = before._topology.contracts, self._topology.contracts
        if old is not None and new is not None:
            slot, from_us = first_changes(old, new)
            mine = from_us < before.newest_us
            self.touch(slot[mine], from_us[mine] + 1, np.full(int(mine.sum()), before.newest_us))

    # Reads in

    def observe(self, change: ReadChange) -> None:
        """Take what changed in the stored reads. Estimates are none of it."""
        if not self._any or not len(change.slot):
            return
        length_s = change.interval_s
        if (length_s == length_s[0]).all():
            self._observe(change, int(length_s[0]))
            return
        for one in np.unique(length_s).tolist():
            self._observe(change.take(np.flatnonzero(length_s == one)), one)

    def _observe(self, change: ReadChange, length_s: int) -> None:
        slot, end_us = change.slot, change.end_us
        together = bool((end_us == end_us[0]).all())
        hit = np.flatnonzero(change.import_wh >= self._limits(length_s)[slot])
        if len(hit):
            if not together:  # a meter may be here again, below its limit
                self._marked[slot[hit]] = True
                hit = np.flatnonzero(self._marked[slot])
                self._marked[slot[hit]] = False
            self._looked.append(Looked.of(change, hit, length_s, self._seen))
            self._watch(slot[hit])
        if together:
            window = (int(end_us[0]) - 1) // self._window_us
            self._seen[slot] = window if window >= self._newest else np.maximum(self._seen[slot], window)
        else:
            ends = (end_us - 1) // self._window_us
            np.maximum.at(self._seen, slot, ends.astype(np.int32))
            window = int(ends.max())
        self._newest = max(self._newest, window)
        self.newest_us = max(self.newest_us, int(end_us[0] if together else end_us.max()))

    def _limits(self, length_s: int) -> Slots:
        found = self._limit_wh.get(length_s)
        if found is None:
            found = _limit_wh(self._least_w * self._ladder.lowest_pu, length_s)
            found[self._told | (self._restless.row >= 0)] = -1
            self._limit_wh[length_s] = found
        return found

    def _watch(self, slot: Slots) -> None:
        for limit in self._limit_wh.values():
            limit[slot] = -1

    def _unwatch(self, slot: Slots) -> None:
        """Those of them that are at rest and were not told of have their limits again."""
        rest = slot[(self._restless.row[slot] < 0) & ~self._told[slot]]
        for length_s, limit in self._limit_wh.items():
            limit[rest] = self._high_wh(rest, length_s)

    def _high_wh(self, slot: Slots, length_s: int | Ints) -> Slots:
        return _limit_wh(self._least_w[slot] * self._ladder.lowest_pu, length_s)

    def _settle(self) -> None:
        """Move ladders forward by what was looked at, or touch."""
        if not self._looked:
            return
        rows, self._looked = Looked.joined(self._looked), []
        slot, length_us = rows.slot, rows.length_s * US
        start_us = rows.end_us - length_us
        high = rows.wh >= self._high_wh(slot, rows.length_s)
        awake = self._restless.row[slot] >= 0
        again = (start_us // self._window_us <= rows.seen) | (rows.sign < 0)
        if self._known >= 0:
            again |= high & (rows.seen == self._known)
        again |= (length_us % self._window_us > 0) & (high | awake)
        again &= rows.evidence
        if again.any() or self._touched:
            parts = [slot[again], *(span.asset for span in self._touched)]
            again |= np.isin(slot, np.concatenate(parts)) & rows.evidence
            self.touch(slot[again], start_us[again] + 1, rows.end_us[again])
        moved = (high | awake) & ~again & rows.evidence
        if moved.any():
            self._marked[slot[moved]] = True
            mine = self._marked[slot] & ~again & rows.evidence
            self._marked[slot] = False
            self._forward(rows.take(mine))
        self._unwatch(slot[~(moved | again)])

    def touch(self, slot: Slots, first_us: Ints, last_us: Ints) -> None:
        """What is stored of these meters in this span has changed, or is not known."""
        if len(slot):
            self._touched.append(Touched(slot, first_us, last_us))

    def _forward(self, rows: Looked) -> None:
        """Rows later than all that was seen of their meters, of whole windows."""
        count = rows.length_s * US // self._window_us
        begin = np.cumsum(count) - count
        slot, watts = np.repeat(rows.slot, count), np.repeat(rows.wh * 3600.0 / rows.length_s, count)
        window = np.arange(len(slot)) + np.repeat(rows.end_us // self._window_us - count - begin, count)
        order = np.lexsort((window, slot))
        slot, window, watts = slot[order], window[order], watts[order]
        begins = np.flatnonzero(np.append(True, slot[1:] != slot[:-1]))
        assets = slot[begins]
        state, at = self._restless.picked(assets)
        lane = np.repeat(np.arange(len(assets)), np.diff(np.append(begins, len(slot))))
        before = self._standing(state)
        ended = walk(self._ladder, self.profile, state, at, Rows(lane, window, self._over(slot, window, watts)))
        self._restless.keep(assets, state, at)
        self._unwatch(assets)
        news = self._standing(state) != before
        news |= (at + 1) * self.profile.window_s % HOUR_S == 0
        for i, spans in self._spans(state, ended, news).items():
            asset = int(assets[i])
            episodes = tuple(self._episode(asset, one, int(at[i])) for one in spans)
            self._say(Verdict(RULE, "meter", asset, episodes[0].onset_us + 1, episodes))

    def _over(self, slot: Slots, window: Ints, watts: Floats) -> Floats:
        return over_contract(self._topology, slot, (window + 1) * self._window_us, watts)

    def _standing(self, state: LadderState) -> Ints:
        """Level of the episode that lasts and is told; -1: none."""
        return np.where(state.raised >= 0, top_level(state.latched), -1)

    def _spans(self, state: LadderState, ended: dict[int, list[Span]], news: Bools) -> dict[int, list[Span]]:
        """Of each lane the episodes that ended, and the one that lasts, if one ended or it is news."""
        spans, top = dict(ended), self._standing(state)
        news[list(spans)] = True
        for i in np.flatnonzero((top >= 0) & news).tolist():
            spans[i] = [*spans.get(i, ()), span_of(state, i, int(top[i]), None)]
        return spans

    def _say(self, verdict: Verdict) -> None:
        """Keep a verdict until it is asked for; of what an earlier one said of the same meter, both are told."""
        before = self._ready.get(verdict.asset_id)
        if before is not None:
            onsets = {episode.onset_us for episode in verdict.episodes}
            kept = tuple(episode for episode in before.episodes if episode.onset_us not in onsets)
            from_us = min(before.from_us, verdict.from_us)
            verdict = Verdict(RULE, "meter", verdict.asset_id, from_us, (*kept, *verdict.episodes))
        self._ready[verdict.asset_id] = verdict
        if not self._told[verdict.asset_id]:
            self._told[verdict.asset_id] = True
            self._watch(np.array([verdict.asset_id], np.int32))

    def taken(self) -> list[Verdict]:
        """The verdicts since the last call: at most one of a meter."""
        self._settle()
        said, self._ready = list(self._ready.values()), {}
        return said

    def _episode(self, asset: int, span: Span, newest: int) -> Episode:
        """An episode for people. newest: the last window that has a demand."""
        level, name = self.profile.levels[span.level], self._topology.meter[asset]
        onset_us, raised_us = span.onset * self._window_us, (span.raised + 1) * self._window_us
        kw = float(self._topology.contract_kw_at(np.array([asset], np.int32), np.array([raised_us]))[0])
        what = f"{span.peak:.2f} x its contract of {kw:.6g} kW"
        if span.cleared is None:
            cleared_us, seen_us = None, (newest + 1) * self._window_us
            lasted = duration((seen_us - onset_us) // US)
            summary = f"Meter {name} draws up to {what} since {clock(onset_us)}, {level.name} for {lasted}"
        else:
            cleared_us, seen_us = (span.cleared + 1) * self._window_us, None
            lasted = duration((cleared_us - onset_us) // US)
            summary = f"Meter {name} drew up to {what} from {clock(onset_us)} to {clock(cleared_us)}, "
            summary += f"at worst {level.name}, over after {lasted}"
        evidence = {
            "peak_b": round(span.peak, 4),
            "peak_kw": round(span.peak * kw, 3),
            "contract_kw": round(kw, 3),
            "worst_level": self.profile.levels[span.worst].name,
            **self.profile.thresholds(level.name),
        }
        return Episode(onset_us, raised_us, cleared_us, level.severity, level.name, summary, evidence, seen_us=seen_us)

    # While it is suspended

    def owing(self) -> Owing:
        """What is not told of, but for reads that `observe` was given since it was `taken` last."""
        said = [(one.asset_id, one.from_us) for one in self._ready.values()]
        ready = np.array(said, np.int64).reshape(-1, 2).T
        asset = np.concatenate([*(span.asset for span in self._touched), ready[0]]).astype(np.int64)
        first_us = np.concatenate([*(span.first_us for span in self._touched), ready[1]])
        return Owing(max(self.newest_us - OWED_US, 0) if self.newest_us else NEVER, asset, first_us - 1)

    def owe(self, from_us: int, asset: Ints, start_us: Ints) -> None:
        """It missed this while it was suspended (rules.apart.Missed). After `begin`."""
        slots = self._topology.slots
        first, known = np.full(slots, from_us), asset < slots
        np.minimum.at(first, asset[known], start_us[known])
        mine = np.flatnonzero(self.concerns(np.arange(slots, dtype=np.int32)) & (first < self.newest_us))
        self.touch(mine.astype(np.int32), first[mine] + 1, np.full(len(mine), self.newest_us))

    # What was touched

    def wanted(self) -> Touched | None:
        """Meters whose stored reads are to be judged, each once, by first end; None: nobody's."""
        self._settle()
        if not self._touched:
            return None
        asset, first_us, last_us = (np.concatenate(column) for column in zip(*self._touched, strict=True))
        assets, of = np.unique(asset, return_inverse=True)
        first, last = np.full(len(assets), NEVER), np.full(len(assets), -1, np.int64)
        np.minimum.at(first, of, first_us)
        np.maximum.at(last, of, last_us)
        for at in np.flatnonzero(np.isin(assets, np.fromiter(self._ready, np.int64, len(self._ready)))).tolist():
            said = self._ready.pop(int(assets[at]))
            first[at], last[at] = min(int(first[at]), said.from_us), max(int(last[at]), self.newest_us)
        order = np.argsort(first, kind="stable")
        together = Touched(assets[order].astype(np.int32), first[order], last[order])
        self._touched = [together]
        return together

    def judge(self, span: Touched, rows: Sequence[ReadChange], from_us: int, to_us: int, *, whole: bool) -> Bools:
        """Judge meters of `wanted` by all their stored reads with from_us < end <= to_us; True: more is needed of it.

        whole: there is nothing older. to_us at or after `newest_us` means that there is nothing newer. What is judged
        is said; ask again for the others with more time around them.
        """
        order = np.argsort(span.asset)
        assets, first_us, last_us = span.take(order)
        found = demand(rows, self.profile.window_s, self.profile.coverage_min)
        if not whole:  # a longer read may reach back before from_us
            found = found.take(found.window * self._window_us >= from_us)
        newest = (last_us - 1) // self._window_us
        np.maximum.at(newest, np.searchsorted(assets, found.slot), found.window + found.waits)
        usable = found.take(found.usable)
        lane = np.searchsorted(assets, usable.slot)
        seen = Rows(lane, usable.window, self._over(usable.slot, usable.window, usable.watts))
        first, last = (first_us - 1) // self._window_us, (last_us - 1) // self._window_us
        begin, until, calm = self._between_calms(seen, first, last)
        lasting = until == NEVER
        more: Bools = ((begin < 0) & (not whole)) | (lasting & (to_us < self.newest_us))
        inside = (seen.window >= begin[lane]) & (seen.window < until[lane]) & ~more[lane] & ~quiet_rows(seen, calm)
        state, at = LadderState.cold(len(assets), len(self.profile.levels)), np.full(len(assets), -1, np.int64)
        ended = walk(self._ladder, self.profile, state, at, seen.take(inside))
        spans = self._spans(state, ended, np.ones(len(assets), np.bool_))
        for i in sorted({*spans, *np.flatnonzero(self._told[assets] & ~more).tolist()}):
            asset = int(assets[i])
            episodes = tuple(self._episode(asset, one, int(at[i])) for one in spans.get(i, ()))
            until_us = None if lasting[i] else int(until[i]) * self._window_us
            since_us = max(int(begin[i]), 0) * self._window_us + 1
            self._say(Verdict(RULE, "meter", asset, since_us, episodes, until_us=until_us))
        mine = np.flatnonzero(lasting & ~more)
        self._restless.keep(assets[mine], state.take(mine), at[mine])
        self._rest_before(assets[~lasting & ~more], until[~lasting & ~more])
        self._unwatch(assets[~more])
        # rows among them may be stored and not observed yet: they are judged, and will be no news of their own
        judged_to = np.where(lasting, newest, until - 1)[~more]
        self._seen[assets[~more]] = np.maximum(self._seen[assets[~more]], judged_to)
        result = np.zeros(len(more), np.bool_)
        result[order] = more
        return result

    def _rest_before(self, assets: Slots, until: Ints) -> None:
        """A calm ends before `until`: a state of before it is over."""
        _, at = self._restless.picked(assets)
        over = assets[at < until]
        self._restless.keep(over, LadderState.cold(len(over), len(self.profile.levels)), np.full(len(over), -1))

    def judged(self) -> None:
        """All that was wanted is judged."""
        self._touched = []

    def _between_calms(self, rows: Rows, first: Ints, last: Ints) -> tuple[Ints, Ints, Bools]:
        """Of each lane the window after the calm before `first`, -1: none; the one after the calm that follows `last`.

        And of each row whether the windows up to it are a calm.
        """
        calm = calm_rows(rows, self._ladder)
        begin, until = np.full(len(first), -1, np.int64), np.full(len(first), NEVER)
        before = calm & (rows.window < first[rows.lane])
        np.maximum.at(begin, rows.lane[before], rows.window[before] + 1)
        after = calm & (rows.window - self._ladder.calm_windows >= last[rows.lane])
        np.minimum.at(until, rows.lane[after], rows.window[after] + 1)
        return begin, until, calm


def over_contract(topology: Topology, slot: Slots, end_us: Ints, watts: Floats) -> Floats:
    """Demand over the contract in force at the end of a window; 0 for a meter that has none then."""
    limit_w = _watts(topology.contract_kw_at(slot, end_us))
    return np.divide(watts, limit_w, out=np.zeros(len(watts)), where=np.isfinite(limit_w))


def _least_w(topology: Topology) -> Floats:
    """The lowest contract each meter ever had, W; inf: none."""
    least = np.nan_to_num(_watts(topology.contract_kw), nan=np.inf)
    dated = topology.contracts
    if dated is not None:
        least[:] = np.inf
        np.minimum.at(least, dated.slot, _watts(dated.value))
    return least


def _watts(kw: NDArray[np.float32]) -> Floats:
    """Whole watts, as contracts are written: 9.2 kW is 9200 W, though no float32 is 9.2. NaN stays."""
    watts: Floats = np.maximum(np.rint(kw.astype(np.float64) * 1000), 1)
    return watts


def _limit_wh(watts: Floats, length_s: int | Ints) -> Slots:
    """Least energy of a read of this length that may be above so much power."""
    wh = np.ceil(watts * (length_s / 3600) - 1e-6)
    limit: Slots = np.where(wh < NOBODY, wh, NOBODY).astype(np.int32)
    return limit
