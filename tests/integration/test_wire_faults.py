"""The network between head-ends, subscribers and the service breaks: nothing is lost, nothing doubled, no stream kept.

In front of the service stands the proxy of `breakable`; behind it the real service and database. Longer:
`make faults SEEDS=500`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from breakable import BreakableProxy, Cut, Weather
from databases import Databases
from served import (
    ENOUGH_S,
    HEAD_END,
    METERS,
    STEP_S,
    Served,
    fresh_database,
    fresh_end_us,
    fresh_epoch,
    serving,
)

from meterwatch import server
from meterwatch.client import AlarmFeed, HeadEnd
from meterwatch.client import retry as client_retry
from meterwatch.client.retry import Backoff
from meterwatch.v1 import ingest_pb2 as pb

SEEDS = int(os.environ.get("METERWATCH_FAULT_SEEDS", "20"))
BATCHES = 6
SHIPPED = dict(server.OPTIONS)
QUICK = {"grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 500}


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


@pytest.fixture
def proxy(served: Served) -> Iterator[BreakableProxy]:
    with BreakableProxy(endpoint(served)) as made:
        yield made


def endpoint(served: Served) -> tuple[str, int]:
    host, _, port = served.address.rpartition(":")
    return host, int(port)


def backoff(seed: int = 0) -> Backoff:
    return Backoff(0.01, 0.05, random.Random(seed))


def until(done: Callable[[], Any]) -> None:
    limit = time.monotonic() + ENOUGH_S
    while not done():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.01)


def send(head_end: HeadEnd, end_us: int, wh: int) -> None:
    head_end.send_columns(METERS, range(len(METERS)), [end_us] * len(METERS), STEP_S, import_wh=[wh] * len(METERS))


def test_an_ack_that_is_lost_comes_again_as_replayed_and_nothing_is_stored_twice(
    served: Served, proxy: BreakableProxy
) -> None:
    epoch, end_us, replayed = fresh_epoch(), fresh_end_us(), []
    with HeadEnd(
        proxy.address,
        HEAD_END,
        epoch,
        backoff=backoff(),
        on_ack=lambda seq, ack, _: replayed.append((seq, ack.replayed)),
    ) as head_end:
        send(head_end, fresh_end_us(), 1)
        head_end.flush()
        proxy.change(Weather(hole_down=True))
        send(head_end, end_us, 2)
        until(lambda: served.sql("SELECT FROM batches WHERE epoch = %s AND evaluated", epoch) == [()] * 2)
        proxy.change(Weather())
        proxy.reset()
        totals = head_end.flush()
    assert replayed == [(1, False), (2, True)]
    assert (totals.sent, totals.accepted, totals.duplicates, totals.replayed) == (8, 8, 0, 1)
    assert served.sql("SELECT count(*) FROM reads WHERE end_at = to_timestamp(%s / 1e6)", end_us) == [(4,)]
    assert served.sql("SELECT count(*) FROM batches WHERE epoch = %s", epoch) == [(2,)]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_cut_after_any_number_of_bytes_each_batch_is_stored_whole_and_once(
    served: Served, proxy: BreakableProxy, seed: int
) -> None:
    rng = random.Random(seed)
    epoch, ends = fresh_epoch(), [fresh_end_us() for _ in range(BATCHES)]
    cuts = [(rng.randrange(1, 3000), rng.choice(list(Cut))) for _ in range(rng.randrange(1, 6))]
    proxy.cuts.extend(cuts)
    acks: list[int] = []
    with HeadEnd(
        proxy.address,
        HEAD_END,
        epoch,
        backoff=backoff(seed),
        answer_timeout_s=1.0,
        on_ack=lambda seq, *_: acks.append(seq),
    ) as head_end:
        for end_us in ends:
            send(head_end, end_us, 7)
        totals = head_end.flush()
    assert proxy.connections >= len(cuts) or proxy.cuts, "every cut but the last was met, or the work was over before"
    assert sorted(acks) == list(range(1, BATCHES + 1))
    assert (totals.accepted + totals.duplicates, totals.rejected) == (BATCHES * len(METERS), 0)
    those = "SELECT to_timestamp(us / 1e6) FROM unnest(%s::bigint[]) us"
    kept = f"SELECT count(*), sum(import_wh) FROM reads WHERE end_at = ANY ({those})"
    assert served.sql(kept, ends) == [(BATCHES * len(METERS), 7 * BATCHES * len(METERS))]
    ledger = "SELECT seq, accepted FROM batches WHERE epoch = %s ORDER BY seq"
    assert served.sql(ledger, epoch) == [(seq, len(METERS)) for seq in range(1, BATCHES + 1)]


def test_a_slow_link_makes_progress_and_breaks_nothing(served: Served, proxy: BreakableProxy) -> None:
    """1 Mbit/s with jitter, two head-ends on it: both get on, and no stream is given up."""
    proxy.change(Weather(delay_s=0.02, jitter_s=0.02, bytes_per_s=125_000))
    acked: dict[int, list[float]] = {0: [], 1: []}
    makers = [
        HeadEnd(
            proxy.address, HEAD_END, fresh_epoch(), backoff=backoff(),
            on_ack=lambda *_, who=who: acked[who].append(time.monotonic()),
        )
        for who in acked
    ]  # fmt: skip
    with makers[0] as one, makers[1] as other:
        for _ in range(20):
            for head_end in (one, other):
                send(head_end, fresh_end_us(), 1)
        totals = [head_end.flush() for head_end in (one, other)]
        assert [(t.accepted, t.replayed) for t in totals] == [(80, 0), (80, 0)]
        assert one.reconnects == other.reconnects == 0
    assert max(acked[0][0], acked[1][0]) < min(acked[0][-1], acked[1][-1]), "they take turns"


def test_the_shipped_settings_notice_a_peer_that_is_gone_within_20_seconds() -> None:
    assert SHIPPED["grpc.keepalive_time_ms"] + SHIPPED["grpc.keepalive_timeout_ms"] <= 20_000
    assert SHIPPED["grpc.http2.ping_timeout_ms"] <= SHIPPED["grpc.keepalive_timeout_ms"]
    client = dict(client_retry.CHANNEL_OPTIONS)
    assert client["grpc.keepalive_time_ms"] + client["grpc.keepalive_timeout_ms"] <= 20_000
    assert QUICK.keys() <= SHIPPED.keys()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped way to notice a dead peer, with shorter times."""
    monkeypatch.setattr(server, "OPTIONS", [(name, QUICK.get(name, value)) for name, value in server.OPTIONS])
    options = [(name, QUICK.get(name, value)) for name, value in client_retry.CHANNEL_OPTIONS]
    monkeypatch.setattr(client_retry, "CHANNEL_OPTIONS", tuple(options))


def test_a_black_hole_frees_the_stream_and_the_subscription_and_the_client_resumes(
    cluster: Databases, quick: None
) -> None:
    with (
        fresh_database(cluster) as dsn,
        serving(dsn, streams_max=1, subscribers_max=1) as served,
        BreakableProxy(endpoint(served)) as proxy,
        HeadEnd(proxy.address, HEAD_END, fresh_epoch(), backoff=backoff()) as head_end,
    ):
        send(head_end, fresh_end_us(), 1)
        head_end.flush()
        feed = AlarmFeed(proxy.address, backoff=backoff())
        messages = iter(feed)
        next(messages)
        proxy.change(Weather(hole_up=True, hole_down=True))
        send(head_end, fresh_end_us(), 2)  # into the hole

        def freed() -> bool:
            with served.stream(welcomed=False) as raw:
                raw.send(pb.IngestRequest(hello=pb.Hello(head_end=HEAD_END, epoch=fresh_epoch())))
                try:
                    welcomed = raw.answer().HasField("welcome")
                except grpc.RpcError:  # the stream in the hole has the only place
                    return False
                return welcomed and served.service.desk.hub.subscribers == 0

        until(freed)
        proxy.change(Weather())
        proxy.reset()  # what was begun in the hole goes on to wait there
        assert head_end.flush().accepted == 8
        assert head_end.reconnects > 0
        next(messages)
        feed.close()
