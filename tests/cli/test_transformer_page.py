"""The page of a transformer: whole, safe, and honest about what is not known."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import numpy as np

from meterwatch.cli.transformer_page import transformer_page
from meterwatch.plot import Band, Bar, Line, bars, lines
from meterwatch.v1 import transformers_pb2 as pb

US = 1_000_000
FIRST_US = 1_772_449_200 * US
HOSTILE = "<script>alert(1)</script>\u202e"


def curve(windows: int = 96, **changes: object) -> pb.GetCurveResponse:
    kva = [math.nan if n % 10 == 0 else 300.0 + n for n in range(windows)]
    return pb.GetCurveResponse(
        rated_kva=400, first_end_us=FIRST_US, window_s=900, kva=kva, coverage=[0.97] * windows, coverage_min=0.9,
        top_oil_c=[60.0] * windows, hot_spot_c=[80.0] * windows, ambient_c=30,
        alarm=[
            pb.CurveAlarm(alarm_id="A", type="OVERLOAD", level="HEAVY", onset_us=FIRST_US, summary=HOSTILE),
            pb.CurveAlarm(
                alarm_id="B", type="OUTAGE", level="SUSTAINED", onset_us=FIRST_US - 10**12,
                cleared_us=FIRST_US + 3600 * US, summary="off",
            ),
        ],
        **changes,
    )  # fmt: skip


def forecast(steps: int = 192) -> pb.GetForecastResponse:
    each = [350.0] * steps
    return pb.GetForecastResponse(
        made_us=FIRST_US, rated_kva=400, first_end_us=FIRST_US + 96 * 900 * US, step_s=900, forecaster="DAY_BEFORE",
        paths=28, p10_kva=[300.0] * steps, p50_kva=each, p90_kva=[420.0] * steps, p_over=[0.2] * steps,
        p_hot=[0.1] * steps, hot_spot_c=[100.0] * steps, overload_chance=0.25,
    )  # fmt: skip


class Whole(HTMLParser):
    """Every tag that is opened is closed, in order."""

    VOID = frozenset({"meta", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_whole_and_runs_and_fetches_nothing() -> None:
    html = transformer_page(HOSTILE, curve(), forecast())
    page = Whole()
    page.feed(html)
    assert page.open == []
    assert not page.seen & {"script", "link", "img", "iframe", "object"}
    assert "default-src 'none'" in html
    assert "\u202e" not in html
    assert not re.search(r"https?://|nan|inf\b", html)


def test_without_a_forecast_the_axis_ends_with_the_load() -> None:
    html = transformer_page("T", curve(), None)
    assert "median" not in html.split("<h2>")[0].replace("median ", "", html.count("median "))
    assert "80 % of past errors" not in html
    assert "80 % of past errors" in transformer_page("T", curve(), forecast())


def test_times_are_those_of_the_zone() -> None:
    assert "2026-03-02 12:00 CET" in transformer_page("T", curve(), None, ZoneInfo("Europe/Berlin"))


def test_nothing_known_is_said_and_not_drawn() -> None:
    assert "no whole window" in transformer_page("T", pb.GetCurveResponse(window_s=900), None)
    blank = curve()
    blank.kva[:] = [math.nan] * 96
    assert "Nothing was recorded" in transformer_page("T", blank, None)


def test_a_bar_is_cut_at_the_edges_and_says_what_it_is() -> None:
    shown = [Bar("R", -5, 2, 0, "early"), Bar("R", 8, 99, 1, "late"), Bar("S", 4, 4, 2, "short")]
    drawn = bars("Alarms", shown, x_range=(0, 10), x_ticks=[(5, "5")])
    places = [tuple(map(float, one)) for one in re.findall(r'x="([\d.]+)" y="\d+" height="9" width="([\d.]+)"', drawn)]
    assert places[0] == (52.0, 115.6)
    assert places[1][0] + places[1][1] == 630.0
    assert places[2][1] == 2.0
    assert [word in drawn for word in ("early", "late", "short")] == [True] * 3
    assert "None in this span" in bars("Alarms", [], x_range=(0, 1), x_ticks=[])


def test_a_band_widens_the_axis_and_lies_under_the_lines() -> None:
    x = np.arange(3.0)
    drawn = lines(
        "Load", [Line("p50", x, x, 0)], x_label="", y_label="kVA", bands=[Band("80 %", x, x - 1, x + 90, 1)],
        limits=[(120.0, "rating")], x_range=(0.0, 2.0),
    )  # fmt: skip
    assert drawn.index("faint") < drawn.index('class="line')
    assert ">150<" in drawn or ">120<" in drawn
    assert "rating" in drawn
