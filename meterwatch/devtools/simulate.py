"""Rules, alarm book and hub in seeded simulated days: `make simulate SEEDS=100000 SEED=1 JSON=file`.

A seed draws a small grid, a day with its faults, and a way of delivery: reordered, split, repeated, with restarts,
failed commits, a clock that is set, operators and subscribers. The code is the product's, in one thread, without
database, wire or clock (docs/reliability.md, Simulation). A failure is told in words, with the command that repeats it
and the least of the disturbances it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from meterwatch.devtools.simulation.deliveries import ASPECTS
from meterwatch.devtools.simulation.one_day import Figures, Played, play, shrunk

TOGETHER: Final = 25
"""Seeds a process takes at once."""
TOLD_EVERY_S: Final = 10.0
SHRUNK_MAX: Final = 2
"""Failures of one piece that are tried with less."""
LINES_MAX: Final = 12


@dataclass(slots=True)
class Piece:
    """What some seeds came to."""

    seeds: int
    figures: Figures = field(default_factory=Figures)
    failures: list[Played] = field(default_factory=list)


def piece(seeds: Sequence[int]) -> Piece:
    """Play some seeds; who fails is tried with less."""
    found = Piece(len(seeds))
    for seed in seeds:
        played = play(seed)
        found.figures.add(played.figures)
        if played.wrong:
            found.failures.append(shrunk(played) if len(found.failures) < SHRUNK_MAX else played)
    return found


def pieces(first: int, seeds: int, jobs: int) -> Iterator[Piece]:
    """All seeds, as they are done."""
    parts = [range(at, min(at + TOGETHER, first + seeds)) for at in range(first, first + seeds, TOGETHER)]
    if jobs == 1:
        yield from map(piece, parts)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(piece, parts)


def told(played: Played) -> str:
    """A failure for an engineer."""
    needs = [aspect for aspect in ASPECTS if aspect not in played.without]
    lines = [f"seed {played.seed} fails, with {', '.join(needs) or 'nothing but the plain delivery'}:"]
    lines += [f"  {line}" for what in played.wrong[:LINES_MAX] for line in what.splitlines()]
    if len(played.wrong) > LINES_MAX:
        lines.append(f"  and {len(played.wrong) - LINES_MAX} more")
    without = f" --without {' '.join(sorted(played.without))}" if played.without else ""
    lines.append(f"  again: .venv/bin/python -m meterwatch.devtools.simulate --seed {played.seed} --seeds 1{without}")
    return "\n".join(lines)


def verdict(first: int, total: Piece, seconds: float) -> str:
    """One line."""
    figures, failures = total.figures, total.failures
    failed = "" if not failures else " (seeds " + ", ".join(str(one.seed) for one in failures[:20]) + ")"
    return (
        f"simulation: {total.seeds:,} seeds from {first} in {seconds:.0f} s ({total.seeds / seconds:.0f}/s), "
        f"{figures.faults:,} faults, {figures.restarts:,} restarts, {figures.clock_steps:,} clock steps, "
        f"{figures.transitions:,} transitions, {len(failures):,} failures{failed}"
    )


def main() -> None:
    """Command line: failures as they are found, progress, the verdict; exit 1 if a seed failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--without", nargs="+", choices=ASPECTS, default=[], help="of one seed: leave these out")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    began_s = at_s = time.monotonic()
    total = Piece(0)
    if given.without:
        played = play(given.seed, frozenset(given.without))
        total = Piece(1, played.figures, [played] if played.wrong else [])
        print(*map(told, total.failures), sep="\n")
    else:
        for some in pieces(given.seed, given.seeds, given.jobs):
            total.seeds += some.seeds
            total.figures.add(some.figures)
            total.failures += some.failures
            for played in some.failures:
                print(told(played), flush=True)
            if time.monotonic() - at_s > TOLD_EVERY_S:
                at_s = time.monotonic()
                print(f"  {total.seeds:,} of {given.seeds:,} seeds, {len(total.failures)} failures", flush=True)
    seconds = time.monotonic() - began_s
    print(verdict(given.seed, total, seconds))
    if given.json is not None:
        report = {
            "first_seed": given.seed, "seeds": total.seeds, "seconds": round(seconds, 1), "jobs": given.jobs,
            **asdict(total.figures),
            "failures": [
                {"seed": one.seed, "without": sorted(one.without), "wrong": one.wrong} for one in total.failures
            ],
        }  # fmt: skip
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(1 if total.failures else 0)


if __name__ == "__main__":
    main()
