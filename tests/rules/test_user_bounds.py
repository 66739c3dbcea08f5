"""Law of rules.user.bounds: looking at few rows finds the same rows as computing all of them, whatever is in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.user import bounds
from rules.user.bounds import ANYTHING, NOTHING, Block
from rules.user.columns import COLUMNS, On
from rules.user.expression import Wrong, negated, parsed
from rules.user.program import Program
from tests.rules.test_user_expression import TRUTH

METER = COLUMNS[On.METER]
NARROW = ("voltage_a_v", "voltage_b_v", "voltage_max_v", "power_factor", "nominal_v")
"""float32 as in the service; all others are float64."""
USUAL = st.sampled_from([230.0, 230.0, 231.5, 0.0, float("nan")])
ODD = st.one_of(st.floats(width=32), st.sampled_from([253.1, 253.10001, -230.0, 1e-38, 3e38, float("inf")]))


class Plain:
    """rules.user.program.Columns over given arrays; counts the rows that are asked for."""

    def __init__(self, columns: dict[str, Any], flags: Any) -> None:
        self.columns, self.flags = columns, flags
        self.rows = len(flags)
        self.taken = 0

    def number(self, name: str) -> Any:
        return self.columns[name]

    def flag(self, name: str) -> Any:
        return self.flags

    def take(self, rows: Any) -> Plain:
        self.taken += len(rows)
        return Plain({name: values[rows] for name, values in self.columns.items()}, self.flags[rows])


def columns_of(values: dict[str, list[float]], rows: int) -> Plain:
    made = {name: np.array(values[name][:rows], np.float32 if name in NARROW else np.float64) for name in values}
    return Plain(made, np.arange(rows) % 3 == 0)


@st.composite
def a_block(draw: st.DrawFn) -> Plain:
    """Mostly the same values, as in a calm fleet, and a few odd ones."""
    rows = draw(st.integers(1, 24))
    names = (*NARROW, "import_kw")
    values = {name: [draw(USUAL)] * rows for name in names}
    for _ in range(draw(st.integers(0, 6))):
        name, at = draw(st.sampled_from(names)), draw(st.integers(0, rows - 1))
        values[name][at] = draw(st.one_of(USUAL, ODD))
    return columns_of(values, rows)


@settings(max_examples=500, deadline=None)
@given(st.lists(TRUTH, min_size=1, max_size=4), a_block(), st.sampled_from([0, 1, 2, 8]))
def test_few_rows_say_what_all_rows_say(texts: list[str], columns: Plain, few: int) -> None:
    program, steps = Program(), []
    for text in texts:
        try:
            node = parsed(text, METER)
        except Wrong:
            continue  # constants alone
        steps += [program.add(node), program.add(negated(node))]
    block, whole = Block(program, columns), program.on(columns)
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(bounds, "FEW", few)
        for step in steps:
            assert block.hits(step).tolist() == np.flatnonzero(whole.truth(step)).tolist()


@settings(max_examples=300, deadline=None)
@given(TRUTH, a_block())
def test_every_value_lies_within_its_bounds(text: str, columns: Plain) -> None:
    try:
        node = parsed(text, METER)
    except Wrong:
        return
    program = Program()
    program.add(node)
    block, values = Block(program, columns), program.on(columns)
    numbers = [n for n, (one, _) in enumerate(program._steps) if one.op in ("column", "+", "-", "*", "/", "abs", "neg")]
    with np.errstate(all="ignore"):
        for number in numbers:
            low, high = block.bounds(number)
            found = np.atleast_1d(values.number(number))
            known = found[~np.isnan(found)]
            assert ((known >= low) & (known <= high)).all()
            if (low, high) == NOTHING:
                assert not len(known)


def test_a_calm_block_takes_no_row_and_two_limits_share_their_candidates() -> None:
    rows = 1000
    volts = np.full(rows, 230, np.float32)
    nominal = np.full(rows, 230, np.float32)
    program = Program()
    steps = [program.add(parsed(f"voltage_a_v > 1.{limit} * nominal_v", METER)) for limit in (10, 12, 20)]
    calm = Plain({"voltage_a_v": volts, "nominal_v": nominal}, np.zeros(rows, np.bool_))
    block = Block(program, calm)
    assert [block.hits(step).tolist() for step in steps] == [[], [], []]
    assert calm.taken == 0
    volts = volts.copy()
    volts[[7, 500]] = 255, 270
    beyond = Plain({"voltage_a_v": volts, "nominal_v": nominal}, np.zeros(rows, np.bool_))
    block = Block(program, beyond)
    assert [block.hits(step).tolist() for step in steps] == [[7, 500], [500], []]
    assert beyond.taken == 2


def test_a_divisor_that_may_be_zero_bounds_nothing() -> None:
    program = Program()
    program.add(parsed("import_kw / power_factor > 3", METER))
    columns = columns_of({"import_kw": [1.0, 2.0], "power_factor": [-0.5, 0.5]}, 2)
    number = next(n for n, (node, _) in enumerate(program._steps) if node.op == "/")
    assert Block(program, columns).bounds(number) == ANYTHING
