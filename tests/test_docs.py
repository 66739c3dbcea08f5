"""The documents name what the code has: nothing that a user can meet is missing from them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel

from meterwatch.alarms import AlarmState, TransitionKind
from meterwatch.batch import EventCode
from meterwatch.channels import CHANNEL_NAMES
from meterwatch.check_profile import CHECK_PROFILES, BalanceLimits, DayLimits, Limits
from meterwatch.config import Config
from meterwatch.devtools import lifecycle, protodoc
from meterwatch.episodes import Severity
from meterwatch.quality import ORIGIN_RANK, Method, Origin, Quality
from meterwatch.registry_csv import KINDS
from meterwatch.v1 import ingest_pb2
from rules import contract, hot_words, outage, overload, silence
from rules.contract_levels import ContractProfile
from rules.forecast import ForecastProfile
from rules.plates import SHIPPED_TYPES
from rules.profile import PROFILES, OutageProfile, SilenceProfile
from rules.thermal import PARAMETERS, ThermalProfile
from rules.twin import HotSpotProfile

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("meterwatch", "ingest", "storage", "rules", "alarm")
RAISING = {"Rejected", "Denied", "Missing", "Stale", "Overloaded", "Unauthenticated"}
OWN_SIDE = {"FILE"}
"""Reasons that never travel: the command line raises and shows them itself."""


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def words(markdown: str) -> set[str]:
    """Names in backticks or table cells."""
    return set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", markdown))


def section(markdown: str, heading: str) -> str:
    """What stands below the third-level heading that begins with this name."""
    found = re.search(rf"^### {re.escape(heading)}\b.*?(?=^##|\Z)", markdown, re.MULTILINE | re.DOTALL)
    assert found, f"no heading '### {heading}'"
    return found.group()


# The files


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_of_a_registry_file_is_in_the_files_page(kind: str) -> None:
    assert set(KINDS[kind].columns) <= words(section(text("docs/files.md"), kind))


def test_every_column_of_a_csv_of_reads_is_in_the_files_page() -> None:
    assert {"meter", "end", "start", "interval_s", "fold", *CHANNEL_NAMES} <= words(
        section(text("docs/files.md"), "CSV")
    )


# The schema


def test_every_table_view_and_column_of_the_database_is_in_the_schema_page(dsn: str) -> None:
    page = text("docs/schema.md")
    with psycopg.connect(dsn) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()
    assert len(columns) > 100
    missing = [f"{table}.{column}" for table, column in columns if f"`{column}`" not in section(page, table)]
    assert not missing


def test_the_schema_page_describes_no_column_that_is_not_there(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()
    columns: dict[str, set[str]] = {}
    for table, column in rows:
        columns.setdefault(table, set()).add(column)
    page = text("docs/schema.md")
    for table, there in columns.items():
        described = set(re.findall(r"^\| `([a-z_]+)` \|", section(page, table), re.MULTILINE))
        assert described <= there, table


def test_every_index_of_the_migrations_is_in_the_schema_page() -> None:
    migrations = "\n".join(path.read_text() for path in (ROOT / "storage" / "migrations").glob("*.sql"))
    indexes = set(re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+)", migrations))
    assert len(indexes) > 8
    assert indexes <= words(text("docs/schema.md"))


def test_every_example_of_the_schema_page_runs(dsn: str) -> None:
    examples = re.findall(r"```sql\n(.*?)```", text("docs/schema.md"), re.DOTALL)
    assert len(examples) > 7
    with psycopg.connect(dsn) as connection:
        for example in examples:
            connection.execute(example).fetchall()


def test_every_quality_bit_is_in_the_schema_page_with_its_number_and_value() -> None:
    page = text("docs/schema.md")
    for bit in Quality:
        assert f"| {int(bit).bit_length() - 1} | {int(bit)} | {bit.name} |" in page


def test_every_origin_is_in_the_schema_page_with_its_code_and_rank() -> None:
    page = text("docs/schema.md")
    for origin in Origin:
        assert f"| {int(origin)} | {origin.name} | {ORIGIN_RANK[origin]} |" in page


def test_every_method_of_estimation_is_in_the_schema_page_with_its_code() -> None:
    page = text("docs/schema.md")
    assert [method.name for method in Method if f"| {int(method)} | {method.name} |" not in page] == []


def test_every_code_and_state_of_a_column_is_in_the_schema_page() -> None:
    page = text("docs/schema.md")
    events, log, alarms = (" ".join(section(page, table).split()) for table in ("events", "alarm_log", "alarms"))
    assert [code.name for code in EventCode if f"{int(code)} {code.name}" not in events] == []
    assert [kind.value for kind in TransitionKind if kind.value not in log] == []
    assert [state.value for state in AlarmState if f"| `{state.value}` |" not in alarms] == []
    assert [level.name for level in Severity if f"{int(level)} {level.name}" not in alarms] == []


# The rules


def test_every_rule_is_in_the_page_of_the_rules() -> None:
    page = text("docs/rules.md")
    for rule in (outage.RULE, overload.RULE, contract.RULE, silence.RULE, hot_words.RULE):
        assert f"\n## {rule}\n" in page


def test_every_level_of_the_overload_ladder_is_in_the_page_of_the_rules_with_its_numbers() -> None:
    page = text("docs/rules.md")
    by_phase = PROFILES["phases"].overload
    ladders = by_phase.levels, by_phase.reverse_levels, by_phase.phase_levels, by_phase.unbalance_levels
    for level in (level for levels in (*ladders, ContractProfile().levels) for level in levels):
        above = "above " if level.strictly_above else ""
        held = f"{level.hold_s} s" if level.hold_s else "the first window"
        clear = f"{level.clear_s} s" if level.clear_s else "at once"
        row = f"| {level.name} | {above}{level.raise_pu:.2f} | {held} | {level.clear_pu:.2f} | {clear} |"
        assert f"{row} {level.severity.name} |" in page


@pytest.mark.parametrize(
    "profile", [OutageProfile(), SilenceProfile(), overload.OverloadProfile(), ContractProfile(), HotSpotProfile()]
)
def test_every_threshold_is_in_the_page_of_the_rules_by_name_and_number(profile: Any) -> None:
    page = " ".join(text("docs/rules.md").split())
    missing = []
    for field in fields(profile):
        if field.name in (
            "levels",
            "checkpoint_windows",
            "thermal",
        ):  # these have tests of their own, or change no answer
            continue
        value = getattr(profile, field.name)
        around = " ".join(page[max(at.start() - 40, 0) : at.end() + 40] for at in re.finditer(f"`{field.name}`", page))
        if isinstance(value, str | tuple):
            shown = {"`"}
        else:
            shown = {f"{value:g}", f"{value}", f"{value * 100:g} %", f"{value:.4f}", "1e-5" if value == 1e-5 else "?"}
        if not any(re.search(rf"(?<![\d.]){re.escape(one)}(?!\.?\d)", around) for one in shown):
            missing.append(f"{field.name} = {value}")
    assert missing == []


def test_every_number_of_the_thermal_model_and_the_forecast_is_in_its_page() -> None:
    page = text("docs/thermal.md")
    rows = [
        f"| `{field.name}` | {getattr(profile, field.name):g} |"
        for profile in (ThermalProfile(), ForecastProfile())
        for field in fields(profile)
    ]
    assert [row for row in rows if row not in page] == []


def test_every_thermal_type_is_in_its_page_with_its_numbers() -> None:
    page = text("docs/thermal.md")
    for one in SHIPPED_TYPES:
        assert f"| `{one.name}` | {' | '.join(f'{getattr(one, name):g}' for name in PARAMETERS)} |" in page


@pytest.mark.parametrize("limits", [Limits(), DayLimits(), BalanceLimits()])
def test_every_threshold_of_validation_is_in_the_page_of_the_rules_by_name_and_number(limits: Any) -> None:
    rows = [line.split("|") for line in text("docs/rules.md").splitlines() if re.match(r"\| (V\d\d|-) \|", line)]
    missing = []
    for field in fields(limits):
        number = rf"(?<![\d.]){getattr(limits, field.name):.10g}(?![\d.])"
        if not any(f"`{field.name}`" in what and re.search(number, numbers) for _, _, what, numbers, _ in rows):
            missing.append(field.name)
    assert missing == []


def test_every_profile_of_validation_is_in_the_page_of_the_rules() -> None:
    page = section(text("docs/rules.md").replace("\n## ", "\n### "), "Thresholds of validation")
    assert [name for name in CHECK_PROFILES if f"| `{name}` |" not in page] == []


def test_every_profile_is_in_the_page_of_the_rules() -> None:
    page = text("docs/rules.md")
    assert [name for name in PROFILES if f"| `{name}` |" not in page] == []


# Reasons


def reasons_in(path: Path) -> Iterator[str]:
    """Reason strings given to our errors or to abort_with in one module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "abort_with":
            given = node.args[2:3]
        elif name in RAISING:
            given = node.args[:1]
        else:
            continue
        for value in given:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def test_every_reason_for_a_row_is_in_the_semantics_page() -> None:
    named = words(text("docs/semantics.md"))
    reasons = {name.removeprefix("ROW_REASON_") for name in ingest_pb2.RowReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert len(reasons) > 11
    assert reasons <= named


def test_every_reason_of_an_error_is_in_the_semantics_page() -> None:
    named = words(text("docs/semantics.md"))
    reasons = {
        reason: path.relative_to(ROOT)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for reason in reasons_in(path)
    }
    assert len(reasons) > 30
    assert {reason: str(path) for reason, path in reasons.items() if reason not in named | OWN_SIDE} == {}


def test_every_reason_of_a_nack_is_in_the_proto_file() -> None:
    message = next(
        m for f in protodoc.described() if f.name.endswith("/ingest.proto") for m in f.message_type if m.name == "Nack"
    )
    assert [field.name for field in message.field][:2] == ["seq", "reason"]
    named = words((ROOT / "proto" / "meterwatch" / "v1" / "ingest.proto").read_text())
    of_batches = {reason for module in ("decode", "validate") for reason in reasons_in(ROOT / f"ingest/{module}.py")}
    assert len(of_batches) > 8
    assert of_batches <= named


# Settings, links, the interface


def settings_of(section: BaseModel, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every key under its full name, with its value."""
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from settings_of(value, f"{above}{name}.")
        else:
            yield above + name, value


def test_every_setting_is_in_the_settings_page_with_its_default_and_no_other_is() -> None:
    expected = set()
    for key, value in settings_of(Config()):
        shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        expected.add(f"| `{key}` | " + (f"`{value}` |" if isinstance(value, str) else f"{shown} |"))
    assert len(expected) > 20
    page = text("docs/settings.md")
    assert expected == set(re.findall(r"^\| `[a-z]+\.[a-z_.]+` \| [^|]+ \|", page, re.MULTILINE))


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    broken = []
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests" / "golden").rglob("*.md")]
    for page in [*pages, *(ROOT / "meterwatch").rglob("*.md")]:
        body = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", body):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_document_that_is_named_is_there() -> None:
    named = {
        (str(page.relative_to(ROOT)), name)
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "proto").rglob("*.proto")]
        for name in re.findall(r"\bdocs/[a-z_]+\.md\b", page.read_text("utf-8"))
    }
    assert [(page, name) for page, name in sorted(named) if not (ROOT / name).exists()] == []


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_the_interface_is_fresh() -> None:
    assert protodoc.OUT.read_text("utf-8") == protodoc.page(protodoc.described())


def test_the_drawing_of_the_lifecycle_is_fresh() -> None:
    assert lifecycle.page(text("docs/alarms.md")) == text("docs/alarms.md")
