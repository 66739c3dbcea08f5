"""`make overload`: more reads than the service can take, and what it owes all the same.

First what it takes flat out is measured; then twice of it is offered, open loop, for SECONDS. Every batch carries one
transformer at 2.5 times its rating, whose alarm a subscriber awaits. Promises: it fails unless each read acknowledged
is stored, once; memory stays below its limit; health answers all the time; every alarm of an acknowledged batch is
told; no stream gets less than half of what another gets; and no sender failed: they were slowed by their credits.
Afterwards a fifth of the capacity is sent, to see that nothing of it is left.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from loadtest.bench_latency import p99
from loadtest.cpu import rss_mb
from loadtest.driver import Run
from loadtest.fleet import INTERVAL_S, US, Fleet
from loadtest.load import Load, overloads
from loadtest.pressure import (
    Pressed,
    Size,
    Watch,
    finish,
    memory_limit_mb,
    owed,
    say_to_stderr,
    under_pressure,
    written,
)
from loadtest.record import Told
from loadtest.subscriber import Subscriber

OFFERED_OVER_CAPACITY: Final = 2.0
AFTER_SHARE: Final = 0.2
AFTER_S: Final = 3.0
SHARE_MIN: Final = 0.5
"""Of the stream with the fewest acknowledged reads in that with the most."""
ALARM_TIMEOUT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.2
MESSAGE_BYTES_PER_READ: Final = 20
"""More than a read of three channels takes on the wire."""


FULL: Final = Size(meters=80_000, streams=4, batch_rows=10_000, probe_intervals=60, probe_s=15)
TINY: Final = Size(meters=4_000, streams=2, batch_rows=1_000, probe_intervals=60, probe_s=1.5)


@dataclass(frozen=True, slots=True)
class Awaited:
    """An alarm that a batch must raise."""

    asset: str
    end_us: int
    """Of the interval that is overloaded."""
    sent_s: float


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long too much is offered")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--tiny", action="store_true", help="a small fleet; shows that it works")
    parser.add_argument("--database", help="URL of a TimescaleDB on this machine; else one of its own")
    options = parser.parse_args(arguments)
    result = run(TINY if options.tiny else FULL, options.seconds, options.database, say_to_stderr)
    if options.json:
        options.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    finish(result["problems"], options.json)


def run(size: Size, seconds: float, database_url: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Press a service of its own; {figures, problems, machine, ...} as written to the file."""
    with under_pressure(size, database_url, say) as under:
        figures = _pressed(under, seconds, say)
    return written(size, seconds, {"figures": figures, "problems": problems_of(figures)})


def _pressed(under: Pressed, seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    size, fleet, service, sender = under.size, under.fleet, under.service, under.sender
    capacity = sender.capacity(size.probe_intervals, size.probe_s)
    say(f"flat out {capacity:,.0f} reads/s; offering {OFFERED_OVER_CAPACITY * capacity:,.0f} for {seconds:g} s")
    intervals = math.ceil(OFFERED_OVER_CAPACITY * capacity * seconds / size.meters)
    base_mb = rss_mb(service.pid)
    subscriber = Subscriber(service.address)
    watch = Watch(service.address, service.pid, LOOK_EVERY_S)
    try:
        subscriber.ready()
        load, pressed = sender.send(intervals, OFFERED_OVER_CAPACITY * capacity, seconds, overloaded=True)
        awaited = awaited_of(fleet, load, pressed)
        alarm_ms, missing = _told(subscriber, awaited)
    finally:
        watch.close()
        subscriber.close()
    _, after = sender.send(math.ceil(AFTER_SHARE * capacity * AFTER_S / size.meters), AFTER_SHARE * capacity)
    sent = sender.counts
    figures = {
        "capacity_reads_per_s": capacity,
        "offered_reads_per_s": OFFERED_OVER_CAPACITY * capacity,
        "sent": pressed.counts["sent"],
        "withheld": pressed.withheld,
        "acked_reads_per_s": pressed.counts["sent"] / pressed.seconds,
        "ack_ms_p50": median(pressed.ack_ms),
        "ack_ms_p99": p99(pressed.ack_ms),
        "ack_ms_p99_after": p99(after.ack_ms),
        "send_to_ack_s_max": _send_to_ack_s_max(pressed),
        "stream_share_min": min(pressed.stream_rows) / max(*pressed.stream_rows, 1),
        "alarms": len(awaited),
        "alarms_missing": missing,
        "alarm_ms_p50": median(alarm_ms) if alarm_ms else 0.0,
        "alarm_ms_max": max(alarm_ms, default=0.0),
        "health_asked": watch.health.asked,
        "health_unanswered": watch.health.unanswered,
        "health_not_serving": watch.health.not_serving,
        "health_ms_max": watch.health.ms_max(),
        "rss_mb_before": base_mb,
        "rss_mb_max": watch.rss_mb_max(),
        "rss_mb_limit": memory_limit_mb(base_mb, size.streams, size.batch_rows * MESSAGE_BYTES_PER_READ),
        "acked_in_all": sent["accepted"],
        "rejected_in_all": sent["rejected"],
        "sent_in_all": sent["sent"],
        "stored_in_all": under.database.rows_between(fleet.start_us, sender.end_us),
    }  # fmt: skip
    for key, value in figures.items():
        say(f"{key:22} {value:,.1f}")
    return figures


def awaited_of(fleet: Fleet, load: Load, run: Run) -> list[Awaited]:
    """The alarms of the batches that went, in the order in which each stream sent them."""
    found: list[Awaited] = []
    for stream, went_s in enumerate(run.went_s):
        those = [
            (f"T{transformer}", fleet.end_us(interval))
            for interval in range(load.first, load.first + load.intervals)
            for transformer in overloads(fleet, load, stream, interval)
        ]
        found += [Awaited(*one, at_s) for one, at_s in zip(those, went_s, strict=False)]  # the rest did not go
    return found


def _told(subscriber: Subscriber, awaited: list[Awaited]) -> tuple[list[float], int]:
    """Milliseconds from each batch that went to its alarm, and how many did not come."""
    until_s = time.monotonic() + ALARM_TIMEOUT_S
    while True:
        found = matched(subscriber.told(0.0), awaited)
        if len(found) == len(awaited) or time.monotonic() > until_s:
            return found, len(awaited) - len(found)
        time.sleep(LOOK_EVERY_S)


def matched(told: list[Told], awaited: list[Awaited]) -> list[float]:
    """Milliseconds from sent to told of each awaited alarm that is told: of its asset, begun in that interval."""
    first: dict[tuple[str, int], float] = {}
    for alarm in told:
        if alarm.type == "OVERLOAD":
            key = alarm.asset, alarm.onset_us + INTERVAL_S * US
            first[key] = min(alarm.received_s, first.get(key, math.inf))
    keys = [((one.asset, one.end_us), one.sent_s) for one in awaited]
    return [1000 * (first[key] - sent_s) for key, sent_s in keys if key in first]


def _send_to_ack_s_max(run: Run) -> float:
    last_s = max(run.acked_s, default=0.0)
    return max((last_s - went_s[-1] for went_s in run.went_s if went_s), default=0.0)


def problems_of(figures: dict[str, float]) -> list[str]:
    """What the service owed and did not do; empty: it kept everything."""
    f = figures
    found = [
        *owed(f),
        (f["withheld"] == 0, "nothing was withheld: the service took all that was offered, this was no overload"),
        (f["rss_mb_max"] > f["rss_mb_limit"], f"{f['rss_mb_max']:.0f} MB used, the limit is {f['rss_mb_limit']:.0f}"),
        (f["health_not_serving"] > 0, f"health said {f['health_not_serving']:.0f} times that it does not serve"),
        (f["alarms"] == 0 or f["alarms_missing"] > 0,
         f"{f['alarms_missing']:.0f} of {f['alarms']:.0f} alarms were not told"),
        (f["stream_share_min"] < SHARE_MIN,
         f"one stream had {f['stream_share_min']:.0%} of what another had; at least {SHARE_MIN:.0%} is owed"),
    ]  # fmt: skip
    return [sentence for failed, sentence in found if failed]


if __name__ == "__main__":
    main()
