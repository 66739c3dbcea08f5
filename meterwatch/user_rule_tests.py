"""Unit tests of user rules from a file: reads of one meter (windows of one transformer or feeder), expected alarms.

The kernel is that of the service. `expect` says which alarms fire at a time, by what has been read up to then;
`episodes` says all that there were. Both are in event time from the begin of the test.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from meterwatch.batch import Reads
from meterwatch.channels import CHANNEL_BIT, CHANNELS
from meterwatch.clock import US
from meterwatch.episodes import Episode
from meterwatch.user_rules import read_rules, seconds_of
from meterwatch.yaml_nodes import Problem, Problems, composed, line_of
from rules.user.columns import On
from rules.user.kernel import Kernel
from rules.user.load_columns import LoadColumns
from rules.user.model import UserRule
from rules.user.read_columns import ReadColumns
from rules.user.seen import Rows

ROWS_MAX: Final = 100_000
START_US: Final = 1_767_225_600_000_000  # 2026-01-01
RATINGS: Final = {"nominal_v": 230.0, "rated_a": 60.0, "contract_kw": 10.0}
WINDOW_COLUMNS: Final = ("net_kw", "net_kvar", "rated_kva", "coverage")
_TEST_KEYS: Final = ("name", "on", "interval", "meter", "reads", "windows", "expect", "episodes")
VALUE_MAX: Final = 2**31 - 1
_VALUE: Final = re.compile(r"(_|-?\d+(?:\.\d*)?(?:e-?\d+)?)(?:x(\d+))?")
Spoken = tuple[str, int, int, int | None]
"""Alert, onset, raised, cleared: seconds from the begin."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """What the registry knows of the one meter."""

    nominal_v: NDArray[np.float32]
    rated_a: NDArray[np.float32]
    contract_kw: NDArray[np.float32]


class Expected(NamedTuple):
    """Alarms that fire at a time."""

    at_s: int
    alarms: list[str]
    line: int


@dataclass(slots=True)
class RuleTest:
    """One test of a file."""

    name: str
    line: int
    on: On = On.METER
    interval_s: int = 900
    ratings: dict[str, float] = field(default_factory=lambda: dict(RATINGS))
    columns: dict[str, list[float]] = field(default_factory=dict)
    expect: list[Expected] = field(default_factory=list)
    episodes: list[Spoken] | None = None


@dataclass(slots=True)
class Outcome:
    """What came of a file: how many tests were run, and what was not as expected."""

    tests: int = 0
    rules: int = 0
    problems: list[Problem] = field(default_factory=list)


def run_file(path: Path, rules: Sequence[str] = ()) -> Outcome:
    """Run the tests of a file over the rules it names, or over these. Raises nothing: what is wrong is a problem."""
    problems = Problems(str(path))
    table = problems.table(composed(path, problems), "the file", ("rules", "tests"))
    named = [problems.text(node, "a file of rules") or "" for node in problems.items(table.get("rules"), "rules")]
    names = list(rules) or [name if ":" in name else str(path.parent / name) for name in named]
    found = read_rules(names)
    problems.found += found.problems
    if not names:
        problems.add(1, "names no rules; add rules: [FILE]")
    tests = [_Reader(problems, node).read() for node in problems.items(table.get("tests"), "tests")]
    if not problems.found:
        for test in tests:
            mine = found.on(test.on)
            known = {rule.name for rule in mine}
            for name in {name for one in test.expect for name in one.alarms} - known:
                problems.add(test.line, f"{test.name}: no rule on {test.on} has the name {name}")
            for line, message in _run(test, mine):
                problems.add(line, f"{test.name}: {message}")
    return Outcome(len(tests), len(found.rules), problems.found)


def _run(test: RuleTest, rules: Sequence[UserRule]) -> list[tuple[int, str]]:
    """Lines and sentences of what was not as expected."""
    kernel = Kernel(test.on, rules, 1, 0, lambda _: ("the asset", {}), lambda: 0)
    read: list[Spoken] = []
    wrong = []
    rows = _rows(test)
    done = 0
    for one in [*sorted(test.expect, key=lambda one: one.at_s), None]:
        stop = len(rows) if one is None else max(done, min(len(rows), one.at_s // test.interval_s))
        for row in rows[done:stop]:
            kernel.observe([row] if len(row.end_us) else [])
        done = stop
        for verdict in kernel.taken():
            name = verdict.rule.partition("/")[2]
            mine = [_spoken(name, episode) for episode in verdict.episodes]
            onsets = {onset for _, onset, *_ in mine}
            read = [was for was in read if was[0] != name or was[1] not in onsets] + mine
        if one is not None:
            firing = sorted(name for name, _, _, cleared in read if cleared is None)
            if firing != sorted(one.alarms):
                wrong.append((one.line, f"at {_ago(one.at_s)} {_listed(firing)}; expected {_listed(one.alarms)}"))
    if test.episodes is not None:
        wrong += [(test.line, f"{_sentence(one)} was not expected") for one in sorted(set(read) - set(test.episodes))]
        wrong += [(test.line, f"{_sentence(one)} is missing") for one in sorted(set(test.episodes) - set(read))]
    return wrong


def _rows(test: RuleTest) -> list[Rows]:
    """One block for each interval; empty where nothing is read."""
    count = max((len(values) for values in test.columns.values()), default=0)
    columns = {
        name: np.array(values + [math.nan] * (count - len(values)), np.float64) for name, values in test.columns.items()
    }
    length_us = test.interval_s * US
    found = []
    for n in range(count):
        one = {name: values[n : n + 1] for name, values in columns.items()}
        there = not all(np.isnan(values[0]) for values in one.values())
        end_us = np.array([START_US + (n + 1) * length_us] if there else [], np.int64)
        asset = np.zeros(len(end_us), np.int32)
        made = _windows(one) if test.on is not On.METER else _read(one, asset, end_us, test)
        found.append(Rows(asset, end_us, np.full(len(end_us), length_us), made))
    return found


def _windows(one: dict[str, NDArray[np.float64]]) -> LoadColumns:
    return LoadColumns({name: one.get(name, np.array([math.nan])) for name in WINDOW_COLUMNS})


def _read(
    one: dict[str, NDArray[np.float64]], asset: NDArray[np.int32], end_us: NDArray[np.int64], test: RuleTest
) -> ReadColumns:
    present = sum(CHANNEL_BIT[name] for name, values in one.items() if not np.isnan(values[0]))
    channels = {c.name: np.nan_to_num(one[c.name]).astype(c.dtype)[: len(asset)] for c in CHANNELS if c.name in one}
    rows = len(asset)
    reads = Reads(asset, end_us, test.interval_s, np.zeros(rows, np.int32), channels, np.full(rows, present, np.uint32))
    ratings = Ratings(*(np.array([test.ratings[name]], np.float32) for name in RATINGS))
    return ReadColumns(reads, slice(0, rows), ratings)


def _spoken(name: str, episode: Episode) -> Spoken:
    def seconds(us: int) -> int:
        return (us - START_US) // US

    cleared = None if episode.cleared_us is None else seconds(episode.cleared_us)
    return name, seconds(episode.onset_us), seconds(episode.raised_us), cleared


def _ago(seconds: int) -> str:
    hours, minutes = divmod(seconds // 60, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds % 60, "s")) if n) or "0"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)) + " fires" if names else "nothing fires"


def _sentence(one: Spoken) -> str:
    name, onset, raised, cleared = one
    end = "and lasts" if cleared is None else f"cleared {_ago(cleared)}"
    return f"{name} from {_ago(onset)}, raised {_ago(raised)}, {end}"


class _Reader:
    """Reads one test of a file."""

    def __init__(self, problems: Problems, node: yaml.Node) -> None:
        self._problems = problems
        self._node = node
        self._table = problems.table(node, "a test", _TEST_KEYS)

    def read(self) -> RuleTest:
        text, table = self._problems.text, self._table
        test = RuleTest(text(table.get("name"), "name") or "test", line_of(self._node))
        on = text(table.get("on"), "on") or On.METER
        if on not in set(On):
            self._problems.add(line_of(table["on"]), f"on is {on[:40]!r}; expected {', '.join(On)}")
        else:
            test.on = On(on)
        if "interval" in table:
            test.interval_s = self._seconds(table["interval"], "interval") or 900
        for name, node in self._problems.table(table.get("meter"), "meter", RATINGS).items():
            test.ratings[name] = self._number(node, name)
        key, other = ("reads", "windows") if test.on is On.METER else ("windows", "reads")
        if other in table or key not in table:
            self._problems.add(line_of(self._node), f"a test on {test.on} has {key}, and no {other}")
        known = [channel.name for channel in CHANNELS] if key == "reads" else WINDOW_COLUMNS
        for name, node in self._problems.table(table.get(key), key, known).items():
            test.columns[name] = self._values(node, name)
        for node in self._problems.items(table.get("expect"), "expect"):
            test.expect.append(self._expected(node))
        if "episodes" in table:
            nodes = self._problems.items(table["episodes"], "episodes")
            test.episodes = [self._episode(node) for node in nodes]
        return test

    def _expected(self, node: yaml.Node) -> Expected:
        table = self._problems.table(node, "expect", ("at", "alarms"))
        names = [
            self._problems.text(one, "an alarm") or "" for one in self._problems.items(table.get("alarms"), "alarms")
        ]
        return Expected(self._seconds(table.get("at"), "at"), names, line_of(node))

    def _episode(self, node: yaml.Node) -> Spoken:
        table = self._problems.table(node, "an episode", ("alert", "onset", "raised", "cleared"))
        name = self._problems.text(table.get("alert"), "alert") or ""
        onset, raised = (self._seconds(table.get(key), key) for key in ("onset", "raised"))
        return name, onset, raised, self._seconds(table["cleared"], "cleared") if "cleared" in table else None

    def _seconds(self, node: yaml.Node | None, what: str) -> int:
        text = self._problems.text(node, what)
        try:
            return seconds_of(text or "")
        except ValueError as error:
            self._problems.add(line_of(node or self._node), f"{what}: {error}")
            return 0

    def _number(self, node: yaml.Node, what: str) -> float:
        values = self._values(node, what)
        return values[0] if values else math.nan

    def _values(self, node: yaml.Node, what: str) -> list[float]:
        """230x3 _ 254: numbers, how often, and none."""
        found: list[float] = []
        for word in (self._problems.text(node, what) or "").split():
            match = _VALUE.fullmatch(word)
            if match is None or len(found) + int((match[2] or "1")[:9]) > ROWS_MAX:
                self._problems.add(line_of(node), f"{what}: {word[:40]!r} is no value; write them like 230x3 _ 254.5")
                return found
            value = math.nan if match[1] == "_" else float(match[1])
            if abs(value) > VALUE_MAX:
                self._problems.add(
                    line_of(node), f"{what}: {word[:40]!r} is beyond {VALUE_MAX}, what a column can hold"
                )
                return found
            found += [value] * int(match[2] or 1)
        return found
