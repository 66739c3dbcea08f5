"""Planned work and learnt delivery against a real database, and the calls that record work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import psycopg_pool
import pytest

from meterwatch.clock import ReplayClock
from meterwatch.delivery import Learnt
from meterwatch.errors import Missing
from meterwatch.planned import PlannedWork
from meterwatch.v1 import registry_pb2 as pb
from meterwatch.v1 import registry_pb2_grpc
from storage.delivery import DeliveryStore
from storage.planned import PlannedStore
from storage.registry import RegistryStore
from storage.service_registry import RegistryService

NOW_US = 1_760_000_000_000_000
HOUR_US = 3_600_000_000


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    """A pool on a registry of one feeder and one transformer, without plans, rows and alarms."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "TRUNCATE meter_links, meter_transformers, transformer_feeders, meters, concentrators, transformers,"
            " feeders, head_ends, planned_works, gasp_delivery, alarms RESTART IDENTITY"
        )
        connection.execute("INSERT INTO feeders (feeder) VALUES ('F1')")
        connection.execute("INSERT INTO transformers (transformer, rated_kva) VALUES ('T1', 400)")
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=3, open=False) as opened:
        yield opened


async def record(store: PlannedStore, work_id: str, to_us: int, kind: str = "transformer", asset: str = "T1") -> None:
    await store.record(work_id, kind, asset, NOW_US, to_us, "new fuse", "Kim", NOW_US)


async def test_a_work_is_changed_under_its_id_and_taken_back_but_not_forgotten(pool: Any) -> None:
    store = PlannedStore(pool)
    await record(store, "W-1", NOW_US + HOUR_US)
    await record(store, "W-1", NOW_US + 2 * HOUR_US)
    await record(store, "W-2", NOW_US + HOUR_US, "feeder", "F1")
    works = await store.works(NOW_US)
    assert PlannedWork("W-1", "transformer", 1, NOW_US, NOW_US + 2 * HOUR_US, "new fuse") in works
    assert [work.work_id for work in await store.works(NOW_US + 2 * HOUR_US)] == ["W-1"]
    await store.cancel("W-1", NOW_US)
    await store.cancel("W-1", NOW_US + 1)
    assert [work.work_id for work in await store.works(NOW_US)] == ["W-2"]
    listed = [(one.work.work_id, one.asset, one.cancelled) for one in await store.listed(0)]
    assert listed == [("W-1", "T1", True), ("W-2", "F1", False)]


async def test_work_on_what_is_not_registered_and_work_that_is_not_recorded_are_refused(pool: Any) -> None:
    store = PlannedStore(pool)
    with pytest.raises(Missing, match="T9"):
        await record(store, "W-1", NOW_US + HOUR_US, asset="T9")
    with pytest.raises(Missing, match="W-9"):
        await store.cancel("W-9", NOW_US)


async def test_a_row_of_delivery_stays_as_it_was_first_written(pool: Any) -> None:
    store = DeliveryStore(pool)
    first = Learnt(NOW_US, "PLC", 0.6125, 300, 500)
    await store.keep([first], NOW_US)
    await store.keep([first._replace(p_gasp=0.9)], NOW_US)
    assert await store.learnt() == [first]


async def test_only_long_root_outages_that_are_over_and_stand_teach(pool: Any) -> None:
    rows = [
        ("a", "SUSTAINED", "NORMAL", None, 2.0),
        ("short", "SUSTAINED", "NORMAL", None, 0.2),
        ("child", "SUSTAINED", "NORMAL", "a", 2.0),
        ("phase", "PHASE_LOSS", "NORMAL", None, 2.0),
        ("wrong", "SUSTAINED", "RETRACTED", None, 2.0),
    ]
    async with pool.connection() as connection:
        for name, level, state, parent, hours in rows:
            await connection.execute(
                "INSERT INTO alarms (alarm_id, rule, asset_kind, asset_id, asset, state, severity, level, onset_at,"
                " raised_at, cleared_at, recorded_at, version, seq, parent_id, summary, evidence) VALUES (%s, 'OUTAGE',"
                " 'transformer', 1, 'T1', %s, 3, %s, to_timestamp(%s), to_timestamp(%s), to_timestamp(%s),"
                " to_timestamp(%s), 1, 1, %s, '', '{\"reported_by_mode\": {\"PLC\": [60, 100]}}')",
                (name, state, level, *[NOW_US / 1e6 - hours * 3600] * 2, *[NOW_US / 1e6] * 2, parent),
            )
    outages = await DeliveryStore(pool).outages(NOW_US - HOUR_US, NOW_US + HOUR_US, HOUR_US // 2)
    assert outages == [{"PLC": (60, 100)}]


@pytest.fixture
async def stub(pool: Any) -> AsyncIterator[Any]:
    told: list[str] = []

    async def changed() -> None:
        told.append("plan")

    server = grpc.aio.server()
    service = RegistryService(RegistryStore(pool), ReplayClock(NOW_US), changed, PlannedStore(pool), changed)
    registry_pb2_grpc.add_RegistryServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield registry_pb2_grpc.RegistryStub(channel), told
    await server.stop(None)


def work(**changes: Any) -> pb.PlannedWork:
    values: dict[str, Any] = {
        "work_id": "W-1", "asset_kind": "feeder", "asset": "F1", "from_us": NOW_US, "to_us": NOW_US + HOUR_US,
        "reason": "new fuse", "planned_by": "Kim",
    }  # fmt: skip
    return pb.PlannedWork(**(values | changes))


async def test_each_plan_and_each_cancellation_reaches_the_rules(stub: Any) -> None:
    calls, told = stub
    await calls.PlanWork(pb.PlanWorkRequest(work=work()))
    assert list((await calls.ListWork(pb.ListWorkRequest())).work) == [work()]
    await calls.CancelWork(pb.CancelWorkRequest(work_id="W-1"))
    assert list((await calls.ListWork(pb.ListWorkRequest())).work) == [work(cancelled=True)]
    assert told == ["plan", "plan"]


@pytest.mark.parametrize(
    "changes",
    [
        {"work_id": "a b"}, {"work_id": ""}, {"asset_kind": "head_end"}, {"to_us": NOW_US}, {"from_us": 0},
        {"to_us": 2**62}, {"planned_by": ""}, {"reason": "x" * 201}, {"reason": "\0"}, {"asset": "\0"},
    ],
)  # fmt: skip
async def test_a_work_that_makes_no_sense_is_refused_and_changes_nothing(stub: Any, changes: dict[str, Any]) -> None:
    calls, told = stub
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calls.PlanWork(pb.PlanWorkRequest(work=work(**changes)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told == []
