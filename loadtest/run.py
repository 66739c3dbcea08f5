"""A load test from beginning to end: fleet, service, drivers, subscribers, and the record of what came of it.

Promises: the clock starts when everything is ready; what the run cannot vouch for is in `problems`: a generator behind
its schedule, a read without an answer or with the wrong one, a count that the database contradicts. Refuses to judge
the alarms: loadtest.score does, and limits are the caller's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from hdrh.histogram import HdrHistogram
from rich.console import Console

from loadtest import report
from loadtest.limits import Limit, check
from loadtest.null_server import NullServer
from loadtest.openloop import Generator, Job, Played, plan_of
from loadtest.plan import Plan
from loadtest.record import Record, Told
from loadtest.scenarios import Knobs
from loadtest.subscriber import Stalled, Subscriber
from loadtest.target import Target, announce, local, probe, remote
from loadtest.watch import Terminal, Watch, cpu_readers
from loadtest.world import INTERVAL_S, US, World
from meterwatch.client.secure import in_plain_text

CEILING_READS: Final = 500_000
SETTLE_S: Final = 2.0
SETTLE_SIMULATED_S: Final = 120.0
CONNECT_S: Final = 1.0
CONNECT_METERS_PER_S: Final = 100_000
"""Head-ends connect this long before the start: time for their dictionaries."""
LOOK_EVERY_S: Final = 1.0
SAID_FROM_METERS: Final = 100_000
"""From so many on, making messages takes longer than one likes to wait without a word."""
DEFAULT_START: Final = datetime(2026, 2, 3, tzinfo=UTC)
DST_START: Final = datetime(2026, 3, 28, 23, tzinfo=UTC)
"""Midnight in Berlin before the clocks go forward."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run. address None: a service of its own; database: URL for that one, None: an embedded one."""

    scenario: str
    meters: int
    seed: int
    knobs: Knobs
    address: str | None = None
    database: str | None = None
    ceiling: bool = True
    lead_s: float = 0.0
    """Seconds to get ready in, for a service that runs already; 0: by the size of the fleet."""
    limits: list[Limit] = field(default_factory=list)


def run(order: Order, console: Console) -> Record:
    """Run it. RuntimeError if it cannot even start."""
    knobs, say = order.knobs, _sayer(console)
    world = World(order.meters, knobs.streams, order.seed, knobs.three_phase_share, knobs.meters_per_transformer)
    say(
        f"{order.scenario}: {world.meters:,} meters on {world.transformers:,} transformers and {world.feeders:,} "
        f"feeders, {knobs.streams} streams from {knobs.drivers} process(es), seed {order.seed}"
    )
    with in_plain_text():  # the server that only answers has no certificates
        ceiling = _ceiling(order, say) if order.ceiling else 0.0
    start_us = round((DST_START if knobs.dst_day else DEFAULT_START).timestamp() * US)
    if order.address is None:
        target = local(world, knobs, start_us, order.database, say)
    else:
        target = remote(world, knobs, order.address, say, order.lead_s)
    try:
        return _run(order, world, target, ceiling, console, say)
    finally:
        target.close()


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)


def _jobs(order: Order, knobs: Knobs, start_us: int, epoch: int) -> list[Job]:
    dealt = [tuple(range(first, knobs.streams, knobs.drivers)) for first in range(knobs.drivers)]
    return [Job(order.meters, order.seed, knobs, start_us, epoch, streams) for streams in dealt if streams]


def _ceiling(order: Order, say: Callable[[str], None]) -> float:
    """Reads per second the drivers reach against a server that only answers."""
    intervals = max(min(order.knobs.intervals, CEILING_READS // order.meters), 1)
    knobs = replace(order.knobs, paced=False, intervals=intervals, backlog_hours=0, resent_days=0)
    server = NullServer()
    generators: list[Generator] = []
    try:
        start_us = round(DEFAULT_START.timestamp() * US)
        generators += [Generator(job) for job in _jobs(order, knobs, start_us, 1)]
        for generator in generators:
            generator.prepared()
            generator.connect(server.address)
        for generator in generators:
            generator.welcomed()
        start_s = time.monotonic() + 0.2
        for generator in generators:
            generator.go(start_s)
        played = _until_played(generators, lambda _: None, lambda: None)
    finally:
        for generator in generators:
            generator.close()
        server.close()
    sent = sum(one.counts["acked"] for one in played)
    rate = sent / max(1e-3, *(one.seconds for one in played))
    say(f"generator's own ceiling, against a server that only answers: {rate:,.0f} reads/s")
    return rate


def _until_played(generators: list[Generator], take: Callable[[Any], None], look: Callable[[], None]) -> list[Played]:
    played: dict[int, Played] = {}
    while len(played) < len(generators):
        for number, generator in enumerate(generators):
            while number not in played and (said := generator.poll()) is not None:
                if isinstance(said, Played):
                    played[number] = said
                else:
                    take(said)
        look()
        time.sleep(0.05)
    return [played[number] for number in sorted(played)]


def _run(
    order: Order, world: World, target: Target, ceiling: float, console: Console, say: Callable[[str], None]
) -> Record:
    knobs = order.knobs
    generators: list[Generator] = []
    closing: list[Any] = []
    try:
        generators += [Generator(job) for job in _jobs(order, knobs, target.start_us, target.epoch)]
        if order.meters >= SAID_FROM_METERS:
            say("making messages, up to 1 GiB a process, before the clock starts")
        ready = [generator.prepared() for generator in generators]
        size = sum(one.bytes for one in ready)
        beyond = "" if all(one.whole for one in ready) else "; the rest is made while it runs, ahead of its time"
        say(f"{size / 1e6:,.0f} MB of messages prepared in {max(one.seconds for one in ready):.1f} s{beyond}")
        plan = plan_of(order.meters, order.seed, knobs, target.start_us, target.epoch)
        announce(plan, target.address)
        start_s = _started(target, generators, closing, order)
        subscriber: Subscriber = closing[0]
        pids = cpu_readers(target.service_pid, target.postmaster_pid, [generator.pid for generator in generators])
        for generator in generators:
            generator.go(start_s)
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        watch = Watch(start_s, pids, target.service_pid)
        looked_s = 0.0
        title = f"loadtest {order.scenario} at {target.address}"
        with Terminal(console, title, plan.seconds) as terminal:

            def look() -> None:
                nonlocal looked_s
                now_s = time.monotonic()
                if now_s - looked_s >= LOOK_EVERY_S:
                    looked_s = now_s
                    watch.look(subscriber.count())
                    terminal.show(watch, now_s - start_s, watch.last().behind_s)

            played = _until_played(generators, watch.take, look)
            until_s = time.monotonic() + SETTLE_S + SETTLE_SIMULATED_S / knobs.speed
            while time.monotonic() < until_s:
                look()
                time.sleep(0.1)
        record = _record(order, world, plan, target, played, subscriber.told(start_s), watch, ceiling)
        record.started_at = started_at
        record.inputs["prepared_whole"] = all(one.whole for one in ready)
        if not knobs.paced:
            sends = [times for one in played for (kind, _), times in one.sends.items() if kind == "reads"]
            record.rates["streams_apart_h_max"] = apart_h = round(apart(sends) * knobs.intervals * INTERVAL_S / 3600, 1)
            say(
                f"nobody held the streams together: up to {apart_h} h of event time lay between them; what is 48 h "
                "behind the newest read is judged as the past"
            )
        if subscriber.error:
            record.problems.append(f"the subscriber ended: {subscriber.error}")
        if subscriber.coalesced:
            record.totals["transitions_coalesced"] = subscriber.coalesced
    finally:
        for one in [*closing, *generators]:
            one.close()
    return _judged(record, order)


def _started(target: Target, generators: list[Generator], closing: list[Any], order: Order) -> float:
    """Bring everybody to the service; the time.monotonic() at which its clock shows start_us."""
    knobs, connect_s = order.knobs, CONNECT_S + order.meters / CONNECT_METERS_PER_S
    for patience in (1.0, 3.0, 9.0):
        target.open(patience)
        subscriber = Subscriber(target.address)
        closing.append(subscriber)
        subscriber.ready()
        closing += [Stalled(target.address) for _ in range(knobs.stalled_subscribers)]
        if not target.standing:  # whoever is connected and says nothing is silent, by the service's clock
            heard_s, now_us = probe(target.address)
            start_s = heard_s + (target.start_us - now_us) / US / knobs.speed
            time.sleep(max(start_s - time.monotonic() - connect_s, 0))
        for generator in generators:
            generator.connect(target.address)
        welcomes = [generator.welcomed() for generator in generators]
        if target.standing:
            return time.monotonic() + 0.5
        start_s = min(one.heard_s + (target.start_us - one.now_us) / US / knobs.speed for one in welcomes)
        if start_s > time.monotonic():
            return start_s
        if not target.reopens:
            break
        for generator in generators:
            generator.disconnect()
        while closing:
            closing.pop().close()
    raise RuntimeError(
        f"the service's clock had passed the start of the plan by {time.monotonic() - start_s:.1f} s when all was "
        "ready; give a longer --lead"
    )


def _record(
    order: Order, world: World, plan: Plan, target: Target, played: list[Played], told: list[Told], watch: Watch,
    ceiling: float,
) -> Record:  # fmt: skip
    knobs = order.knobs
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    reads, events = HdrHistogram(1, 3_600_000_000, 3), HdrHistogram(1, 3_600_000_000, 3)
    for one in played:
        counts.update(one.counts)
        reasons.update(one.reasons)
        reads.add(HdrHistogram.decode(one.histogram))
        events.add(HdrHistogram.decode(one.events_histogram))
    seconds = max(one.seconds for one in played)
    assets = {fault.asset for fault in plan.faults} | {alarm.asset for alarm in told}
    first_us = plan.end_us(plan.intervals_of(0).start)
    record = Record(
        scenario=order.scenario,
        inputs={
            "meters": order.meters, "transformers": world.transformers, "feeders": world.feeders, **asdict(knobs),
            "interval_s": INTERVAL_S, "start_us": target.start_us, "end_us": plan.end_us(knobs.intervals),
            "simulated_s": knobs.intervals * INTERVAL_S, "target": target.kind, "clock": target.mode,
            **({"two_hour_rule_alarms": plan.trouble.two_hour_rule_alarms} if knobs.hot_transformers_share else {}),
        },
        seed=order.seed,
        versions=report.versions() | target.versions(),
        machine=report.machine(),
        commit=report.commit(),
        started_at="",
        seconds=round(seconds, 2),
        totals=dict.fromkeys(_TOTALS, 0) | dict(counts),
        rejected_reasons=dict(reasons),
        rates={
            "scheduled_reads_per_s": round(counts["sent"] / plan.seconds, 1) if plan.seconds else 0.0,
            "acked_reads_per_s": round(counts["acked"] / max(seconds, 1e-3), 1),
            "generator_ceiling_reads_per_s": round(ceiling, 1),
        },
        ack_ms=_percentiles(reads),
        event_ms=_percentiles(events),
        alarm_ms=_alarm_ms(world, plan, told, played) if not target.standing else {},
        histogram=reads.encode().decode(),
        behind_s_max=round(max(one.behind_s_max for one in played), 3),
        cpu_s=watch.cpu_s(),
        series=watch.series(),
        faults=plan.faults,
        told=told,
        tree=dict(pair for name in assets for pair in world.parents(name)),
        problems=[problem for one in played for problem in one.problems],
    )  # fmt: skip
    stored = target.stored(first_us, plan.end_us(knobs.intervals))
    if stored is not None:
        record.totals["stored"] = stored
    return record


_TOTALS: Final = (
    "batches", "sent", "acked", "accepted", "versions", "duplicates", "rejected", "events_sent", "events_acked",
)  # fmt: skip


def _percentiles(histogram: Any) -> dict[str, float]:
    if not histogram.get_total_count():
        return {}
    points = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9, "max": 100}
    return {name: round(histogram.get_value_at_percentile(p) / 1000, 2) for name, p in points.items()}


def apart(sends: list[list[float]]) -> float:
    """How far streams were apart at most, as a part of the whole; sends: of each the rising times of its messages."""
    import numpy as np

    whole = [np.array(times) for times in sends if times]
    moments: list[float] = np.unique(np.concatenate([np.floor(times) for times in whole])).tolist() if whole else []
    return max(
        (float(np.ptp([np.searchsorted(times, at) / len(times) for times in whole])) for at in moments), default=0.0
    )


def _alarm_ms(world: World, plan: Plan, told: list[Told], played: list[Played]) -> dict[str, float]:
    """From what completed the evidence to the subscriber: the last message of the asset's head-end before the service
    recorded the alarm, or the moment the rule's timer ran out, whichever is later."""
    import numpy as np

    sends = {key: np.array(times) for one in played for key, times in one.sends.items()}
    latencies = []
    for alarm in told:
        meter = world.first_meter(alarm.asset)
        if not alarm.paged or meter is None:
            continue
        due_s, recorded_s = plan.offset_s(np.array([alarm.raised_us, alarm.recorded_us])).tolist()
        times = sends.get(("events" if alarm.type == "OUTAGE" else "reads", world.stream_of(meter)), np.zeros(0))
        before = int(np.searchsorted(times, recorded_s))
        last_s = float(times[before - 1]) if before else due_s
        latencies.append(max(alarm.received_s - max(due_s, last_s), 0.0) * 1000)
    if not latencies:
        return {}
    p50, p99, most = np.percentile(latencies, [50, 99, 100]).round(1).tolist()
    return {"p50": p50, "p99": p99, "max": most}


def _judged(record: Record, order: Order) -> Record:
    """Add the score, the limits and every reason not to trust the run."""
    from loadtest.score import score

    record.score = score(record)
    record.required = check(record, order.limits)
    record.problems += problems_of(record, order.knobs.behind_limit_s)
    return record


def problems_of(record: Record, behind_limit_s: float) -> list[str]:
    """What the figures contradict."""
    total = Counter(record.totals)
    out: list[str] = []
    if record.behind_s_max > behind_limit_s:
        out.append(
            f"the generator was {record.behind_s_max:.2f} s behind its schedule although the service gave credit; "
            f"allowed are {behind_limit_s:g} s; latencies are not the service's; use fewer meters or a faster machine"
        )
    if total["acked"] != total["sent"]:
        out.append(f"{total['sent']:,} reads were sent and {total['acked']:,} acknowledged")
    if total["rejected"] != total["malformed_sent"]:
        out.append(f"{total['malformed_sent']:,} reads were damaged on purpose and {total['rejected']:,} rejected")
    good = total["sent"] - total["copies_sent"] - total["malformed_sent"]
    if total["accepted"] != good or total["versions"]:
        out.append(
            f"{good:,} different good reads were sent, {total['accepted']:,} accepted and {total['versions']:,} taken "
            "for new versions"
        )
    if "stored" in total and total["stored"] != total["accepted"]:
        out.append(f"{total['accepted']:,} reads were accepted and the database counts {total['stored']:,}")
    if total["events_acked"] != total["events_sent"]:
        out.append(f"{total['events_sent']:,} events were sent and {total['events_acked']:,} acknowledged")
    if total["events_rejected"]:
        out.append(f"{total['events_rejected']:,} events were rejected; none was damaged")
    out += [f"required {one['limit']}, found {one['value']}" for one in record.required if not one["ok"]]
    return out
