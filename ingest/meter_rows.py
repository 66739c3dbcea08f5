"""What requests of events and of register reads share: rows of a meter and a time, in columns of one length.

Refuses to know what a row says of its meter.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.decode import SEQ_MAX, check_id
from meterwatch.check_profile import Limits
from meterwatch.errors import Rejected
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

ROWS_MAX = 65_000
"""Rows of a request, and meters that it names."""


def check_rows(
    request: pb.SendEventsRequest | pb.SendRegistersRequest, noun: str, **columns: NDArray[Any]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """meter_index and at_us of a request whose shape is sound; `columns` are its others, by name.

    Rejected BAD_SEQ, EMPTY_BATCH, TOO_MANY_ROWS, COLUMN_LENGTH, INDEX_RANGE, or for a meter's name.
    """
    if not (0 < request.epoch <= SEQ_MAX and 0 < request.seq <= SEQ_MAX):
        raise Rejected(
            "BAD_SEQ", f"epoch {request.epoch}, seq {request.seq}; expected 1 to 2^63 - 1; count requests from 1"
        )
    index = np.array(request.meter_index, np.uint32)
    at_us = np.array(request.at_us, np.int64)
    rows = len(at_us)
    if rows == 0:
        raise Rejected("EMPTY_BATCH", f"empty request: 0 {noun}; expected at least 1; skip it")
    if max(rows, len(request.meter)) > ROWS_MAX:
        raise Rejected(
            "TOO_MANY_ROWS",
            f"{rows} {noun} of {len(request.meter)} meters; expected at most {ROWS_MAX} of both; split the request",
        )
    for name, column in {"meter_index": index, **columns}.items():
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
    return index, at_us


def check_known(name: str, column: NDArray[np.int64], kinds: Iterable[IntEnum]) -> None:
    """Rejected UNKNOWN_ENUM for a number that is none of these."""
    numbers = [int(kind) for kind in kinds]
    unknown = ~np.isin(column, numbers)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise Rejected(
            "UNKNOWN_ENUM", f"row {row}: {name} {int(column[row])} unknown; known {min(numbers)}..{max(numbers)}"
        )


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
