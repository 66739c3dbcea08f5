"""Whichever call of the whole service to its database fails, in the foreground or behind: each outage is one alarm.

The calls of background work are counted as well, and which call is the n-th differs from run to run: the law holds for
all of them.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from databases import Databases
from nth_call import NthCall
from served import ENOUGH_S, US, Served, ended, fresh_database, fresh_epoch, serving
from service_process import import_grid

from meterwatch import data, pipeline
from meterwatch.batch import EventCode
from meterwatch.v1 import ingest_pb2 as pb

CALLS = range(1, 13)
ANSWERS = {"40P01": "UNAVAILABLE", "57P01": "UNAVAILABLE", "53300": "UNAVAILABLE", "53100": "RESOURCE_EXHAUSTED"}


@pytest.fixture(scope="module")
def meters() -> list[str]:
    """One of each transformer: its outage is nobody else's."""
    with (data.GRID / "meters.csv").open() as file:
        return list({row["transformer"]: row["meter"] for row in csv.DictReader(file)}.values())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> NthCall:
    monkeypatch.setattr(pipeline, "RETRY_S", 0.05)
    return NthCall(monkeypatch)


@pytest.fixture
def served(cluster: Databases) -> Iterator[Served]:
    with fresh_database(cluster) as dsn, serving(dsn) as running:
        import_grid(running.address)
        yield running


def power_fail(meter: str, at_us: int) -> bytes:
    return pb.SendEventsRequest(
        head_end="HES-1", epoch=fresh_epoch(), seq=1, meter=[meter], meter_index=[0],
        at_us=[at_us], code=[int(EventCode.POWER_FAIL)],  # type: ignore[list-item]
    ).SerializeToString()  # fmt: skip


def accepted(served: Served, request: bytes) -> int:
    return pb.SendEventsResponse.FromString(served.call("Ingest/SendEvents", request)).accepted


@pytest.mark.parametrize(("state", "done"), [*((state, False) for state in ANSWERS), ("57P01", True)])
def test_whichever_call_fails_every_outage_is_one_alarm(
    served: Served, calls: NthCall, meters: list[str], state: str, done: bool
) -> None:
    failed: set[str] = set()
    at_us = (int(time.time()) - 1800) * US
    for n, meter in zip(CALLS, meters, strict=False):
        request = power_fail(meter, at_us)
        calls.arm(n, state, done=done)
        try:
            assert accepted(served, request) == 1
        except grpc.RpcError as error:
            end = ended(error)
            assert (end.code, end.retry_s is not None) == (ANSWERS[state], True), (n, calls.fired, end)
        calls.disarm()
        assert accepted(served, request) == 1, (n, calls.fired)
        failed.add(calls.fired.split()[0] if calls.fired else "")
    assert len(failed) > 2, failed
    outages: Any = "SELECT count(*), count(DISTINCT asset) FROM alarms WHERE rule = 'OUTAGE' AND asset_kind = 'meter'"
    limit = time.monotonic() + ENOUGH_S
    while served.sql(outages) != [(len(CALLS), len(CALLS))]:
        assert time.monotonic() < limit, served.sql(outages)
        time.sleep(0.05)  # the rules wait for the fault to be certain
    assert served.sql("SELECT count(*) FROM batches WHERE NOT evaluated") == [(0,)]
    assert (
        served.sql("SELECT alarm_id FROM alarm_log GROUP BY alarm_id HAVING count(DISTINCT version) < count(*)") == []
    )
    assert not served.service.core.done()
