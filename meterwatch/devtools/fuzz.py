"""Sound inputs with one thing wrong at a time, against everything that reads what others send: `make fuzz N=100000`.

A law, not a benchmark: whatever arrives is taken or refused by name. Each run has its own seed, so a finding is one
line to repeat: `python -m meterwatch.devtools.fuzz --only nem12 --first 4711 --runs 1`. The slowest run is shown: a
refusal that takes seconds is a denial of service. What was reached before is no guide here: that is
meterwatch.devtools.guided.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from meterwatch.devtools.fuzz_target import ACCEPTED, FINDINGS_MAX, SOUND_EVERY, Target, made, told, tried
from meterwatch.devtools.fuzz_targets import TARGETS


@dataclass
class Report:
    """What came of one target."""

    name: str
    runs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        accepted = self.outcomes[ACCEPTED]
        return (
            f"{self.name:12} {self.runs:9} {accepted:9} {self.runs - accepted - len(self.findings):9}"
            f" {len(self.outcomes):7} {self.runs / max(self.seconds, 1e-9):9.0f} {self.slowest_s * 1e3:8.1f}"
            f" {self.slowest:9} {len(self.findings):8}"
        )


def run(name: str, target: Target, runs: Iterable[int], seed: int = 1) -> Report:
    """Aim at one target."""
    report = Report(name)
    began = time.perf_counter()
    for number in runs:
        data = made(name, target, seed, number)
        at = time.perf_counter()
        try:
            said = tried(target, data, sound=number % SOUND_EVERY == 0)
        except Exception as error:
            again = f"--seed {seed} --only {name} --first {number} --runs 1"
            report.findings.append(f"{told(name, data, error)}\n    again: python -m meterwatch.devtools.fuzz {again}")
        else:
            report.outcomes[said.partition("\n")[0]] += 1
        report.runs += 1
        took_s = time.perf_counter() - at
        if took_s > report.slowest_s:
            report.slowest_s, report.slowest = took_s, number
        if len(report.findings) >= FINDINGS_MAX:
            break
    report.seconds = time.perf_counter() - began
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--only", choices=TARGETS, nargs="+", default=list(TARGETS))
    given = parser.parse_args()
    names = f"{'target':12} {'runs':>9} {'accepted':>9} {'refused':>9} {'reasons':>7} {'runs/s':>9}"
    print(f"seed {given.seed}")
    print(f"{names} {'max ms':>8} {'in run':>9} {'findings':>8}")
    reports = []
    for name in given.only:
        reports.append(run(name, TARGETS[name], range(given.first, given.first + given.runs), given.seed))
        print(reports[-1], flush=True)
    findings = [text for report in reports for text in report.findings]
    print(f"{sum(report.runs for report in reports)} runs, {len(findings)} findings")
    for text in findings:
        sys.stderr.write(text + "\n")
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
