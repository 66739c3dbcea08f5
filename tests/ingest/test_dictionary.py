"""The dictionary of a stream against a list and a set: the same numbers, the same refusals, whatever the messages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_world import METERS, registry

import ingest.dictionary
from ingest.decode import fingerprint
from ingest.dictionary import Dictionary
from meterwatch.errors import Rejected

KNOWN = [name for name, *_ in METERS if name]
METER = st.sampled_from([*KNOWN, *(f"X-{n}" for n in range(20)), "spaced out", ""])


def found(dictionary: Dictionary, names: list[str], topology_meters: list[str]) -> None:
    """The dictionary says of every index what the list says."""
    assert list(dictionary) == names
    assert dictionary[1:3] == names[1:3]
    assert dictionary.slots.tolist() == [topology_meters.index(n) if n in topology_meters else -1 for n in names]
    assert dictionary.fingerprints.tolist() == [fingerprint(name) for name in names]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(METER, max_size=6), max_size=8),
    st.integers(1, 9),
    st.integers(0, 8),
)
def test_a_message_is_taken_whole_or_refused_as_a_list_and_a_set_would(
    messages: list[list[str]], part: int, renewed_at: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest.dictionary, "PART", part)
        patch.setattr(ingest.dictionary, "RESOLVED_TOGETHER", 2)
        topology, topology_meters = registry(), [name for name, *_ in METERS]
        dictionary = Dictionary(topology)
        names: list[str] = []
        for number, message in enumerate(messages):
            if number == renewed_at:  # some that were unknown are registered now
                topology_meters = [*topology_meters, "X-1", "X-2"]
                topology = registry([*METERS, *((name, 1, 1, 230.0, 100.0, 5.0, 0, 1) for name in ("X-1", "X-2"))])
                dictionary.resolve(topology)
                found(dictionary, names, topology_meters)
            bad = any(meter in ("", "spaced out") for meter in message)
            again = len(set(message)) < len(message) or not set(names).isdisjoint(message)
            if bad or again:
                with pytest.raises(Rejected) as refused:
                    dictionary.append(message, topology)
                assert refused.value.reason == ("BAD_ID" if bad else "DICTIONARY_CHANGED")
            else:
                dictionary.append(message, topology)
                names += message
            found(dictionary, names, topology_meters)


def test_a_meter_of_a_big_dictionary_costs_far_less_than_its_text_as_an_object() -> None:
    dictionary, topology = Dictionary(registry()), registry()
    for first in range(0, 50_000, 10_000):
        dictionary.append([f"7{n:011}" for n in range(first, first + 10_000)], topology)
    dictionary.append(["LAST"], topology)
    held = sum(
        len(names._text) + names._start.nbytes + names._length.nbytes  # all there is of a part
        for _, names in dictionary._parts
    )
    held += dictionary._unknown._sorted.nbytes + dictionary._unknown._newest.nbytes
    held += dictionary.slots.nbytes + dictionary.fingerprints.nbytes
    assert held / len(dictionary) < 40
    assert dictionary.nbytes == pytest.approx(held, rel=0.02)
    assert (dictionary[49_999], dictionary[50_000]) == ("700000049999", "LAST")
    assert np.array_equal(dictionary.slots, np.full(50_001, -1))
