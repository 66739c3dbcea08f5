"""What somebody with districts sees and does, over TLS, against the whole service and its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from access_world import NORTH, NOW_US, SOUTH, US, Caller, World, csv_of, meter_row, refused, served, stream

from meterwatch import registry_csv
from meterwatch.v1 import alarms_pb2 as alarms
from meterwatch.v1 import gaps_pb2, ingest_pb2, reads_pb2, registry_pb2, reliability_pb2, thermal_pb2, transformers_pb2


@pytest.fixture(scope="module")
def world(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(dsn, tmp_path_factory.mktemp("access")) as running:
        yield running


@pytest.fixture(scope="module")
def alarm_ids(world: World) -> dict[str, str]:
    return world.raise_alarms(60)


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
    rows = csv_of(registry_csv.Meter._fields, meter_row("M-S2", "T-N", "HES-2"))
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
