"""docs/reliability.md: what it says proves a promise is there, and its table of laws is the list that is asked."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from meterwatch.soundness import _INVARIANTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reliability.md").read_text("utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
PROMISES = 7
"""Of the service, one row each."""


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def rows(begin: str) -> list[str]:
    """Rows of the table below the line that begins so."""
    below = PAGE[PAGE.index(begin) :].split("\n\n", maxsplit=1)[0]
    return below.splitlines()[2:]


def test_each_promise_names_tests_and_they_exist() -> None:
    promises = rows("| promise | proven by |")
    assert len(promises) == PROMISES
    for row in promises:
        assert any(test for _, test in NAMED.findall(row)), row
    missing = [
        f"{file}::{test}"
        for file, test in NAMED.findall(PAGE)
        if not (ROOT / file).exists() or (test and test not in functions_of(ROOT / file))
    ]
    assert missing == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert "test_no_such" not in functions_of(ROOT / "tests/integration/test_kill.py")
    assert NAMED.findall("`tests/a.py::test_b`, `tests/c.py`") == [("tests/a.py", "test_b"), ("tests/c.py", "")]


def test_the_table_of_laws_is_the_list_that_is_asked() -> None:
    laws = [f"| `{one.__name__}` | {(one.__doc__ or '').partition(chr(10))[0]} |" for one in _INVARIANTS]
    assert rows("| law | says |") == laws
