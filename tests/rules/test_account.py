"""The account of an alarm against a plain one, meter by meter and window by window."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rules.account import NONE, Account, Heard, Said, Span, account, load_account
from rules.ladder import OverloadProfile
from rules.supply import NEVER, OFF, ON, Evidence

SLOTS = [2, 3, 5]
times = st.integers(0, 30)
votes_ = st.lists(st.tuples(st.sampled_from([1, 2, 3, 5]), times, st.sampled_from([OFF, ON])), max_size=12)
stamps_ = st.lists(st.tuples(st.sampled_from([1, 2, 3, 5]), times, times), max_size=12)
spans_ = st.builds(
    lambda onset, raised, cleared, told, early, slack: Span(
        onset, onset + raised, NEVER if cleared is None else onset + raised + cleared, told, early, slack
    ),
    st.integers(3, 15), st.integers(0, 8), st.none() | st.integers(0, 8), times, st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip


def evidence(votes: list[tuple[int, int, int]]) -> Evidence:
    columns = np.array(votes, np.int64).reshape(-1, 3)
    return Evidence(columns[:, 0].astype(np.int32), columns[:, 1], columns[:, 2].astype(np.int8))


def plain(
    slot: int, votes: list[tuple[int, int, int]], stamps: list[tuple[int, int, int]], due: int, span: Span
) -> tuple[Said, int, int, int]:
    """The same for one meter, in the words of Said."""
    mine = sorted((at, vote) for one, at, vote in votes if one == slot)
    runs: list[list[int]] = []
    off = False
    for at, vote in mine:
        if vote == OFF and not off:
            runs.append([at, NEVER])
        elif vote == ON and off:
            runs[-1][1] = at
        off = vote == OFF
    known = [at for one, at, came in stamps if one == slot and came <= span.told_us and at <= span.raised_us]
    heard = max(known, default=NONE)
    later = [at for one, at, _ in stamps if one == slot and at > span.raised_us]
    began = [run for run in runs if span.onset_us - span.early_us <= run[0] < span.cleared_us]
    before = [run for run in runs if run[0] < span.onset_us - span.early_us and run[1] > span.onset_us]
    said_on = [at for at, vote in mine if vote == ON and span.onset_us + span.slack_us <= at <= span.raised_us]
    for said, found in ((Said.OFF, began), (Said.OFF_BEFORE, before)):
        if found:
            end = max(run[1] for run in found)
            return said, found[0][0], end if end < NEVER else NONE, heard
    if said_on:
        return Said.ON, said_on[0], NONE, heard
    if heard > span.onset_us:
        return Said.HEARD, NONE, NONE, heard
    if (span.onset_us if heard == NONE else heard) + due <= span.raised_us:
        return Said.SILENT, NONE, min(later, default=NONE), heard
    return Said.NOT_DUE, NONE, NONE, heard


@given(votes_, stamps_, st.integers(0, 10), spans_)
def test_the_account_of_each_meter_is_the_plain_one(
    votes: list[tuple[int, int, int]], stamps: list[tuple[int, int, int]], due: int, span: Span
) -> None:
    columns = np.array(stamps, np.int64).reshape(-1, 3)
    heard = Heard(columns[:, 0].astype(np.int32), columns[:, 1], columns[:, 2])
    slots = np.array(SLOTS, np.int32)
    found: Account = account(slots, evidence(votes), heard, np.full(3, due, np.int64), span)
    for i, slot in enumerate(SLOTS):
        got = Said(int(found.said[i])), int(found.said_us[i]), int(found.back_us[i]), int(found.heard_us[i])
        assert got == plain(slot, votes, stamps, due, span)


def curve(loads: list[float], coverage: float = 1.0, rated_kva: float = 100.0) -> list[np.ndarray]:
    """Columns of load_account for so many windows of a load over the rating; a negative one has not arrived."""
    vah = np.array(loads) * rated_kva * 1000 / 4
    n, expected = len(loads), 900_000
    covered = np.where(vah < 0, 0, int(coverage * expected)).astype(np.int64)
    wh = np.maximum(vah, 0).round().astype(np.int64)
    return [np.arange(n, dtype=np.int64), wh, np.zeros(n, np.int64), covered, np.full(n, expected, np.int64)]


def test_a_window_says_how_long_the_next_level_has_been_held() -> None:
    told = load_account(OverloadProfile(), 100.0, *curve([0.5, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 0.5]))
    assert [w.hold_s for w in told[:4]] == [0, 900, 1800, 2700]
    assert [w.level for w in told] == [""] * 8 + ["OVERLOAD"] * 2
    assert told[-1].clear_s == 900


def test_a_window_without_enough_reads_neither_holds_nor_clears() -> None:
    told = load_account(OverloadProfile(), 100.0, *curve([1.1, -1, 1.1]))
    assert [(w.valid, w.hold_s) for w in told] == [(True, 900), (False, 900), (True, 1800)]


def test_a_window_that_is_missing_is_a_gap() -> None:
    columns = [np.delete(column, 1) for column in curve([1.1, 9.9, 1.1])]
    told = load_account(OverloadProfile(), 100.0, *columns)
    assert [(w.window, w.valid, w.hold_s) for w in told] == [(0, True, 900), (1, False, 900), (2, True, 1800)]


def test_a_transformer_without_a_rating_has_no_account() -> None:
    assert load_account(OverloadProfile(), 0.0, *curve([1.0])) == []
