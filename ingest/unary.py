"""The two small calls as columns: reads given one message each, and events."""

from __future__ import annotations

from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from ingest.decode import SEQ_MAX, check_id
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
    if not (0 < request.epoch <= SEQ_MAX and 0 < request.seq <= SEQ_MAX):
        raise Rejected(
            "BAD_SEQ", f"epoch {request.epoch}, seq {request.seq}; expected 1 to 2^63 - 1; count requests from 1"
        )
    index = np.array(request.meter_index, np.uint32)
    at_us = np.array(request.at_us, np.int64)
    code = np.array(request.code, np.int64)
    rows = len(at_us)
    if rows == 0:
        raise Rejected("EMPTY_BATCH", "empty request: 0 events; expected at least 1; skip it")
    phases = np.array(request.phases, np.int64) if request.phases else np.zeros(rows, np.int64)
    for name, length in (("meter_index", len(index)), ("code", len(code)), ("phases", len(phases))):
        if length != rows:
            raise Rejected("COLUMN_LENGTH", f"{name} {length}, at_us {rows}; expected columns of one length")
    for meter in request.meter:
        check_id(meter, "meter")
    if (index >= len(request.meter)).any():
        row = int(np.argmax(index >= len(request.meter)))
        raise Rejected(
            "INDEX_RANGE",
            f"row {row}: index {int(index[row])}, meter has {len(request.meter)}; expected an index below",
        )
    known_code = np.isin(code, [int(c) for c in EventCode])
    if not known_code.all():
        row = int(np.argmax(~known_code))
        raise Rejected("UNKNOWN_ENUM", f"row {row}: code {int(code[row])} unknown; known {1}..{max(EventCode)}")
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
    return events, Rejects(bad.astype(np.uint32), reason[bad], detail), rows


def named(code: NDArray[np.int64], phases: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Phases by event; 0 for codes that are not about any, so that what says the same is the same."""
    return np.where(np.isin(code, OF_PHASES), phases, 0).astype(np.uint8)


def screened(
    slots: NDArray[np.int32],
    at_us: NDArray[np.int64],
    head_end_id: int,
    topology: Topology,
    now_us: int,
    limits: Limits,
) -> NDArray[np.uint8]:
    """Per row the RowReason why its meter or its time will not do; 0: they will. slots: -1 for an unknown meter."""
    at = np.maximum(slots, 0)
    reason = np.zeros(len(slots), np.uint8)

    def reject(mask: NDArray[np.bool_], why: int) -> None:
        reason[mask & (reason == 0)] = why

    reject(slots < 0, pb.ROW_REASON_UNKNOWN_METER)
    if topology.slots:
        owner = topology.head_end_of[at]
        reject((owner >= 0) & (owner != head_end_id), pb.ROW_REASON_NOT_YOURS)
    reject(at_us > now_us + limits.future_tolerance_us, pb.ROW_REASON_FUTURE)
    reject(at_us < now_us - topology.late_window_us[head_end_id], pb.ROW_REASON_TOO_OLD)
    if topology.slots:
        reject((at_us < topology.installed_us[at]) | (at_us > topology.retired_us[at]), pb.ROW_REASON_NOT_INSTALLED)
    return reason
