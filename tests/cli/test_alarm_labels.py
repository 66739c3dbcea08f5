"""Labels on the command line and on the console's filter line."""

from __future__ import annotations

import pytest
import typer

from meterwatch.cli.alarms import wanted_of
from meterwatch.console.filters import wanted
from meterwatch.console.rows import Row
from meterwatch.v1 import alarms_pb2 as pb


def test_values_of_one_label_are_alternatives_and_labels_go_together() -> None:
    found = wanted_of(None, None, None, None, ["network=lv", "crew=a=b", "network=mv"])
    assert [(one.name, list(one.value)) for one in found.label] == [("network", ["lv", "mv"]), ("crew", ["a=b"])]


@pytest.mark.parametrize("text", ["network", "=lv", "network=", ""])
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="NAME=VALUE"):
        wanted_of(None, None, None, None, [text])


def test_the_filter_line_knows_labels() -> None:
    row = Row.of(pb.Alarm(alarm_id="A", label={"network": "LV"}))
    for line, shown in (("label.network=lv,mv", True), ("label.network=mv", False), ("label.crew=lv", False)):
        test = wanted(line)
        assert test is not None
        assert test(row) is shown
