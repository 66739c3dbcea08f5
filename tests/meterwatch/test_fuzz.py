"""Everything that reads what others send takes it or refuses it by name; the long form is `make fuzz N=100000`."""

from __future__ import annotations

import random

import pytest
from google.protobuf.wrappers_pb2 import UInt64Value

from meterwatch.devtools import broken_wire, fuzz
from meterwatch.devtools.fuzz_target import ACCEPTED, FINDINGS_MAX, SOUND_EVERY, Target
from meterwatch.devtools.fuzz_targets import TARGETS
from meterwatch.errors import Rejected

RUNS = 300
OF_YAML = {"rules": 100, "rule_tests": 60, "routes": 150}
"""PyYAML is slow."""


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_arrives_is_taken_or_refused_by_name(name: str) -> None:
    runs = OF_YAML.get(name, RUNS)
    report = fuzz.run(name, TARGETS[name], range(runs))
    assert not report.findings, report.findings[0]
    assert report.runs == runs
    assert report.outcomes[ACCEPTED] >= runs // SOUND_EVERY
    assert len(report.outcomes) > 2, "what is broken must reach more than one refusal"


def _falls_over(data: bytes) -> str:
    if b"\xff" in data:
        raise KeyError("planted")
    if b"\xfe" in data:
        raise Rejected("", "without a reason")
    return ACCEPTED


def test_a_fault_is_found_and_the_same_run_finds_it_again() -> None:
    target = Target(lambda _: b"sound", lambda rng, _: rng.randbytes(3), _falls_over)
    report = fuzz.run("planted", target, range(2000))
    assert len(report.findings) == FINDINGS_MAX
    number = int(report.findings[0].split("--first ")[1].split()[0])
    again = fuzz.run("planted", target, [number])
    assert again.findings == report.findings[:1]


@pytest.mark.parametrize(
    ("name", "seed", "number"),
    [
        ("rule_tests", 7, 1079),
        ("csv", 1, 118),
        ("routes", 1, 711),
        ("config", 1, 302),
        ("edit", 20261128, 29350),
        ("config", 20261128, 85888),
    ],
)
def test_what_was_found_stays_mended(name: str, seed: int, number: int) -> None:
    """A message that no terminal should be sent; CR in the header of a CSV; the same as the first, twice; an edit
    drawn as sound with two values for one interval; a percent of a password, not encoded, that made no text."""
    assert not fuzz.run(name, TARGETS[name], [number], seed).findings


def test_a_sound_input_that_is_refused_is_a_finding() -> None:
    target = Target(lambda _: b"\xfe", lambda _rng, data: data, lambda _: "refused")
    assert fuzz.run("planted", target, [0]).findings


def test_what_is_taken_apart_is_put_together_again() -> None:
    rng = random.Random(3)
    for _ in range(50):
        (around,) = broken_wire.taken_apart(TARGETS["batch"].sound(rng))
        whole = around.payload
        assert broken_wire.put_together(broken_wire.taken_apart(whole)) == whole


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32 + 7, 2**64 - 1])
def test_a_varint_is_the_one_of_protobuf(value: int) -> None:
    assert broken_wire.varint(value) == (UInt64Value(value=value).SerializeToString()[1:] or b"\x00")


def test_every_way_to_break_bytes_changes_them_most_of_the_time() -> None:
    for way in broken_wire.WAYS:
        rng = random.Random(1)
        changed = 0
        for _ in range(60):
            whole = TARGETS["reads"].sound(rng)
            fields = broken_wire.taken_apart(whole)
            made = way(rng, fields, rng.randrange(len(fields)))
            changed += (made if isinstance(made, bytes) else broken_wire.put_together(made)) != whole
        assert changed > 15, way.__name__
