"""Overload and soak at their tiny sizes, and what it takes for a failure. Its figures mean nothing here."""

from __future__ import annotations

import time
from xml.etree import ElementTree

import pytest

from alarm import book, hub
from loadtest import overload, pressure, soak, soak_page
from loadtest.driver import Driver
from loadtest.fleet import INTERVAL_S, US, Fleet
from loadtest.load import Load
from loadtest.null_server import NullServer
from loadtest.overload import Awaited, awaited_of, matched, problems_of
from loadtest.record import Told
from meterwatch import reads_queue
from storage import arrived, known

KEPT = {
    "sent_in_all": 10, "acked_in_all": 10, "stored_in_all": 10, "withheld": 5, "rss_mb_max": 100, "rss_mb_limit": 200,
    "health_asked": 3, "health_unanswered": 0, "health_not_serving": 0, "alarms": 2, "alarms_missing": 0,
    "stream_share_min": 0.9,
}  # fmt: skip


def test_twice_what_it_can_take_costs_no_read_no_alarm_and_no_answer_of_health(cluster):
    cluster.create_database("overload")  # of its own: all that is stored in it was acknowledged here
    try:
        result = overload.run(overload.TINY, 2.0, cluster.dsn_of("overload"), lambda _: None)
    finally:
        cluster.drop_database("overload")
    # how much the machine takes may change between the probe and the run: others use it
    assert [problem for problem in result["problems"] if "no overload" not in problem] == []
    figures = result["figures"]
    assert figures["alarms"] > 100
    assert figures["stored_in_all"] == figures["sent_in_all"] > overload.TINY.meters


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({"acked_in_all": 9}, "10 reads sent, 9 accepted"),
        ({"stored_in_all": 11}, "10 reads acknowledged, 11 stored"),
        ({"withheld": 0}, "no overload"),
        ({"rss_mb_max": 201}, "201 MB used"),
        ({"health_unanswered": 1}, "1 of 3 questions"),
        ({"health_asked": 0}, "0 of 0 questions"),
        ({"health_not_serving": 1}, "1 times"),
        ({"alarms_missing": 1}, "1 of 2 alarms"),
        ({"alarms": 0}, "0 of 0 alarms"),
        ({"stream_share_min": 0.4}, "40% of what another had"),
    ],
)
def test_each_thing_owed_and_not_done_fails_the_run(figures, says):
    assert problems_of(KEPT) == []
    (problem,) = [one for one in problems_of(KEPT | figures) if says in one]
    assert problem


def told(asset: str, onset_us: int, received_s: float, kind: str = "OVERLOAD") -> Told:
    return Told(
        alarm_id=f"{asset}-{onset_us}", type=kind, asset_kind="transformer", asset=asset, severity="HIGH",
        onset_us=onset_us, raised_us=onset_us, cleared_us=None, recorded_us=onset_us, received_s=received_s, paged=True,
    )  # fmt: skip


def test_an_alarm_is_matched_by_its_asset_and_its_interval_and_by_nothing_else():
    end_us = 10 * INTERVAL_S * US
    awaited = [Awaited("T1", end_us, 5.0), Awaited("T2", end_us, 5.0), Awaited("T3", end_us, 5.0)]
    alarms = [
        told("T1", end_us - INTERVAL_S * US, 5.5),
        told("T1", end_us - INTERVAL_S * US, 5.25),
        told("T2", end_us, 5.5),
        told("T3", end_us - INTERVAL_S * US, 5.5, "HOT_SPOT"),
    ]
    assert matched(alarms, awaited) == [250.0]


def test_a_run_that_is_over_withholds_what_has_not_gone_and_awaits_no_alarm_of_it():
    fleet, server = Fleet(meters=2_000, streams=2, start_us=1_767_571_200_000_000), NullServer()
    driver = Driver(server.address, fleet)
    try:
        load = Load(1, 50, batch_rows=500, overloaded=True)
        driver.prepare(load)
        began_s = time.monotonic()
        run = driver.run(reads_per_s=20_000, seconds=1.0)
    finally:
        driver.close()
        server.close()
    assert run.counts["sent"] + run.withheld == fleet.meters * load.intervals
    assert run.withheld > 0
    assert sum(run.stream_rows) == run.counts["sent"]
    awaited = awaited_of(fleet, load, run)
    assert len(awaited) == run.counts["batches"] == len(run.acked_s)
    assert all(began_s < one.sent_s for one in awaited)
    assert [(one.asset, one.end_us) for one in awaited[:2]] == [("T1", fleet.end_us(1)), ("T6", fleet.end_us(1))]


def test_the_memory_limit_counts_the_queue_that_the_service_has():
    assert pressure.QUEUE_ROWS_MAX == reads_queue.QUEUE_ROWS_MAX
    assert pressure.memory_limit_mb(100, 2, 1_000_000) == pytest.approx(100 + 200 + 64 + pressure.SPARE_MB)


def test_a_soak_loses_nothing_and_its_page_shows_what_it_held(cluster):
    cluster.create_database("soak")
    try:
        result = soak.run(soak.TINY, 6.0, cluster.dsn_of("soak"), lambda _: None)
    finally:
        cluster.drop_database("soak")
    assert result["problems"] == []
    figures = result["figures"]
    assert figures["churn_cancelled"] > 0
    assert figures["churn_replayed"] == figures["churn_resent"] - 1 > 0  # the first time as duplicates
    assert figures["stored_in_all"] == figures["sent_in_all"] > soak.TINY.meters
    shown = soak_page.page(result)
    assert "Soak: passed" in shown
    assert shown.count("<figure>") == 3
    assert "Nothing was recorded" not in shown
    drawn = ElementTree.fromstring(soak_page.picture(result))
    assert len(drawn.findall("{http://www.w3.org/2000/svg}svg")) == 3


def looks(grown_mb: float, more_descriptors: int, more_temp_files: int = 0) -> list[pressure.Look]:
    """Four hours: 100 MB more in the first ten minutes, then these."""
    return [
        pressure.Look(
            at_s=float(at_s),
            rss_mb=200 + min(at_s / 6, 100) + grown_mb * max(at_s - 600, 0) / 13_800,
            descriptors=50 + round(more_descriptors * at_s / 14_400),
            threads=10,
            connections=6,
            temp_files=round(more_temp_files * at_s / 14_400),
        )
        for at_s in range(0, 14_401, 20)
    ]


SOAKED = {
    "sent_in_all": 10, "acked_in_all": 10, "stored_in_all": 10, "resent_accepted": 0, "health_asked": 3,
    "health_unanswered": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("figures", "grown_mb", "more_descriptors", "says"),
    [
        ({}, 0, 0, None),
        ({}, 20, 0, None),
        ({}, 40, 0, "memory grew by"),
        ({}, 0, 8, None),
        ({}, 0, 40, "descriptors more at the end"),
        ({"acked_in_all": 9, "stored_in_all": 9}, 0, 0, "10 reads sent, 9 accepted"),
        ({"stored_in_all": 11}, 0, 0, "10 reads acknowledged, 11 stored"),
        ({"resent_accepted": 5}, 0, 0, "accepted as new"),
        ({"health_unanswered": 1}, 0, 0, "1 of 3 questions"),
    ],
)
def test_warming_up_is_no_leak_and_growing_after_it_is_one(figures, grown_mb, more_descriptors, says):
    found = soak.problems_of(SOAKED | figures | soak.growth(looks(grown_mb, more_descriptors)), 14_400.0)
    assert [says in problem for problem in found] == ([] if says is None else [True])


def test_temporary_files_that_are_left_are_one():
    (problem,) = soak.problems_of(SOAKED | soak.growth(looks(0, 0, 40)), 14_400.0)
    assert "temp_files more at the end" in problem


def test_the_slope_of_memory_is_that_of_the_time_after_the_warm_up():
    grown = soak.growth(looks(40, 0))
    assert grown["rss_mb_grown"] == pytest.approx(40, rel=0.01)
    assert grown["rss_mb_per_hour"] == pytest.approx(40 * 3600 / 13_800, rel=0.01)
    assert soak.problems_of(SOAKED | grown, 14_400.0) != []
    reads = dict.fromkeys(("sent_in_all", "acked_in_all", "stored_in_all"), 100000000)
    assert soak.problems_of(SOAKED | reads | grown, 14_400.0) == []  # caches may have filled up
    assert soak.problems_of(SOAKED | reads | grown | {"rss_mb_grown": 100.0}, 14_400.0) != []
    assert soak.problems_of(SOAKED | grown, 60.0) == []  # too short to judge
    assert round((known.BYTES_MAX + arrived.BYTES_MAX) / 1e6) == soak.CACHES_MB
    more = soak.growth(looks(70, 0))
    assert soak.problems_of(SOAKED | more, 14_400.0) != []
    assert soak.problems_of(SOAKED | more | {"alarms_made": 20_000}, 14_400.0) == []  # alarms that nobody acknowledges
    assert soak.ALARMS_KEPT == book.UNACKNOWLEDGED_MAX == hub.RING_MAX
