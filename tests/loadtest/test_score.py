"""The score of a run: pairs beside a matcher that tries every way, laws, and each reason to call a page false."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.match import QUIET, ancestors, match, overlaps, tolerance_us
from loadtest.record import Fault, Record, Told
from loadtest.score import percentile, score

MINUTE = 60_000_000
TREE = {"m1": "t1", "m2": "t2", "t1": "f1", "t2": "f1", "t3": "f2", "f1": "s1", "f2": "s1"}
KIND_OF = {"m": "meter", "t": "transformer", "f": "feeder", "s": "substation", "c": "concentrator"}


def record(faults: list[Fault], told: list[Told], **inputs: Any) -> Record:
    return Record("storm", inputs, 1, {}, {}, "abc", "2026-01-05T00:00:00Z", faults=faults, told=told, tree=TREE)


def fault(asset: str, onset: int, end: int | None, kind: str = "OUTAGE", **more: Any) -> Fault:
    """Times in minutes."""
    return Fault(kind, KIND_OF[asset[0]], asset, onset * MINUTE, None if end is None else end * MINUTE, 10, **more)


def alarm(asset: str, onset: int, cleared: int | None, type: str = "OUTAGE", **more: Any) -> Told:
    """Times in minutes; recorded one minute after the onset."""
    cleared_us = None if cleared is None else cleared * MINUTE
    recorded = more.pop("recorded", onset + 1) * MINUTE
    given = {"alarm_id": f"{type}-{asset}-{onset}", "severity": "HIGH", "received_s": 1.0, "paged": True} | more
    return Told(
        type=type, asset_kind=KIND_OF[asset[0]], asset=asset, onset_us=onset * MINUTE, raised_us=onset * MINUTE,
        cleared_us=cleared_us, recorded_us=recorded, **given,
    )  # fmt: skip


minutes = st.integers(0, 90)
spans = st.tuples(minutes, st.none() | st.integers(0, 60)).map(lambda s: (s[0], None if s[1] is None else s[0] + s[1]))
assets = st.sampled_from(["t1", "t2", "f1"])
faults_of = st.builds(
    lambda asset, span, kind: fault(asset, *span, kind),
    assets, spans, st.sampled_from(["OUTAGE", "OUTAGE", "OVERLOAD", "MOMENTARY", "PLANNED", "NOISE"]),
)  # fmt: skip
alarms_of = st.builds(
    lambda asset, span, type, paged, retracted: alarm(asset, *span, type, paged=paged, retracted=retracted),
    assets, spans, st.sampled_from(["OUTAGE", "OUTAGE", "OVERLOAD"]),
    st.sampled_from([True, True, True, False]), st.sampled_from([False, False, False, True]),
)  # fmt: skip
cases = st.tuples(st.lists(faults_of, max_size=5), st.lists(alarms_of, max_size=5))


def brute_force(faults: list[Fault], told: list[Told]) -> tuple[int, int]:
    """(pairs, sum of onset errors) of the best of all ways to pair, tried one by one."""
    tolerance = tolerance_us({})
    true = [one for one in faults if one.kind not in QUIET]
    best = (0, 0)
    places = list(range(len(told))) + [None] * len(true)
    for way in set(itertools.permutations(places, len(true))):
        pairs, error = 0, 0
        for one, place in zip(true, way, strict=True):
            if place is None:
                continue
            it = told[place]
            fits = (one.kind, one.asset_kind, one.asset) == (it.type, it.asset_kind, it.asset)
            if fits and it.paged and not it.retracted and overlaps(one, it, tolerance):
                pairs, error = pairs + 1, error + abs(one.onset_us - it.onset_us)
        best = min(best, (-pairs, error))
    return -best[0], best[1]


@given(st.lists(faults_of, max_size=4), st.lists(alarms_of, max_size=4))
def test_no_other_pairing_tells_more_faults_or_the_same_with_less_error(faults: list[Fault], told: list[Told]) -> None:
    found = match(record(faults, told))
    error = sum(abs(one.onset_us - it.onset_us) for one, it in found.pairs)
    assert (len(found.pairs), error) == brute_force(faults, told)


@given(st.lists(spans, min_size=1, max_size=4), st.lists(spans, min_size=1, max_size=4))
def test_overlapping_episodes_of_one_asset_are_paired_as_well_as_can_be(true: list[Any], told: list[Any]) -> None:
    faults, alarms = [fault("t1", *span) for span in true], [alarm("t1", *span) for span in told]
    found = match(record(faults, alarms))
    error = sum(abs(one.onset_us - it.onset_us) for one, it in found.pairs)
    assert (len(found.pairs), error) == brute_force(faults, alarms)


@given(cases)
def test_every_fault_is_paired_or_missed_and_every_page_is_paired_or_false(case: Any) -> None:
    faults, told = case
    found = match(record(faults, told))
    true = [one for one in faults if one.kind not in QUIET]
    assert sorted(map(repr, [one for one, _ in found.pairs] + found.missed)) == sorted(map(repr, true))
    assert sorted(map(repr, found.pages)) == sorted(repr(it) for it in told if it.paged)
    result = score(record(faults, told))
    assert len(result["missed"]) + result["found"] == len(true) == result["faults"]
    assert len(result["false"]) + result["found"] == result["pages"]
    for key in ("faults", "found", "pages"):
        assert sum(kind[key] for kind in result["by_kind"].values()) == result[key]


@given(cases, st.randoms(use_true_random=False))
def test_the_order_of_the_lists_does_not_matter(case: Any, shuffle: random.Random) -> None:
    faults, told = case
    told = [replace(it, alarm_id=str(n)) for n, it in enumerate(told)]
    before = score(record(faults, told, transformers=100, simulated_s=86_400))
    faults, told = list(faults), list(told)
    shuffle.shuffle(faults)
    shuffle.shuffle(told)
    assert score(record(faults, told, transformers=100, simulated_s=86_400)) == before


@given(cases, spans)
def test_an_extra_false_alarm_lowers_precision_and_nothing_else_that_is_good(case: Any, span: Any) -> None:
    faults, told = case
    before = score(record(faults, told))
    after = score(record(faults, [*told, alarm("t3", *span)]))
    assert after["pages"] == before["pages"] + 1
    if before["found"]:
        assert after["precision"] < before["precision"]
    changed = {"pages", "precision", "pages_per_fault", "false_roots", "by_kind", "false"}
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}


@given(cases, st.integers(0, 4), spans)
def test_an_alarm_that_is_folded_or_history_changes_nothing(case: Any, at: int, span: Any) -> None:
    faults, told = case
    more = [*told[:at], alarm("t1", *span, paged=False), *told[at:]]
    assert score(record(faults, more)) == score(record(faults, told))


@given(st.lists(spans, min_size=1, max_size=6))
def test_a_perfect_run_scores_one(true: list[Any]) -> None:
    faults = [replace(fault("t1", *span), asset=f"t{n}") for n, span in enumerate(true)]
    told = [replace(alarm("t1", *span), asset=f"t{n}") for n, span in enumerate(true)]
    result = score(record(faults, told, transformers=1000, simulated_s=86_400))
    perfect = {"recall": 1.0, "precision": 1.0, "pages_per_fault": 1.0, "false_roots": 0, "time_to_root_s_p50": 60.0}
    assert {key: result[key] for key in perfect} == perfect
    assert (result["missed"], result["false"], result["cleared_late"], result["cleared_early"]) == ([], [], 0, 0)
    assert result["false_roots_per_10k_day"] == 0


@pytest.mark.parametrize("kind", sorted(QUIET))
def test_a_fault_that_must_page_nobody_makes_the_page_false(kind: str) -> None:
    result = score(record([fault("t1", 0, 30, kind)], [alarm("t1", 1, 30)]))
    assert (result["faults"], result["recall"], result["precision"], result["false_roots"]) == (0, None, 0.0, 1)
    assert result["false"][0]["because"] == f"the fault here is {kind}"
    below = score(record([fault("f1", 0, 30, kind)], [alarm("t1", 1, 30)]))
    assert below["false"][0]["because"] == f"there is only {kind} of feeder f1"


@pytest.mark.parametrize(
    ("told", "relation", "false_roots", "because"),
    [
        (alarm("f1", 1, 30), "ancestor", 1, "too high: only transformer t1 is out"),
        (alarm("s1", 1, 30), "ancestor", 1, "too high: only transformer t1 is out"),
        (alarm("m1", 1, 30), "descendant", 0, "not the root: transformer t1 is out"),
        (alarm("m2", 1, 30), "", 1, "no fault here at that time"),
        (alarm("t1", 200, 230), "", 1, "no fault here at that time"),
        (alarm("t1", 1, 30, "OVERLOAD"), "", 0, "the fault here is OUTAGE"),
        (alarm("m1", 1, 30, retracted=True), "descendant", 0, "paged and later retracted; not the root"),
        (alarm("t1", 1, 30, retracted=True), "", 0, "paged and later retracted; one more alarm of the fault here"),
    ],
)  # fmt: skip
def test_a_page_elsewhere_is_no_root_and_says_why(told: Told, relation: str, false_roots: int, because: str) -> None:
    result = score(record([fault("t1", 0, 30)], [told]))
    assert (result["recall"], result["precision"], result["false_roots"]) == (0.0, 0.0, false_roots)
    assert (result["false"][0]["relation"], len(result["missed"])) == (relation, 1)
    assert result["false"][0]["because"].startswith(because)


def test_a_second_alarm_of_one_fault_is_false_but_no_false_root() -> None:
    result = score(record([fault("t1", 0, 60)], [alarm("t1", 0, 10), alarm("t1", 20, 60)]))
    assert (result["recall"], result["precision"], result["pages_per_fault"], result["false_roots"]) == (1, 0.5, 2, 0)
    assert result["false"][0]["alarm_id"] == "OUTAGE-t1-20"
    assert result["cleared_early"] == 1


def test_windows_may_miss_each_other_by_one_interval_and_no_more() -> None:
    for gap, recall in ((15, 1.0), (16, 0.0)):
        assert score(record([fault("t1", 0, 10)], [alarm("t1", 10 + gap, 60)]))["recall"] == recall
    wide = score(record([fault("t1", 0, 10)], [alarm("t1", 40, 60)], interval_s=1800))
    assert (wide["recall"], wide["tolerance_s"]) == (1.0, 1800.0)


def test_false_roots_are_per_ten_thousand_transformers_and_simulated_day_and_absent_without_them() -> None:
    told = [alarm("t2", 0, 5), alarm("t3", 0, 5)]
    assert score(record([], told, transformers=5_000, simulated_s=43_200))["false_roots_per_10k_day"] == 8.0
    assert "false_roots_per_10k_day" not in score(record([], told, transformers=5_000))
    assert "false_roots_per_10k_day" not in score(record([], told, simulated_s=43_200))


def test_a_single_meter_has_its_own_time_and_counts_as_a_false_root_of_its_own() -> None:
    faults, told = [fault("t1", 0, 30), fault("m2", 0, 30)], [alarm("t1", 0, 31), alarm("m2", 0, 31, recorded=6)]
    result = score(record(faults, [*told, alarm("m2", 100, 110), alarm("t3", 100, 110)]))
    assert (result["time_to_root_s_p95"], result["time_to_meter_s_p50"]) == (60.0, 360.0)
    assert (result["false_roots"], result["false_roots_meter"]) == (2, 1)


def test_time_to_root_is_of_outages_alone_from_onset_to_recorded() -> None:
    faults = [fault("t1", 0, 30), fault("t2", 0, 30), fault("t3", 0, 200, "OVERLOAD")]
    told = [
        alarm("t1", 0, 31, recorded=2),
        alarm("t2", 0, 40, recorded=4),
        alarm("t3", 0, 200, "OVERLOAD", recorded=120),
    ]
    result = score(record(faults, told))
    assert (result["time_to_root_s_p50"], result["time_to_root_s_p95"]) == (120.0, 240.0)
    assert result["by_kind"]["OVERLOAD"]["time_to_alarm_s_p50"] == 7200.0
    assert (result["clear_s_p50"], result["by_kind"]["OUTAGE"]["clear_s_p95"]) == (60.0, 600.0)


def test_an_alarm_that_stands_long_after_its_fault_is_late_unless_the_run_ended() -> None:
    faults = [fault("t1", 0, 30)]
    assert score(record(faults, [alarm("t1", 0, 46)]))["cleared_late"] == 1
    assert score(record(faults, [alarm("t1", 0, 45)]))["cleared_late"] == 0
    assert score(record(faults, [alarm("t1", 0, None)]))["cleared_late"] == 1
    assert score(record(faults, [alarm("t1", 0, None)], end_us=40 * MINUTE))["cleared_late"] == 0
    assert score(record([fault("t1", 0, None)], [alarm("t1", 0, None)]))["cleared_late"] == 0
    assert score(record([fault("t1", 0, None)], [alarm("t1", 0, 50)]))["cleared_early"] == 1


def test_heat_figures_are_there_only_with_their_inputs() -> None:
    plain = score(record([fault("t1", 0, 200, "OVERLOAD")], [alarm("t1", 0, 200, "OVERLOAD")]))
    assert not {"warned_in_time", "alarms_over_two_hour_rule"} & plain.keys()
    hot = [
        fault("t1", 0, 200, "OVERLOAD", hot_us=60 * MINUTE, two_hour_rule_us=120 * MINUTE),
        fault("t2", 0, 200, "OVERLOAD", hot_us=60 * MINUTE),
    ]
    told = [alarm("t1", 0, 200, "OVERLOAD", recorded=120), alarm("t2", 0, 200, "OVERLOAD", recorded=61)]
    result = score(record(hot, told, two_hour_rule_alarms=4))
    assert (result["warned_in_time"], result["alarms_in_book_over_two_hour_rule"]) == (0.5, 0.5)
    assert (result["warned_before_hot"], result["two_hour_rule_before_hot"], result["hot_faults"]) == (0, 0, 2)


def test_an_alarm_of_heat_or_a_forecast_warns_and_is_no_false_page() -> None:
    hot = [fault("t1", 0, 200, "OVERLOAD", hot_us=60 * MINUTE, two_hour_rule_us=120 * MINUTE)]
    for kind in ("HOT_SPOT", "FORECAST_OVERLOAD"):
        told = [alarm("t1", 0, 200, "OVERLOAD", recorded=130), alarm("t1", 0, 200, kind, recorded=20)]
        result = score(record(hot, told, two_hour_rule_alarms=1))
        assert (result["warned_in_time"], result["warned_before_hot"], result["lead_min_p50"]) == (1, 1, 40)
        assert (result["alarms_in_book_over_two_hour_rule"], result["false"], result["recall"]) == (2, [], 1)
        called = [replace(told[0], escalations=1), replace(told[1], calls=2, retracted=True)]
        result = score(record(hot, called, two_hour_rule_alarms=4))
        assert (result["alarms_over_two_hour_rule"], result["calls_over_two_hour_rule"]) == (0.75, 0.5)
        assert result["alarms_in_book_over_two_hour_rule"] == 0.25
        assert (result["calls"], result["escalations"], result["alarms_of_load"]) == (2, 1, 1)
        alone = score(record([], told[1:]))
        assert alone["precision"] == 0  # without an overload it is false


def test_what_is_for_planning_is_in_the_book_and_neither_warns_nor_pages() -> None:
    hot = [fault("t1", 0, 200, "OVERLOAD", hot_us=60 * MINUTE, two_hour_rule_us=120 * MINUTE)]
    over = alarm("t1", 0, 200, "OVERLOAD", recorded=50, calls=1)
    early = alarm("t1", 0, 200, "FORECAST_OVERLOAD", recorded=20, paged=False, for_planning=True)
    elsewhere = alarm("t2", 0, 200, "FORECAST_OVERLOAD", recorded=20, paged=False, for_planning=True)
    result = score(record(hot, [over, early, elsewhere], two_hour_rule_alarms=2))
    assert (result["warned_in_time"], result["lead_min_p50"], result["pages"], result["false"]) == (1, 10, 1, [])
    assert (result["alarms_over_two_hour_rule"], result["alarms_in_book_over_two_hour_rule"]) == (0.5, 1.5)
    assert (result["alarms_of_forecast"], result["alarms_for_planning"]) == (2, 2)
    assert score(record(hot, [early, elsewhere]))["warned_in_time"] == 0


def test_an_empty_run_divides_by_nothing() -> None:
    result = score(record([], []))
    assert [result[key] for key in ("recall", "precision", "pages_per_fault", "time_to_root_s_p95")] == [None] * 4


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.sampled_from([50, 95, 99, 100]))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    it = percentile(values, percent)
    assert it in values
    assert sum(v <= it for v in values) >= len(values) * percent / 100 > sum(v < it for v in values)


def test_a_tree_that_closes_on_itself_ends() -> None:
    assert list(ancestors({"a": "b", "b": "c", "c": "a"}, "a")) == ["b", "c"]
    assert list(ancestors({"a": "a"}, "a")) == []


def test_a_storm_of_ten_thousand_faults_is_scored(tmp_path: Any) -> None:
    faults = [replace(fault("t1", n % 300, n % 300 + 40), asset=f"t{n}") for n in range(10_000)]
    told = [replace(alarm("t1", n % 300, n % 300 + 41), asset=f"t{n}") for n in range(0, 10_000, 2)]
    run = record(faults, told, transformers=10_000, simulated_s=86_400)
    run.score = score(run)
    assert (run.score["recall"], run.score["precision"], len(run.score["missed"])) == (0.5, 1.0, 5_000)
    run.write(tmp_path / "run.json")
    assert Record.read(tmp_path / "run.json") == run


def test_a_fault_that_need_not_be_told_counts_neither_told_nor_untold() -> None:
    short = fault("c1", 0, 42, "COMM_LOSS", expected=False)
    untold = score(record([short, fault("t1", 0, 30)], [alarm("t1", 0, 31)]))
    told = score(record([short, fault("t1", 0, 30)], [alarm("t1", 0, 31), alarm("c1", 30, 43, "COMM_LOSS")]))
    for result in (untold, told):
        assert (result["faults"], result["recall"], result["pages"], result["missed"]) == (1, 1.0, 1, [])
