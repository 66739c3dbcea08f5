"""The page of limits has every limit, with the value it has in the code, and the tests it names are there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from test_checks_page import functions

from meterwatch import server
from meterwatch.config import Server

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    *("ingest.decode", "ingest.held", "ingest.meter_rows", "ingest.service", "ingest.session", "ingest.stream"),
    *("ingest.unary", "ingest.validate"),
    *("alarm.hub", "alarm.receipts", "alarm.wire"),
    *("meterwatch.access.doors", "meterwatch.health", "meterwatch.pipeline", "meterwatch.reads_queue"),
)
"""Whose every constant NAME_MAX has to be on the page, or here."""
NOT_MET = {
    "ingest.decode.SEQ_MAX": "the largest number the ledger holds",
    "ingest.validate.INT32_MAX": "the largest energy a column holds",
    "ingest.session.INLINE_ROWS_MAX": "where a batch is judged",
    "alarm.hub.SUBSCRIBERS_MAX": "server.subscribers_max",
    "alarm.receipts.TOLD_MAX": "length of an answer",
    "alarm.wire.NAME_CHARS_MAX": "length of a text",
    "alarm.wire.ID_CHARS_MAX": "length of a text",
    "alarm.wire.PERSON_CHARS_MAX": "length of a text",
    "alarm.wire.NOTE_CHARS_MAX": "length of a text",
    "alarm.wire.ENCODED_MAX": "what is kept encoded",
    "server.port": "no limit",
}
"""And why."""


class Row(NamedTuple):
    limit: str
    value: str
    edge: str
    tests: list[str]


def rows() -> list[Row]:
    text = (ROOT / "docs" / "limits.md").read_text("utf-8")
    found = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return [Row(limit, value, edge, re.findall(r"`([\w/]+\.py::\w+)`", tests)) for limit, value, edge, tests in found]


def in_code(limit: str) -> int | float:
    """Value of a setting of the server, of an option of gRPC or of a constant."""
    if limit.startswith("server."):
        found = Server.model_fields[limit.removeprefix("server.")].default
    elif ".OPTIONS." in limit:
        found = dict(server.OPTIONS)[limit.partition(".OPTIONS.")[2]]
    else:
        module, _, name = limit.rpartition(".")
        found = getattr(importlib.import_module(module), name)
    assert isinstance(found, int | float)
    return found


def test_no_row_is_left_out_by_its_form() -> None:
    text = (ROOT / "docs" / "limits.md").read_text("utf-8")
    assert len(rows()) == len(re.findall(r"^\| `", text, re.MULTILINE)) > 40


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.limit)
def test_a_limit_has_the_value_of_the_code_and_a_test_at_its_edge(row: Row) -> None:
    assert row.value == f"{in_code(row.limit):,.15g}"
    assert row.edge.strip()
    assert row.tests
    for name in row.tests:
        path, _, function = name.partition("::")
        assert function in functions(ROOT / "tests" / path), name


def test_every_limit_of_ingestion_queues_and_subscriptions_is_on_the_page() -> None:
    wanted = {
        f"{module}.{name}"
        for module in MODULES
        for name, value in vars(importlib.import_module(module)).items()
        if name.endswith("_MAX") and isinstance(value, int) and not name.startswith("_")
        if re.search(rf"^[^\n=(]*\b{name}\b[^\n]*=", source(module), re.MULTILINE)  # its own, not imported
    }
    wanted |= {
        f"server.{name}"
        for name, field in Server.model_fields.items()
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }
    assert wanted - {row.limit for row in rows()} == NOT_MET.keys()


def source(module: str) -> str:
    return (ROOT / Path(*module.split("."))).with_suffix(".py").read_text("utf-8")
