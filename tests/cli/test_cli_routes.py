"""meterwatch routes: what needs no service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from meterwatch.cli import app

FILE = """version: 1
targets:
  am: {kind: alertmanager, url: "http://127.0.0.1:9093"}
  sms: {kind: alertmanager, url: "http://127.0.0.1:9094"}
departments:
  crews: {targets: [am]}
  noc: {targets: [sms]}
routes:
  - name: outages-north
    match: {type: [OUTAGE], district: [North], severity_min: HIGH}
    department: crews
    group_by: [feeder]
    escalate: [{after_s: 900, department: noc}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routes.yaml"
    path.write_text(FILE)
    return path


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_sound_file_is_called_sound(file: Path) -> None:
    code, said, _ = run("routes", "check", file)
    assert (code, said) == (0, f"sound: {file}: 1 routes, 2 departments, 2 targets\n")


def test_every_problem_is_told_with_its_line(file: Path) -> None:
    file.write_text(FILE.replace("HIGH", "High").replace("[am]", "[an]"))
    code, said, problems = run("routes", "check", file)
    assert (code, said) == (78, "")
    assert f"{file}:10: " in problems
    file.write_text(FILE.replace("[am]", "[an]"))
    assert f"{file}:6: there is no target 'an'; did you mean 'am'" in run("routes", "check", file)[2]


def test_who_would_be_told_and_when(file: Path) -> None:
    alarm = ("--district", "North", "--feeder", "F1", "--at", "2026-01-31T12:00Z")
    code, said, _ = run("routes", "test", file, *alarm, "-o", "json")
    assert code == 0
    told = [(one["after"], one["department"], one["target"], one["group"]) for one in json.loads(said)]
    assert told == [("10 s", "crews", "am", "feeder=F1"), ("910 s", "noc", "sms", "feeder=F1")]


@pytest.mark.parametrize(("types", "code"), [("", 1), ("type: [FORECAST_OVERLOAD], ", 0)])
def test_a_forecast_would_call_only_whom_a_route_names_it_for(file: Path, types: str, code: int) -> None:
    file.write_text(FILE.replace("type: [OUTAGE], ", types))
    forecast = ("--district", "North", "--type", "forecast_overload")
    assert run("routes", "test", file, *forecast)[0] == code


@pytest.mark.parametrize(
    "other", [("--district", "South"), ("--district", "North", "--severity", "low"), ("--type", "overload")]
)
def test_nobody_told_is_said_and_leaves_with_1(file: Path, other: tuple[str, ...]) -> None:
    code, _, said = run("routes", "test", file, *other)
    assert (code, said) == (1, "nobody would be told\n")


def test_the_configuration_is_not_sound_with_a_file_of_routes_that_is_not(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERWATCH_ALARMS__ROUTES_FILE", str(file))
    assert run("config", "check")[0] == 0
    file.write_text("version: 2\n")
    code, _, said = run("config", "check")
    assert code == 78
    assert f"{file}:1: " in said
