"""The storm without wire and database: the figures come from the truth, and what is taken away shows in them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from loadtest.record import Told
from loadtest.scenarios import SCENARIOS
from loadtest.seeds import together
from meterwatch.devtools import storm_score
from meterwatch.devtools.storm_score import fails, play
from rules.engine import Engine

KNOBS = replace(
    SCENARIOS["storm"][2], intervals=8, speed=1, flush_s=2, flapping_meters=9, flapping_together=3, transformers_out=4
)


def test_a_small_storm_is_told_without_a_false_root_and_the_same_again() -> None:
    first = play(4_000, 1, KNOBS)
    assert (first.score["recall"], first.score["false_roots"]) == (1.0, 0)
    assert first.score["time_to_root_s_p50"] <= 90
    assert play(4_000, 1, KNOBS).score == first.score
    figures = together([first, first])
    assert (figures["seeds"], figures["faults"]) == (2, 2 * first.score["faults"])
    assert fails(figures) == []


def test_work_the_rules_are_not_told_of_is_a_false_root_in_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "replan", lambda self, works: None)
    record = play(4_000, 1, KNOBS)
    assert record.score["false_roots"] == KNOBS.planned_transformers
    assert any("false_roots" in text for text in fails(together([record])))


def test_what_is_sent_twice_or_asked_for_is_heard_once() -> None:
    plan = storm_score.Plan(storm_score.World(1_000, 1, 1), replace(KNOBS, streams=1), storm_score.START_US)
    heard = storm_score.Heard(plan)
    reads = [(one.meter, one.end_us) for one in storm_score.arrivals(plan) if one.events is None][:3]
    assert sum(len(heard.reads(*one).slot) for one in reads) > 0
    assert sum(len(heard.reads(*one).slot) for one in reads) == 0


def test_the_same_events_in_any_order_leave_the_same_outages() -> None:
    live = play(4_000, 3, KNOBS)
    plan = storm_score.Plan(
        storm_score.World(4_000, KNOBS.streams, 3, meters_per_transformer=KNOBS.meters_per_transformer),
        KNOBS,
        storm_score.START_US,
    )
    engine, heard = Engine(storm_score.topology_of(plan.world)), storm_score.Heard(plan)
    engine.replan(storm_score.works_of(plan))
    book, audience = storm_score.Book([], storm_score.topology_of(plan.world)), storm_score.Audience()
    now_us = plan.end_us(KNOBS.intervals) + 120 * storm_score.US
    everything = list(storm_score.arrivals(plan))
    random.Random(3).shuffle(everything)
    for one in everything:
        if one.events is not None:
            engine.observe_events(heard.events(one.events), now_us)
        else:
            engine.observe_reads(heard.reads(one.meter, one.end_us), now_us)
    for wanted in engine.wanted():
        engine.given(wanted, *heard.answer(wanted))
    for draft in book.reconcile(engine.evaluate(now_us), now_us):
        audience.take(draft.alarm)
    assert outages(audience.told()) == outages(live.told)
    assert len(outages(live.told)) >= 10


def outages(told: list[Told]) -> set[tuple[object, ...]]:
    """Those that stand."""
    return {
        (one.asset_kind, one.asset, one.onset_us, one.raised_us, one.cleared_us)
        for one in told
        if one.type == "OUTAGE" and one.paged and not one.retracted
    }
