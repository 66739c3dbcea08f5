"""Every call of the product whose SQL looks something up by a list of keys, with some keys of the young world.

Each says how many rows may be handled at most: its keys and the rows they have. Where that is a whole table, the reason
stands beside it. A call is made several times on the same rows, so it may write only what can be written again.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg_pool import AsyncConnectionPool
from young_world import (
    ALARMS,
    CUSTOMERS,
    DAY,
    DAY_US,
    DISTRICTS,
    ENDS,
    FILLED,
    METERS,
    RECEIVED_US,
    START_US,
    STEP_US,
    TRANSFORMERS,
)

from meterwatch.access.identity import Identity, Role
from meterwatch.access.trail import AuditRow
from meterwatch.alarms import AlarmFilter, AlarmState
from meterwatch.batch import Batch, Edit, EventBatch, Events, Reads, Rejects
from meterwatch.episodes import Verdict
from meterwatch.loads import LoadChange, Loads
from meterwatch.notices import Changes
from meterwatch.quality import ORIGIN_SHIFT, Origin
from meterwatch.registers import RegisterBatch, RegisterReads
from meterwatch.registry_csv import KINDS, RegistryCsv, parse
from meterwatch.sound_sums import meter_days_are_sums_of_reads
from meterwatch.v1 import reads_pb2
from meterwatch.weather import Reading
from storage import advice, load_estimates, probe, service_reads, sound_ledger, versions
from storage.alarms import AlarmStore
from storage.ambient import AmbientStore
from storage.arrays import moment
from storage.arrivals import Arrivals
from storage.arrived import Arrived
from storage.audit_log import AuditStore
from storage.columnstore import Columnstore
from storage.estimates import EstimateStore
from storage.evidence import EvidenceStore
from storage.fence import Fence
from storage.flexibility import FlexibilityStore
from storage.forecasts import ForecastStore
from storage.history import History
from storage.interruptions import InterruptionStore, Known
from storage.known import Known as KnownReads
from storage.loads import load_view, mark_evaluated
from storage.meter_days import COLUMNS, DayStore
from storage.outbox import Outbox
from storage.past_loads import PastLoads
from storage.planned import PlannedStore
from storage.receipts import ReceiptStore
from storage.registry import RegistryStore
from storage.service_reliability import Indices
from storage.sound import inspected
from storage.sound_alarms import alarms_are_their_last_transition, pages_follow_from_the_log, receipts_are_of_the_log
from storage.upkeep import Retention, Upkeep
from storage.writer import Writer

WINDOW_S: Final = 900
HANDLED_MAX: Final = 4
"""Rows a node may handle for each key and each row that a key has."""
STAMPS: Final = FILLED["read_stamps"][0]
_NO_REJECTS: Final = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])
_EVERYBODY: Final = Identity("op", frozenset(Role))
_NEXT: Iterator[int] = iter(range(1_000_000, 10**9))
"""A number nothing has had yet: of a batch, of a value."""


class Asked(NamedTuple):
    """Keys of the young world, and ways to it."""

    dsn: str
    pool: AsyncConnectionPool[Any]
    keys: int
    """How many of each kind."""
    slots: NDArray[np.int32]
    """Of customers, ascending, scattered."""
    transformers: NDArray[np.int64]

    def ends_us(self, first: int = 3, count: int = 3) -> NDArray[np.int64]:
        return START_US + np.arange(first, first + count) * STEP_US

    @contextmanager
    def cursor(self) -> Iterator[psycopg.Cursor[Any]]:
        """Of a connection that keeps nothing."""
        with (
            psycopg.connect(self.dsn, options="-c TimeZone=UTC -c statement_timeout=20s") as connection,
            connection.cursor() as cursor,
        ):
            yield cursor
            connection.rollback()


Lookup = Callable[[Asked], Awaitable[int]]
LOOKUPS: Final[dict[str, Lookup]] = {}


def asked(dsn: str, pool: AsyncConnectionPool[Any], keys: int) -> Asked:
    """So many keys, always the same."""
    scattered = np.random.default_rng(keys)
    slots = np.sort(scattered.permutation(CUSTOMERS)[:keys] + 1).astype(np.int32)
    return Asked(dsn, pool, keys, slots, np.sort(scattered.permutation(TRANSFORMERS)[:keys]).astype(np.int64))


def lookup(call: Lookup) -> Lookup:
    LOOKUPS[call.__name__] = call
    return call


def reads_of(slot: NDArray[np.int32], end_us: NDArray[np.int64], wh: int, origin: Origin = Origin.MEASURED) -> Reads:
    quality = np.full(len(slot), int(origin) << ORIGIN_SHIFT, np.int32)
    return Reads(slot, end_us, 900, quality, {"import_wh": np.full(len(slot), wh, np.int32)})


def batch_of(reads: Reads, edit: Edit | None = None) -> Batch:
    number = next(_NEXT)
    return Batch(0, 2, number, str(number).encode(), reads, _NO_REJECTS, 0, reads.rows, edit)


def crossed(ask: Asked) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Every slot under every end."""
    ends_us = ask.ends_us()
    return np.tile(ask.slots, len(ends_us)), np.repeat(ends_us, len(ask.slots))


# reads ---------------------------------------------------------------------------------------------------------------


@lookup
async def reads_written_that_are_stored_with_other_values(ask: Asked) -> int:
    slot, end_us = crossed(ask)
    writer = Writer(ask.dsn, {})
    try:
        [stored] = writer.write([batch_of(reads_of(slot, end_us, next(_NEXT)))], RECEIVED_US)
    finally:
        writer.close()
    assert stored.versions == len(slot)
    return 2 * len(slot)


@lookup
async def reads_edited(ask: Asked) -> int:
    slot, end_us = crossed(ask)
    number = next(_NEXT)
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
    reads = reads_of(slot, end_us, next(_NEXT), Origin.EDITED)
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


# events and registers ------------------------------------------------------------------------------------------------


@lookup
async def events_written(ask: Asked) -> int:
    at_us = np.full(ask.keys, START_US + next(_NEXT), np.int64)
    writer = Writer(ask.dsn, {})
    try:
        events = Events(ask.slots, at_us, np.ones(ask.keys, np.int16))
        number = next(_NEXT)
        request = EventBatch(0, 2, number, str(number).encode(), events, _NO_REJECTS, ask.keys)
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
    number = next(_NEXT)
    at_us = np.full(ask.keys, START_US - 3 * DAY_US, np.int64)
    value_wh = np.full(ask.keys, number, np.int64)
    reads = RegisterReads(ask.slots, at_us, np.ones(ask.keys, np.int16), value_wh)
    writer = Writer(ask.dsn, {})
    try:
        request = RegisterBatch(0, 2, number, str(number).encode(), reads, _NO_REJECTS, 0, ask.keys)
        stored, _ = writer.write_registers(request, RECEIVED_US)
    finally:
        writer.close()
    assert stored.versions == ask.keys
    return 4 * ask.keys


# judging days --------------------------------------------------------------------------------------------------------


@lookup
async def days_of_meters_judged(ask: Asked) -> int:
    start_us = np.full(ask.keys, START_US - DAY_US // 2, np.int64)
    end_us = start_us + DAY_US
    async with DayStore(ask.pool).step() as step:
        assert len((await step.reads(ask.slots, start_us, end_us))[0]) == ENDS * ask.keys
        await step.events(ask.slots, start_us, end_us)
        await step.registers(ask.slots, start_us, end_us)
        assert len((await step.stored(ask.slots, [DAY - back for back in (0, 1, 3, 7)]))[0]) == 4 * ask.keys
        slot, marked_us = crossed(ask)
        ones = np.ones(len(slot), np.int32)
        await step.mark_reads(slot, marked_us, ones * 8192, ones)
        columns = [np.full(ask.keys, START_US if name.endswith(("_at", "_end")) else 1, np.int64) for name in COLUMNS]
        await step.store(DAY, ask.slots, columns)
        await step.owe_later(ask.slots, [DAY - 1, DAY - 2])
        await step.owe_estimates(ask.slots, [DAY - 1, DAY - 2])
        at = [np.full(ask.keys, START_US, np.int64)] * 2
        wh = [np.ones(ask.keys, np.int64)] * 3
        await step.store_registers(DAY - 1, ask.slots, [ask.slots, np.ones(ask.keys, np.int32), *at, *wh])
        figures = tuple(np.zeros(ask.keys) for _ in range(3))
        await step.store_clocks(DAY, ask.slots, figures, np.ones(ask.keys, np.int64))
    return ENDS * ask.keys


@lookup
async def balances_of_transformers(ask: Asked) -> int:
    """Of those to which some of the meters belong, with their ten meters each."""
    async with DayStore(ask.pool).step() as step:
        energy = await step.energy(DAY, ask.slots, START_US, START_US + DAY_US, METERS + 1)
        measured = len(energy[0])
        assert measured >= ask.keys / 4
        await step.store_balances(DAY, energy, np.zeros(measured), np.arange(measured) % 2 == 0)
    return 10 * ask.keys


@lookup
async def marks_of_days_owed_and_taken(ask: Asked) -> int:
    days = DayStore(ask.pool)
    await days.owe(np.full(ask.keys, DAY - 1, np.int32), ask.slots)
    marks, _ = await days.owed(DAY - 1, ask.keys)
    async with days.step() as step:
        await step.paid(marks)
    estimates = EstimateStore(ask.pool)
    marks, _ = await estimates.owed(DAY - 1, ask.keys)
    await estimates.paid(marks)
    return METERS  # marks of that day, of which the oldest are taken


@lookup
async def reads_and_events_not_judged(ask: Asked) -> int:
    """A scan of all that has the ends of these batches."""
    await DayStore(ask.pool).unjudged()
    return METERS * ENDS


@lookup
async def interruptions_of_some_meters(ask: Asked) -> int:
    store = InterruptionStore(ask.pool)
    marks = await store.owe([("meter", slot, START_US) for slot in ask.slots.tolist()])
    start_us = np.full(ask.keys, START_US + 1, np.int64)
    known = Known(ask.slots, START_US - 3 * 3_600_000_000, ask.slots, start_us, start_us + 1)
    await store.write([known], marks)
    return 5 * ask.keys


# loads ---------------------------------------------------------------------------------------------------------------


@lookup
async def loads_and_marks_committed(ask: Asked) -> int:
    """What is owed is settled at once, all of it."""
    async with ask.pool.connection() as connection, connection.transaction(force_rollback=True):
        cursor = connection.cursor()
        for phases, past_owed in ((False, False), (True, True)):
            await cursor.execute("SELECT batch_id FROM batches WHERE NOT evaluated LIMIT 4")
            batch_ids = [row[0] for row in await cursor.fetchall()]
            await mark_evaluated(cursor, batch_ids, _change(ask, phases, past_owed))
    return METERS * 4


def _change(ask: Asked, phases: bool, past_owed: bool) -> LoadChange:
    n = ask.keys
    ones = np.ones(n, np.int64)
    window = np.full(n, START_US // STEP_US, np.int64)
    phase_wh = np.ones((n, 3), np.int64) if phases else None
    counted, added = (Loads(ask.transformers, window + i, ones, ones, ones, phase_wh) for i in (0, 1))
    return LoadChange(
        WINDOW_S, counted, ones, added, ones, ask.transformers, ones, past_owed, (1, 2), np.arange(1, 1 + n)
    )


@lookup
async def loads_of_some_transformers(ask: Asked) -> int:
    first = START_US // STEP_US
    for phases in (False, True):
        past = PastLoads(ask.pool, WINDOW_S, phases=phases)
        assert await past.oldest(ask.transformers) is not None
        assert len(await past.between(ask.transformers, first, first + 4)) == 4 * ask.keys
        async with load_view(ask.pool, WINDOW_S, phases=phases) as view:
            cells = view.loads(START_US, START_US + 4 * STEP_US, ask.transformers.tolist())
            assert sum([len(one) async for one in cells]) == 4 * ask.keys
    loads, _ = await ForecastStore(ask.pool, WINDOW_S).loads(ask.transformers, first, first + 4)
    assert len(loads) == 4 * ask.keys
    [end_us, *_] = await Arrivals(ask.pool).loads(ask.transformers.astype(np.int32), START_US, START_US + 4 * STEP_US)
    assert len(end_us) == 4
    return 5 * ask.keys


@lookup
async def load_estimates_of_some_transformers(ask: Asked) -> int:
    span = (START_US, START_US + 4 * STEP_US)
    async with ask.pool.connection() as connection, connection.transaction():
        await load_estimates.told_of(connection, ask.transformers, *span)
        ones = np.ones(ask.keys, np.int64)
        cells = Loads(ask.transformers, np.full(ask.keys, START_US // STEP_US, np.int64), ones, ones, ones)
        await load_estimates.store_estimates(connection, ask.transformers, span, WINDOW_S, cells, ones)
    return 4 * ask.keys


@lookup
async def what_customers_can_spare(ask: Asked) -> int:
    store = FlexibilityStore(ask.pool)
    assert len((await store.at(ask.slots, START_US))[0]) == ask.keys
    assert len((await store.energy(ask.slots, START_US))[0]) == ask.keys
    return 8 * ask.keys


@lookup
async def temperatures_of_some_areas(ask: Asked) -> int:
    store = AmbientStore(ask.pool)
    areas = [f"D{n}" for n in range(min(ask.keys, 20))]
    await store.record([Reading(area, START_US, 9.0 + next(_NEXT) % 7) for area in areas], RECEIVED_US)
    assert len(await store.readings(START_US, START_US + 3 * 3_600_000_000, areas=areas)) == 4 * len(areas)
    return 4 * 100  # of all areas in that time


# alarms --------------------------------------------------------------------------------------------------------------


@lookup
async def alarms_by_id(ask: Asked) -> int:
    assert len(await AlarmStore(ask.pool).get_many([f"A{n}" for n in ask.transformers])) == ask.keys
    return ask.keys


@lookup
async def alarms_that_verdicts_are_about(ask: Asked) -> int:
    span = (START_US - 10 * DAY_US, ())
    verdicts = [Verdict("OUTAGE", "transformer", int(one), *span) for one in ask.transformers]
    found = await AlarmStore(ask.pool).within(verdicts)
    return ask.keys + ALARMS // TRANSFORMERS * ask.keys + len(found)


@lookup
async def alarms_folded_into_one(ask: Asked) -> int:
    counts, _ = await AlarmStore(ask.pool).children("A7", 9, ["D1", "D2"])
    assert sum(counts.values()) == 2
    return 10


@lookup
async def alarms_of_a_filter(ask: Asked) -> int:
    """The newest that a filter lets through. A filter is no key: of a rare kind all are looked through."""
    one = AlarmFilter(rules=frozenset({"OUTAGE"}), labels=(("crew", frozenset({"7"})),))
    wanted = AlarmFilter(
        districts=frozenset({"D1", "D2"}),
        states=frozenset({AlarmState.NORMAL}),
        feeders=frozenset({"F1", "F2"}),
        any_of=(one,),
    )
    assert len(await AlarmStore(ask.pool).list_page(wanted, active_only=False, limit=9)) == 9
    return ALARMS


@lookup
async def calls_of_some_districts(ask: Asked) -> int:
    """What began to page in the last ten minutes."""
    now_us = START_US + 2 * ALARMS * 1_000_000
    pages = await AlarmStore(ask.pool).pages(
        now_us - 600_000_000, now_us, window_us=600_000_000, chatter_count=3, top=9, most=9, districts=["D1", "D2"]
    )
    assert pages.windows
    return 600


@lookup
async def messages_of_targets_that_are_gone(ask: Asked) -> int:
    await Outbox(ask.pool).commit(Changes(targets=frozenset({"crew", "desk"})), RECEIVED_US)
    return ALARMS // 1000


@lookup
async def receipts_of_some_transitions(ask: Asked) -> int:
    seqs = [2 * int(n) + 2 for n in ask.transformers]
    assert len(await ReceiptStore(ask.pool).of(seqs, 1000)) == ask.keys
    return ALARMS  # messages, of which so many are kept at most


@lookup
async def audit_rows_written(ask: Asked) -> int:
    rows = [AuditRow("op", "LOCAL", "m", "o", "OK", "", START_US) for _ in range(ask.keys)]
    await AuditStore(ask.pool).write(rows)
    return ask.keys


# registry and places -------------------------------------------------------------------------------------------------


@lookup
async def planned_work_of_some_districts(ask: Asked) -> int:
    await PlannedStore(ask.pool).listed(START_US - 20 * 3_600_000_000, 100, ["D1", "D2"])
    return 42 + TRANSFORMERS  # those of the districts are listed first


@lookup
async def assets_of_some_districts(ask: Asked) -> int:
    """A page by name, cut from the list of all."""
    store = RegistryStore(ask.pool)
    for kind in ("feeder", "transformer", "meter"):
        assert await store.list_assets(kind, districts=["D1", "D2"], limit=9)
    return METERS


@lookup
async def registry_files_that_change_some_meters(ask: Asked) -> int:
    """Merged with all of their kind."""
    header = ",".join(KINDS["meters"].columns)
    phase = "ABC"[next(_NEXT) % 3]
    moved = "".join(f"M{slot},T{slot % 7},{phase},230,100,,1,900,2020-01-01,,PLC,DC1,\n" for slot in ask.slots)
    parsed = parse([RegistryCsv("meters", "meters.csv", f"{header}\n{moved}".encode())])
    imported = await RegistryStore(ask.pool).import_files(parsed, START_US + next(_NEXT), dry_run=True)
    assert not imported.problems
    return METERS * 4


@lookup
async def indices_of_some_districts(ask: Asked) -> int:
    """Sums over all of the grid, and over all interruptions of that time."""
    day = moment(START_US).date()
    for by in ("feeder", "district"):
        assert await Indices(ask.pool, 300).of(
            by, "day", day, moment(START_US + DAY_US).date(), RECEIVED_US, "UTC", ["D1"]
        )
    return METERS * 6


# upkeep and doctor ---------------------------------------------------------------------------------------------------


@lookup
async def old_rows_dropped_in_slices(ask: Asked) -> int:
    """An age is a condition on all rows of a table."""
    async with ask.pool.connection() as connection:
        upkeep = Upkeep(ask.pool, None, Retention())
        await upkeep._slices(connection, "asset_shelves", "until_at < %s", moment(START_US - 1))
    return METERS


@lookup
async def the_deep_check(ask: Asked) -> int:
    """Reads every table once."""
    async with inspected(ask.dsn, Retention(), patience_s=0.0) as db:
        for law in (
            meter_days_are_sums_of_reads, alarms_are_their_last_transition, pages_follow_from_the_log,
            receipts_are_of_the_log,
        ):  # fmt: skip
            async for _ in law(db):
                pass
        await sound_ledger._still_waiting(db, set(range(1, 1 + ask.keys)))
    return METERS * ENDS


@lookup
async def advice_on_settings(ask: Asked) -> int:
    """A function lists all settings there are."""
    with psycopg.connect(ask.dsn, autocommit=True) as connection:
        assert advice.read_settings(connection)
    return 600


# what people ask in SQL ----------------------------------------------------------------------------------------------

_SPAN: Final = "end_at > %(first)s AND end_at <= %(last)s"
_WINDOWS: Final = "window_end > %(first)s AND window_end <= %(last)s"
OPERATORS: Final[dict[str, tuple[str, int]]] = {
    "meter_reads": (f"WHERE meter = ANY(%(meters)s) AND {_SPAN}", 3 * METERS),
    "read_history": (f"WHERE slot = ANY(%(slots)s) AND {_SPAN}", 3 * METERS),
    "reads_as_of": (f"(%(last)s) WHERE slot = ANY(%(slots)s) AND {_SPAN}", 3 * METERS),
    "my_reads": (f"WHERE meter = ANY(%(meters)s) AND {_SPAN}", 3 * METERS),
    "my_meters": ("WHERE meter = ANY(%(meters)s)", METERS),
    "my_transformers": ("WHERE transformer = ANY(%(transformers)s)", TRANSFORMERS),
    "my_loads": (f"WHERE transformer = ANY(%(transformers)s) AND {_WINDOWS}", 3 * TRANSFORMERS),
    "my_alarms": ("WHERE alarm_id = ANY(%(alarms)s)", ALARMS),
    "my_districts": ("", DISTRICTS),
    "registry": ("WHERE meter = ANY(%(meters)s)", METERS),
    "meter_day_energy": ("WHERE meter = ANY(%(meters)s) AND day = %(day)s", METERS),
    "missing_intervals": ("WHERE meter = ANY(%(meters)s) AND day = %(day)s", 96 * METERS),
    "customer_interruptions": ("WHERE meter = ANY(%(meters)s)", 4 * METERS),
    "transformer_load_curve": (f"WHERE transformer = ANY(%(transformers)s) AND {_WINDOWS}", 6 * TRANSFORMERS),
    "transformer_forecast_curve": ("WHERE transformer = ANY(%(transformers)s)", TRANSFORMERS),
    "alarm_deliveries": ("WHERE alarm_id = ANY(%(alarms)s)", 2 * ALARMS),
    "alarm_receipts": ("WHERE alarm_id = ANY(%(alarms)s)", 2 * ALARMS),
    "district_losses": ("WHERE day = %(day)s AND district = 'D1'", TRANSFORMERS),
    "feeder_load_curve": ("(%(first)s, %(last)s)", 3 * TRANSFORMERS),
    "read_completeness": ("(%(first)s, %(last)s)", 3 * METERS),
    "reliability_indices": ("('district', 'day', %(day)s, %(day)s::date + 1)", 6 * METERS),
    "reliability_by_month": ("", 14 * 4 * METERS),
}
"""View or function -> how it is asked, and how many rows there are of that time: people's questions may go through
them, each a few times at most."""


def _operator(name: str, how: str, rows: int) -> Lookup:
    async def call(ask: Asked) -> int:
        ends_us = ask.ends_us()
        given = {
            "meters": [f"M{slot}" for slot in ask.slots],
            "slots": ask.slots.tolist(),
            "transformers": [f"T{n}" for n in ask.transformers],
            "alarms": [f"A{n}" for n in ask.transformers],
            **{"first": moment(int(ends_us[0]) - 1), "last": moment(int(ends_us[-1])), "day": moment(START_US).date()},
        }
        with ask.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {name} {how}", given)
        return rows

    return call


LOOKUPS.update({name: _operator(name, how, rows) for name, (how, rows) in OPERATORS.items()})
