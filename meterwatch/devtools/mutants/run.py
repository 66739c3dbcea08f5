"""Mutation score of the kernels: `make mutants N=200 SEED=1`.

First every file of tests runs once, to see which test runs which line. Then of each group of modules the same number of
mutants is drawn, and each is shown to the tests that run its line, those of the module's own file first. One that fails
or does not end has noticed it. Mutants that are no mistake are listed in tests/equivalent_mutants.toml, each with its
reason; they are not tried and do not count. What no test runs counts as not noticed.

A mutant that changes nothing goes first in each group: if tests fail on it, they would on anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from meterwatch.devtools.mutants.changes import Mutant, mutants
from meterwatch.devtools.mutants.trial import Outcome, Trial, carried_out

GROUPS: Final = {
    "validation": ("ingest/validate.py", "ingest/checks.py", "ingest/registers.py", "ingest/meter_rows.py",
                   "ingest/decode.py", "ingest/dictionary.py", "ingest/held.py", "ingest/session.py"),
    "outage": ("rules/outage.py", "rules/supply.py", "rules/engine.py", "rules/phase_votes.py", "rules/lost_phase.py",
               "rules/account.py", "rules/witness.py", "rules/overdue.py", "rules/silence.py"),
    "overload": ("rules/overload.py", "rules/ladder.py", "rules/rungs.py", "rules/load.py", "rules/past.py",
                 "rules/rated.py", "rules/feeders.py", "rules/late.py", "rules/thermal.py", "rules/hot_spot.py"),
    "book": ("alarm/book.py", "alarm/lifecycle.py", "alarm/actions.py", "alarm/shaping.py", "alarm/storm.py",
             "alarm/differences.py"),
    "hub": ("alarm/hub.py", "alarm/subscriptions.py", "alarm/receipts.py"),
    "ledger": ("storage/ledger.py", "storage/writer.py", "storage/known.py", "storage/versions.py", "storage/settle.py",
               "storage/arrays.py", "storage/slot_bits.py", "storage/stamps.py", "storage/rows.py"),
}  # fmt: skip
PAGES: Final = ("tests/test_limits_page.py", "tests/test_checks_page.py")
"""They look at constants of modules without running a line of them."""
TESTS: Final = ("tests/ingest", "tests/rules", "tests/alarm", "tests/storage", "tests/meterwatch", *PAGES)
LEFT_OUT: Final = ("test_provision.py", "test_provision_signed.py", "test_supply_chain.py", "test_stalled_thousand.py")
"""Of other things than the kernels, and slow."""
LIBRARIES: Final = ("numpy", "grpc.aio", "google.protobuf", "psycopg_pool", "pydantic_settings", "orjson", "yaml",
                    "httpx", "structlog", "prometheus_client", "uvloop")  # fmt: skip
EQUIVALENT: Final = Path("tests/equivalent_mutants.toml")
SCORE_MIN: Final = 0.85
FILE_LIMIT_S: Final = 300
TEST_MAX_S: Final = 20
"""A test that takes longer is not asked about mutants."""
SLACK: Final = 6
START_S: Final = 20
"""A trial may compute for this many times what its tests took, and this much besides."""
DATABASE: Final = "METERWATCH_TEST_DATABASE_URL"


@dataclass(slots=True)
class Seen:
    """Which tests run which lines, and how long they take."""

    seconds: dict[str, float]
    lines: dict[str, dict[str, set[str]]]

    def of(self, mutant: Mutant) -> set[str]:
        """Tests that run a mutant's lines; all of its module for what an import runs."""
        lines = self.lines.get(mutant.module, {})
        first, last = mutant.lines
        wanted = lines if mutant.at_import else [str(line) for line in range(first, last + 1)]
        found = set[str]().union(*(lines.get(line, ()) for line in wanted))
        if mutant.at_import:
            found |= {test for test in self.seconds if test.startswith(PAGES)}
        return {test for test in found if self.seconds.get(test, TEST_MAX_S) < TEST_MAX_S}

    def asked(self, mutant: Mutant, budget_s: float) -> list[str]:
        """The tests for a mutant, by files: those named after its module first, then the quick ones."""
        of_file: dict[str, list[str]] = {}
        for test in sorted(self.of(mutant), key=lambda test: (self.seconds[test], test)):
            of_file.setdefault(test.partition("::")[0], []).append(test)
        stem = Path(mutant.module).stem
        files = sorted(of_file, key=lambda file: (f"test_{stem}" not in file, self.seconds[of_file[file][0]], file))
        chosen, spent_s = list[str](), 0.0
        for test in (test for file in files for test in of_file[file]):
            if chosen and spent_s + self.seconds[test] > budget_s:
                continue
            chosen.append(test)
            spent_s += self.seconds[test]
        return chosen


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tests said. by: the one that noticed it; asked, of so many that run its line."""

    mutant: Mutant
    group: str
    verdict: str
    by: str = ""
    asked: int = 0
    of: int = 0
    took_s: float = 0.0


def files_of_tests(paths: Iterable[str]) -> list[str]:
    found = (
        file for path in paths for file in ([Path(path)] if path.endswith(".py") else Path(path).glob("test_*.py"))
    )
    return sorted(str(file) for file in found if file.name not in LEFT_OUT)


def looked(files: list[str], modules: list[str], jobs: int, directory: Path, kept: Path | None) -> Seen:
    """Run every file of tests once and note what it runs. kept: where that is kept, as long as nothing has changed."""
    seen = Seen({}, {})
    shared = [*sorted(Path().glob("tests/**/*.py")), *map(Path, modules)]
    world = b"".join(path.read_bytes() for path in shared if not path.name.startswith("test_"))
    name = {file: hashlib.sha256(world + Path(file).read_bytes()).hexdigest() for file in files}
    waiting = []
    for file in files:
        if kept is not None and (kept / name[file]).exists():
            _add(seen, Outcome(*json.loads((kept / name[file]).read_text("utf-8"))))
        else:
            waiting.append(Trial((file,), FILE_LIMIT_S, lines_of=tuple(modules)))
    for n, (trial, outcome) in enumerate(carried_out(waiting, jobs, directory), 1):
        file = trial.files[0]
        if not outcome.seconds and outcome.status not in (0, 5) and not outcome.late:
            raise SystemExit(f"The tests of {file} do not begin:\n{outcome.said}")
        told = f"{len(outcome.seconds)} tests" + (", stopped" if outcome.late else "")
        print(f"[{n:3}/{len(waiting)}] {file}: {told} in {outcome.took_s:.0f} s", flush=True)
        for test in outcome.failed:
            print(f"        fails as it is, not asked: {test}", flush=True)
        _add(seen, outcome)
        if kept is not None and not outcome.late and not outcome.failed:
            (kept / name[file]).write_text(json.dumps(outcome), "utf-8")
    return seen


def _add(seen: Seen, outcome: Outcome) -> None:
    seconds = {test: took_s for test, took_s in outcome.seconds.items() if test not in outcome.failed}
    seen.seconds |= seconds
    of_file: dict[str, list[str]] = {}
    for test in seconds:
        of_file.setdefault(test.partition("::")[0], []).append(test)
    for module, lines in outcome.lines.items():
        of_module = seen.lines.setdefault(module, {})
        for line, tests in lines.items():
            of_line = of_module.setdefault(line, set())
            for test in tests:  # or a file, for what a fixture of its tests runs
                of_line.update([test] if test in seen.seconds else of_file.get(test, ()))


def drawn(groups: dict[str, list[Mutant]], number: int, seed: int) -> list[tuple[str, Mutant]]:
    """The same number of each group, as far as it has them, in the order of their lines."""
    sample = []
    for at, (group, all_) in enumerate(groups.items()):
        share = number * (at + 1) // len(groups) - number * at // len(groups)
        of_group = random.Random(f"{seed} {group}").sample(all_, min(share, len(all_)))
        sample += [(group, mutant) for mutant in sorted(of_group, key=lambda one: (one.module, one.place))]
    return sample


def equivalent(text: str) -> dict[tuple[str, str, str, str, int], str]:
    """The list of mutants that are no mistake, with the reason of each."""
    return {
        (module, one["in"], one["before"], after, one.get("nth", 0)): one["why"]
        for module, ones in tomllib.loads(text).items()
        for one in ones
        for after in one["after"]
    }


def tried(
    sample: list[tuple[str, Mutant]], seen: Seen, budget_s: float, patience_s: float, jobs: int, directory: Path
) -> Iterator[Verdict]:
    """Show each mutant to its tests. SystemExit if tests fail on one that changes nothing."""
    group_of, trials, controlled = {}, list[Trial](), set[str]()
    for group, mutant in sample:
        group_of[mutant.key] = group
        if not (tests := seen.asked(mutant, budget_s)):
            yield Verdict(mutant, group, "not run", of=len(seen.of(mutant)))
            continue
        files = tuple(dict.fromkeys(test.partition("::")[0] for test in tests))
        limit_s = patience_s + SLACK * sum(seen.seconds[test] for test in tests)
        if group not in controlled:
            trials.append(Trial(files, limit_s, tuple(tests), replace(mutant, after=mutant.before)))
            controlled.add(group)
        trials.append(Trial(files, limit_s, tuple(tests), mutant))
    for trial, outcome in carried_out(trials, jobs, directory):
        mutant = _of(trial)
        if mutant.after == mutant.before:
            if outcome.noticed:
                raise SystemExit(f"Nothing was changed in {mutant.module}, and tests fail:\n{outcome.said}")
            continue
        verdict = "late" if outcome.late else "noticed" if outcome.noticed else "survived"
        by = outcome.failed[0] if outcome.failed else ""
        counts = len(trial.tests), len(seen.of(mutant))
        yield Verdict(mutant, group_of[mutant.key], verdict, by, *counts, round(outcome.took_s, 1))


def _of(trial: Trial) -> Mutant:
    assert trial.mutant is not None
    return trial.mutant


def score(verdicts: Iterable[Verdict]) -> float:
    """Share of the mutants that were noticed."""
    count = Counter(one.verdict for one in verdicts)
    return (count["noticed"] + count["late"]) / max(count.total() - count["equivalent"], 1)


def told(verdicts: list[Verdict], by: Callable[[Verdict], str]) -> list[str]:
    """The table: a line for each name that `by` gives, and one for all."""
    kinds = ("noticed", "late", "survived", "not run", "equivalent")
    lines = [f"{'':24} {'mutants':>8}" + "".join(f"{kind:>11}" for kind in kinds) + f"{'score':>8}"]
    parts = {name: [one for one in verdicts if by(one) == name] for name in dict.fromkeys(map(by, verdicts))}
    for name, some in [*parts.items(), ("all", verdicts)]:
        count = Counter(one.verdict for one in some)
        cells = "".join(f"{count[kind]:11}" for kind in kinds)
        lines.append(f"{name:24} {len(some):8}{cells}{100 * score(some):6.0f} %")
    return lines


@contextmanager
def database() -> Iterator[str]:
    """A server for the tests' databases, unless one is named: kept by a process that may know the project."""
    if url := os.environ.get(DATABASE):
        yield url
        return
    path = Path(
        tempfile.mkdtemp(prefix="meterwatch-mutants-db-", dir="/tmp")
    )  # as root PostgreSQL runs as another user
    ours, theirs = get_context("fork").Pipe()
    process = get_context("fork").Process(target=_keep_database, args=(path, ours, theirs))
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()
        shutil.rmtree(path, ignore_errors=True)


def _keep_database(path: Path, parent: Connection, ready: Connection) -> None:
    """Until the other end of the pipe is closed."""
    from storage.embedded import EmbeddedCluster, find_or_provision

    parent.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    with EmbeddedCluster(path, find_or_provision(print)) as cluster:
        ready.send(cluster.dsn)
        ready.poll(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="groups or modules")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="directories or files of tests")
    parser.add_argument("--budget", type=float, default=60, help="seconds of computing of tests a mutant")
    parser.add_argument("--patience", type=float, default=START_S, help="seconds a trial may compute besides its tests")
    parser.add_argument("--json", type=Path, help="also write every verdict there")
    parser.add_argument("--again", type=Path, help="only what survived in this JSON")
    parser.add_argument("--kept", type=Path, help="directory that keeps which test runs which line")
    given = parser.parse_args()
    groups = {
        group: [mutant for module in modules for mutant in mutants(module, Path(module).read_text("utf-8"))]
        for group, modules in _chosen(given.only).items()
    }
    sample = drawn(groups, given.number, given.seed)
    if given.again:
        left = {tuple(one["key"]) for one in json.loads(given.again.read_text("utf-8"))["left"]}
        sample = [(group, one) for group, all_ in groups.items() for one in all_ if one.key in left]
    print(f"seed {given.seed}, {len(sample)} of {sum(map(len, groups.values()))} mutants, load {_load()}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in LIBRARIES:
        __import__(name)
    if given.kept:
        given.kept.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="meterwatch-mutants-"))
    try:
        with database() as os.environ[DATABASE]:
            verdicts = _all(sample, given, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"\nload {_load()}\n")
    print("\n".join([*told(verdicts, lambda one: one.mutant.module), "", *told(verdicts, lambda one: one.group)]))
    if given.json:
        missed = [{"key": one.mutant.key} for one in verdicts if one.verdict in ("survived", "not run")]
        told_all = {"seed": given.seed, "left": missed, "verdicts": [asdict(one) for one in verdicts]}
        given.json.write_text(json.dumps(told_all, indent=1), "utf-8")
    raise SystemExit(score(verdicts) < SCORE_MIN)


def _all(sample: list[tuple[str, Mutant]], given: argparse.Namespace, directory: Path) -> list[Verdict]:
    """Look, then try all of the sample, with a line for each."""
    why = equivalent(EQUIVALENT.read_text("utf-8"))
    verdicts = [Verdict(mutant, group, "equivalent") for group, mutant in sample if mutant.key in why]
    sample = [(group, mutant) for group, mutant in sample if mutant.key not in why]
    kernels = {module for some in [*GROUPS.values(), *_chosen(given.only).values()] for module in some}
    modules = sorted(module for module in kernels if Path(module).exists())
    seen = looked(files_of_tests(given.tests), modules, given.jobs, directory / "looked", given.kept)
    for n, one in enumerate(tried(sample, seen, given.budget, given.patience, given.jobs, directory / "tried"), 1):
        by = f" by {one.by}" if one.by else f", {one.asked} of {one.of} tests asked"
        print(f"[{n:3}/{len(sample)}] {one.verdict:9} {one.mutant}  ({one.took_s} s{by})", flush=True)
        verdicts.append(one)
    return verdicts


def _chosen(only: list[str] | None) -> dict[str, tuple[str, ...]]:
    if not only:
        return dict(GROUPS)
    return {name: GROUPS.get(name, (name,)) for name in only}


def _load() -> str:
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


if __name__ == "__main__":
    main()
