"""A small registry, batches made from rows, and a pipeline that stores into a dictionary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from oracle import DAY_US, Row

from ingest.decode import Columns, columns, fingerprint
from ingest.validate import validate
from meterwatch.batch import Batch, Stored
from meterwatch.channels import CHANNEL_BIT, CHANNELS
from meterwatch.check_profile import DEFAULT
from meterwatch.clock import ReplayClock
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

NOW_US = 1_700_000_100_000_000  # on the quarter-hour
FOREVER = np.iinfo(np.int64).max
LATE_WINDOW_US = 45 * DAY_US
INSTALLED_US = NOW_US - 2 * DAY_US
RETIRED_US = NOW_US - 3 * DAY_US
HOME = 1
"""Head-end of the tests; 0 is another's."""

# meter, head-end, phases, nominal V, rated A, contract kW, installed, retired
METERS = [
    ("ONE", HOME, 1, 230.0, 100.0, 10.0, 0, FOREVER),
    ("THREE", HOME, 7, 231.1, 63.7, 30.3, 0, FOREVER),
    ("PHASES-UNKNOWN", HOME, 0, 120.0, 100.0, np.nan, 0, FOREVER),
    ("", -1, 0, 230.0, 100.0, np.nan, FOREVER, FOREVER),  # a gap in the ids
    ("RETIRED", HOME, 1, 230.0, 100.0, 0.1, 0, RETIRED_US),
    ("NEW", HOME, 1, 230.0, 100.0, 5.0, INSTALLED_US, FOREVER),
    ("OTHERS", 0, 1, 230.0, 100.0, 5.0, 0, FOREVER),
    ("NOBODYS", -1, 3, 220.0, 40.0, 5.0, 0, FOREVER),
]


def registry(meters: list[tuple] = METERS, as_of_us: int = 1) -> Topology:
    """A snapshot with these meters; transformer and concentrator play no part."""
    name, head_end, phases, nominal, rated, contract, installed, retired = (
        zip(*meters, strict=True) if meters else [()] * 8
    )
    none = np.zeros(len(meters), np.int32)
    return Topology(
        as_of_us=as_of_us,
        meter=list(name),
        transformer_of=none,
        concentrator_of=none,
        head_end_of=np.array(head_end, np.int32),
        phases=np.array(phases, np.uint8),
        nominal_v=np.array(nominal, np.float32),
        rated_a=np.array(rated, np.float32),
        contract_kw=np.array(contract, np.float32),
        interval_s=none + 900,
        installed_us=np.array(installed, np.int64),
        retired_us=np.array(retired, np.int64),
        comm_mode=np.zeros(len(meters), np.int16),
        comm_modes=["PLC"],
        transformer=["T"],
        feeder_of=np.zeros(1, np.int32),
        rated_kva=np.ones(1),
        transformer_district=[""],
        feeder=["F"],
        feeder_district=[""],
        concentrator=["C"],
        concentrator_head_end=np.zeros(1, np.int32),
        head_end=["HES-OTHER", "HES"],
        late_window_us=np.array([DAY_US, LATE_WINDOW_US]),
        slot_of={meter: slot for slot, meter in enumerate(name) if meter},
    )


WORLD = registry()


def meters_of(rows: list[Row]) -> list[str]:
    """The dictionary of these rows."""
    return list(dict.fromkeys(row.meter for row in rows))


def message(rows: list[Row], interval_s: int = 900, seq: int = 1, *, with_mask: bool | None = None) -> pb.ReadBatch:
    """The batch that says these rows; a mask only where it is needed, unless told."""
    meters = meters_of(rows)
    sent = {name for row in rows for name in row.values}
    batch = pb.ReadBatch(
        seq=seq,
        interval_s=interval_s,
        meter_index=[meters.index(row.meter) for row in rows],
        stamp_us=[row.end_us for row in rows],
    )
    if with_mask or (with_mask is None and any(row.values.keys() != sent for row in rows)):
        batch.channel_mask.extend(sum(CHANNEL_BIT[name] for name in row.values) for row in rows)
    if any(row.origin for row in rows):
        batch.origin.extend(row.origin for row in rows)
    for channel in CHANNELS:
        if channel.name in sent:
            absent = float("nan") if channel.dtype.kind == "f" else 2**31 - 1  # never to be looked at
            getattr(batch, channel.name).extend(row.values.get(channel.name, absent) for row in rows)
    return batch


def decoded(batch: pb.ReadBatch, meters: list[str]) -> Columns:
    """Decode with this dictionary."""
    return columns(batch, fingerprints(meters), 65_000)


def fingerprints(meters: list[str]) -> np.ndarray:
    return np.array([fingerprint(meter) for meter in meters], np.uint32)


def checked(rows: list[Row], interval_s: int = 900, now_us: int = NOW_US, topology: Topology = WORLD) -> Batch:
    """Decode and validate rows as HOME sent them."""
    meters = meters_of(rows)
    found = decoded(message(rows, interval_s), meters)
    slots = np.array([topology.slot_of.get(meter, -1) for meter in meters], np.int32)
    return validate(found, slots[found.meter_index], meters, HOME, 7, topology, now_us, DEFAULT)


def reasons(batch: Batch) -> dict[int, int]:
    """Row number -> reason."""
    return dict(zip(batch.rejects.row.tolist(), batch.rejects.reason.tolist(), strict=True))


def kept(batch: Batch) -> list[tuple[int, int, int, dict]]:
    """The reads as the oracle tells them."""
    reads = batch.reads
    told = []
    for i in range(reads.rows):
        values = {
            name: column[i].item()
            for name, column in reads.channels.items()
            if reads.mask is None or reads.mask[i] & CHANNEL_BIT[name]
        }
        told.append((int(reads.slot[i]), int(reads.end_us[i]), int(reads.quality[i]), values))
    return told


class Sink:
    """A pipeline that remembers what it is given and answers like the ledger. `error`: raised by submit."""

    def __init__(self, topology: Topology = WORLD, now_us: int = NOW_US):
        self.clock = ReplayClock(now_us)
        self.now = topology
        self.batches: list[Batch] = []
        self.ledger: dict[tuple, tuple[bytes, Stored]] = {}
        self.error: Exception | None = None
        self.last = 0
        self.crowded = False

    def topology(self) -> Topology:
        return self.now

    def check_ready(self) -> None:
        pass

    async def last_acked(self, head_end_id, epoch):
        return self.last

    async def submit(self, batch):
        if self.error is not None:
            raise self.error
        key = batch.head_end_id, batch.epoch, batch.seq
        if key in self.ledger:
            digest, stored = self.ledger[key]
            return replace(stored, replayed=True, reused=digest != batch.digest)
        self.batches.append(batch)
        stored = Stored(
            seq=batch.seq,
            batch_id=len(self.batches),
            accepted=batch.reads.rows,
            versions=0,
            duplicates=batch.inner_duplicates,
            rejected_row=batch.rejects.row,
            rejected_reason=batch.rejects.reason,
            replayed=False,
            reused=False,
            change=None,
        )
        self.ledger[key] = batch.digest, stored
        return stored

    async def submit_events(self, *_):
        raise NotImplementedError

    def connected(self, head_end_id):
        pass

    def gone(self, head_end_id):
        pass
