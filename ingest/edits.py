"""Reads put in by hand as a batch: the same decoding and the same checks as any other, and all rows or none.

An editor is no head-end: every meter is his, and a read may be as old as any head-end may send it. The batch is entered
in the ledger under BY_HAND and two numbers made of the action's id, so that the same action again gets its answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

import numpy as np
import structlog

from ingest.decode import SEQ_MAX, check_id, columns, fingerprint
from ingest.ports import Pipeline
from ingest.unary import READS_MAX, batch_of_rows
from ingest.validate import validate
from meterwatch.batch import Batch, Edit
from meterwatch.check_profile import CheckProfile
from meterwatch.errors import Rejected
from meterwatch.quality import Origin
from meterwatch.texts import check_text
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

BY_HAND: Final = 0
"""In the place of a head-end's number; those begin at 1."""

_log = structlog.get_logger(__name__)


async def edit(
    pipeline: Pipeline, request: pb.EditReadsRequest, digest: bytes, checks: CheckProfile
) -> pb.EditReadsResponse:
    """Put reads in and say what became of them, when they are committed and evaluated."""
    batch = edited(request, digest, pipeline.topology(), pipeline.clock.now_us(), checks)
    stored = await pipeline.submit(batch)
    if stored.reused:
        raise Rejected(
            "ACTION_ID_REUSED",
            f"action_id {request.action_id!r} was used for another edit; choose a new one for each action",
        )
    _log.info("reads edited", action_id=request.action_id, operator=request.operator, reads=batch.rows_sent)
    return pb.EditReadsResponse(
        edited=stored.accepted + stored.versions, unchanged=stored.duplicates, replayed=stored.replayed
    )


def edited(request: pb.EditReadsRequest, digest: bytes, topology: Topology, now_us: int, checks: CheckProfile) -> Batch:
    """The batch to submit. Rejected for the first thing that is wrong with any of its reads."""
    check_text("action_id", request.action_id, 1, 64)
    check_text("operator", request.operator, 1, 128)
    check_text("reason", request.reason, 1, 2000)
    epoch, seq = _ledger_key(request.action_id)
    dictionary, wire = batch_of_rows(
        pb.SendReadsRequest(seq=seq, interval_s=request.interval_s, read=list(request.read))
    )
    wire.origin.extend([int(Origin.EDITED)] * len(request.read))
    for meter in dictionary.meter:
        check_id(meter, "meter")
    meters = list(dictionary.meter)
    found = columns(wire, np.array([fingerprint(meter) for meter in meters], np.uint32), READS_MAX)
    slot = topology.slots_of(meters)[found.meter_index]
    his = replace(
        topology,
        head_end_of=np.full_like(topology.head_end_of, -1),
        late_window_us=topology.late_window_us.max(keepdims=True),
    )
    batch = validate(found, slot, meters, BY_HAND, epoch, his, now_us, checks)
    if len(batch.rejects.row):
        row, reason = int(batch.rejects.row[0]), pb.RowReason.Name(pb.RowReason.ValueType(int(batch.rejects.reason[0])))
        raise Rejected(
            "BAD_EDIT",
            f"read {row}: {reason.removeprefix('ROW_REASON_')}; reads that can be stored were expected, and nothing is "
            "stored; correct it",
        )
    if batch.inner_duplicates:
        raise Rejected(
            "BAD_EDIT", f"{batch.inner_duplicates} reads occur twice; each once was expected; leave them out"
        )
    order = np.lexsort((slot, found.end_us))  # as validate leaves them
    edit = Edit(request.action_id, request.operator, request.reason, _expected(request)[order])
    return replace(batch, digest=digest, edit=edit)


def _ledger_key(action_id: str) -> tuple[int, int]:
    """Epoch and seq; 126 bits, so no two actions share them."""
    hashed = hashlib.sha256(action_id.encode()).digest()
    return tuple(int.from_bytes(hashed[at : at + 8]) & SEQ_MAX or 1 for at in (0, 8))  # type: ignore[return-value]


def _expected(request: pb.EditReadsRequest) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    expected = np.array(request.expected_version, np.int64)
    if not len(expected):
        return np.zeros(len(request.read), np.int64)
    if len(expected) != len(request.read):
        raise Rejected(
            "COLUMN_LENGTH",
            f"expected_version {len(expected)}, read {len(request.read)}; expected one value per read, or none",
        )
    return expected
