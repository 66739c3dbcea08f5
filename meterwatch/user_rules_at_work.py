"""User rules at work over one topology: the kernels, and how they come to know what is stored.

Promises: after `begin` the rules answer as if they had seen every stored read. A rule that raises is suspended alone,
and where what all rules on one kind of asset rest on raises, those together (rules.apart); what they miss is noted by
code that is not theirs. A failure of the database is nobody's: then a call may be made again. Knows no files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterwatch.alarms import USER_PREFIX, Alarm, AlarmState
from meterwatch.batch import ReadChange, Reads, Stored
from meterwatch.clock import US
from meterwatch.episodes import Episode, Verdict
from meterwatch.known_loads import KnownLoads
from meterwatch.topology import Topology
from meterwatch.user_judging import judged
from meterwatch.user_loads import LoadRows, assets_of_transformers
from meterwatch.user_rules import RuleSet
from rules.apart import Apart, Owing, Rule
from rules.overload import Overload
from rules.user.columns import On
from rules.user.kernel import Kernel
from rules.user.missed import family, is_users, named, owing
from rules.user.model import UserRule
from rules.user.read_columns import blocks, evidence_only, is_evidence
from rules.user.running import Health
from rules.user.seen import Rows
from storage.evidence import EvidenceStore, Told
from storage.past_loads import PastLoads

ONE_BY_ONE_MAX = 64
"""Windows of loads that changed at once and are looked at one by one; of more everything is judged."""
Ints = NDArray[np.int64]


class Kind(NamedTuple):
    """The rules on one kind of asset. loads: None of meters."""

    kernel: Kernel
    loads: LoadRows | None


class AtWork:
    """The user rules of one engine. One evaluator calls it. Make it with `begin`."""

    def __init__(
        self, rules: RuleSet, store: EvidenceStore, topology: Topology, overload: Overload, apart: Apart
    ) -> None:
        self._set, self._store, self._topology, self._overload, self._apart = rules, store, topology, overload, apart
        self._reads = StoredReads(store, topology)
        self._kinds: dict[On, Kind] = {}
        """Of those that could be made."""
        self._closing: list[Verdict] = []
        self._round: list[tuple[Sequence[Stored], ReadChange | None]] = []
        """What was observed since `taken`."""
        self._owed: tuple[NDArray[np.int32], Ints] | None = None
        """The same that was stored and not evaluated when they began: slots and ends."""

    @classmethod
    async def begin(
        cls,
        rules: RuleSet,
        store: EvidenceStore,
        topology: Topology,
        overload: Overload,
        apart: Apart,
        book: Iterable[Alarm],
        now_us: int,
        before: AtWork | None,
    ) -> AtWork:
        """Rules that know what is stored, and the health of those before. Raises StorageUnavailable."""
        _, newest_us = await store.bounds_us()
        told = await store.told()
        made = cls(rules, store, topology, overload, apart)
        made._owed = await store.owed()
        for on in On:
            if rules.on(on):
                made._add(on, newest_us, told, before)
        made._stand_by(book, newest_us, now_us)
        return made

    def _add(self, on: On, newest_us: int, told: Sequence[Told], before: AtWork | None) -> None:
        def owes() -> Owing:
            return self._kinds[on].kernel.owing() if on in self._kinds else owing(newest_us, ())

        self._apart.add(family(on), assets_of(on, self._topology), owes)
        kind = self._apart.ask(family(on), None, self._made, on, newest_us, told, before)
        if kind is not None:
            self._kinds[on] = kind

    def _made(self, on: On, newest_us: int, told: Sequence[Told], before: AtWork | None) -> Kind:
        topology, overload = self._topology, self._overload
        kernel = Kernel(
            on, self._set.on(on), assets_of(on, topology), newest_us, namer(on, topology), time.thread_time_ns,
            in_order=on is On.METER, apart=self._apart,
        )  # fmt: skip
        for one in told:
            if one.asset_kind == on:
                kernel.told(one.rule.removeprefix(USER_PREFIX), one.assets)
        for asset, end_us in self._changed(on):
            kernel.touch(asset.astype(np.int32), end_us, end_us)
        if before is not None and on in before._kinds:
            kernel.take_over(before._kinds[on].kernel)
        if on is On.METER:
            return Kind(kernel, None)
        past = KnownLoads(overload, PastLoads(self._store.pool, overload.members.window_s))
        return Kind(kernel, LoadRows(on, overload, topology, past, self._reads.oldest_us))

    def _stand_by(self, book: Iterable[Alarm], newest_us: int, now_us: int) -> None:
        """Judge again the alarms that last; end those whose rule is gone."""
        in_force = {(placed.rule.alarm_rule, placed.rule.on.value) for placed in self._set.rules}
        for alarm in book:
            if alarm.rule.startswith(USER_PREFIX) and alarm.cleared_us is None and alarm.state != AlarmState.RETRACTED:
                if (alarm.rule, alarm.asset_kind) not in in_force:
                    self._closing.append(_ended(alarm, now_us))
                elif On(alarm.asset_kind) in self._kinds:
                    asset = np.array([alarm.asset_id], np.int32)
                    span = (np.array([us], np.int64) for us in (alarm.onset_us, max(newest_us, alarm.onset_us)))
                    self._kinds[On(alarm.asset_kind)].kernel.touch(asset, *span)

    def rules(self) -> list[tuple[UserRule, Health, int, str]]:
        """Each with its health, how many assets are not at rest, and where it stands; without what cannot be made."""
        place = {placed.rule.name: f"{placed.file}:{placed.line}" for placed in self._set.rules}
        return [
            (rule, health, awake, place.get(rule.name, ""))
            for kind in self._kinds.values()
            for rule, health, awake in kind.kernel.rules
        ]

    def observe(self, stored: Sequence[Stored], change: ReadChange | None) -> None:
        """Take what these batches changed; `change` is the same in one piece, without estimates."""
        if not self._set.rules:
            return
        self._round.append((stored, change))
        for on, kind in self._kinds.items():
            if kind.loads is None:
                self._apart.ask(family(on), None, self._observe_meters, kind.kernel, stored)
            elif change is not None:
                self._apart.ask(family(on), None, kind.loads.observe, change)

    def _observe_meters(self, kernel: Kernel, stored: Sequence[Stored]) -> None:
        changes = [one.change for one in stored if one.change is not None]
        if any(len(one.sign) != sum(reads.rows for reads in one.added) for one in changes):
            # a read was replaced, and may be among them twice
            for one in changes:
                self._observe(kernel, one)
        elif changes:
            for reads in joined_reads([reads for one in changes for reads in one.added]):
                kernel.observe(_rows(evidence_only(reads), self._topology))

    def _observe(self, kernel: Kernel, change: ReadChange) -> None:
        gone = np.flatnonzero((change.sign < 0) & is_evidence(change.quality))
        if len(gone):
            kernel.replaced(change.slot[gone], change.end_us[gone])
        new = int((change.sign > 0).sum())
        if new != sum(reads.rows for reads in change.added):
            kernel.touch(change.slot, change.end_us, change.end_us)
            return
        for reads in map(evidence_only, change.added):
            kernel.observe(_rows(reads, self._topology))

    async def judge(self) -> None:
        """Judge what late data touched, before `taken`. Raises StorageUnavailable: then call it again."""
        for on, kind in self._kinds.items():
            await self._apart.wait_for(family(on), partial(self._judge, kind))

    async def _judge(self, kind: Kind) -> None:
        if kind.loads is None:
            await judged(kind.kernel, self._reads)
        else:
            await _evaluate_loads(kind.kernel, kind.loads)

    def taken(self) -> list[Verdict]:
        """What is known now of every asset whose answer may have changed, once. Who stands aside has missed it."""
        said, self._closing = self._closing, []
        for on, kind in self._kinds.items():
            said += self._apart.ask(family(on), list[Verdict](), kind.kernel.taken)
        for rule, aside in self._apart.suspended.items():
            if is_users(rule):
                for asset, end_us in self._changed(On(rule.asset_kind)):
                    aside.missed.note(asset, end_us - 1)
        self._round, self._owed = [], None
        return said

    def _changed(self, on: On) -> Iterator[tuple[NDArray[np.int32] | Ints, Ints]]:
        """Rows that changed since `taken`: assets and ends. Rests on no rule, nor on what they rest on."""
        if on is On.METER:
            changes = [one.change for stored, _ in self._round for one in stored if one.change is not None]
            yield from ((one.slot, one.end_us) for one in changes)
            if self._owed is not None:
                yield self._owed
            return
        of, members, window_us = (
            assets_of_transformers(on, self._topology),
            self._overload.members,
            self._overload.window_us,
        )
        for _, change in self._round:
            if change is not None:
                cells, _ = members.cells(change)
                asset = of[cells.transformer]
                yield asset[asset >= 0], (cells.window[asset >= 0] + 1) * window_us
        if self._owed is not None:
            slot, end_us = self._owed
            transformer = members.of(slot, end_us)
            asset = np.where(transformer >= 0, of[transformer], -1)
            first_us = end_us - self._topology.interval_s[slot].astype(np.int64) * US + 1
            for us in (first_us, end_us):  # a long read is of several windows
                yield asset[asset >= 0], -(-us[asset >= 0] // window_us) * window_us

    def owe(self, rule: Rule, debt: Owing) -> None:
        """A rule missed this while it stood aside, in another life. Of one that is in no file nothing is owed."""
        for on, kind in self._kinds.items():
            if rule in (family(on), *map(named, self._set.on(on))):
                self._apart.ask(family(on), None, kind.kernel.owe, debt)


async def _evaluate_loads(kernel: Kernel, loads: LoadRows) -> None:
    for n, (window, assets) in enumerate(loads.touched()):
        end_us = (window + 1) * loads.window_us
        if n < ONE_BY_ONE_MAX:
            kernel.observe(await loads.rows(assets, end_us - loads.window_us, end_us))
        else:
            ends = np.full(len(assets), end_us, np.int64)
            kernel.touch(assets, ends, ends)
    loads.seen()
    await judged(kernel, loads)


class StoredReads:
    """meterwatch.user_judging.StoredRows over the stored reads of meters."""

    def __init__(self, store: EvidenceStore, topology: Topology) -> None:
        self._store = store
        self._topology = topology

    async def oldest_us(self) -> int:
        """No read ends before it."""
        return (await self._store.bounds_us())[0]

    async def rows(self, assets: NDArray[np.int32], from_us: int, to_us: int) -> Sequence[Rows]:
        """Stored reads of these meters that are evidence."""
        found: list[Rows] = []
        for reads in await self._store.reads(assets, from_us, to_us):
            found += _rows(evidence_only(reads), self._topology)
        return found


def joined_reads(parts: Sequence[Reads]) -> list[Reads]:
    """The same reads in as few pieces as their lengths and channels allow: a rule's price is by piece, too."""
    alike: dict[tuple[object, ...], list[Reads]] = {}
    for reads in parts:
        alike.setdefault((reads.interval_s, tuple(sorted(reads.channels)), reads.mask is None), []).append(reads)
    return [_concatenated(some) if len(some) > 1 else some[0] for some in alike.values()]


def _concatenated(some: list[Reads]) -> Reads:
    first = some[0]
    masks = [reads.mask for reads in some if reads.mask is not None]
    return Reads(
        np.concatenate([reads.slot for reads in some]),
        np.concatenate([reads.end_us for reads in some]),
        first.interval_s,
        np.concatenate([reads.quality for reads in some]),
        {name: np.concatenate([reads.channels[name] for reads in some]) for name in first.channels},
        np.concatenate(masks) if masks else None,
    )


def _rows(reads: Reads, topology: Topology) -> list[Rows]:
    length_us = reads.interval_s * US
    return [
        Rows(columns.slot, reads.end_us[part], np.full(columns.rows, length_us), columns)
        for part, columns in blocks(reads, topology)
    ]


def assets_of(on: On, topology: Topology) -> int:
    """How many there are."""
    return {On.METER: topology.slots, On.TRANSFORMER: len(topology.transformer), On.FEEDER: len(topology.feeder)}[on]


def namer(on: On, topology: Topology) -> Callable[[int], tuple[str, dict[str, str]]]:
    """Name and place of an asset."""

    def named(asset: int) -> tuple[str, dict[str, str]]:
        name = topology.asset_name(on, asset)
        if on is On.FEEDER:
            return name, {"feeder": name, "district": topology.feeder_district[asset]}
        transformer = int(topology.transformer_of[asset]) if on is On.METER else asset
        if transformer < 0:
            return name, {}
        feeder = int(topology.feeder_of[transformer])
        place = {"district": topology.transformer_district[transformer]}
        return name, place | ({"feeder": topology.feeder[feeder]} if feeder >= 0 else {})

    return named


def _ended(alarm: Alarm, now_us: int) -> Verdict:
    """An open alarm whose rule is gone, as over now: what it told was so."""
    summary = f"{alarm.summary} (its rule was taken out)"
    cleared_us = max(now_us, alarm.raised_us)
    episode = Episode(alarm.onset_us, alarm.raised_us, cleared_us, alarm.severity, alarm.level, summary, alarm.evidence)
    return Verdict(alarm.rule, alarm.asset_kind, alarm.asset_id, alarm.onset_us + 1, (episode,))
