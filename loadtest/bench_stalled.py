"""The bench's arm about subscribers that do not read: what they cost those who do, during a storm.

The same storm with nobody stalled and with some beside the others, in the order none, some, some, none, so that what
grows meanwhile takes neither's part; how far the runs without stalled ones differ is told too. Each alarm's way is from
the event sent to the arrival at each subscriber that reads. After it the stalled ones read again and must miss nothing:
every transition comes, or is told to be folded into a newer one of its alarm. The alarms are those of
loadtest.bench_alarms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Final

import numpy as np

from loadtest.audience import Audience
from loadtest.bench_alarms import OFF_S
from loadtest.fleet import METERS_PER_TRANSFORMER, US, Fleet
from loadtest.local import LocalService
from meterwatch.client import HeadEnd
from meterwatch.v1.ingest_pb2 import EVENT_CODE_POWER_FAIL

NONE: Final = "storm, nobody stalled"
SOME: Final = "storm, some stalled"
TOGETHER: Final = 10
"""Events in one request."""
PLACE: Final = 1
"""Of the meter in its transformer; bench_alarms takes the first."""


@dataclass(frozen=True, slots=True)
class Storm:
    """One run."""

    arm: str
    alarms: int
    readers: int
    stalled: int
    p50_ms: float
    """Event sent to alarm received, over all alarms and readers."""
    p99_ms: float
    resumed: int
    """Transitions the stalled ones received afterwards."""
    folded: int
    """Those they were told were folded."""


def stalled(
    service: LocalService,
    fleet: Fleet,
    interval: int,
    subscribers: int,
    of_them_stalled: int,
    alarms: int,
    rounds: int,
    say: Callable[[str], None],
) -> tuple[list[Storm], dict[str, float]]:
    """Runs, and how much further the 99th percentile is with stalled ones: a ratio of geometric means.

    interval: the newest one stored of all meters. Each alarm is of another transformer.
    """
    room = len(fleet.meters_of(0)) // METERS_PER_TRANSFORMER
    if 2 * rounds * alarms > room:
        raise ValueError(f"{2 * rounds * alarms} alarms of as many transformers; the head-end has {room}")
    runs: list[Storm] = []
    readers = subscribers - of_them_stalled
    with HeadEnd(service.address, fleet.head_end(0)) as head_end:
        for number in range(2 * rounds):
            idle = of_them_stalled if number % 4 in (1, 2) else 0
            first = number * alarms
            meters = [fleet.name(n * METERS_PER_TRANSFORMER + PLACE) for n in range(first, first + alarms)]
            runs.append(_run(service, head_end, fleet.end_us(interval) - OFF_S * US, meters, readers, idle))
            say(f"{runs[-1].arm:22} p50 {runs[-1].p50_ms:7.1f} ms, p99 {runs[-1].p99_ms:7.1f} ms")
    some, none = ([run.p99_ms for run in runs if run.arm == arm] for arm in (SOME, NONE))
    return runs, {
        "storm_p99_stalled_over_none": geometric_mean(some) / geometric_mean(none),
        "storm_p99_none_over_none": max(none) / min(none),
    }


def _run(service: LocalService, head_end: HeadEnd, at_us: int, meters: list[str], readers: int, idle: int) -> Storm:
    audience = Audience(service.address, readers, stalled=idle, notes=True)
    try:
        sent_s: dict[str, float] = {}
        for at in range(0, len(meters), TOGETHER):
            names = meters[at : at + TOGETHER]
            sent_s |= dict.fromkeys(names, time.monotonic())
            head_end.send_events(names, [at_us] * len(names), [EVENT_CODE_POWER_FAIL] * len(names))
        heard = audience.heard(len(meters))
        if heard.transitions != len(meters) * readers or heard.merged:
            raise RuntimeError(
                f"{len(meters)} alarms; {readers} readers received {heard.transitions}, {heard.merged} folded"
            )
        later = audience.resumed(len(meters))
        if later.transitions + later.merged != len(meters) * idle:
            raise RuntimeError(f"{idle} stalled ones were told of {later.transitions} + {later.merged} transitions")
    finally:
        audience.close()
    took_ms = np.concatenate([np.array(at_s) - sent_s[asset] for asset, at_s in heard.arrivals.items()]) * 1000
    p50_ms, p99_ms = np.percentile(took_ms, (50, 99)).tolist()
    return Storm(SOME if idle else NONE, len(meters), readers, idle, p50_ms, p99_ms, later.transitions, later.merged)
