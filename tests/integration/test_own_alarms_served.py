"""A reload that is refused, in a real service: an alarm in list, log and routes, acknowledged, over after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from databases import Databases
from pydantic import SecretStr
from receivers import receiver
from served import fresh_database
from service_process import until
from typer.testing import CliRunner

from meterwatch import own_alarms, own_conditions
from meterwatch.app import running
from meterwatch.cli import app
from meterwatch.cli.calls import calling
from meterwatch.config import Alarms, Config, Database, Rules, Server
from meterwatch.soundness import inspect
from meterwatch.v1 import alarms_pb2, routes_pb2, user_rules_pb2
from rules.profile import RuleProfile
from storage.sound import inspected
from storage.upkeep import Retention

ROUTES = """
version: 1
targets:
  hook: {{kind: webhook, url: "{url}", secret: {{file: secret.txt}}}}
departments:
  it: {{targets: [hook]}}
routes:
  - {{name: service, match: {{type: [SYSTEM]}}, department: it, group_wait_s: 0, group_interval_s: 0}}
"""
RULES = "groups: [{{name: g, rules: [{{alert: heavy, expr: import_kw > {limit}}}]}}]"


class Operator:
    """Somebody who asks the service; each call in a connection of its own."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, method: str, request: Any, answer: Any) -> Any:
        with calling(self.address) as ask:
            return ask(method, request, answer)

    def listed(self) -> dict[str, alarms_pb2.Alarm]:
        """Alarms about the service, by part."""
        wanted = alarms_pb2.ListAlarmsRequest(filter=alarms_pb2.AlarmFilter(type=["SYSTEM"]))
        found = self.call("Alarms/ListAlarms", wanted, alarms_pb2.ListAlarmsResponse)
        assert len({alarm.asset for alarm in found.alarm}) == len(found.alarm), "one alarm a part"
        return {alarm.asset: alarm for alarm in found.alarm}

    def reload(self) -> None:
        """Files of user rules and routes."""
        self.call(
            "UserRules/ReloadUserRules", user_rules_pb2.ReloadUserRulesRequest(), user_rules_pb2.ReloadUserRulesResponse
        )
        self.call("Routes/ReloadRoutes", routes_pb2.ReloadRoutesRequest(), routes_pb2.ReloadRoutesResponse)

    def kinds(self, alarm_id: str) -> list[str]:
        found = self.call("Alarms/GetAlarm", alarms_pb2.GetAlarmRequest(alarm_id=alarm_id), alarms_pb2.GetAlarmResponse)
        return [transition.kind for transition in found.transition]


def refused(operator: Operator, files: dict[Path, str], requests: list[Any]) -> alarms_pb2.Alarm:
    """Write what is not sound, and have it told; the alarm of the user rules."""
    for path, text in files.items():
        path.write_text(text, "utf-8")
    operator.reload()
    until(lambda: set(operator.listed()) == {"user-rules", "routes-file"}, "both refusals are told")
    alarm = operator.listed()["user-rules"]
    assert (alarm.level, alarm.asset_kind, alarm.district) == ("CONFIG_REFUSED", "service", "")
    assert "rules.yaml:1: expr, character" in alarm.summary
    until(lambda: b"rules.yaml:1: expr" in b"".join(r.body for r in requests), "the routes tell their department")
    request = alarms_pb2.AcknowledgeRequest(alarm_id=alarm.alarm_id, action_id="a-1", operator="Kim")
    operator.call("Alarms/Acknowledge", request, alarms_pb2.AcknowledgeResponse)
    shown = CliRunner().invoke(app, ["alarms", "explain", alarm.alarm_id, "--address", operator.address])
    assert shown.exit_code == 0, shown.output
    assert "CONFIG_REFUSED" in shown.output
    return alarm


def test_a_refused_reload_is_an_alarm_until_the_file_is_mended(
    cluster: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_alarms, "EVERY_S", 0.02)
    monkeypatch.setattr(own_conditions, "SETTLES_S", 0.1)
    rules, routes = tmp_path / "rules.yaml", tmp_path / "routes.yaml"
    (tmp_path / "secret.txt").write_text("a secret of the tests")

    async def live(dsn: str) -> None:
        config = Config(
            server=Server(port=0), database=Database(url=SecretStr(dsn)), rules=Rules(files=[str(rules)]),
            alarms=Alarms(routes_file=routes),
        )  # fmt: skip
        with receiver() as hook:
            sound = {rules: RULES.format(limit=1), routes: ROUTES.format(url=hook.url)}
            for path, text in sound.items():
                path.write_text(text, "utf-8")
            async with running(config) as service:
                operator = Operator(service.address)
                assert await asyncio.to_thread(operator.listed) == {}
                unsound = {rules: RULES.format(limit="voltage_a_v.real"), routes: "version: 1\nroutes: 7\n"}
                alarm = await asyncio.to_thread(refused, operator, unsound, hook.answered)
                routes.write_text(sound[routes], "utf-8")
                await asyncio.to_thread(operator.reload)
                await asyncio.to_thread(until, lambda: operator.listed()["routes-file"].cleared_us, "the routes are in")
                assert not (await asyncio.to_thread(operator.listed))["user-rules"].cleared_us
            rules.write_text(sound[rules], "utf-8")
            async with running(config) as service:
                again = Operator(service.address)
                kinds = ["RAISED", "ACKNOWLEDGED", "CLEARED"]
                await asyncio.to_thread(until, lambda: again.kinds(alarm.alarm_id) == kinds, "it is over")
                assert set(await asyncio.to_thread(again.listed)) == {"user-rules", "routes-file"}
        async with inspected(dsn, Retention()) as db:
            found = [one for verdict in [v async for v in inspect(db, RuleProfile())] for one in verdict.found]
        assert found == []

    with fresh_database(cluster) as dsn:
        asyncio.run(live(dsn))
