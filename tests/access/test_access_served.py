"""Who may do what, over TLS, against the whole service and its database."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from access_authority import Issuer
from access_world import (
    CA,
    ENOUGH_S,
    ISSUES,
    NORTH,
    NOW_US,
    OTHER_CA,
    SOUTH,
    STEP_S,
    US,
    Caller,
    World,
    refused,
    served,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from meterwatch.access.methods import METHODS
from meterwatch.v1 import alarms_pb2 as alarms
from meterwatch.v1 import (
    audit_pb2,
    gaps_pb2,
    ingest_pb2,
    reads_pb2,
    receipts_pb2,
    registry_pb2,
    reliability_pb2,
    thermal_pb2,
    transformers_pb2,
)


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
    assert next(services(world.person("viewer"))).list_services_response.service


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


def stream(
    caller: Caller, hello: ingest_pb2.Hello, *meters: str, end_us: int = NOW_US
) -> list[ingest_pb2.IngestResponse]:
    """The answers to a read of each meter."""
    batch = ingest_pb2.ReadBatch(seq=1, interval_s=STEP_S)
    batch.meter_index.extend(range(len(meters)))
    batch.stamp_us.extend([end_us] * len(meters))
    batch.import_wh.extend([100] * len(meters))
    messages = [
        ingest_pb2.IngestRequest(hello=hello),
        ingest_pb2.IngestRequest(dictionary=ingest_pb2.Dictionary(meter=meters)),
        ingest_pb2.IngestRequest(batch=batch),
    ]
    call = caller.channel.stream_stream(
        "/meterwatch.v1.Ingest/Stream",
        request_serializer=ingest_pb2.IngestRequest.SerializeToString,
        response_deserializer=ingest_pb2.IngestResponse.FromString,
    )
    return list(call(iter(messages), timeout=ENOUGH_S, metadata=caller.metadata))


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


# Districts


def test_a_list_of_alarms_holds_those_of_the_districts(world: World, alarm_ids: dict[str, str]) -> None:
    def listed(caller: Caller, **filters: Any) -> set[str]:
        request = alarms.ListAlarmsRequest(filter=alarms.AlarmFilter(**filters))
        return {alarm.district for alarm in caller.Alarms.ListAlarms(request).alarm}

    north = world.person("operator", districts=[NORTH])
    assert listed(world.person("operator")) == {NORTH, SOUTH}
    assert listed(north) == {NORTH}
    assert listed(north, district=[SOUTH]) == set()
    assert listed(north, district=[NORTH, SOUTH], paging_only=True) == {NORTH}
    assert listed(world.person("viewer", districts=["Nowhere"])) == set()


def test_an_unfiltered_subscription_is_one_of_the_districts(world: World, alarm_ids: dict[str, str]) -> None:
    north = world.person("operator", districts=[NORTH])
    everybody = world.person("operator")
    calls = [caller.Alarms.Subscribe(alarms.SubscribeRequest()) for caller in (north, everybody)]
    snapshots = [next(call).snapshot for call in calls]
    assert {alarm.district for alarm in snapshots[0].alarm} == {NORTH}
    assert {alarm.district for alarm in snapshots[1].alarm} == {NORTH, SOUTH}
    world.raise_alarms(50)
    seen: list[set[str]] = []
    for call in calls:
        districts: set[str] = set()
        bookmarks = 0
        for message in call:
            if message.HasField("transition"):
                districts.add(message.transition.alarm.district)
            bookmarks += message.HasField("bookmark")
            if districts == {NORTH, SOUTH} or bookmarks == 2:  # the second comes after what was to come
                break
        seen.append(districts)
        call.cancel()
    assert seen == [{NORTH}, {NORTH, SOUTH}]


def test_a_cursor_does_not_lead_into_another_district(world: World, alarm_ids: dict[str, str]) -> None:
    north = world.person("viewer", districts=[NORTH])
    log_id = world.service.desk.hub.log_id
    call = north.Alarms.Subscribe(alarms.SubscribeRequest(log_id=log_id, transitions_max=100))
    districts = set()
    for message in call:
        districts |= {one.alarm.district for one in message.transitions.transition}
        if message.HasField("bookmark") and message.bookmark.seq >= world.service.desk.hub.seq:
            break
    call.cancel()
    assert districts == {NORTH}


def test_an_alarm_of_another_district_is_neither_shown_nor_acted_on(world: World, alarm_ids: dict[str, str]) -> None:
    north = world.person("operator", districts=[NORTH], name="nora")
    south = alarm_ids["T-S"]
    denied = ("PERMISSION_DENIED", "OUT_OF_SCOPE")
    act = alarms.ActRequest(action_id="x", alarm_id=south, kind=alarms.ACTION_KIND_COMMENT, operator="n", note="n")
    many = alarms.ActRequest(action_id="y", kind=alarms.ACTION_KIND_COMMENT, operator="n", note="n")
    targets = [alarms.ActTarget(alarm_id=one) for one in alarm_ids.values()]
    for call in (
        lambda: north.Alarms.GetAlarm(alarms.GetAlarmRequest(alarm_id=south)),
        lambda: north.Alarms.Explain(alarms.ExplainRequest(alarm_id=south)),
        lambda: north.Alarms.Acknowledge(alarms.AcknowledgeRequest(alarm_id=south, action_id="z", operator="n")),
        lambda: north.Alarms.Act(act),
        lambda: north.Alarms.ActOnMany(alarms.ActOnManyRequest(act=many, target=targets)),
        lambda: north.Alarms.ShelveAsset(shelf("T-S")),
        lambda: north.Alarms.ShelveAsset(shelf("", "")),
    ):
        assert refused(call) == denied
    world.run(world.gate._trail.flush())
    rows = world.audited(who="nora")
    assert {method for _, method, _, outcome, _ in rows if outcome == "PERMISSION_DENIED OUT_OF_SCOPE"} == {
        "Alarms/GetAlarm", "Alarms/Explain", "Alarms/Acknowledge", "Alarms/Act", "Alarms/ActOnMany",
        "Alarms/ShelveAsset",
    }  # fmt: skip
    assert not world.sql("SELECT * FROM alarm_actions WHERE alarm_id = %s", south)


def shelf(asset: str, kind: str = "transformer") -> alarms.ShelveAssetRequest:
    return alarms.ShelveAssetRequest(
        action_id=f"shelf-{asset}",
        operator="n",
        reason="work",
        type="OUTAGE",
        asset_kind=kind,
        asset=asset,
        shelve_s=60,
    )


def test_an_action_by_filter_is_for_the_districts(world: World, alarm_ids: dict[str, str]) -> None:
    north = world.person("operator", districts=[NORTH], name="nora")
    act = alarms.ActRequest(action_id="by-filter", kind=alarms.ACTION_KIND_COMMENT, operator="n", note="seen")
    request = alarms.ActOnManyRequest(act=act, filter=alarms.AlarmFilter())
    assert {result.alarm.district for result in north.Alarms.ActOnMany(request).result} == {NORTH}


def test_an_action_is_signed_with_the_name_of_the_caller(world: World, alarm_ids: dict[str, str]) -> None:
    request = alarms.AcknowledgeRequest(alarm_id=alarm_ids["T-N"], action_id="signed", operator="somebody else")
    done = world.person("operator", name="olga").Alarms.Acknowledge(request).alarm
    assert done.acknowledged_by == "olga"
    assert world.sql("SELECT operator FROM alarm_actions WHERE action_id = 'signed'") == [("olga",)]
    assert world.audited(who="olga") == [
        ("olga", "Alarms/Acknowledge", f"action_id=signed alarm_id={alarm_ids['T-N']}", "OK", 1)
    ]


def test_figures_of_alarms_are_of_the_districts(world: World, alarm_ids: dict[str, str]) -> None:
    def pages(*districts: str) -> tuple[int, set[str], int]:
        found = world.person("viewer", districts=districts).Alarms.GetKpis(alarms.GetKpisRequest())
        return found.pages, {source.asset for source in found.top}, found.paging

    everything, north, south = pages(), pages(NORTH), pages(SOUTH)
    assert everything[1] == {"T-N", "T-S"}
    assert north[1] == {"T-N"}
    assert south[1] == {"T-S"}
    assert everything[0] == north[0] + south[0]
    assert everything[2] == north[2] + south[2]


def test_shelves_are_shown_where_their_asset_is(world: World, alarm_ids: dict[str, str]) -> None:
    world.person("operator", name="olga").Alarms.ShelveAsset(shelf("T-S"))
    for districts, assets in (((NORTH,), set()), ((SOUTH,), {"T-S"}), ((), {"T-S"})):
        caller = world.person("viewer", districts=districts)
        found = caller.Alarms.ListShelves(alarms.ListShelvesRequest()).shelf
        assert {one.asset for one in found} == assets
        assert all(one.operator == "olga" for one in found)


@pytest.mark.parametrize(("asset", "districts"), [("T-N", {NORTH}), ("T-S", {NORTH})])
def test_a_transformer_is_shown_in_its_district(world: World, asset: str, districts: set[str]) -> None:
    caller = world.person("viewer", districts=sorted(districts))
    calls: list[Callable[[], Any]] = [
        lambda: caller.Transformers.GetCurve(transformers_pb2.GetCurveRequest(transformer=asset)),
        lambda: caller.Transformers.GetForecast(transformers_pb2.GetForecastRequest(transformer=asset)),
        lambda: caller.Transformers.PlanLoad(transformers_pb2.PlanLoadRequest(transformer=asset)),
        lambda: caller.Thermal.ListTemperatures(thermal_pb2.ListTemperaturesRequest(transformer=[asset])),
        lambda: list(caller.Reads.Query(reads_pb2.QueryRequest(transformer=asset, from_us=1, to_us=NOW_US))),
    ]
    for call in calls:
        try:
            call()
            reason = ""
        except grpc.RpcError:
            reason = refused(call)[1]
        assert (reason == "OUT_OF_SCOPE") == (asset == "T-S")


def test_reads_are_those_of_the_districts_also_of_a_meter_that_moved(world: World) -> None:
    """Of a meter, what it sent while it hung there."""
    head_end = world.person("head-end", name="HES-2")
    engineer = world.person("engineer")
    before_us, after_us = NOW_US - 40 * 86_400 * US, NOW_US - 10 * 86_400 * US
    for epoch, end_us in ((2, before_us), (3, after_us)):
        stream(head_end, ingest_pb2.Hello(head_end="HES-2", epoch=epoch), "M-S2", end_us=end_us)
    moved = registry_pb2.ImportRequest(valid_from_us=NOW_US - 20 * 86_400 * US)
    from access_world import _csv, _meter

    from meterwatch import registry_csv

    rows = _csv(registry_csv.Meter._fields, _meter("M-S2", "T-N", "HES-2"))
    moved.file.add(kind="meters", name="meters.csv", content=rows.encode())
    assert not engineer.Registry.Import(moved).error

    def ends(*districts: str) -> list[int]:
        caller = world.person("viewer", districts=districts)
        request = reads_pb2.QueryRequest(meter=["M-S2"], from_us=before_us - US, to_us=NOW_US)
        return [end for answer in caller.Reads.Query(request) for end in answer.end_us]

    assert ends() == [before_us, after_us]
    assert ends(SOUTH) == [before_us]
    assert ends(NORTH) == [after_us]
    north = world.person("viewer", districts=[NORTH])
    request = reads_pb2.QueryRequest(meter=["M-S1"], from_us=1, to_us=NOW_US)
    assert refused(lambda: north.Reads.Query(request)) == ("PERMISSION_DENIED", "OUT_OF_SCOPE")


def test_assets_gaps_completeness_and_indices_are_of_the_districts(world: World) -> None:
    north = world.person("viewer", districts=[NORTH])

    def names(kind: str) -> set[str]:
        return {asset.name for asset in north.Registry.ListAssets(registry_pb2.ListAssetsRequest(kind=kind)).asset}

    assert names("transformer") == {"T-N"}
    assert names("feeder") == {"F-N"}
    assert {"M-N1", "M-N2"} <= names("meter")
    assert "M-S1" not in names("meter")
    assert names("head_end") == set()
    by = gaps_pb2.CompletenessRequest(by=[gaps_pb2.COMPLETENESS_BY_DISTRICT])
    assert {row.district for row in north.Gaps.Completeness(by).row} == {NORTH}
    assert {row.district for row in world.person("viewer").Gaps.Completeness(by).row} == {NORTH, SOUTH}
    assert refused(lambda: north.Gaps.List(gaps_pb2.GapsRequest(meter=["M-S1"])))[1] == "OUT_OF_SCOPE"
    indices = [
        north.Reliability.GetIndices(reliability_pb2.GetIndicesRequest(by=place, per=reliability_pb2.INDEX_PERIOD_DAY))
        for place in (reliability_pb2.INDEX_PLACE_FEEDER, reliability_pb2.INDEX_PLACE_DISTRICT)
    ]
    assert [{index.place for index in found.index} for found in indices] == [{"F-N"}, {NORTH}]
    whole = reliability_pb2.GetIndicesRequest(by=reliability_pb2.INDEX_PLACE_ALL, per=reliability_pb2.INDEX_PERIOD_DAY)
    assert refused(lambda: north.Reliability.GetIndices(whole))[1] == "OUT_OF_SCOPE"


def test_planned_work_is_shown_in_its_district_and_signed(world: World) -> None:
    work = registry_pb2.PlannedWork(
        work_id="W-1", asset_kind="transformer", asset="T-S", from_us=NOW_US, to_us=NOW_US + US, planned_by="x"
    )
    world.person("operator", name="olga").Registry.PlanWork(registry_pb2.PlanWorkRequest(work=work))

    def planned(*districts: str) -> list[str]:
        caller = world.person("viewer", districts=districts)
        return [one.planned_by for one in caller.Registry.ListWork(registry_pb2.ListWorkRequest()).work]

    assert (planned(), planned(NORTH), planned(SOUTH)) == (["olga"], [], ["olga"])


def test_nobody_confirms_in_the_name_of_another(world: World) -> None:
    world.raise_alarms(40)
    vera, eve = world.person("viewer", name="vera"), world.person("viewer", name="eve")
    call = vera.Alarms.Subscribe(alarms.SubscribeRequest(subscriber="desk"))
    seq = next(call).snapshot.seq
    confirm = receipts_pb2.ConfirmRequest(subscriber="desk", received=[receipts_pb2.ReceiptPoint(seq=seq)])
    assert eve.Receipts.Confirm(confirm).messages == 0
    assert vera.Receipts.Confirm(confirm).messages == 1
    call.cancel()


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
