"""The checks of a local day: where each fires, where its boundary is, and that they say what a scalar oracle says."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch.check_profile import CheckProfile
from meterwatch.quality import ORIGIN_SHIFT, Origin, Quality
from rules import day_checks
from rules.day_checks import DayReads, Events, MeterDays, Tail, judge, powerless

US = 1_000_000
START_US = 1_768_086_000 * US
DAY_S = 86_400
ESTIMATE = int(Origin.ESTIMATED) << ORIGIN_SHIFT


@dataclass
class Read:
    """One read, by its start in seconds after the day's begin."""

    at_s: int
    wh: int = 100
    length_s: int = 900
    export_wh: int = -1
    current_a: float = -1
    quality: int = 0
    off: bool = False

    @property
    def end_s(self) -> int:
        return self.at_s + self.length_s


@dataclass
class Day:
    """A meter's day and, for the tail, its reads of the day before (their times are negative)."""

    reads: list[Read]
    before: list[Read] = field(default_factory=list)
    weekday_wh: tuple[int, ...] = (-1, -1, -1, -1)
    meter_class: int = 1
    whole: bool = True


def columns(days: list[list[Read]]) -> DayReads:
    flat = [(n, read) for n, reads in enumerate(days) for read in sorted(reads, key=lambda read: read.end_s)]
    return DayReads(
        np.array([n for n, _ in flat], np.intp),
        np.array([START_US + read.end_s * US for _, read in flat], np.int64),
        np.array([read.length_s for _, read in flat], np.int64),
        np.array([read.quality for _, read in flat], np.int32),
        np.array([read.wh for _, read in flat], np.int64),
        np.array([read.export_wh for _, read in flat], np.int64),
        np.array([read.current_a for _, read in flat], np.float64),
        np.array([read.off for _, read in flat], np.bool_),
    )


def meter_days(days: list[Day], tail: Tail | None = None, shift_s: int = 0) -> MeterDays:
    rows = len(days)
    start_us = np.full(rows, START_US + shift_s * US, np.int64)
    return MeterDays(
        start_us, start_us + DAY_S * US, np.array([day.whole for day in days]), np.full(rows, 900),
        np.full(rows, 100.0), np.full(rows, 69.0), np.array([day.meter_class for day in days], np.uint8),
        np.array([day.weekday_wh for day in days], np.int64).reshape(rows, 4), tail or Tail.none(rows), CheckProfile(),
    )  # fmt: skip


def judged(days: list[Day]) -> tuple[list[list[int]], day_checks.DaySums]:
    """The words of each day's reads, with the tails of the days before; and the sums."""
    _, before = judge(columns([day.before for day in days]), meter_days(days, shift_s=-DAY_S))
    reads = columns([day.reads for day in days])
    bits, sums = judge(reads, meter_days(days, before.tail))
    return [bits[reads.of == n].tolist() for n in range(len(days))], sums


def words(*reads: Read, **day: object) -> list[int]:
    return judged([Day(list(reads), **day)])[0][0]  # type: ignore[arg-type]


def hours(first: float, last: float, **read: object) -> list[Read]:
    """Quarter-hours from `first` to `last` hour."""
    return [Read(at_s, **read) for at_s in range(int(first * 3600), int(last * 3600), 900)]  # type: ignore[arg-type]


def varied(first: float, last: float) -> list[Read]:
    """The same, no two reads after one another alike."""
    return [replace(read, wh=100 + n % 2) for n, read in enumerate(hours(first, last))]


# The scalar oracle


def oracle(day: Day) -> list[int]:
    """The words of one day, read by read, straight from the words of the rules."""
    limits = CheckProfile().day_limits(day.meter_class)
    reads = sorted(day.reads, key=lambda read: read.end_s)
    before = sorted(day.before, key=lambda read: read.end_s)
    kw = {id(read): read.wh * 3.6 / read.length_s for read in reads if read.wh >= 0}
    highest = sorted(kw.values(), reverse=True)
    energy = sum(max(read.wh, 0) for read in reads)
    covered_s = sum(read.end_s - max(read.at_s, 0) for read in reads)
    found = []
    for n, read in enumerate(reads):
        word = 0
        if read.at_s > (reads[n - 1].end_s if n else 0):
            word |= Quality.AFTER_GAP
        floor_kw = max(limits.spike_floor_kw, limits.spike_floor_share * 69)
        if read.wh >= 0 and len(highest) >= 3 and kw[id(read)] > max(floor_kw, 2.8 * highest[2]):
            word |= Quality.SPIKE
        if n == len(reads) - 1 and min(day.weekday_wh) >= 0 and read.wh >= 0:
            usual = statistics.median(day.weekday_wh)
            low = energy < 0.3 * usual and day.whole and covered_s == DAY_S
            if max(energy, usual) > limits.use_floor_wh and (low or energy > 3 * usual):
                word |= Quality.UNUSUAL_USE
        past = [*before, *reads[: n + 1]]
        run = _run(past, lambda one, last: usable(one) and not one.off and alike(one, last))
        zero = read.wh == 0 and read.export_wh <= 0
        if run and read.length_s <= 3600 and sum(one.length_s for one in run) >= (4 * 3600 if zero else DAY_S):
            word |= Quality.STUCK
        if len(_run(past, lambda one, _: usable(one) and one.wh == 0 >= one.export_wh and one.current_a > 0.1)) >= 4:
            word |= Quality.ZERO_UNDER_LOAD
        found.append(int(word))
    return found


def usable(read: Read) -> bool:
    return read.wh >= 0 and not read.quality & ESTIMATE


def alike(one: Read, other: Read) -> bool:
    return (one.wh, one.export_wh, one.length_s) == (other.wh, other.export_wh, other.length_s)


def _run(past: list[Read], fits) -> list[Read]:
    """The last reads, one joining the next, that all fit."""
    run: list[Read] = []
    for read in reversed(past):
        if not fits(read, past[-1]) or (run and read.end_s != run[-1].at_s):
            break
        run.append(read)
    return run


@st.composite
def some_day(draw) -> Day:
    """Stretches of reads, many of them alike, with gaps, other lengths, estimates and outages between."""

    def stretch(first_s: int) -> list[Read]:
        reads, at_s = [], first_s
        while at_s < first_s + DAY_S:
            length_s = draw(st.sampled_from([900, 900, 900, 3600, 300, 7200]))
            like = Read(
                0, draw(st.sampled_from([-1, 0, 0, 0, 100, 100, 499, 500, 501, 1401, 6000])), length_s,
                draw(st.sampled_from([-1, -1, 0, 5])), draw(st.sampled_from([-1.0, 0.0, 0.1, 0.2])),
                draw(st.sampled_from([0, 0, 0, ESTIMATE])), draw(st.sampled_from([False, False, False, True])),
            )  # fmt: skip
            for _ in range(draw(st.sampled_from([1, 2, 3, 4, 16, 17, 90]))):
                if at_s + length_s > first_s + DAY_S:
                    break
                reads.append(replace(like, at_s=at_s))
                at_s += length_s
            at_s += draw(st.sampled_from([0, 0, 0, 0, 300, 7200]))
        return reads

    return Day(
        stretch(0), draw(st.sampled_from([[], stretch(-DAY_S)])),
        draw(st.sampled_from([(-1, 0, 0, 0), (0, 0, 0, 0), (9600, 9600, 100, 9600), (900, 1000, 1100, 3000)])),
        draw(st.integers(0, 2)), draw(st.booleans()),
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(some_day(), min_size=1, max_size=4))
def test_the_vector_code_says_what_the_scalar_oracle_says(days):
    found, sums = judged(days)
    assert found == [oracle(day) for day in days]
    for n, day in enumerate(days):
        imports = [read for read in day.reads if read.wh >= 0]
        assert sums.import_wh[n] == sum(read.wh for read in imports)
        assert sums.export_wh[n] == sum(max(read.export_wh, 0) for read in day.reads)
        assert sums.present[n] == len(day.reads)
        missing_s = DAY_S - sum(read.length_s for read in day.reads)
        assert sums.expected[n] == len(day.reads) + -(-missing_s // 900)
        assert sums.estimated[n] == sum(read.quality == ESTIMATE for read in day.reads)
        peak_w = max((read.wh * 3600 / read.length_s for read in imports), default=-1)
        assert sums.peak_w[n] == round(peak_w)
        first = [read.end_s for read in imports if read.wh * 3600 / read.length_s == peak_w][:1]
        assert [(sums.peak_end_us[n] - START_US) // US] == first or not first
        assert sums.findings[n] == np.bitwise_or.reduce(np.array(found[n], np.int32))


# Where each fires, and where it ends


def test_v12_a_gap_is_seen_by_the_read_after_it():
    assert words(Read(0), Read(900), Read(1800)) == [0, 0, 0]
    assert words(Read(900), Read(1800), Read(3600)) == [Quality.AFTER_GAP, 0, Quality.AFTER_GAP]


def test_v12_a_day_begins_with_the_installation():
    days = meter_days([Day([])])
    days.start_us[:] += 900 * US
    assert judge(columns([[Read(900)]]), days)[0].tolist() == [0]


@pytest.mark.parametrize(("wh", "found"), [(1400, 0), (1401, Quality.SPIKE)])
def test_v13_a_spike_is_above_2_8_times_the_third_highest(wh, found):
    assert words(Read(0, wh), Read(900, 500), Read(1800, 500))[0] == found


@pytest.mark.parametrize(("wh", "found"), [(500, 0), (501, Quality.SPIKE)])
def test_v13_a_spike_is_above_its_floor(wh, found):
    assert words(Read(0, wh), Read(900, 10), Read(1800, 10))[0] == found


@pytest.mark.parametrize(("wh", "found"), [(3450, 0), (3451, Quality.SPIKE)])
def test_v13_the_floor_of_a_transformer_rated_meter_is_a_fifth_of_its_capacity(wh, found):
    assert words(Read(0, wh), Read(900, 10), Read(1800, 10), meter_class=2)[0] == found


def test_v13_two_reads_are_no_day():
    assert words(Read(0, 9000), Read(900, 10)) == [0, 0]
    assert words(Read(0, 9000), Read(900, 10), Read(1800, -1), Read(2700, -1)) == [0, 0, 0, 0]
    whole = [Read(0, 9000), Read(900, 10), Read(1800, 10)]
    assert judged([Day(whole[:2]), Day(whole), Day([])])[0] == [[0, 0], [Quality.SPIKE, 0, 0], []]


@pytest.mark.parametrize(
    ("usual", "found"),
    [(3209, Quality.UNUSUAL_USE), (3216, 0), (32160, 0), (32161, Quality.UNUSUAL_USE)],
)
def test_v15_the_energy_of_a_day_is_03_to_3_times_the_usual(usual, found):
    """96 reads are 9648 Wh."""
    day = varied(0, 24)
    assert sum(read.wh for read in day) == 9648
    assert words(*day, weekday_wh=(usual, usual, 0, 10**6)) == [0] * 95 + [found]


def test_v15_needs_four_weeks_and_a_whole_day_to_call_it_low():
    day = varied(0, 24)
    assert words(*day, weekday_wh=(100,) * 4)[-1] == Quality.UNUSUAL_USE
    assert words(*day, weekday_wh=(100, 100, 100, -1))[-1] == 0
    assert words(*day[:-1], weekday_wh=(100,) * 4, whole=False)[-1] == Quality.UNUSUAL_USE
    assert words(*day, weekday_wh=(10**6,) * 4)[-1] == Quality.UNUSUAL_USE
    assert words(*day, weekday_wh=(10**6,) * 4, whole=False)[-1] == 0
    assert words(*day[:-1], weekday_wh=(10**6,) * 4)[-1] == 0


@pytest.mark.parametrize(("wh", "found"), [(1000, 0), (1001, Quality.UNUSUAL_USE)])
def test_v15_little_is_never_unusual(wh, found):
    assert words(Read(0, wh, DAY_S), weekday_wh=(100,) * 4) == [found]


def test_v16_zero_is_stuck_after_four_hours_and_other_values_after_a_day():
    assert words(*varied(0, 2), *hours(2, 7, wh=0)) == [0] * 8 + [0] * 15 + [Quality.STUCK] * 5
    assert words(*hours(0, 24)) == [0] * 95 + [Quality.STUCK]
    assert words(*hours(0, 2), before=hours(-22, 0)) == [0] * 7 + [Quality.STUCK]
    assert words(*hours(0, 2), before=hours(-21.75, 0)) == [0] * 8


@pytest.mark.parametrize("broken_by", [{"off": True}, {"quality": ESTIMATE}, {"wh": 1}, {"export_wh": 3}, {"wh": -1}])
def test_v16_anything_else_between_begins_anew(broken_by):
    zeros = hours(0, 5, wh=0)
    assert words(*zeros)[-1] == Quality.STUCK
    assert not any(words(*zeros[:10], replace(zeros[10], **broken_by), *zeros[11:]))


def test_v16_long_intervals_are_not_judged():
    assert words(*(Read(at_s, 0, 7200) for at_s in range(0, DAY_S, 7200))) == [0] * 12


@pytest.mark.parametrize(("current_a", "found"), [(0.1, 0), (0.11, Quality.ZERO_UNDER_LOAD)])
def test_v17_current_without_energy(current_a, found):
    assert words(*hours(0, 1, wh=0, current_a=current_a)) == [0, 0, 0, found]
    two = {"wh": 0, "current_a": current_a}
    assert words(*hours(0, 0.5, **two), before=hours(-0.5, 0, **two)) == [0, found]


# Signs of an outage


def off(reads: list[Read], events: list[tuple[int, int]]) -> list[bool]:
    """events: seconds after the day's begin, code."""
    found = columns([[], reads])
    told = Events(
        np.array([1] * len(events), np.intp),
        START_US + np.array([at_s for at_s, _ in events], np.int64) * US,
        np.array([code for _, code in events], np.int16),
    )
    days_us = np.full(2, START_US)
    return powerless(found.of, found.start_us, found.end_us, found.quality, days_us, told).tolist()


def test_an_outage_is_what_lies_between_its_events():
    assert off(hours(0, 1.5), [(1000, 1), (3700, 2)]) == [False, True, True, True, True, False]


def test_an_outage_that_began_the_day_before_lasts_until_it_is_over():
    assert off(hours(0, 1), [(-80_000, 1), (1700, 2)]) == [True, True, False, False]
    assert off(hours(0, 0.5), [(-80_000, 1), (-100, 2)]) == [False, False]


def test_supply_ends_an_outage_whose_end_was_not_told():
    assert off([Read(900), Read(1800, quality=Quality.SUPPLY_ON), Read(2700)], [(100, 1)]) == [True, False, True]


def test_a_vote_is_a_sign_without_any_event():
    assert off([Read(0), Read(900, quality=Quality.SUPPLY_OFF)], []) == [False, True]


told_by = st.lists(
    st.tuples(st.sampled_from([-80_000, -1, 0, 1, 450, 900, 901, 2700]), st.sampled_from([1, 2])), max_size=4
)
word = st.sampled_from([0, 0, 0, int(Quality.SUPPLY_OFF), int(Quality.SUPPLY_ON)])


@given(st.lists(st.tuples(st.lists(word, max_size=4), told_by), min_size=1, max_size=4))
def test_powerless_is_what_a_scalar_oracle_calls_so(meters: list[tuple[list[int], list[tuple[int, int]]]]) -> None:
    days = [[Read(n * 900, quality=one) for n, one in enumerate(quality)] for quality, _ in meters]
    told = [(n, at_s, code) for n, (_, events) in enumerate(meters) for at_s, code in events]
    found = columns(days)
    events = Events(
        np.array([n for n, *_ in told], np.intp),
        START_US + np.array([at_s for _, at_s, _ in told], np.int64) * US,
        np.array([code for *_, code in told], np.int16),
    )
    day_us = np.full(len(meters), START_US)
    vector = powerless(found.of, found.start_us, found.end_us, found.quality, day_us, events).tolist()
    assert vector == [
        _powerless(read, events) for reads, (_, events) in zip(days, meters, strict=True) for read in reads
    ]


def _powerless(read: Read, events: list[tuple[int, int]]) -> bool:
    before = max((event for event in events if event[0] <= read.at_s), default=(0, 2))
    return (
        bool(read.quality & Quality.SUPPLY_OFF)
        or any(read.at_s < at_s <= read.end_s and code == 1 for at_s, code in events)
        or (before[1] == 1 and not read.quality & Quality.SUPPLY_ON)
    )


def test_findings_keep_what_ingest_found_and_forget_old_words_of_the_day():
    read = Read(0, quality=int(Quality.LATE | Quality.SPIKE) | ESTIMATE)
    assert judged([Day([read])])[1].findings.tolist() == [Quality.LATE]


def test_no_reads_are_no_finding():
    found, sums = judged([Day([]), Day([])])
    assert found == [[], []]
    assert (sums.present.tolist(), sums.expected.tolist(), sums.peak_w.tolist()) == ([0, 0], [96, 96], [-1, -1])
