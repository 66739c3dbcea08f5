"""The machine's clock is set while the service runs, or wrong when it starts: it is said, and no alarm comes of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from databases import Databases
from served import HEAD_END, METERS, fresh_database, goes_on, serving
from service_process import until

from meterwatch import own_alarms
from meterwatch.batch import EventCode
from meterwatch.client import HeadEnd
from meterwatch.clock import US, RealClock

HOURS = 3 * 3600


def test_a_clock_set_forward_and_back_is_on_record_and_raises_no_outage(
    cluster: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_alarms, "EVERY_S", 0.1)
    ahead_us = 0
    honest = RealClock.now_us
    monkeypatch.setattr(RealClock, "now_us", lambda clock: honest(clock) + ahead_us)
    with fresh_database(cluster) as dsn, serving(dsn) as served, HeadEnd(served.address, HEAD_END) as head_end:

        def told(code: EventCode) -> None:
            now_us = time.time_ns() // 1000
            done = head_end.send_events(list(METERS), [now_us] * len(METERS), [code] * len(METERS))
            assert done.accepted == len(METERS)

        def on_record() -> list[Any]:
            return served.sql("SELECT who, how, method, object FROM audit_log WHERE outcome = 'CLOCK_SET'")

        def alarms() -> list[Any]:
            return served.sql("SELECT asset, cleared_at IS NULL FROM alarms WHERE rule = 'SYSTEM'")

        def judged() -> int:
            return served.service.pipeline.steady.now_us()

        told(EventCode.POWER_FAIL)
        ahead_us = HOURS * US
        until(on_record, "the step is on record")
        until(alarms, "and an alarm")
        assert on_record() == [("meterwatch", "service", "Clock", f"+{HOURS} s")]
        assert alarms() == [("clock", True)]
        with served.stream() as raw:
            goes_on(raw)  # the rules are asked
        assert served.sql("SELECT asset FROM alarms WHERE rule = 'OUTAGE'") == []
        told(EventCode.POWER_RESTORED)
        ahead_us = 0
        until(lambda: served.service.pipeline.steady.steps == 2, "it was set back")
        stands_us = judged()
        with served.stream() as raw:
            goes_on(raw)
        assert judged() >= stands_us
        assert served.sql("SELECT asset FROM alarms WHERE rule <> 'SYSTEM'") == []
        assert not served.service.core.done()


def test_a_start_with_the_clock_behind_is_said_and_the_time_of_the_rules_does_not_go_back(
    cluster: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_alarms, "EVERY_S", 0.1)
    honest = RealClock.now_us
    ahead_us = 0
    monkeypatch.setattr(RealClock, "now_us", lambda clock: honest(clock) + ahead_us)
    with fresh_database(cluster) as dsn:
        with serving(dsn) as served, HeadEnd(served.address, HEAD_END) as head_end:
            stored_us = time.time_ns() // 1000
            head_end.send_events([METERS[0]], [stored_us], [EventCode.POWER_FAIL])
        ahead_us = -HOURS * US
        with serving(dsn) as served, HeadEnd(served.address, HEAD_END) as head_end:
            steady = served.service.pipeline.steady
            assert steady.now_us() >= stored_us
            assert 0 < steady.behind_us <= HOURS * US
            lasting = "SELECT level FROM alarms WHERE rule = 'SYSTEM' AND asset = 'time' AND cleared_at IS NULL"
            until(lambda: served.sql(lasting) == [("CLOCK_BEHIND",)], "it is told")
            done = head_end.send_events([METERS[0]], [time.time_ns() // 1000], [EventCode.POWER_RESTORED])
            assert done.accepted == 0
            assert served.sql("SELECT reason FROM quarantine") == [("FUTURE",)]
            ahead_us = 0
            until(lambda: served.sql(lasting) == [], "it is right again")
            done = head_end.send_events([METERS[0]], [time.time_ns() // 1000], [EventCode.POWER_RESTORED])
            assert done.accepted == 1
            assert not served.service.core.done()
