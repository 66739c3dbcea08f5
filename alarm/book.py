"""The alarm book: which alarms there are, and which transitions a verdict makes.

Argument. A rule states the episodes it knows; the book holds the alarms it has made of earlier verdicts. An episode and
an alarm of the same (rule, asset) whose times overlap are the same fault. What differs between the two is the
transition. So the same verdict twice makes nothing, a restart makes nothing, and late data amends the alarm it concerns
instead of raising a second one. Several differences at once are one transition; its kind names the first in the order
reopened, suppressed, closed, severity, amended.

`reconcile`, `act`, `expire`, `announce_again` and `lapse` only propose; the book changes in `apply`, after the drafts
are committed. It knows no clock, no database and no event loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import nsmallest
from typing import Final

from alarm.actions import acted, announced_again, expired, lapsed, shelf_after, under
from alarm.differences import HISTORY_US, OPEN_HISTORY_US, attribute_change, inputs_of, seen_us
from alarm.lifecycle import KIND, NEXT, Input
from alarm.matching import match
from alarm.profile import AlarmProfile
from alarm.shaping import Key
from meterwatch.alarms import Action, Alarm, AlarmState, AssetShelf, Draft, TransitionKind, type_of
from meterwatch.episodes import Episode, Verdict
from meterwatch.errors import Missing, Stale
from meterwatch.one_call import calls
from meterwatch.topology import Topology

KEEP_US: Final = 72 * 3600 * 1_000_000
"""Finished alarms stay this long after their end: the span of the longest verdict (outage duration, domain rule 2)."""
PRUNE_STEP_US: Final = 3600 * 1_000_000
UNACKNOWLEDGED_MAX: Final = 10_000
"""Alarms that are over and that nobody has acknowledged; of more those that ended first lapse. So many are no list that
people work off, each new subscriber is sent all of them, and each is some 3 kB. (ours)"""
LAPSED_TOGETHER: Final = 1000
"""In one transaction."""
ANNOUNCED: Final = frozenset({Input.REOPEN, Input.RELEASE, Input.ESCALATE})
"""Inputs with which an alarm that is active afterwards calls for somebody anew."""
RETRACTED_BECAUSE: Final = "retracted_because"
"""Key of the reason in the evidence of a retracted alarm."""
UNSAID: Final = "what is known now does not show it any more"
PREFIX: Final = {
    "OUTAGE": "OUT",
    "OVERLOAD": "OVL",
    "REVERSE": "REV",
    "PHASE": "PHA",
    "UNBALANCE": "UNB",
    "CONTRACT": "CON",
    "HOT_SPOT": "HOT",
    "FORECAST_OVERLOAD": "FOV",
    "COMM_LOSS": "COM",
    "SYSTEM": "SYS",
    "USER": "USR",
}


class Book:
    """The alarms that are not finished or shelved, and those that ended within KEEP_US."""

    def __init__(
        self,
        alarms: Iterable[Alarm],
        names: Topology,
        profile: AlarmProfile | None = None,
        unacknowledged_max: int = UNACKNOWLEDGED_MAX,
    ) -> None:
        self.names = names
        """Registry names for new alarms; replaced after a registry change."""
        self.profile = profile or AlarmProfile()
        self.aside: Callable[[Alarm], bool] = lambda _: False
        """Who stands aside in a storm (alarm.storm): not announced again before it is over."""
        self.horizon_us = 0
        """Finished alarms that ended before this may be missing here; see `adopt`."""
        self._pruned_us = 0
        self._by_id: dict[str, Alarm] = {}
        self._by_key: dict[Key, dict[str, Alarm]] = {}
        self._shelved: set[str] = set()
        self._unacknowledged: set[str] = set()
        """Of the alarms that are over."""
        self._unacknowledged_max = unacknowledged_max
        self._shelves: dict[tuple[str, str, str], AssetShelf] = {}
        self.adopt(alarms)

    def __iter__(self) -> Iterator[Alarm]:
        return iter(self._by_id.values())

    def __contains__(self, alarm_id: str) -> bool:
        return alarm_id in self._by_id

    def of(self, rule: str, asset_kind: str, asset_id: int) -> list[Alarm]:
        """The alarms of one rule and asset that are here."""
        return list(self._by_key.get((rule, asset_kind, asset_id), {}).values())

    def family(self, alarm: Alarm) -> list[Alarm]:
        """The alarms that call once with this one, itself included (meterwatch.one_call); none if it has no family."""
        rules = self.profile.one_call if alarm.rule in self.profile.one_call else ()
        return [one for rule in rules for one in self.of(rule, alarm.asset_kind, alarm.asset_id)]

    def called_with(self, alarm: Alarm) -> list[Alarm]:
        """The alarms in whose call it is, itself included, who leads first; none if it calls for nobody."""
        calling = [one for one in self.family(alarm) if calls(one)]
        if not any(one.alarm_id == alarm.alarm_id for one in calling):
            return []
        return sorted(calling, key=self.profile.calling.place_of)

    def placed(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Drafts in the order of their commit, each with the call in which it begins to page. Cost: linear in them."""
        found, changed = [], dict[tuple[str, int], dict[str, Alarm]]()
        for draft in drafts:
            alarm, under_id = draft.alarm, None
            if alarm.rule in self.profile.one_call:
                before = changed.setdefault((alarm.asset_kind, alarm.asset_id), {})
                if _begins_to_page(draft):
                    family = {one.alarm_id: one for one in self.family(alarm)} | before
                    leader = self.profile.calling.leader(family.values())
                    under_id = None if leader is None else leader.alarm_id
                before[alarm.alarm_id] = alarm
            found.append(draft if under_id is None else replace(draft, under=under_id))
        return found

    def adopt(self, alarms: Iterable[Alarm]) -> None:
        """Take alarms as they are stored, replacing what the book had."""
        for alarm in alarms:
            self._by_id[alarm.alarm_id] = alarm
            self._by_key.setdefault((alarm.rule, alarm.asset_kind, alarm.asset_id), {})[alarm.alarm_id] = alarm
            if alarm.shelved_until_us is None:
                self._shelved.discard(alarm.alarm_id)
            else:
                self._shelved.add(alarm.alarm_id)
            if alarm.state is AlarmState.RTN_UNACK:
                self._unacknowledged.add(alarm.alarm_id)
            else:
                self._unacknowledged.discard(alarm.alarm_id)

    def reconcile(self, verdicts: Sequence[Verdict], now_us: int) -> list[Draft]:
        """Return what the verdicts change. At most one verdict per (rule, asset). Cost: linear in their episodes."""
        self.horizon_us = max(self.horizon_us, now_us - KEEP_US)
        raised: list[Draft] = []
        matched: list[tuple[Alarm, Episode]] = []
        retracted: list[Draft] = []
        taken: set[str] = set()
        for verdict in verdicts:
            known = self._by_key.get((verdict.rule, verdict.asset_kind, verdict.asset_id), {}).values()
            pairs, fresh, gone = match(verdict, known, now_us)
            matched += pairs
            raised += [self._raised(verdict, episode, now_us, taken) for episode in fresh if episode.parent is None]
            if verdict.retract:
                retracted += [_retracted(alarm, verdict.withdrawn or UNSAID) for alarm in gone]
        risen = [a for a, _ in matched if a.state is AlarmState.RETRACTED] + [draft.alarm for draft in raised]
        parents = {(a.rule, a.asset_kind, a.asset_id): a.alarm_id for a in risen}
        followed = [
            self._follow(alarm, episode, self._parent_id(alarm, episode, parents), now_us) for alarm, episode in matched
        ]
        drafts = raised + [draft for draft in followed if draft is not None] + retracted
        return [self._put_aside(draft, now_us) for draft in drafts] if self._shelves else drafts

    def act(self, action: Action, expected_version: int, now_us: int) -> Draft:
        """Propose an operator's action. Missing, Stale (expected_version 0: any), or Rejected as alarm.actions."""
        alarm = self._by_id.get(action.alarm_id)
        if alarm is None:
            raise Missing(
                "ALARM_UNKNOWN", f"alarm {action.alarm_id!r} is not known; take the id from Subscribe or ListAlarms"
            )
        if expected_version not in (0, alarm.version):
            raise Stale(
                "ALARM_CHANGED",
                f"alarm {alarm.alarm_id} is at version {alarm.version}, state {alarm.state.value}; the action was for "
                f"version {expected_version}; read the alarm again, then decide",
            )
        return acted(alarm, action, now_us)

    def expire(self, now_us: int) -> list[Draft]:
        """Propose the end of the shelves whose time is over. Cost: linear in the shelved alarms."""
        shelved = [self._by_id[alarm_id] for alarm_id in sorted(self._shelved)]
        return [expired(a) for a in shelved if a.shelved_until_us is not None and a.shelved_until_us <= now_us]

    def announce_again(self, now_us: int) -> list[Draft]:
        """Propose to announce again what has stood for too long. Cost: linear in the alarms, if the profile does so."""
        if not self.profile.re_alarms:
            return []
        standing = (alarm for alarm in self if alarm.cleared_us is None and alarm.pages and not self.aside(alarm))
        return [announced_again(alarm, now_us) for alarm in standing if self._too_long(alarm, now_us)]

    def lapse(self) -> list[Draft]:
        """Propose the end of waiting for the alarms that ended first, where more than so many wait to be acknowledged.

        At most LAPSED_TOGETHER of them. Cost: linear in those that wait, if there are too many.
        """
        most = min(len(self._unacknowledged) - self._unacknowledged_max, LAPSED_TOGETHER)
        if most <= 0:
            return []
        over = (self._by_id[alarm_id] for alarm_id in self._unacknowledged)
        return [lapsed(alarm) for alarm in nsmallest(most, over, key=lambda alarm: (alarm.end_us, alarm.alarm_id))]

    def _too_long(self, alarm: Alarm, now_us: int) -> bool:
        wait_us = self.profile.of(alarm.rule, alarm.asset_kind).re_alarm_s * 1_000_000
        told_us = max(alarm.recorded_us, alarm.announced_us or 0, alarm.acknowledged_us or 0)
        return 0 < wait_us <= now_us - told_us

    def put_over(self, shelf: AssetShelf) -> None:
        """Take a committed shelf over an asset; it replaces the one over the same."""
        self._shelves[shelf.over] = shelf

    def beneath(self, shelf: AssetShelf) -> list[Alarm]:
        """The alarms that are not finished and lie under this shelf; to lift it, those that it has shelved."""
        mine = [alarm for alarm in self if not alarm.finished and shelf.covers(alarm)]
        if shelf.shelve_s:
            return mine
        before = self._shelves.get(shelf.over)
        return [alarm for alarm in mine if before is not None and alarm.shelved_until_us == before.until_us]

    def shelves(self, now_us: int) -> list[AssetShelf]:
        """Those over assets that last."""
        self._shelves = {over: shelf for over, shelf in self._shelves.items() if shelf.until_us > now_us}
        return list(self._shelves.values())

    def _put_aside(self, draft: Draft, now_us: int) -> Draft:
        """A draft with which an alarm begins to stand, under a shelf over its asset if there is one."""
        if not draft.alarm.stands or (draft.was is not None and draft.was.stands):
            return draft
        over = [shelf for shelf in self.shelves(now_us) if shelf.covers(draft.alarm)]
        if not over:
            return draft
        return replace(draft, alarm=replace(draft.alarm, **under(max(over, key=lambda one: one.until_us))))

    def apply(self, alarms: Iterable[Alarm]) -> None:
        """Take committed alarms, and forget finished ones that ended before the horizon."""
        self.adopt(alarms)
        if self.horizon_us < self._pruned_us + PRUNE_STEP_US:
            return
        self._pruned_us = self.horizon_us
        over = [a for a in self._by_id.values() if a.finished and a.end_us < self.horizon_us]
        for alarm in [a for a in over if a.shelved_until_us is None]:
            del self._by_id[alarm.alarm_id]
            key = (alarm.rule, alarm.asset_kind, alarm.asset_id)
            del self._by_key[key][alarm.alarm_id]
            if not self._by_key[key]:
                del self._by_key[key]

    def _raised(self, verdict: Verdict, episode: Episode, now_us: int, taken: set[str]) -> Draft:
        asset = self.names.asset_name(verdict.asset_kind, verdict.asset_id)
        feeder, district = self._place(verdict.asset_kind, verdict.asset_id)
        nth = 0
        while (alarm_id := _alarm_id(verdict, asset, episode.onset_us, nth)) in self._by_id or alarm_id in taken:
            nth += 1  # the onset of another alarm's first verdict, amended since
        taken.add(alarm_id)
        state = AlarmState.UNACK_ACTIVE
        if episode.by_design:
            state = NEXT[state, Input.SUPPRESS]
        if episode.cleared_us is not None:
            old = episode.cleared_us < now_us - HISTORY_US
            state = AlarmState.NORMAL if old else NEXT[state, Input.CLOSE]
        elif seen_us(episode) < now_us - OPEN_HISTORY_US:
            state = AlarmState.NORMAL
        alarm = Alarm(
            alarm_id=alarm_id,
            rule=verdict.rule,
            asset_kind=verdict.asset_kind,
            asset_id=verdict.asset_id,
            asset=asset,
            feeder=feeder,
            district=district,
            state=state,
            severity=episode.severity,
            level=episode.level,
            onset_us=episode.onset_us,
            raised_us=episode.raised_us,
            cleared_us=episode.cleared_us,
            recorded_us=now_us,
            version=1,
            seq=0,
            parent_id=None,
            summary=episode.summary,
            evidence=episode.evidence,
            priority=self.profile.priority(verdict.rule, verdict.asset_kind, episode.severity),
            announced_us=now_us,
            for_planning=self.profile.plans(verdict.rule),
        )
        return Draft(TransitionKind.RAISED, alarm)

    def _follow(self, alarm: Alarm, episode: Episode, parent_id: str | None, now_us: int) -> Draft | None:
        """What a matched episode changes, or None."""
        inputs = inputs_of(alarm, episode, parent_id, now_us)
        state, kind = alarm.state, None
        for given in inputs:
            after = NEXT[state, given]
            if kind is None and (after is not state or given in (Input.CLOSE, Input.SUPPRESS, Input.RELEASE)):
                kind = KIND[given]
            state = after
        if kind is None:
            kind = attribute_change(alarm, episode)
        if kind is None and parent_id != alarm.parent_id:
            kind = TransitionKind.AMENDED  # folded before, by planned work or beneath another
        if kind is None:
            return None
        announced = state is AlarmState.UNACK_ACTIVE and ANNOUNCED.intersection(inputs)
        reset = state is AlarmState.UNACK_ACTIVE and alarm.acknowledged_us is not None
        return _draft(
            alarm,
            kind,
            state=state,
            severity=episode.severity,
            level=episode.level,
            onset_us=episode.onset_us,
            raised_us=episode.raised_us,
            cleared_us=episode.cleared_us,
            parent_id=parent_id,
            summary=episode.summary,
            evidence=episode.evidence,
            acknowledged_by=None if reset else alarm.acknowledged_by,
            acknowledged_us=None if reset else alarm.acknowledged_us,
            note=None if reset else alarm.note,
            priority=self.profile.priority(alarm.rule, alarm.asset_kind, episode.severity),
            announced_us=now_us if announced else alarm.announced_us,
            for_planning=self.profile.plans(alarm.rule),
            **shelf_after(alarm, inputs),
        )

    def _parent_id(self, alarm: Alarm, episode: Episode, raised: dict[Key, str]) -> str | None:
        if episode.parent is None:
            return None
        key = (alarm.rule, *episode.parent)
        if key in raised:
            return raised[key]
        stored = [a for a in self._by_key.get(key, {}).values() if a.state is not AlarmState.RETRACTED]
        latest = max(stored, key=lambda a: (a.cleared_us is None, a.onset_us), default=None)
        return None if latest is None else latest.alarm_id

    def _place(self, kind: str, asset_id: int) -> tuple[str, str]:
        """Feeder and district of an asset; empty where the electrical tree has none."""
        names = self.names
        if kind == "feeder":
            return names.feeder[asset_id], names.feeder_district[asset_id]
        transformer = int(names.transformer_of[asset_id]) if kind == "meter" else asset_id
        if kind not in ("meter", "transformer") or transformer < 0:
            return "", ""
        feeder = int(names.feeder_of[transformer])
        return names.feeder[feeder] if feeder >= 0 else "", names.transformer_district[transformer]


def _begins_to_page(draft: Draft) -> bool:
    return draft.alarm.pages and not (draft.was is not None and draft.was.pages)


def _retracted(alarm: Alarm, because: str) -> Draft:
    """The alarm taken back, with the reason where people read: summary and evidence."""
    return _draft(
        alarm,
        KIND[Input.RETRACT],
        state=NEXT[alarm.state, Input.RETRACT],
        summary=f"Taken back: {because}. It was: {alarm.summary}",
        evidence={**alarm.evidence, RETRACTED_BECAUSE: because},
        **shelf_after(alarm, [Input.RETRACT]),
    )


def _draft(alarm: Alarm, kind: TransitionKind, **changes: object) -> Draft:
    return Draft(kind, replace(alarm, version=alarm.version + 1, **changes), was=alarm)  # type: ignore[arg-type]


def _alarm_id(verdict: Verdict, asset: str, onset_us: int, nth: int) -> str:
    """Identity of an episode: the same on every machine and after every restart."""
    text = f"{verdict.rule}|{verdict.asset_kind}|{asset}|{onset_us}" + (f"|{nth}" if nth else "")
    prefix = PREFIX.get(type_of(verdict.rule), verdict.rule[:3].upper())
    return f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
