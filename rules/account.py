"""The account of an alarm: what each meter had said, and what each window of a transformer did to the ladder.

Pure functions over what is stored now, for explaining an alarm after the fact; nothing here decides anything. A read
that came after the alarm was told did not count then, so who was silent is judged by arrival. Refuses to know: alarms,
the database, the wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.clock import US
from rules.ladder import Ladder, LadderState, OverloadProfile, top_level
from rules.supply import NEVER, ON, Evidence, Ids, Stamps, off_runs

NONE: Final = -NEVER
"""A time that never was."""


class Said(IntEnum):
    """What a meter had said of an alarm; the first that applies."""

    OFF = 1
    """An OFF run began with the alarm or during it."""
    OFF_BEFORE = 2
    """It was OFF already."""
    ON = 3
    """It said ON between onset and raise."""
    SILENT = 4
    """Nothing since the onset had arrived when the alarm was told, and its next read was overdue."""
    HEARD = 5
    """It was heard since the onset, and said nothing of its supply."""
    NOT_DUE = 6
    """Nothing had arrived, and nothing had to."""


@dataclass(frozen=True, slots=True)
class Span:
    """The times of an alarm, UTC microseconds, and the tolerances of its rule, microseconds."""

    onset_us: int
    raised_us: int
    cleared_us: int
    """NEVER while it lasts."""
    told_us: int
    """Service clock when it was committed: what arrived later was not known."""
    early_us: int
    """An OFF run that began so long before the onset still belongs to it."""
    slack_us: int
    """ON votes so soon after the onset say nothing."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Stamps of reads (their end) and events with their arrival; arrays of length n, unordered, repeats allowed."""

    slot: Ids
    at_us: Stamps
    arrived_us: Stamps


@dataclass(frozen=True, slots=True)
class Account:
    """Aligned with the slots asked for."""

    said: NDArray[np.int8]
    """Said."""
    said_us: Stamps
    """OFF, OFF_BEFORE: the run's start; ON: the first such vote; else NONE."""
    back_us: Stamps
    """OFF: end of its last run of the alarm. Silence: the first stamp after the raise. NONE: not yet."""
    heard_us: Stamps
    """Newest stamp that had arrived when the alarm was told, up to the raise; NONE."""


def account(slots: Ids, votes: Evidence, heard: Heard, due_after_us: Stamps, span: Span) -> Account:
    """What each of `slots` (ascending) had said.

    due_after_us: per slot, how long after a stamp the next one must have arrived. Votes of other slots are ignored.
    """
    n = len(slots)
    said = np.full(n, Said.NOT_DUE, np.int8)
    said_us, back_us = np.full(n, NONE, np.int64), np.full(n, NONE, np.int64)

    known = (heard.arrived_us <= span.told_us) & (heard.at_us <= span.raised_us)
    heard_us = _extreme(np.maximum, NONE, slots, heard.slot[known], heard.at_us[known])
    since = heard_us > span.onset_us
    said[since] = Said.HEARD
    base_us = np.where(heard_us == NONE, span.onset_us, heard_us)
    silent = ~since & (base_us + due_after_us <= span.raised_us)
    said[silent] = Said.SILENT
    later = heard.at_us > span.raised_us
    again_us = _extreme(np.minimum, NEVER, slots, heard.slot[later], heard.at_us[later])
    back_us[silent] = np.where(again_us < NEVER, again_us, NONE)[silent]

    on = (votes.vote == ON) & (votes.at_us >= span.onset_us + span.slack_us) & (votes.at_us <= span.raised_us)
    on_us = _extreme(np.minimum, NEVER, slots, votes.slot[on], votes.at_us[on])
    spoke = on_us < NEVER
    said[spoke], said_us[spoke], back_us[spoke] = Said.ON, on_us[spoke], NONE

    runs = off_runs(votes)
    began = (runs.start_us >= span.onset_us - span.early_us) & (runs.start_us < span.cleared_us)
    before = (runs.start_us < span.onset_us - span.early_us) & (runs.end_us > span.onset_us)
    for mask, word in ((before, Said.OFF_BEFORE), (began, Said.OFF)):
        mine = runs.where(mask)
        start_us = _extreme(np.minimum, NEVER, slots, mine.slot, mine.start_us)
        end_us = _extreme(np.maximum, NONE, slots, mine.slot, mine.end_us)
        here = start_us < NEVER
        said[here], said_us[here] = word, start_us[here]
        back_us[here] = np.where(end_us < NEVER, end_us, NONE)[here]
    return Account(said, said_us, back_us, heard_us)


def _extreme(pick: np.ufunc, empty: int, slots: Ids, slot: Ids, at_us: Stamps) -> Stamps:
    """Per slot of `slots` the least or greatest stamp; `empty` where there is none."""
    out = np.full(len(slots), empty, np.int64)
    mine = np.isin(slot, slots)
    pick.at(out, np.searchsorted(slots, slot[mine]), at_us[mine])
    return out


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a transformer, and where the ladder stood after it."""

    window: int
    b: float
    coverage: float
    valid: bool
    level: str
    """Highest latched; empty: none."""
    hold_s: int
    """Of the next level above it."""
    clear_s: int
    """Of the latched level."""


def load_account(
    profile: OverloadProfile,
    rated_kva: float,
    window: NDArray[np.int64],
    wh: NDArray[np.int64],
    varh: NDArray[np.int64],
    covered: NDArray[np.int64],
    expected: NDArray[np.int64],
) -> list[Window]:
    """Take one transformer through its windows, ascending, from rest before the first; one that is missing is a gap.

    Begins at rest: give windows from well before the alarm, and the first of them say less than the rest.
    """
    if not rated_kva > 0:
        return []
    rated_vah = rated_kva * 1000 * profile.window_s / 3600
    share = np.divide(covered, expected, out=np.zeros(len(covered)), where=expected > 0)
    return ladder_account(profile, window, np.hypot(wh, varh) * profile.loss_factor / rated_vah, share)


def ladder_account(
    profile: OverloadProfile, window: NDArray[np.int64], known_b: NDArray[np.float64], share: NDArray[np.float64]
) -> list[Window]:
    """The same of an asset whose b and coverage are known."""
    if not len(window):
        return []
    first = int(window[0])
    at = window - first
    n = int(at[-1]) + 1
    b, coverage = np.zeros(n), np.zeros(n)
    b[at], coverage[at] = known_b, share
    valid = coverage >= profile.coverage_min
    ladder, levels = Ladder(profile), profile.levels
    state = LadderState.cold(1, len(levels))
    told = []
    for i in range(n):
        one = slice(i, i + 1)
        ladder.step(state, first + i, np.where(valid[one], b[one], 0.0), valid[one], coverage[one])
        top = int(top_level(state.latched)[0])
        above = min(top + 1, len(levels) - 1)
        told.append(
            Window(
                first + i,
                float(b[i]),
                float(coverage[i]),
                bool(valid[i]),
                levels[top].name if top >= 0 else "",
                int(state.hold_s[0, above]) if above > top else 0,
                int(state.clear_s[0, top]) if top >= 0 else 0,
            )
        )
    return told


def window_end_us(window: int, profile: OverloadProfile) -> int:
    """End of a window, UTC microseconds."""
    return (window + 1) * profile.window_s * US
