"""Transformers that rest are not stepped through; the ladder's state is as if they had been."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.ladder import Ladder, LadderState, OverloadProfile

LOAD = st.one_of(st.none(), st.floats(0, 0.79), st.floats(0.75, 2.5))


@settings(deadline=None)
@given(
    st.lists(st.lists(LOAD, min_size=6, max_size=6), min_size=1, max_size=12),
    st.lists(st.lists(st.one_of(st.none(), st.floats(0, 0.79)), min_size=6, max_size=6), min_size=1, max_size=12),
    st.integers(0, 3),
)
def test_windows_that_leave_a_transformer_at_rest_change_its_gap_alone(
    before: list[list[float | None]], calm: list[list[float | None]], max_gap: int
) -> None:
    ladder = Ladder(OverloadProfile(max_gap_windows=max_gap))
    state = LadderState.cold(6, len(OverloadProfile().levels))
    step_all(ladder, state, 0, before)
    load, valid = arrays(calm)
    rest = np.flatnonzero(ladder.rests(state, slice(None), load))
    quick, stepped = state.take(rest), state.take(rest)
    quick.gap = ladder.gap_after(quick.gap, valid[:, rest])
    for window, (b, ok) in enumerate(zip(load[:, rest], valid[:, rest], strict=True), len(before)):
        assert not ladder.step(stepped, window, b, ok).any()
    for column in fields(LadderState):
        assert np.array_equal(getattr(quick, column.name), getattr(stepped, column.name)), column.name


def arrays(loads: list[list[float | None]]) -> tuple[np.ndarray, np.ndarray]:
    """(b, valid), [windows, transformers]."""
    valid = np.array([[one is not None for one in row] for row in loads])
    return np.array([[one or 0.0 for one in row] for row in loads]), valid


def step_all(ladder: Ladder, state: LadderState, first: int, loads: list[list[float | None]]) -> None:
    for window, (b, valid) in enumerate(zip(*arrays(loads), strict=True), first):
        ladder.step(state, window, b, valid)
