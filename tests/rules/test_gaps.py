"""Which reads are missing: vector code beside a plain loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rules.gaps import US, counted, grid, owed, runs, there

masks = st.integers(1, 5).flatmap(
    lambda rows: st.integers(0, 12).flatmap(
        lambda ends: st.lists(st.lists(st.booleans(), min_size=ends, max_size=ends), min_size=rows, max_size=rows)
    )
)


def plain_runs(missing: list[list[bool]]) -> list[tuple[int, int, int]]:
    found = []
    for row, ends in enumerate(missing):
        first = None
        for at, gone in enumerate([*ends, False]):
            if gone and first is None:
                first = at
            if not gone and first is not None:
                found.append((row, first, at - 1))
                first = None
    return found


@given(masks)
def test_runs_are_those_of_a_walk_along_the_ends(missing: list[list[bool]]) -> None:
    found = runs(np.array(missing, np.bool_).reshape(len(missing), -1))
    assert list(zip(found.row.tolist(), found.first.tolist(), found.last.tolist(), strict=True)) == plain_runs(missing)
    assert int(found.reads.sum()) == sum(map(sum, missing))


@given(st.integers(0, 50_000), st.integers(0, 50_000), st.sampled_from([60, 300, 900, 3600]))
def test_the_grid_has_every_end_after_from_and_up_to_to(from_s: int, length_s: int, interval_s: int) -> None:
    found = grid(from_s * US, (from_s + length_s) * US, interval_s)
    wanted = [s for s in range(from_s + 1, from_s + length_s + 1) if s % interval_s == 0]
    assert (found // US).tolist() == wanted


def test_a_meter_owes_only_intervals_that_lie_in_its_time_of_service() -> None:
    ends = grid(0, 5 * 900 * US, 900)
    due = owed(ends, 900, np.array([0, 900 * US, 901 * US]), np.array([5 * 900 * US, 3 * 900 * US, 3 * 900 * US + 1]))
    assert due.tolist() == [
        [True] * 5,
        [False, True, True, False, False],
        [False, False, True, False, False],
    ]


@given(st.lists(st.sets(st.integers(0, 40)), max_size=6), st.sets(st.integers(0, 40), min_size=1))
def test_bits_are_read_back_meter_by_meter(sets: list[set[int]], asked: set[int]) -> None:
    bits = np.zeros((len(sets), 41 // 8 + 1), np.uint8)
    for row, members in zip(bits, sets, strict=True):
        row[:] = np.packbits([slot in members for slot in range(48)], bitorder="little")
    slots = np.array(sorted(asked), np.int32)
    assert there(bits, slots).tolist() == [[slot in members for members in sets] for slot in sorted(asked)]


@given(masks, st.data())
def test_counts_are_those_of_a_loop_over_meters_and_ends(due: list[list[bool]], data: st.DataObject) -> None:
    rows, ends = len(due), len(due[0])
    came = data.draw(st.lists(st.lists(st.booleans(), min_size=ends, max_size=ends), min_size=rows, max_size=rows))
    group = data.draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    hour = sorted(data.draw(st.lists(st.integers(0, 3), min_size=ends, max_size=ends)))
    shape = (rows, ends)
    found = counted(
        np.array(due, np.bool_).reshape(shape), np.array(came, np.bool_).reshape(shape), np.array(group), 3,
        np.array(hour, np.int64), 4,
    )  # fmt: skip
    expected, present = np.zeros((3, 4), int), np.zeros((3, 4), int)
    for row in range(rows):
        for at in range(ends):
            expected[group[row], hour[at]] += due[row][at]
            present[group[row], hour[at]] += due[row][at] and came[row][at]
    assert found.expected.tolist() == expected.tolist()
    assert found.present.tolist() == present.tolist()
