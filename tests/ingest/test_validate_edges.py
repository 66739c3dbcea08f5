"""Validation to the microsecond and the row: what only one side of an edge shows."""

from __future__ import annotations

import pytest
from ingest_world import LATE_WINDOW_US, NOW_US, checked, kept, reasons
from oracle import US, Row

from meterwatch.errors import Rejected
from meterwatch.v1 import ingest_pb2 as pb

OLDEST_US, LATEST_US = NOW_US - LATE_WINDOW_US, NOW_US + 120 * US
AMBIGUOUS = pb.ROW_REASON_AMBIGUOUS
OTHER = Row("NEW", NOW_US, {"voltage_a_v": 230.0})
"""Makes a channel that the others lack: a mask is sent."""


def test_equal_rows_that_lack_a_channel_are_one() -> None:
    row = Row("ONE", NOW_US, {"import_wh": 1})
    batch = checked([row, OTHER, row, row])
    assert (batch.inner_duplicates, batch.reads.rows, reasons(batch)) == (2, 2, {})


@pytest.mark.parametrize("other", [{"import_wh": 2}, {"voltage_a_v": 230.0}, {"import_wh": 1, "voltage_a_v": 230.0}])
@pytest.mark.parametrize("turned", [False, True])
def test_a_channel_more_or_less_or_another_value_is_ambiguous_in_either_order(
    other: dict[str, float], turned: bool
) -> None:
    pair = [Row("ONE", NOW_US, {"import_wh": 1}), Row("ONE", NOW_US, other)]
    batch = checked([*(reversed(pair) if turned else pair), OTHER])
    assert reasons(batch) == {0: AMBIGUOUS, 1: AMBIGUOUS}
    assert len(kept(batch)) == 1


@pytest.mark.parametrize(("unit", "scale"), [("seconds", 1e-6), ("milliseconds", 1e-3), ("nanoseconds", 1e3)])
@pytest.mark.parametrize("edge_us", [OLDEST_US, LATEST_US])
def test_stamps_of_another_unit_are_known_from_the_first_to_the_last_that_would_be_in_time(
    unit: str, scale: float, edge_us: int
) -> None:
    per = round(1 / scale) if scale < 1 else 1
    end_us, beyond = edge_us // per * max(round(scale), 1), -1 if edge_us == OLDEST_US else 1
    with pytest.raises(Rejected, match=unit):
        checked([Row("ONE", end_us, {"import_wh": i}) for i in range(20)])
    assert len(checked([Row("ONE", end_us + beyond, {"import_wh": i}) for i in range(20)]).rejects.row) == 20


@pytest.mark.parametrize(("wrong", "refused"), [(18, False), (19, True)])
def test_more_than_nine_tenths_of_the_stamps_make_it_another_unit(wrong: int, refused: bool) -> None:
    rows = [Row("ONE", NOW_US // 1000 if i < wrong else NOW_US, {"import_wh": i}) for i in range(20)]
    if refused:
        with pytest.raises(Rejected, match="milliseconds"):
            checked(rows)
    else:
        assert len(reasons(checked(rows))) == 20, "too old, or ambiguous"
