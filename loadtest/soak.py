"""`make soak`: half of what the service can take, for a long time, with clients that come and go.

What it takes flat out is measured first. Then come slices of load at half of that, and the churn of loadtest.churn
beside them, while memory, descriptors, threads, sessions of the database and latencies are noted. Promises: it fails
if a read is lost or doubled, a client meets an error, health has no answer, or something that should be flat grows
after the warm-up. Memory is judged from JUDGED_FROM_S on only: what warms up is no leak.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import orjson

from loadtest.bench_latency import p99
from loadtest.churn import Churn
from loadtest.pressure import HELD, Look, Pressed, Size, Watch, finish, owed, say_to_stderr, under_pressure, written
from loadtest.soak_page import page, picture

SHARE: Final = 0.5
"""Of the capacity."""
SLICE_S: Final = 10.0
"""A load is made ready, sent, and the next one made."""
WARM_UP_SHARE: Final = 1 / 3
WARM_UP_S_MAX: Final = 600.0
JUDGED_FROM_S: Final = 300.0
"""Shorter runs say how memory grew and do not judge it."""
GROWTH_SHARE_MAX: Final = 0.05
GROWTH_MB_SPARE: Final = 8.0
CACHES_MB: Final = 134.0
"""What is known of stored and of arrived reads, 64 MiB each (storage/known.py, storage/arrived.py), fills up"""
CACHED_BYTES_PER_READ: Final = 0.5
"""by a bit of each for a meter and interval, in arrays of up to twice the size."""
ALARMS_KEPT: Final = 10_000
"""That nobody acknowledges (alarm/book.py), and as many transitions (alarm/hub.py) fill up too:"""
ALARMS_PER_BATCH: Final = 2
"""of load and of heat,"""
BYTES_PER_ALARM: Final = 5_000
"""in both together."""
FLAT_SPARE: Final = 8
"""Of each of HELD more at the end than after the warm-up: clients come and go at any moment."""
LOOK_EVERY_S: Final = 1.0

FULL: Final = Size(meters=20_000, streams=2, batch_rows=5_000, probe_intervals=200, probe_s=15)
TINY: Final = Size(meters=2_000, streams=2, batch_rows=1_000, probe_intervals=60, probe_s=1.5)


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice of load."""

    at_s: float
    """When it was over."""
    reads: int
    ack_ms_p50: float
    ack_ms_p99: float


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--json", type=Path, help="write figures and series to this file")
    parser.add_argument("--html", type=Path, help="write a page with plots to this file")
    parser.add_argument("--svg", type=Path, help="write the plots as one picture to this file")
    parser.add_argument("--tiny", action="store_true", help="a small fleet; shows that it works")
    parser.add_argument("--database", help="URL of a TimescaleDB on this machine; else one of its own")
    options = parser.parse_args(arguments)
    result = run(TINY if options.tiny else FULL, 60 * options.minutes, options.database, say_to_stderr)
    if options.json:
        options.json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    if options.html:
        options.html.write_text(page(result), "utf-8")
    if options.svg:
        options.svg.write_text(picture(result), "utf-8")
    finish(result["problems"])


def run(size: Size, seconds: float, database_url: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Soak a service of its own; {figures, looks, slices, problems, ...} as written to the file."""
    with under_pressure(size, database_url, say) as under:
        soaked = _soaked(under, seconds, say)
    for key, value in soaked["figures"].items():
        say(f"{key:22} {value:,.2f}")
    return written(size, seconds, soaked)


def _soaked(under: Pressed, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    size, fleet, service, sender = under.size, under.fleet, under.service, under.sender
    rate = SHARE * sender.capacity(size.probe_intervals, size.probe_s)
    say(f"flat out {rate / SHARE:,.0f} reads/s; {rate:,.0f} for {seconds:,.0f} s, with churn")
    intervals = max(round(rate * SLICE_S / size.meters), 1)
    watch = Watch(service.address, service.pid, LOOK_EVERY_S, service.dsn)
    churn = Churn(service.address, fleet, 1)
    slices: list[Slice] = []
    try:
        while (left_s := watch.began_s + seconds - time.monotonic()) > 0:
            _, done = sender.send(intervals, rate, overloaded=True)
            at_s = time.monotonic() - watch.began_s
            slices.append(Slice(at_s, done.counts["sent"], median(done.ack_ms), p99(done.ack_ms)))
            if len(slices) % 6 == 1:
                say(f"{left_s:6.0f} s to go, {watch.looks[-1].rss_mb if watch.looks else 0:.0f} MB")
    finally:
        churn.close()
        watch.close()
    sent = sender.counts
    figures = {
        "capacity_reads_per_s": rate / SHARE,
        "reads_per_s": sum(one.reads for one in slices) / slices[-1].at_s,
        "ack_ms_p50": median(one.ack_ms_p50 for one in slices),
        "ack_ms_p99_max": max(one.ack_ms_p99 for one in slices),
        "sent_in_all": sent["sent"],
        "alarms_made": ALARMS_PER_BATCH * sent["sent"] // size.batch_rows,
        "acked_in_all": sent["accepted"],
        "stored_in_all": under.database.rows_between(fleet.start_us, sender.end_us),
        "health_asked": watch.health.asked,
        "health_unanswered": watch.health.unanswered,
        "health_ms_max": watch.health.ms_max(),
        **{
            f"churn_{name}": churn.counts[name]
            for name in ("cancelled", "resent", "replayed", "read_slowly", "stalled")
        },
        "resent_accepted": churn.counts["resent_accepted"],
        **growth(watch.looks),
    }
    return {
        "figures": figures,
        "looks": [asdict(one) for one in watch.looks],
        "slices": [asdict(one) for one in slices],
        "problems": [*churn.errors, *problems_of(figures, seconds)],
    }


def growth(looks: Sequence[Look]) -> dict[str, float]:
    """How what should be flat went after the warm-up: slope of memory, and the medians of the two ends of the rest."""
    warm = after_warm_up(looks)
    if len(warm) < 4:
        return {}
    at_s, rss_mb = np.array([(one.at_s, one.rss_mb) for one in warm]).T
    slope_mb_s = float(np.polyfit(at_s - at_s[0], rss_mb, 1)[0])
    part = max(len(warm) // 4, 1)
    first, last = warm[:part], warm[-part:]
    out = {
        "rss_mb_warm": median(one.rss_mb for one in first),
        "rss_mb_max": max(one.rss_mb for one in looks),
        "rss_mb_per_hour": 3600 * slope_mb_s,
        "rss_mb_grown": slope_mb_s * float(at_s[-1] - at_s[0]),
    }
    for name in HELD:
        out[f"{name}_grown"] = median(getattr(one, name) for one in last) - median(getattr(one, name) for one in first)
    return out


def after_warm_up(looks: Sequence[Look]) -> list[Look]:
    """The looks of the time that counts."""
    if not looks:
        return []
    from_s = min(looks[-1].at_s * WARM_UP_SHARE, WARM_UP_S_MAX)
    return [one for one in looks if one.at_s >= from_s]


def problems_of(figures: dict[str, float], seconds: float) -> list[str]:
    """What was lost, failed or grew; empty: nothing."""
    f = figures
    found = [
        *owed(f),
        (f["resent_accepted"] > 0, f"{f['resent_accepted']:.0f} reads sent again were accepted as new"),
    ]
    found += [
        (f[f"{name}_grown"] > FLAT_SPARE, f"{f[f'{name}_grown']:.0f} {name} more at the end than after the warm-up")
        for name in HELD
        if f"{name}_grown" in f
    ]
    if seconds >= JUDGED_FROM_S and "rss_mb_grown" in f:
        filling_mb = min(CACHED_BYTES_PER_READ * f["sent_in_all"] / 1e6, CACHES_MB)
        filling_mb += BYTES_PER_ALARM * min(f.get("alarms_made", 0), ALARMS_KEPT) / 1e6
        most_mb = GROWTH_SHARE_MAX * f["rss_mb_warm"] + GROWTH_MB_SPARE + filling_mb
        found.append((f["rss_mb_grown"] > most_mb, f"memory grew by {f['rss_mb_grown']:.1f} MB, {most_mb:.1f} may be"))
    return [sentence for failed, sentence in found if failed]


if __name__ == "__main__":
    main()
