"""Register reads are screened like events; what is wrong with one row costs no other."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_world import HOME, INSTALLED_US, LATE_WINDOW_US, NOW_US, RETIRED_US, WORLD

from ingest import meter_rows
from ingest.registers import registers_of
from meterwatch.check_profile import Limits
from meterwatch.errors import Rejected
from meterwatch.registers import RegisterBatch
from meterwatch.v1 import ingest_pb2 as pb

Sent = tuple[str, int, int, int]
"""meter, at_us, register, value_wh"""


def request(rows: list[Sent], **fields: object) -> pb.SendRegistersRequest:
    meters = list(dict.fromkeys(meter for meter, *_ in rows))
    given_: dict[str, object] = {
        "epoch": 1,
        "seq": 1,
        "meter": meters,
        "meter_index": [meters.index(meter) for meter, *_ in rows],
        "at_us": [at_us for _, at_us, *_ in rows],
        "register": [register for *_, register, _ in rows],
        "value_wh": [value for *_, value in rows],
    }
    return pb.SendRegistersRequest(**given_ | fields)


def screened(rows: list[Sent], **fields: object) -> RegisterBatch:
    return registers_of(request(rows, **fields), b"", HOME, WORLD, NOW_US, Limits())


def reason(rows: list[Sent], row: int = 0) -> str:
    batch = screened(rows)
    found = dict(zip(batch.rejects.row.tolist(), batch.rejects.reason.tolist(), strict=True))
    return pb.RowReason.Name(found[row]).removeprefix("ROW_REASON_") if row in found else ""


def test_every_reason_for_a_row_occurs_and_stops_at_its_boundary() -> None:
    tolerance_us = Limits().future_tolerance_us
    assert reason([("NOBODY-KNOWS", NOW_US, 1, 5)]) == "UNKNOWN_METER"
    assert reason([("OTHERS", NOW_US, 1, 5)]) == "NOT_YOURS"
    assert reason([("ONE", NOW_US + tolerance_us + 1, 1, 5)]) == "FUTURE"
    assert reason([("ONE", NOW_US + tolerance_us, 1, 5)]) == ""
    assert reason([("ONE", NOW_US - LATE_WINDOW_US - 1, 1, 5)]) == "TOO_OLD"
    assert reason([("ONE", NOW_US - LATE_WINDOW_US, 1, 5)]) == ""
    assert reason([("NEW", INSTALLED_US - 1, 1, 5)]) == "NOT_INSTALLED"
    assert reason([("RETIRED", RETIRED_US + 1, 1, 5)]) == "NOT_INSTALLED"
    assert reason([("ONE", NOW_US, 1, -1)]) == "NEGATIVE"
    assert reason([("ONE", NOW_US, 1, 0)]) == ""
    assert reason([("ONE", NOW_US, 1, 5), ("ONE", NOW_US, 1, 6)], 1) == "AMBIGUOUS"
    assert reason([("ONE", NOW_US, 1, 5), ("ONE", NOW_US, 2, 6)], 1) == ""


def test_a_rejected_row_is_kept_as_it_came() -> None:
    [detail] = screened([("ONE", NOW_US, 2, -7)]).rejects.detail
    assert json.loads(detail) == {"meter": "ONE", "at_us": NOW_US, "register": 2, "value_wh": -7}


@pytest.mark.parametrize(
    ("name", "rows", "fields"),
    [
        ("EMPTY_BATCH", [], {}),
        ("BAD_SEQ", [("ONE", NOW_US, 1, 5)], {"seq": 0}),
        ("BAD_SEQ", [("ONE", NOW_US, 1, 5)], {"epoch": 2**63}),
        ("COLUMN_LENGTH", [("ONE", NOW_US, 1, 5)], {"value_wh": []}),
        ("INDEX_RANGE", [("ONE", NOW_US, 1, 5)], {"meter_index": [1]}),
        ("BAD_ID", [("O NE", NOW_US, 1, 5)], {}),
        ("UNKNOWN_ENUM", [("ONE", NOW_US, 3, 5)], {}),
    ],
)
def test_what_makes_a_request_unusable_refuses_all_of_it(name: str, rows: list[Sent], fields: dict) -> None:
    with pytest.raises(Rejected) as caught:
        screened(rows, **fields)
    assert caught.value.reason == name


def test_a_request_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_rows, "ROWS_MAX", 1)
    with pytest.raises(Rejected, match="split"):
        screened([("ONE", NOW_US, 1, 5), ("ONE", NOW_US, 2, 5)])


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ONE", "THREE", "OTHERS"]), st.integers(NOW_US - 1, NOW_US), st.integers(1, 2),
            st.integers(-1, 1),
        ),
        min_size=1,
        max_size=12,
    )
)  # fmt: skip
def test_every_row_is_stored_repeated_or_rejected(rows: list[Sent]) -> None:
    batch = screened(rows)
    good = [(meter, at, register, value) for meter, at, register, value in rows if meter != "OTHERS" and value >= 0]
    values: dict[tuple[str, int, int], set[int]] = {}
    for meter, at, register, value in good:
        values.setdefault((meter, at, register), set()).add(value)
    expected = {
        (WORLD.slot_of[m], at, register, *value) for (m, at, register), value in values.items() if len(value) == 1
    }
    reads = batch.reads
    found = set(
        zip(reads.slot.tolist(), reads.at_us.tolist(), reads.register.tolist(), reads.value_wh.tolist(), strict=True)
    )
    assert found == expected
    assert batch.reads.rows == len(expected)
    assert batch.reads.rows + batch.inner_duplicates + len(batch.rejects.row) == batch.rows_sent == len(rows)
    assert (np.diff(batch.rejects.row.astype(int)) > 0).all()
