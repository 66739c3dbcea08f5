"""The targets of `meterwatch.devtools.fuzz`, by inputs that build on those that got furthest: `make fuzz GUIDED=1`.

The readers run with probes (meterwatch.devtools.probes). An input with which some arc, a probe passed right after
another one, is passed for the first time is kept, and what is kept is broken further: so several things come to be
wrong at once, in the order in which the reader meets them. As many runs without a guide come first, which breaks sound
inputs only; what both reached stands side by side, so that each call shows what guidance was worth.

The same seed finds the same: dictionaries and sets are made to keep their order from run to run. A finding is written
to a file of its own; `--replay FILE --only nem12` tries it again.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meterwatch.devtools.fuzz_target import FINDINGS_MAX, SOUND_EVERY, Target, made, told, tried
from meterwatch.devtools.probes import Trail, probed

PACKAGES: Final = ("alarm", "ingest", "meterwatch", "rules", "storage")
BUT: Final = ("meterwatch.devtools", "meterwatch.v1")
FRESH_EVERY: Final = 2
"""One input in so many is broken from a sound one, as without a guide."""
ONE_MORE: Final = 0.3
"""Probability that another thing is broken at once in an input that was kept."""
KEPT_BYTES_MAX: Final = 20_000
"""A larger input is tried and not kept: breaking it doubles it now and then."""
AMONG: Final = 8
"""Of so many that were kept, drawn at random, the one is broken further that reached what is reached least often."""


@dataclass
class Kept:
    """An input that reached something first."""

    data: bytes
    first: set[int | str]
    """The arcs that it was the first to pass, and what it was the first to show."""
    broken: int = 0
    """How often, since something new came of it."""


@dataclass
class Found:
    """What came of one target."""

    runs: int = 0
    seen: Counter[int | str] = field(default_factory=Counter)
    """In how many runs each arc was passed, and was shown what arcs do not."""
    refusals: set[str] = field(default_factory=set)
    """No guide: of text there are as many as ways to break it, and nearly all are at its beginning."""
    kept: list[Kept] = field(default_factory=list)
    findings: dict[tuple[str, str, int], tuple[bytes, str]] = field(default_factory=dict)
    """By error and line where it was raised: the first input, and the finding in words."""
    seconds: float = 0.0

    def often(self, kept: Kept) -> int:
        """How worn an input is: how often the rarest that it was first to reach came, and how often it was broken."""
        return min(self.seen[one] for one in kept.first) * (1 + kept.broken)

    @property
    def arcs(self) -> set[int]:
        return {one for one in self.seen if isinstance(one, int)}

    @property
    def outcomes(self) -> set[str]:
        return self.refusals | {one for one in self.seen if isinstance(one, str)}


def explore(
    name: str, target: Target, runs: Iterable[int], seed: int, trail: Trail, *, guide: bool, seconds: float = 1e9
) -> Found:
    """Aim at one target, for so many seconds at most. guide: False breaks sound inputs only."""
    rng = random.Random(f"{seed} {name} guided")
    found = Found()
    began = time.perf_counter()
    for number in runs:
        parent = None
        if not guide or number % FRESH_EVERY == 0 or not found.kept:
            data = made(name, target, seed, number)
        else:
            parent = min(rng.sample(found.kept, min(AMONG, len(found.kept))), key=found.often)
            parent.broken += 1
            further = _broken_further(rng, target, parent.data)
            if further is None:
                found.kept.remove(parent)
                continue
            data = further
        seen = _seen(name, target, data, trail, found, sound=parent is None and number % SOUND_EVERY == 0)
        new = seen - found.seen.keys()
        found.seen.update(seen)
        if new:
            if len(data) <= KEPT_BYTES_MAX:
                found.kept.append(Kept(data, new))
            if parent is not None:
                parent.broken = 0
        found.seconds = time.perf_counter() - began
        if len(found.findings) >= FINDINGS_MAX or found.seconds > seconds:
            break
    return found


def _broken_further(rng: random.Random, target: Target, data: bytes) -> bytes | None:
    """Another input; None if nothing is left of this one that can be taken apart."""
    made = None
    while made is None or rng.random() < ONE_MORE:
        try:
            made = target.break_(rng, data if made is None else made)
        except (ValueError, IndexError):
            break
    return made


def _seen(name: str, target: Target, data: bytes, trail: Trail, found: Found, *, sound: bool) -> set[int | str]:
    """Try one input; the arcs it passed, and what it showed beside."""
    shown: list[str] = []
    trail.begin()
    try:
        outcome, *shown = tried(target, data, sound=sound).split("\n")
        found.refusals.add(outcome)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        key = type(error).__name__, last.filename, last.lineno or 0
        found.findings.setdefault(key, (data, told(name, data, error)))
    found.runs += 1
    return {*trail.arcs(), *shown}


def _written(name: str, data: bytes, words: str) -> str:
    """The finding, with its input in a file."""
    with tempfile.NamedTemporaryFile(prefix=f"fuzz-{name}-", delete=False) as file:
        file.write(data)
    return f"{words}\n    again: python -m meterwatch.devtools.guided --only {name} --replay {file.name}"


def _row(name: str, blind: Found, guided: Found) -> str:
    more = 100 * (len(guided.arcs) / max(len(blind.arcs), 1) - 1)
    only, missed = guided.arcs - blind.arcs, blind.arcs - guided.arcs
    return (
        f"{name:12} {blind.runs:8} {len(blind.arcs):8} {len(blind.outcomes):8} {guided.runs:8} {len(guided.arcs):8}"
        f" {len(guided.outcomes):8} {more:+6.0f} % {len(only):8} {len(missed):8} {len(guided.kept):6}"
        f" {guided.runs / max(guided.seconds, 1e-9):7.0f} {len(blind.findings.keys() | guided.findings.keys()):8}"
    )


def _missed(trail: Trail, passed: set[int]) -> Iterator[str]:
    """Of each file that was passed at all: how much of it, and the lines that were not."""
    of: dict[str, list[int]] = {}
    for probe, (path, _) in enumerate(trail.where):
        of.setdefault(path, []).append(probe)
    for path, probes in sorted(of.items()):
        lines = sorted({trail.where[probe][1] for probe in probes if probe not in passed})
        if not passed.isdisjoint(probes):
            yield f"{path} {len(passed.intersection(probes))} of {len(probes)}, not {' '.join(map(str, lines))}"


def hunt(
    targets: Mapping[str, Target], runs: int, seed: int, trail: Trail, *, seconds: float = 1e9, missed: bool = False
) -> int:
    """Aim at all of these, without a guide and with it; how many findings. missed: say where nobody came."""
    print(f"seed {seed}; without a guide, then with it")
    print(
        f"{'target':12} {'runs':>8} {'arcs':>8} {'outcomes':>8} {'runs':>8} {'arcs':>8} {'outcomes':>8} {'arcs':>8}"
        f" {'only it':>8} {'not it':>8} {'kept':>6} {'runs/s':>7} {'findings':>8}"
    )
    findings: list[str] = []
    passed: set[int] = set()
    for name, target in targets.items():
        blind, guided = (
            explore(name, target, range(runs), seed, trail, guide=guide, seconds=seconds) for guide in (False, True)
        )
        print(_row(name, blind, guided), flush=True)
        passed |= {probe for arc in blind.arcs | guided.arcs for probe in (arc >> 32, arc & 0xFFFF_FFFF)}
        findings += [_written(name, *one) for one in (blind.findings | guided.findings).values()]
    for line in _missed(trail, passed) if missed else ():
        print(line)
    print(f"{len(findings)} findings")
    for text in findings:
        sys.stderr.write(text + "\n")
    return len(findings)


def main() -> None:
    if "PYTHONHASHSEED" not in os.environ:  # else the order of sets is another one in each process
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    with probed(PACKAGES, but=BUT) as trail:
        from meterwatch.devtools.fuzz_targets import TARGETS

        given = _arguments(TARGETS)
        if given.replay is not None:
            print(tried(TARGETS[given.only[0]], given.replay.read_bytes()))
            return
        targets = {name: TARGETS[name] for name in given.only}
        found = hunt(targets, given.runs, given.seed, trail, seconds=given.seconds, missed=given.missed)
        raise SystemExit(1 if found else 0)


def _arguments(names: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="of each target, with a guide and without")
    parser.add_argument("--seconds", type=float, default=1e9, help="at most, of each target, with a guide and without")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=names, nargs="+", default=list(names))
    parser.add_argument("--missed", action="store_true", help="show which branches of the readers nobody passed")
    parser.add_argument("--replay", type=Path, help="an input that was found; with --only its target")
    return parser.parse_args()


if __name__ == "__main__":
    main()
