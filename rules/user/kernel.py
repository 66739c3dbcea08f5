"""All user rules of one kind of asset: rows in, verdicts out, and what must be read again of what came late.

Argument. Where an asset's reads come in the order of their ends, its state moves forward by `fold`. Where they do not
(late, corrected, or the first after a start), nothing is guessed: the asset is *touched* over a span of time, and its
episodes around that span are found anew from the stored reads, by the same fold, between two calm reads. So the
episodes depend on the stored reads alone: not on their order, their batches, re-sends, or when the service was started.

Memory: 32 bytes per asset, and what rules.user.kept says per rule. Cost: a pass over each column; a rule
looks at the rows where it may be true (rules.user.bounds) and at those of assets in its state. A rule that is slow
is put aside alone, with a rising pause, and begins anew after it as after a start. One that raises is run apart
(rules.apart): suspended alone, until there is a new kernel that is owed what it missed. No clock: `spent` is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from meterwatch.episodes import Episode, Verdict
from rules.apart import Apart, Owing
from rules.user.bounds import Block
from rules.user.columns import On
from rules.user.expression import negated
from rules.user.fold import (
    FAR_PAST,
    REST,
    Bools,
    Ended,
    Evidence,
    Ints,
    Lanes,
    by_lane,
    calm,
    fold,
    joined,
    sorted_evidence,
)
from rules.user.kept import Kept
from rules.user.missed import named, owed, owing
from rules.user.model import LEVEL, RULES_MAX, UserRule
from rules.user.program import Program
from rules.user.running import BUDGET_NS_PER_ROW, Health, Running
from rules.user.seen import Awake, Rows, Seen, gathered

_T = TypeVar("_T")
_ONE: Final = np.uint64(1)
TIMED_EVERY: Final = 16
"""Of so many blocks one is timed rule by rule, as a clock of CPU time is dearer than a calm rule; and any after a block
on which all together took longer than one may."""


class Span(NamedTuple):
    """Assets touched, each with the first and last end of what is to be judged again; aligned arrays."""

    asset: NDArray[np.int32]
    first_us: Ints
    last_us: Ints

    def take(self, rows: Any) -> Span:
        """Some of them."""
        return Span(self.asset[rows], self.first_us[rows], self.last_us[rows])


class Kernel:
    """The rules on one kind of asset. Not thread-safe.

    name(asset) gives an asset's name and its place (district, feeder). spent() is a clock of CPU time, ns. known_us is
    the newest end stored before.
    """

    def __init__(
        self,
        on: On,
        rules: Sequence[UserRule],
        assets: int,
        known_us: int,
        name: Callable[[int], tuple[str, dict[str, str]]],
        spent: Callable[[], int],
        *,
        in_order: bool = True,
        apart: Apart | None = None,
    ) -> None:
        """apart: where the rules are run; None: one that raises is not caught."""
        if len(rules) > RULES_MAX:
            raise ValueError(f"{len(rules)} rules; expected at most {RULES_MAX}")
        self.on = on
        self._program = Program()
        self._name = name
        self._spent = spent
        self._apart = apart or Apart(raising=True)
        self._in_order = in_order
        """False: a value may always be replaced, so rows are looked at and judged from what is stored."""
        self.newest_us = known_us
        self._told_us = known_us
        """All that ends up to then was told of, but for `_debts` and what came since and is older."""
        self._debts: list[Owing] = []
        self._seen_us = np.full(assets, known_us, np.int64)
        self._true_us = np.full(assets, known_us, np.int64)
        """No row that ends later was true in any rule."""
        self._awake = np.zeros(assets, np.uint64)
        """Bit per rule: the asset is in its state."""
        self._told = np.zeros(assets, np.uint64)
        self._touched: list[Span] = []
        self._blocks = 0
        self._timed_alone = False
        """All rules together took longer on the last block than one may."""
        self._ready: dict[tuple[int, int], Verdict] = {}
        for rule in rules:
            self._apart.add(named(rule), assets, self.owing)
        made = [self._apart.ask(named(rule), None, self._running, rule, i, known_us) for i, rule in enumerate(rules)]
        self._rules = [one for one in made if one is not None]
        self.keep_us_max = max((one.keep_us for one in self._rules), default=0)

    def _running(self, rule: UserRule, i: int, cold_us: int) -> Running:
        true, false = self._program.add(rule.tree), self._program.add(negated(rule.tree))
        left = np.zeros(0, np.int32), np.zeros(0, np.int64)
        return Running(rule, _ONE << np.uint64(i), true, false, Kept(len(rule.shown)), cold_us, left)

    @property
    def rules(self) -> list[tuple[UserRule, Health, int]]:
        """Each that could be made, with its health and how many assets are not at rest."""
        return [(one.rule, one.health, len(one.state)) for one in self._rules]

    def take_over(self, before: Kernel) -> None:
        """Go on with the health of the same rules."""
        known = {one.rule.name: one for one in before._rules}
        for one in self._rules:
            was = known.get(one.rule.name)
            if was is not None and was.rule.same_answers(one.rule):
                one.health = was.health
                one.health.aside_rows = 0

    def told(self, name: str, assets: NDArray[np.int32]) -> None:
        """A rule has told of these assets once, before this kernel was."""
        for one in self._rules:
            if one.rule.name == name:
                self._told[assets] |= one.bit

    # Rows in

    def touch(self, asset: NDArray[np.int32], first_us: Ints, last_us: Ints) -> None:
        """What is stored of these assets in this span has changed, or is not known."""
        if len(asset):
            self._touched.append(Span(asset, first_us, last_us))

    def replaced(self, asset: NDArray[np.int32], end_us: Ints) -> None:
        """These stored rows are not current any more."""
        mine = self._matters(asset, end_us)
        self.touch(asset[mine], end_us[mine], end_us[mine])

    def _matters(self, asset: NDArray[np.int32], end_us: Ints) -> Bools:
        """A row with such an end may change an episode, though it is not true."""
        near: Bools = end_us <= self._true_us[asset] + self.keep_us_max
        awake: Bools = self._awake[asset] != 0
        return near | awake

    def observe(self, given: Iterable[Rows]) -> None:
        """Take rows that are stored now."""
        picked: list[list[Evidence]] = [[] for _ in self._rules]
        for rows in given:
            self._observe(rows, picked, self._touched)
        touched = self._touched_assets()
        for i, (one, parts) in enumerate(zip(self._rules, picked, strict=True)):
            if parts and not one.health.aside_rows:
                self._ask(one, self._move, i, one, parts, touched)

    def _observe(self, rows: Rows, picked: list[list[Evidence]], late: list[Span]) -> None:
        """One block: each rule's rows that are true or of an asset not at rest, and what came late or first."""
        if not len(rows.end_us):
            return
        seen = self._seen(rows)
        count, alone = len(rows.end_us), self._timed_alone or self._blocks % TIMED_EVERY == 0
        self._blocks += 1
        began = since = self._spent()
        for i, one in enumerate(self._rules):
            if one.health.aside_rows:
                self._wait(one, count)
            if one.health.aside_rows or one.raised:
                continue
            self._ask(one, self._pick, i, one, seen, picked)
            if alone:
                since, before = self._spent(), since
                if one.health.over_budget(count, since - before):
                    self._aside(one)
            else:
                one.health.untimed(count)
        self._timed_alone = (since if alone else self._spent()) - began > BUDGET_NS_PER_ROW * count
        if seen.again.any():
            end_us = rows.end_us[seen.again]
            late.append(Span(rows.asset[seen.again], end_us, end_us))
        if seen.in_order:
            self._seen_us[rows.asset] = rows.end_us[0]
            self.newest_us = max(self.newest_us, int(rows.end_us[0]))
        else:
            self._see(rows.asset, rows.end_us)

    def _seen(self, rows: Rows) -> Seen:
        several = bool((rows.end_us != rows.end_us[0]).any())
        if self._in_order:
            is_late = rows.end_us <= self._seen_us[rows.asset]
        else:
            is_late = np.ones(len(rows.end_us), np.bool_)
        any_late = bool(is_late.any())
        again = is_late & self._matters(rows.asset, rows.end_us) if any_late else is_late.copy()
        awake = Awake(self._program, rows.columns, self._awake[rows.asset])
        return Seen(
            rows, Block(self._program, rows.columns), awake, is_late, again, several, not several and not any_late
        )

    def _pick(self, i: int, one: Running, seen: Seen, picked: list[list[Evidence]]) -> None:
        hit, awake, rows = seen.block.hits(one.true), seen.awake, seen.rows
        if len(hit):
            asset, end_us = rows.asset[hit], rows.end_us[hit]
            if seen.several:
                np.maximum.at(self._true_us, asset, end_us)
            else:
                self._true_us[asset] = np.maximum(self._true_us[asset], end_us)
            unwatched = (end_us - 2 * rows.length_us[hit] <= one.cold_us) & (awake.words[hit] & one.bit == 0)
            seen.again[hit[unwatched | seen.is_late[hit]]] = True
            self._awake[asset] |= one.bit
            if seen.several:
                awake = Awake(self._program, rows.columns, self._awake[rows.asset])
            picked[i].append(gathered(rows, hit, np.ones(len(hit), np.bool_), one.shown))
        false = awake.false(one)
        if len(false):
            picked[i].append(gathered(rows, false, np.zeros(len(false), np.bool_), one.shown))

    def _see(self, asset: NDArray[np.int32], end_us: Ints) -> None:
        np.maximum.at(self._seen_us, asset, end_us)
        self.newest_us = max(self.newest_us, int(end_us.max()))

    # A rule by itself

    def _ask(self, one: Running, work: Callable[..., _T], *arguments: Any) -> _T | None:
        """None from a rule that has raised, now or before: it leaves nothing that the others feel."""
        if one.raised:
            return None
        found = self._apart.ask(one.named, None, work, *arguments)
        suspended = self._apart.suspended.get(one.named)
        if suspended is not None:
            one.raised = True
            one.health.raised(repr(suspended.error)[:200])
            self._at_rest(one)
            self._ready = {key: said for key, said in self._ready.items() if said.rule != one.rule.alarm_rule}
        return found

    def _aside(self, one: Running) -> None:
        one.health.put_aside("slow")
        one.left = one.state.firing()
        self._at_rest(one)

    def _at_rest(self, one: Running) -> None:
        self._awake &= ~one.bit
        one.state.clear()

    def _wait(self, one: Running, rows: int) -> None:
        one.health.aside_rows = max(0, one.health.aside_rows - rows)
        if not one.health.aside_rows:
            one.cold_us = self.newest_us
            assets, onset_us = one.left
            self.touch(assets, onset_us, np.full(len(assets), self.newest_us))

    def _move(self, i: int, one: Running, parts: list[Evidence], touched: NDArray[np.int32]) -> None:
        """Forward, whoever is not touched."""
        rows = joined(parts)
        if len(touched):
            mine = np.isin(rows.lane, touched)
            self.touch(rows.lane[mine].astype(np.int32), rows.end_us[mine], rows.end_us[mine])
            rows = rows.take(~mine)
        assets, rows = by_lane(rows)
        state = one.state.picked(assets)
        was_firing = state.raised_us > 0
        ended = fold(state, rows, one.for_us, one.keep_us)
        firing = state.raised_us > 0
        was_firing[ended.lane] = False
        begun = np.flatnonzero(firing & ~was_firing)
        one.state.keep(assets, state)
        self._awake[assets[state.onset_us == REST]] &= ~one.bit
        episodes: dict[int, list[Episode]] = {}
        for lane, episode in self._episodes(one, assets, ended, state, begun):
            episodes.setdefault(lane, []).append(episode)
        for lane, found in episodes.items():
            asset = int(assets[lane])
            self._say(i, one, asset, Verdict(one.rule.alarm_rule, self.on, asset, found[0].onset_us + 1, tuple(found)))

    def _keep(self, one: Running, assets: NDArray[np.int32], state: Lanes) -> None:
        one.state.keep(assets, state)
        rest = state.onset_us == REST
        self._awake[assets[rest]] &= ~one.bit
        self._awake[assets[~rest]] |= one.bit

    def _say(self, i: int, one: Running, asset: int, verdict: Verdict) -> None:
        """Keep a verdict until it is asked for; of what an earlier one said of the same asset, both are told."""
        before = self._ready.get((i, asset))
        if before is not None:
            onsets = {episode.onset_us for episode in verdict.episodes}
            kept = tuple(episode for episode in before.episodes if episode.onset_us not in onsets)
            verdict = Verdict(
                verdict.rule, verdict.asset_kind, asset, min(before.from_us, verdict.from_us),
                (*kept, *verdict.episodes),
            )  # fmt: skip
        self._ready[i, asset] = verdict
        self._told[asset] |= one.bit
        one.health.alarms += before is None and bool(verdict.episodes)

    def _episodes(
        self, one: Running, assets: NDArray[np.int32], ended: Ended, state: Lanes, firing: NDArray[np.intp]
    ) -> Iterator[tuple[int, Episode]]:
        """Those that ended, and those that last, of these lanes."""
        for lane, onset, raised, cleared, values in zip(*(column.tolist() for column in ended), strict=True):
            yield lane, self._episode(one, int(assets[lane]), onset, raised, cleared, values)
        lasting = state.onset_us[firing].tolist(), state.raised_us[firing].tolist(), state.values[firing].tolist()
        for lane, onset, raised, values in zip(firing.tolist(), *lasting, strict=True):
            yield lane, self._episode(one, int(assets[lane]), onset, raised, None, values)

    def _episode(
        self, one: Running, asset: int, onset_us: int, raised_us: int, cleared_us: int | None, values: Sequence[float]
    ) -> Episode:
        name, place = self._name(asset)
        numbers = (None if math.isnan(value) else round(value, 6) for value in values)
        summary, evidence = one.rule.told(name, place, dict(zip(one.shown, numbers, strict=True)))
        return Episode(onset_us, raised_us, cleared_us, one.rule.severity, LEVEL, summary, evidence)

    # What was touched

    def _touched_assets(self) -> NDArray[np.int32]:
        spans = [span.asset for span in self._touched]
        return np.unique(np.concatenate(spans)) if spans else np.zeros(0, np.int32)

    def wanted(self) -> Span | None:
        """Assets whose stored rows are to be judged, each once, by first end; None: nobody's.

        Answer with `judge`, part by part, and with `judged` at the end; or, after a failure, begin again.
        """
        if not self._touched:
            return None
        asset, first_us, last_us = (np.concatenate(column) for column in zip(*self._touched, strict=True))
        assets, of = np.unique(asset, return_inverse=True)
        first, last = np.full(len(assets), np.iinfo(np.int64).max), np.full(len(assets), FAR_PAST)
        np.minimum.at(first, of, first_us)
        np.maximum.at(last, of, last_us)
        for (i, asset_id), verdict in list(self._ready.items()):
            at = int(np.searchsorted(assets, asset_id))
            if at < len(assets) and assets[at] == asset_id:
                first[at], last[at] = min(first[at], verdict.from_us), self.newest_us
                del self._ready[i, asset_id]
        order = np.argsort(first, kind="stable")
        together = Span(assets[order].astype(np.int32), first[order], last[order])
        self._touched = [together]
        return together

    def judge(self, span: Span, rows: Sequence[Rows], from_us: int, to_us: int, *, whole: bool) -> NDArray[np.bool_]:
        """Judge assets of `wanted` by all their stored rows with from_us < end <= to_us; True: more is needed of it.

        whole: there is nothing older. to_us at or after `newest_us` means that there is nothing newer. What is judged
        is said; ask again for the others with more time around them.
        """
        order = np.argsort(span.asset)
        assets, first_us, last_us = span.take(order)
        more = np.zeros(len(assets), np.bool_)
        reaches_now = to_us >= self.newest_us
        judged = []
        for i, one in enumerate(self._rules):
            if not one.health.aside_rows:
                rest = assets, first_us, last_us, from_us, whole, reaches_now
                found = self._ask(one, self._judge_rule, i, one, rows, *rest)
                if found is not None:
                    more |= found.more
                    judged.append((i, one, found))
        for i, one, found in judged:
            self._ask(one, self._take, i, one, assets, found, more)
        for part in rows:
            if len(part.end_us):
                self._see(part.asset, part.end_us)
        result = np.zeros(len(more), np.bool_)
        result[order] = more
        return result

    def judged(self) -> None:
        """All that was wanted is judged."""
        self._touched = []

    def _judge_rule(
        self, i: int, one: Running, rows: Sequence[Rows], assets: NDArray[np.int32], first_us: Ints, last_us: Ints,
        from_us: int, whole: bool, reaches_now: bool,
    ) -> _Judged:  # fmt: skip
        parts = []
        for part in rows:
            values = self._program.on(part.columns)
            true = values.truth(one.true)
            np.maximum.at(self._true_us, part.asset[true], part.end_us[true])
            known = np.flatnonzero(true | values.truth(one.false))
            parts.append(gathered(part, known, true[known], one.shown))
        n = len(assets)
        if parts:
            evidence = Evidence(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        else:
            none = np.zeros(0, np.int64)
            evidence = Evidence(none, none, none, none.astype(np.bool_), np.zeros((0, len(one.shown))))
        evidence = sorted_evidence(evidence._replace(lane=np.searchsorted(assets, evidence.lane)))
        is_calm = calm(evidence, one.keep_us, FAR_PAST if whole else from_us)
        lane, end_us = evidence.lane[is_calm], evidence.end_us[is_calm]
        begin = np.full(n, FAR_PAST)
        before = end_us < first_us[lane]
        np.maximum.at(begin, lane[before], end_us[before])
        until = np.full(n, np.iinfo(np.int64).max)
        after = (end_us > last_us[lane]) & (end_us - one.keep_us >= last_us[lane])
        np.minimum.at(until, lane[after], end_us[after])
        lasting = until == np.iinfo(np.int64).max
        more = ((begin == FAR_PAST) & (not whole)) | (lasting & (not reaches_now))
        inside = (evidence.end_us > begin[evidence.lane]) & (evidence.end_us <= until[evidence.lane])
        state = Lanes.at_rest(n, len(one.shown))
        ended = fold(state, evidence.take(inside), one.for_us, one.keep_us)
        episodes: dict[int, list[Episode]] = {}
        firing = np.flatnonzero(state.raised_us > 0)
        for at, episode in self._episodes(one, assets, ended, state, firing):
            episodes.setdefault(at, []).append(episode)
        told = np.flatnonzero((self._told[assets] & one.bit) != 0).tolist()
        said = []
        for at in sorted({*told, *episodes}):
            verdict = Verdict(
                one.rule.alarm_rule, self.on, int(assets[at]), max(int(begin[at]), 0) + 1, tuple(episodes.get(at, ())),
                until_us=None if lasting[at] else int(until[at]),
            )  # fmt: skip
            said.append((at, verdict))
        return _Judged(more, lasting, state, said)

    def _take(self, i: int, one: Running, assets: NDArray[np.int32], found: _Judged, more: Bools) -> None:
        """Keep what one rule says of the assets of which nothing more is needed."""
        mine = found.lasting & ~more
        self._keep(one, assets[mine], found.state.take(mine))
        for lane, verdict in found.said:
            if not more[lane]:
                self._say(i, one, int(assets[lane]), verdict)

    def taken(self) -> list[Verdict]:
        """The verdicts since the last call: at most one per rule and asset of those that reach to now."""
        said, self._ready = list(self._ready.values()), {}
        self._told_us, self._debts = self.newest_us, []
        return said

    # While a rule, or all of them, are suspended

    def owing(self) -> Owing:
        """What is not told of, but for what changed since `taken` that is older."""
        return owing(self._told_us, self._debts)

    def owe(self, debt: Owing) -> None:
        """This was missed, in another life: judge it, by all rules."""
        assets, first_us = owed(debt, len(self._seen_us), self.newest_us)
        self.touch(assets, first_us, np.full(len(assets), self.newest_us))
        self._debts.append(debt)


class _Judged(NamedTuple):
    """What one rule says of some assets."""

    more: Bools
    lasting: Bools
    """No calm read after what was touched: the state is that of now."""
    state: Lanes
    said: list[tuple[int, Verdict]]
    """By place among the assets."""
