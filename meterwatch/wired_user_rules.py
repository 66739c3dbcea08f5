"""User rules in the service: their files, the kernels over one topology, and how these come to know what is stored.

Promises: files with one problem change nothing, and what is in force stays in force; a reload happens between two
evaluations, whole or not at all. After `begin` the rules answer as if they had seen every stored read. Knows nothing of
gRPC.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from meterwatch.alarms import USER_PREFIX, Alarm, AlarmState
from meterwatch.batch import ReadChange, Reads, Stored
from meterwatch.clock import US
from meterwatch.episodes import Episode, Verdict
from meterwatch.known_loads import KnownLoads
from meterwatch.metrics import Metrics
from meterwatch.topology import Topology
from meterwatch.user_judging import judged
from meterwatch.user_loads import LoadRows
from meterwatch.user_rules import RuleSet, read_rules
from rules.overload import Overload
from rules.user.columns import On
from rules.user.kernel import Kernel
from rules.user.model import UserRule
from rules.user.read_columns import blocks, evidence_only, is_evidence
from rules.user.running import Health
from rules.user.seen import Rows
from storage.evidence import EvidenceStore
from storage.past_loads import PastLoads

ONE_BY_ONE_MAX: Final = 64
"""Windows of loads that changed at once and are looked at one by one; of more everything is judged."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Status:
    """Of the files, as a call and the metrics show it."""

    files: list[str]
    refused: list[str] = field(default_factory=list)
    """What is wrong with the files as they were read last; empty: they are in force."""
    reloads: int = 0
    reloads_refused: int = 0
    loaded_us: int = 0


class UserRules:
    """The user rules of a service. One evaluator calls it; `prepare` and `begin` only while nothing is evaluated."""

    def __init__(self, files: Sequence[str], store: EvidenceStore, now_us: Callable[[], int]) -> None:
        self.status = Status(list(files))
        self._store = store
        self._now_us = now_us
        self._set = RuleSet()
        self._kernels: dict[On, Kernel] = {}
        self._loads: dict[On, LoadRows] = {}
        self._closing: list[Verdict] = []
        self._topology: Topology | None = None
        self._reads: StoredReads | None = None

    def read(self) -> list[str]:
        """Read the files; what is wrong with them, and then the rules before stay. `begin` puts new ones in force."""
        found = read_rules(self.status.files)
        self.status.refused = [str(problem) for problem in found.problems]
        self.status.reloads += 1
        if found.problems:
            self.status.reloads_refused += 1
            _log.warning("user rules refused", problems=len(found.problems), first=self.status.refused[0])
        else:
            self._set = found
            self.status.loaded_us = self._now_us()
            _log.info("user rules read", rules=len(found.rules))
        return self.status.refused

    def rules(self) -> list[tuple[UserRule, Health, int, str]]:
        """Those in force: each with its health, how many assets are not at rest, and where it stands."""
        place = {placed.rule.name: f"{placed.file}:{placed.line}" for placed in self._set.rules}
        return [
            (rule, health, awake, place.get(rule.name, ""))
            for kernel in self._kernels.values()
            for rule, health, awake in kernel.rules
        ]

    async def begin(self, topology: Topology, overload: Overload, book: Iterable[Alarm]) -> None:
        """Make kernels for this topology that know what is stored. Raises StorageUnavailable; then nothing changed."""
        _, newest_us = await self._store.bounds_us()
        told, owed = await self._store.told(), await self._store.owed()
        before = self._kernels
        kernels = {
            on: Kernel(
                on, self._set.on(on), assets_of(on, topology), newest_us, namer(on, topology), time.thread_time_ns,
                in_order=on is On.METER,
            )
            for on in On
            if self._set.on(on)
        }  # fmt: skip
        for one in told:
            kernel = kernels.get(On(one.asset_kind)) if one.asset_kind in set(On) else None
            if kernel is not None:
                kernel.told(one.rule.removeprefix(USER_PREFIX), one.assets)
        if On.METER in kernels:
            kernels[On.METER].touch(*owed, owed[1])
        in_force = {(placed.rule.alarm_rule, placed.rule.on.value) for placed in self._set.rules}
        closing = []
        for alarm in book:
            if alarm.rule.startswith(USER_PREFIX) and alarm.cleared_us is None and alarm.state != AlarmState.RETRACTED:
                if (alarm.rule, alarm.asset_kind) in in_force:
                    asset = np.array([alarm.asset_id], np.int32)
                    span = (np.array([us], np.int64) for us in (alarm.onset_us, max(newest_us, alarm.onset_us)))
                    kernels[On(alarm.asset_kind)].touch(asset, *span)
                else:
                    closing.append(_ended(alarm, self._now_us()))
        reads = StoredReads(self._store, topology)
        past = KnownLoads(overload, PastLoads(self._store.pool, overload.members.window_s))
        self._loads = {
            on: LoadRows(on, overload, topology, past, reads.oldest_us) for on in kernels if on is not On.METER
        }
        for on, kernel in kernels.items():
            if on in before:
                kernel.take_over(before[on])
        self._topology, self._reads, self._kernels, self._closing = topology, reads, kernels, closing

    def observe(self, stored: Sequence[Stored], change: ReadChange | None) -> None:
        """Take what these batches changed; `change` is the same in one piece, without estimates."""
        kernel = self._kernels.get(On.METER)
        if kernel is not None:
            changes = [one.change for one in stored if one.change is not None]
            if any(len(one.sign) != sum(reads.rows for reads in one.added) for one in changes):
                # a read was replaced, and may be among them twice
                for one in changes:
                    self._observe(kernel, one)
            elif changes:
                assert self._topology is not None
                for reads in joined_reads([reads for one in changes for reads in one.added]):
                    kernel.observe(_rows(evidence_only(reads), self._topology))
        if change is not None:
            for loads in self._loads.values():
                loads.observe(change)

    def _observe(self, kernel: Kernel, change: ReadChange) -> None:
        gone = np.flatnonzero((change.sign < 0) & is_evidence(change.quality))
        if len(gone):
            kernel.replaced(change.slot[gone], change.end_us[gone])
        new = int((change.sign > 0).sum())
        if new != sum(reads.rows for reads in change.added):
            kernel.touch(change.slot, change.end_us, change.end_us)
            return
        assert self._topology is not None
        for reads in map(evidence_only, change.added):
            kernel.observe(_rows(reads, self._topology))

    async def judge(self) -> None:
        """Judge what late data touched, before `taken`. Raises StorageUnavailable: then call it again."""
        for on, kernel in self._kernels.items():
            if on is On.METER:
                assert self._reads is not None
                await judged(kernel, self._reads)
            else:
                await self._evaluate_loads(kernel, self._loads[on])

    def taken(self) -> list[Verdict]:
        """What is known now of every asset whose answer may have changed, once."""
        verdicts, self._closing = self._closing, []
        return verdicts + [verdict for kernel in self._kernels.values() for verdict in kernel.taken()]

    async def _evaluate_loads(self, kernel: Kernel, loads: LoadRows) -> None:
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


def user_rules_figures(user: UserRules, metrics: Metrics) -> None:
    """Show how the rules fare, as metrics."""

    def total(value: Callable[[Health], float]) -> float:
        return sum(value(health) for _, health, _, _ in user.rules())

    metrics.watch(
        gauges={
            "user_rules": ("User rules in force.", lambda: len(user.rules())),
            "user_rules_aside": (
                "Of these, put aside for an error or for being slow.", lambda: total(lambda one: one.aside_rows > 0),
            ),
            "user_rules_reload_ok": (
                "1: the files of user rules as read last are in force; 0: they were refused.",
                lambda: float(not user.status.refused),
            ),
        },
        counters={
            "user_rules_reloads": ("Times the files of user rules were read.", lambda: user.status.reloads),
            "user_rules_reloads_refused": ("Of these, refused.", lambda: user.status.reloads_refused),
            "user_rules_put_aside": (
                "Times a user rule was put aside, for an error or for being slow.",
                lambda: total(lambda one: one.errors),
            ),
        },
    )  # fmt: skip
