"""Calls of the product that look up reads, events and registers by a list of keys."""

from __future__ import annotations

import uuid
from typing import Final

import numpy as np
from asked import HANDLED_MAX, NEXT, NO_REJECTS, STAMPS, WINDOW_S, Asked, crossed, lookup
from numpy.typing import NDArray
from young_world import (
    DAY_US,
    DISTRICTS,
    ENDS,
    METERS,
    RECEIVED_US,
    START_US,
    STEP_US,
    TRANSFORMERS,
)

from meterwatch.access.identity import Identity, Role
from meterwatch.batch import Batch, Edit, EventBatch, Events, Reads
from meterwatch.quality import ORIGIN_SHIFT, Origin
from meterwatch.registers import RegisterBatch, RegisterReads
from meterwatch.v1 import reads_pb2
from storage import load_estimates, probe, service_reads, versions
from storage.arrivals import Arrivals
from storage.arrived import Arrived
from storage.columnstore import Columnstore
from storage.evidence import EvidenceStore
from storage.fence import Fence
from storage.history import History
from storage.known import Known as KnownReads
from storage.loads import load_view
from storage.writer import Writer

_EVERYBODY: Final = Identity("op", frozenset(Role))


def reads_of(slot: NDArray[np.int32], end_us: NDArray[np.int64], wh: int, origin: Origin = Origin.MEASURED) -> Reads:
    quality = np.full(len(slot), int(origin) << ORIGIN_SHIFT, np.int32)
    return Reads(slot, end_us, 900, quality, {"import_wh": np.full(len(slot), wh, np.int32)})


def batch_of(reads: Reads, edit: Edit | None = None) -> Batch:
    number = next(NEXT)
    return Batch(0, 2, number, str(number).encode(), reads, NO_REJECTS, 0, reads.rows, edit)


@lookup
async def reads_written_that_are_stored_with_other_values(ask: Asked) -> int:
    slot, end_us = crossed(ask)
    writer = Writer(ask.dsn, {})
    try:
        [stored] = writer.write([batch_of(reads_of(slot, end_us, next(NEXT)))], RECEIVED_US)
    finally:
        writer.close()
    assert stored.versions == len(slot)
    return 2 * len(slot)


@lookup
async def reads_edited(ask: Asked) -> int:
    slot, end_us = crossed(ask)
    number = next(NEXT)
    edit = Edit(f"e-{number}", "op", "why", np.zeros(len(slot), np.int64))
    writer = Writer(ask.dsn, {})
    try:
        [stored] = writer.write([batch_of(reads_of(slot, end_us, number, Origin.EDITED), edit)], RECEIVED_US)
    finally:
        writer.close()
    assert stored.versions == len(slot)
    return 2 * len(slot)


@lookup
async def reads_looked_up_and_settled_in_their_box(ask: Asked) -> int:
    """Out of the columnstore: the reads of all meters between them, an end after the other."""
    slot, end_us = crossed(ask)
    reads = reads_of(slot, end_us, next(NEXT), Origin.EDITED)
    table = Columnstore(KnownReads(0), Fence(uuid.uuid4(), 0), direct=False)
    with ask.cursor() as cursor:
        assert (table.probe(cursor, reads, np.arange(len(slot))) == probe.OTHER).all()
        versions.create_staging(cursor.connection)
        settled = table.supersede(cursor, reads, RECEIVED_US, insist=True)
        assert len(settled.won) == len(slot)
    return METERS


@lookup
async def reads_as_evidence(ask: Asked) -> int:
    ends_us = ask.ends_us()
    span = (int(ends_us[0]) - 1, int(ends_us[-1]))
    [found] = await EvidenceStore(ask.pool).reads(ask.slots, *span)
    assert found.rows == 3 * ask.keys
    return 3 * ask.keys


@lookup
async def reads_as_evidence_in_the_columnstore(ask: Asked) -> int:
    """A scan of the span."""
    await EvidenceStore(ask.pool, columnar=True).reads(ask.slots, START_US, START_US + 3 * STEP_US)
    return METERS * 3


@lookup
async def reads_with_their_arrival(ask: Asked) -> int:
    found = await Arrivals(ask.pool).reads(ask.slots, ask.ends_us())
    assert len(found[0]) == 3 * ask.keys
    return 3 * ask.keys


@lookup
async def who_sent_a_read_for_some_ends(ask: Asked) -> int:
    await Arrived(ask.pool).ask(ask.ends_us(), METERS + 1)
    return 3 * METERS


@lookup
async def history_of_some_meters(ask: Asked) -> int:
    ends_us = ask.ends_us()
    found = History(ask.pool).reads_between(int(ends_us[0]), int(ends_us[-1]) + 1, ask.slots)
    assert sum([len(change.slot) async for change in found]) == 3 * ask.keys
    return 3 * ask.keys


@lookup
async def history_of_some_meters_in_the_columnstore(ask: Asked) -> int:
    """A scan of the span."""
    found = History(ask.pool, columnar=True).reads_between(START_US, START_US + 4 * STEP_US, ask.slots)
    assert sum([len(change.slot) async for change in found]) == 3 * ask.keys
    return METERS * 4


@lookup
async def when_meters_were_heard_last(ask: Asked) -> int:
    slot, _ = await History(ask.pool).last_heard(ask.slots, START_US)
    assert len(slot) == ask.keys
    return ask.keys + STAMPS // HANDLED_MAX


@lookup
async def when_silent_meters_were_heard_last(ask: Asked) -> int:
    """Each is asked for under every end."""
    slot, _ = await History(ask.pool).last_heard(ask.slots + METERS, START_US)
    assert len(slot) == 0
    return ask.keys * ENDS + STAMPS // HANDLED_MAX


@lookup
async def reads_that_were_estimated(ask: Asked) -> int:
    async with ask.pool.connection() as connection:
        found = await load_estimates.estimates_of(connection, ask.slots, START_US + 2 * STEP_US, START_US + 5 * STEP_US)
    assert len(found.slot) == 0
    return 3 * ask.keys


@lookup
async def reads_to_count_loads_of(ask: Asked) -> int:
    """All of the day: a read of up to a day may reach into the span."""
    async with load_view(ask.pool, WINDOW_S) as view:
        span = (START_US + 2 * STEP_US, START_US + 5 * STEP_US)
        found = view.reads(ask.slots, METERS, *span)
        assert sum([len(change.slot) async for change in found]) >= 3 * ask.keys
    return ENDS * ask.keys


@lookup
async def reads_of_batches_whose_loads_are_owed(ask: Asked) -> int:
    """A scan of the days in which they end."""
    async with load_view(ask.pool, WINDOW_S) as view:
        await view.touched((await view.owed())[: ask.keys])
    return METERS * ENDS


@lookup
async def reads_of_meters_for_a_client(ask: Asked) -> int:
    for how in ({}, {"as_of_us": RECEIVED_US}, {"all_versions": True}):
        names = [f"M{slot}" for slot in ask.slots]
        ends_us = ask.ends_us()
        request = reads_pb2.QueryRequest(meter=names, from_us=int(ends_us[0]), to_us=int(ends_us[-1]) + 1, **how)
        await _queried(ask, request)
    return 6 * ask.keys + 64 * 3


@lookup
async def reads_of_meters_for_a_client_with_districts(ask: Asked) -> int:
    district = int(ask.slots[0] - 1) % DISTRICTS
    mine = [slot for slot in ask.slots.tolist() if (slot - 1) % DISTRICTS == district]
    ends_us = ask.ends_us()
    request = reads_pb2.QueryRequest(
        meter=[f"M{slot}" for slot in mine], from_us=int(ends_us[0]), to_us=int(ends_us[-1]) + 1
    )
    await _queried(ask, request, Identity("op", frozenset(Role), frozenset({f"D{district}"})))
    return 3 * max(len(mine), 10) + TRANSFORMERS // DISTRICTS


@lookup
async def reads_of_a_transformer_for_a_client(ask: Asked) -> int:
    ends_us = ask.ends_us()
    request = reads_pb2.QueryRequest(transformer="T7", from_us=int(ends_us[0]), to_us=int(ends_us[-1]) + 1)
    await _queried(ask, request)
    return 30


async def _queried(ask: Asked, request: reads_pb2.QueryRequest, identity: Identity = _EVERYBODY) -> None:
    async with ask.pool.connection() as connection, connection.transaction():
        stretches, unknown = await service_reads._stretches(connection, request, identity)
        assert not unknown
        rows = 0
        async for pieces in service_reads._chunks(connection, stretches, request):
            rows += sum(piece.rows for piece in pieces)
        assert rows >= 3 * len(stretches)


@lookup
async def events_written(ask: Asked) -> int:
    at_us = np.full(ask.keys, START_US + next(NEXT), np.int64)
    writer = Writer(ask.dsn, {})
    try:
        events = Events(ask.slots, at_us, np.ones(ask.keys, np.int16))
        number = next(NEXT)
        request = EventBatch(0, 2, number, str(number).encode(), events, NO_REJECTS, ask.keys)
        [(stored, _)] = writer.write_events([request], RECEIVED_US)
    finally:
        writer.close()
    assert stored.accepted == ask.keys
    return ask.keys


@lookup
async def events_with_their_arrival(ask: Asked) -> int:
    """Of all events of that time, see storage.history."""
    await Arrivals(ask.pool).events(ask.slots, START_US, START_US + DAY_US)
    return METERS * 10


@lookup
async def events_of_some_meters(ask: Asked) -> int:
    """Of all events of that time: looked up by meter, PostgreSQL may go through all of them for each."""
    await History(ask.pool).events_between(START_US, START_US + DAY_US, ask.slots)
    return METERS * 10


@lookup
async def registers_written_that_are_stored_with_other_values(ask: Asked) -> int:
    number = next(NEXT)
    at_us = np.full(ask.keys, START_US - 3 * DAY_US, np.int64)
    value_wh = np.full(ask.keys, number, np.int64)
    reads = RegisterReads(ask.slots, at_us, np.ones(ask.keys, np.int16), value_wh)
    writer = Writer(ask.dsn, {})
    try:
        request = RegisterBatch(0, 2, number, str(number).encode(), reads, NO_REJECTS, 0, ask.keys)
        stored, _ = writer.write_registers(request, RECEIVED_US)
    finally:
        writer.close()
    assert stored.versions == ask.keys
    return 4 * ask.keys
