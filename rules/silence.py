"""COMM_LOSS: who has not been heard from, told of the smallest thing that explains it.

Silence is judged against expected arrival on the service's clock, so this rule has state and its verdicts never
retract. Our deafness is not their silence: only time in which a meter's head-end was connected counts, and while it
is not, its assets keep their state. A meter under an active outage is explained; its clock starts again afterwards.
One dead concentrator is one alarm, not one per meter. An alarm ends when the asset is heard, for no other reason.
Everybody is looked at every judge_every_s, and at once when something may have ended an alarm; so a quiet fleet of a
million meters costs next to nothing per batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.topology import Topology
from rules.profile import SilenceProfile

RULE: Final = "COMM_LOSS"
LEVEL: Final = "SILENT"
DEAF: Final = int(np.iinfo(np.int64).max) // 2
"""hearable_since of a head-end that is not connected; far enough from overflow to add intervals to."""

_SEVERITY: Final = {"meter": Severity.LOW, "concentrator": Severity.MEDIUM, "head_end": Severity.HIGH}


@dataclass(slots=True)
class _Open:
    """An episode that lasts."""

    onset_us: int
    raised_us: int
    summary: str
    evidence: dict[str, Any]
    parent: tuple[str, int] | None = None


class Silence:
    """What has been heard when, and which silences have been told. One owner; not thread-safe."""

    def __init__(self, topology: Topology, profile: SilenceProfile) -> None:
        self._profile = profile
        self._last_heard_us = np.zeros(0, np.int64)
        self._explained_until_us = np.zeros(0, np.int64)
        self._was_explained = np.zeros(0, np.bool_)
        self._hearable_since_us = np.zeros(0, np.int64)
        self._gone_us: dict[int, int] = {}
        self._deaf_to: frozenset[int] = frozenset()
        self._open: dict[tuple[str, int], _Open] = {}
        self._changed: dict[tuple[str, int], Episode] = {}
        self._told = np.zeros(0, np.bool_)
        """Per slot: its own alarm or that of its concentrator is open."""
        self._any_told = False
        self._due_us = 0
        self._stirred = True
        """Something happened that may end an alarm or change who can be heard: look at everybody now."""
        self.retopology(topology)

    def retopology(self, topology: Topology) -> None:
        """Take a new registry snapshot; what was heard stays."""
        self._topology = topology
        more = topology.slots - len(self._last_heard_us)
        if more > 0:
            self._last_heard_us = np.append(self._last_heard_us, np.zeros(more, np.int64))
            self._explained_until_us = np.append(self._explained_until_us, np.zeros(more, np.int64))
            self._was_explained = np.append(self._was_explained, np.zeros(more, np.bool_))
        # One entry more than head-ends: a meter without one (-1) reads it and is never hearable.
        since = np.full(len(topology.head_end) + 1, DEAF, np.int64)
        known = min(len(since), len(self._hearable_since_us)) - 1
        since[: max(known, 0)] = self._hearable_since_us[: max(known, 0)]
        self._hearable_since_us = since
        grace = [self._profile.grace_of(mode) for mode in topology.comm_modes] + [self._profile.grace_s]
        mode = np.where(topology.comm_mode < 0, len(grace) - 1, topology.comm_mode)
        self._patience_us = (topology.interval_s + np.array(grace, np.int64)[mode]) * US
        self._retell()
        self._stirred = True

    def told_slots(self) -> NDArray[np.int32]:
        """Ascending slots whose own alarm or that of their concentrator is open."""
        return np.flatnonzero(self._told).astype(np.int32)

    def _retell(self) -> None:
        """Note whose silence is told, after that has changed."""
        told = np.zeros(self._topology.slots, np.bool_)
        lost = np.zeros(len(self._topology.concentrator) + 1, np.bool_)  # the last one stands for none (-1)
        for kind, asset_id in self._open:
            if kind == "meter":
                told[asset_id] = True
            elif kind == "concentrator":
                lost[asset_id] = True
        if lost.any():
            told |= lost[self._topology.concentrator_of]
        self._told, self._any_told = told, bool(told.any())

    def heard(self, slot: NDArray[np.int32], at_us: NDArray[np.int64]) -> None:
        """Reads or events of these meters were stored; repeats and any order are fine."""
        if bool((slot[1:] > slot[:-1]).all()):  # each once: in the order of the meters, as most reads come
            self._last_heard_us[slot] = np.maximum(self._last_heard_us[slot], at_us)
        else:
            np.maximum.at(self._last_heard_us, slot, at_us)
        self._stirred = self._stirred or (self._any_told and bool(self._told[slot].any()))

    def last_heard(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Slots ever heard, and the newest read or event of each, us."""
        slot = np.flatnonzero(self._last_heard_us).astype(np.int32)
        return slot, self._last_heard_us[slot]

    def head_end_connected(self, head_end_id: int, now_us: int) -> None:
        """From now on its meters can be heard. Again while connected: no change."""
        if self._hearable_since_us[head_end_id] < DEAF:
            return
        self._hearable_since_us[head_end_id] = now_us
        self._stirred = True
        self._gone_us.pop(head_end_id, None)
        self._close("head_end", head_end_id, now_us)

    def head_end_gone(self, head_end_id: int, now_us: int) -> None:
        """It was connected and is not any more."""
        if self._hearable_since_us[head_end_id] < DEAF:
            self._hearable_since_us[head_end_id] = DEAF
            self._gone_us[head_end_id] = now_us
            self._stirred = True

    def deaf_to(self, head_ends: frozenset[int], now_us: int) -> None:
        """These cannot be heard, for reasons of ours: they and their assets keep their state.

        Whoever is not among them any more is counted as hearable, or as gone, from now on.
        """
        if head_ends == self._deaf_to:
            return
        for head_end in self._deaf_to - head_ends:
            if self._hearable_since_us[head_end] < DEAF:
                self._hearable_since_us[head_end] = now_us
            elif head_end in self._gone_us and ("head_end", head_end) not in self._open:
                self._gone_us[head_end] = now_us
        self._deaf_to = head_ends
        self._stirred = True

    def restore_open(self, kind: str, asset_id: int, onset_us: int, raised_us: int) -> None:
        """After a restart: this episode was open. KeyError for a kind this rule does not judge."""
        summary = f"{_WORD[kind]} {self._topology.asset_name(kind, asset_id)} silent"
        self._open[kind, asset_id] = _Open(onset_us, raised_us, summary, {})
        self._retell()

    def judge(self, now_us: int, explained: NDArray[np.bool_]) -> list[Verdict]:
        """Verdicts on the assets whose episode changed since the last call.

        explained: bool[slots], True for meters under an active outage (explained_by); kept, not to be changed.
        """
        topology, heard_us = self._topology, self._last_heard_us
        if not self._stirred and now_us < self._due_us and explained is self._was_explained:
            return []
        self._stirred, self._due_us = False, now_us + self._profile.judge_every_s * US
        ended = self._was_explained & ~explained
        self._explained_until_us[ended] = now_us
        self._was_explained = explained
        serving = (topology.installed_us <= now_us) & (topology.retired_us > now_us)
        quiet = serving & (heard_us + self._patience_us < now_us)
        if not (self._open or self._gone_us or self._changed or quiet.any()):
            return []  # all were heard in time, and nothing is told that could end: the common case of a calm fleet
        since_us = self._hearable_since_us
        if self._deaf_to:
            since_us = since_us.copy()
            since_us[list(self._deaf_to)] = DEAF
        hearable_us = since_us[topology.head_end_of]
        hearable = hearable_us < DEAF
        # An asset not yet told silent is counted from when it could speak; one told silent until it has spoken.
        base_us = np.maximum(np.maximum(heard_us, self._explained_until_us), np.where(hearable, hearable_us, 0))
        base_us = np.maximum(base_us, np.where(serving, topology.installed_us, 0))
        judged = serving & hearable & ~explained
        overdue = judged & (now_us > base_us + self._patience_us)
        unheard = judged & (now_us > heard_us + self._patience_us)
        self._head_ends(now_us)
        lost = self._concentrators(now_us, base_us, serving, judged, overdue, unheard)
        self._meters(now_us, base_us, serving, judged, unheard, lost)
        changed, self._changed = self._changed, {}
        if changed:
            self._retell()
        return [
            Verdict(RULE, kind, asset_id, episode.onset_us, (episode,), retract=False)
            for (kind, asset_id), episode in changed.items()
        ]

    def _head_ends(self, now_us: int) -> None:
        limit_s = self._profile.head_end_gone_s
        for head_end, gone_us in self._gone_us.items():
            raised_us = gone_us + limit_s * US
            if head_end in self._deaf_to:
                continue
            if now_us >= raised_us and ("head_end", head_end) not in self._open:
                name = self._topology.head_end[head_end]
                evidence = {"thresholds": {"head_end_gone_s": limit_s}}
                opened = _Open(gone_us, raised_us, f"Head-end {name} not connected for {limit_s // 60} min", evidence)
                self._tell("head_end", head_end, opened)

    def _concentrators(
        self,
        now_us: int,
        base_us: NDArray[np.int64],
        serving: NDArray[np.bool_],
        judged: NDArray[np.bool_],
        overdue: NDArray[np.bool_],
        unheard: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Judge all concentrators; bool[concentrators + 1], True where lost (the last one stands for none)."""
        profile, n = self._profile, len(self._topology.concentrator)
        of = self._topology.concentrator_of
        of = np.where(of < 0, n, of)
        total = np.bincount(of[judged], minlength=n + 1)[:n]
        late = np.bincount(of[overdue], minlength=n + 1)[:n]
        still = np.bincount(of[unheard], minlength=n + 1)[:n]
        empty = np.bincount(of[serving], minlength=n + 1)[:n] == 0
        lost = (total > 0) & (late >= profile.lost_share * total - 1e-9)
        lost &= late >= np.minimum(profile.lost_meters_min, total)
        back = empty | ((total > 0) & (still < profile.back_share * total))
        for concentrator in [i for kind, i in self._open if kind == "concentrator" and back[i]]:
            self._close("concentrator", concentrator, now_us)
        lost[[i for kind, i in self._open if kind == "concentrator"]] = False
        slots = np.flatnonzero(overdue & np.append(lost, False)[of])
        slots = slots[np.argsort(of[slots], kind="stable")]
        starts = np.searchsorted(of[slots], np.arange(n + 1))
        for concentrator in np.flatnonzero(lost).tolist():
            its = slots[starts[concentrator] : starts[concentrator + 1]]
            onset_us = int((base_us[its] + self._interval_us(its)).max())
            raised_us = int((base_us[its] + self._patience_us[its]).max())
            count, members = int(late[concentrator]), int(total[concentrator])
            name = self._topology.concentrator[concentrator]
            evidence = {
                "overdue": count,
                "members": members,
                "meters": [self._topology.meter[slot] for slot in its[:20].tolist()],
                "thresholds": {"lost_share": profile.lost_share, "lost_meters_min": profile.lost_meters_min},
            }
            summary = f"Concentrator {name} silent: {count} of {members} meters overdue"
            self._tell("concentrator", concentrator, _Open(onset_us, raised_us, summary, evidence))
        state = np.zeros(n + 1, np.bool_)
        state[[i for kind, i in self._open if kind == "concentrator"]] = True
        return state

    def _meters(
        self,
        now_us: int,
        base_us: NDArray[np.int64],
        serving: NDArray[np.bool_],
        judged: NDArray[np.bool_],
        unheard: NDArray[np.bool_],
        lost: NDArray[np.bool_],
    ) -> None:
        told = [slot for kind, slot in self._open if kind == "meter"]
        of = self._topology.concentrator_of
        for slot in told:
            above = ("concentrator", int(of[slot])) if lost[of[slot]] else None
            if not serving[slot] or (judged[slot] and not unheard[slot]):
                self._close("meter", slot, now_us)
            elif self._open["meter", slot].parent != above:
                self._open["meter", slot].parent = above
                self._tell("meter", slot, self._open["meter", slot])
        limit_us = np.maximum(self._patience_us, self._profile.meter_silent_s * US)
        silent = judged & (now_us > base_us + limit_us) & ~lost[of]
        silent[[slot for slot in told if ("meter", slot) in self._open]] = False
        for slot in np.flatnonzero(silent).tolist():
            raised_us = int(base_us[slot] + limit_us[slot])
            evidence = {
                "last_heard_us": int(self._last_heard_us[slot]) or None,
                "thresholds": {"meter_silent_s": self._profile.meter_silent_s},
            }
            summary = f"Meter {self._topology.meter[slot]} silent for {limit_us[slot] // (3600 * US)} h"
            onset_us = int(base_us[slot] + self._interval_us(slot))
            self._tell("meter", slot, _Open(onset_us, raised_us, summary, evidence))

    def _interval_us(self, slots: Any) -> Any:
        return self._topology.interval_s[slots].astype(np.int64) * US

    def _tell(self, kind: str, asset_id: int, opened: _Open, cleared_us: int | None = None) -> None:
        self._open[kind, asset_id] = opened
        self._changed[kind, asset_id] = Episode(
            opened.onset_us,
            opened.raised_us,
            cleared_us,
            _SEVERITY[kind],
            LEVEL,
            opened.summary,
            opened.evidence,
            opened.parent if cleared_us is None else None,
        )

    def _close(self, kind: str, asset_id: int, now_us: int) -> None:
        """Not before it was raised: the clock may have been set back since, and nothing ends before it began."""
        opened = self._open.get((kind, asset_id))
        if opened is not None:
            self._tell(kind, asset_id, opened, max(now_us, opened.raised_us))
            del self._open[kind, asset_id]


_WORD: Final = {"meter": "Meter", "concentrator": "Concentrator", "head_end": "Head-end"}


def explained_by(topology: Topology, active: Iterable[tuple[str, int]]) -> NDArray[np.bool_]:
    """bool[slots]: meters under one of these assets (kind, asset_id) with an active outage."""
    feeder = np.zeros(len(topology.feeder) + 1, np.bool_)  # the last one stands for none (-1)
    transformer = np.zeros(len(topology.transformer) + 1, np.bool_)
    meter = np.zeros(topology.slots, np.bool_)
    mark = {"feeder": feeder, "transformer": transformer, "meter": meter}
    for kind, asset_id in active:
        mark[kind][asset_id] = True
    transformer[:-1] |= feeder[topology.feeder_of]
    return meter | transformer[topology.transformer_of]
