"""Names in one piece of text against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import meterwatch.names
from meterwatch.names import Names, Numbers

NAME = st.text(max_size=6)


def names_of(names: list[str]) -> Names:
    encoded = [name.encode() for name in names]
    length = np.array([len(one) for one in encoded], np.int32)
    return Names(b"".join(encoded), np.cumsum(length, dtype=np.int64) - length, length)


@pytest.mark.parametrize("collide", [False, True], ids=["hashed", "every hash the same"])
@settings(max_examples=200, deadline=None)
@given(st.lists(NAME, unique=True), st.lists(NAME), st.integers(1, 9))
def test_numbers_are_those_of_a_dict(collide: bool, names: list[str], asked: list[str], together: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meterwatch.names, "HASHED_TOGETHER", together)
        if collide:
            patch.setattr(meterwatch.names, "_hashes", lambda _, start, length: np.zeros(len(length), np.uint64))
        numbers = Numbers(names_of(names))
        expected = {name: number for number, name in enumerate(names) if name}
        assert len(numbers) == len(expected)
        assert dict(numbers.items()) == expected
        every = [*names, *asked, *(name[:-1] for name in names)]
        assert numbers.find(every).tolist() == [expected.get(name, -1) for name in every]


def test_a_million_meter_numbers_hardly_share_a_hash() -> None:
    names = names_of([f"7{number:011}" for number in range(0, 1_000_000, 5)])
    assert len(np.unique(Numbers(names)._hash)) == len(names)
