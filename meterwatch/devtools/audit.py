"""`make audit`: known holes in what is locked, and never a clean result that nobody has seen.

pip-audit asks an advisory service about each locked package. It says "No known vulnerabilities found" also of packages
it could not ask about; here each of them counts as unseen. Exit status: 0 every package was looked up and none has a
known hole; 1 there are holes; 3 some or all could not be looked up (holes found among the rest are told).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from meterwatch.devtools.locked import LOCK, locked

CLEAN, HOLES, UNSEEN = 0, 1, 3
TIMEOUT_S: Final = 600
NAMED_MAX: Final = 5


@dataclass(slots=True)
class Audit:
    """What pip-audit saw of what was asked for."""

    seen: set[str] = field(default_factory=set)
    holes: list[str] = field(default_factory=list)
    """A line for each."""

    def status(self, wanted: set[str]) -> int:
        """Exit status; unseen packages weigh more than holes, for there may be more of them."""
        if wanted - self.seen:
            return UNSEEN
        return HOLES if self.holes else CLEAN


def read(report: Mapping[str, Any]) -> Audit:
    """Understand pip-audit's JSON; a package it skipped is not seen."""
    audit = Audit()
    for one in report.get("dependencies", []):
        if "skip_reason" in one or "vulns" not in one:
            continue
        audit.seen.add(str(one["name"]).lower().replace("_", "-"))
        audit.holes += [
            f"{one['name']} {one['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
            for hole in one["vulns"]
        ]
    return audit


def said(audit: Audit, wanted: set[str], why: str = "") -> str:
    """The verdict in one sentence."""
    unseen = sorted(wanted - audit.seen)
    if not unseen:
        count = f"{len(audit.holes)} known holes" if audit.holes else "no known hole"
        return f"{count} in {len(wanted)} locked packages"
    names = ", ".join(unseen[:NAMED_MAX]) + (", ..." if len(unseen) > NAMED_MAX else "")
    return (
        f"{len(unseen)} of {len(wanted)} locked packages could not be looked up ({names}): the advisory service was not"
        f" reached or does not know them{why}; nothing is known about those"
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m meterwatch.devtools.audit", description=__doc__)
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--service", choices=("pypi", "osv", "esms"), default="pypi", help="whom pip-audit asks")
    options = parser.parse_args(arguments)
    wanted = {one.name for one in locked(options.lock.read_text("utf-8"))}
    audit, why = _asked(options.lock, options.service)
    for line in audit.holes:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{said(audit, wanted, why)}\n")
    return audit.status(wanted)


def _asked(lock: Path, service: str) -> tuple[Audit, str]:
    """Run pip-audit; what it saw, and what it said if it saw nothing."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--disable-pip", "--require-hashes", "-s", service]
    command += ["-f", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        return read(json.loads(done.stdout)), ""
    except subprocess.TimeoutExpired:
        return Audit(), f" within {TIMEOUT_S} s"
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return Audit(), f" (pip-audit said last: {last[:200]})"


if __name__ == "__main__":
    raise SystemExit(main())
