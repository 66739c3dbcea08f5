"""The report page: well-formed, self-contained, harmless whatever the record holds, small, true to its numbers."""

from __future__ import annotations

import math
import re
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.match import match
from loadtest.page import MEANING, page, reasons
from loadtest.record import Fault, Record, Second, Told
from loadtest.score import score
from loadtest.timeline import ROWS_MAX, rows, span, timeline
from meterwatch.cli.loadtest import show
from meterwatch.plot import POINTS_MAX, Line, lines, log_ticks, short, squeeze, text, ticks

START = 1_767_571_200_000_000
MINUTE = 60_000_000
VOID = {"meta", "br", "col", "path", "rect", "line", "circle"}
HOSTILE = "</svg><script src=//evil.example/x.js>alert(1)</script>\"'><img src=x onerror=alert(1)>&\u202e\x00\ud800"


class Seen(HTMLParser):
    """Every tag, balanced; every attribute; every piece of text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def outage(n: int, onset: int = 0, end: int | None = 30, kind: str = "OUTAGE", name: str = "T") -> Fault:
    return Fault(
        kind, "transformer", f"{name}{n}", START + onset * MINUTE, None if end is None else START + end * MINUTE, n
    )


def alarm(n: int, onset: int = 0, cleared: int | None = 31, name: str = "T", after_s: float = 60.0) -> Told:
    onset_us, cleared_us = START + onset * MINUTE, None if cleared is None else START + cleared * MINUTE
    recorded = onset_us + round(after_s * 1e6)
    return Told(
        f"a{name}{n}",
        "OUTAGE",
        "transformer",
        f"{name}{n}",
        "HIGH",
        onset_us,
        onset_us,
        cleared_us,
        recorded,
        1.0,
        True,
    )


def histogram(values_ms: list[float]) -> str:
    found = HdrHistogram(1, 600_000_000, 3)
    for value in values_ms:
        found.record_value(round(value * 1000))
    return str(found.encode().decode())


def second(at: float, **more: Any) -> Second:
    given = {"reads_sent": 1000, "reads_acked": 900, "ack_ms_p50": 10.0, "ack_ms_p99": 50.0, "ack_ms_max": 90.0}
    cpu = {"service": 0.4, "postgres": 1.2, "driver": 0.2}
    return Second(at, **(given | {"cpu_share": cpu, "service_rss_mb": 200.0, "behind_s": 0.001} | more))


def run(seconds: int = 20, **more: Any) -> Record:
    given: dict[str, Any] = {
        "inputs": {"transformers": 100, "simulated_s": 7200, "end_us": START + 120 * MINUTE, "knobs": {"late": 0.1}},
        "seed": 7,
        "versions": {"python": "3.11.2"},
        "machine": {"processor": "a processor", "cores": 2},
        "commit": "abc123",
        "started_at": "2026-01-05T09:00:00Z",
        "seconds": float(seconds),
        "totals": {"sent": 123_456},
        "rates": {"acked_reads_per_s": 900.0, "scheduled_reads_per_s": 1000.0},
        "ack_ms": {"p50": 10.0, "p99": 50.0},
        "histogram": histogram([10.0] * 90 + [50.0] * 10),
        "series": [second(float(n)) for n in range(seconds)],
        "faults": [outage(1), outage(2), outage(3, kind="PLANNED")],
        "told": [alarm(1), alarm(9)],
    }
    return Record("storm", **(given | more))


def test_the_page_needs_nothing_but_itself() -> None:
    seen = Seen(page(run()))
    assert not {"script", "link", "img", "iframe", "object", "image", "use", "base", "form"} & set(seen.tags)
    assert not {name for name, _ in seen.attributes} & {"src", "href", "xlink:href", "action", "srcset"}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import", page(run()))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in seen.attributes


def test_names_that_are_markup_are_shown_and_do_nothing() -> None:
    record = run(
        commit=HOSTILE,
        machine={HOSTILE: HOSTILE, "cores": 2},
        inputs={HOSTILE: {HOSTILE: HOSTILE}},
        versions={"x": HOSTILE},
        totals={HOSTILE: 1},
        rejected_reasons={HOSTILE: 1},
        problems=[HOSTILE],
        required=[{"limit": HOSTILE + "<1", "value": HOSTILE, "ok": False}],
        series=[second(float(n), cpu_share={HOSTILE: 1.0}) for n in range(3)],
        faults=[outage(1, name=HOSTILE), outage(2, name=HOSTILE), outage(1, 40, 50, HOSTILE)],
        told=[alarm(1, name=HOSTILE), alarm(9, name=HOSTILE)],
    )
    record.scenario = HOSTILE
    made = page(record)
    made.encode()
    seen, plain = Seen(made), Seen(page(run()))
    assert set(seen.tags) <= set(plain.tags) | {"details", "summary", "ul", "li"}
    assert {name for name, _ in seen.attributes} <= {name for name, _ in plain.attributes} | {"open"}
    assert "<script src=//evil.example/x.js>" in seen.words
    assert not re.search(r"[\x00\u202e\ud800]", made)


@given(st.text())
def test_text_is_the_text_again_but_for_what_disturbs(value: str) -> None:
    safe = text(value)
    assert not set("<>\"'") & set(safe)
    assert len(unescape(safe)) == len(value)
    safe.encode()


def test_a_run_passes_if_it_has_no_problem_and_keeps_its_limits() -> None:
    kept = {"limit": "ack_p99_ms<500", "value": 50.0, "ok": True}
    broken = {"limit": "score.recall>=0.99", "value": 0.5, "ok": False}
    unknown = {"limit": "score.warned_in_time>=1", "value": None, "ok": False}
    assert reasons(run(required=[kept])) == []
    assert "Load test storm: passed" in page(run(required=[kept]))
    assert reasons(run(required=[kept, broken, unknown])) == [
        "required score.recall>=0.99, measured 0.5",
        "required score.warned_in_time>=1, measured -",
    ]
    words = Seen(page(run(required=[kept, broken], problems=["the generator was 3 s behind"]))).words
    for said in (
        "storm: failed",
        "the generator was 3 s behind",
        "required score.recall>=0.99, measured 0.5",
        "not held",
    ):
        assert said in words
    assert reasons(run(required=[broken], problems=["score.recall>=0.99 not held: 0.5"])) == [
        "score.recall>=0.99 not held: 0.5"
    ]


def test_what_was_run_and_found_is_on_the_page() -> None:
    words = Seen(page(run())).words
    for said in ("2026-01-05 02:00:00 UTC", "abc123", "a processor",
                 "3.11.2", "123,456", "seed 7", "acked_reads_per_s", "Missed faults: 1",
                 "False pages: 1", "OUTAGE transformer T2", "missed", "no fault here at that time", "must page nobody",
                 "Ack latency by percentile", "CPU by process", "100 batches", "pages_per_fault"):  # fmt: skip
        assert said in words, said
    assert "warned_in_time" not in words


def test_the_figures_of_a_heatwave_stand_in_front_and_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    totals = dict.fromkeys(("sent", "acked", "accepted", "duplicates", "rejected", "events_sent", "events_acked"), 0)
    rates = {"acked_reads_per_s": 1.0, "generator_ceiling_reads_per_s": 0.0}
    heat = {"hot_faults": 8, "warned_in_time": 0.875, "alarms_over_two_hour_rule": 0.75}
    record = run(totals=totals, rates=rates, score={"recall": 1.0, "alarms_in_book_over_two_hour_rule": 1.5} | heat)
    words = Seen(page(record)).words
    for said in ("140 C warned of in time 87.5 %", "alarms over the two-hour rule's 0.75", MEANING["hot_faults"]):
        assert said in " ".join(words.split()), said
    show(record)
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in ("warned_in_time", "alarms_over_two_hour_rule", "alarms_in_book_over_two_hour_rule"):
        assert [name, f"{record.score[name]:g}"] in told


def test_a_score_that_the_record_holds_is_shown_as_it_is() -> None:
    record = run(score={"recall": 0.123, "own_figure": 42.5})
    words = Seen(page(record)).words
    assert "12.3 %" in words
    assert "own_figure" in words


def test_an_empty_record_makes_a_page() -> None:
    words = Seen(page(Record("steady", {}, 1, {}, {}, "abc", "2026-01-05T09:00:00Z"))).words
    assert "steady: passed" in words
    assert "No fault was injected" in words


@pytest.mark.parametrize("blob", ["x", "!!!!", "AAAAAAAA", "\u00e9", histogram([1.0])[:-8]])
def test_a_histogram_that_cannot_be_read_is_said_to_be_so(blob: str) -> None:
    assert "The histogram cannot be read" in Seen(page(run(histogram=blob))).words


def test_an_empty_histogram_and_one_with_a_single_ack_make_no_trouble() -> None:
    assert "by percentile" not in page(run(histogram=histogram([])))
    assert "1 batches" in page(run(histogram=histogram([5.0])))


def test_seconds_without_acks_and_figures_that_are_none_are_gaps() -> None:
    odd = [second(0.0), second(1.0, ack_ms_p50=0.0, ack_ms_p99=0.0, ack_ms_max=0.0), second(2.0)]
    odd += [second(3.0, ack_ms_p99=math.nan, service_rss_mb=math.inf, cpu_share={}, behind_s=math.nan)]
    made = page(run(series=odd))
    assert not re.search(r"\b(nan|inf)\b", made)
    dark = page(run(series=[second(float(n), ack_ms_p50=0.0, ack_ms_p99=0.0, ack_ms_max=0.0) for n in range(3)]))
    assert "Nothing was recorded" in dark


def test_an_hour_of_storm_is_under_500_kb_and_shows_at_most_200_rows() -> None:
    random = np.random.default_rng(1)
    series = [second(float(n), ack_ms_max=float(v), alarms=3) for n, v in enumerate(random.uniform(50, 5000, 3600))]
    faults = [outage(n, n % 60, n % 60 + 30) for n in range(2000)]
    told = [alarm(n, n % 60, n % 60 + 31) for n in range(1000, 4000)]
    record = run(3600, series=series, faults=faults, told=told)
    made = page(record)
    assert len(made.encode()) < 500_000
    assert timeline(record, match(record)).count("<tr class=") == ROWS_MAX
    words = Seen(made).words
    assert "Missed faults: 1,000, the first 50" in words
    assert "200 of 4000, worst first" in words


def test_the_worst_rows_come_first_and_no_kind_crowds_out_the_others() -> None:
    slow = [outage(n) for n in range(300)]
    told = [alarm(n, after_s=n) for n in range(300)]
    record = run(faults=[*slow, outage(400), outage(500)], told=[*told, alarm(900)])
    shown = rows(record, match(record))
    assert [row.look for row in shown[:4]] == ["missed", "missed", "false", "told"]
    assert [row.fault.meters for row in shown[:2] if row.fault] == [500, 400]
    assert [row.told.asset for row in shown[3:6] if row.told] == ["T299", "T298", "T297"]
    flood = run(faults=[outage(n) for n in range(1000)], told=[alarm(n) for n in range(990, 2000)])
    looks = [row.look for row in rows(flood, match(flood))][:ROWS_MAX]
    assert (looks.count("missed"), looks.count("false"), looks.count("told")) == (130, 60, 10)


def test_bars_and_marks_stand_where_their_times_are() -> None:
    record = run(faults=[outage(1, 0, 50)], told=[alarm(1, 0, 60, after_s=600)])
    made = timeline(record, match(record))
    bar = re.search(r'<rect class="truth" x="([\d.]+)%" y="5" width="([\d.]+)%"', made)
    dot = re.search(r'<circle class="mark" cx="([\d.]+)%"', made)
    assert bar
    assert dot
    left, width, told = float(bar[1]), float(bar[2]), float(dot[1])
    assert (told - left) / width == pytest.approx(600 / 3000, abs=0.01)
    assert "10 min" in Seen(made).words


def test_faults_and_alarms_without_end_reach_the_edge() -> None:
    made = timeline(
        run(faults=[outage(1, 0, None), outage(2)], told=[]), match(run(faults=[outage(1, 0, None)], told=[]))
    )
    bar = re.search(r'<rect class="truth" x="([\d.]+)%" y="5" width="([\d.]+)%"', made)
    assert bar
    assert float(bar[1]) + float(bar[2]) == pytest.approx(100, abs=0.02)


def test_a_stamp_that_no_calendar_has_does_not_stop_the_report() -> None:
    far = Fault("OUTAGE", "transformer", "T1", 2**62, None, 1)
    Seen(page(run(faults=[far, outage(2)], told=[])))


def test_tables_name_their_columns_rows_and_subject() -> None:
    made = page(run(required=[{"limit": "a<1", "value": 0, "ok": True}]))
    assert made.count("<table") == made.count("<thead") == made.count("<tbody")
    assert not re.search(r"<th(?! scope| ?ead)[ >]", made)
    assert not re.search(r"<svg (?!viewBox=\"[^\"]+\" role=\"img\" aria-label=\"[^\"]+\"|aria-hidden)", made)
    assert "sent: median 1,000, from 1,000 to 1,000." in made


def test_dark_follows_the_system_and_paper_is_light() -> None:
    made = page(run())
    assert "@media screen and (prefers-color-scheme:dark)" in made
    assert "@media print" in made


@given(st.lists(st.floats(0, 1e9) | st.just(math.nan), max_size=3000))
@settings(max_examples=30)
def test_squeezing_keeps_the_largest_and_the_mean_of_each_group(values: list[float]) -> None:
    most, mean = squeeze(values, "max"), squeeze(values, "mean")
    assert len(most) == len(mean) <= POINTS_MAX
    there = [value for value in values if not math.isnan(value)]
    if there:
        assert np.nanmax(most) == max(there)
        assert min(there) * (1 - 1e-9) <= np.nanmin(mean) <= np.nanmax(mean) <= max(there) * (1 + 1e-9)
    else:
        assert not np.isfinite(most).any()


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_ticks_enclose_the_range_in_a_few_round_steps(low: float, high: float) -> None:
    low, high = sorted((low, high))
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    slack = 1e-6 * (found[1] - found[0])
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


@given(st.floats(1e-3, 1e9), st.floats(1e-3, 1e9))
def test_logarithmic_ticks_enclose_the_range(low: float, high: float) -> None:
    low, high = sorted((low, high))
    found = log_ticks(low, high)
    assert found == sorted(set(found))
    assert found[0] <= low * (1 + 1e-6)
    assert found[-1] >= high * (1 - 1e-6)


def test_a_line_is_drawn_at_the_height_of_its_values() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    made = lines("t", [Line("a", x, np.array([0.0, 50.0, math.nan, 100.0]), 0)], x_label="s", y_label="n")
    path = re.search(r'<path class="line s0" d="([^"]+)"', made)
    assert path
    moves = [(op, float(px), float(py)) for op, px, py in re.findall(r"([ML])([\d.]+) ([\d.]+)", path[1])]
    assert [op for op, _, _ in moves] == ["M", "L", "M"]
    bottom, middle, top = (py for _, _, py in moves)
    assert middle == pytest.approx((bottom + top) / 2, abs=0.1)
    assert path[1].endswith("h0")


def test_stacked_areas_end_at_the_sum() -> None:
    x = np.arange(3.0)
    parts = [Line("a", x, np.full(3, 1.0), 0), Line("b", x, np.full(3, 3.0), 1)]
    made = lines("t", parts, x_label="s", y_label="n", stacked=True, limit=(4.0, "all"))
    limit = re.search(r'<path class="limit" d="M\d+ ([\d.]+)H', made)
    area = re.search(r'<path class="area s1" d="M[\d.]+ ([\d.]+)L', made)
    assert limit
    assert area
    assert limit[1] == area[1]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.01234, "0.0123"), (999.4, "999"), (1234, "1,234"), (12_345, "12.3 k"), (2.5e6, "2.5 M"),
     (math.nan, "-")],
)  # fmt: skip
def test_figures_are_short(value: float, said: str) -> None:
    assert short(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.5, "0.5 s"), (-90, "-90 s"), (600, "10 min"), (9000, "2.5 h"), (2e6, "23.1 d")]
)
def test_spans_are_said_in_their_unit(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_the_page_does_not_change_the_record() -> None:
    record = run()
    before = repr(record)
    page(record)
    score(record)
    assert repr(record) == before


def test_a_second_in_which_the_service_was_not_seen_is_a_gap_in_its_memory() -> None:
    made = page(run(series=[second(0.0), second(1.0, service_rss_mb=0.0), second(2.0)]))
    assert "service: median 200, from 200 to 200." in made
