"""Laws of a share of the time: never more than what was saved and the share, and never nothing for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterwatch.time_share import TimeShare


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 0.5)), min_size=1, max_size=50))
def test_work_takes_its_share_and_one_piece_more(steps: list[tuple[float, float]]) -> None:
    now_s, worked_s = 0.0, 0.0
    share = TimeShare(0.25, 1.0, lambda: now_s)
    for idle_s, piece_s in steps:
        now_s += idle_s
        share.start()
        while share.goes_on():
            now_s += piece_s
            worked_s += piece_s
        assert worked_s <= 1.0 + 0.25 * now_s + 0.5
    now_s += 60.0
    share.start()
    assert share.goes_on()
