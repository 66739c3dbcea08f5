"""Line and branch coverage of the packages that hold the promises: `make coverage`.

The tests that concern them run with coverage.py, in this process and in the services they start; a killed service
leaves nothing behind, so what only a kill reaches is not counted. Fails if a test fails, and if a package has less than
COVERED_MIN of its lines and branches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import coverage

PACKAGES: Final = ("ingest", "storage", "rules", "alarm")
COVERED_MIN: Final = 0.90
TESTS: Final = (
    *("tests/ingest", "tests/storage", "tests/rules", "tests/alarm", "tests/meterwatch", "tests/access"),
    *("tests/integration/test_sound.py", "tests/integration/test_embedded.py"),
)
LEAST: Final = 10
"""So many files are named, those with most left."""


def table(files: dict[str, Counter[str]]) -> tuple[list[str], list[str]]:
    """Lines to print, and the packages with too little. files: path -> counts as of coverage.py's summary."""
    of_package = {package: Counter[str]() for package in PACKAGES}
    for path, counts in files.items():
        of_package[path.partition("/")[0]].update(counts)
    lines = [f"{'':30} {'statements':>10} {'covered':>9} {'branches':>9} {'covered':>9} {'both':>8}"]
    lines += [_line(package, counts) for package, counts in of_package.items()]
    most = sorted(files, key=lambda path: _missed(files[path]), reverse=True)[:LEAST]
    lines += ["", "most of it left:", *(_line(path, files[path]) for path in most)]
    return lines, [package for package, counts in of_package.items() if _share(counts) < COVERED_MIN]


def _missed(counts: Counter[str]) -> int:
    return counts["num_statements"] + counts["num_branches"] - counts["covered_lines"] - counts["covered_branches"]


def _share(counts: Counter[str]) -> float:
    all_ = counts["num_statements"] + counts["num_branches"]
    return 1 - _missed(counts) / all_ if all_ else 0.0


def _line(name: str, counts: Counter[str]) -> str:
    statements, branches = counts["num_statements"], counts["num_branches"]
    lines, ways = counts["covered_lines"] / max(statements, 1), counts["covered_branches"] / max(branches, 1)
    return (
        f"{name:30} {statements:10} {100 * lines:7.1f} % {branches:9} {100 * ways:7.1f} % {100 * _share(counts):6.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", default=TESTS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write coverage.py's report there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meterwatch-coverage-") as directory:
        data, report = Path(directory) / "data", given.json or Path(directory) / "report.json"
        suite = ["-m", "pytest", *given.tests, "-q", f"--numprocesses={given.jobs}", "--dist=loadfile"]
        status = subprocess.run(
            [sys.executable, "-m", "coverage", "run", *suite],
            env=os.environ | {"COVERAGE_FILE": str(data)},
            check=False,
        ).returncode
        measured = coverage.Coverage(data_file=str(data), messages=False)
        measured.combine()
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_text("utf-8"))["files"]
    lines, too_little = table({path: _counts(one["summary"]) for path, one in files.items()})
    print("\n".join(lines))
    if too_little:
        print(f"less than {100 * COVERED_MIN:.0f} %: {', '.join(too_little)}")
    raise SystemExit(status or bool(too_little))


def _counts(summary: dict[str, float]) -> Counter[str]:
    names = ("num_statements", "covered_lines", "num_branches", "covered_branches")
    return Counter({name: int(summary[name]) for name in names})


if __name__ == "__main__":
    main()
