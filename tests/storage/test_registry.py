"""The registry against a real database: all or nothing, idempotent, effective-dated; and its gRPC service."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import psycopg
import psycopg_pool
import pytest

from meterwatch.clock import ReplayClock
from meterwatch.data import GRID
from meterwatch.registry_csv import KINDS, Parsed, RegistryCsv, parse
from meterwatch.v1 import registry_pb2, registry_pb2_grpc
from storage.arrays import INT64_MAX
from storage.planned import PlannedStore
from storage.registry import Count, RegistryStore
from storage.service_registry import RegistryService

DAY_US = 86_400_000_000
NOW_US = 1_760_000_000_000_000
TABLES = ("meters", "transformers", "meter_transformers", "meter_links", "transformer_feeders")


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    """A pool on an empty registry."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "TRUNCATE meter_registers, check_meters, meter_links, meter_transformers, transformer_feeders, meters,"
            " concentrators, transformers, feeders, head_ends RESTART IDENTITY"
        )
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=3, open=False) as opened:
        yield opened


def demo_files() -> list[RegistryCsv]:
    return [
        RegistryCsv(kind, f"{kind}.csv", (GRID / f"{kind}.csv").read_bytes())
        for kind in KINDS
        if (GRID / f"{kind}.csv").exists()
    ]


def small(meters: str = "M1,T1\nM2,T1\n", **changes: str) -> Parsed:
    """Two feeders, two transformers and some meters `number,transformer`."""
    rows = "".join(f"{line},A,230,100,,1,900,2020-05-01,,PLC,DC1,\n" for line in meters.splitlines())
    header = ",".join(KINDS["meters"].columns)
    texts = {
        "head_ends": "head_end,time_zone,late_window_days\nH1,UTC,30\n",
        "feeders": "feeder,substation,district,ampacity_a\nF1,S,WEST,\nF2,S,EAST,170\n",
        "transformers": "transformer,feeder,rated_kva,winding,district\nT1,F1,160,,WEST\nT2,F2,250,,EAST\n",
        "concentrators": "concentrator,head_end,comm_mode\nDC1,H1,PLC\n",
        "meters": f"{header}\n{rows}",
    } | changes
    return parse([RegistryCsv(kind, f"{kind}.csv", text.encode()) for kind, text in texts.items() if text])


async def rows_of(pool: psycopg_pool.AsyncConnectionPool[Any], query: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        return await (await connection.execute(query)).fetchall()


async def snapshot(pool: psycopg_pool.AsyncConnectionPool[Any]) -> list[Any]:
    return [await rows_of(pool, f"SELECT row_::text FROM {table} AS row_ ORDER BY 1") for table in TABLES]


async def test_the_demo_grid_imports_and_a_second_import_changes_nothing(pool: Any) -> None:
    store = RegistryStore(pool)
    first = await store.import_files(parse(demo_files()), NOW_US)
    assert first.problems == []
    assert first.counts == {
        "head_ends": Count(1, 0, 0),
        "feeders": Count(4, 0, 0),
        "transformers": Count(35, 0, 0),
        "concentrators": Count(19, 0, 0),
        "meters": Count(1203, 0, 0),
    }
    stored = await snapshot(pool)
    second = await store.import_files(parse(demo_files()), NOW_US + DAY_US)
    assert second.counts["meters"] == Count(0, 0, 1203)
    assert all(count.added == count.changed == 0 for count in second.counts.values())
    assert await snapshot(pool) == stored


async def test_the_topology_of_the_demo_grid_has_every_meter_below_a_feeder(pool: Any) -> None:
    store = RegistryStore(pool)
    parsed = parse(demo_files())
    await store.import_files(parsed, NOW_US)
    topology = await store.load_topology(NOW_US)
    assert len(topology.slot_of) == 1203
    assert topology.meter[0] == ""
    assert topology.installed_us[0] == INT64_MAX
    assert topology.transformer_of[0] == -1
    for row in parsed.rows["meters"]:
        slot = topology.slot_of[row.meter]
        assert topology.transformer[topology.transformer_of[slot]] == row.transformer
        assert topology.head_end[topology.head_end_of[slot]] == "HES-1"
        assert topology.comm_modes[topology.comm_mode[slot]] == row.comm_mode
        assert topology.phases[slot] == sum(1 << "ABC".index(phase) for phase in row.phases)
        assert topology.contract_kw[slot] == np.float32(row.contract_kw)
    assert (topology.feeder_of[topology.transformer_of[1:]] > 0).all()
    assert (topology.retired_us == INT64_MAX).all()
    assert topology.late_window_us[1:].tolist() == [45 * DAY_US]


async def test_postgresql_knows_what_an_import_brought(pool: Any) -> None:
    async def known(table: str) -> int:
        async with pool.connection() as connection:
            cursor = await connection.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", (table,))
            return int((await cursor.fetchone())[0])

    await RegistryStore(pool).import_files(parse(demo_files()), NOW_US)
    assert [await known(table) for table in TABLES] == [1203, 35, 1203, 1203, 35]


async def test_an_empty_registry_has_an_empty_topology(pool: Any) -> None:
    topology = await RegistryStore(pool).load_topology(NOW_US)
    assert topology.slots == 0
    assert topology.slot_of == {}


async def test_a_half_broken_import_changes_nothing_and_reports_parse_and_reference_errors_together(pool: Any) -> None:
    store = RegistryStore(pool)
    broken = small(
        "M1,T1\nM2,T9\n,T1\n", transformers="transformer,feeder,rated_kva,winding,district\nT1,F7,160,,\nT2,F1,0,,\n"
    )
    outcome = await store.import_files(broken, NOW_US)
    assert outcome.counts == {}
    assert [(p.file, p.line) for p in outcome.problems] == [
        ("transformers.csv", 3),
        ("meters.csv", 4),
        ("transformers.csv", 2),
        ("meters.csv", 3),
    ]
    assert "'T9' arrived" in outcome.problems[3].message
    assert await rows_of(pool, "SELECT count(*) FROM head_ends") == [(0,)]


async def test_a_row_with_an_error_still_names_its_asset_for_the_rows_below_it(pool: Any) -> None:
    broken = small(transformers="transformer,feeder,rated_kva,winding,district\nT1,F1,0,,\n")
    outcome = await RegistryStore(pool).import_files(broken, NOW_US)
    assert len(outcome.problems) == 1


async def test_a_multiplier_holds_from_the_import_that_brought_it(pool: Any) -> None:
    def meters(multiplier: int) -> Parsed:
        header = ",".join(KINDS["meters"].columns)
        text = f"{header}\nM1,T1,A,230,100,,{multiplier},900,2020-05-01,,PLC,DC1,\n"
        return parse([RegistryCsv("meters", "meters.csv", text.encode())])

    store, times = RegistryStore(pool), [NOW_US + i * DAY_US for i in range(4)]
    async with pool.connection() as connection:
        await connection.execute("TRUNCATE meter_multipliers")
    await store.import_files(small(), times[0])
    for multiplier, at in zip((1, 40, 60, 1), times, strict=True):
        outcome = await store.import_files(meters(multiplier), at)
        assert not outcome.problems
    repeated = await store.import_files(meters(1), times[3] + 1)
    assert repeated.counts["meters"] == Count(0, 0, 1)
    topology = await store.load_topology(times[3] + DAY_US)
    slot = np.full(8, topology.slot_of["M1"])
    ends = np.array([border for at in times for border in (at, at + 1)])
    assert topology.multiplier_at(slot, ends).tolist() == [1, 1, 1, 40, 40, 60, 60, 1]
    assert topology.any_multiplier


async def test_meters_alone_may_refer_to_what_is_stored(pool: Any) -> None:
    store = RegistryStore(pool)
    await store.import_files(small(), NOW_US)
    only = {"head_ends": "", "feeders": "", "transformers": "", "concentrators": ""}
    outcome = await store.import_files(small("M1,T1\nM3,T2\n", **only), NOW_US)
    assert outcome.counts == {"meters": Count(1, 0, 1)}


async def test_a_check_writes_nothing_and_uses_no_ids(pool: Any) -> None:
    store = RegistryStore(pool)
    check = await store.import_files(small(), NOW_US, dry_run=True)
    assert check.counts["meters"] == Count(2, 0, 0)
    assert await rows_of(pool, "SELECT count(*) FROM meters") == [(0,)]
    await store.import_files(small(), NOW_US)
    await store.import_files(small("M1,T1\nM2,T1\nM0,T1\n"), NOW_US)
    assert await rows_of(pool, "SELECT slot, meter FROM meters ORDER BY slot") == [(1, "M1"), (2, "M2"), (3, "M0")]


async def test_a_moved_meter_leaves_one_transformer_and_enters_the_next_at_the_same_moment(pool: Any) -> None:
    store = RegistryStore(pool)
    await store.import_files(small(), NOW_US)
    outcome = await store.import_files(small("M1,T2\nM2,T1\n"), NOW_US + DAY_US)
    assert outcome.counts["meters"] == Count(0, 1, 1)
    before = await store.load_topology(NOW_US + DAY_US - 1)
    after = await store.load_topology(NOW_US + DAY_US)
    slot = before.slot_of["M1"]
    assert before.transformer[before.transformer_of[slot]] == "T1"
    assert after.transformer[after.transformer_of[slot]] == "T2"
    installed = await store.load_topology(int(before.installed_us[slot]) - 1)
    assert installed.transformer_of[slot] == -1


async def test_a_change_at_the_moment_of_the_last_change_corrects_it(pool: Any) -> None:
    store = RegistryStore(pool)
    await store.import_files(small(), NOW_US)
    await store.import_files(small("M1,T2\n"), NOW_US + DAY_US)
    await store.import_files(small("M1,\n"), NOW_US + DAY_US)
    assert await rows_of(pool, "SELECT count(*) FROM meter_transformers WHERE slot = 1") == [(1,)]
    topology = await store.load_topology(NOW_US + DAY_US)
    assert topology.transformer_of[topology.slot_of["M1"]] == -1
    await store.import_files(small("M1,T2\n"), NOW_US + 2 * DAY_US)
    topology = await store.load_topology(NOW_US + 2 * DAY_US)
    assert topology.transformer[topology.transformer_of[topology.slot_of["M1"]]] == "T2"


async def test_a_change_before_the_last_change_is_refused_with_its_line(pool: Any) -> None:
    store = RegistryStore(pool)
    await store.import_files(small(), NOW_US)
    await store.import_files(small("M1,T2\nM2,T1\n"), NOW_US + 2 * DAY_US)
    stored = await snapshot(pool)
    outcome = await store.import_files(small("M2,T1\nM1,T1\n"), NOW_US + DAY_US)
    assert [(p.file, p.line) for p in outcome.problems] == [("meters.csv", 3)]
    assert "give valid_from after that" in outcome.problems[0].message
    assert await snapshot(pool) == stored


async def test_a_meter_without_a_head_end_has_that_of_its_concentrator(pool: Any) -> None:
    store = RegistryStore(pool)
    await store.import_files(small(), NOW_US)
    topology = await store.load_topology(NOW_US)
    assert topology.head_end_of[1:].tolist() == [1, 1]


async def test_text_with_a_backslash_is_stored_as_it_arrived(pool: Any) -> None:
    store = RegistryStore(pool)
    feeders = "feeder,substation,district,ampacity_a\nF1,a\\nb\\N,,\nF2,\\N,,\n"
    await store.import_files(small(feeders=feeders), NOW_US)
    assert await rows_of(pool, "SELECT substation FROM feeders ORDER BY 1") == [("\\N",), ("a\\nb\\N",)]


class Sink:
    """Counts calls."""

    calls = 0

    async def __call__(self) -> None:
        self.calls += 1


@dataclasses.dataclass
class Served:
    stub: Any
    changed: Sink


@pytest.fixture
async def served(pool: Any) -> AsyncIterator[Served]:
    server, changed = grpc.aio.server(), Sink()
    service = RegistryService(RegistryStore(pool), ReplayClock(NOW_US), changed, PlannedStore(pool), changed)
    registry_pb2_grpc.add_RegistryServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(registry_pb2_grpc.RegistryStub(channel), changed)
    await server.stop(None)


def request(files: list[RegistryCsv], **fields: Any) -> registry_pb2.ImportRequest:
    sent = [registry_pb2.RegistryFile(kind=file.kind, name=file.name, content=file.content) for file in files]
    return registry_pb2.ImportRequest(file=sent, **fields)


async def test_an_import_over_grpc_announces_the_change_and_pages_list_every_asset_once(served: Served) -> None:
    check = await served.stub.Import(request(demo_files(), dry_run=True))
    assert {count.kind: count.added for count in check.count}["meters"] == 1203
    assert served.changed.calls == 0
    await served.stub.Import(request(demo_files()))
    assert served.changed.calls == 1
    names, token = [], ""
    while True:
        page = await served.stub.ListAssets(
            registry_pb2.ListAssetsRequest(kind="meter", page_size=500, page_token=token)
        )
        names += [asset.name for asset in page.asset]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(set(names))
    assert len(names) == 1203
    page = await served.stub.ListAssets(registry_pb2.ListAssetsRequest(kind="meter", parent="LV1.109"))
    assert {asset.parent for asset in page.asset} == {"LV1.109"}
    assert set(page.asset[0].attribute) == set(KINDS["meters"].columns) - {"meter"}
    for kind, count in {"feeder": 4, "transformer": 35, "concentrator": 19, "head_end": 1}.items():
        page = await served.stub.ListAssets(registry_pb2.ListAssetsRequest(kind=kind))
        assert len(page.asset) == count


async def test_files_in_parts_are_the_files_and_a_missing_part_is_noticed(served: Served) -> None:
    parts = [
        registry_pb2.ImportRequest(
            file=[
                registry_pb2.RegistryFile(
                    kind=file.kind, name=file.name, content=file.content[at : at + 10_000], size_bytes=len(file.content)
                )
            ]
        )
        for file in demo_files()
        for at in range(0, len(file.content), 10_000)
    ]
    assert len(parts) > 8
    for drop in (0, len(parts) // 2, len(parts) - 1):
        short = [part for i, part in enumerate(parts) if i != drop]
        if {p.file[0].kind for p in short} == {p.file[0].kind for p in parts}:
            with pytest.raises(grpc.aio.AioRpcError, match="size_bytes says"):
                await served.stub.ImportStream(iter(short))
    before = served.changed.calls
    answer = await served.stub.ImportStream(iter(parts))
    assert not answer.error
    assert sum(count.added + count.unchanged for count in answer.count) == 1203 + 35 + 4 + 19 + 1
    assert served.changed.calls == before + 1


async def test_a_refused_import_over_grpc_answers_with_its_errors_and_announces_nothing(served: Served) -> None:
    answer = await served.stub.Import(request([RegistryCsv("meters", "m.csv", b"meter;transformer\n")]))
    assert [(error.file, error.line) for error in answer.error] == [("m.csv", 1)]
    assert served.changed.calls == 0


@pytest.mark.parametrize(
    "wrong", [request([]), request(demo_files() * 2), request(demo_files(), valid_from_us=-1)], ids=lambda _: ""
)
async def test_an_import_outside_its_limits_is_an_invalid_argument(served: Served, wrong: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.Import(wrong)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "fields", [{"kind": "x"}, {"kind": "feeder", "parent": "F"}, {"kind": "meter", "page_size": 10_001}]
)
async def test_a_list_outside_its_limits_is_an_invalid_argument(served: Served, fields: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.ListAssets(registry_pb2.ListAssetsRequest(**fields))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_registers_and_check_meters_are_effective_dated_and_say_nothing_of_unknown_meters(pool: Any) -> None:
    store = RegistryStore(pool)
    registers = "meter,device,digits,lsb_wh\nM1,A-1,6,10\nM2,,,\n"
    more = {"registers": registers, "check_meters": "meter,transformer\nM2,T1\n"}
    first = await store.import_files(small(**more), NOW_US)
    assert (first.counts["registers"], first.counts["check_meters"]) == (Count(0, 2, 0), Count(0, 1, 0))
    again = await store.import_files(small(**more), NOW_US + DAY_US)
    assert (again.counts["registers"], again.counts["check_meters"]) == (Count(0, 0, 2), Count(0, 0, 1))
    changed = {"registers": registers.replace("A-1", "B-7"), "check_meters": "meter,transformer\nM2,\n"}
    await store.import_files(small(**changed), NOW_US + DAY_US)
    periods = await rows_of(
        pool,
        "SELECT meter, device, digits, lsb_wh, valid_from > '2020-05-01Z', valid_to = 'infinity' FROM meter_registers"
        " JOIN meters USING (slot) ORDER BY meter, valid_from",
    )
    assert periods == [
        ("M1", "A-1", 6, 10.0, False, False),
        ("M1", "B-7", 6, 10.0, True, True),
        ("M2", "", None, 1.0, False, True),
    ]
    assert await rows_of(pool, "SELECT valid_to < 'infinity' FROM check_meters") == [(True,)]
    unknown = await store.import_files(small(registers="meter,device,digits,lsb_wh\nM9,,,\n"), NOW_US)
    assert ["M9" in problem.message for problem in unknown.problems] == [True]
