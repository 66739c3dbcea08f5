"""Calls of the product that look up alarms, assets and what is kept of them by a list of keys."""

from __future__ import annotations

import numpy as np
import psycopg
from asked import NEXT, Asked, lookup
from young_world import (
    ALARMS,
    DAY_US,
    ENDS,
    METERS,
    RECEIVED_US,
    START_US,
    STEP_US,
    TRANSFORMERS,
)

from meterwatch.access.trail import AuditRow
from meterwatch.alarms import AlarmFilter, AlarmState
from meterwatch.episodes import Verdict
from meterwatch.notices import Changes
from meterwatch.registry_csv import KINDS, RegistryCsv, parse
from meterwatch.sound_sums import meter_days_are_sums_of_reads
from storage import advice, sound_ledger
from storage.alarms import AlarmStore
from storage.arrays import moment
from storage.audit_log import AuditStore
from storage.history import History
from storage.outbox import Outbox
from storage.planned import PlannedStore
from storage.receipts import ReceiptStore
from storage.registry import RegistryStore
from storage.service_reliability import Indices
from storage.sound import inspected
from storage.sound_alarms import alarms_are_their_last_transition, pages_follow_from_the_log, receipts_are_of_the_log
from storage.suspended import Kept, SuspendedStore
from storage.upkeep import Retention, Upkeep


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
async def outages_told_around_a_moment(ask: Asked) -> int:
    assets = ask.transformers.astype(np.int32)
    await History(ask.pool).outages_around("transformer", assets, np.full(ask.keys, START_US + STEP_US))
    return ask.keys + ALARMS // TRANSFORMERS * ask.keys


@lookup
async def what_a_rule_has_missed(ask: Asked) -> int:
    since_us = np.full(ask.keys, START_US - DAY_US)
    one = Kept("OVERLOAD", "transformer", START_US, START_US, "raised", ask.transformers, since_us)
    await SuspendedStore(ask.pool).keep(one)
    return ask.keys


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


@lookup
async def changes_begun_whose_outcome_is_there(ask: Asked) -> int:
    """Of those since it was done last, and of all the first time."""
    store = AuditStore(ask.pool)
    begun = [AuditRow("op", "LOCAL", "m", "o", "BEGUN", "", START_US, 1, 1 + n) for n in range(ask.keys)]
    await store.write(begun)
    assert await store.settle() == 0
    return ALARMS


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
    phase = "ABC"[next(NEXT) % 3]
    moved = "".join(f"M{slot},T{slot % 7},{phase},230,100,,1,900,2020-01-01,,PLC,DC1,\n" for slot in ask.slots)
    parsed = parse([RegistryCsv("meters", "meters.csv", f"{header}\n{moved}".encode())])
    imported = await RegistryStore(ask.pool).import_files(parsed, START_US + next(NEXT), dry_run=True)
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
