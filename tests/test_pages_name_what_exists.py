"""Whatever a page tells its reader to type or to look at is there: commands, options, targets, settings, tests."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from meterwatch.cli import app
from meterwatch.config import Config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "CHANGELOG.md", ROOT / "docs/proto.md"})
"""CHANGELOG.md tells of what was; docs/proto.md is generated."""
OPERATIONS = sorted(path for path in (ROOT / "docs/operations").rglob("*") if path.suffix in (".yaml", ".yml"))
UNTYPED = {"md", "py", "yaml", "pem", "toml", "proto"}
"""What ends so is a file and no setting."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def shown(path: Path) -> Iterator[str]:
    """What stands in a page as code: spans, a line each, and lines of blocks."""
    text = path.read_text("utf-8")
    if path.suffix != ".md":
        yield from text.splitlines()
        return
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    text = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"^    (.*)$", text, re.MULTILINE)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    for span in re.findall(r"`([^`]+)`", text):
        yield " ".join(span.split())


def commands(line: str) -> list[list[str]]:
    """The words after `meterwatch` of every command of the service in a line, without comments."""
    line = line.partition("  #")[0]
    found = re.finditer(r"(?:^|[\s/])meterwatch(?: --tls-\w+ \S+)* (?!meterwatch\b)([a-z][^|;&()<>]*)", line)
    return [match.group(1).split() for match in found]


@cache
def program() -> Any:
    return typer.main.get_command(app)


def problem(words: list[str]) -> str | None:
    """What of a command does not exist; None: all of it does."""
    command = program()
    for at, word in enumerate(words):
        if not hasattr(command, "commands"):
            break
        if word not in command.commands:
            return f"no command {' '.join(words[: at + 1])}"
        command = command.commands[word]
    else:
        at = len(words)
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words[at:]:
        if word == "--":
            return None  # what comes now is for another program
        option = word.strip("[],.'\"").partition("=")[0]
        if re.fullmatch(r"--?[a-z][a-z-]*", option) and option not in options:
            return f"no option {option} of {' '.join(words[:at])}"
    return None


def test_commands_are_taken_apart() -> None:
    assert commands("docker compose exec meterwatch meterwatch db backup F  # meterwatch no") == [["db", "backup", "F"]]
    assert commands("systemctl stop meterwatch; .venv/bin/meterwatch doctor --deep") == [["doctor", "--deep"]]
    assert commands("meterwatch --tls-ca ca.pem alarms list | head") == [["alarms", "list"]]
    assert problem(["db", "backup", "FILE"]) is None
    assert problem(["db", "copy"]) == "no command db copy"
    assert problem(["doctor", "--deeply"]) == "no option --deeply of doctor"
    assert problem(["db", "shell", "--", "-c", "TABLE meters"]) is None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_and_their_options_exist(page: Path) -> None:
    told = [words for line in shown(page) for words in commands(line)]
    assert [found for words in told if (found := problem(words)) is not None] == []


def test_commands_are_found_in_the_pages() -> None:
    found = sum(len(commands(line)) for page in PAGES for line in shown(page))
    assert found > 100


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_targets_of_make_and_modules_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    lines = list(shown(page))
    assert {name for line in lines for name in re.findall(r"^make ([a-z-]+)", line)} <= targets
    modules = {
        name for line in lines for name in re.findall(r"python3? -m ((?:meterwatch|loadtest|storage)[\w.]*)", line)
    }
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def settings_of(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """Names of all settings and sections."""
    for name, field in section.model_fields.items():
        yield above + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{above}{name}.")


@pytest.mark.parametrize("page", [*PAGES, *OPERATIONS], ids=named)
def test_settings_exist(page: Path) -> None:
    known = set(settings_of(Config))
    told = set()
    for line in shown(page):
        if match := re.match(r"([a-z]+\.[a-z_.]*[a-z_])(?: = .*)?$", line):
            told |= {match.group(1)} if match.group(1).rpartition(".")[2] not in UNTYPED else set()
        for name in re.findall(r"METERWATCH_([A-Z]+__[A-Z_]+[A-Z])", line):
            told.add(name.lower().replace("__", "."))
    assert [name for name in sorted(told) if name.partition(".")[0] in Config.model_fields and name not in known] == []


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_of_tests_and_tests_exist(page: Path) -> None:
    """A path is from the root or from tests/; a file of tests may stand alone, its name being its own."""
    files = {path.name: path for path in (ROOT / "tests").rglob("*.py")}
    missing = []
    for line in shown(page):
        for path, function in re.findall(r"((?:[\w.-]+/)*test_\w+\.py)(?:::(\w+))?", line):
            there = ROOT / path if path.startswith("tests/") else ROOT / "tests" / path
            if "/" not in path:
                there = files.get(path, there)
            if not there.exists() or (function and function not in functions(there)):
                missing.append(f"{path}::{function}")
        for path in re.findall(r"^tests/[\w/]+$", line):
            if not (ROOT / path).exists():
                missing.append(path)
    assert missing == []


def test_the_threat_model_names_tests_that_exist() -> None:
    """SECURITY.md gives the file once and then the tests in it, in one cell."""
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    cells = [line.split("|")[-2] for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines() if "test_" in line]
    assert len(cells) > 10
    for cell in cells:
        there = set()
        for name in re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", cell):
            there |= functions(files[name])
        assert set(re.findall(r"`(test_\w+)`", cell)) <= there, cell
