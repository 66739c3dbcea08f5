"""A request of cumulative register reads as columns: screened, with what is wrong with a row beside it.

Knows no order: a register that went back is found where both reads are stored (rules.register_checks).
"""

from __future__ import annotations

import numpy as np
import orjson

from ingest.meter_rows import check_known, check_rows, screened
from meterwatch.batch import Rejects
from meterwatch.check_profile import Limits
from meterwatch.registers import Register, RegisterBatch, RegisterReads
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb


def registers_of(
    request: pb.SendRegistersRequest, digest: bytes, head_end_id: int, topology: Topology, now_us: int, limits: Limits
) -> RegisterBatch:
    """Screen a request; Rejected for what makes all of it unusable."""
    register, value_wh = np.array(request.register, np.int64), np.array(request.value_wh, np.int64)
    index, at_us = check_rows(request, "register reads", register=register, value_wh=value_wh)
    check_known("register", register, Register)
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
