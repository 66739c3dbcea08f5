"""Laws of validation by what is known of a meter at the time: its multiplier, its class, the profile of that time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_world import FOREVER, HOME, NOW_US, WORLD, decoded, kept, message, reasons, registry
from oracle import US, Row

from ingest.validate import validate
from meterwatch.check_profile import CheckProfile, Limits
from meterwatch.multipliers import Multipliers
from meterwatch.quality import Quality
from meterwatch.v1 import ingest_pb2 as pb

STEP_US = 900 * US


def test_energies_behind_transformers_are_multiplied_by_that_of_their_time_and_compared_as_metered():
    """Multiplier 40 until a quarter-hour ago, 60 since; U and I are metered too, 230 V x 1 A, so 57 Wh fit them."""
    before, after = NOW_US - 900 * US, NOW_US
    values = {"import_wh": 57, "voltage_a_v": 230.0, "current_a_a": 1.0, "power_factor": 1.0}
    rows = [Row("ONE", at, values) for at in (before, after)]
    rows.append(Row("ONE", before - 900 * US, {"voltage_a_v": 230.0}))  # the energy it does not send is not too large
    slot, since = np.zeros(2, np.int32), np.array([0, before])
    history = Multipliers(slot, since, np.array([before, FOREVER]), np.array([40, 60], np.float32))
    world = replace(registry(), multipliers=history)
    energies = {}
    for meaning in (pb.VALUE_MEANING_PRIMARY, pb.VALUE_MEANING_SECONDARY):
        batch = message(rows)
        batch.value_meaning = meaning
        found = decoded(batch, ["ONE"])
        judged = validate(
            found, np.zeros(3, np.int32), ["ONE"], HOME, 7, world, NOW_US, CheckProfile(ingest=(Limits(),))
        )
        assert not len(judged.rejects.row)
        assert not (judged.reads.quality & (Quality.POWER_MISMATCH | Quality.UNIT_MISMATCH)).any()
        energies[meaning] = judged.reads.channels["import_wh"][1:].tolist()
    assert energies == {pb.VALUE_MEANING_PRIMARY: [57, 57], pb.VALUE_MEANING_SECONDARY: [57 * 40, 57 * 60]}


def test_an_energy_that_multiplied_leaves_32_bits_is_above_capacity():
    slot, since, until = np.zeros(1, np.int32), np.zeros(1, np.int64), np.array([FOREVER])
    history = Multipliers(slot, since, until, np.array([1e6], np.float32))
    batch = message([Row("ONE", NOW_US, {"import_wh": 5000})])
    batch.value_meaning = pb.VALUE_MEANING_SECONDARY
    world = replace(registry(), multipliers=history)
    judged = validate(
        decoded(batch, ["ONE"]),
        np.zeros(1, np.int32),
        ["ONE"],
        HOME,
        7,
        world,
        NOW_US,
        CheckProfile(ingest=(Limits(),)),
    )
    assert reasons(judged) == {0: pb.ROW_REASON_ABOVE_CAPACITY}


def test_each_class_of_meters_has_its_own_limits():
    """ONE is single-phase and NOBODYS polyphase: with a contract factor of 1 for the former, only it is above."""
    rows = [Row("ONE", NOW_US, {"import_wh": 2501}), Row("NOBODYS", NOW_US, {"import_wh": 1251})]
    strict = replace(Limits(), contract_factor=1.0)
    for by_class, above in (((Limits(),), [0, 0]), ((strict,), [1, 1]), ((strict, Limits(), Limits()), [1, 0])):
        found = decoded(message(rows), ["ONE", "NOBODYS"])
        slot = np.array([WORLD.slot_of[row.meter] for row in rows], np.int32)
        batch = validate(found, slot, ["ONE", "NOBODYS"], HOME, 7, WORLD, NOW_US, CheckProfile(ingest=by_class))
        assert ((batch.reads.quality & Quality.ABOVE_CONTRACT) != 0).tolist() == above


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-3, 1), st.integers(0, 10_000)), min_size=1, unique_by=lambda row: row[0]))
def test_a_read_is_judged_by_the_profile_of_its_own_time_whatever_comes_with_it(told):
    """The contract factor changes from 3 to 1 one interval ago: a read that ends then is still under the old one."""
    change_us = NOW_US - STEP_US
    strict = CheckProfile(ingest=(replace(Limits(), contract_factor=1.0),))
    rows = [Row("ONE", change_us + steps * STEP_US, {"import_wh": wh}) for steps, wh in told]
    slots = np.zeros(len(rows), np.int32)
    profile = CheckProfile(changes=((change_us, strict),))
    batch = validate(decoded(message(rows), ["ONE"]), slots, ["ONE"], HOME, 7, WORLD, NOW_US, profile)
    above = {end_us: bool(quality & Quality.ABOVE_CONTRACT) for _, end_us, quality, _ in kept(batch)}
    rejected = len(batch.rejects.row)
    assert len(above) + rejected == len(rows)
    for row in rows:
        limit_wh = 2500 if row.end_us > change_us else 7500
        if row.end_us in above:
            assert above[row.end_us] == (row.values["import_wh"] > limit_wh)
