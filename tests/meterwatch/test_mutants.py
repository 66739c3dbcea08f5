"""The tool that makes the kernels wrong: what it makes, what it leaves alone, and that it tells what a test notices."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from meterwatch.devtools.mutants.changes import made_wrong, mutants
from meterwatch.devtools.mutants.run import EQUIVALENT, GROUPS, drawn, equivalent

ROOT = Path(__file__).parents[2]
MODULES = sorted(module for group in GROUPS.values() for module in group)


def changed(source: str) -> set[tuple[str, str]]:
    return {(one.before, one.after) for one in mutants("m.py", textwrap.dedent(source))}


@pytest.mark.parametrize(
    ("statement", "wrong"),
    [
        ("return a < b", {"a <= b", "a >= b"}),
        ("return a == b", {"a != b"}),
        ("return a <= b < c", {"a < b < c", "a > b < c", "a <= b <= c", "a <= b >= c"}),
        ("return a - b", {"a + b"}),
        ("return a & ~b", {"a | ~b", "b"}),
        ("return a and not b", {"a or not b", "b"}),
        ("return min(a, b)", {"max(a, b)"}),
        ("return np.searchsorted(a, b, side='left')", {"np.searchsorted(b, a, side='left')", "side='right'"}),
        ("return a[1:]", {"2", "0"}),
        ("return 86400", {"172800", "43200"}),
        ("return 0.5", {"1.0", "0.25"}),
        ("return f(a, True)", {"False"}),
        ("self.a = b", {"pass"}),
        ("a += b", {"a -= b", "pass"}),
        ("a.add(b)", {"pass"}),
        ("raise Rejected('NO', f'{a + 1} things')", {"pass"}),
        ("if a.any(): return b", {"if not a.any()", "a.all()"}),
        ("return 'some ' + a", set()),
        ("assert a > 1", set()),
        ("_log.info('x', n=a + 1)", set()),
        ("x: list[int] = b", set()),
    ],
)
def test_a_statement_is_made_wrong_in_these_ways_and_no_other(statement: str, wrong: set[str]) -> None:
    assert {after for _, after in changed(f"def f(self, a, b, c):\n    {statement}\n")} == wrong


def test_every_mutant_of_the_kernels_compiles_is_another_program_and_has_a_name_of_its_own() -> None:
    for module in MODULES[::7]:
        source = (ROOT / module).read_text("utf-8")
        sound, all_ = ast.dump(ast.parse(source)), mutants(module, source)
        assert len({one.key for one in all_}) == len(all_) > 0
        for one in all_[::11]:
            wrong = made_wrong(one, source)
            compile(wrong, module, "exec")
            assert ast.dump(wrong) != sound, one


def test_every_mutant_listed_as_no_mistake_is_one_of_its_module_and_says_why() -> None:
    listed = equivalent((ROOT / EQUIVALENT).read_text("utf-8"))
    there = {
        one.key for module in {key[0] for key in listed} for one in mutants(module, (ROOT / module).read_text("utf-8"))
    }
    assert set(listed) - there == set()
    assert all(len(why) > 20 for why in listed.values())


def test_the_same_seed_draws_the_same_and_every_group_has_its_share() -> None:
    groups = {group: mutants("m.py", "\n".join(f"def f{i}(a): return a + {i}" for i in range(30))) for group in "abc"}
    sample = drawn(groups, 40, seed=7)
    assert sample == drawn(groups, 40, seed=7) != drawn(groups, 40, seed=8)
    assert sorted(sum(group == name for group, _ in sample) for name in "abc") == [13, 13, 14]


KERNEL = """\
from operator import sub

LIMIT = 3
ONE = len("x")


def over(x):
    if x > LIMIT:
        return True
    return False


def down(n):
    while n:
        n = sub(n, ONE)
    return n


def nobody_asks(x):
    return x * 2


def same(x):
    return max(x, x + 0)
"""
TESTS = """\
import pytest
from kernel import down, over, same


@pytest.fixture(scope="module")
def ended():
    return down(2)


def test_over():
    assert over(5) and not over(2)


def test_of_something_else():
    assert same(1) == 1


def test_down(ended):
    assert ended == 0
"""
LISTED = """\
[["kernel.py"]]
in = "same"
before = "0"
after = ["1"]
why = "listed here to be left out, whatever it does"
"""


def test_what_the_tests_notice_and_what_they_do_not_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "tests").mkdir(parents=True)
    (project / "kernel.py").write_text(KERNEL)
    (project / "tests/test_kernel.py").write_text(TESTS)
    (project / "tests/equivalent_mutants.toml").write_text(LISTED)
    before = sorted(project.rglob("*"))
    ran = subprocess.run(
        [sys.executable, "-m", "meterwatch.devtools.mutants.run", "--only", "kernel.py", "--tests", "tests",
         "--number", "100", "--patience", "4", "--json", str(tmp_path / "out.json")],
        cwd=project, env=os.environ | {"METERWATCH_TEST_DATABASE_URL": "none is asked", "PYTHONPATH": str(project)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout + ran.stderr
    verdicts = {
        (one["mutant"]["function"], one["mutant"]["before"], one["mutant"]["after"]): one
        for one in json.loads((tmp_path / "out.json").read_text())["verdicts"]
    }
    told = {name: one["verdict"] for name, one in verdicts.items()}
    assert told["over", "x > LIMIT", "x >= LIMIT"] == "survived"
    assert told["over", "x > LIMIT", "x <= LIMIT"] == "noticed"
    assert told["", "3", "4"] == "survived"
    assert told["down", "sub(n, ONE)", "sub(ONE, n)"] == "late"
    assert told["down", "if n", "if not n"] == "noticed", "the fixture of the module ran it, not the test"
    assert told["nobody_asks", "x * 2", "x / 2"] == "not run"
    assert told["same", "0", "1"] == "equivalent"
    assert verdicts["over", "x > LIMIT", "x <= LIMIT"]["by"] == "tests/test_kernel.py::test_over"
    assert verdicts["over", "x > LIMIT", "x >= LIMIT"]["of"] == 1
    assert sorted(project.rglob("*")) == before
