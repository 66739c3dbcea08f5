"""Which alarm an episode is: of one rule and asset, those whose times overlap are the same fault.

Pure: a verdict and the alarms of its rule and asset in, pairs and what is left out. Of several that overlap the best
goes first: what was not taken back, what began at the same moment, what lasted longest together.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from alarm.differences import held_us
from meterwatch.alarms import Alarm, AlarmState
from meterwatch.episodes import Episode, Verdict


class Matched(NamedTuple):
    """How the episodes of a verdict and the alarms of its rule and asset belong together."""

    pairs: list[tuple[Alarm, Episode]]
    fresh: list[Episode]
    """Without an alarm."""
    gone: list[Alarm]
    """Without an episode, in the span of the verdict, and not taken back already."""


def match(verdict: Verdict, known: Collection[Alarm], now_us: int) -> Matched:
    """Pair each episode with at most one alarm. Cost: alarms in the verdict's span times its episodes."""
    until_us = verdict.until_us
    alarms = {
        a.alarm_id: a
        for a in known
        if (a.cleared_us is None or a.cleared_us - held_us(a) >= verdict.from_us)
        and (until_us is None or a.onset_us < until_us)
    }
    if not alarms and not verdict.episodes:  # nearly all verdicts of a storm
        return Matched([], [], [])
    choices = sorted(
        (
            a.state is AlarmState.RETRACTED,
            a.onset_us != e.onset_us,
            -shared_us,
            a.onset_us,
            e.onset_us,
            a.alarm_id,
            i,
        )
        for a in alarms.values()
        for i, e in enumerate(verdict.episodes)
        if (shared_us := overlap_us(a, e, now_us)) >= 0
    )
    alarm_of: dict[int, str] = {}
    used: set[str] = set()
    for *_, alarm_id, i in choices:
        if i not in alarm_of and alarm_id not in used:
            alarm_of[i] = alarm_id
            used.add(alarm_id)
    pairs = [(alarms[alarm_id], verdict.episodes[i]) for i, alarm_id in sorted(alarm_of.items())]
    fresh = [episode for i, episode in enumerate(verdict.episodes) if i not in alarm_of]
    gone = [a for a in alarms.values() if a.alarm_id not in used and a.state is not AlarmState.RETRACTED]
    return Matched(pairs, fresh, gone)


def overlap_us(alarm: Alarm, episode: Episode, now_us: int) -> int:
    """How long both lasted; negative: they are different faults. A retracted alarm only comes back as it began."""
    if alarm.state is AlarmState.RETRACTED and (episode.onset_us != alarm.onset_us or episode.parent is not None):
        return -1
    ends = [max(now_us, x.onset_us) if x.cleared_us is None else x.cleared_us for x in (alarm, episode)]
    return min(ends) - max(alarm.onset_us, episode.onset_us)
