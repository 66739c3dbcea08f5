"""Files of user rules and their unit tests: what is wrong is said at once, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from meterwatch.cli import app
from meterwatch.episodes import Severity
from meterwatch.user_rule_tests import run_file
from meterwatch.user_rules import SHIPPED_DIRECTORY, read_rules, shipped
from rules.user.columns import On

SOUND = """
groups:
  - name: mine
    rules:
      - alert: high
        expr: voltage_a_v > 250
        for: 1h30m
        keep_firing_for: 15m
        labels: {severity: high, department: grid}
        annotations: {summary: "{asset} has {voltage_a_v} V, call {department}"}
      - alert: heavy
        on: feeder
        expr: |
          load_ratio > 0.9
          and coverage > 0.5
"""
WRONG = """
groups:
  - name: mine
    interval: 1m
    rules:
      - alert: 1st
        expr: voltage_a_v.real > 250
        for: soon
        labels: {severity: bad}
      - alert: second
        expr: voltage_a_v > 250
        for: 6d
        keep_firing_for: 2d
        annotations: {summary: "{os.environ}"}
      - expr: load_ratio > 1
      - alert: second
        alert: third
        on: moon
        expr: voltage_a_v > 1
      - alert: second
        expr: voltage_a_v > 1
      - alert: second
        expr: voltage_a_v > 2
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "rules.yaml"
    path.write_text(text, "utf-8")
    return path


def test_a_sound_file_becomes_rules(tmp_path: Path) -> None:
    found = read_rules([str(written(tmp_path, SOUND))])
    assert not found.problems
    high, heavy = (placed.rule for placed in found.rules)
    assert (high.for_s, high.keep_firing_s, high.severity) == (5400, 900, Severity.HIGH)
    assert high.labels == {"department": "grid"}
    summary, evidence = high.told("m1", {}, {"voltage_a_v": 251.5})
    assert summary == "m1 has 251.5 V, call grid"
    assert evidence["labels"] == {"department": "grid"}
    assert (heavy.on, heavy.expr) == (On.FEEDER, "load_ratio > 0.9 and coverage > 0.5")


def test_all_that_is_wrong_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    found = read_rules([str(written(tmp_path, WRONG)), str(tmp_path / "not there.yaml")])
    said = {(problem.line, problem.message.split(";")[0][:34]) for problem in found.problems}
    assert {line for line, _ in said} == {1, 4, 6, 7, 8, 9, 12, 14, 15, 17, 18, 22}
    texts = "\n".join(str(problem) for problem in found.problems)
    for part in ("'interval' is not known", "a dot after a name", "'soon' is no duration", "severity is 'bad'",
                 "at most 604800 s", "'{os.environ}' is no field", "a rule without alert", "given twice",
                 "on is 'moon'", "stands in", "cannot be read"):  # fmt: skip
        assert part in texts


@pytest.mark.parametrize(
    "text",
    ["", "groups", "groups: 1", "groups: [1]", "- a", "a: &x [1]\nb: *x", "{" * 100, "groups: [{rules: [{alert: a}]}]",
     "\t", "%YAML 9.9\n---\n", "!!python/object:os.system {}", "groups: !!set {a, b}", "? {a: b}\n: c", "\x00"],
)  # fmt: skip
def test_what_is_no_file_of_rules_is_said(tmp_path: Path, text: str) -> None:
    assert read_rules([str(written(tmp_path, text))]).problems


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(st.sampled_from("groups:rulexpat-[]{}&*!|>'\"# \n\t1"), max_size=200)))
def test_any_text_is_a_file_of_rules_or_clear_errors(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = read_rules([str(path)])
    assert found.problems or not found.rules


def test_shipped_rules_pass_their_unit_tests() -> None:
    outcome = run_file(SHIPPED_DIRECTORY / "shipped_test.yaml")
    assert [str(problem) for problem in outcome.problems] == []
    assert outcome.rules == len(read_rules(shipped()).rules)


def test_every_shipped_rule_fires_in_a_unit_test() -> None:
    text = (SHIPPED_DIRECTORY / "shipped_test.yaml").read_text("utf-8")
    assert {placed.rule.name for placed in read_rules(shipped()).rules if placed.rule.name not in text} == set()


def test_a_unit_test_that_is_not_so_says_what_was(tmp_path: Path) -> None:
    written(tmp_path, SOUND)
    tests = tmp_path / "t.yaml"
    tests.write_text(
        "rules: [rules.yaml]\ntests:\n- name: t\n  reads: {voltage_a_v: 260x8}\n  expect:\n"
        "  - {at: 1h, alarms: [high]}\n  episodes: [{alert: high, onset: 0, raised: 1h}]\n",
        "utf-8",
    )
    assert [str(problem).removeprefix(str(tests)) for problem in run_file(tests).problems] == [
        ":6: t: at 1h nothing fires; expected high fires",
        ":3: t: high from 0, raised 1h30m, and lasts was not expected",
        ":3: t: high from 0, raised 1h, and lasts is missing",
    ]


def test_the_commands_check_and_test_end_with_a_code(tmp_path: Path) -> None:
    runner = CliRunner()
    sound = runner.invoke(app, ["rules", "check", str(written(tmp_path, SOUND)), "shipped:voltage"])
    assert sound.exit_code == 0
    assert "voltage_very_low" in sound.output
    wrong = runner.invoke(app, ["rules", "check", str(written(tmp_path, WRONG))])
    assert wrong.exit_code == 1
    assert "rules.yaml:7: expr, character 1: a dot after a name" in wrong.stderr
    tested = runner.invoke(app, ["rules", "test", str(SHIPPED_DIRECTORY / "shipped_test.yaml")])
    assert tested.exit_code == 0
    assert tested.output.startswith("passed: ")
