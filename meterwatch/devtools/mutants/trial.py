"""Tests in a process of their own, with one module made wrong or with a look at which test runs which line.

The process is forked from one that has the libraries and nothing of the project, so a trial costs what its tests cost.
The module made wrong exists in its memory alone: the working tree is read and never written, and neither bytecode nor
caches go there. A trial that takes too long is killed, with all that it started; so are all others when the caller
stops. Knows nothing of samples and scores.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import spec_from_loader
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, NamedTuple

import coverage
import pytest
from hypothesis import Phase, settings

from meterwatch.devtools.mutants.changes import Mutant, made_wrong

PACKAGES: Final = ("ingest", "storage", "rules", "alarm", "loadtest", "meterwatch")
MEMORY_BYTES: Final = 8 << 30
"""Of addresses. A loop that has lost its end must not take the machine along."""

LAST_WORDS: Final = 2000
WAITING: Final = 10
STARVED_S: Final = 300
"""A trial may last this many times as long as it may compute, and this much besides: others use the machine too. What
waits for ever ends then."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Tests to run: all of the files, or those named, in that order, until one fails.

    limit_s: of computing. mutant: what is wrong meanwhile. lines_of: modules of which it is noted which test runs which
    line.
    """

    files: tuple[str, ...]
    limit_s: float
    tests: tuple[str, ...] = ()
    mutant: Mutant | None = None
    lines_of: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What came of a trial. late: it was killed. said: its last words.

    seconds: what each test computed for. lines: module -> line -> tests, "" for what an import runs.
    """

    failed: list[str]
    seconds: dict[str, float]
    lines: dict[str, dict[str, list[str]]]
    said: str
    status: int
    late: bool
    took_s: float

    @property
    def noticed(self) -> bool:
        return self.late or self.status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


class _Started(NamedTuple):
    trial: Trial
    process: ForkProcess
    out: Path
    began: float

    @property
    def until(self) -> float:
        return self.began + STARVED_S + WAITING * self.trial.limit_s


def carried_out(trials: Iterable[Trial], jobs: int, directory: Path) -> Iterator[tuple[Trial, Outcome]]:
    """Run trials, so many at once, and give each with its outcome as it ends. Whatever happens, none is left."""
    waiting, running, count = iter(trials), list[_Started](), 0
    try:
        while True:
            while len(running) < jobs and (trial := next(waiting, None)) is not None:
                out = directory / f"trial-{count}"
                out.mkdir(parents=True)
                process = get_context("fork").Process(target=_carry_out, args=(trial, out))
                process.start()
                running.append(_Started(trial, process, out, time.monotonic()))
                count += 1
            if not running:
                return
            soonest = min(one.until for one in running)
            connection.wait([one.process.sentinel for one in running], max(soonest - time.monotonic(), 0))
            for one in [one for one in running if _over(one)]:
                late = one.process.is_alive() or one.process.exitcode == -signal.SIGXCPU
                _end(one.process)
                running.remove(one)
                yield one.trial, _outcome(one, late)
                shutil.rmtree(one.out, ignore_errors=True)
    finally:
        for one in running:
            _end(one.process)


def _over(one: _Started) -> bool:
    return not one.process.is_alive() or time.monotonic() > one.until


def _end(process: ForkProcess) -> None:
    """Kill a trial, and what is left of its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()


def _outcome(one: _Started, late: bool) -> Outcome:
    path = one.out / "report.json"
    told: dict[str, Any] = {"failed": [], "seconds": {}, "lines": {}}
    if path.exists() and not late:
        told = json.loads(path.read_text("utf-8"))
    said = (one.out / "log").read_text("utf-8", "replace")[-LAST_WORDS:] if (one.out / "log").exists() else ""
    return Outcome(**told, said=said, status=one.process.exitcode or 0, late=late, took_s=time.monotonic() - one.began)


class _Asked:
    """A plugin of pytest: which tests, in which order, how long each takes and which lines it runs."""

    def __init__(self, tests: Sequence[str], measured: coverage.Coverage | None) -> None:
        self._place = {test: place for place, test in enumerate(tests)}
        self._measured = measured
        self._test = ""
        self.failed: list[str] = []
        self.seconds: dict[str, float] = {}

    def pytest_sessionstart(self) -> None:
        """The same examples each time, and no search for a small one: one that fails is enough."""
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", settings(), phases=phases, derandomize=True, database=None, deadline=None)
        settings.load_profile("mutants")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._place:
            items[:] = [item for item in items if item.nodeid in self._place]
            items.sort(key=lambda item: self._place[item.nodeid])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began, self._test = time.process_time(), item.nodeid
        if self._measured is not None:
            self._measured.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.process_time() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Iterator[Any]:
        """What a fixture of many tests runs is run for each of them."""
        if self._measured is None or fixturedef.scope == "function":
            return (yield)
        self._measured.switch_context(self._test.partition("::")[0])
        try:
            return (yield)
        finally:
            self._measured.switch_context(self._test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


class _Loader(importlib.machinery.SourceFileLoader):
    """Of one module, made wrong."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module.removesuffix(".py").replace("/", "."), str(Path(mutant.module).resolve()))
        self._code = compile(made_wrong(mutant, Path(self.path).read_text("utf-8")), self.path, "exec")

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what one loader has."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return spec_from_loader(fullname, self._loader) if fullname == self._loader.name else None


def _carry_out(trial: Trial, out: Path) -> None:
    """Run in the forked process, from the root of the project."""
    _alone(out)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(trial.limit_s), resource.RLIM_INFINITY))
    if trial.mutant is not None:
        sys.meta_path.insert(0, _Finder(_Loader(trial.mutant)))
    measured = None
    if trial.lines_of:
        measured = coverage.Coverage(data_file=None, config_file=False, include=list(trial.lines_of), messages=False)
        measured.start()
    asked = _Asked(trial.tests, measured)
    rewritten = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is here already, as a library
    options = [
        "-q",
        "-W",
        rewritten,
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--tb=short",
        f"--basetemp={out / 'tmp'}",
    ]
    if not trial.lines_of:
        options.append("-x")
    status = pytest.main([*trial.files, *options], plugins=[asked])
    lines = {} if measured is None else _lines(measured)
    report = {"failed": asked.failed, "seconds": asked.seconds, "lines": lines}
    (out / "report.json").write_text(json.dumps(report), "utf-8")
    sys.stdout.flush()
    os._exit(status)  # threads that a mutant has left waiting are not waited for


def _alone(out: Path) -> None:
    """A session of its own, output into a file, nothing for the working tree, nothing of the project loaded."""
    os.setsid()
    log = os.open(out / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ |= {"HYPOTHESIS_STORAGE_DIRECTORY": str(out / "hypothesis"), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]


def _lines(measured: coverage.Coverage) -> dict[str, dict[str, list[str]]]:
    measured.stop()
    data, root = measured.get_data(), Path.cwd()
    return {
        str(Path(file).relative_to(root)): {str(n): tests for n, tests in data.contexts_by_lineno(file).items()}
        for file in data.measured_files()
    }
