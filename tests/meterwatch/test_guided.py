"""Fuzzing with a guide: probes change nothing and tell branches apart, and what got further is worth more than luck."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from meterwatch.devtools import fuzz, guided
from meterwatch.devtools.fuzz_target import ACCEPTED, Target, tried
from meterwatch.devtools.fuzz_targets import TARGETS
from meterwatch.devtools.probes import Trail, probed

ROOT = Path(__file__).resolve().parents[2]
RUNS = {"rules": 20, "rule_tests": 10, "routes": 20, "config": 20}
"""Of targets whose readers are slow; of the others 40."""
EVERYTHING = '''
"""Each construct that has a probe."""
import functools

def first(x):
    """What a docstring says."""
    if x > 3:
        return "large"
    elif x == 3:
        return "three"
    return "small"

def loops(x):
    found = []
    for i in range(x):
        if i == 2:
            continue
        found.append(i)
    else:
        found.append("else")
    while x > 0:
        x -= 2
    return found, x

def values(x):
    both, either = x and x > 2 and "both", x > 5 or x == 1 or None
    return both, either, "odd" if x % 2 else "even", (lambda y: y + x)(1)

def parts(x):
    some = [i for i in range(x) if i % 2 if i > 1]
    return some, {i for i in some if i > 3}, {i: -i for i in some if i}, list(i for i in range(x) if i == x - 1)

def raises(x):
    try:
        return 10 // x
    except ZeroDivisionError as error:
        return str(error)
    finally:
        loops(x)

def matches(x):
    match x:
        case 0 | 1:
            return "few"
        case int() if x > 4:
            return "many"
        case _:
            return "some"

def counted():
    n = 0
    def one():
        nonlocal n
        n += 1
        return n
    return one(), one()

def made(x):
    yield from (i for i in range(x) if i)
    if x > 2:
        yield "more"

async def later(x):
    return x if x > 2 else None

class Thing:
    @functools.cached_property
    def two(self):
        return 2
    @staticmethod
    def three(x=None or 3):
        return x
'''
FUNCTIONS = ("first", "loops", "values", "parts", "raises", "matches")


def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str) -> tuple[ModuleType, Trail]:
    """A module of this source with probes."""
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with probed([name]) as trail:
        importlib.invalidate_caches()
        module = importlib.import_module(name)
    del sys.modules[name]
    return module, trail


def of(module: Any, x: int) -> list[Any]:
    return [
        *(getattr(module, name)(x) for name in FUNCTIONS),
        *(module.counted(), list(module.made(x)), asyncio.run(module.later(x)), module.Thing().two),
        *(module.Thing.three(), module.first.__doc__, module.__doc__),
    ]


def test_code_with_probes_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_probes, trail = loaded(tmp_path, monkeypatch, EVERYTHING, "everything")
    plain: Any = ModuleType("everything")
    exec(EVERYTHING, plain.__dict__)
    for x in range(8):
        assert of(with_probes, x) == of(plain, x)
    assert trail.arcs()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_another_way_through_code_is_another_trail(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, trail = loaded(tmp_path, monkeypatch, EVERYTHING, "everything")
    ways: dict[frozenset[int], list[int]] = {}
    for x in range(8):
        trail.begin()
        getattr(module, name)(x)
        ways.setdefault(frozenset(trail.arcs()), []).append(x)
    expected = {
        "first": [[0, 1, 2], [3], [4, 5, 6, 7]],
        "raises": [[0], [1], [2], [3], [4, 5, 6, 7]],
        "matches": [[0, 1], [2, 3, 4], [5, 6, 7]],
    }
    assert sorted(ways.values()) == expected.get(name, sorted(ways.values()))
    assert len(ways) > 2


LADDER = """
def take(data):
    if data[0] == ord("w"):
        if data[1] == ord("a"):
            if data[2] == ord("t"):
                if data[3] == ord("t"):
                    raise KeyError("planted")
    return "accepted"
"""
"""Four things have to be wrong at once."""


def ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Target, Trail]:
    module, trail = loaded(tmp_path, monkeypatch, LADDER, "ladder")

    def letter(rng: random.Random, data: bytes) -> bytes:
        at = rng.randrange(len(data))
        return data[:at] + rng.choice(b"abcdefghijklmnopqrstuvwxyz").to_bytes() + data[at + 1 :]

    return Target(lambda _: b"mmmm", letter, module.take), trail


def test_what_four_faults_at_once_reach_is_found_with_a_guide_and_not_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, trail = ladder(tmp_path, monkeypatch)
    blind, found = (guided.explore("ladder", target, range(8000), 1, trail, guide=guide) for guide in (False, True))
    assert (len(blind.findings), len(found.findings)) == (0, 1)
    assert blind.arcs < found.arcs


def test_the_same_seed_finds_the_same_and_another_one_goes_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, trail = ladder(tmp_path, monkeypatch)
    first, again, other = (guided.explore("ladder", target, range(3000), seed, trail, guide=True) for seed in (1, 1, 2))
    assert first.kept == again.kept
    assert first.seen == again.seen
    assert first.kept != other.kept


def test_a_finding_is_told_with_a_file_that_finds_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, trail = ladder(tmp_path, monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guided.hunt({"ladder": target}, 8000, 1, trail) == 1
    said = capsys.readouterr().err
    assert "KeyError: 'planted'" in said
    with pytest.raises(KeyError):
        tried(target, Path(said.split("--replay ")[1].strip()).read_bytes())


def test_every_reader_takes_or_refuses_what_a_guide_finds_and_with_probes_the_same_as_without() -> None:
    """In a process of its own, because probes are put in while a module is imported. Longer: make fuzz GUIDED=1."""
    code = f"""
import json
from meterwatch.devtools import guided
runs = {RUNS}
with guided.probed(guided.PACKAGES, but=guided.BUT) as trail:
    from meterwatch.devtools.fuzz_targets import TARGETS
    found = {{}}
    for name, target in TARGETS.items():
        blind, found_ = (guided.explore(name, target, range(runs.get(name, 40)), 1, trail, guide=g) for g in (0, 1))
        words = [words for one in (blind, found_) for _, words in one.findings.values()]
        found[name] = words, sorted(blind.outcomes), len(blind.arcs), len(found_.kept)
print(json.dumps(found))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found.keys() == TARGETS.keys()
    for name, (words, outcomes, arcs, kept) in found.items():
        assert words == []
        plain = fuzz.run(name, TARGETS[name], range(RUNS.get(name, 40))).outcomes.keys()
        assert plain <= set(outcomes), name
        assert all(one.startswith(("row ", "bit ")) for one in set(outcomes) - plain), name
        assert ACCEPTED in outcomes
        assert min(arcs, kept) > 3, name
