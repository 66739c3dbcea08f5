"""All rules over one topology: changes in, verdicts out. The one object of this package that the service drives.

observe_* take what was committed, evaluate(now) says what the rules now know. Outages are judged per group (a feeder
with all below it) and only where somebody reported OFF: such a group is *active* and needs the votes of all its
meters since before the first OFF, which the engine cannot read itself. It asks with `wanted()` and is answered with
`given()`. So memory grows with trouble, not with meters, and live, late and restart take the same path. No clock, no
I/O, no threads here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import Events, ReadChange
from meterwatch.clock import US
from meterwatch.delivery import Learnt
from meterwatch.episodes import Verdict
from meterwatch.loads import Loads
from meterwatch.planned import Works
from meterwatch.topology import Topology
from meterwatch.weather import Weather
from rules import outage
from rules.apart import Apart, Owing, Rule
from rules.by_design import Plans
from rules.contract import RULE as CONTRACT_RULE
from rules.contract import Contract
from rules.groups import Members, Tree, groups_of
from rules.heat_past import PastHeat
from rules.hot_spot import HotSpot
from rules.hot_words import RULE as HOT_RULE
from rules.interruptions import Heard
from rules.ladder import Ints
from rules.late import JudgesPast
from rules.overdue import SPOKE_BEFORE_US, Paths
from rules.overload import Overload
from rules.past_apart import PastApart
from rules.phase_votes import begins, heard_of, lost_runs, returns
from rules.profile import RuleProfile
from rules.silence import RULE as SILENCE_RULE
from rules.silence import Silence
from rules.supply import HEARD, NEVER, ON, Evidence, Runs, evidence_of_reads, join, off_runs, telling, votes_off
from rules.witness import Witnesses

Group = tuple[str, int]
HOT_SPOT = Rule(HOT_RULE, "transformer")
CONTRACT = Rule(CONTRACT_RULE, "meter")
COMM_LOSS = Rule(SILENCE_RULE)

LOOKBACK_S = 86_400
"""Votes this old are forgotten, except since when meters are off that still are or were within this time. Late last
gasps and late word that supply is back arrive within a day. (ours)"""
MARGIN_S = 3600
"""Votes loaded from before the first OFF: who was ON until then."""
HISTORY_METER_DAYS = 100_000
"""Votes of so many meter-days are read into memory at most to judge one group: 10 days of a feeder of 10,000 meters, 27
years of 10 meters. An OFF vote older than that reach, when it arrives, is stored and begins no judgement. (ours)"""
PRUNE_ROWS = 20_000
"""A group's votes are thinned when they have doubled since and are more than this."""
ONSET_METERS_MAX = 200_000
"""Who was heard about the beginnings of OFF runs older than LOOKBACK_S is kept of all of them while these times the
meters of the group are no more; else of those that last."""
NOBODY = np.zeros(0, np.int64)


def reach_s(members: int) -> int:
    """How old an OFF vote of a group of so many meters may be to be judged: seconds, at least LOOKBACK_S."""
    return max(LOOKBACK_S, HISTORY_METER_DAYS * 86_400 // max(members, 1))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Votes the engine needs before it can judge a group: reads and events of `slots` from from_us on."""

    group: Group
    slots: NDArray[np.int32]
    from_us: int


@dataclass(slots=True)
class _Active:
    members: Members
    from_us: int
    """All votes are known from here on."""
    since_us: int = NEVER
    """What pruning left of before from_us begins here."""
    loaded: bool = False
    evidence: list[Evidence] = field(default_factory=list)
    told: set[Group] = field(default_factory=set)
    open: set[Group] = field(default_factory=set)
    touched: bool = True
    due_us: int | None = None
    settled_us: int = NEVER
    """ON votes later than this change nothing: all that was off is on again, and nothing is open or awaited."""
    pruned_rows: int = 0
    thinned: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Slots of meters that were off before from_us and of which what repeats was left out."""
    known: list[tuple[int, int]] = field(default_factory=list)
    """Begin and end of the outages known; NEVER while one lasts."""

    def whole_from(self, cutoff_us: int, runs: Runs) -> int:
        """Since when votes are needed to judge what lasts at the cutoff: no outage and no run keeps its end alone."""
        onset_us, end_us = np.array(self.known, np.int64).reshape(-1, 2).T
        onset_us, end_us = np.append(onset_us, runs.start_us), np.append(end_us, runs.end_us)
        while (lasts := (onset_us < cutoff_us) & (end_us >= cutoff_us)).any():
            cutoff_us = int(onset_us[lasts].min()) - MARGIN_S * US
        return cutoff_us

    def read_again(self, from_us: int) -> None:
        """Ask for the votes from here on; what is held of before stays."""
        self.from_us = min(self.from_us, from_us)
        self.since_us = min(self.since_us, self.from_us)
        self.loaded = False

    def held(self) -> Evidence:
        """Votes of before from_us that pruning left."""
        votes = join(self.evidence if self.since_us < self.from_us else [])
        return votes.where((votes.at_us >= self.since_us) & (votes.at_us < self.from_us))

    def look_back(self, slot: NDArray[np.int32], at_us: NDArray[np.int64]) -> None:
        """A read was replaced: its vote is not known to be gone, so votes are read again."""
        self.loaded = False
        held = self.held()
        if (np.isin(slot, held.slot) & np.isin(at_us, held.at_us)).any():
            self.read_again(self.since_us)


class Engine:
    """Rule state of one topology. Feed it changes in any order; it forgets nothing it needs."""

    def __init__(self, topology: Topology, profile: RuleProfile | None = None, apart: Apart | None = None) -> None:
        """apart: where the rules are run that may be suspended: all but outages, and the loads the others rest on."""
        self._topology = topology
        self.profile = profile or RuleProfile()
        self.apart = apart or Apart(raising=True)
        self.overload = Overload(topology, self.profile.overload, self.apart)
        self.hot_spot = HotSpot(topology, self.profile.hot_spot, self.overload)
        self.contract = Contract(topology, self.profile.contract)
        self.past: tuple[JudgesPast, ...] = (
            *self.overload.past,
            PastApart(PastHeat(self.hot_spot), HOT_SPOT, self.apart),
        )
        """All that judges windows anew which had been judged for good: OVERLOAD, REVERSE, PHASE and UNBALANCE of
        transformers, OVERLOAD of feeders, HOT_SPOT. Outages ask for their votes by `wanted`, however old; silence is of
        now."""
        self.silence = Silence(topology, self.profile.silence)
        self.apart.add(HOT_SPOT, len(topology.transformer), self.hot_spot.owing)
        self.apart.add(CONTRACT, topology.slots, self.contract.owing)
        self.apart.add(COMM_LOSS, 0, lambda: Owing(0, NOBODY, NOBODY))
        self.overload.heard = self._loads_heard
        self._round: list[ReadChange] = []
        """Reads that CONTRACT was given and has not judged: owed, should it raise."""
        self._tree = Tree(topology)
        self._plans = Plans(topology, self.profile.outage)
        self._witnesses = Witnesses.of(topology, self.profile.outage)
        self._paths = Paths.of(topology, self.profile.silence)
        self._active: dict[Group, _Active] = {}
        self._numbered: dict[int, _Active] = {}
        self._number_of = np.full(topology.slots, -1, np.int32)
        """Per slot: of its group in _numbered; -1: not active."""
        self._next_number = 0
        self._explaining: set[Group] = set()
        self._is_explained = np.zeros(topology.slots, np.bool_)
        self.judged: Callable[[Heard], None] = lambda _: None
        """Told what was known of each group whenever it is judged."""

    def replan(self, works: Works) -> None:
        """Take all the planned work there is, in place of what was known of it."""
        self._plans = Plans(self._topology, self.profile.outage, works)
        self._touch()

    def learn(self, learnt: Sequence[Learnt]) -> None:
        """Take all the delivery probabilities that were learnt, each for faults from its moment on."""
        self._witnesses = Witnesses.of(self._topology, self.profile.outage, learnt)
        self._touch()

    def _touch(self) -> None:
        for state in self._active.values():
            state.touched = True

    def observe_reads(self, change: ReadChange, now_us: int, *, counted: bool = False) -> None:
        """Take committed reads. counted: their loads are counted already, by Overload.recount."""
        if not counted:
            self.overload.observe(change, now_us)
        self._observe_contract(change)
        new = change.sign > 0
        if new.all():
            self.heard(change.slot, change.end_us)
        else:
            self.heard(change.slot[new], change.end_us[new])
        if self._active or votes_off(change):
            self._votes(evidence_of_reads(change), now_us)
            if not new.all():
                self._look_back(change.slot[~new], change.end_us[~new])

    def observe_events(self, events: Events, now_us: int) -> None:
        """Take committed events."""
        self.heard(events.slot, events.at_us)
        self._votes(heard_of(events, self._topology.phases), now_us)

    def activate(self, slots: NDArray[np.int32], from_us: int, now_us: int) -> None:
        """Judge the groups of these meters from from_us on, where that is within reach (after a restart)."""
        for group in sorted(groups_of(self._topology, slots)):
            members = self._members(group)
            if from_us >= now_us - (reach_s(len(members.slot)) + MARGIN_S) * US:
                self._activate(group, members, from_us)

    def restore_open(self, kind: str, asset_id: int, from_us: int, now_us: int | None = None) -> None:
        """After a restart: an outage of this asset was open; if nothing speaks for it any more, say so.

        now_us: only if from_us is within reach of it.
        """
        for group in sorted(groups_of(self._topology, self._tree.members(kind, asset_id).slot)):
            members = self._members(group)
            if now_us is None or from_us >= now_us - (reach_s(len(members.slot)) + MARGIN_S) * US:
                self._activate(group, members, from_us)
                self._active[group].told.add((kind, asset_id))

    def wanted(self) -> list[Wanted]:
        """Groups that wait for votes; answer each with given()."""
        return [
            Wanted(group, state.members.slot, state.from_us)
            for group, state in self._active.items()
            if not state.loaded
        ]

    def assets(self, wanted: Wanted) -> list[tuple[str, NDArray[np.int32]]]:
        """Kind and number of all that outages are told of when the group is judged."""
        transformer = np.unique(self._topology.transformer_of[wanted.slots])
        kind, asset_id = wanted.group
        assets = [(kind, np.array([asset_id], np.int32)), ("transformer", transformer[transformer >= 0])]
        return [*assets, ("meter", wanted.slots)]

    def reach_back(self, group: Group, from_us: int, now_us: int) -> bool:
        """Want the votes of a group from earlier on; False: that is beyond reach, or no earlier."""
        state = self._active[group]
        reach_us = (reach_s(len(state.members.slot)) + MARGIN_S) * US
        if not now_us - reach_us <= from_us < state.from_us:
            return False
        state.read_again(min(from_us, state.since_us))
        return True

    def given(self, wanted: Wanted, reads: list[ReadChange], events: Events) -> None:
        """Answer to wanted(): everything committed for its slots from its from_us on."""
        state = self._active.get(wanted.group)
        if state is not None and state.from_us == wanted.from_us:
            told = heard_of(events, self._topology.phases)
            state.evidence = [state.held(), told, *(evidence_of_reads(change) for change in reads)]
            state.loaded = True
            state.touched = True

    def evaluate(self, now_us: int) -> list[Verdict]:
        """What the rules know at now_us, for every asset whose answer may have changed."""
        verdicts, nothing = self.overload.judge(now_us), list[Verdict]()
        verdicts += self.apart.ask(HOT_SPOT, nothing, self.hot_spot.judge, now_us)
        verdicts += self.apart.ask(CONTRACT, nothing, self.contract.taken)
        self._settle_contract()
        for group, state in list(self._active.items()):
            if state.loaded and (state.touched or (state.due_us is not None and state.due_us <= now_us)):
                verdicts += self._judge(group, state, now_us)
        return verdicts + self.apart.ask(COMM_LOSS, nothing, self.silence.judge, now_us, self._explained(now_us))

    @property
    def due_us(self) -> int:
        """When an answer on outages changes by itself, if nothing new is heard; NEVER."""
        return min((state.due_us for state in self._active.values() if state.due_us is not None), default=NEVER)

    # Rules that are run apart

    def heard(self, slot: NDArray[np.int32], at_us: Ints) -> None:
        """Something of these meters was stored, as COMM_LOSS is to know."""
        self.apart.ask(COMM_LOSS, None, self.silence.heard, slot, at_us)

    def reweather(self, weather: Weather) -> None:
        """Take all the readings of the air there are."""
        self.apart.ask(HOT_SPOT, None, self.hot_spot.reweather, weather)

    def _loads_heard(self, cells: Loads) -> None:
        self.apart.ask(HOT_SPOT, None, self.hot_spot.heard, cells)
        missed = self.apart.missed(HOT_SPOT)
        if missed is not None:
            missed.note(cells.transformer, cells.window * self.overload.window_us)

    def _observe_contract(self, change: ReadChange) -> None:
        self.apart.ask(CONTRACT, None, self.contract.observe, change)
        if self.contract.watches and not self.apart.raising:
            self._round.append(change)

    def _settle_contract(self) -> None:
        """What it was given is judged, or missed."""
        missed = self.apart.missed(CONTRACT)
        if missed is not None:
            for change in self._round:
                mine = np.flatnonzero(self.contract.concerns(change.slot))
                start_us = change.end_us[mine] - change.interval_s[mine].astype(np.int64) * US
                missed.note(change.slot[mine], start_us)
        self._round = []

    def owe(self, rule: Rule, from_us: int, asset: Ints, start_us: Ints) -> None:
        """A rule missed this while it was suspended, in another life: judge it. Once the stored loads are known."""
        of_others = {HOT_SPOT: self.hot_spot.owe, CONTRACT: self.contract.owe}
        if rule in of_others:
            self.apart.ask(rule, None, of_others[rule], from_us, asset, start_us)
        else:
            self.overload.owe(rule, from_us, asset, start_us)

    def _members(self, group: Group) -> Members:
        state = self._active.get(group)
        return self._tree.members(*group) if state is None else state.members

    def _votes(self, votes: Evidence, now_us: int) -> None:
        off = begins(votes.vote)
        if off.any():
            for group in sorted(groups_of(self._topology, votes.slot[off])):
                members = self._members(group)
                mine_us = votes.at_us[off & np.isin(votes.slot, members.slot)]
                mine_us = mine_us[mine_us >= now_us - reach_s(len(members.slot)) * US]
                if len(mine_us):
                    self._activate(group, members, int(mine_us.min()) - MARGIN_S * US)
        if self._active:
            number = self._number_of[votes.slot]
            order = np.argsort(number, kind="stable")
            order = order[np.searchsorted(number[order], 0) :]
            bounds = np.flatnonzero(np.diff(number[order], prepend=-1, append=-1)).tolist() if len(order) else []
            for first, stop in pairwise(bounds):
                here = order[first:stop]
                state = self._numbered[int(number[here[0]])]
                mine = Evidence(votes.slot[here], votes.at_us[here], votes.vote[here])
                state.evidence.append(mine)
                calm = returns(mine.vote) | (mine.vote == HEARD)
                state.touched |= bool((~calm | (mine.at_us <= state.settled_us)).any())
                turns = begins(mine.vote) | ((mine.vote == ON) & np.isin(mine.slot, state.thinned))
                if (turns & (mine.at_us < state.from_us) & (mine.at_us >= state.since_us)).any():
                    state.read_again(state.since_us)

    def _activate(self, group: Group, members: Members, from_us: int) -> None:
        state = self._active.get(group)
        if state is None:
            self._active[group] = self._numbered[self._next_number] = _Active(members, from_us)
            self._number_of[members.slot] = self._next_number
            self._next_number += 1
        elif from_us < state.from_us:
            state.read_again(min(from_us, state.since_us))

    def _look_back(self, slot: NDArray[np.int32], at_us: NDArray[np.int64]) -> None:
        for group in groups_of(self._topology, slot):
            if (state := self._active.get(group)) is not None:
                mine = np.isin(slot, state.members.slot)
                state.look_back(slot[mine], at_us[mine])

    def _judge(self, group: Group, state: _Active, now_us: int) -> list[Verdict]:
        evidence = join(state.evidence)
        self.judged(Heard(group, state.members.slot, state.from_us, evidence, self._topology, now_us))
        if len(evidence.slot) > max(PRUNE_ROWS, 2 * state.pruned_rows):
            evidence = self._prune(state, evidence, now_us)
        state.evidence = [evidence]
        state.touched = False
        members = state.members
        verdicts, state.due_us = outage.judge(
            evidence, members, self._topology, now_us, self.profile.outage, state.from_us, state.told,
            self._witnesses, self._plans, self._paths,
        )  # fmt: skip
        state.told = {(v.asset_kind, v.asset_id) for v in verdicts if v.episodes}
        ends = ((e.onset_us, e.cleared_us) for v in verdicts for e in v.episodes)
        state.known = [(onset_us, NEVER if cleared_us is None else cleared_us) for onset_us, cleared_us in ends]
        state.open = {(v.asset_kind, v.asset_id) for v in verdicts if any(e.cleared_us is None for e in v.episodes)}
        state.settled_us = NEVER
        if not state.open and state.due_us is None:
            ends_us = self._spells(evidence).end_us
            latest = int(evidence.at_us[begins(evidence.vote)].max(initial=0))
            latest = int(ends_us[ends_us < NEVER].max(initial=latest))  # who is late may yet say that it ended sooner
            if latest < now_us - LOOKBACK_S * US:
                del self._active[group], self._numbered[int(self._number_of[members.slot[0]])]
                self._number_of[members.slot] = -1
            else:
                state.settled_us = int(ends_us.max(initial=0))
                state.due_us = latest + LOOKBACK_S * US + 1
        return verdicts

    def _spells(self, evidence: Evidence) -> Runs:
        """When meters were without supply, or said that they were without a phase."""
        lost = lost_runs(evidence, self.profile.outage.phase_lost_s_max * US)
        slot, start_us, end_us = map(np.concatenate, zip(off_runs(evidence), *lost.values(), strict=True))
        return Runs(slot, start_us, end_us)

    def _prune(self, state: _Active, evidence: Evidence, now_us: int) -> Evidence:
        cutoff_us = now_us - LOOKBACK_S * US
        if cutoff_us > state.from_us:
            runs = self._spells(evidence)
            state.since_us = state.whole_from(cutoff_us, runs)
            runs = runs.where((runs.start_us < cutoff_us) & (runs.end_us >= state.since_us))
            state.thinned = np.unique(runs.slot)
            few = len(runs.slot) * len(state.members.slot) <= ONSET_METERS_MAX
            onset_us = runs.start_us if few else runs.start_us[runs.end_us >= cutoff_us]
            tells = telling(evidence, onset_us, SPOKE_BEFORE_US, self.profile.outage.clock_slack_s * US)
            evidence = evidence.where((evidence.at_us >= cutoff_us) | (tells & (evidence.at_us >= state.since_us)))
            state.from_us = cutoff_us
        packed = np.unique(np.stack((evidence.slot, evidence.at_us, evidence.vote)), axis=1)
        state.pruned_rows = packed.shape[1]
        return Evidence(packed[0].astype(np.int32), packed[1], packed[2].astype(np.int8))

    def _explained(self, now_us: int) -> NDArray[np.bool_]:
        """Slots whose silence an open outage or planned work explains; the same array while these are the same."""
        explaining = {asset for state in self._active.values() for asset in state.open}
        explaining.update(self._plans.under_way(now_us))
        if explaining != self._explaining:
            self._explaining, self._is_explained = explaining, np.zeros(self._topology.slots, np.bool_)
            for kind, asset_id in explaining:
                self._is_explained[self._tree.members(kind, asset_id).slot] = True
        return self._is_explained
