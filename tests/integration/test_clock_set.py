"""The machine's clock is set while the service runs: it is said everywhere, and no alarm comes of it."""

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
