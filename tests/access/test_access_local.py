"""The service as it is without settings: everybody on this machine may do all, signs as he likes, and is on record."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from access_authority import Issuer
from access_world import NOW_US, World, refused, served
from typer.testing import CliRunner

from meterwatch.cli import app
from meterwatch.v1 import alarms_pb2 as alarms
from meterwatch.v1 import ingest_pb2


@pytest.fixture(scope="module")
def world(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(dsn, tmp_path_factory.mktemp("local"), tls=False) as running:
        yield running


def test_local_is_any_head_end_and_any_operator(world: World) -> None:
    local = world.local()
    events = ingest_pb2.SendEventsRequest(
        head_end="HES-2",
        epoch=1,
        seq=1,
        meter=["M-S1"],
        meter_index=[0],
        at_us=[NOW_US],
        code=[ingest_pb2.EVENT_CODE_TAMPER],
    )
    assert local.Ingest.SendEvents(events).accepted == 1
    alarm_id = world.raise_alarms(30)["T-N"]
    request = alarms.AcknowledgeRequest(alarm_id=alarm_id, action_id="local", operator="Kim")
    assert local.Alarms.Acknowledge(request).alarm.acknowledged_by == "Kim"


def test_a_token_nobody_asked_for_is_refused_and_not_ignored(world: World) -> None:
    local = world.local()
    local.metadata.append(("authorization", f"Bearer {Issuer().token()}"))
    assert refused(local.Alarms.ListAlarms, alarms.ListAlarmsRequest()) == ("UNAUTHENTICATED", "TOKEN_REFUSED")


def test_the_command_lists_what_was_done_and_what_was_not(world: World) -> None:
    local = world.local()
    request = alarms.ActRequest(
        action_id="listed",
        alarm_id=world.raise_alarms(20)["T-S"],
        kind=alarms.ACTION_KIND_COMMENT,
        operator="K",
        note="n",
    )
    local.Alarms.Act(request)
    request.action_id, request.alarm_id = "not-done", "none"
    refused(local.Alarms.Act, request)
    world.run(world.gate._trail.flush())

    def listed(*options: str) -> list[tuple[str, str, str]]:
        command = ["audit", "list", "--address", world.service.address, "-o", "json", "--method", "Alarms/Act"]
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.output
        return [(row["how"], row["object"].split()[0], row["outcome"]) for row in json.loads(result.stdout)]

    done = ("local", "action_id=listed", "OK")
    failed = ("local", "action_id=not-done", "NOT_FOUND ALARM_UNKNOWN")
    assert listed() == [failed, done]
    assert listed("--refused") == [failed]
    assert listed("--object", "listed") == [done]
    assert listed("--limit", "1") == [failed]
