"""The ladder of estimation: the vector kernel says what a plain loop says, and each rung has its boundary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterwatch.quality import Method
from rules.estimation import ABSENT, OUTAGE_US_MAX, US, Energy, Gaps, Registers, estimate, without_supply

STEP_S = 900


@dataclass
class Meter:
    """One meter in plain lists; energy -1: nothing."""

    missing: list[bool]
    off: list[bool]
    sent: list[int]
    like: list[list[int]]
    """Per like day."""
    span: tuple[int, int, int] | None = None
    """First, last and Wh of a register."""


def gaps(meters: list[Meter], interval_s: int = STEP_S) -> Gaps:
    days, ends = len(meters[0].like), len(meters[0].missing)
    shape = (len(meters), days, ends)
    spans = [(row, *meter.span) for row, meter in enumerate(meters) if meter.span]
    columns = np.array(spans, np.int64).reshape(-1, 4)
    absent = np.full(len(spans), ABSENT, np.int64)
    nothing = Energy(np.full((len(meters), ends), ABSENT, np.int64), np.full(shape, ABSENT, np.int64))
    return Gaps(
        interval_s,
        np.array([m.missing for m in meters], np.bool_),
        np.array([m.off for m in meters], np.bool_),
        Energy(
            np.array([m.sent for m in meters], np.int64), np.array([m.like for m in meters], np.int64).reshape(shape)
        ),
        nothing,
        Registers(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3], absent, np.zeros(len(spans))),
    )


def half_up(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


def plain(meter: Meter, interval_s: int = STEP_S) -> list[tuple[int, int]]:
    """(method, Wh) per interval, straight from the words of the ladder."""
    n = len(meter.missing)
    sends = any(wh >= 0 for wh in meter.sent) or any(wh >= 0 for day in meter.like for wh in day)
    found: list[tuple[int, int] | None] = [None] * n
    for at in range(n):
        if not meter.missing[at]:
            continue
        first = last = at
        while first > 0 and meter.missing[first - 1]:
            first -= 1
        while last < n - 1 and meter.missing[last + 1]:
            last += 1
        before = meter.sent[first - 1] if first > 0 else -1
        after = meter.sent[last + 1] if last < n - 1 else -1
        if meter.off[at] and sends:
            found[at] = (Method.OUTAGE, 0)
        elif (last - first + 1) * interval_s <= 7200 and before >= 0 and after >= 0:
            line = before + Fraction((after - before) * (at - first + 1), last - first + 2)
            found[at] = (Method.LINEAR, half_up(line))
    if meter.span:
        first, last, wh = meter.span
        span = range(first, last + 1)
        open_ = [at for at in span if meter.missing[at] and found[at] is None]
        others = [found[at][1] if found[at] else meter.sent[at] for at in span if at not in open_]  # type: ignore[index]
        left = wh - sum(others)
        if open_ and wh >= 0 and left >= 0 and all(other >= 0 for other in others):
            days = [[day[at] for day in meter.like if day[at] >= 0] for at in open_]
            shape = [Fraction(sum(day), len(day)) if day else Fraction(0) for day in days]
            if not all(days) or sum(shape) == 0:
                shape = [Fraction(1)] * len(open_)
            total, so_far, given_ = sum(shape), Fraction(0), 0
            for at, part in zip(open_, shape, strict=True):
                so_far += part
                until = floor(left * so_far / total)
                found[at] = (Method.REGISTER, until - given_)
                given_ = until
    for at in range(n):
        if meter.missing[at] and found[at] is None:
            values = [day[at] for day in meter.like if day[at] >= 0][:5]
            if len(values) >= 3:
                found[at] = (Method.LIKE_DAYS, half_up(Fraction(sum(values), len(values))))
    return [one or (0, ABSENT) for one in found]


wh = st.integers(-1, 9)


@st.composite
def meters(draw: st.DrawFn) -> list[Meter]:
    ends, days = draw(st.integers(1, 14)), draw(st.integers(0, 7))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        missing = draw(st.lists(st.booleans(), min_size=ends, max_size=ends))
        sent = [-1 if gone else draw(wh) for gone in missing]
        span = None
        if draw(st.booleans()):
            first = draw(st.integers(0, ends - 1))
            span = (first, draw(st.integers(first, ends - 1)), draw(st.integers(-1, 64)))
        found.append(
            Meter(
                missing,
                draw(st.lists(st.booleans(), min_size=ends, max_size=ends)),
                sent,
                [draw(st.lists(wh, min_size=ends, max_size=ends)) for _ in range(days)],
                span,
            )
        )
    return found


def told(found: list[Meter], interval_s: int = STEP_S) -> list[list[tuple[int, int]]]:
    answer = estimate(gaps(found, interval_s))
    return [list(zip(*row, strict=True)) for row in zip(answer.method.tolist(), answer.import_wh.tolist(), strict=True)]


@settings(max_examples=400)
@given(meters())
def test_the_kernel_says_what_a_loop_over_the_ladder_says(found: list[Meter]) -> None:
    for mine, meter in zip(told(found), found, strict=True):
        expected = plain(meter)
        assert [method for method, _ in mine] == [method for method, _ in expected]
        for (method, value), (_, wanted) in zip(mine, expected, strict=True):
            # the shape of a register's count is a float: a share may fall on the other side of a whole number
            assert abs(value - wanted) <= (method == Method.REGISTER)
        if meter.span and any(method == Method.REGISTER for method, _ in mine):
            first, last, total = meter.span
            whole = [value if method else sent for (method, value), sent in zip(mine, meter.sent, strict=True)]
            assert sum(whole[first : last + 1]) == total, "a register's count is met exactly"


@settings(max_examples=50)
@given(meters())
def test_nothing_is_estimated_where_a_read_is(found: list[Meter]) -> None:
    for mine, meter in zip(told(found), found, strict=True):
        assert all(gone or estimated == (0, ABSENT) for gone, estimated in zip(meter.missing, mine, strict=True))


def meter(missing: int, before: int = 4, like: int = 0, **more: object) -> Meter:
    """`before` reads of 10 Wh, a gap, and `before` reads of 30 Wh."""
    ends = missing + 2 * before
    gone = [before <= at < before + missing for at in range(ends)]
    sent = [10] * before + [-1] * missing + [30] * before
    made = Meter(gone, [False] * ends, sent, [[20 + day] * ends for day in range(like)])
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("missing", "method"), [(8, Method.LINEAR), (9, Method.SENT)])
def test_a_line_bridges_two_hours_and_no_more(missing: int, method: Method) -> None:
    assert {one for one, _ in told([meter(missing)])[0][4:-4]} == {method}


def test_the_line_rises_evenly() -> None:
    assert told([meter(3)])[0][4:7] == [(Method.LINEAR, wh) for wh in (15, 20, 25)]


@pytest.mark.parametrize(("like", "expected"), [(2, (0, -1)), (3, (4, 21)), (5, (4, 22)), (7, (4, 22))])
def test_like_days_are_three_to_five(like: int, expected: tuple[int, int]) -> None:
    assert told([meter(9, like=like)])[0][4] == expected


def test_a_register_goes_before_like_days_and_after_a_line() -> None:
    both = meter(9, like=3, span=(0, 16, 40 + 120 + 90))
    assert set(told([both])[0][4:-4]) == {(Method.REGISTER, 10)}
    short = meter(8, like=3, span=(0, 15, 999))
    assert {method for method, _ in told([short])[0][4:-4]} == {Method.LINEAR}
    assert {method for method, _ in told([replace(both, span=(0, 16, 100))])[0][4:-4]} == {Method.LIKE_DAYS}


def test_a_meter_that_feeds_in_only_is_estimated_by_its_export() -> None:
    one = gaps([meter(3)])
    turned = replace(one, import_wh=one.export_wh, export_wh=one.import_wh)
    answer = estimate(turned)
    assert answer.method[0, 4:7].tolist() == [Method.LINEAR] * 3
    assert answer.export_wh[0, 4:7].tolist() == [15, 20, 25]
    assert answer.import_wh[0].tolist() == [ABSENT] * 11


moments = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 400)), max_size=6)


@given(moments, moments, st.integers(1, 8))
def test_an_interval_is_without_supply_from_a_failure_to_the_first_sign(
    fail: list[tuple[int, int]], back: list[tuple[int, int]], width: int
) -> None:
    starts = np.arange(0, 400, width) * US
    columns = [
        (np.array([row for row, _ in some], np.intp), np.array([at * US for _, at in some], np.int64))
        for some in (fail, back)
    ]
    found = without_supply(starts, width, columns[0], columns[1], 3)
    for row in range(3):
        for n, start in enumerate((starts // US).tolist()):
            expected = any(
                at <= start and not any(one == row and at <= sign < start + width for one, sign in back)
                for of, at in fail
                if of == row
            )
            assert found[row, n] == expected


def test_a_failure_that_nobody_ended_is_believed_for_three_days() -> None:
    starts = np.arange(0, 80 * 3600, 3600) * US
    none = (np.zeros(0, np.intp), np.zeros(0, np.int64))
    found = without_supply(starts, 3600, (np.zeros(1, np.intp), np.zeros(1, np.int64)), none, 1)
    assert found.sum() == OUTAGE_US_MAX // (3600 * US) == 72
