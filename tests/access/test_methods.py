"""The table of who may what: complete, and written down as it is."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from meterwatch import v1
from meterwatch.access.about import about
from meterwatch.access.gate import check_allowed
from meterwatch.access.identity import LOCAL, Identity, Role
from meterwatch.access.methods import METHODS, Reach, page
from meterwatch.errors import Denied
from meterwatch.v1 import alarms_pb2

ROOT = Path(__file__).resolve().parents[2]


def described() -> dict[str, Any]:
    """Every method of every service that can be served, by full name."""
    names = [found.name for found in pkgutil.iter_modules(v1.__path__) if found.name.endswith("_pb2")]
    assert len(names) > 10
    modules = [*(importlib.import_module(f"meterwatch.v1.{name}") for name in names), health_pb2, reflection_pb2]
    return {
        f"{service.full_name}/{method.name}": method
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert set(METHODS) == set(described())


def test_only_health_asks_nobody_who_he_is() -> None:
    assert {name for name, rule in METHODS.items() if not rule.roles} == {
        f"grpc.health.v1.Health/{name}" for name in ("Check", "Watch", "List")
    }


def test_a_viewer_and_a_head_end_alter_nothing_but_what_head_ends_send() -> None:
    altering = {name for name, rule in METHODS.items() if rule.changes}
    assert not [name for name in altering if Role.VIEWER in METHODS[name].roles]
    theirs = {name for name in altering if Role.HEAD_END in METHODS[name].roles}
    assert theirs == {name for name, rule in METHODS.items() if rule.sends}
    assert {name for name, rule in METHODS.items() if Role.HEAD_END in rule.roles and not rule.changes} == {
        "meterwatch.v1.Gaps/List",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }


@pytest.mark.parametrize(
    "verb", ["Import", "Reload", "Retry", "Plan", "Cancel", "Act", "Ack", "Shelve", "Edit", "Send", "Est"]
)
def test_what_sounds_like_a_change_is_one(verb: str) -> None:
    named = [name for name in METHODS if name.rpartition("/")[2].startswith(verb) and not name.endswith("PlanLoad")]
    assert named
    assert all(METHODS[name].changes for name in named)


def test_a_method_without_a_row_is_closed_to_everybody() -> None:
    with pytest.raises(Denied) as error:
        check_allowed(LOCAL, "meterwatch.v1.New/Method", None)
    assert error.value.reason == "METHOD_CLOSED"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("role", Role)
def test_a_role_gets_what_the_table_gives_it_and_no_more(method: str, role: Role) -> None:
    rule = METHODS[method]
    identity = Identity("x", frozenset({role}))
    if not rule.roles or role in rule.roles:
        check_allowed(identity, method, rule)
        return
    with pytest.raises(Denied) as error:
        check_allowed(identity, method, rule)
    assert error.value.reason == "ROLE_MISSING"
    assert method in error.value.message
    assert all(needed in error.value.message for needed in rule.roles)


@pytest.mark.parametrize("method", [name for name, rule in METHODS.items() if rule.reach is Reach.GRID])
def test_somebody_with_districts_has_no_business_with_the_whole_grid(method: str) -> None:
    identity = Identity("x", frozenset(Role), frozenset({"North"}))
    with pytest.raises(Denied) as error:
        check_allowed(identity, method, METHODS[method])
    assert error.value.reason == "WHOLE_GRID"


@pytest.mark.parametrize("method", [name for name, rule in METHODS.items() if rule.about])
def test_what_the_audit_log_says_of_a_request_are_fields_of_it(method: str) -> None:
    for path in METHODS[method].about:
        message = described()[method].input_type
        for name in path.split("."):
            field = message.fields_by_name[name]
            message = field.message_type
        assert message is None, path


def test_the_audit_log_names_what_was_done_and_few_of_many() -> None:
    method = "meterwatch.v1.Alarms/ActOnMany"
    request = alarms_pb2.ActOnManyRequest(
        act=alarms_pb2.ActRequest(action_id="a1", kind=alarms_pb2.ACTION_KIND_SHELVE, note="secret"),
        target=[alarms_pb2.ActTarget(alarm_id=f"A{i}") for i in range(7)],
    )
    said = "act.action_id=a1 act.kind=2 target.alarm_id=A0,A1,A2,A3,A4+2"
    assert about(method, METHODS[method], request.SerializeToString()) == said
    assert about(method, METHODS[method], b"\xff\xff") == ""


def test_the_page_has_the_table_as_it_is() -> None:
    assert page() in (ROOT / "docs" / "access.md").read_text("utf-8")
