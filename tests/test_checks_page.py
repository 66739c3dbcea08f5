"""The page of checks says what the code has: every check, its bits and reasons, their categories, tests, counters."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from meterwatch import metrics
from meterwatch.metrics import Metrics
from meterwatch.quality import CHECK_OF, Quality
from meterwatch.v1 import ingest_pb2

ROOT = Path(__file__).resolve().parents[1]
CHECKS = [f"V{number:02}" for number in range(1, 19)]
REASONS = {name.removeprefix("ROW_REASON_"): number for name, number in ingest_pb2.RowReason.items()}
NO_CHECK = {"UNSPECIFIED", "NO_VALUE", "AMBIGUOUS"}
"""Reasons that come of a batch, not of a check."""


def rows() -> list[list[str]]:
    lines = (ROOT / "docs/checks.md").read_text("utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| V\d\d ", line)]


def leaves(row: list[str]) -> list[str]:
    return re.findall(r"`(\w+)`", row[2])


@cache
def functions(path: Path) -> dict[str, int]:
    """Test functions of a file, each with its number of assertions."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.name: sum(isinstance(part, ast.Assert) for part in ast.walk(node))
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_check_has_a_row_in_order() -> None:
    assert list(dict.fromkeys(row[0] for row in rows())) == CHECKS


def test_every_bit_of_a_check_and_every_reason_is_in_the_row_of_its_check() -> None:
    told = {(row[0], name) for row in rows() for name in leaves(row)}
    bits = {(check, bit.name) for bit, check in CHECK_OF.items()}
    reasons = {(check, ingest_pb2.RowReason.Name(number)[11:]) for number, check in metrics._CHECK_OF_REASON.items()}
    assert told == bits | reasons
    assert {name for _, name in reasons} == REASONS.keys() - NO_CHECK


def test_the_category_of_a_bit_is_that_of_the_schema_page() -> None:
    schema = (ROOT / "docs/schema.md").read_text("utf-8")
    for row in rows():
        bits = [name for name in leaves(row) if name in Quality.__members__]
        categories = set()
        for name in bits:
            found = re.search(rf"^\| \d+ \| \d+ \| {name} \|.*\| ([^|]+) \|$", schema, re.MULTILINE)
            assert found, name
            categories.add(found.group(1))
        assert categories == ({row[3]} if bits else set())
        assert bits or row[3] == "-"


@pytest.mark.parametrize("column", [4, 5], ids=["fires", "boundary"])
def test_every_test_that_is_named_is_there_and_asserts(column: int) -> None:
    for row in rows():
        path, _, name = row[column].strip("`").partition("::")
        assert functions(ROOT / "tests" / path).get(name), f"{row[0]}: {row[column]}"


def test_every_check_has_its_counter_from_the_start() -> None:
    registry = Metrics().registry
    for check in CHECKS:
        assert registry.get_sample_value("meterwatch_check_findings_total", {"check": check}) == 0.0
