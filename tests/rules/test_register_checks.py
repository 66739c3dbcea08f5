"""The checks of registers: where each fires, where its boundary is, and that they say what a scalar oracle says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch.check_profile import CheckProfile
from meterwatch.quality import ORIGIN_SHIFT, Origin, Quality
from rules.day_checks import DayReads, MeterDays, Tail
from rules.register_checks import DayRegisters, RegisterSums, judge_registers

US = 1_000_000
START_US = 1_768_086_000 * US
DAY_S = 86_400
QUARTER_S = 900
CAPACITY_KW = 69.0
BACK, MISMATCH = int(Quality.REGISTER_BACK), int(Quality.REGISTER_MISMATCH)
ESTIMATE = int(Origin.ESTIMATED) << ORIGIN_SHIFT


@dataclass
class Shown:
    """What a register showed, by seconds after the day's begin."""

    at_s: float
    value_wh: int
    register: int = 1
    device: int = 1


@dataclass
class Day:
    """A meter's day: its quarter-hours by number, and what its registers showed."""

    shown: list[Shown]
    reads_wh: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(96), 100))
    quality: int = 0
    lsb_wh: float = 1.0
    digits: int = 0

    @property
    def wrap_wh(self) -> float:
        return self.lsb_wh * 10**self.digits if self.digits else 0.0


def judged(days: list[Day]) -> tuple[list[dict[int, int]], list[int], RegisterSums]:
    """Words of the quarter-hours that have one, findings of each day, and the figures."""
    reads = [(n, number, wh, day.quality) for n, day in enumerate(days) for number, wh in sorted(day.reads_wh.items())]
    shown = sorted(
        ((n, one, day) for n, day in enumerate(days) for one in day.shown),
        key=lambda item: (item[0], item[1].register, item[1].at_s),
    )
    rows = len(days)
    of = np.array([n for n, *_ in reads], np.intp)
    columns = DayReads(
        of,
        np.array([START_US + (number + 1) * QUARTER_S * US for _, number, *_ in reads], np.int64),
        np.full(len(reads), QUARTER_S, np.int64),
        np.array([quality for *_, quality in reads], np.int32),
        np.array([wh for _, _, wh, _ in reads], np.int64),
        np.full(len(reads), -1, np.int64),
        np.full(len(reads), -1.0),
        np.zeros(len(reads), np.bool_),
    )
    registers = DayRegisters(
        np.array([n for n, *_ in shown], np.intp),
        np.array([one.register for _, one, _ in shown], np.int64),
        np.array([START_US + round(one.at_s * US) for _, one, _ in shown], np.int64),
        np.array([one.value_wh for _, one, _ in shown], np.int64),
        np.array([one.device for _, one, _ in shown], np.int64),
        np.array([day.lsb_wh for *_, day in shown], np.float64),
        np.array([day.wrap_wh for *_, day in shown], np.float64),
    )
    start_us = np.full(rows, START_US, np.int64)
    meter_days = MeterDays(
        start_us, start_us + DAY_S * US, np.ones(rows, np.bool_), np.full(rows, QUARTER_S), np.full(rows, 100.0),
        np.full(rows, CAPACITY_KW), np.ones(rows, np.uint8), np.full((rows, 4), -1, np.int64), Tail.none(rows),
        CheckProfile(),
    )  # fmt: skip
    bits, findings, sums = judge_registers(registers, columns, meter_days)
    words: list[dict[int, int]] = [{} for _ in days]
    for (n, number, *_), word in zip(reads, bits.tolist(), strict=True):
        if word:
            words[n][number] = word
    return words, findings.tolist(), sums


def one(day: Day) -> tuple[dict[int, int], int]:
    words, findings, _ = judged([day])
    return words[0], findings[0]


def oracle(day: Day) -> tuple[dict[int, int], int, list[tuple[int, int, int, bool]]]:
    """The same, a register read at a time."""
    words: dict[int, int] = {}
    finding, figures = 0, []
    for register in (1, 2):
        shown = sorted((s for s in day.shown if s.register == register), key=lambda s: s.at_s)
        advance: list[int | None] = []
        for before, now in zip([None, *shown], shown, strict=False):
            if before is None or before.device != now.device:
                advance.append(None)
                continue
            more = now.value_wh - before.value_wh
            if more < -day.lsb_wh:
                rolled = more + day.wrap_wh
                carried = 0 <= rolled <= 1.2 * CAPACITY_KW * 1000 * (now.at_s - before.at_s) / 3600
                if day.wrap_wh and carried:
                    advance.append(round(rolled))
                    continue
                advance.append(None)
                if 5 < now.at_s <= DAY_S + 5:
                    finding |= BACK
                    ending = [number for number in sorted(day.reads_wh) if (number + 1) * 900 >= now.at_s - 5]
                    if ending and ending[0] * 900 < now.at_s:
                        words[ending[0]] = words.get(ending[0], 0) | BACK
            else:
                advance.append(more)
        inside = [i for i, s in enumerate(shown) if -5 <= s.at_s <= DAY_S + 5]
        if len(inside) < 2 or any(advance[i] is None for i in inside[1:]):
            continue
        first, last = shown[inside[0]], shown[inside[-1]]
        between = [
            number
            for number in sorted(day.reads_wh)
            if number * 900 >= first.at_s - 5 and (number + 1) * 900 <= last.at_s + 5
        ]
        if register == 2 or day.quality or not between:  # no export is sent
            continue
        if abs(len(between) * 900 - (last.at_s - first.at_s)) > 10:
            continue
        by_register = sum(a for i in inside[1:] if (a := advance[i]) is not None)
        by_interval = sum(day.reads_wh[number] for number in between)
        off = abs(by_interval - by_register) > max(2 * day.lsb_wh, 0.001 * abs(by_register))
        figures.append((register, by_register, by_interval, off))
        if off:
            finding |= MISMATCH
            words[between[-1]] = words.get(between[-1], 0) | MISMATCH
    return words, finding, figures


def test_a_register_that_shows_less_than_before_is_found_at_the_interval_in_which_it_does() -> None:
    assert one(Day([Shown(-9000, 5000), Shown(3600, 4998)])) == ({3: BACK}, BACK)


def test_one_step_of_the_display_less_is_rounding_and_more_is_not() -> None:
    assert one(Day([Shown(-9000, 5000), Shown(3600, 4990)], lsb_wh=10.0)) == ({}, 0)
    assert one(Day([Shown(-9000, 5000), Shown(3600, 4989)], lsb_wh=10.0)) == ({3: BACK}, BACK)


def test_a_rollover_is_no_step_back_if_so_much_could_have_flowed() -> None:
    most_wh = 1.2 * CAPACITY_KW * 1000  # in an hour
    before = 999_999
    fits = round(most_wh) - (1_000_000 - before)
    assert one(Day([Shown(0, before), Shown(3600, fits)], {}, digits=6)) == ({}, 0)
    assert one(Day([Shown(0, before), Shown(3600, fits + 1)], {}, digits=6)) == ({}, BACK)
    assert one(Day([Shown(0, before), Shown(3600, fits)], {})) == ({}, BACK)  # digits not known


def test_another_device_begins_another_count() -> None:
    assert one(Day([Shown(-9000, 5000), Shown(3600, 7, device=2)])) == ({}, 0)
    assert one(Day([Shown(0, 5000), Shown(3600, 7, device=2), Shown(DAY_S, 9600 + 7, device=2)])) == ({}, 0)


def test_a_step_back_belongs_to_the_day_in_which_the_later_read_lies_even_without_an_interval_read() -> None:
    assert one(Day([Shown(-9000, 5000), Shown(5, 4000)])) == ({}, 0)  # 5 s after midnight: of the day before
    assert one(Day([Shown(0, 5000), Shown(DAY_S + 5, 4000)])) == ({95: BACK}, BACK)
    assert one(Day([Shown(0, 5000), Shown(DAY_S, 4000)], {})) == ({}, BACK)


def test_intervals_that_do_not_add_up_to_the_register_are_found_at_the_last_of_them() -> None:
    words, findings, sums = judged([Day([Shown(0, 5000), Shown(DAY_S, 5000 + 9600 - 50)])])
    assert (words, findings) == ([{95: MISMATCH}], [MISMATCH])
    assert (sums.register_wh.tolist(), sums.interval_wh.tolist()) == ([9550], [9600])


def test_two_steps_of_the_display_or_a_thousandth_of_the_advance_may_be_off() -> None:
    assert one(Day([Shown(0, 0), Shown(DAY_S, 9602)])) == ({}, 0)  # 9.6 Wh is a thousandth
    assert one(Day([Shown(0, 0), Shown(DAY_S, 9609)])) == ({}, 0)
    assert one(Day([Shown(0, 0), Shown(DAY_S, 9610)])) == ({95: MISMATCH}, MISMATCH)
    assert one(Day([Shown(0, 0), Shown(DAY_S, 9620)], lsb_wh=10.0)) == ({}, 0)
    assert one(Day([Shown(0, 0), Shown(DAY_S, 9621)], lsb_wh=10.0)) == ({95: MISMATCH}, MISMATCH)


def test_nothing_is_said_of_a_sum_in_which_an_interval_is_missing_estimated_or_cut() -> None:
    whole = dict.fromkeys(range(96), 100)
    gap = {number: wh for number, wh in whole.items() if number != 40}
    assert one(Day([Shown(0, 0), Shown(DAY_S, 1)], gap)) == ({}, 0)
    assert one(Day([Shown(0, 0), Shown(DAY_S, 1)], quality=ESTIMATE)) == ({}, 0)
    assert one(Day([Shown(60, 0), Shown(DAY_S, 1)])) == ({}, 0)
    assert one(Day([Shown(0, 0)])) == ({}, 0)
    assert one(Day([Shown(4, 0), Shown(DAY_S - 4, 1)])) == ({95: MISMATCH}, MISMATCH)  # 4 s: read at midnight


def test_registers_read_within_the_day_are_compared_with_what_lies_between() -> None:
    assert one(Day([Shown(3600, 0), Shown(7200, 400)])) == ({}, 0)
    assert one(Day([Shown(3600, 0), Shown(7200, 403)])) == ({7: MISMATCH}, MISMATCH)


moments = st.one_of(st.integers(-4, 100).map(lambda n: n * 900), st.sampled_from([-5, 5, 6, 61, DAY_S - 5, DAY_S + 6]))
shown = st.builds(Shown, moments, st.integers(0, 12_000), st.integers(1, 2), st.integers(1, 2))
made_days = st.builds(
    Day,
    st.lists(shown, max_size=6, unique_by=lambda s: (s.at_s, s.register)),
    st.one_of(
        st.just(dict.fromkeys(range(96), 100)), st.dictionaries(st.integers(0, 95), st.integers(0, 900), max_size=90)
    ),
    st.sampled_from([0, 0, ESTIMATE]),
    st.sampled_from([1.0, 10.0, 1000.0]),
    st.sampled_from([0, 4, 6]),
)


@settings(max_examples=300)
@given(st.lists(made_days, min_size=1, max_size=4))
def test_the_columns_say_what_the_oracle_says(days: list[Day]) -> None:
    words, findings, sums = judged(days)
    expected = [oracle(day) for day in days]
    assert words == [one for one, _, _ in expected]
    assert findings == [one for _, one, _ in expected]
    figures = [(n, *row) for n, (_, _, rows) in enumerate(expected) for row in rows]
    found = zip(
        sums.of.tolist(), sums.register.tolist(), sums.register_wh.tolist(), sums.interval_wh.tolist(),
        sums.mismatch.tolist(), strict=True,
    )  # fmt: skip
    assert sorted(found) == sorted(figures)
