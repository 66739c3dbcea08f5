"""Messages of gRPC as targets of `meterwatch.devtools.fuzz`: batches, dictionaries, events, registers and edits.

What is taken is held to what validation promises to storage and rules: every row accounted for; nothing but finite
values of known meters on the grid gets past it.
"""

from __future__ import annotations

import random
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError, Message

from ingest.decode import columns, parse
from ingest.dictionary import Dictionary
from ingest.edits import edited
from ingest.registers import registers_of
from ingest.unary import batch_of_rows, events_of
from ingest.validate import validate
from meterwatch.batch import Batch, Rejects
from meterwatch.channels import CHANNEL_BIT, CHANNELS, ENERGY, VOLTAGE, Channel
from meterwatch.check_profile import DEFAULT
from meterwatch.devtools import broken_wire
from meterwatch.devtools.fuzz_target import ACCEPTED, Finding, Target
from meterwatch.errors import Rejected
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

US: Final = 1_000_000
NOW_US: Final = 1_770_076_800 * US
STEP_S: Final = 900
METERS: Final = [f"M-{n}" for n in range(8)]
HOME: Final = 1
_FAR: Final = int(np.iinfo(np.int64).max)


def _registry() -> Topology:
    """Eight meters on a transformer: one of another head-end, one retired, one of nobody, one with a multiplier."""
    n = len(METERS)
    zeros = np.zeros(n, np.int32)
    return Topology(
        as_of_us=1, meter=METERS, transformer_of=zeros, concentrator_of=zeros,
        head_end_of=np.array([HOME, HOME, HOME, HOME, HOME, HOME, 0, -1], np.int32),
        phases=np.array([1, 7, 0, 2, 1, 1, 1, 1], np.uint8), nominal_v=np.full(n, 230, np.float32),
        rated_a=np.full(n, 100, np.float32), contract_kw=np.array([10, 30, np.nan, 5, 5, 5, 5, 5], np.float32),
        interval_s=zeros + STEP_S, installed_us=np.zeros(n, np.int64),
        retired_us=np.array([_FAR] * 5 + [NOW_US - 9 * STEP_S * US] + [_FAR] * 2, np.int64),
        comm_mode=np.zeros(n, np.int16), comm_modes=["PLC"], transformer=["T"], feeder_of=np.zeros(1, np.int32),
        rated_kva=np.ones(1), transformer_district=[""], feeder=["F"], feeder_district=[""], concentrator=["C"],
        concentrator_head_end=np.zeros(1, np.int32), head_end=["OTHER", "HOME"],
        late_window_us=np.array([1, 45]) * 86_400 * US, slot_of={meter: slot for slot, meter in enumerate(METERS)},
        multiplier=np.array([1, 1, 1, 40, 1, 1, 1, 1], np.float32),
    )  # fmt: skip


WORLD: Final = _registry()


def _stamps(rng: random.Random, rows: int) -> list[int]:
    return [NOW_US - STEP_S * US * rng.randrange(1, 400) for _ in range(rows)]


def _value(rng: random.Random, channel: Channel) -> float:
    """One of a channel as a meter of 230 V and 100 A sends it; its status word is 0, or only summer time."""
    if channel.name == "device_status":
        return rng.choice((0, 8))
    if channel.name == "power_factor":
        return rng.uniform(-1, 1)
    if channel.name in ENERGY:
        return rng.randrange(900)
    return rng.uniform(200, 250) if channel.name in VOLTAGE else rng.uniform(0, 99)


def _batch(rng: random.Random) -> bytes:
    rows = rng.choice((1, 3, 8, 40))
    batch = pb.ReadBatch(seq=rng.randrange(1, 99), interval_s=STEP_S, value_meaning=rng.choice((0, 0, 1)))  # type: ignore[arg-type]
    batch.meter_index.extend(rng.randrange(len(METERS)) for _ in range(rows))
    batch.stamp_us.extend(_stamps(rng, rows))
    batch.import_wh.extend(rng.randrange(900) for _ in range(rows))
    for channel in CHANNELS[1:]:
        if rng.random() < 0.5:
            getattr(batch, channel.name).extend(_value(rng, channel) for _ in range(rows))
    if rng.random() < 0.3:
        batch.channel_mask.extend([1] * rows)
    if rng.random() < 0.3:
        batch.origin.extend([rng.randrange(5)] * rows)
    return pb.IngestRequest(batch=batch).SerializeToString()


def _break_batch(rng: random.Random, data: bytes) -> bytes:
    """One thing wrong with the batch, or now and then with the message around it."""
    if rng.random() < 0.1:
        return broken_wire.broken(rng, data)
    (around,) = broken_wire.taken_apart(data)
    return broken_wire.written(around._replace(payload=broken_wire.broken(rng, around.payload)))


def _take_message(data: bytes) -> str:
    request = parse(data)
    known = Dictionary(WORLD)
    if request.WhichOneof("message") == "dictionary":
        known.append(request.dictionary.meter, WORLD)
    known.append([meter for meter in METERS if meter not in request.dictionary.meter], WORLD)
    if request.WhichOneof("message") == "batch":
        found = columns(request.batch, known.fingerprints, 65_000)
        return _checked(validate(found, known.slots[found.meter_index], known, HOME, 7, WORLD, NOW_US, DEFAULT))
    return ACCEPTED


def _checked(batch: Batch) -> str:
    """ACCEPTED with what it shows, if a validated batch keeps what it promises to storage and rules."""
    reads = batch.reads
    if batch.rows_sent != reads.rows + len(batch.rejects.row) + batch.inner_duplicates:
        raise Finding(f"{batch.rows_sent} rows sent, {reads.rows} kept, {len(batch.rejects.row)} rejected")
    owner = WORLD.head_end_of[reads.slot]
    if ((reads.slot < 0) | ((owner != HOME) & (owner != -1))).any():
        raise Finding("a read of a meter that is not the head-end's")
    if (reads.end_us % (reads.interval_s * US)).any() or (reads.end_us > NOW_US + 120 * US).any():
        raise Finding("a read off the grid or of the future")
    for name, values in reads.channels.items():
        present = np.ones(reads.rows, np.bool_) if reads.mask is None else (reads.mask & CHANNEL_BIT[name]) != 0
        if not np.isfinite(values[present]).all():
            raise Finding(f"{name} is not finite")
    bits = int(np.bitwise_or.reduce(reads.quality, initial=0))
    return _shown(batch.rejects, *(f"bit {bit}" for bit in range(31) if bits >> bit & 1))


def _shown(rejects: Rejects, *others: str) -> str:
    """ACCEPTED, and why rows were not."""
    return "\n".join((ACCEPTED, *(f"row {reason}" for reason in np.unique(rejects.reason).tolist()), *others))


def _dictionary(rng: random.Random) -> bytes:
    meters = rng.sample(range(50), rng.randrange(1, 6))
    return pb.IngestRequest(dictionary=pb.Dictionary(meter=[f"N-{n}" for n in meters])).SerializeToString()


def _message(data: bytes, kind: type[Message]) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise Rejected("MALFORMED", f"{len(data)} bytes: {error}") from None


def _read(rng: random.Random) -> pb.Read:
    (end_us,) = _stamps(rng, 1)
    read = pb.Read(meter=rng.choice(METERS[:5]), end_us=end_us, import_wh=rng.randrange(900))
    for channel in rng.sample(CHANNELS[1:], 3):
        setattr(read, channel.name, _value(rng, channel))
    return read


def _reads(rng: random.Random) -> bytes:
    reads = [_read(rng) for _ in range(rng.randrange(1, 5))]
    return pb.SendReadsRequest(head_end="HOME", epoch=1, seq=1, interval_s=STEP_S, read=reads).SerializeToString()


def _take_reads(data: bytes) -> str:
    dictionary, batch = batch_of_rows(_message(data, pb.SendReadsRequest))
    known = Dictionary(WORLD)
    known.append(dictionary.meter, WORLD)
    found = columns(batch, known.fingerprints, 65_000)
    return _checked(validate(found, known.slots[found.meter_index], known, HOME, 7, WORLD, NOW_US, DEFAULT))


def _events(rng: random.Random) -> bytes:
    rows = rng.randrange(1, 6)
    return pb.SendEventsRequest(
        head_end="HOME", epoch=1, seq=1, meter=METERS, meter_index=[rng.randrange(len(METERS)) for _ in range(rows)],
        at_us=_stamps(rng, rows), code=[rng.randrange(1, 12) for _ in range(rows)],  # type: ignore[misc]
    ).SerializeToString()  # fmt: skip


def _take_events(data: bytes) -> str:
    limits = DEFAULT.at(NOW_US).ingest[0]
    events, rejects, rows = events_of(_message(data, pb.SendEventsRequest), HOME, WORLD, NOW_US, limits)
    if rows != events.rows + len(rejects.row):
        raise Finding(f"{rows} events sent, {events.rows} kept, {len(rejects.row)} rejected")
    return _shown(rejects)


def _registers(rng: random.Random) -> bytes:
    rows = rng.randrange(1, 6)
    return pb.SendRegistersRequest(
        head_end="HOME", epoch=1, seq=1, meter=METERS, meter_index=[rng.randrange(len(METERS)) for _ in range(rows)],
        at_us=_stamps(rng, rows), register=[rng.randrange(1, 3) for _ in range(rows)],  # type: ignore[misc]
        value_wh=[rng.randrange(10**9) for _ in range(rows)],
    ).SerializeToString()  # fmt: skip


def _take_registers(data: bytes) -> str:
    limits = DEFAULT.at(NOW_US).ingest[0]
    batch = registers_of(_message(data, pb.SendRegistersRequest), b"", HOME, WORLD, NOW_US, limits)
    if batch.rows_sent != len(batch.reads.slot) + len(batch.rejects.row) + batch.inner_duplicates:
        raise Finding(f"{batch.rows_sent} register reads sent, {len(batch.reads.slot)} kept")
    return _shown(batch.rejects)


def _edit(rng: random.Random) -> bytes:
    """Of several reads of one interval the last: two values for it are no sound edit."""
    drawn = [_read(rng) for _ in range(rng.randrange(1, 4))]
    reads = list({(read.meter, read.end_us): read for read in drawn}.values())
    return pb.EditReadsRequest(
        action_id="A-1",
        operator="eve",
        reason="misread",
        interval_s=STEP_S,
        read=reads,
        expected_version=[0] * len(reads),
    ).SerializeToString()


def _take_edit(data: bytes) -> str:
    batch = edited(_message(data, pb.EditReadsRequest), b"", WORLD, NOW_US, DEFAULT)
    if batch.rows_sent != batch.reads.rows:
        raise Finding(f"{batch.rows_sent} reads edited, {batch.reads.rows} kept")
    return ACCEPTED


MESSAGES: Final[dict[str, Target]] = {
    "batch": Target(_batch, _break_batch, _take_message),
    "dictionary": Target(_dictionary, broken_wire.broken, _take_message),
    "reads": Target(_reads, broken_wire.broken, _take_reads),
    "events": Target(_events, broken_wire.broken, _take_events),
    "registers": Target(_registers, broken_wire.broken, _take_registers),
    "edit": Target(_edit, broken_wire.broken, _take_edit),
}
