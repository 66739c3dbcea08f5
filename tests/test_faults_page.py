"""The page of faults has every fault, and the tests it names are there."""

from __future__ import annotations

import re
from pathlib import Path

from test_checks_page import functions

ROOT = Path(__file__).resolve().parents[1]
FAULTS = 52


def rows() -> list[tuple[int, str]]:
    text = (ROOT / "docs" / "faults.md").read_text("utf-8")
    return [(int(number), test) for number, test in re.findall(r"^\| (\d+) \|[^|]*\|(.*)\|$", text, re.MULTILINE)]


def test_every_fault_has_a_row_that_names_a_test_or_says_why_not() -> None:
    assert [number for number, _ in rows()] == list(range(1, FAULTS + 1))
    for number, told in rows():
        assert "`" in told or "not had: " in told, number


def test_every_test_that_is_named_is_there() -> None:
    named = [name for _, told in rows() for name in re.findall(r"`([\w/]+\.py::\w+)`", told)]
    assert len(named) > 50
    for name in named:
        path, _, function = name.partition("::")
        assert function in functions(ROOT / "tests" / path), name
