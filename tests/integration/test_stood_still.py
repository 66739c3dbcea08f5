"""The service stands still and goes on: stopped by a signal as a process of its own, and its event loop alone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import Databases
from served import ENOUGH_S, HEAD_END, METERS, fresh_database, goes_on, import_registry, serving
from service_process import ServiceProcess, until

from meterwatch.batch import EventCode
from meterwatch.client import AlarmFeed, HeadEnd
from meterwatch.clock import US

HOLD_S = 2
STOOD_S = 1.0
STOOD_HELD_S = 2.0
PROFILES = f"""
profiles:
  quick:
    inherits: default
    outage: {{momentary_s: 1, root_hold_s: {HOLD_S}, thin_hold_s: {HOLD_S}}}
"""
PRELUDE = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
import meterwatch.steady_time
meterwatch.steady_time.STOOD_S, meterwatch.steady_time.STOOD_HELD_S = {STOOD_S}, {STOOD_HELD_S}
"""


@pytest.fixture(scope="module")
def process(cluster: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, str]]:
    directory = tmp_path_factory.mktemp("stood_still")
    (directory / "profiles.yaml").write_text(PROFILES)
    settings = {
        "METERWATCH_RULES__PROFILES_FILE": str(directory / "profiles.yaml"),
        "METERWATCH_RULES__PROFILE": "quick",
    }
    with fresh_database(cluster) as dsn:
        made = ServiceProcess(dsn, None, directory / "output", PRELUDE, **settings)
        with made:
            made.start()
            import_registry(made.address)
            yield made, dsn


def test_who_was_back_before_it_went_on_was_never_gone(process: tuple[ServiceProcess, str]) -> None:
    """A restoration that came while the service stood still, longer than the hold of an outage, is read in time."""
    service, dsn = process
    told: list[Any] = []
    feed = AlarmFeed(service.address)
    listener = threading.Thread(target=lambda: told.extend(feed), daemon=True)
    listener.start()
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        HeadEnd(service.address, HEAD_END, give_up_after_s=ENOUGH_S) as head_end,
    ):

        def outages() -> list[Any]:
            return connection.execute("SELECT asset FROM alarms WHERE rule = 'OUTAGE'").fetchall()

        def send(code: EventCode, at_us: int) -> None:
            done = head_end.send_events(list(METERS), [at_us] * len(METERS), [code] * len(METERS))
            assert done.accepted == len(METERS)

        gone_us = time.time_ns() // 1000
        send(EventCode.POWER_FAIL, gone_us)
        service.signal(signal.SIGSTOP)
        back = threading.Thread(target=send, args=(EventCode.POWER_RESTORED, gone_us + US))
        back.start()
        time.sleep(HOLD_S + STOOD_S)  # the fault itself
        service.signal(signal.SIGCONT)
        back.join(ENOUGH_S)
        assert not back.is_alive()
        until(lambda: "this process stood still" in service.tail(), "it knows that it stood still")
        time.sleep(STOOD_HELD_S + 1)  # that nothing comes of it when its time follows the clock again
        assert outages() == []
        send(EventCode.POWER_FAIL, time.time_ns() // 1000)
        until(outages, "an outage that lasts is told")
        until(lambda: [m for m in told if m.HasField("transition")], "the subscriber is still there")
        assert feed.reconnects == 0
    feed.close()


def test_it_takes_as_many_descriptors_as_it_may(process: tuple[ServiceProcess, str]) -> None:
    service, _ = process
    [line] = [
        line for line in Path(f"/proc/{service.pid}/limits").read_text().splitlines() if line.startswith("Max open")
    ]
    _, _, _, soft, hard, _ = line.split()
    assert soft == hard != "256"


def test_streams_live_through_a_loop_that_stands_still(cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, serving(dsn) as served, served.stream() as raw:
        goes_on(raw, 1)
        stands = threading.Event()

        def stand() -> None:
            stands.set()
            time.sleep(2.0)  # the fault itself

        served.loop.call_soon_threadsafe(stand)
        assert stands.wait(ENOUGH_S)
        goes_on(raw, 2)
        assert served.sql("SELECT count(*) FROM alarms") == [(0,)]
