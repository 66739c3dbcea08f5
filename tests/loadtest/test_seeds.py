"""Several seeds as one result: sums, medians and the worst, and their names in the report."""

from __future__ import annotations

from dataclasses import replace

import orjson

from loadtest.record import Record
from loadtest.scenarios import SCENARIOS
from loadtest.seeds import FIGURES, heat_together, median_and_worst, report_of, write
from meterwatch.devtools.storm_score import play

KNOBS = replace(SCENARIOS["storm"][2], intervals=6, speed=1, flush_s=2, transformers_out=2)


def test_the_report_of_seeds_has_the_figures_by_their_names(tmp_path):
    records = [play(2_000, seed, KNOBS) for seed in (1, 2)]
    records[1].problems = ["the generator was behind"]
    write(report_of(records), tmp_path / "report.json")
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    assert {"recall", "false_roots_per_10k_day", "time_to_root_s_p50", "time_to_root_s_p95", "pages_per_fault"} <= set(
        report["score"]
    )
    assert report["score"]["faults"] == sum(record.score["faults"] for record in records) > 0
    assert report["score"]["pages"] == sum(record.score["pages"] for record in records)
    assert set(report["over_seeds"]) == set(FIGURES)
    assert [one["seed"] for one in report["seeds"]] == [1, 2]
    assert all(set(FIGURES) <= set(one["score"]) for one in report["seeds"])
    assert report["problems"] == ["seed 2: the generator was behind"]


def test_the_worst_recall_is_the_lowest_and_the_worst_of_the_rest_the_highest():
    scores = [
        {"recall": 1.0, "false_roots": 0, "time_to_root_s_p50": None},
        {"recall": 0.9, "false_roots": 4, "time_to_root_s_p50": 61.0},
        {"recall": 0.95, "false_roots": 1, "time_to_root_s_p50": 70.0},
    ]
    assert median_and_worst(scores) == {
        "recall": {"median": 0.95, "worst": 0.9},
        "false_roots": {"median": 1, "worst": 4},
        "time_to_root_s_p50": {"median": 65.5, "worst": 70.0},
    }


def test_the_figures_of_heat_over_seeds_are_by_faults_and_by_alarms_of_the_two_hour_rule():
    def seed(hot, in_time, by_rule, over, calls):
        figures = {"hot_faults": hot, "warned_in_time": in_time, "alarms_over_two_hour_rule": over, "calls": calls}
        plain = {"faults": 0, "pages": 0, "found": 0, "false_roots": 0, "recall": None}
        inputs = {"transformers": 10, "simulated_s": 86_400, "two_hour_rule_alarms": by_rule}
        return Record("heatwave", inputs, 1, {}, {}, "", "", score=plain | figures)

    records = [seed(1, 0.0, 10, 0.5, 5), seed(3, 1.0, 30, 0.9, 27), seed(0, None, 0, None, 0)]
    report = report_of(records)
    found = report["score"]
    assert (found["warned_in_time"], found["alarms_over_two_hour_rule"], found["calls"]) == (0.75, 0.8, 32)
    assert (found["hot_faults"], found["two_hour_rule_alarms"]) == (4, 40)
    assert report["over_seeds"]["warned_in_time"] == {"median": 0.5, "worst": 0.0}
    assert report["over_seeds"]["alarms_over_two_hour_rule"] == {"median": 0.7, "worst": 0.9}
    assert heat_together(records[2:]) == {}
