"""Invariants of the audit log: a change is on record before and after it was done, and no row was altered since."""

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

_BROKEN: Final = """
SELECT link_no, audit_no, gone, altered FROM (
    SELECT c.link_no, c.audit_no, c.link_no - c.prior_no AS step, a.audit_no IS NULL AS gone,
           c.hash IS DISTINCT FROM audit_row_hash(c.prior, a) AS altered
    FROM (SELECT link_no, audit_no, hash, lag(hash, 1, ''::bytea) OVER links AS prior,
                 lag(link_no, 1, 0::bigint) OVER links AS prior_no
          FROM audit_chain WINDOW links AS (ORDER BY link_no)) AS c
    LEFT JOIN audit_log a USING (audit_no)) AS found
WHERE step <> 1 OR gone OR altered ORDER BY link_no LIMIT %(most)s"""
_UNCHAINED: Final = """
SELECT audit_no FROM audit_log a WHERE NOT EXISTS (SELECT FROM audit_chain c WHERE c.audit_no = a.audit_no)
ORDER BY audit_no LIMIT %(most)s"""
_TAMPERED: Final = (
    "somebody who owns the database wrote into the audit log: compare it with the newest backup and with what was sent"
    " elsewhere"
)


async def the_audit_log_is_a_chain(db: Inspected) -> Findings:
    """Every row of the audit log is as it was written, and none was taken out or put in between.

    The newest rows can be taken off with their links: a chain shows what is behind its end, not what was.
    """
    for link_no, number, gone, altered in await db.find(_BROKEN):
        found = "the row is gone" if gone else "another row than was written" if altered else "the link before is gone"
        yield Unsound(f"audit_log, row {number}, link {link_no}", found, "the row as it was chained", _TAMPERED)
    for (number,) in await db.find(_UNCHAINED):
        yield Unsound(f"audit_log, row {number}", "no link in audit_chain", "one for each row", _TAMPERED)


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
