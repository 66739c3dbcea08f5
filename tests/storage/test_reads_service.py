"""meterwatch.v1.Reads over real gRPC and a real database."""

import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import psycopg_pool
import pytest
from psycopg import sql
from stored_world import T0_US, end_us, fill

import storage.service_reads
from meterwatch.channels import CHANNEL_BIT
from meterwatch.v1 import reads_pb2, reads_pb2_grpc
from storage.arrays import moment
from storage.service_reads import _FETCH, _NOW, ReadsService, Stretch, _parameters

STEPS = 40
READS = [
    (slot, step, 1 << 25, slot * 1000 + step, None if step % 2 else step, None)
    for slot in (1, 2, 4)
    for step in range(STEPS)
]
NAMES = {1: "M-c", 2: "M-b", 4: "M-a"}


@pytest.fixture
async def stub(dsn: str) -> AsyncIterator[Any]:
    fill(dsn, READS)
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=2, open=False) as pool:
        server = grpc.aio.server()
        reads_pb2_grpc.add_ReadsServicer_to_server(ReadsService(pool), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield reads_pb2_grpc.ReadsStub(channel)
        await server.stop(None)


async def ask(stub: Any, rows_max: int = 10_000, **fields: Any) -> list[tuple[Any, ...]]:
    request = reads_pb2.QueryRequest(**({"from_us": T0_US, "to_us": end_us(STEPS)} | fields))
    rows: list[tuple[Any, ...]] = []
    async for chunk in stub.Query(request):
        assert 0 < len(chunk.end_us) <= rows_max
        meters = [chunk.meter[i] for i in chunk.meter_index]
        rows += zip(meters, chunk.end_us, chunk.import_wh, chunk.import_varh, chunk.channel_mask, strict=True)
        assert set(chunk.interval_s) == {900}
        assert set(chunk.version) == {1}
        assert set(chunk.quality) == {1 << 25}
        assert list(chunk.received_us) == [end + 7 for end in chunk.end_us]
        assert list(chunk.voltage_a_v) == [0.0] * len(meters)
    return rows


def expected(keep: Any) -> list[tuple[Any, ...]]:
    energy, reactive = CHANNEL_BIT["import_wh"], CHANNEL_BIT["import_varh"]
    return sorted(
        (NAMES[slot], end_us(step), wh, varh or 0, energy | (reactive if varh is not None else 0))
        for slot, step, _, wh, varh, _ in READS
        if keep(slot, step)
    )


@pytest.mark.parametrize("chunk_rows", [64, 100, 1000, 10_000])
async def test_chunks_of_any_size_give_every_read_once_by_meter_and_end(
    stub: Any, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.service_reads, "CHUNK_ROWS", chunk_rows)
    rows = await ask(stub, chunk_rows, meter=["M-c", "M-a", "M-b", "M-a"])
    assert rows == expected(lambda slot, step: True)


async def test_a_transformer_answers_for_each_meter_while_it_was_its_member(stub: Any) -> None:
    # M-c moved at the end of step 2: the interval that ends then still belongs to T1.
    assert await ask(stub, transformer="T1") == expected(lambda slot, step: slot == 2 or (slot == 1 and step <= 2))
    assert await ask(stub, transformer="T2") == expected(lambda slot, step: slot == 1 and step > 2)


async def test_the_plan_of_a_question_leaves_out_the_chunks_of_other_days(stub: Any, dsn: str) -> None:
    day_us = 96 * 900 * 1_000_000
    fill(dsn, [(1, step, 1 << 25, 1, None, None) for step in range(0, 96 * 6, 96)])
    stretches = [Stretch("M-c", 1, T0_US + day * day_us, T0_US + day * day_us + day_us // 4) for day in (2, 3)]
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        plans = []
        for some in (stretches[:1], stretches):
            cursor = await connection.execute(sql.SQL("EXPLAIN ") + _FETCH[_NOW], _parameters(some, 100), prepare=False)
            plans.append(
                {chunk for (line,) in await cursor.fetchall() for chunk in re.findall(r"_hyper_\d+_\d+_chunk ", line)}
            )
    assert [len(chunks) for chunks in plans] == [1, 2]


async def test_a_range_without_reads_is_an_empty_stream(stub: Any) -> None:
    assert await ask(stub, meter=["M-a"], from_us=0, to_us=T0_US) == []


CHANGED = (1, 3)
"""slot and step of the read that two later versions follow, and one that never was current."""


@pytest.mark.parametrize("chunk_rows", [64, 10_000])
async def test_what_was_known_then_and_every_version_come_back(
    stub: Any, dsn: str, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.service_reads, "CHUNK_ROWS", chunk_rows)
    slot, step = CHANGED
    first = end_us(step) + 7
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE read_versions")
        for version, received, superseded, wh in ((1, 0, 10, 1), (2, 10, 20, 2), (0, 15, 15, 9)):
            connection.execute(
                "INSERT INTO read_versions (slot, end_at, received_at, superseded_at, interval_s, quality, version,"
                " import_wh) VALUES (%s, %s, %s, %s, 900, 0, %s, %s)",
                (slot, moment(end_us(step)), moment(first + received), moment(first + superseded), version, wh),
            )
        connection.execute(
            "UPDATE reads SET received_at = %s, version = 3, import_wh = 3 WHERE slot = %s AND end_at = %s",
            (moment(first + 20), slot, moment(end_us(step))),
        )

    async def versions(**fields: Any) -> list[Any]:
        found: list[Any] = []
        request = reads_pb2.QueryRequest(
            **({"from_us": T0_US, "to_us": end_us(STEPS), "meter": ["M-c", "M-b"]} | fields)
        )
        async for chunk in stub.Query(request):
            superseded = chunk.superseded_us or [None] * len(chunk.end_us)
            rows = zip(chunk.meter_index, chunk.end_us, chunk.version, chunk.import_wh, superseded, strict=True)
            found += [row[1:] for row in rows if (chunk.meter[row[0]], row[1]) == ("M-c", end_us(step))]
        return [row[1:] for row in found]

    assert await versions() == [(3, 3, None)]
    for known_us, expected in ((-1, []), (0, [(1, 1, None)]), (9, [(1, 1, None)]), (10, [(2, 2, None)]),
                               (19, [(2, 2, None)]), (20, [(3, 3, None)])):  # fmt: skip
        assert await versions(as_of_us=first + known_us) == expected
    assert await versions(all_versions=True) == [
        (1, 1, first + 10), (2, 2, first + 20), (0, 9, first + 15), (3, 3, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("fields", [{"meter": ["M-a", "M-x"]}, {"transformer": "M-x"}])
async def test_an_unknown_asset_is_not_found_by_name(stub: Any, fields: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(stub, **fields)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "M-x" in (caught.value.details() or "")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"meter": ["M-a"], "transformer": "T1"},
        {"meter": ["M"] * 1001},
        {"meter": ["M-a"], "from_us": 5, "to_us": 5},
        {"meter": ["M-a"], "from_us": -1},
        {"meter": ["M-a"], "to_us": 1 << 62},
        {"transformer": "a\0b"},
        {"meter": ["M-a"], "as_of_us": -1},
        {"meter": ["M-a"], "as_of_us": 1, "all_versions": True},
    ],
)
async def test_a_question_outside_its_limits_is_an_invalid_argument(stub: Any, fields: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(stub, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
