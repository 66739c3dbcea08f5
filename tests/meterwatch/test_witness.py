"""What a witness looks at: whose meters, which limits, and how many of them at most; no database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meterwatch import witness as module
from meterwatch.alarms import Alarm, AlarmState
from meterwatch.batch import EventCode, ReadChange
from meterwatch.clock import US, ReplayClock
from meterwatch.episodes import Severity
from meterwatch.explained import WINDOWS_SHOWN, Delivery
from meterwatch.notices import Change, DeliveryState, Receipt
from meterwatch.topology import Topology
from meterwatch.witness import Witness, deliveries_of, limits_of, members_of, rules_version, surroundings
from rules.profile import EN50160, FAST_OVERLOAD, RuleProfile

HOUR_US = 3600 * US
T0 = 1_700_000_000 * US // HOUR_US * HOUR_US
FAR = int(np.iinfo(np.int64).max)
METERS = 6


def town() -> Topology:
    """T0 and T1 on F0 with meters 0..4, meter 5 alone; C0 has 0..2; meter 4 is retired, 3 comes later."""
    return Topology(
        as_of_us=T0,
        meter=[f"M{i}" for i in range(METERS)],
        transformer_of=np.array([0, 0, 1, 1, 1, -1], np.int32),
        concentrator_of=np.array([0, 0, 0, -1, -1, -1], np.int32),
        head_end_of=np.zeros(METERS, np.int32),
        phases=np.full(METERS, 7, np.uint8),
        nominal_v=np.full(METERS, 230, np.float32),
        rated_a=np.full(METERS, 100, np.float32),
        contract_kw=np.full(METERS, np.nan, np.float32),
        interval_s=np.full(METERS, 900, np.int32),
        installed_us=np.array([0, 0, 0, T0 + 1, 0, 0], np.int64),
        retired_us=np.array([FAR, FAR, FAR, FAR, T0, FAR], np.int64),
        comm_mode=np.zeros(METERS, np.int16),
        comm_modes=["PLC"],
        transformer=["T0", "T1"],
        feeder_of=np.zeros(2, np.int32),
        rated_kva=np.array([100.0, 0.0]),
        transformer_district=["N", "N"],
        feeder=["F0"],
        feeder_district=["N"],
        concentrator=["C0"],
        concentrator_head_end=np.zeros(1, np.int32),
        head_end=["H0"],
        late_window_us=np.zeros(1, np.int64),
        slot_of={f"M{i}": i for i in range(METERS)},
    )


def alarm(rule: str = "OUTAGE", kind: str = "transformer", asset_id: int = 0, **changes: Any) -> Alarm:
    made = Alarm(
        "X-1", rule, kind, asset_id, "", "", "", AlarmState.UNACK_ACTIVE, Severity.HIGH, "OVERLOAD",
        T0, T0 + 60 * US, None, T0 + 61 * US, 1, 1, None, "",
    )  # fmt: skip
    return replace(made, **changes)


@dataclass
class Stored:
    """History and Arrivals in one: events (slot, at, arrived, code), windows of a load, and what was asked."""

    events_: list[tuple[int, int, int, int]] = field(default_factory=list)
    loads_: list[Any] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def reads_between(self, from_us: int, to_us: int, slots: Any) -> AsyncIterator[ReadChange]:
        self.asked.append((from_us, to_us))
        return
        yield

    async def reads(self, slots: Any, ends_us: Any) -> list[NDArray[Any]]:
        return [np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)]

    async def events(self, slots: NDArray[np.int32], from_us: int, to_us: int) -> list[NDArray[Any]]:
        mine = [e for e in self.events_ if from_us <= e[1] < to_us and e[0] in slots]
        return [np.array([e[i] for e in mine], np.int64) for i in range(4)] + [np.zeros(len(mine), np.int64)]

    async def loads(self, transformer: int, from_us: int, to_us: int) -> list[NDArray[Any]]:
        ends = np.arange(from_us // (900 * US) + 1, to_us // (900 * US) + 1) * 900 * US
        wh = np.full(len(ends), 30_000)
        return [ends, wh, np.zeros_like(wh), np.ones_like(wh), np.ones_like(wh)]


def witness(stored: Stored, now_us: int) -> Witness:
    return Witness(stored, stored, town, RuleProfile(), ReplayClock(now_us), "v")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "asset_id", "slots"),
    [
        ("feeder", 0, [0, 1, 2]),
        ("transformer", 1, [2]),
        ("concentrator", 0, [0, 1, 2]),
        ("meter", 5, [5]),
    ],
)
def test_the_members_are_those_in_service(kind: str, asset_id: int, slots: list[int]) -> None:
    assert members_of(town(), kind, asset_id, T0).tolist() == slots


def test_a_single_meter_is_looked_at_among_its_neighbours() -> None:
    tree = town()
    assert surroundings(tree, alarm("OUTAGE", "meter", 2)) == ("transformer", 1)
    assert surroundings(tree, alarm("COMM_LOSS", "meter", 2)) == ("concentrator", 0)
    assert surroundings(tree, alarm("OUTAGE", "meter", 5)) == ("meter", 5)
    assert surroundings(tree, alarm("OUTAGE", "feeder", 0)) == ("feeder", 0)


def test_every_limit_of_an_alarm_is_found_in_the_profile_by_the_name_its_evidence_has() -> None:
    profile = RuleProfile()
    assert limits_of(alarm("OUTAGE", "meter"), profile)["sustained_s"] == profile.outage.sustained_s
    assert limits_of(alarm("COMM_LOSS", "concentrator"), profile)["lost_share"] == profile.silence.lost_share
    overload = limits_of(alarm("OVERLOAD"), profile)
    assert (overload["raise_pu"], overload["hold_s"], overload["coverage_min"]) == (1.0, 7200, 0.9)


def test_the_version_of_the_rules_changes_with_any_of_their_numbers() -> None:
    versions = {rules_version(profile, "1") for profile in (RuleProfile(), EN50160, FAST_OVERLOAD)}
    assert len(versions) == 3
    assert rules_version(RuleProfile(), "1") == rules_version(RuleProfile(), "1") != rules_version(RuleProfile(), "2")
    renamed = replace(EN50160, name="default")
    assert rules_version(renamed, "1") != rules_version(RuleProfile(), "1")


async def test_what_is_looked_at_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMBERS_MAX", 2)
    off = [(slot, T0 + slot, T0 + 10, int(EventCode.POWER_FAIL)) for slot in range(3)]
    stored = Stored(off)
    seen = (await witness(stored, T0 + 40 * 24 * HOUR_US).see(alarm(kind="feeder"))).meters
    assert seen is not None
    assert (seen.members, seen.looked_at, seen.off) == (4, 2, 2)
    assert [(one.meter, one.said, one.said_by, one.said_arrived_us) for one in seen.shown] == [
        ("M0", "OFF", "EVENT", T0 + 10),
        ("M1", "OFF", "EVENT", T0 + 10),
    ]
    assert len(stored.asked) == 2
    assert all(to_us - from_us <= module.LOOK_BACK_US + module.AFTER_US + HOUR_US for from_us, to_us in stored.asked)


async def test_the_end_of_a_long_outage_is_looked_at_too() -> None:
    over = T0 + 30 * 24 * HOUR_US
    events = [(0, T0, T0, int(EventCode.POWER_FAIL)), (0, over, over + 5, int(EventCode.POWER_RESTORED))]
    seen = (await witness(Stored(events), over + HOUR_US).see(alarm(cleared_us=over + 60 * US))).meters
    assert seen is not None
    first = seen.shown[0]
    assert (first.meter, first.back_us, first.back_by, first.back_arrived_us) == ("M0", over, "EVENT", over + 5)


async def test_of_a_long_overload_the_first_and_the_last_windows_are_shown() -> None:
    found = await witness(Stored(), T0 + 20 * 24 * HOUR_US).see(alarm("OVERLOAD"))
    assert found.meters is not None
    assert (found.meters.members, found.meters.off, found.meters.silent) == (2, 0, 0)
    assert len(found.load) == WINDOWS_SHOWN
    assert found.load[0].end_us == T0 - HOUR_US + 900 * US
    assert found.load[-1].end_us == T0 + 20 * 24 * HOUR_US
    assert (found.load[0].b, found.load[0].level) == (1.2, "OVERLOAD")


async def test_what_the_routes_told_is_shown_oldest_first() -> None:
    asked = []

    class Outbox:
        async def receipts(self, *, alarm_id: str, limit: int) -> list[Receipt]:
            asked.append((alarm_id, limit))
            new = Receipt(
                "X-1", 7, Change.NEW, True, 1, "pager", "outages", "grid", 2, DeliveryState.SENT, 3, T0, T0, T0, T0,
                None, T0 + 5, "refused once",
            )  # fmt: skip
            waits = replace(new, seq=8, state=DeliveryState.WAITING, ended_us=None)
            return [waits, new]  # newest first, as the outbox has them

    found = await deliveries_of(Outbox())("X-1")  # type: ignore[arg-type]
    assert asked == [("X-1", module.DELIVERIES_MAX)]
    assert found == [
        Delivery(7, "NEW", "grid", "outages", "pager", 2, "SENT", T0, T0 + 5, 3, "refused once"),
        Delivery(8, "NEW", "grid", "outages", "pager", 2, "WAITING", T0, 0, 3, "refused once"),
    ]


async def test_a_transformer_without_a_rating_and_a_head_end_have_nothing_to_show() -> None:
    assert (await witness(Stored(), T0 + HOUR_US).see(alarm("OVERLOAD", asset_id=1))).load == ()
    assert (await witness(Stored(), T0 + HOUR_US).see(alarm("COMM_LOSS", "head_end"))).meters is None


async def test_somebody_with_districts_sees_none_of_the_meters_of_others_around_an_alarm() -> None:
    """A concentrator, or a feeder, may reach into other districts than the alarm's own."""

    def two_districts() -> Topology:
        return replace(town(), transformer_district=["N", "S"])

    stored = Stored([(slot, T0 + slot, T0 + 10, int(EventCode.POWER_FAIL)) for slot in range(3)])
    there = Witness(stored, stored, two_districts, RuleProfile(), ReplayClock(T0 + HOUR_US), "v")  # type: ignore[arg-type]
    for about in (alarm("COMM_LOSS", "meter"), alarm(kind="feeder")):
        for districts, meters in (((), {"M0", "M1", "M2"}), (("N",), {"M0", "M1"}), (("S",), {"M2"}), (("X",), set())):
            seen = (await there.see(about, districts)).meters
            assert seen is not None
            assert {one.meter for one in seen.shown} & {"M0", "M1", "M2"} == meters, (about.rule, districts)
            assert seen.members >= len(seen.shown)
