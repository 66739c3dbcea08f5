"""The language of user rules: what is read, what is refused, and that the arrays say what one row by itself says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meterwatch.batch import Reads
from meterwatch.channels import CHANNEL_BIT
from meterwatch.quality import Quality
from rules.user.columns import COLUMNS, Kind, On
from rules.user.expression import CHARACTERS_MAX, DEPTH_MAX, Wrong, negated, parsed
from rules.user.program import Program
from rules.user.read_columns import ReadColumns
from rules.user.template import template
from tests.rules import user_oracle
from tests.rules.overload_world import tree

METER = COLUMNS[On.METER]
TOPOLOGY = tree(4)

HOSTILE = [
    "__import__('os').system('true')",
    "().__class__.__bases__[0].__subclasses__()",
    "voltage_a_v.real > 1",
    "voltage_a_v[0] > 1",
    "open('/etc/passwd')",
    "eval('1') > voltage_a_v",
    "9**9**9**9 > voltage_a_v",
    "2**voltage_a_v > 1",
    "1e400 > voltage_a_v",
    "9" * 400 + " > voltage_a_v",
    "(" * 500 + "voltage_a_v" + ")" * 500 + " > 1",
    "-" * 1500 + "1 > voltage_a_v",
    "not " * 400 + "supply_off",
    "voltage_a_v > " + " + ".join(["1"] * 400),
    "voltage_a_v > 1 " * 500,
    "[x for x in range(10**9)] > voltage_a_v",
    "(lambda: 1)() > voltage_a_v",
    "f'{voltage_a_v}' > 1",
    "'a' * 10**9 > voltage_a_v",
    "voltage_a_v if supply_off else 1",
    "(x := voltage_a_v) > 1",
    "voltage_a_v > 1; import os",
    "voltage_a_v > 1 # comment",
    "voltage_a_v > 1) or (supply_off",
    "voltage_a_v >> 3 > 1",
    "~voltage_a_v > 1",
    "voltage_a_v % 0 > 1",
    "voltage_a_v > 1/0",
    "True",
    "None is voltage_a_v",
    "voltage_a_v",
    "1 < 2",
    "min(voltage_a_v) > 1",
    "min(*voltage_a_v) > 1",
    "abs(x=voltage_a_v) > 1",
    "present(supply_off)",
    "present(1)",
    "supply_off > 1",
    "voltage_a_v and supply_off",
    "no_such_column > 1",
    "import_wh > 0x1p3",
    "voltage_a_v\0 > 1",
    "\ud800 > 1",
    "",
    "   \n ",
    "voltage_a_v > 1j",
    "voltage_a_v > b'x'",
    "voltage_a_v > ...",
    "await voltage_a_v",
    "print(1) > voltage_a_v",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_not_known_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(Wrong) as refused:
        parsed(text, METER)
    assert 5 < len(refused.value.message) < 2000
    assert refused.value.column >= 1


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.text(st.sampled_from("()[]{}.,:*/-+<>=! 019e_\n'\"#\\"), max_size=120),
        st.lists(
            st.sampled_from([*METER, "and", "or", "not", "(", ")", "<", ">", "1", "0", "-", "*", "/", "**", "abs", ",",
                             "min", "present", ".", "[", "]", "if", "else", "lambda", ":", "is", "in"]), max_size=30,
        ).map(" ".join),
    )
)  # fmt: skip
def test_any_text_is_an_expression_or_a_clear_error(text: str) -> None:
    try:
        tree = parsed(text, METER)
    except Wrong as error:
        refused = error.message
        assert refused
    else:
        assert len(text) <= CHARACTERS_MAX
        program = Program()
        found = program.on(ReadColumns(_reads([(1.0, 2.0, 3.0)]), slice(0, 1), TOPOLOGY)).truth(program.add(tree))
        assert found.dtype == np.bool_


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100))
def test_any_template_is_one_or_a_clear_error(text: str) -> None:
    try:
        made = template(text, ["asset", "rule"])
    except Wrong as error:
        refused = error.message
        assert refused
    else:
        assert isinstance(made.filled({"asset": "{rule}", "rule": "r"}), str)


@pytest.mark.parametrize(
    "text", ["{asset.name}", "{asset!r}", "{asset:>9}", "{0}", "{}", "{other}", "{asset", "}", "{{asset}}"]
)
def test_a_template_has_names_and_nothing_else(text: str) -> None:
    with pytest.raises(Wrong):
        template(text, ["asset"])


def test_a_filled_value_is_not_read_again() -> None:
    assert template("at {asset}, {rule}", ["asset", "rule"]).filled({"asset": "{rule}", "rule": "r"}) == "at {rule}, r"


NUMBERS = ["voltage_a_v", "voltage_b_v", "voltage_max_v", "import_kw", "power_factor", "nominal_v"]


def _numbers(inner: Any) -> Any:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        inner.map(lambda x: f"abs({x})"),
        inner.map(lambda x: f"-{x}"),
    )


NUMBER = st.recursive(st.one_of(st.sampled_from(NUMBERS), st.sampled_from(["0", "1", "0.5", "230", "253.1"])), _numbers,
                      max_leaves=4)  # fmt: skip
ATOM = st.one_of(
    st.tuples(NUMBER, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMBER).map(" ".join),
    st.tuples(NUMBER, NUMBER, NUMBER).map(lambda t: f"{t[0]} < {t[1]} <= {t[2]}"),
    st.sampled_from(["supply_off", "present(voltage_b_v)", "present(power_factor)"]),
)
TRUTH = st.recursive(
    ATOM,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda x: f"(not {x})"),
    ),
    max_leaves=6,
)
VOLT = st.sampled_from([None, 0.0, 1.0, 230.0, 253.1, 253.2])
ROW = st.tuples(VOLT, VOLT, VOLT)


def _reads(rows: list[tuple[float | None, float | None, float | None]]) -> Reads:
    names = ("voltage_a_v", "voltage_b_v", "power_factor")
    mask = np.array(
        [sum(CHANNEL_BIT[n] for n, v in zip(names, row, strict=True) if v is not None) for row in rows], np.uint32
    )
    channels: dict[str, Any] = {
        name: np.array([0 if row[i] is None else row[i] for row in rows], np.float32) for i, name in enumerate(names)
    }
    channels["import_wh"] = np.arange(len(rows), dtype=np.int32) * 1000
    n = len(rows)
    quality = np.where(np.arange(n) % 2, int(Quality.SUPPLY_OFF), 0).astype(np.int32)
    slot = np.arange(n, dtype=np.int32) % 4
    return Reads(slot, np.full(n, 900_000_000, np.int64), 900, quality, channels, mask | CHANNEL_BIT["import_wh"])


def _row(reads: Reads, at: int) -> dict[str, Any]:
    """One read as a person looks at it."""
    assert reads.mask is not None

    def value(name: str) -> Any:
        return (
            reads.channels[name][at]
            if reads.mask is not None and reads.mask[at] & CHANNEL_BIT[name]
            else np.float32("nan")
        )

    phases = [v for v in (value("voltage_a_v"), value("voltage_b_v")) if not np.isnan(v)]
    return {
        "voltage_a_v": value("voltage_a_v"),
        "voltage_b_v": value("voltage_b_v"),
        "power_factor": value("power_factor"),
        "voltage_max_v": max(phases) if phases else np.float32("nan"),
        "import_kw": np.float64(int(reads.channels["import_wh"][at])) * (3.6 / 900),
        "nominal_v": np.float32(230),
        "supply_off": bool(reads.quality[at] & Quality.SUPPLY_OFF),
    }


@settings(max_examples=400, deadline=None)
@example("voltage_a_v <= min(253.1, 253.1)", [(253.1, None, None)])
@example("voltage_a_v <= 506.2 / 2", [(253.1, None, None)])
@given(TRUTH, st.lists(ROW, min_size=1, max_size=8))
def test_arrays_say_what_one_row_by_itself_says(text: str, rows: Any) -> None:
    try:
        node = parsed(text, METER)
    except Wrong:
        return  # constants alone
    reads, program = _reads(rows), Program()
    true, false = program.add(node), program.add(negated(node))
    values = program.on(ReadColumns(reads, slice(0, reads.rows), TOPOLOGY))
    with np.errstate(all="ignore"):
        expected = [user_oracle.truth(text, _row(reads, at)) for at in range(reads.rows)]
    assert values.truth(true).tolist() == [one is True for one in expected]
    assert values.truth(false).tolist() == [one is False for one in expected]


def test_the_deepest_expression_that_is_read_can_be_computed() -> None:
    depth = DEPTH_MAX - 2
    node = parsed("abs(" * depth + "voltage_a_v" + ")" * depth + " > 1", METER)
    program = Program()
    assert program.on(ReadColumns(_reads([(230.0, None, None)]), slice(0, 1), TOPOLOGY)).truth(program.add(node))[0]


def test_every_column_has_values_of_its_kind() -> None:
    columns = ReadColumns(_reads([(230.0, None, None)]), slice(0, 1), TOPOLOGY)
    for name, column in METER.items():
        found = columns.number(name) if column.kind is Kind.NUMBER else columns.flag(name)
        assert found.shape == (1,)
        assert found.dtype.kind == ("f" if column.kind is Kind.NUMBER else "b")


def test_what_two_rules_share_is_computed_once() -> None:
    program = Program()
    one = program.add(parsed("voltage_max_v > 1.1 * nominal_v", METER))
    steps = len(program._steps)
    assert program.add(parsed("voltage_max_v > 1.1*nominal_v", METER)) == one
    assert len(program._steps) == steps
