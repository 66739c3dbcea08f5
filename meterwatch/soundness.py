"""What must be true of a database of ours, as one list; `meterwatch doctor --deep` asks it all.

To add an invariant: write one async generator (storage.sound says how), put its name here, and give it a case in
tests/integration/test_sound.py that damages a database and sees it named; a test counts them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

import psycopg

from meterwatch.sound_sums import loads_are_sums_of_reads, meter_days_are_sums_of_reads
from rules.profile import RuleProfile
from storage.sound import FOUND_MAX, Findings, Inspected, Unsound
from storage.sound_alarms import (
    actions_are_in_the_log,
    alarms_are_their_last_transition,
    an_episode_has_one_alarm,
    cursors_have_no_gap,
    deliveries_follow_from_the_log,
    pages_follow_from_the_log,
    parents_are_there,
    receipts_are_of_the_log,
    versions_of_an_alarm_have_no_gap,
)
from storage.sound_audit import changes_are_on_record_before_and_after, the_audit_log_is_a_chain
from storage.sound_ledger import (
    loads_owed_belong_to_a_batch,
    reads_come_from_batches,
    rejected_rows_are_in_quarantine,
    stored_batches_are_evaluated,
    stored_events_are_accounted_for,
    stored_reads_are_accounted_for,
    stored_registers_are_accounted_for,
)
from storage.sound_reads import a_read_exists_once, reads_have_their_stamp, versions_stand_in_a_line
from storage.sound_references import (
    interruptions_do_not_overlap,
    memberships_do_not_overlap,
    meters_are_registered,
    transformers_are_registered,
)

_INVARIANTS: Final[tuple[Callable[..., Findings], ...]] = (
    stored_reads_are_accounted_for,
    reads_come_from_batches,
    stored_events_are_accounted_for,
    stored_registers_are_accounted_for,
    rejected_rows_are_in_quarantine,
    a_read_exists_once,
    reads_have_their_stamp,
    versions_stand_in_a_line,
    cursors_have_no_gap,
    versions_of_an_alarm_have_no_gap,
    alarms_are_their_last_transition,
    an_episode_has_one_alarm,
    pages_follow_from_the_log,
    actions_are_in_the_log,
    parents_are_there,
    deliveries_follow_from_the_log,
    receipts_are_of_the_log,
    loads_are_sums_of_reads,
    loads_owed_belong_to_a_batch,
    meter_days_are_sums_of_reads,
    meters_are_registered,
    transformers_are_registered,
    memberships_do_not_overlap,
    interruptions_do_not_overlap,
    changes_are_on_record_before_and_after,
    the_audit_log_is_a_chain,
    stored_batches_are_evaluated,  # last: what was on its way when the snapshot was taken has arrived by now
)
_WITH_PROFILE: Final = {loads_are_sums_of_reads}
NAMES: Final = tuple(one.__name__ for one in _INVARIANTS)


class Verdict(NamedTuple):
    """What came of one invariant."""

    invariant: str
    law: str
    took_s: float
    found: list[Unsound]
    more: bool
    """There are more than these."""


async def inspect(
    db: Inspected, profile: RuleProfile, names: Sequence[str] = NAMES, begun: Callable[[str], None] = lambda name: None
) -> AsyncIterator[Verdict]:
    """Ask the invariants one after the other. begun: told the name of each before it."""
    for one in _INVARIANTS:
        if one.__name__ not in names:
            continue
        begun(one.__name__)
        began_s = time.monotonic()
        found: list[Unsound] = []
        try:
            async with aclosing(one(db, profile) if one in _WITH_PROFILE else one(db)) as findings:
                async for finding in findings:
                    found.append(finding)
                    if len(found) > FOUND_MAX:
                        break
        except (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted) as error:
            found = [_damage(error)]
        law = (one.__doc__ or "").strip().partition("\n")[0]
        yield Verdict(one.__name__, law, time.monotonic() - began_s, found[:FOUND_MAX], len(found) > FOUND_MAX)


def _damage(error: psycopg.Error) -> Unsound:
    """What PostgreSQL says of a page or an index that is damaged on disk."""
    return Unsound(
        "the database's files", str(error).partition("\n")[0], "pages as they were written",
        "find out what the disk does, restore a backup on a sound one, and ask again: this law was not asked in full",
    )  # fmt: skip
