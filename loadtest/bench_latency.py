"""The bench's arm about the way of an alarm: from the sending of the read that causes it to a subscriber.

Every batch of 10,000 reads carries one transformer at 2.5 times its rating; its first window of that is an alarm, and
the batch brings that window whole. The same batches go at a pace that leaves the service idle between them, flat out,
and at LOADED_SHARE of the rate just measured. Latency counts from the time the batch was due, so a sender that falls
behind makes it longer, not fewer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

from loadtest.arms import Calendar
from loadtest.driver import Driver, Run
from loadtest.fleet import Fleet
from loadtest.load import Load, overloads
from loadtest.subscriber import Subscriber

LOADED_SHARE: Final = 0.7
ALARM_TIMEOUT_S: Final = 30.0
LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Way:
    """One run: latency of each of its alarms."""

    arm: str
    reads: int
    rate: float
    alarm_ms: list[float]
    ack_ms_p99: float


def alarm_latency(
    address: str,
    fleet: Fleet,
    calendar: Calendar,
    driver: Driver,
    intervals: int,
    idle_batches_per_s: float,
    rounds: int,
    say: Callable[[str], None],
) -> tuple[list[Way], dict[str, float]]:
    """Idle, flat out, loaded, in turn. intervals: of an idle or loaded run."""
    runs: list[Way] = []
    idle_rate = idle_batches_per_s * min(Load(0, 1).batch_rows, len(fleet.meters_of(0)))
    for _ in range(rounds):
        rate = math.inf
        for arm, share, many in (
            ("alarms idle", 0.0, intervals),
            ("alarms flat out", math.inf, 2),
            ("alarms loaded", LOADED_SHARE, intervals),
        ):
            pace = idle_rate if share == 0 else share * rate
            runs.append(_run(arm, address, fleet, calendar.take(Load(0, many, overloaded=True)), driver, pace))
            rate = runs[-1].rate
            say(
                f"{arm:22} {rate:9,.0f} reads/s   {len(runs[-1].alarm_ms)} alarms, sent to told "
                f"p50 {median(runs[-1].alarm_ms):.0f} ms, p99 {p99(runs[-1].alarm_ms):.0f} ms"
            )
    idle, loaded = (
        [ms for one in runs if one.arm == arm for ms in one.alarm_ms] for arm in ("alarms idle", "alarms loaded")
    )
    return runs, {
        "alarm_p99_loaded_over_idle": p99(loaded) / p99(idle),
        "alarm_ms_p50_idle": median(idle),
        "alarm_ms_p99_idle": p99(idle),
        "alarm_ms_p50_loaded": median(loaded),
        "alarm_ms_p99_loaded": p99(loaded),
    }


def p99(values: list[float]) -> float:
    """99th percentile; of few values the largest."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def _run(arm: str, address: str, fleet: Fleet, load: Load, driver: Driver, pace: float) -> Way:
    driver.prepare(load)
    subscriber = Subscriber(address)
    try:
        subscriber.ready()
        run = driver.run(pace)
        due_s = _due_s(fleet, load, run)
        told = _told(subscriber, due_s.keys())
    finally:
        subscriber.close()
    if run.counts["accepted"] != run.counts["sent"]:
        raise RuntimeError(f"{arm}: sent {run.counts['sent']} reads, the service counted {run.counts}; look at its log")
    alarm_ms = [1000 * (told[asset] - due_s[asset]) for asset in due_s]
    return Way(arm, run.counts["sent"], run.counts["sent"] / run.seconds, alarm_ms, p99(run.ack_ms))


def _due_s(fleet: Fleet, load: Load, run: Run) -> dict[str, float]:
    """By overloaded transformer, when the batch that carries it was due."""
    found: dict[str, float] = {}
    for stream, due_s in enumerate(run.due_s):
        at = iter(due_s)
        for interval in range(load.first, load.first + load.intervals):
            for transformer in overloads(fleet, load, stream, interval):
                found[f"T{transformer}"] = next(at)
    return found


def _told(subscriber: Subscriber, assets: Iterable[str]) -> dict[str, float]:
    """By transformer, when its alarm arrived (time.monotonic())."""
    until_s = time.monotonic() + ALARM_TIMEOUT_S
    wanted = set(assets)
    while True:
        arrived = {told.asset: told.received_s for told in subscriber.told(0.0) if told.type == "OVERLOAD"}
        if wanted <= arrived.keys():
            return arrived
        if time.monotonic() > until_s:
            missing = sorted(wanted - arrived.keys())
            raise RuntimeError(f"{len(missing)} of {len(wanted)} alarms did not come, {missing[0]} among them")
        time.sleep(LOOK_S)
