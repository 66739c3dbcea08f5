"""The bench's arms about alarms: what it costs to tell a thousand subscribers.

An alarm is made by one event: a meter that reported off 400 s before a read of it that says on. The outage is long
enough to be told, over when it is told, and no other alarm follows from it; so alarms can be made one by one, one for
each transformer, and each is exactly one transition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from loadtest.audience import Audience, Heard
from loadtest.cpu import TICK_S, process_s
from loadtest.fleet import METERS_PER_TRANSFORMER, US, Fleet
from loadtest.local import LocalService
from meterwatch.client import HeadEnd
from meterwatch.v1.ingest_pb2 import EVENT_CODE_POWER_FAIL

OFF_S: Final = 400
"""How long a meter is off: longer than the 300 s of a sustained outage, within one interval."""
STORM: Final = "fan-out"
SINGLE: Final = "fan-out one by one"
TOGETHER: Final = {STORM: 10, SINGLE: 1}
"""Events in one request, and so alarms in one commit."""


@dataclass(frozen=True, slots=True)
class FanOut:
    """One run: so many alarms to all subscribers."""

    arm: str
    alarms: int
    subscribers: int
    deliveries: int
    merged: int
    messages: int
    service_s: float
    """CPU-seconds, as is the one after it."""
    audience_s: float

    @property
    def per_cpu_s(self) -> float:
        """Deliveries per CPU-second of the service."""
        return self.deliveries / max(self.service_s, TICK_S)


def fan_out(
    service: LocalService,
    fleet: Fleet,
    interval: int,
    subscribers: int,
    alarms: int,
    rounds: int,
    say: Callable[[str], None],
) -> tuple[list[FanOut], dict[str, float]]:
    """A storm, ten alarms in a request, in turn with alarms of which each waits until all have heard the one before.

    interval: the newest one stored of all meters. Each alarm is of another transformer.
    """
    runs: list[FanOut] = []
    if 2 * rounds * alarms * METERS_PER_TRANSFORMER > fleet.meters:
        raise ValueError(
            f"{2 * rounds * alarms} alarms of as many transformers; {fleet.meters} meters have not so many"
        )
    with HeadEnd(service.address, fleet.head_end(0)) as head_end:
        audience = Audience(service.address, subscribers)
        try:
            for number in range(2 * rounds):
                arm = (STORM, SINGLE)[number % 2]
                first = number * alarms
                meters = [nth * METERS_PER_TRANSFORMER for nth in range(first, first + alarms)]
                runs.append(_run(arm, service, fleet, interval, head_end, audience, subscribers, meters))
                say(
                    f"{arm:22} {runs[-1].per_cpu_s:9,.0f} deliveries per CPU-second of the service, "
                    f"{runs[-1].deliveries / runs[-1].messages:.1f} a message"
                )
        finally:
            audience.close()
    names = {STORM: "fanout_deliveries_per_cpu_s", SINGLE: "fanout_one_by_one_deliveries_per_cpu_s"}
    return runs, {key: median(one.per_cpu_s for one in runs if one.arm == arm) for arm, key in names.items()}


def _run(
    arm: str,
    service: LocalService,
    fleet: Fleet,
    interval: int,
    head_end: HeadEnd,
    audience: Audience,
    subscribers: int,
    meters: list[int],
) -> FanOut:
    at_us = fleet.end_us(interval) - OFF_S * US
    before_s = process_s(service.pid)
    heard: list[Heard] = []
    for at in range(0, len(meters), TOGETHER[arm]):
        names = [fleet.name(meter) for meter in meters[at : at + TOGETHER[arm]]]
        head_end.send_events(names, [at_us] * len(names), [EVENT_CODE_POWER_FAIL] * len(names))
        if arm == SINGLE:
            heard.append(audience.heard(1))
    if not heard:
        heard = [audience.heard(len(meters))]
    service_s = process_s(service.pid) - before_s
    deliveries, merged = sum(one.transitions for one in heard), sum(one.merged for one in heard)
    if deliveries + merged != len(meters) * subscribers:
        raise RuntimeError(f"{arm}: {len(meters)} alarms were made, {subscribers} subscribers heard {deliveries}")
    return FanOut(
        arm, len(meters), subscribers, deliveries, merged, sum(one.messages for one in heard), service_s,
        sum(one.cpu_s for one in heard),
    )  # fmt: skip
