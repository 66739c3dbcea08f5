"""Each alert on the service fires on the series it should and on no others: cases for promtool, and promtool itself.

promtool is no part of what a machine is given here: without it the cases are held against the rules by name alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
RULES, CASES = "prometheus-rules.yaml", "prometheus-rules-test.yaml"
NAMES = [rule["alert"] for rule in yaml.safe_load((OPERATIONS / RULES).read_text("utf-8"))["groups"][0]["rules"]]
ENOUGH_S = 60.0
FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'
NEVER, ALWAYS = "vector(0) > 1", "vector(1) > 0"


def cases() -> list[dict[str, Any]]:
    return list(yaml.safe_load((OPERATIONS / CASES).read_text("utf-8"))["tests"])


def fires(look: dict[str, Any]) -> set[str]:
    """The alerts that fire at a time, by a case."""
    assert look["expr"] == FIRING
    return {re.fullmatch(r'\{alertname="(\w+)"\}', one["labels"])[1] for one in look["exp_samples"]}  # type: ignore[index]


def test_of_every_alert_a_case_says_when_it_fires_and_until_when_it_does_not() -> None:
    firing, waiting = set(), set()
    for case in cases():
        looks = [fires(look) for look in case["promql_expr_test"]]
        firing |= set().union(*looks)
        waiting |= set().union(*looks) - looks[0]
    assert firing == waiting == set(NAMES)


def test_every_metric_of_an_alert_is_fed_by_a_case() -> None:
    rules = yaml.safe_load((OPERATIONS / RULES).read_text("utf-8"))["groups"][0]["rules"]
    asked = set(re.findall(r"\bmeterwatch_\w+", " ".join(rule["expr"] for rule in rules)))
    fed = {re.match(r"\w+", one["series"])[0] for case in cases() for one in case["input_series"]}  # type: ignore[index]
    assert fed == asked | {"up"}


def promtool(*arguments: str, at: Path = OPERATIONS) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool here (Debian: prometheus)")
    return subprocess.run([program, *arguments], cwd=at, capture_output=True, text=True, timeout=ENOUGH_S, check=False)


def test_promtool_takes_the_rules_and_finds_every_case_as_it_says() -> None:
    checked = promtool("check", "rules", RULES)
    assert (checked.returncode, f"{len(NAMES)} rules found" in checked.stdout) == (0, True), checked
    tested = promtool("test", "rules", CASES)
    assert tested.returncode == 0, tested


def test_promtool_takes_the_configuration_of_the_containers(tmp_path: Path) -> None:
    text = (OPERATIONS / "compose" / "prometheus.yml").read_text("utf-8")
    [inside] = yaml.safe_load(text)["rule_files"]
    (tmp_path / "prometheus.yml").write_text(text.replace(inside, str(OPERATIONS / RULES)), "utf-8")
    done = promtool("check", "config", "prometheus.yml", at=tmp_path)
    assert (done.returncode, "SUCCESS: 1 rule files found" in done.stdout) == (0, True), done


@pytest.mark.parametrize("expression", [NEVER, ALWAYS])
def test_alerts_that_never_fire_or_always_do_would_be_found(expression: str, tmp_path: Path) -> None:
    rules = yaml.safe_load((OPERATIONS / RULES).read_text("utf-8"))
    for rule in rules["groups"][0]["rules"]:
        rule["expr"] = expression
    (tmp_path / RULES).write_text(yaml.safe_dump(rules), "utf-8")
    shutil.copyfile(OPERATIONS / CASES, tmp_path / CASES)
    done = promtool("test", "rules", CASES, at=tmp_path)
    assert done.returncode != 0, done
    missed = [name for name in NAMES if f'alertname="{name}"' not in done.stdout + done.stderr]
    assert missed == []


def test_amtool_takes_the_configuration_of_the_containers_and_sends_alarms_to_the_control_room() -> None:
    program = shutil.which("amtool")
    if program is None:
        pytest.skip("no amtool here (Debian: prometheus-alertmanager)")
    config = str(OPERATIONS / "compose" / "alertmanager.yml")
    done = subprocess.run(
        [program, "check-config", config], capture_output=True, text=True, timeout=ENOUGH_S, check=False
    )
    if "field url_file not found" in done.stderr + done.stdout:
        pytest.skip("this Alertmanager is older than 0.26, which knows url_file")
    assert done.returncode == 0, done
    for labels, receiver in ((["alertname=MeterwatchDown"], "on-call"), (["alarm_id=OUT-1"], "control-room")):
        command = [program, "config", "routes", "test", f"--config.file={config}", f"--verify.receivers={receiver}"]
        done = subprocess.run([*command, *labels], capture_output=True, text=True, timeout=ENOUGH_S, check=False)
        assert done.returncode == 0, done
