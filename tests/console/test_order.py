"""The order of the console is that of sorting a dict, whatever came in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.console.filters import KEYS, wanted
from meterwatch.console.order import TOP, Order
from meterwatch.console.rows import FINISHED, Row
from meterwatch.one_call import ONE_CALL
from meterwatch.v1 import alarms_pb2 as pb

IDS = ["A", "B", "C", "D", "E"]
ROW = Row(
    "A", "OUTAGE", "transformer", "T-1", "F-1", "North", pb.ALARM_STATE_UNACK_ACTIVE, pb.SEVERITY_HIGH, "SUSTAINED",
    1, 0, 1, "", "out", "", 0, False, "",
)  # fmt: skip


def row(alarm_id: str, **changes: Any) -> Row:
    return replace(ROW, alarm_id=alarm_id, **changes)


rows_ = st.lists(
    st.builds(
        row,
        st.sampled_from(IDS),
        version=st.integers(1, 6),
        state=st.integers(1, 6),
        severity=st.integers(1, 4),
        onset_us=st.integers(0, 3),
        parent_id=st.sampled_from(["", *IDS, "Z"]),
        shelved_until_us=st.sampled_from([0, 9]),
        district=st.sampled_from(["North", "South"]),
    ).filter(lambda one: one.parent_id != one.alarm_id),
    max_size=25,
)


def unique(rows: list[Row]) -> list[Row]:
    """One content for each version of an alarm, as the log has it."""
    known: dict[tuple[str, int], Row] = {}
    return [known.setdefault((one.alarm_id, one.version), one) for one in rows]


def plain(rows: list[Row], group: str, wants: Callable[[Row], bool] | None) -> list[str]:
    newest: dict[str, Row] = {}
    for one in rows:
        if one.alarm_id not in newest or one.version > newest[one.alarm_id].version:
            newest[one.alarm_id] = one
    there = {alarm_id: one for alarm_id, one in newest.items() if one.state not in FINISHED}
    roots = {one.parent_id for one in there.values()}
    mine = [one for one in there.values() if (one.parent_id if one.parent_id in there else TOP) == group]
    ordered = sorted(mine, key=lambda one: one.key(root=one.alarm_id in roots))
    return [one.alarm_id for one in ordered if wants is None or wants(one)]


def shown(order: Order) -> list[str]:
    return [order.row(i).alarm_id for i in range(order.rows)]


@given(rows_, st.sampled_from(["", "district=North", "severity=high T-1"]), st.sampled_from([TOP, "A", "B"]))
def test_any_order_and_repetition_gives_the_list_of_sorting_a_dict(rows: list[Row], line: str, group: str) -> None:
    rows = unique(rows)
    order, wants = Order(), wanted(line)
    order.show(group, wants)
    for n, one in enumerate(rows, 1):
        order.apply([one, *rows[: n // 2]])  # some of it again
        assert shown(order) == plain(rows[:n], group, wants)
    whole = Order.of(rows)
    for other in (TOP, *IDS):
        order.show(other, None)
        whole.show(other, None)
        assert shown(order) == shown(whole) == plain(rows, other, None)
        for i, alarm_id in enumerate(shown(order)):
            assert order.index(alarm_id) == i
            assert order.count(alarm_id) == sum(
                1 for one in IDS if (known := order.get(one)) is not None and known.parent_id == alarm_id
            )
    assert len(order) == sum(order.get(alarm_id) is not None for alarm_id in IDS)


@given(rows_, rows_)
def test_a_snapshot_and_what_comes_after_it_give_the_list_of_all_of_it(first: list[Row], then: list[Row]) -> None:
    rows = unique([*first, *then])
    order = Order.of(rows[: len(first)])
    order.apply(rows[len(first) :])
    for group in (TOP, *IDS):
        order.show(group, None)
        assert shown(order) == plain(rows, group, None)


def test_frozen_lines_stay_as_they_were() -> None:
    order = Order()
    order.apply([row("A"), row("B", parent_id="A"), row("C", onset_us=5)])
    lines = order.frozen()
    order.apply([row("C", version=2, severity=pb.SEVERITY_LOW), row("A", version=2, state=pb.ALARM_STATE_NORMAL)])
    assert [lines.row(i) for i in range(lines.rows)] == [row("A"), row("C", onset_us=5)]
    assert (lines.index("C"), lines.index("B"), lines.count("A"), lines.count("C")) == (1, None, 1, 0)


def test_the_gravest_unacknowledged_root_is_on_top_and_what_is_shelved_below() -> None:
    order = Order()
    order.apply(
        [
            row("newer", onset_us=9),
            row("root", onset_us=1),
            row("folded", parent_id="root", severity=pb.SEVERITY_CRITICAL),
            row("taken", state=pb.ALARM_STATE_ACK_ACTIVE, onset_us=99),
            row("shelved", severity=pb.SEVERITY_CRITICAL, shelved_until_us=5),
            row("grave", severity=pb.SEVERITY_CRITICAL),
        ]
    )
    assert shown(order) == ["grave", "root", "newer", "taken", "shelved"]
    assert order.count("root") == 1


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("", True),
        ("district=north", True),
        ("district=South,North type=outage", True),
        ("district=South", False),
        ("feeder=F-1 asset=t-1 kind=transformer level=sustained", True),
        ("state=unack", True),
        ("state=ack,rtn", False),
        ("severity=high", True),
        ("severity=critical", False),
        ("shelved=no", True),
        ("shelved=only", False),
        ("shelved=yes", True),
        ("assigned=Kim", False),
        ("label.network=lv", False),
        ("nothing", False),
        ('"OU" T-1', True),
    ],
)
def test_a_filter_line_lets_through_what_it_says(line: str, passes: bool) -> None:
    test = wanted(line)
    assert (test is None or test(row("A"))) is passes


@pytest.mark.parametrize("line", ["colour=red", "severity=", "severity=huge", "state=off", "shelved=maybe", '"open'])
def test_a_filter_line_that_means_nothing_says_what_is_wrong(line: str) -> None:
    with pytest.raises(ValueError, match=r"arrived|is no filter|missing"):
        wanted(line)


def test_every_filter_is_tried_here() -> None:
    assert set(KEYS) == {
        "type",
        "district",
        "feeder",
        "asset",
        "kind",
        "level",
        "assigned",
        "state",
        "severity",
        "shelved",
        "label.NAME",
    }


@given(rows_, st.sampled_from([TOP, "A"]), st.booleans())
def test_who_stands_aside_comes_last_and_the_rest_stays_in_its_order(rows: list[Row], group: str, before: bool) -> None:
    rows = unique(rows)

    def aside(one: Row) -> bool:
        return one.district == "South"

    order = Order.of(rows, aside) if before else Order.of(rows)
    order.show(group, None)
    fair = plain(rows, group, None)
    if not before:
        assert shown(order) == fair
        order.put_aside(aside)
    lines = [order.row(i) for i in range(order.rows)]
    overlaid = [bool(one.shelved_until_us) for one in lines]
    assert overlaid == sorted(overlaid)
    for part in (False, True):
        mine = [aside(one) for one in lines if bool(one.shelved_until_us) is part]
        assert mine == sorted(mine)
    for south in (False, True):
        assert [one.alarm_id for one in lines if aside(one) is south] == [
            one
            for one in fair
            if aside(order.get(one)) is south  # type: ignore[arg-type]
        ]
    order.apply(rows)
    assert [order.row(i) for i in range(order.rows)] == lines


kin = st.lists(
    st.builds(
        row,
        st.sampled_from(IDS),
        version=st.integers(1, 6),
        state=st.sampled_from([pb.ALARM_STATE_UNACK_ACTIVE, pb.ALARM_STATE_UNACK_ACTIVE, *range(2, 7)]),
        severity=st.integers(1, 4),
        onset_us=st.integers(0, 3),
        parent_id=st.sampled_from(["", "", "", "A", "Z"]),
        shelved_until_us=st.sampled_from([0, 0, 9]),
    ).filter(lambda one: one.parent_id != one.alarm_id),
    max_size=25,
)
OF = {
    "A": ("OVERLOAD", "T-1"), "B": ("HOT_SPOT", "T-1"), "C": ("FORECAST_OVERLOAD", "T-1"), "D": ("HOT_SPOT", "T-2"),
    "E": ("OUTAGE", "T-1"),
}  # fmt: skip


def called(rows: list[Row], group: str) -> list[tuple[str, bool]]:
    """Of `plain`, with those that stand under another behind it; whether each does."""
    newest: dict[str, Row] = {}
    for one in rows:
        if one.alarm_id not in newest or one.version > newest[one.alarm_id].version:
            newest[one.alarm_id] = one
    there = {alarm_id: one for alarm_id, one in newest.items() if one.state not in FINISHED}
    leader_of = {
        one.alarm_id: min(
            (other for other in there.values() if other.asset == one.asset and other.calls and other.type != "OUTAGE"),
            key=lambda other: (-other.severity, other.alarm_id),  # the ids are in the order of the types
        ).alarm_id
        for one in there.values()
        if one.calls and one.type != "OUTAGE"
    }
    found: list[tuple[str, bool]] = []
    roots = {one.parent_id for one in there.values()} - leader_of.keys()
    mine = [one for one in there.values() if (one.parent_id if one.parent_id in there else TOP) == group]
    for one in sorted(mine, key=lambda one: one.key(root=one.alarm_id in roots)):
        if leader_of.get(one.alarm_id, one.alarm_id) == one.alarm_id:
            found.append((one.alarm_id, False))
            found += [(other, True) for other in sorted(leader_of) if leader_of[other] == one.alarm_id != other]
    return found


@given(kin, st.sampled_from([TOP, "A"]))
def test_alarms_of_one_call_stand_behind_the_one_that_leads(rows: list[Row], group: str) -> None:
    rows = unique([replace(one, type=OF[one.alarm_id][0], asset=OF[one.alarm_id][1]) for one in rows])
    order = Order(one_call=ONE_CALL)
    order.show(group, None)
    for n, one in enumerate(rows, 1):
        order.apply([one, *rows[: n // 2]])
        expected = called(rows[:n], group)
        assert [(order.row(i).alarm_id, order.stands_under(i)) for i in range(order.rows)] == expected
        assert [order.index(alarm_id) for alarm_id, _ in expected] == list(range(len(expected)))
        frozen = order.frozen()
        assert [frozen.stands_under(i) for i in range(frozen.rows)] == [under for _, under in expected]
    later = Order.of(rows)
    later.show(group, None)
    later.put_aside(lambda _: False, ONE_CALL)
    assert shown(later) == shown(order)


def test_what_is_for_planning_stands_below_what_calls_and_above_what_is_shelved() -> None:
    order = Order(one_call=ONE_CALL)
    order.apply(
        [
            row("A", severity=pb.SEVERITY_LOW),
            row("B", severity=pb.SEVERITY_CRITICAL, type="FORECAST_OVERLOAD", for_planning=True),
            row("C", severity=pb.SEVERITY_HIGH, type="OVERLOAD"),
            row("D", severity=pb.SEVERITY_CRITICAL, shelved_until_us=9),
        ]
    )
    assert [order.row(i).alarm_id for i in range(order.rows)] == ["C", "A", "B", "D"]
    assert not any(order.stands_under(i) for i in range(order.rows))
