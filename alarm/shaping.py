"""On-delay, off-delay and chattering: what of a rule's episodes is told, as a pure function of them and of the time.

Argument. Delays and chattering work on episodes, not on transitions: episodes that follow each other too closely are
one longer episode. So the book compares as ever, late data amends as ever, and the order in which things are heard
still does not matter. What is told may change by itself when a delay ends; `shaped` says when to ask again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from alarm.profile import AlarmClass, AlarmProfile
from meterwatch.clock import US
from meterwatch.episodes import Episode, Verdict

Key = tuple[str, str, int]
"""rule, asset_kind, asset_id."""
REPEATS: Final = "repeats"
"""Evidence: how often it began again."""
CHATTERING: Final = "chattering"
HELD_S: Final = "held_s"
"""Evidence: how much later it is over than the rule says."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A verdict of which more is to be told at a time."""

    verdict: Verdict
    due_us: int


def key_of(verdict: Verdict) -> Key:
    return verdict.rule, verdict.asset_kind, verdict.asset_id


def shaped_all(
    verdicts: Iterable[Verdict], profile: AlarmProfile, now_us: int
) -> tuple[list[Verdict], dict[Key, Waiting | None]]:
    """Verdicts as they are told now, and for each whether more of it is to be told later."""
    told: list[Verdict] = []
    later: dict[Key, Waiting | None] = {}
    for verdict in verdicts:
        limits = profile.of(verdict.rule, verdict.asset_kind)
        episodes, due_us = shaped(verdict.episodes, limits, now_us)
        told.append(replace(verdict, episodes=tuple(episodes)))
        later[key_of(verdict)] = None if due_us is None else Waiting(verdict, due_us)
    return told, later


def shaped(episodes: Sequence[Episode], limits: AlarmClass, now_us: int) -> tuple[list[Episode], int | None]:
    """The episodes that are told at now_us, by onset, and when that changes by itself (None: never)."""
    begun, waits_us = _delayed(sorted(episodes, key=lambda one: one.onset_us), limits.on_delay_s * US, now_us)
    told, due_us = [], waits_us
    for run, chatters in _runs(begun, limits):
        hold_s = limits.chatter_s if chatters else limits.off_delay_s
        hold_us = 0 if _explained(run[-1]) else hold_s * US
        over_us = run[-1].cleared_us
        end_us = None if over_us is None else over_us + hold_us
        if end_us is not None and end_us > now_us:
            due_us.append(end_us)
            end_us = None
        told.append(_dressed(_joined(run, end_us, chatters, hold_us), limits))
    return told, min(due_us, default=None)


def _explained(one: Episode) -> bool:
    """By a wider one, or by design: it calls nobody."""
    return one.parent is not None or bool(one.by_design)


def _delayed(episodes: list[Episode], delay_us: int, now_us: int) -> tuple[list[Episode], list[int]]:
    """Those that lasted on-delay longer than the rule asks, and when others will have."""
    if delay_us == 0:
        return episodes, []
    late = [replace(one, raised_us=one.raised_us + delay_us) for one in episodes]
    lasting = [one for one in late if one.cleared_us is None or one.cleared_us > one.raised_us]
    begun = [one for one in lasting if one.raised_us <= now_us]
    return begun, [one.raised_us for one in lasting if one.raised_us > now_us]


def _runs(episodes: list[Episode], limits: AlarmClass) -> list[tuple[list[Episode], bool]]:
    """Episodes that are told as one, and whether they chatter. What is explained stands by itself."""
    runs: list[tuple[list[Episode], bool]] = []
    raised: list[int] = []
    for one in episodes:
        if _explained(one):
            runs.append(([one], False))
            continue
        raised.append(one.raised_us)
        most = limits.chatter_raises
        chatters = 0 < most <= len(raised) and one.raised_us - raised[-most] < limits.chatter_s * US
        if runs and _goes_on(*runs[-1], one, limits):
            run, before = runs[-1]
            runs[-1] = ([*run, one], before or chatters)
        else:
            runs.append(([one], chatters))
    return runs


def _goes_on(run: list[Episode], chatters: bool, one: Episode, limits: AlarmClass) -> bool:
    last = run[-1]
    if _explained(last) or last.cleared_us is None:
        return False
    hold_s = limits.chatter_s if chatters else limits.off_delay_s
    return hold_s > 0 and one.raised_us <= last.cleared_us + hold_s * US


def _joined(run: list[Episode], end_us: int | None, chatters: bool, hold_us: int) -> Episode:
    first, last = run[0], run[-1]
    if len(run) == 1 and not chatters and hold_us == 0:
        return last
    worst = max(run, key=lambda one: one.severity) if last.cleared_us is not None else last
    evidence = last.evidence | {HELD_S: hold_us // US}
    if len(run) > 1 or chatters:
        evidence |= {REPEATS: len(run) - 1, CHATTERING: chatters}
    again = f"; {'chattering, ' if chatters else ''}began again {len(run) - 1} times" if len(run) > 1 else ""
    return replace(
        last,
        onset_us=first.onset_us,
        raised_us=first.raised_us,
        cleared_us=end_us,
        severity=worst.severity,
        level=worst.level,
        summary=last.summary + again,
        evidence=evidence,
    )


def _dressed(episode: Episode, limits: AlarmClass) -> Episode:
    severity = limits.severity.get(episode.level)
    return episode if severity in (None, episode.severity) else replace(episode, severity=severity)
