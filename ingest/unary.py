"""The two small calls as columns: reads given one message each, and events."""

from __future__ import annotations

from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from ingest.meter_rows import check_known, check_rows, screened
from meterwatch.batch import EventCode, Events, Rejects
from meterwatch.channels import CHANNEL_BIT, CHANNELS
from meterwatch.check_profile import Limits
from meterwatch.errors import Rejected
from meterwatch.topology import PHASE_A, PHASE_B, PHASE_C, Topology
from meterwatch.v1 import ingest_pb2 as pb

READS_MAX = 1000
ALL_PHASES: Final = PHASE_A | PHASE_B | PHASE_C
OF_PHASES: Final = (EventCode.POWER_FAIL, EventCode.POWER_RESTORED, EventCode.PHASE_LOSS, EventCode.PHASE_RETURN)


def batch_of_rows(request: pb.SendReadsRequest) -> tuple[pb.Dictionary, pb.ReadBatch]:
    """The dictionary and the batch that say the same. Rejected EMPTY_BATCH, TOO_MANY_ROWS."""
    if not request.read:
        raise Rejected("EMPTY_BATCH", "empty request: 0 reads; expected at least 1; skip it")
    if len(request.read) > READS_MAX:
        raise Rejected(
            "TOO_MANY_ROWS", f"{len(request.read)} reads; expected at most {READS_MAX}; use Ingest.Stream for bulk"
        )
    meters = list(dict.fromkeys(read.meter for read in request.read))
    index = {meter: i for i, meter in enumerate(meters)}
    batch = pb.ReadBatch(seq=request.seq, interval_s=request.interval_s)
    batch.meter_index.extend(index[read.meter] for read in request.read)
    batch.stamp_us.extend(read.end_us for read in request.read)
    masks = [sum(CHANNEL_BIT.get(field.name, 0) for field, _ in read.ListFields()) for read in request.read]
    batch.channel_mask.extend(masks)
    for channel in CHANNELS:
        if any(mask & CHANNEL_BIT[channel.name] for mask in masks):
            getattr(batch, channel.name).extend(getattr(read, channel.name) for read in request.read)
    return pb.Dictionary(meter=meters), batch


def events_of(
    request: pb.SendEventsRequest, head_end_id: int, topology: Topology, now_us: int, limits: Limits
) -> tuple[Events, Rejects, int]:
    """Screen events: unknown meter, before installation, in the future or too old go to quarantine.

    Returns the events to store, the rejects, and the rows sent. Rejected for what makes the whole request unusable.
    """
    code = np.array(request.code, np.int64)
    phases = np.array(request.phases, np.int64) if request.phases else np.zeros(len(request.at_us), np.int64)
    index, at_us = check_rows(request, "events", code=code, phases=phases)
    check_known("code", code, EventCode)
    if (phases > ALL_PHASES).any():
        row = int(np.argmax(phases > ALL_PHASES))
        raise Rejected("UNKNOWN_ENUM", f"row {row}: phases {int(phases[row])} unknown; known bits 1 A, 2 B, 4 C")
    slots = topology.slots_of(request.meter)[index]
    reason = screened(slots, at_us, head_end_id, topology, now_us, limits)
    good = np.flatnonzero(reason == 0)
    bad = np.flatnonzero(reason)
    detail = [
        orjson.dumps({"meter": request.meter[int(index[row])], "at_us": int(at_us[row]), "code": int(code[row])})
        for row in bad
    ]
    events = Events(slots[good], at_us[good], code[good].astype(np.int16), named(code, phases)[good])
    return events, Rejects(bad.astype(np.uint32), reason[bad], detail), len(at_us)


def named(code: NDArray[np.int64], phases: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Phases by event; 0 for codes that are not about any, so that what says the same is the same."""
    return np.where(np.isin(code, OF_PHASES), phases, 0).astype(np.uint8)
