"""The invariant of the audit log: a change is on record before and after it was done."""

from __future__ import annotations

from typing import Final

from storage.sound import Findings, Inspected, Unsound

LONGEST_S: Final = 3600
"""No call lasts so long: an outcome that is still missing then is lost. A start says INTERRUPTED of what it finds."""
_NO_OUTCOME: Final = """
SELECT audit_no, method, object FROM audit_log b
WHERE outcome = 'BEGUN' AND at < clock_timestamp() - make_interval(secs => %(longest_s)s)
  AND NOT EXISTS (SELECT FROM audit_log o WHERE o.call_id = b.call_id AND o.call_id <> 0 AND o.outcome <> 'BEGUN')
ORDER BY audit_no LIMIT %(most)s"""
_NOT_BEGUN: Final = """
SELECT audit_no, method, object FROM audit_log o
WHERE outcome = 'OK' AND call_id <> 0
  AND NOT EXISTS (SELECT FROM audit_log b WHERE b.call_id = o.call_id AND b.call_id <> 0 AND b.outcome = 'BEGUN')
ORDER BY audit_no LIMIT %(most)s"""


async def changes_are_on_record_before_and_after(db: Inspected) -> Findings:
    """A change on record as begun has its outcome there, and one that is OK was begun.

    Of what a dead service left without an outcome the next start says INTERRUPTED: not unsound while none runs.
    """
    if await db.service_runs():
        for number, method, what in await db.find(_NO_OUTCOME, longest_s=LONGEST_S):
            yield Unsound(
                f"audit_log, row {number}: {method} {what}", "BEGUN, and no outcome", "an outcome",
                "see by what it names whether it was done; restart the service: a start says INTERRUPTED of it",
            )  # fmt: skip
    for number, method, what in await db.find(_NOT_BEGUN):
        yield Unsound(
            f"audit_log, row {number}: {method} {what}", "OK, and no row BEGUN", "both rows of a change",
            "somebody took rows out of the audit log: compare it with the newest backup",
        )  # fmt: skip
