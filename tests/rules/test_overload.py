"""Laws of the overload rule: a scalar ladder as oracle, and what order, splits, corrections, gaps may not change."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overload_world import (
    FOREVER,
    FULL_WH,
    QUICK,
    START,
    START_US,
    US,
    WINDOW_US,
    Row,
    Spoken,
    change,
    load_runs,
    now_after,
    oracle,
    rows_of,
    run,
    spoken,
    tree,
)

from meterwatch.episodes import Episode, Severity, Verdict
from meterwatch.errors import ConfigError
from meterwatch.quality import ORIGIN_SHIFT, Origin
from rules.ladder import Level
from rules.overload import Overload, OverloadProfile


@settings(max_examples=300)
@given(loads=load_runs, profile=st.sampled_from([OverloadProfile(), OverloadProfile.fast(), QUICK]))
def test_the_ladder_equals_the_scalar_one(loads: list[float | None], profile: OverloadProfile) -> None:
    assert spoken(run(loads, profile)) == oracle(loads, profile)


@settings(max_examples=100)
@given(loads=load_runs, seed=st.integers(0, 2**32), late=st.booleans())
def test_order_splitting_and_corrections_do_not_change_the_verdict(
    loads: list[float | None], seed: int, late: bool
) -> None:
    rng = np.random.default_rng(seed)
    truth = rows_of(loads)
    noisy: list[Row] = list(truth)
    for slot, end_us, length, _, _ in truth:
        if rng.random() < 0.3:  # an older version came first, or last, and goes away
            wrong = int(rng.integers(0, 3 * FULL_WH))
            noisy += [(slot, end_us, length, wrong, 1), (slot, end_us, length, wrong, -1)]
    if late:
        noisy = [noisy[i] for i in rng.permutation(len(noisy))]
    else:
        noisy.sort(key=lambda row: row[1])
    now, rule = now_after(len(loads)), Overload(tree(), QUICK)
    last: tuple[Episode, ...] = ()
    while noisy:
        cut = int(rng.integers(1, 20))
        batch, noisy = noisy[:cut], noisy[cut:]
        rule.observe(change(batch), now)
        for verdict in rule.judge(now):
            last = verdict.episodes
    assert last == run(loads, QUICK)


@settings(max_examples=50)
@given(each=st.lists(load_runs, min_size=2, max_size=4), seed=st.integers(0, 2**32))
def test_transformers_judged_together_say_what_each_says_alone(each: list[list[float | None]], seed: int) -> None:
    rng, now = np.random.default_rng(seed), now_after(180)
    rule = Overload(tree(len(each), len(each)), QUICK)
    rows = [row for slot, loads in enumerate(each) for row in rows_of(loads, slot)]
    last: dict[int, list[Spoken]] = {}
    for part in np.array_split(rng.permutation(len(rows)), 4):
        rule.observe(change([rows[i] for i in part]), now)
        last |= {verdict.asset_id: spoken(verdict.episodes) for verdict in rule.judge(now)}
    for transformer, loads in enumerate(each):
        assert last.get(transformer, []) == oracle(loads, QUICK)


@settings(max_examples=50)
@given(runs=st.lists(load_runs, min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_a_restart_says_what_the_live_rule_said(runs: list[list[float | None]], seed: int) -> None:
    loads = [b for part in runs for b in part]
    live, now = Overload(tree(), QUICK), START_US
    for i, b in enumerate(loads):
        now = now_after(i + 1)
        if b is not None:
            live.observe(change([rows_of(loads[: i + 1])[-1]]), now)
            said = live.judge(now)
    stored = rows_of(loads)
    if not stored:
        return
    fresh = Overload(tree(), QUICK)
    for first in range(0, len(stored), 50):
        fresh.restore(fresh.members.cells(change(stored[first : first + 50]))[0])
    assert [verdict for verdict in fresh.judge(now) if verdict.episodes] == [v for v in said if v.episodes]


def test_an_overload_of_hours_is_one_alarm_that_says_so() -> None:
    (episode,) = run([0.5] * 4 + [0.9] * 4 + [1.2] * 8 + [1.31] + [1.23])
    assert spoken((episode,)) == [(4, 16, None, "OVERLOAD")]
    assert episode.severity is Severity.HIGH
    assert episode.summary == (
        "Transformer T0 loaded 1.23 x its 100 kVA since 2024-10-04 01:00 UTC (peak 1.31), OVERLOAD for 3 h 30 min"
    )
    assert episode.evidence["windows"][-1] == {"end_us": now_after(18), "b": 1.23, "coverage": 1.0}
    assert episode.evidence["members"] == 1


def test_heavy_load_alone_is_no_alarm() -> None:
    assert run([0.99] * 100) == ()


def test_an_exact_load_of_one_is_not_overload() -> None:
    assert run([1.0] * 20) == ()
    assert spoken(run([1.0 + 1 / FULL_WH] * 8)) == [(0, 8, None, "OVERLOAD")]


def test_severity_steps_up_at_once_and_a_closed_episode_keeps_its_worst() -> None:
    (still,) = run([1.1] * 8 + [2.0])
    assert (still.level, still.severity) == ("EMERGENCY_3", Severity.CRITICAL)
    (over,) = run([1.1] * 8 + [2.0] + [0.1] * 2)
    assert (over.level, over.cleared_us) == ("EMERGENCY_3", now_after(11))
    assert over.summary.startswith("Transformer T0 was loaded up to 2.00 x its 100 kVA from ")


def test_a_second_episode_begins_after_the_first_though_its_hold_began_before() -> None:
    """EMERGENCY_2 comes and goes within the two hours that OVERLOAD is held."""
    first, second = run([1.1, 1.6, 1.6, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1])
    assert spoken((first, second)) == [(1, 2, 5, "EMERGENCY_2"), (5, 8, None, "OVERLOAD")]


def test_a_short_gap_neither_extends_nor_resets_a_hold() -> None:
    assert spoken(run([1.1] * 7 + [None] + [1.1])) == [(0, 9, None, "OVERLOAD")]
    assert run([1.1] * 7 + [None]) == ()


def test_a_long_gap_resets_a_hold_but_clears_nothing() -> None:
    assert run([1.1] * 7 + [None] * 2 + [1.1]) == ()
    assert spoken(run([1.1] * 8 + [None] * 40 + [1.1])) == [(0, 8, None, "OVERLOAD")]


def test_a_late_read_amends_and_another_retracts() -> None:
    loads: list[float | None] = [1.1] * 3 + [None] * 2 + [1.1] * 7 + [0.2] * 20
    rule, now = Overload(tree()), now_after(len(loads))
    rule.observe(change(rows_of(loads)), now)
    assert rule.judge(now)[0].episodes == ()
    late: list[Row] = [(0, now_after(i), 900, round(1.1 * FULL_WH), 1) for i in (4, 5)]
    rule.observe(change(late), now)
    assert spoken(rule.judge(now)[0].episodes) == [(0, 8, 14, "OVERLOAD")]
    rule.observe(change([(*late[1][:4], -1), (*late[1][:3], 0, 1)]), now)
    (verdict,) = rule.judge(now)
    assert verdict.episodes == ()
    assert verdict.asset_id == 0


@settings(max_examples=100)
@given(hours=st.lists(st.integers(0, 10**7), min_size=2, max_size=12), export=st.booleans())
def test_parts_of_a_long_read_add_up_to_it(hours: list[int], export: bool) -> None:
    rule = Overload(tree())
    rows: list[Row] = [(0, START_US + (i + 1) * 3600 * US, 3600, wh, 1) for i, wh in enumerate(hours)]
    rule.observe(change(rows, export_wh=5_000_003 if export else 0), FOREVER)
    net = sum(hours) - (5_000_003 * len(hours) if export else 0)
    assert int(rule._wh.sum()) == net
    assert int(rule._covered.sum()) == 4000 * 3600 * len(hours)


def test_meters_of_any_interval_give_the_same_load() -> None:
    def rows(length_s: int, wh_per_minute: int) -> list[Row]:
        n = 4 * 3600 // length_s
        return [
            (slot, START_US + (i + 1) * length_s * US, length_s, wh_per_minute * length_s // 60, 1)
            for slot in range(4)
            for i in range(n)
        ]

    seen = []
    for lengths in [(900,) * 4, (3600, 900, 300, 600), (60, 1800, 600, 3600)]:
        rule = Overload(tree(meters=4))
        mixed = [row for slot, length in enumerate(lengths) for row in rows(length, 400) if row[0] == slot]
        rule.observe(change(mixed), now_after(16))
        seen.append([tuple(a[0] for a in rule.load(START + i)) for i in range(16)])
        assert spoken(rule.judge(now_after(16))[0].episodes) == []
    assert seen[0] == seen[1] == seen[2] == [(24_000 / FULL_WH, 1.0)] * 16


SIDE_BY_SIDE_S = (300, 900, 1800, 3600)


@settings(max_examples=100)
@given(
    wh=st.lists(
        st.lists(st.one_of(st.none(), st.integers(0, 30_000)), min_size=48, max_size=48), min_size=4, max_size=4
    ),
    seed=st.integers(0, 2**32),
)
def test_meters_of_four_interval_lengths_on_one_transformer_add_up_in_quarter_hours(
    wh: list[list[int | None]], seed: int
) -> None:
    """The oracle goes through time minute by minute; a quarter-hour's load is what its minutes hold."""
    hours = 4
    tree_of_four = replace(tree(meters=4), contract_kw=np.array([3.0, 10.0, np.nan, 6.5], np.float32))
    weight = [3000, 10_000, 1000, 6500]
    rows: list[Row] = []
    energy, covered = np.zeros(hours * 60), np.zeros(hours * 60)
    for slot, length_s in enumerate(SIDE_BY_SIDE_S):
        minutes = length_s // 60
        for i, value in enumerate(wh[slot][: hours * 60 // minutes]):
            if value is not None:
                rows.append((slot, START_US + (i + 1) * length_s * US, length_s, value, 1))
                energy[i * minutes : (i + 1) * minutes] += value / minutes
                covered[i * minutes : (i + 1) * minutes] += weight[slot]
    rule = Overload(tree_of_four)
    now = now_after(hours * 4)
    rule.observe(change([(0, now, 900, 0, 1), (0, now, 900, 0, -1)]), now)
    for part in np.array_split(np.random.default_rng(seed).permutation(len(rows)), 3):
        rule.observe(change([rows[i] for i in part]), now)
    for window in range(hours * 4):
        here = slice(window * 15, (window + 1) * 15)
        load, coverage = rule.load(START + window)
        assert load[0] * FULL_WH == pytest.approx(energy[here].sum(), abs=len(SIDE_BY_SIDE_S))
        assert coverage[0] == pytest.approx(covered[here].sum() / (15 * sum(weight)))


def test_a_quarter_hour_waits_for_the_hourly_meter_and_is_judged_when_it_has_come() -> None:
    """The hourly meter has half of the contract power: without it coverage is 50 %, with it all four are judged."""
    rule = Overload(tree(meters=2), OverloadProfile.fast())
    hot = [(0, now_after(i + 1), 900, 20_000, 1) for i in range(8)]
    rule.observe(change(hot), now_after(8))
    assert [verdict.episodes for verdict in rule.judge(now_after(8))] == [()]
    assert rule.load(START)[1][0] == 0.5
    rule.observe(change([(1, now_after(4 * (i + 1)), 3600, 40_000, 1) for i in range(2)]), now_after(8))
    assert spoken(rule.judge(now_after(8))[0].episodes) == [(0, 2, None, "OVERLOAD")]


def test_a_window_below_the_coverage_limit_is_a_gap() -> None:
    def judged(silent: int) -> int:
        rule = Overload(tree(meters=20))
        rows = [row for slot in range(20 - silent) for row in rows_of([0.1] * 8, slot)]
        rule.observe(change(rows), now_after(8))
        return len(rule.judge(now_after(8))[0].episodes)

    assert (judged(2), judged(3)) == (1, 0)


def test_only_meters_in_service_are_expected() -> None:
    installed, retired = [0, now_after(4), 0], [FOREVER, FOREVER, now_after(2)]
    rule = Overload(tree(meters=3, installed_us=installed, retired_us=retired))
    rule.observe(change(rows_of([0.1] * 8)), now_after(8))
    shares = [float(rule.load(START + i)[1][0]) for i in range(8)]
    assert shares == [0.5] * 2 + [1.0] * 2 + [0.5] * 4


@pytest.mark.parametrize("origin", [Origin.ESTIMATED, Origin.SUBSTITUTED])
def test_an_estimate_never_raises_an_overload(origin: Origin) -> None:
    rule = Overload(tree())
    rule.observe(change(rows_of([1.5] * 12), quality=origin << ORIGIN_SHIFT), now_after(12))
    assert rule.judge(now_after(12)) == []


def test_missing_reactive_energy_is_assumed_from_the_power_factor() -> None:
    rule = Overload(tree())
    rule.observe(change(rows_of([0.95]), has_reactive=False), now_after(1))
    assert rule.load(START)[0][0] == pytest.approx(1.0, abs=1e-4)


def test_a_window_that_ends_after_now_waits_and_is_then_judged() -> None:
    rule = Overload(tree())
    rule.observe(change(rows_of([2.0])), now_after(1) - 1)
    assert rule.judge(now_after(1) - 1) == []
    assert len(rule.judge(now_after(1))[0].episodes) == 1
    assert rule.judge(now_after(1)) == []


def test_a_change_in_a_window_that_has_left_the_ring_is_noted_and_changes_no_verdict() -> None:
    rule = Overload(tree())
    rule.observe(change(rows_of([None] * 195 + [0.5])), now_after(196))
    rule.judge(now_after(196))
    rule.observe(change(rows_of([2.0, None, 1.0])), now_after(196))
    late = rule.past[0].late
    assert (late.waiting().tolist(), late.first.tolist(), late.last.tolist()) == ([0], [START], [START + 2])
    assert rule.judge(now_after(196)) == []
    with pytest.raises(KeyError, match="the windows of the ring"):
        rule.load(START)


@settings(max_examples=30)
@given(each=st.lists(st.tuples(load_runs, load_runs, load_runs), min_size=1, max_size=2), seed=st.integers(0, 2**32))
def test_what_began_and_ended_between_two_judgements_is_told_however_far_the_ring_has_gone(
    each: list[tuple[list[float | None], ...]], seed: int
) -> None:
    """A file is read faster than it is judged: days may pass between two judgements, and within one batch."""
    runs = [[b for part in parts for b in part] for parts in each]
    rule, now = Overload(tree(len(runs), len(runs)), QUICK), now_after(600)
    rows = sorted((row for slot, loads in enumerate(runs) for row in rows_of(loads, slot)), key=lambda row: row[1])
    split = np.random.default_rng(seed).integers(0, len(rows) + 1)
    for part in (rows[:split], rows[split:]):
        if part:
            rule.observe(change(part), now)
    assert not len(rule.past[0].late)
    said = {verdict.asset_id: verdict for verdict in rule.judge(now)}
    for transformer, loads in enumerate(runs):
        episodes = said[transformer].episodes if transformer in said else ()
        assert spoken(episodes) == oracle(loads, QUICK)
        if said.get(transformer) is not None:
            first = next((i for i, b in enumerate(loads) if b is not None), 0)
            assert said[transformer].from_us <= START_US + first * WINDOW_US + 1
    assert all(not verdict.episodes for verdict in rule.judge(now))


def test_an_episode_that_outlasts_the_ring_keeps_its_onset() -> None:
    rule, said = Overload(tree()), list[Verdict]()
    for i in range(500):
        rule.observe(change([(0, now_after(i + 1), 900, 27_500, 1)]), now_after(i + 1))
        said = rule.judge(now_after(i + 1))
    assert spoken(said[0].episodes) == [(0, 8, None, "OVERLOAD")]
    rule.observe(change([(0, now_after(1300), 900, 27_500, 1)]), now_after(1300))  # after a silence of days
    assert spoken(rule.judge(now_after(1300))[0].episodes) == [(0, 8, None, "OVERLOAD")]


def test_an_episode_over_before_the_ring_has_left_the_verdict() -> None:
    loads: list[float | None] = [2.0, 0.1, 0.1]
    rule = Overload(tree())
    rule.observe(change(rows_of(loads)), now_after(3))
    cleared_us = rule.judge(now_after(3))[0].episodes[0].cleared_us
    assert cleared_us is not None
    kept = []
    for i in range(185, 200):
        rule.observe(change([(0, now_after(i), 900, 0, 1)]), now_after(i))
        for verdict in rule.judge(now_after(i)):
            kept.append(bool(verdict.episodes))
            assert kept[-1] == (cleared_us >= verdict.from_us)
    assert kept.index(False) == len(kept) - 1, "taken back once, then nothing more is said"


def test_of_a_calm_transformer_nothing_is_said_but_that_it_is_calm_again() -> None:
    rule, said = Overload(tree(), QUICK), []
    for i, b in enumerate([0.1, 0.1, 2.5, 2.5, 0.1, 0.1, 0.1]):
        rule.observe(change([rows_of([b] * (i + 1))[-1]]), now_after(i + 1))
        said.append([len(verdict.episodes) for verdict in rule.judge(now_after(i + 1))])
    assert said[:3] == [[0], [], [1]], "the first verdict takes back what another life of the rule may have told"
    rule.observe(change([(0, now_after(i + 1), 900, round(b * FULL_WH), -1) for i, b in ((2, 2.5), (3, 2.5))]), 0)
    assert [verdict.episodes for verdict in rule.judge(now_after(7))] == [()]
    rule.observe(change(rows_of([0.1] * 8)[-1:]), now_after(8))
    assert rule.judge(now_after(8)) == []


def test_an_unrated_transformer_is_never_judged() -> None:
    unrated = replace(tree(), rated_kva=np.array([np.nan]))
    rule = Overload(unrated)
    rule.observe(change(rows_of([2.0] * 12)), now_after(12))
    assert rule.judge(now_after(12))[0].episodes == ()


def test_a_profile_that_contradicts_itself_lists_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        OverloadProfile(levels=(Level("A", 1.0, 0, 1.0, 0, Severity.LOW), Level("B", 0.9, 0, 0.5, 0, Severity.LOW)))
    assert len(caught.value.problems) == 3


def test_cost_of_a_batch_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    meters, transformers = 30_000, 300
    rule = Overload(tree(meters, transformers))
    slots = np.arange(meters)
    times = []
    for i in range(12):
        table = np.column_stack([slots, slots * 0 + now_after(i + 1), slots * 0 + 900, slots * 0 + 280, slots * 0 + 1])
        batch = change(table)  # type: ignore[arg-type]
        begin = time.perf_counter()
        rule.observe(batch, now_after(i + 1))
        mid = time.perf_counter()
        said = rule.judge(now_after(i + 1))
        times.append((mid - begin, time.perf_counter() - mid))
    observed, judged = np.median(times, axis=0) * 1000
    with capsys.disabled():
        print(f"\n{meters} reads, {transformers} transformers: observe {observed:.1f} ms, judge {judged:.1f} ms")
    assert [e.level for v in said for e in v.episodes] == ["OVERLOAD"] * transformers
