"""The metrics endpoint of a running service: what was sent is counted, and every refusal moves its counter."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from meterwatch.app import Service, running
from meterwatch.cli.registry import register_unknown
from meterwatch.client import AlarmFeed, HeadEnd
from meterwatch.config import ClockSection, Config, Database, Metrics, Server
from meterwatch.errors import ConfigError
from meterwatch.v1 import alarms_pb2, alarms_pb2_grpc, ingest_pb2, ingest_pb2_grpc

START = "2026-03-02T00:00:00Z"
START_US = 1_772_409_600_000_000
STEP_US = 900_000_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config(dsn: str, port: int) -> Config:
    return Config(
        server=Server(port=free_port()),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection.model_validate({"mode": "replay", "start": START}),
        metrics=Metrics(port=port),
    )


def scrape(port: int) -> dict[str, float]:
    """Every sample: name{label values in order}."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(value for key, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix('meterwatch_')}{{{labels}}}"] = sample.value
    return found


@pytest.fixture
async def service(dsn: str) -> AsyncIterator[tuple[Service, Callable[[], Any]]]:
    port = free_port()
    async with running(config(dsn, port)) as running_service:
        await asyncio.to_thread(register_unknown, running_service.address, "HES-1", {"M1": 900, "M2": 900})
        yield running_service, lambda: asyncio.to_thread(scrape, port)


def send(address: str, wh: list[int], meters: list[str] | None = None, start_us: int = START_US) -> None:
    with HeadEnd(address, "HES-1", give_up_after_s=30) as head_end:
        ends = start_us - STEP_US * np.arange(len(wh))
        head_end.send_columns(meters or ["M1"], np.zeros(len(wh), np.int64), ends, 900, import_wh=wh)
        head_end.flush()


async def test_what_was_sent_is_counted(service: tuple[Service, Callable[[], Any]]) -> None:
    running_service, scraped = service
    before = await scraped()
    assert before["reads_total{accepted}"] == 0
    assert before["reads_rejected_total{unknown_meter}"] == 0
    for values in ([10, 20, -1], [10, 21]):
        await asyncio.to_thread(send, running_service.address, values)
    await asyncio.to_thread(send, running_service.address, [1], ["NOBODY"])
    after = await scraped()
    assert {
        name: value for name, value in after.items() if name.startswith("reads_") and value and "created" not in name
    } == {
        "reads_total{accepted}": 2,
        "reads_total{duplicate}": 1,
        "reads_total{version}": 1,
        "reads_total{rejected}": 2,
        "reads_rejected_total{negative}": 1,
        "reads_rejected_total{unknown_meter}": 1,
    }
    assert after["batches_total{reads}"] == 3
    assert (after["copy_groups_total{}"], after["copy_rows_total{}"]) == (3, 6)
    assert after["commit_seconds_count{}"] == after["evaluation_seconds_count{}"] == 3
    assert after["queue_rows{}"] == 0
    assert after["process_resident_memory_bytes{}"] > 0


async def test_a_batch_that_meets_what_an_earlier_service_stored_is_counted(dsn: str) -> None:
    for careful in (0, 1):
        port = free_port()
        async with running(config(dsn, port)) as service:
            await asyncio.to_thread(register_unknown, service.address, "HES-1", {"M1": 900})
            await asyncio.to_thread(send, service.address, [7], start_us=START_US - 86_400_000_000)
            assert (await asyncio.to_thread(scrape, port))["careful_batches_total{}"] == careful


async def test_a_replay_is_counted_as_one_and_not_as_reads(service: tuple[Service, Callable[[], Any]]) -> None:
    running_service, scraped = service

    def same_twice() -> None:
        for _ in range(2):
            with HeadEnd(running_service.address, "HES-1", 77) as head_end:
                head_end.send_columns(["M2"], [0], [START_US], 900, import_wh=[5])
                head_end.flush()

    await asyncio.to_thread(same_twice)
    after = await scraped()
    assert after["batches_replayed_total{reads}"] == 1
    assert after["reads_total{accepted}"] == 1


async def test_events_and_alarms_are_counted(service: tuple[Service, Callable[[], Any]]) -> None:
    running_service, scraped = service
    channel = grpc.insecure_channel(running_service.address)
    stub = ingest_pb2_grpc.IngestStub(channel)
    at = [START_US, START_US, START_US + 400_000_000, START_US + 400_000_000, START_US + 400_000_000]
    request = ingest_pb2.SendEventsRequest(
        head_end="HES-1", epoch=5, seq=1, meter=["M1", "M2", "X"], meter_index=[0, 1, 0, 1, 2], at_us=at,
        code=[1, 1, 5, 5, 1],
    )  # fmt: skip
    await asyncio.to_thread(stub.SendEvents, request, timeout=30)
    channel.close()
    after = await scraped()
    assert after["events_total{accepted}"] == 4
    assert after["events_rejected_total{unknown_meter}"] == 1
    assert after["alarm_transitions_total{RAISED,OUTAGE}"] >= 1


async def test_how_long_telling_a_named_subscriber_takes_is_counted_by_stage(
    service: tuple[Service, Callable[[], Any]],
) -> None:
    running_service, scraped = service
    stages = ("sent", "received", "shown")
    off_us = START_US - 4 * 3_600_000_000
    before = await scraped()
    assert [before[f"alarm_told_seconds_count{{{stage}}}"] for stage in stages] == [0, 0, 0]

    def follow() -> None:
        with AlarmFeed(running_service.address, subscriber="Kim", give_up_after_s=30) as feed:
            messages = iter(feed)
            assert next(messages).HasField("snapshot")
            with grpc.insecure_channel(running_service.address) as channel:
                request = ingest_pb2.SendEventsRequest(
                    head_end="HES-1", epoch=6, seq=1, meter=["M1", "M2"], meter_index=[0, 1, 0, 1],
                    at_us=[off_us, off_us, off_us + 400_000_000, off_us + 400_000_000], code=[1, 1, 5, 5],
                )  # fmt: skip
                ingest_pb2_grpc.IngestStub(channel).SendEvents(request, timeout=30)
            while not (message := next(messages)).HasField("transition"):
                assert message.HasField("bookmark")
            feed.shown(message.transition.seq)

    await asyncio.to_thread(follow)
    after = await scraped()
    assert min(after[f"alarm_told_seconds_count{{{stage}}}"] for stage in stages) >= 1
    assert after["receipts_forgotten_total{}"] == 0


async def test_every_check_of_a_read_moves_its_counter(service: tuple[Service, Callable[[], Any]]) -> None:
    """One read per check that fires at ingest; V10 needs a clock that does not follow the reads."""
    running_service, scraped = service
    good: dict[str, Any] = {"end_us": START_US, "import_wh": 10}
    load = {"voltage_a_v": 250.0, "current_a_a": 16.0, "power_factor": 1.0}
    rows: dict[str, dict[str, Any]] = {
        "V01": {**good, "meter": "NOBODY"},
        "V03": {**good, "end_us": START_US - STEP_US + 1},
        "V04": {**good, "end_us": START_US + 400 * 96 * STEP_US},
        "V05": {**good, "end_us": START_US - 2 * STEP_US, "import_wh": 1, **load},
        "V06": {**good, "import_wh": -1},
        "V09": {**good, "end_us": START_US - 3 * STEP_US, "device_status": 1},
    }

    def send_rows() -> None:
        with HeadEnd(running_service.address, "HES-1", give_up_after_s=30) as head_end:
            head_end.send_rows([{"meter": "M1", **row} for row in rows.values()])
            head_end.flush()
        for _ in range(2):
            send(running_service.address, [10], start_us=START_US - 9 * STEP_US)

    before = await scraped()
    await asyncio.to_thread(send_rows)
    after = await scraped()
    moved = {
        name.removeprefix("check_findings_total{").rstrip("}"): value - before[name]
        for name, value in after.items()
        if name.startswith("check_findings_total") and value != before[name]
    }
    assert moved == {**dict.fromkeys(rows, 1), "V11": 1, "V02": 1}


async def test_streams_and_subscribers_are_shown_while_they_last(service: tuple[Service, Callable[[], Any]]) -> None:
    running_service, scraped = service

    def open_both() -> tuple[HeadEnd, AlarmFeed, Any]:
        head_end = HeadEnd(running_service.address, "HES-1")
        head_end.__enter__()
        feed = AlarmFeed(running_service.address)
        feed.__enter__()
        messages = iter(feed)
        next(messages)
        return head_end, feed, messages

    head_end, feed, messages = await asyncio.to_thread(open_both)
    during = await scraped()
    assert (during["streams_open{}"], during["subscribers{}"]) == (1, 1)
    await asyncio.to_thread(head_end.close)
    assert (await scraped())["streams_open{}"] == 0
    feed.close()
    await asyncio.to_thread(messages.close)


async def test_every_refusal_moves_its_counter(service: tuple[Service, Callable[[], Any]]) -> None:
    running_service, scraped = service
    channel = grpc.aio.insecure_channel(running_service.address)
    ingest, alarms = ingest_pb2_grpc.IngestStub(channel), alarms_pb2_grpc.AlarmsStub(channel)

    async def refused(call: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return error.value.code()

    nothing = ingest.SendReads(ingest_pb2.SendReadsRequest(head_end="HES-1", epoch=1, seq=1))
    assert await refused(nothing) is grpc.StatusCode.INVALID_ARGUMENT
    stranger = ingest.SendEvents(ingest_pb2.SendEventsRequest(head_end="WHO", epoch=1, seq=1))
    assert await refused(stranger) is grpc.StatusCode.PERMISSION_DENIED
    missing = alarms.GetAlarm(alarms_pb2.GetAlarmRequest(alarm_id="OUT-none"))
    assert await refused(missing) is grpc.StatusCode.NOT_FOUND
    ahead = alarms.Subscribe(alarms_pb2.SubscribeRequest(from_seq=10**9))
    assert await refused(ahead.read()) is grpc.StatusCode.FAILED_PRECONDITION

    batch = ingest_pb2.ReadBatch(seq=1, interval_s=900)
    hello = ingest_pb2.Hello(head_end="HES-1", epoch=9)
    stream = ingest.Stream(iter([ingest_pb2.IngestRequest(hello=hello), ingest_pb2.IngestRequest(batch=batch)]))
    answers = [answer async for answer in stream]
    nack = next(answer.nack for answer in answers if answer.HasField("nack"))
    without = ingest.Stream(iter([ingest_pb2.IngestRequest(batch=batch)]))
    assert await refused(without.read()) is grpc.StatusCode.INVALID_ARGUMENT
    running_service.pipeline.ready("closed for a test")
    assert await refused(ingest.SendEvents(ingest_pb2.SendEventsRequest())) is grpc.StatusCode.UNAVAILABLE
    running_service.pipeline.ready()
    await channel.close()

    after = await scraped()
    assert after[f"nacks_total{{{nack.reason}}}"] == 1
    assert {name: value for name, value in after.items() if name.startswith("calls_refused_total")} == {
        "calls_refused_total{INVALID_ARGUMENT,SendReads,EMPTY_BATCH}": 1,
        "calls_refused_total{PERMISSION_DENIED,SendEvents,HEAD_END_UNKNOWN}": 1,
        "calls_refused_total{NOT_FOUND,GetAlarm,ALARM_UNKNOWN}": 1,
        "calls_refused_total{FAILED_PRECONDITION,Subscribe,CURSOR_TOO_NEW}": 1,
        "calls_refused_total{INVALID_ARGUMENT,Stream,NO_HELLO}": 1,
        "calls_refused_total{UNAVAILABLE,SendEvents,STORAGE_UNAVAILABLE}": 1,
    }


async def test_a_taken_port_is_a_sentence(dsn: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"metrics\.port .* cannot be bound"):
            async with running(config(dsn, taken.getsockname()[1])):
                pass
