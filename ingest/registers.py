"""A request of cumulative register reads as columns: screened, with what is wrong with a row beside it.

Knows no order: a register that went back is found where both reads are stored (rules.register_checks).
"""

from __future__ import annotations

import numpy as np
import orjson
from numpy.typing import NDArray

from ingest.decode import SEQ_MAX, check_id
from ingest.unary import screened
from meterwatch.batch import Rejects
from meterwatch.check_profile import Limits
from meterwatch.errors import Rejected
from meterwatch.registers import Register, RegisterBatch, RegisterReads
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

ROWS_MAX = 65_000


def registers_of(
    request: pb.SendRegistersRequest, digest: bytes, head_end_id: int, topology: Topology, now_us: int, limits: Limits
) -> RegisterBatch:
    """Screen a request; Rejected for what makes all of it unusable."""
    index, at_us, register, value_wh = _columns(request)
    slots = topology.slots_of(request.meter)[index]
    reason = screened(slots, at_us, head_end_id, topology, now_us, limits)
    reason[(value_wh < 0) & (reason == 0)] = pb.ROW_REASON_NEGATIVE
    good = np.flatnonzero(reason == 0)
    order = good[np.lexsort((value_wh[good], at_us[good], register[good], slots[good]))]
    same = np.ones(max(len(order) - 1, 0), np.bool_)
    for column in (slots, register, at_us):
        same &= column[order[1:]] == column[order[:-1]]
    differs = value_wh[order[1:]] != value_wh[order[:-1]] if len(order) else same
    group = np.concatenate(([0], np.cumsum(~same))) if len(order) else np.zeros(0, np.int64)
    clash = np.isin(group, group[1:][same & differs])
    repeat = np.concatenate(([False], same))[: len(order)] & ~clash
    reason[order[clash]] = pb.ROW_REASON_AMBIGUOUS
    kept = order[~clash & ~repeat]
    bad = np.flatnonzero(reason)
    detail = [
        orjson.dumps(
            {
                "meter": request.meter[int(index[row])],
                "at_us": int(at_us[row]),
                "register": int(register[row]),
                "value_wh": int(value_wh[row]),
            }
        )
        for row in bad
    ]
    reads = RegisterReads(slots[kept], at_us[kept], register[kept].astype(np.int16), value_wh[kept])
    rejects = Rejects(bad.astype(np.uint32), reason[bad], detail)
    return RegisterBatch(head_end_id, request.epoch, request.seq, digest, reads, rejects, int(repeat.sum()), len(at_us))


def _columns(
    request: pb.SendRegistersRequest,
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    if not (0 < request.epoch <= SEQ_MAX and 0 < request.seq <= SEQ_MAX):
        raise Rejected(
            "BAD_SEQ", f"epoch {request.epoch}, seq {request.seq}; expected 1 to 2^63 - 1; count requests from 1"
        )
    index = np.array(request.meter_index, np.uint32)
    at_us = np.array(request.at_us, np.int64)
    register = np.array(request.register, np.int64)
    value_wh = np.array(request.value_wh, np.int64)
    rows = len(at_us)
    if rows == 0:
        raise Rejected("EMPTY_BATCH", "empty request: 0 register reads; expected at least 1; skip it")
    if rows > ROWS_MAX:
        raise Rejected("TOO_MANY_ROWS", f"{rows} register reads; expected at most {ROWS_MAX}; split the request")
    for name, column in (("meter_index", index), ("register", register), ("value_wh", value_wh)):
        if len(column) != rows:
            raise Rejected("COLUMN_LENGTH", f"{name} {len(column)}, at_us {rows}; expected columns of one length")
    for meter in request.meter:
        check_id(meter, "meter")
    if (index >= len(request.meter)).any():
        row = int(np.argmax(index >= len(request.meter)))
        raise Rejected(
            "INDEX_RANGE",
            f"row {row}: index {int(index[row])}, meter has {len(request.meter)}; expected an index below",
        )
    known = np.isin(register, [int(one) for one in Register])
    if not known.all():
        row = int(np.argmax(~known))
        raise Rejected("UNKNOWN_ENUM", f"row {row}: register {int(register[row])} unknown; known 1..{max(Register):d}")
    return index, at_us, register, value_wh
