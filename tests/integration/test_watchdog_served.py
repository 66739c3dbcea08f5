"""The watchdog of a real service: every subscriber sees whether something comes through, and what stops it."""

from __future__ import annotations

import grpc
import psycopg
import pytest
from databases import Databases
from served import ENOUGH_S, Served, fresh_database, goes_on, serving
from service_process import until

from meterwatch import watchdog
from meterwatch.v1.alarms_pb2 import AlarmFilter, SubscribeRequest, SubscribeResponse


def age_s(served: Served) -> int:
    """As the first bookmark of a subscription to which nothing matches says."""
    with grpc.insecure_channel(served.address) as channel:
        subscribe = channel.unary_stream(
            "/meterwatch.v1.Alarms/Subscribe", response_deserializer=SubscribeResponse.FromString
        )
        request = SubscribeRequest(filter=AlarmFilter(district=["Nowhere"]))
        call = subscribe(request.SerializeToString(), timeout=ENOUGH_S)
        assert next(call).snapshot.complete
        age = int(next(call).bookmark.watchdog_age_s)
        call.cancel()
        return age


def test_every_subscriber_sees_that_nothing_comes_through_and_that_it_does_again(
    cluster: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "EVERY_S", 0.05)
    through = "SELECT count(*) > 2 FROM batches WHERE head_end_id = -2 AND evaluated AND rows_sent = 0"
    with fresh_database(cluster) as dsn, serving(dsn) as served:
        until(lambda: served.sql(through) == [(True,)], "some have come through")
        until(lambda: age_s(served) == 0, "and bookmarks say so")
        with psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE batches IN EXCLUSIVE MODE")
            until(lambda: age_s(served) >= 2, "none comes through")
            other.rollback()
        until(lambda: age_s(served) == 0, "they do again")
        with served.stream() as raw:
            goes_on(raw)
        assert served.sql("SELECT count(*) FROM alarm_log") == [(0,)], "nothing of it is in the log"
