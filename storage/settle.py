"""How the reads of some batches get into their tables, in one transaction of the caller:

    what may be stored already (the hint) -> looked up, compared -> same: a duplicate -> other: a version
                                                                 -> absent: like all the rest, into one COPY

Raises UniqueViolation if the hint missed a stored read, Race if somebody stored or changed one of them meanwhile; then
the caller rolls back and settles each batch with every row looked up. StorageBroken if the database copied another
number of rows than it was given. Knows nothing of ledger and connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray

from meterwatch.batch import ReadChange, Reads
from meterwatch.errors import StorageBroken
from storage.changes import change_of, joined
from storage.probe import ABSENT, OTHER
from storage.reads_table import ReadsTable
from storage.rows import HEADER, TRAILER, columns_of, encode, sent_of


class Outcome(NamedTuple):
    """What became of the reads of one batch."""

    accepted: int
    versions: int
    duplicates: int
    change: ReadChange | None


def settle(
    cursor: psycopg.Cursor[Any],
    table: ReadsTable,
    batches: Sequence[Reads],
    suspects: Sequence[NDArray[np.bool_] | None],
    now_us: int,
    *,
    insist: bool = False,
) -> list[Outcome]:
    """Store the reads; suspects: per batch the rows to look up first, None: none of them. insist: see supersede."""
    fresh: list[Reads] = []
    outcomes: list[Outcome] = []
    for reads, suspect in zip(batches, suspects, strict=True):
        if suspect is None:
            fresh.append(reads)
            outcomes.append(Outcome(reads.rows, 0, 0, change_of(reads) if reads.rows else None))
        else:
            new, outcome = _look_up(cursor, table, reads, suspect, now_us, insist)
            fresh.append(new)
            outcomes.append(outcome)
    _copy(cursor, table, [reads for reads in fresh if reads.rows], now_us)
    return outcomes


def _copy(cursor: psycopg.Cursor[Any], table: ReadsTable, fresh: Sequence[Reads], now_us: int) -> None:
    if not fresh:
        return
    rows = sum(reads.rows for reads in fresh)
    table.before_copy(cursor, rows)
    sent = reduce(or_, map(sent_of, fresh))
    query = f"COPY reads ({', '.join(columns_of(sent))}) FROM STDIN (FORMAT BINARY)"
    with cursor.copy(query) as copy:
        copy.write(HEADER)
        for reads in fresh:
            copy.write(encode(reads, now_us, sent))
        copy.write(TRAILER)
    if cursor.rowcount != rows:
        raise StorageBroken(f"{cursor.rowcount} reads copied, {rows} given")


def _look_up(
    cursor: psycopg.Cursor[Any],
    table: ReadsTable,
    reads: Reads,
    suspect: NDArray[np.bool_],
    now_us: int,
    insist: bool,
) -> tuple[Reads, Outcome]:
    rows = np.flatnonzero(suspect)
    state = table.probe(cursor, reads, rows)
    new = ~suspect
    new[rows[state == ABSENT]] = True
    other = rows[state == OTHER]
    changes = [change_of(reads, np.flatnonzero(new))] if new.any() else []
    versions = 0
    if len(other):
        settled = table.supersede(cursor, reads.take(other), now_us, insist=insist)
        versions = len(settled.won) + settled.lost
        if settled.replaced is not None:
            changes += [change_of(reads, other[settled.won]), settled.replaced]
    accepted = int(new.sum())
    outcome = Outcome(accepted, versions, reads.rows - accepted - versions, joined(changes))
    return reads.take(new), outcome
