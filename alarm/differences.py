"""What an episode, as a rule knows it now, says otherwise than the alarm made of it: inputs of the state machine, and
changes that are none.

Pure functions of the two and of the time. Refuses to know which alarm an episode belongs to, and the book.
"""

from __future__ import annotations

from typing import Final

from alarm.lifecycle import Input
from alarm.shaping import HELD_S, REPEATS
from meterwatch.alarms import Alarm, AlarmState, TransitionKind
from meterwatch.episodes import Episode

HISTORY_US: Final = 24 * 3600 * 1_000_000
"""An episode that ended this long before it is first told is history: it is kept and pages nobody. (lateness class)"""
OPEN_HISTORY_US: Final = 45 * 86_400 * 1_000_000
"""One that lasts, was not seen for so long and is first told now comes out of an old file: it is kept and pages nobody
until HISTORY_US of now are reached. Its end is what was measured, in any order of telling. (the late window)"""
GROWTH_PERCENT: Final = 10
"""Evidence alone makes a transition only when the affected count grows by this much; else a storm floods the log."""
AFFECTED: Final = "affected"
"""Key of the affected count in an episode's evidence."""
STAGE: Final = "stage"
"""Key of how far an episode has come, where its rule says so: each step is told."""


def held_us(alarm: Alarm) -> int:
    """How much later the alarm is over than its rule says."""
    return int(alarm.evidence.get(HELD_S, 0)) * 1_000_000


def seen_us(episode: Episode) -> int:
    """Until when it is known to have lasted, at least."""
    return max(episode.raised_us, episode.seen_us or episode.raised_us)


def inputs_of(alarm: Alarm, episode: Episode, parent_id: str | None, now_us: int) -> list[Input]:
    """The inputs of the state machine, in the order in which they happen.

    What is over is folded too, and comes out again: a root may be known, or be known not to have been, after its end.
    """
    inputs = []
    retracted = alarm.state is AlarmState.RETRACTED
    closed = episode.cleared_us is not None
    was_open = alarm.cleared_us is None
    caught_up = alarm.finished and was_open and seen_us(episode) >= now_us - HISTORY_US
    if retracted or (not closed and (caught_up or not was_open)):
        inputs.append(Input.REOPEN)
    if inputs and not closed and alarm.finished and seen_us(episode) < now_us - OPEN_HISTORY_US:
        inputs.append(Input.AGE)
    lasts = bool(inputs) or alarm.state is not AlarmState.NORMAL
    folded = alarm.state is AlarmState.SUPPRESSED or (not inputs and alarm.parent_id is not None)
    hidden = episode.parent is not None or bool(episode.by_design)
    if hidden and not folded and (lasts or parent_id is not None):
        inputs.append(Input.SUPPRESS)
    if not hidden and folded:
        inputs.append(Input.RELEASE)
    if closed and (was_open or retracted):
        inputs.append(Input.CLOSE)
    elif episode.severity > alarm.severity:
        inputs.append(Input.ESCALATE)
    return inputs


def attribute_change(alarm: Alarm, episode: Episode) -> TransitionKind | None:
    """What a difference that is no input is told as; None: it is not told."""
    if (episode.severity, episode.level) != (alarm.severity, alarm.level):
        return TransitionKind.SEVERITY
    times = (episode.onset_us, episode.raised_us, episode.cleared_us)
    if times != (alarm.onset_us, alarm.raised_us, alarm.cleared_us):
        return TransitionKind.AMENDED
    if episode.evidence.get(STAGE) != alarm.evidence.get(STAGE):
        return TransitionKind.AMENDED
    before, after = alarm.evidence.get(AFFECTED, 0), episode.evidence.get(AFFECTED, 0)
    if after > before and (after - before) * 100 >= before * GROWTH_PERCENT:
        return TransitionKind.AMENDED
    if alarm.evidence.get(REPEATS, 0) != episode.evidence.get(REPEATS, 0):
        return TransitionKind.AMENDED
    return None
