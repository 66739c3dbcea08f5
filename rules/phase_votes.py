"""What events say of single phases, as votes beside those of supply (rules.supply).

A meter with one phase that loses it is without supply: OFF, like any last gasp, and it returns ON. One with several
phases, or whose phases nobody registered, is a witness of the phase it names and none of the whole: LOST and RETURNED.
Its "supply restored" returns all it had lost: what is still gone it says anew. A power failure of a meter without
registered phases may name the phase it hangs on: SAID. A loss that names no phase says nothing, unless the meter has
only one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterwatch.batch import EventCode, Events
from meterwatch.topology import PHASE_A, PHASE_B, PHASE_C, PHASE_NAMES
from rules.supply import OFF, ON, Evidence, Runs, evidence_of_events, join, off_runs

LOST: Final = 8
"""Plus the bit of a phase: a meter that has more of them is without this one."""
RETURNED: Final = 16
"""Plus the bit of a phase: it is back. RETURNED alone: all of them are."""
SAID: Final = 32
"""Plus the bit of a phase: a meter without registered phases hangs on this one."""
PHASES: Final = (PHASE_A, PHASE_B, PHASE_C)


def heard_of(events: Events, phases: NDArray[np.uint8]) -> Evidence:
    """All votes of events. phases: as registered, by slot."""
    parts = [evidence_of_events(events)]
    code, named, own = events.code, events.phases, phases[events.slot]
    alone = np.bitwise_count(own) == 1

    def vote(rows: NDArray[np.bool_], votes: NDArray[np.integer] | int) -> None:
        if rows.any():
            value = np.broadcast_to(np.asarray(votes, np.int8), rows.shape)[rows]
            parts.append(Evidence(events.slot[rows], events.at_us[rows], value))

    loss = code == EventCode.PHASE_LOSS
    of_phase = loss | (code == EventCode.PHASE_RETURN)
    vote(of_phase & alone & ((named == 0) | (named == own)), np.where(loss, OFF, ON))
    for phase in PHASES:
        vote(of_phase & ~alone & (named & phase != 0), np.where(loss, LOST, RETURNED) | phase)
    restored = code == EventCode.POWER_RESTORED
    vote(restored & ~alone, RETURNED)
    supply = restored | (code == EventCode.POWER_FAIL)
    vote(supply & (own == 0) & (np.bitwise_count(named) == 1), SAID | named.astype(np.int8))
    return join(parts) if len(parts) > 1 else parts[0]


def begins(vote: NDArray[np.int8]) -> NDArray[np.bool_]:
    """True for votes with which an outage may begin: OFF, and LOST of a phase."""
    mask: NDArray[np.bool_] = (vote == OFF) | (vote & LOST != 0)
    return mask


def returns(vote: NDArray[np.int8]) -> NDArray[np.bool_]:
    """True for votes that say that something is back: ON, and RETURNED of phases."""
    mask: NDArray[np.bool_] = (vote == ON) | (vote & RETURNED != 0)
    return mask


def lost_runs(evidence: Evidence, keep_us: int) -> dict[int, Runs]:
    """By phase, where a meter says so: maximal runs in which it was without that phase, by slot, then start.

    A run ends with the meter's word that the phase is back, or keep_us after the last word of its loss: no read tells
    of phases. At equal times a loss counts before a return.
    """
    losses = evidence.vote & LOST != 0
    if not losses.any():
        return {}
    mine = (losses | (evidence.vote & RETURNED != 0)) & np.isin(evidence.slot, evidence.slot[losses])
    votes = Evidence(evidence.slot[mine], evidence.at_us[mine], evidence.vote[mine])
    found = {phase: off_runs(_of_phase(votes, phase, keep_us)) for phase in PHASES}
    return {phase: runs for phase, runs in found.items() if len(runs.slot)}


def _of_phase(votes: Evidence, phase: int, keep_us: int) -> Evidence:
    """The same as votes OFF and ON of one phase, with what ends by itself."""
    loss, back = votes.vote == LOST | phase, (votes.vote == RETURNED) | (votes.vote == RETURNED | phase)
    slot, at_us = votes.slot[loss], votes.at_us[loss]
    order = np.lexsort((at_us, slot))
    slot, at_us = slot[order], at_us[order]
    again = np.append((slot[1:] == slot[:-1]) & (at_us[1:] - at_us[:-1] <= keep_us), False)[: len(slot)]
    ends_slot = np.concatenate([votes.slot[back], slot[~again]])
    ends_us = np.concatenate([votes.at_us[back], at_us[~again] + keep_us])
    return join(
        [
            Evidence(slot, at_us, np.full(len(slot), OFF, np.int8)),
            Evidence(ends_slot, ends_us, np.full(len(ends_slot), ON, np.int8)),
        ]
    )


def named_phases(evidence: Evidence, phases: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Phases by slot: as registered, and where nobody did, the one that the meter names whenever it names one."""
    said = evidence.vote & SAID != 0
    if not said.any():
        return phases
    slot, phase = evidence.slot[said], (evidence.vote[said] & 7).astype(np.uint8)
    named = np.zeros(len(phases), np.uint8)
    np.bitwise_or.at(named, slot, phase)
    found: NDArray[np.uint8] = np.where((phases == 0) & (np.bitwise_count(named) == 1), named, phases)
    return found


def on_phase(evidence: Evidence, name: str) -> Evidence:
    """The same, with what was said of this phase (A, B, C) as OFF and ON: for the account of a lost phase."""
    phase = next((bit for bit, letter in PHASE_NAMES.items() if letter == name), 0)
    vote = evidence.vote.copy()
    vote[vote == LOST | phase] = OFF
    vote[(vote == RETURNED) | (vote == RETURNED | phase)] = ON
    return Evidence(evidence.slot, evidence.at_us, vote)
