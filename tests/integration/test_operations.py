"""The alerts and the dashboard for the service ask only for what it exports."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import yaml
from prometheus_client.parser import text_string_to_metric_families
from test_metrics import config, free_port
from typer.testing import CliRunner

from meterwatch.app import running
from meterwatch.cli import app
from meterwatch.config import Alarms

FILES = Path(__file__).parents[2] / "docs" / "operations"
OF_PROMETHEUS = {"up"}
OF_PROCESSES = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((FILES / "prometheus-rules.yaml").read_text("utf-8"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    board = orjson.loads((FILES / "grafana-dashboard.json").read_bytes())
    return [rule["expr"] for rule in alerts()] + [
        target["expr"] for panel in board["panels"] for target in panel["targets"]
    ]


def asked(expression: str) -> tuple[set[str], set[str]]:
    """Names of metrics and of labels in an expression of PromQL."""
    labels = {name for names in re.findall(r"by \(([^)]*)\)", expression) for name in re.split(r"\W+", names) if name}
    labels |= set(re.findall(r"[{,]\s*(\w+)=", expression))
    bare = re.sub(r"by \([^)]*\)|\{[^}]*\}|\[[^]]*\]|offset \w+", "", expression)
    functions = set(re.findall(r"(\w+)\s*\(", bare)) | {"and", "or", "sum"}
    return {word for word in re.findall(r"[a-z_]\w+", bare) if word not in functions}, labels - {"job"}


def grown() -> list[tuple[str, frozenset[tuple[str, str]]]]:
    """Counters whose growth an alert asks for, and their labels: Prometheus sees no growth from nothing to 1."""
    found = [one for rule in alerts() for one in re.findall(r"(\w+_total)(?:\{([^}]*)\})?\[", rule["expr"])]
    return [(name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))) for name, labels in found]


def fed() -> list[str]:
    """The series of the cases for promtool."""
    cases = yaml.safe_load((FILES / "prometheus-rules-test.yaml").read_text("utf-8"))["tests"]
    return [one["series"] for case in cases for one in case["input_series"]]


def test_expressions_are_taken_apart() -> None:
    found = asked('sum by (le, a) (rate(x_total{b="c"}[5m])) > 6 * 3600 and up == 0')
    assert found == ({"x_total", "up"}, {"le", "a", "b"})


async def test_alerts_and_dashboard_name_metrics_and_labels_that_exist(dsn: str, tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    routes.write_text(
        "version: 1\nlink: https://console.example\ntargets: {a: {kind: alertmanager, url: 'http://127.0.0.1:9'}}\n"
        "departments: {d: {targets: [a]}}\nroutes: [{name: all, department: d}]\n",
        "utf-8",
    )
    port = free_port()
    made = config(dsn, port).model_copy(update={"alarms": Alarms(routes_file=routes)})
    async with running(made):

        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(read)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    names = {sample.name for family in families.values() for sample in family.samples}
    names |= {name + tail for name, family in families.items() for tail in SUFFIXES[family.type]}
    samples = {
        (sample.name, frozenset(sample.labels.items())) for family in families.values() for sample in family.samples
    }
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    labels |= {"comm_mode", "head_end", "terminal_type"}  # of families without a sample in an empty service
    for expression in expressions():
        metrics, by = asked(expression)
        assert metrics, expression
        assert metrics - OF_PROMETHEUS - OF_PROCESSES <= names, expression
        assert by <= labels, expression
    for name, with_labels in grown():
        assert [name for other, at in samples if other == name and with_labels <= at], f"an alert sees no first {name}"
    for series in fed():
        metrics, by = asked(series)
        assert metrics - OF_PROMETHEUS <= names, series
        assert by <= labels, series


SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"], "unknown": [""]}


def test_every_alert_says_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert {"summary", "what_to_do"} <= rule["annotations"].keys(), rule["alert"]
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())


def test_commands_that_are_advised_exist() -> None:
    text = "\n".join(
        path.read_text("utf-8") for path in (FILES / "prometheus-rules.yaml", FILES.parent / "operations.md")
    )
    advised = re.findall(r"meterwatch ((?:db|reads|alarms|routes) [a-z]+|doctor)\b", text)
    assert advised
    for command in set(advised):
        done = CliRunner().invoke(app, [*command.split(), "--help"])
        assert done.exit_code == 0, command
