"""Laws of validation: it says of each row what the scalar oracle says, and every reason and quality bit occurs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_world import (
    FOREVER,
    HOME,
    INSTALLED_US,
    LATE_WINDOW_US,
    METERS,
    NOW_US,
    RETIRED_US,
    WORLD,
    checked,
    kept,
    reasons,
    registry,
)
from oracle import DAY_US, US, Row, judge

from ingest.decode import Columns
from ingest.validate import validate
from meterwatch import data
from meterwatch.channels import CHANNELS, CURRENT, ENERGY, INTERVALS_S, VOLTAGE
from meterwatch.check_profile import DEFAULT
from meterwatch.errors import Rejected
from meterwatch.quality import DAY_BITS, Quality
from meterwatch.v1 import ingest_pb2 as pb

R = pb.RowReason
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
STEP_US = 900 * US


def f32(value: float) -> float:
    """The value as the wire carries it."""
    return float(np.float32(value))


def around(value: float) -> list[float]:
    """The float32 value and its two neighbours."""
    here = np.float32(value)
    return [float(np.nextafter(here, np.float32(-np.inf))), float(here), float(np.nextafter(here, np.float32(np.inf)))]


def energy_limits() -> list[int]:
    edges = [0, 1, -1, 2**31 - 1, -(2**31)]
    for interval_s in (60, 900):
        for _, _, phases, nominal, rated, contract, _, _ in METERS:
            edges.append(int(1.2 * nominal * f32(rated) * ((phases or 7).bit_count()) * interval_s / 3600))
            edges.append(int(3 * contract * interval_s / 3.6) if not math.isnan(contract) else 0)
    return [edge + by for edge in edges for by in (-1, 0, 1) if -(2**31) <= edge + by < 2**31]


BROKEN = [math.nan, math.inf, -math.inf, -0.0, f32(3e38), f32(-1e-45), -1.0]
VOLTS = sorted({v for n in (230.0, 231.1, 120.0, 220.0) for share in (0, 0.6, 0.8, 1, 1.5) for v in around(n * share)})
AMPS = sorted({a for rated in (100.0, 63.7, 40.0) for a in around(20 * f32(rated))})
SPECIAL = {
    **{name: energy_limits() for name in ENERGY},
    **dict.fromkeys(VOLTAGE, VOLTS + BROKEN),
    **{name: [*around(0.05), *AMPS, *BROKEN] for name in CURRENT},
    "power_factor": [*around(1.0), *around(-1.0), *BROKEN],
    "device_status": [1, 2, 8, 16, 64, 9, 2**32 - 1, 2**32 - 9],
}
GOOD = {
    "import_wh": 120, "export_wh": 0, "import_varh": 20, "export_varh": 0,
    "voltage_a_v": f32(229.4), "voltage_b_v": f32(230.6), "voltage_c_v": 228.0,
    "current_a_a": 2.5, "current_b_a": 0.0, "current_c_a": 1.25, "power_factor": f32(0.97), "device_status": 0,
}  # fmt: skip
NAMES = [meter for meter, *_ in METERS if meter]
LIMIT_STAMPS = [
    edge + by
    for edge in (NOW_US, NOW_US + 120 * US, NOW_US - LATE_WINDOW_US, INSTALLED_US, RETIRED_US, NOW_US - DAY_US)
    for by in (-STEP_US, -5 * US - 1, -5 * US, -1, 0, 1, 5 * US, 5 * US + 1, STEP_US)
]
stamps = st.one_of(
    st.integers(0, 3).map(lambda i: NOW_US - i * STEP_US),
    st.integers(0, 3).map(lambda i: NOW_US - i * STEP_US),
    st.integers(-70, 70).map(lambda d: NOW_US + d * DAY_US),
    st.sampled_from([*LIMIT_STAMPS, INT64_MIN, INT64_MIN + 1, INT64_MAX, INT64_MAX - 1, 0, -1]),
    st.sampled_from([NOW_US // 1_000_000, NOW_US // 1000, NOW_US * 1000]),
    st.integers(INT64_MIN, INT64_MAX),
)


@st.composite
def values(draw, channels: list[str]) -> dict[str, float]:
    """Values mostly good, sometimes one of the special ones, sometimes absent."""
    found = {}
    for name in channels:
        what = draw(st.integers(0, 19))
        if what < 17:
            found[name] = GOOD[name]
        elif what < 19:
            found[name] = draw(st.sampled_from(SPECIAL[name]))
    return found


@st.composite
def batches(draw) -> tuple[list[Row], int]:
    """Rows of one batch and its interval; structure first: which channels, then rows, then repeats of rows."""
    names = [channel.name for channel in CHANNELS]
    channels = draw(st.lists(st.sampled_from(names), min_size=1, max_size=5, unique=True))
    whole = draw(st.booleans())
    meters = st.sampled_from(draw(st.sampled_from([["ONE"], NAMES, [*NAMES, "UNKNOWN"]])))
    origins = draw(st.sampled_from([st.just(0), st.integers(0, 4)]))
    when = draw(st.sampled_from([stamps, st.just(NOW_US), st.integers(0, 80).map(lambda d: NOW_US - d * DAY_US // 2)]))
    row = st.builds(Row, meters, when, values(channels), origins)
    rows = draw(st.lists(row, min_size=1, max_size=40))
    rows += [
        Row(rows[i].meter, rows[i].end_us, dict(rows[i].values))
        for i in draw(st.lists(st.integers(0, len(rows) - 1), max_size=4))
    ]
    if whole:
        for one in rows:
            one.values = {name: one.values.get(name, GOOD[name]) for name in channels}
    if not any(one.values for one in rows):
        rows[0].values = {channels[0]: GOOD[channels[0]]}
    return rows, draw(st.sampled_from([60, 900, 900, *INTERVALS_S]))


def assert_as_the_oracle_says(rows: list[Row], interval_s: int, now_us: int = NOW_US, topology=WORLD) -> None:
    expected = judge(rows, interval_s, HOME, topology, now_us)
    if expected.refused is not None:
        with pytest.raises(Rejected) as caught:
            checked(rows, interval_s, now_us, topology)
        assert caught.value.reason == expected.refused
        return
    batch = checked(rows, interval_s, now_us, topology)
    assert reasons(batch) == expected.reasons
    assert kept(batch) == expected.kept
    assert batch.inner_duplicates == expected.duplicates
    assert batch.reads.rows + batch.inner_duplicates + len(batch.rejects.row) == batch.rows_sent == len(rows)
    assert len(batch.rejects.detail) == len(batch.rejects.row)
    for column in batch.reads.channels.values():
        assert not np.signbit(column[column == 0]).any(), "-0.0 is stored as 0"


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(batches())
def test_the_vector_code_says_what_the_scalar_oracle_says(batch):
    assert_as_the_oracle_says(*batch)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["ONE", "NEW", "THREE"]), min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_change_what_is_kept(meters, random):
    rows = [Row(meter, NOW_US - i % 7 * STEP_US, {"import_wh": i % 3}) for i, meter in enumerate(meters)]
    before = kept(checked(rows))
    random.shuffle(rows)
    assert kept(checked(rows)) == before


def of_the_cut() -> list[Row]:
    cut = data.cut()
    columns = zip(cut.meter_index.tolist(), cut.end_s.tolist(), cut.wh.tolist(), strict=True)
    return [Row(cut.meter[m], end_s * US, {"import_wh": wh}) for m, end_s, wh in columns]


def of_the_shapes() -> list[Row]:
    shapes = data.shapes()
    lines = zip(shapes.end_s.tolist(), shapes.wh.T.tolist(), strict=True)
    return [
        Row(meter, end_s * US, {"import_wh": wh})
        for end_s, line in lines
        for meter, wh in zip(shapes.meter, line, strict=True)
    ]


@pytest.mark.parametrize("source", [of_the_cut, of_the_shapes])
def test_real_reads_are_judged_as_the_oracle_does(source):
    rows = source()
    topology = registry([(meter, HOME, 7, 230.0, 63.0, 20.0, 0, FOREVER) for meter in {row.meter for row in rows}])
    topology.late_window_us[HOME] = 60 * DAY_US
    for first in range(0, len(rows), 5000):
        assert_as_the_oracle_says(rows[first : first + 5000], 900, max(row.end_us for row in rows), topology)


def test_the_negative_reads_of_the_cut_are_quarantined():
    rows = [row for row in of_the_cut() if row.meter == "9717902"]
    topology = registry([("9717902", HOME, 7, 230.0, 630.0, 20.0, 0, FOREVER)])
    topology.late_window_us[HOME] = 60 * DAY_US
    found = reasons(checked(rows, now_us=max(row.end_us for row in rows), topology=topology))
    negative = [i for i, row in enumerate(rows) if row.values["import_wh"] < 0]
    assert found == dict.fromkeys(negative, R.ROW_REASON_NEGATIVE)
    assert len(negative) == 15


OUTSIDE_V = around(345.0)
# reason -> row in which it occurs, and its nearest neighbour in which it does not
OCCURS = {
    R.ROW_REASON_UNKNOWN_METER: (Row("one", NOW_US, {"import_wh": 1}), Row("ONE", NOW_US, {"import_wh": 1})),
    R.ROW_REASON_NOT_INSTALLED: (
        Row("NEW", INSTALLED_US - 1, {"import_wh": 1}),
        Row("NEW", INSTALLED_US, {"import_wh": 1}),
    ),
    R.ROW_REASON_NOT_YOURS: (Row("OTHERS", NOW_US, {"import_wh": 1}), Row("NOBODYS", NOW_US, {"import_wh": 1})),
    R.ROW_REASON_FUTURE: (
        Row("ONE", NOW_US + 120 * US + 1, {"import_wh": 1}),
        Row("ONE", NOW_US + 120 * US, {"import_wh": 1}),
    ),
    R.ROW_REASON_TOO_OLD: (
        Row("ONE", NOW_US - LATE_WINDOW_US - 1, {"import_wh": 1}),
        Row("ONE", NOW_US - LATE_WINDOW_US, {"import_wh": 1}),
    ),
    R.ROW_REASON_NOT_FINITE: (
        Row("ONE", NOW_US, {"current_a_a": math.nan}),
        Row("ONE", NOW_US, {"current_a_a": 2000.0}),
    ),
    R.ROW_REASON_NEGATIVE: (Row("ONE", NOW_US, {"import_wh": -1}), Row("ONE", NOW_US, {"import_wh": 0})),
    R.ROW_REASON_ABOVE_CAPACITY: (Row("ONE", NOW_US, {"import_wh": 6901}), Row("ONE", NOW_US, {"import_wh": 6900})),
    R.ROW_REASON_OUT_OF_RANGE: (
        Row("ONE", NOW_US, {"voltage_a_v": OUTSIDE_V[2]}),
        Row("ONE", NOW_US, {"voltage_a_v": OUTSIDE_V[1]}),
    ),
    R.ROW_REASON_UNALIGNED: (
        Row("ONE", NOW_US - 5 * US - 1, {"import_wh": 1}),
        Row("ONE", NOW_US - 5 * US, {"import_wh": 1}),
    ),
}
ELSEWHERE = {
    R.ROW_REASON_UNSPECIFIED: "never sent",
    R.ROW_REASON_NO_VALUE: "needs a channel in another row: test_a_row_without_any_channel_is_no_read",
    R.ROW_REASON_AMBIGUOUS: "needs two rows: test_different_values_for_one_interval_are_ambiguous",
}


def interval_of(row: Row) -> int:
    """60 s, where the edges of time are on the grid's tolerance; else the quarter-hour."""
    return 60 if row.end_us > NOW_US else 900


@pytest.mark.parametrize("reason", R.values(), ids=R.Name)
def test_every_row_reason_occurs_and_ends_at_its_boundary(reason):
    if reason in ELSEWHERE:
        assert ELSEWHERE[reason]
        return
    bad, good = OCCURS[reason]
    assert reasons(checked([bad], interval_of(bad))) == {0: reason}
    assert reasons(checked([good], interval_of(good))) == {}


def test_a_retired_meter_is_heard_until_its_end():
    assert reasons(checked([Row("RETIRED", RETIRED_US, {"import_wh": 1})])) == {}
    assert reasons(checked([Row("RETIRED", RETIRED_US + 1, {"import_wh": 1})])) == {0: R.ROW_REASON_NOT_INSTALLED}


def test_different_values_for_one_interval_are_ambiguous():
    one, other = Row("ONE", NOW_US, {"import_wh": 1}), Row("ONE", NOW_US - 3 * US, {"import_wh": 2})
    batch = checked([one, other, one, Row("NEW", NOW_US, {"import_wh": 3})])
    assert reasons(batch) == dict.fromkeys((0, 1, 2), R.ROW_REASON_AMBIGUOUS)
    assert [slot for slot, *_ in kept(batch)] == [WORLD.slot_of["NEW"]]


def test_a_row_without_any_channel_is_no_read():
    batch = checked([Row("ONE", NOW_US, {}), Row("NEW", NOW_US, {"import_wh": 0})])
    assert reasons(batch) == {0: R.ROW_REASON_NO_VALUE}


def test_equal_rows_are_counted_and_kept_once():
    row = Row("ONE", NOW_US, {"voltage_a_v": 0.0})
    batch = checked([row, Row("ONE", NOW_US + 2 * US, {"voltage_a_v": -0.0}), row])
    assert (batch.inner_duplicates, batch.reads.rows, reasons(batch)) == (2, 1, {})


def test_a_row_with_a_channel_more_is_another_value():
    rows = [Row("ONE", NOW_US, {"import_wh": 1}), Row("ONE", NOW_US, {"import_wh": 1, "export_wh": 2**31 - 1})]
    rows[1].values["export_wh"] = 0
    assert set(reasons(checked(rows)).values()) == {R.ROW_REASON_AMBIGUOUS}


ORDER = [
    (R.ROW_REASON_UNKNOWN_METER, {"meter": "UNKNOWN"}),
    (R.ROW_REASON_FUTURE, {"end_us": NOW_US + DAY_US + 7 * US}),
    (R.ROW_REASON_UNALIGNED, {"end_us": NOW_US - 7 * US}),
    (R.ROW_REASON_NOT_FINITE, {"voltage_a_v": math.nan}),
    (R.ROW_REASON_NEGATIVE, {"import_wh": -1}),
    (R.ROW_REASON_OUT_OF_RANGE, {"current_a_a": -1.0}),
    (R.ROW_REASON_ABOVE_CAPACITY, {"export_wh": 10**6}),
]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_first_reason_in_the_order_of_checks_wins(first):
    row = Row("ONE", NOW_US, {name: GOOD[name] for name in ("import_wh", "export_wh", "voltage_a_v", "current_a_a")})
    for _, change in reversed(ORDER[first:]):
        for name, value in change.items():
            if name in ("meter", "end_us"):
                setattr(row, name, value)
            else:
                row.values[name] = value
    assert reasons(checked([row])) == {0: ORDER[first][0]}


def load(wh: int, watts: float) -> dict[str, object]:
    """A quarter-hour of so much energy, and U I PF of so many watts."""
    return {"import_wh": wh, "voltage_a_v": 250.0, "current_a_a": f32(watts / 125), "power_factor": 0.5}


BITS = {
    Quality.SNAPPED: (Row("ONE", NOW_US + 1, {"import_wh": 1}), Row("ONE", NOW_US, {"import_wh": 1})),
    Quality.ABOVE_CONTRACT: (Row("NEW", NOW_US, {"import_wh": 3751}), Row("NEW", NOW_US, {"import_wh": 3750})),
    Quality.DEVICE_STATUS: (Row("ONE", NOW_US, {"device_status": 1}), Row("ONE", NOW_US, {"device_status": 8})),
    Quality.LATE: (Row("ONE", NOW_US - 2 * STEP_US, {"import_wh": 1}), Row("ONE", NOW_US - STEP_US, {"import_wh": 1})),
    Quality.BACKFILL: (
        Row("ONE", NOW_US - DAY_US - STEP_US, {"import_wh": 1}),
        Row("ONE", NOW_US - DAY_US, {"import_wh": 1}),
    ),
    Quality.SUPPLY_OFF: (
        Row("ONE", NOW_US, {"voltage_a_v": around(138)[0], "current_a_a": f32(0.05)}),
        Row("ONE", NOW_US, {"voltage_a_v": 138.0, "current_a_a": 0.0}),
    ),
    Quality.POWER_MISMATCH: (Row("ONE", NOW_US, load(0, 31.25)), Row("ONE", NOW_US, load(3, 31.25))),
    Quality.UNIT_MISMATCH: (Row("ONE", NOW_US, load(1, 4000.0)), Row("ONE", NOW_US, load(1, 4250.0))),
    Quality.CLOCK_DRIFT: (
        Row("ONE", NOW_US + 120 * US, {"import_wh": 1}),
        Row("ONE", NOW_US + 60 * US, {"import_wh": 1}),
    ),
    Quality.SUPPLY_ON: (
        Row("ONE", NOW_US, {"voltage_a_v": 184.0}),
        Row("ONE", NOW_US, {"voltage_a_v": around(184)[0]}),
    ),
}
NOT_AT_INGEST = dict.fromkeys(DAY_BITS, "of the local day: tests/rules/test_day_checks.py")
NOT_AT_INGEST[Quality.IMBALANCE] = "of a check meter's day: tests/integration/test_balance_days.py"


@pytest.mark.parametrize("bit", Quality, ids=lambda bit: bit.name)
def test_every_quality_bit_occurs_and_ends_at_its_boundary(bit):
    if bit in NOT_AT_INGEST:
        assert NOT_AT_INGEST[bit]
        return
    (_, _, fires, _), (_, _, clean, _) = (kept(checked([row], interval_of(row)))[0] for row in BITS[bit])
    assert fires & bit
    assert not clean & bit


def test_late_and_backfill_exclude_each_other():
    late, backfill = Row("ONE", NOW_US - DAY_US, {"import_wh": 1}), BITS[Quality.BACKFILL][0]
    assert kept(checked([late]))[0][2] == Quality.LATE
    assert kept(checked([backfill]))[0][2] == Quality.BACKFILL


def test_the_origin_is_in_the_quality_word():
    assert [kept(checked([Row("ONE", NOW_US, {"import_wh": 1}, origin)]))[0][2] >> 24 for origin in range(5)] == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip


def test_current_is_supply_even_without_voltage():
    ((_, _, quality, _),) = kept(checked([Row("ONE", NOW_US, {"voltage_a_v": 0.0, "current_a_a": 0.06})]))
    assert quality == 0


def refused(rows, interval_s=900):
    with pytest.raises(Rejected) as caught:
        checked(rows, interval_s)
    return caught.value


@pytest.mark.parametrize(("unit", "stamp"), [("seconds", 10**6), ("milliseconds", 1000), ("nanoseconds", None)])
def test_stamps_in_another_unit_are_refused_by_its_name(unit, stamp):
    end_us = NOW_US * 1000 if stamp is None else NOW_US // stamp
    error = refused([Row("ONE", end_us, {"import_wh": i}) for i in range(20)])
    assert error.reason == "LOOKS_LIKE_OTHER_UNIT"
    assert unit in error.message
    few = checked([Row("ONE", end_us, {"import_wh": i}) for i in range(19)])
    assert len(few.rejects.row) == 19


def test_a_batch_is_implausible_above_nine_tenths_of_impossible_rows():
    rows = [Row("ONE", NOW_US - i * STEP_US, {"voltage_a_v": 1e30 if i < 19 else 230.0}) for i in range(20)]
    assert refused(rows).reason == "IMPLAUSIBLE_BATCH"
    rows[0].values["voltage_a_v"] = 230.0  # 18 of 20
    assert len(reasons(checked(rows))) == 18


def test_a_batch_may_touch_64_days_and_no_more():
    topology = registry([("ONE", HOME, 1, 230.0, 100.0, 10.0, 0, FOREVER)])
    topology.late_window_us[HOME] = 400 * DAY_US
    rows = [Row("ONE", NOW_US - 2 * i * DAY_US, {"import_wh": 1}) for i in range(65)]
    assert checked(rows[:64], topology=topology).reads.rows == 64
    with pytest.raises(Rejected) as caught:
        checked(rows, topology=topology)
    assert caught.value.reason == "TOO_SPREAD"
    assert "65 days" in caught.value.message


def test_65_days_are_too_many_even_if_64_times_24_hours_hold_them():
    topology = registry([("ONE", HOME, 1, 230.0, 100.0, 10.0, 0, FOREVER)])
    topology.late_window_us[HOME] = 400 * DAY_US
    midnight_us = NOW_US // DAY_US * DAY_US
    ends_us = [midnight_us, *(midnight_us - i * DAY_US for i in range(1, 64)), midnight_us - 63 * DAY_US - STEP_US]
    rows = [Row("ONE", end_us, {"import_wh": 1}) for end_us in ends_us]
    assert_as_the_oracle_says(rows, 900, topology=topology)
    assert judge(rows, 900, HOME, topology, NOW_US).refused == "TOO_SPREAD"


def test_an_empty_registry_quarantines_everything():
    batch = checked([Row("ONE", NOW_US, {"import_wh": 1, "voltage_a_v": 2.0})], topology=registry([]))
    assert reasons(batch) == {0: R.ROW_REASON_UNKNOWN_METER}


def test_the_detail_of_a_rejected_row_says_what_arrived():
    rows = [
        Row("UNKNOWN", INT64_MAX, {"import_wh": -5}),
        Row("ONE", NOW_US, {"voltage_a_v": math.nan, "current_a_a": math.inf, "device_status": 2**32 - 1}),
    ]
    assert [json.loads(detail) for detail in checked(rows).rejects.detail] == [
        {"meter": "UNKNOWN", "end_us": INT64_MAX, "interval_s": 900, "import_wh": -5},
        {
            "meter": "ONE",
            "end_us": NOW_US,
            "interval_s": 900,
            "voltage_a_v": "nan",
            "current_a_a": "inf",
            "device_status": 2**32 - 1,
        },
    ]


def test_an_absent_signalling_nan_is_let_be():
    values = np.array([0x7F800001, 0x80000000], "<u4").view("<f4")
    mask = np.array([1, 17], "<u4")
    channels = {"import_wh": np.ones(2, "<i4"), "voltage_a_v": values}
    columns = Columns(1, 900, np.arange(2, dtype="<u4"), np.full(2, NOW_US), channels, mask, None, b"")
    batch = validate(columns, np.array([0, 1], np.int32), ["ONE", "THREE"], HOME, 1, WORLD, NOW_US, DEFAULT)
    assert [values for *_, values in kept(batch)] == [{"import_wh": 1}, {"import_wh": 1, "voltage_a_v": 0.0}]


def test_an_ordered_batch_without_findings_is_not_copied():
    end_us = np.full(3, NOW_US)
    columns = Columns(1, 900, np.arange(3, dtype="<u4"), end_us, {"import_wh": np.ones(3, "<i4")}, None, None, b"")
    batch = validate(columns, np.array([0, 1, 2], np.int32), ["ONE", "THREE", "X"], HOME, 1, WORLD, NOW_US, DEFAULT)
    assert batch.reads.channels["import_wh"] is columns.channels["import_wh"]
    assert batch.reads.end_us is end_us
