"""Hundreds of head-ends come at once, twice, the second time after a crash: each is served in the end, once.

Most are refused first, because there are far fewer streams than head-ends; the refusal says when to come again, and who
keeps to it gets its turn. METERWATCH_CROWD=500 for more of them than `make test` has.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psycopg
from databases import Databases
from served import Ended, ended, fresh_database
from service_process import ENOUGH_S, ServiceProcess
from test_crowd import COLUMNS
from test_stop import START, batch

from meterwatch.client import RegistryFile, import_registry
from meterwatch.v1 import ingest_pb2 as pb

CROWD = int(os.environ.get("METERWATCH_CROWD", "100"))
STREAMS = max(4, CROWD // 10)
STREAM = "/meterwatch.v1.Ingest/Stream"
AWAY_S = 0.2
"""Between two tries while nobody answers."""


def registry() -> list[RegistryFile]:
    head_ends = ["head_end,time_zone,late_window_days", *(f"H{i},UTC,45" for i in range(CROWD))]
    meters = [COLUMNS, *(f"M{i},T1,A,230,100,,1,900,2020-01-01,,,,H{i}" for i in range(CROWD))]
    transformers = ["transformer,feeder,rated_kva,winding,district", "T1,,400,,"]
    files = {"head_ends": head_ends, "transformers": transformers, "meters": meters}
    return [RegistryFile(kind, kind, "\n".join(lines).encode()) for kind, lines in files.items()]


@dataclass
class Crowd:
    """All head-ends, and what they were told."""

    address: str
    acks: list[pb.Ack] = field(default_factory=list)
    refusals: list[Ended] = field(default_factory=list)
    refused: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody was told to wait. Until then nobody sends a batch, so that every stream is taken."""
    random: random.Random = field(default_factory=lambda: random.Random(25))

    async def messages(self, number: int, seq: int) -> AsyncIterator[pb.IngestRequest]:
        yield pb.IngestRequest(hello=pb.Hello(head_end=f"H{number}", epoch=1))
        yield pb.IngestRequest(dictionary=pb.Dictionary(meter=[f"M{number}"]))
        await self.refused.wait()
        yield pb.IngestRequest(batch=batch(seq))

    async def one(self, number: int, seq: int) -> None:
        """One batch of one head-end, over a connection of its own each time, until it is acknowledged."""
        while True:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            async with grpc.aio.insecure_channel(self.address, options=options) as channel:
                stream = channel.stream_stream(
                    STREAM,
                    request_serializer=pb.IngestRequest.SerializeToString,
                    response_deserializer=pb.IngestResponse.FromString,
                )
                try:
                    answers = [answer async for answer in stream(self.messages(number, seq), timeout=ENOUGH_S)]
                except grpc.aio.AioRpcError as error:
                    end = ended(error)
                else:
                    self.acks += [answer.ack for answer in answers if answer.HasField("ack")]
                    return
            self.refusals.append(end)
            if end.reason == "STREAMS_MAX":
                self.refused.set()
            wait_s = AWAY_S if end.retry_s is None else end.retry_s
            await asyncio.sleep(wait_s * (1 + self.random.random()))

    async def all(self, seq: int) -> None:
        await asyncio.gather(*(self.one(number, seq) for number in range(CROWD)))


async def test_who_comes_with_everybody_else_is_served_in_the_end_and_once(cluster: Databases, tmp_path: Path) -> None:
    settings = {"METERWATCH_SERVER__STREAMS_MAX": str(STREAMS)}
    with fresh_database(cluster) as dsn, ServiceProcess(dsn, START, tmp_path / "output", **settings) as service:
        await asyncio.to_thread(service.start)
        answer = await asyncio.to_thread(import_registry, service.address, registry())
        assert not answer.error
        crowd = Crowd(service.address)
        await crowd.all(1)
        service.kill()
        returning = asyncio.create_task(crowd.all(2))
        await asyncio.to_thread(service.start)
        await returning
        with psycopg.connect(dsn) as connection:
            stored = connection.execute("SELECT count(*), count(DISTINCT (slot, end_at)) FROM reads").fetchone()
            ledger = connection.execute(
                "SELECT count(*), count(DISTINCT head_end_id), sum(accepted), bool_and(evaluated) FROM batches"
                " WHERE head_end_id > 0"
            ).fetchone()
    assert stored == (2 * CROWD, 2 * CROWD)
    assert ledger == (2 * CROWD, CROWD, 2 * CROWD, True)
    assert Counter((ack.seq, ack.accepted) for ack in crowd.acks) == {(1, 1): CROWD, (2, 1): CROWD}
    told = [one for one in crowd.refusals if one.domain and one.code != "UNAVAILABLE"]
    assert {(one.code, one.reason, one.retry_s) for one in told} == {("RESOURCE_EXHAUSTED", "STREAMS_MAX", 1.0)}
    # without a domain nobody answered, or grpc.aio was writing when it was refused, and made an INTERNAL of it
    assert {one.code for one in crowd.refusals if not one.domain} <= {"UNAVAILABLE", "INTERNAL"}
