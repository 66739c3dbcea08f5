"""From the bytes of one IngestRequest to columns, or a named refusal.

The deserialiser of the endpoint is the identity, so that whatever arrives reaches this module and can be answered in
band. Every refusal is a Rejected whose text says what arrived, what was expected, what to change. Nothing here knows
meters, clocks or the database.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from meterwatch.batch import Column
from meterwatch.channels import ALL_CHANNELS, CHANNEL_BIT, CHANNELS, INTERVALS_S
from meterwatch.errors import Rejected
from meterwatch.quality import Origin
from meterwatch.v1 import ingest_pb2 as pb

ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
UNKNOWN_FIELDS_MAX = 16
UNKNOWN_BYTES_MAX = 1024
"""A newer sender adds a few small fields; more is another message, or memory for nothing."""
SEQ_MAX = 2**63 - 1
"""Epoch and seq are bigint in the ledger."""
_U4 = np.dtype("<u4")
_I8 = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Columns:
    """One batch as sent, lengths checked. Arrays of length rows; meter_index is inside the dictionary."""

    seq: int
    interval_s: int
    meter_index: NDArray[np.uint32]
    end_us: NDArray[np.int64]
    channels: dict[str, Column]
    mask: NDArray[np.uint32] | None
    origin: NDArray[np.uint32] | None
    digest: bytes
    """16 bytes over meter numbers, stamps and values (not over dictionary indexes): the same reads sent again under the
    same seq have the same digest, on whatever stream; the same indexes of another dictionary have not."""
    secondary: bool = False
    """Energies are still to be multiplied (ValueMeaning)."""

    @property
    def rows(self) -> int:
        return len(self.end_us)


def parse(data: bytes) -> pb.IngestRequest:
    """Parse one message. Rejected MALFORMED if it is none."""
    try:
        request = pb.IngestRequest.FromString(data)
    except DecodeError as error:
        raise Rejected(
            "MALFORMED",
            f"{len(data)} bytes that are no meterwatch.v1.IngestRequest ({error}); expected a serialised one; "
            "send one generated from ingest.proto",
        ) from None
    _refuse_unknown(request, "IngestRequest")
    if request.WhichOneof("message") is None:
        raise Rejected(
            "MALFORMED",
            f"a message of {len(data)} bytes with neither hello, dictionary nor batch; expected one of them; "
            "fill one field of IngestRequest",
        )
    return request


def _refuse_unknown(message: Message, kind: str) -> None:
    """Rejected UNKNOWN_FIELDS if there are many unknown fields, or few large ones."""
    fields = UnknownFieldSet(message)
    if not len(fields):
        return
    if len(fields) > UNKNOWN_FIELDS_MAX:
        found = f"{len(fields)} unknown fields"
    else:
        unknown = [fields[i].data for i in range(len(fields))]
        size = sum(len(data) if isinstance(data, bytes) else 8 for data in unknown)
        group = any(isinstance(data, UnknownFieldSet) for data in unknown)
        if size <= UNKNOWN_BYTES_MAX and not group:
            return
        found = "an unknown group" if group else f"unknown fields of {size} bytes"
    raise Rejected("UNKNOWN_FIELDS", f"{found}; expected {kind} of ingest.proto; check the field numbers")


def check_id(text: str, what: str) -> str:
    """Return `text` if it is a legal identifier, else raise Rejected BAD_ID."""
    if not ID.fullmatch(text):
        shown = ascii(text if len(text) <= 80 else text[:80] + "...")
        raise Rejected(
            "BAD_ID", f"{what} {shown}; expected 1 to 64 of A-Z a-z 0-9 _ . : -; rename it or fix the sender"
        )
    return text


def fingerprint(meter: str) -> int:
    """32 bits that stand for a meter number in a batch's digest."""
    return zlib.crc32(meter.encode())


def columns(batch: pb.ReadBatch, fingerprints: NDArray[np.uint32], rows_max: int) -> Columns:
    """Turn a ReadBatch into arrays. Rejected with the reasons listed at Nack.reason.

    Args: fingerprints, of the meters of the stream's dictionary, by index; rows_max, limit of rows a batch.
    """
    dictionary_entries = len(fingerprints)
    if not 0 < batch.seq <= SEQ_MAX:
        raise Rejected("BAD_SEQ", f"seq {batch.seq}; expected 1 to 2^63 - 1; count batches from 1")
    _refuse_unknown(batch, "ReadBatch")
    end_us = np.array(batch.stamp_us, _I8)
    rows = len(end_us)
    index = np.array(batch.meter_index, _U4)
    if rows == 0 and len(index) == 0:
        raise Rejected("EMPTY_BATCH", "empty batch: 0 reads; expected at least 1; skip it")
    if rows > rows_max or len(index) > rows_max:
        raise Rejected("TOO_MANY_ROWS", f"{max(rows, len(index))} rows; expected at most {rows_max}; split the batch")
    _check_length("meter_index", len(index), rows)
    channels: dict[str, Column] = {}
    for channel in CHANNELS:
        values = np.array(getattr(batch, channel.name), channel.dtype)
        if len(values):
            _check_length(channel.name, len(values), rows)
            channels[channel.name] = values
    if not channels:
        raise Rejected("COLUMN_LENGTH", f"no channel for {rows} rows; expected at least one; send e.g. import_wh")
    if batch.interval_s not in INTERVALS_S:
        raise Rejected("INTERVAL", f"interval_s {batch.interval_s}; expected one of {list(INTERVALS_S)}; send seconds")
    outside = index >= dictionary_entries
    if outside.any():
        row = int(np.argmax(outside))
        raise Rejected(
            "INDEX_RANGE",
            f"row {row}: index {int(index[row])}, dictionary has {dictionary_entries}; expected an index below that; "
            "announce the meter in a Dictionary first",
        )
    mask = _optional("channel_mask", np.array(batch.channel_mask, _U4), rows)
    if mask is not None:
        if (mask & ~np.uint32(ALL_CHANNELS)).any():
            raise Rejected("UNKNOWN_ENUM", f"channel_mask has bits above 11; expected bits 0..{len(CHANNELS) - 1}")
        sent = np.uint32(sum(CHANNEL_BIT[name] for name in channels))
        missing = mask & ~sent
        if missing.any():
            row = int(np.argmax(missing != 0))
            raise Rejected(
                "COLUMN_LENGTH",
                f"row {row}: channel_mask {int(mask[row]):#x} names a channel without a column; "
                "expected bits of columns sent; clear the bit or send the column",
            )
    origin = _optional("origin", np.array(batch.origin, _U4), rows)
    if origin is not None and (origin > max(Origin)).any():
        row = int(np.argmax(origin > max(Origin)))
        raise Rejected(
            "UNKNOWN_ENUM",
            f"row {row}: origin {int(origin[row])} unknown; known 0..{int(max(Origin))}; "
            "upgrade the server or fix the sender",
        )
    if batch.stamp_meaning not in (0, 1):
        raise Rejected("UNKNOWN_ENUM", f"stamp_meaning {batch.stamp_meaning} unknown; known 0 and 1; fix the sender")
    if batch.stamp_meaning == pb.STAMP_MEANING_INTERVAL_START:
        top = np.iinfo(np.int64).max - batch.interval_s * 1_000_000
        end_us = np.minimum(end_us, top) + batch.interval_s * 1_000_000
    if batch.value_meaning not in (0, 1):
        raise Rejected("UNKNOWN_ENUM", f"value_meaning {batch.value_meaning} unknown; known 0 and 1; fix the sender")
    secondary = batch.value_meaning == pb.VALUE_MEANING_SECONDARY
    optional = {"channel_mask": mask, "origin": origin}
    digest = _digest(
        f"{batch.interval_s} secondary" if secondary else f"{batch.interval_s}",
        {
            "meter": fingerprints[index],
            "end_us": end_us,
            **{n: v for n, v in optional.items() if v is not None},
            **channels,
        },
    )
    return Columns(batch.seq, batch.interval_s, index, end_us, channels, mask, origin, digest, secondary)


def _digest(head: str, arrays: Mapping[str, Column]) -> bytes:
    """SHA-256, because processors have instructions for it: half the time of BLAKE2b."""
    state = hashlib.sha256(f"{head} {' '.join(arrays)}".encode())
    for values in arrays.values():
        state.update(values.data)
    return state.digest()[:16]


def _check_length(name: str, length: int, rows: int) -> None:
    if length != rows:
        raise Rejected(
            "COLUMN_LENGTH", f"{name} {length}, stamp_us {rows}; expected columns of one length; send one value per row"
        )


def _optional(name: str, values: NDArray[np.uint32], rows: int) -> NDArray[np.uint32] | None:
    if len(values) == 0:
        return None
    _check_length(name, len(values), rows)
    return values
