"""The state kept of assets not at rest: a dictionary as oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.user import kept
from rules.user.fold import REST, Lanes
from rules.user.kept import Kept

State = tuple[int, int, int, int, float]
AT_REST: State = (REST, 0, 0, 0, 0.0)
ONE = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.sampled_from([0, 5]), st.floats(0, 9))
STEP = st.dictionaries(st.integers(0, 30), st.one_of(st.just(AT_REST), ONE), max_size=20)


def lanes(states: list[State]) -> Lanes:
    columns = [np.array([state[i] for state in states], np.int64) for i in range(4)]
    return Lanes(*columns, np.array([state[4] for state in states]).reshape(-1, 1))


def states(of: Lanes) -> list[State]:
    columns: list[list[Any]] = [of.onset_us.tolist(), of.covered_us.tolist(), of.last_true_us.tolist()]
    rows = zip(*columns, of.raised_us.tolist(), of.values[:, 0].tolist(), strict=True)
    return [row if row[0] != REST else AT_REST for row in rows]


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(STEP, max_size=12), rows_min=st.sampled_from([1, 64]))
def test_each_asset_has_the_state_it_was_given_last(steps: list[dict[int, State]], rows_min: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "ROWS_MIN", rows_min)
        found, known = Kept(1), dict[int, State]()
        for step in steps:
            assets = np.array(sorted(step), np.int32)
            assert states(found.picked(assets)) == [known.get(asset, AT_REST) for asset in sorted(step)]
            found.keep(assets, lanes([step[asset] for asset in sorted(step)]))
            known |= step
            known = {asset: state for asset, state in known.items() if state[0] != REST}
            assert len(found) == len(known)
            firing = {asset: state[0] for asset, state in known.items() if state[3]}
            assert dict(zip(*(column.tolist() for column in found.firing()), strict=True)) == firing
            assert len(found._lanes.onset_us) <= max(4 * len(known), 2 * 20) + 3 * rows_min
        every = np.arange(31, dtype=np.int32)
        assert states(found.picked(every)) == [known.get(asset, AT_REST) for asset in range(31)]
        found.clear()
        assert (len(found), states(found.picked(every))) == (0, [AT_REST] * 31)


def test_a_night_in_which_everybody_was_awake_is_given_back() -> None:
    found, everybody = Kept(1), np.arange(10_000, dtype=np.int32)
    found.keep(everybody, lanes([(1, 1, 1, 0, 1.0)] * 10_000))
    found.keep(everybody[5:], lanes([AT_REST] * 9_995))
    assert len(found) == 5
    assert len(found._lanes.onset_us) < 200
    assert states(found.picked(everybody[:6])) == [(1, 1, 1, 0, 1.0)] * 5 + [AT_REST]
