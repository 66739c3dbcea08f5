"""Who may do what, over TLS, against the whole service and its database."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from access_authority import Issuer
from access_world import (
    CA,
    ENOUGH_S,
    ISSUES,
    NOW_US,
    OTHER_CA,
    US,
    Caller,
    World,
    refused,
    served,
    stream,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meterwatch.access.methods import METHODS
from meterwatch.v1 import alarms_pb2 as alarms
from meterwatch.v1 import audit_pb2, gaps_pb2, ingest_pb2, reads_pb2, receipts_pb2, registry_pb2


@pytest.fixture(scope="module")
def world(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(dsn, tmp_path_factory.mktemp("access")) as running:
        yield running


@pytest.fixture(scope="module")
def alarm_ids(world: World) -> dict[str, str]:
    return world.raise_alarms(60)


# Who calls


def test_a_certificate_of_another_ca_and_none_do_not_get_in(world: World) -> None:
    for caller in (world.holder(OTHER_CA.issue("eve", roles=["admin"])), world.holder(None)):
        assert refused(caller.Alarms.ListAlarms, alarms.ListAlarmsRequest())[0] == "UNAVAILABLE"


def test_without_credentials_nothing_is_told_but_health(world: World) -> None:
    nobody = world.bearer("")
    for method, rule in METHODS.items():
        if method.startswith("meterwatch."):
            if method.endswith("Stream"):
                send = partial(nobody.channel.stream_stream(f"/{method}"), iter([b"\xff\xff"]))
            else:
                send = partial(nobody.channel.unary_unary(f"/{method}"), b"\xff\xff")
            assert refused(send, timeout=ENOUGH_S) == ("UNAUTHENTICATED", "NO_CREDENTIALS"), method
        assert rule.roles or method.startswith("grpc.health")
    health = health_pb2_grpc.HealthStub(nobody.channel).Check(health_pb2.HealthCheckRequest(), timeout=ENOUGH_S)
    assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_is_for_those_who_are_known(world: World) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="")

    def services(caller: Caller) -> Any:
        stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
        return stub.ServerReflectionInfo(iter([asked]), timeout=ENOUGH_S, metadata=caller.metadata)

    assert refused(lambda: services(world.bearer("")))[0] == "UNAUTHENTICATED"
    listed = next(services(world.person("viewer"))).list_services_response.service
    ours = {method.partition("/")[0] for method in METHODS}
    assert {one.name for one in listed} == ours


def test_a_token_says_who_calls_and_what_he_may(world: World) -> None:
    viewer = world.bearer(ISSUES.token("vera", ["viewer"]))
    viewer.Alarms.ListAlarms(alarms.ListAlarmsRequest())
    assert refused(lambda: viewer.Audit.ListAudit(audit_pb2.ListAuditRequest())) == (
        "PERMISSION_DENIED",
        "ROLE_MISSING",
    )


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Basic YTpi")],
        [("authorization", "Bearer x"), ("authorization", "Bearer y")],
        [("authorization", "Bearer " + Issuer(kid="k2").token())],
        [("authorization", "Bearer " + ISSUES.token(aud="other"))],
        [("authorization", "Bearer " + ISSUES.token(filler="x" * 4600))],
    ],
)
def test_a_token_that_does_not_hold_is_refused(world: World, headers: list[tuple[str, str]]) -> None:
    code, reason = refused(lambda: world.bearer("", headers).Alarms.ListAlarms(alarms.ListAlarmsRequest()))
    assert (code, reason) == ("UNAUTHENTICATED", "TOKEN_REFUSED")


def test_a_token_of_megabytes_never_gets_in(world: World) -> None:
    big = world.bearer(ISSUES.token(filler="x" * 5_000_000))
    code, _ = refused(lambda: big.Alarms.ListAlarms(alarms.ListAlarmsRequest()))
    assert code in ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL")  # gRPC's own limit is first
    world.person("viewer").Alarms.ListAlarms(alarms.ListAlarmsRequest())


def test_a_refusal_names_the_method_and_the_role(world: World) -> None:
    nothing = world.person()
    with pytest.raises(grpc.RpcError) as error:
        nothing.Alarms.ListAlarms(alarms.ListAlarmsRequest())
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "Alarms/ListAlarms" in error.value.details()
    assert "viewer" in error.value.details()


# Head-ends


def test_a_head_end_sends_reads_of_its_own_meters_only_and_the_others_are_on_record(world: World) -> None:
    answers = stream(
        world.person("head-end", name="HES-1"), ingest_pb2.Hello(head_end="HES-1", epoch=1), "M-N1", "M-S1"
    )
    ack = next(answer.ack for answer in answers if answer.HasField("ack"))
    assert (ack.accepted, list(ack.rejected_row)) == (1, [1])
    assert list(ack.rejected_reason) == [ingest_pb2.ROW_REASON_NOT_YOURS]
    world.run(world.gate._trail.flush())
    assert ("HES-1", "Ingest/Stream", "", "NOT_YOURS", 1) in world.audited(who="HES-1")


def test_a_head_end_cannot_be_another_one(world: World) -> None:
    liar = world.person("head-end", name="HES-2")
    other = ("PERMISSION_DENIED", "OTHER_HEAD_END")
    assert refused(lambda: stream(liar, ingest_pb2.Hello(head_end="HES-1", epoch=1), "M-N1")) == other
    for method, kind in (
        ("SendEvents", ingest_pb2.SendEventsRequest),
        ("SendReads", ingest_pb2.SendReadsRequest),
        ("SendRegisters", ingest_pb2.SendRegistersRequest),
    ):
        assert refused(getattr(liar.Ingest, method), kind(head_end="HES-1", epoch=1, seq=1)) == other


def test_a_head_end_asks_for_its_own_gaps_and_for_nothing_else(world: World) -> None:
    head_end = world.person("head-end", name="HES-1")
    seen = {
        meter
        for answer in head_end.Gaps.List(
            gaps_pb2.GapsRequest(head_end="HES-1", from_us=NOW_US - 7200 * US, to_us=NOW_US)
        )
        for meter in answer.meter
    }
    assert seen <= {"M-N1", "M-N2"}
    assert refused(lambda: head_end.Gaps.List(gaps_pb2.GapsRequest(head_end="HES-2"))) == (
        "PERMISSION_DENIED",
        "OTHER_HEAD_END",
    )
    assert refused(lambda: head_end.Gaps.List(gaps_pb2.GapsRequest(meter=["M-N1", "M-S1"]))) == (
        "PERMISSION_DENIED",
        "OUT_OF_SCOPE",
    )
    assert refused(lambda: head_end.Reads.Query(reads_pb2.QueryRequest(meter=["M-N1"]))) == (
        "PERMISSION_DENIED",
        "ROLE_MISSING",
    )


# What ends while a stream is open


def test_the_streams_of_a_denied_certificate_end_and_new_calls_are_refused(world: World) -> None:
    pair = CA.issue("lost", roles=["viewer"])
    lost, other = world.holder(pair), world.person("viewer")
    calls = [caller.Alarms.Subscribe(alarms.SubscribeRequest()) for caller in (lost, other)]
    for call in calls:
        next(call)
    world.denied.write_text(f"# lost\n{pair.serial}\n")
    world.run(world.gate.sweep())
    assert refused(lambda: calls[0]) == ("UNAUTHENTICATED", "CERTIFICATE_DENIED")
    assert refused(lambda: lost.Alarms.ListAlarms(alarms.ListAlarmsRequest())) == (
        "UNAUTHENTICATED",
        "CERTIFICATE_DENIED",
    )
    assert next(calls[1]).HasField("bookmark")
    calls[1].cancel()


def test_a_stream_of_reads_of_a_denied_head_end_ends_too(world: World) -> None:
    pair = CA.issue("HES-1", roles=["head-end"])
    head_end = world.holder(pair)
    out: queue.Queue[Any] = queue.Queue()
    call = head_end.channel.stream_stream(
        "/meterwatch.v1.Ingest/Stream",
        request_serializer=ingest_pb2.IngestRequest.SerializeToString,
        response_deserializer=ingest_pb2.IngestResponse.FromString,
    )(iter(out.get, None), timeout=ENOUGH_S)
    out.put(ingest_pb2.IngestRequest(hello=ingest_pb2.Hello(head_end="HES-1", epoch=77)))
    assert next(call).HasField("welcome")
    world.denied.write_text(f"{pair.serial}\n")
    world.run(world.gate.sweep())
    assert refused(lambda: call) == ("UNAUTHENTICATED", "CERTIFICATE_DENIED")
    out.put(None)


def test_a_stream_ends_a_minute_after_its_token_and_its_cursor_stays_good(
    world: World, alarm_ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate's clock runs ahead by what the token has left but two seconds, instead of a wait of minutes."""
    expires = int(time.time()) + 300
    monkeypatch.setattr(world.gate, "_now_s", lambda: time.time() + 300 + 60 - 2)
    call = world.bearer(ISSUES.token("vera", ["viewer"], exp=expires)).Alarms.Subscribe(alarms.SubscribeRequest())
    seq = next(call).snapshot.seq
    assert refused(lambda: call) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
    monkeypatch.undo()
    again = world.bearer(ISSUES.token("vera", ["viewer"])).Alarms.Subscribe(
        alarms.SubscribeRequest(from_seq=seq, log_id=world.service.desk.hub.log_id)
    )
    assert next(again).WhichOneof("message") in ("bookmark", "transition")
    again.cancel()


# On record


def test_an_action_is_signed_with_the_name_of_the_caller(world: World, alarm_ids: dict[str, str]) -> None:
    request = alarms.AcknowledgeRequest(alarm_id=alarm_ids["T-N"], action_id="signed", operator="somebody else")
    done = world.person("operator", name="olga").Alarms.Acknowledge(request).alarm
    assert done.acknowledged_by == "olga"
    assert world.sql("SELECT operator FROM alarm_actions WHERE action_id = 'signed'") == [("olga",)]
    assert world.audited(who="olga") == [
        ("olga", "Alarms/Acknowledge", f"action_id=signed alarm_id={alarm_ids['T-N']}", "OK", 1)
    ]


def test_nobody_confirms_in_the_name_of_another(world: World) -> None:
    world.raise_alarms(40)
    vera, eve = world.person("viewer", name="vera"), world.person("viewer", name="eve")
    call = vera.Alarms.Subscribe(alarms.SubscribeRequest(subscriber="desk"))
    seq = next(call).snapshot.seq
    confirm = receipts_pb2.ConfirmRequest(subscriber="desk", received=[receipts_pb2.ReceiptPoint(seq=seq)])
    assert eve.Receipts.Confirm(confirm).messages == 0
    assert vera.Receipts.Confirm(confirm).messages == 1
    call.cancel()


def test_every_call_that_alters_something_is_on_record_before_it_is_answered(world: World) -> None:
    admin = world.person("admin", name="ada")
    for number in range(20):
        work_id = f"R-{number}"
        work = registry_pb2.PlannedWork(
            work_id=work_id, asset_kind="transformer", asset="T-N", from_us=NOW_US, to_us=NOW_US + US, planned_by="x"
        )
        admin.Registry.PlanWork(registry_pb2.PlanWorkRequest(work=work))
        rows = admin.Audit.ListAudit(audit_pb2.ListAuditRequest(object=f"work_id={work_id} ")).entry
        assert [(row.who, row.how, row.outcome) for row in rows] == [("ada", "certificate", "OK")]


def test_a_flood_of_refusals_is_a_number(world: World) -> None:
    eve = world.person("viewer", name="flood")
    for _ in range(300):
        assert refused(lambda: eve.Audit.ListAudit(audit_pb2.ListAuditRequest()))[1] == "ROLE_MISSING"
    world.run(world.gate._trail.flush())
    rows = world.audited(who="flood")
    assert len(rows) <= 2 * 3  # of each minute the first and the number of the others
    assert sum(row[4] for row in rows) == 300


def test_what_failed_is_on_record_with_its_reason(world: World) -> None:
    admin = world.person("admin", name="fay")
    refused(lambda: admin.Registry.CancelWork(registry_pb2.CancelWorkRequest(work_id="none")))
    world.run(world.gate._trail.flush())
    assert world.audited(who="fay") == [("fay", "Registry/CancelWork", "work_id=none", "NOT_FOUND WORK_UNKNOWN", 1)]
    entries = admin.Audit.ListAudit(audit_pb2.ListAuditRequest(who="fay", refused=True)).entry
    assert [entry.method for entry in entries] == ["Registry/CancelWork"]
