"""Laws of the two small calls: reads one by one are the same batch, and events are screened."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_world import HOME, INSTALLED_US, LATE_WINDOW_US, NOW_US, RETIRED_US, WORLD, checked, decoded, meters_of
from oracle import US, Row

from ingest import meter_rows
from ingest.unary import READS_MAX, batch_of_rows, events_of
from meterwatch.batch import EventCode
from meterwatch.channels import CHANNEL_BIT
from meterwatch.check_profile import Limits
from meterwatch.errors import Rejected
from meterwatch.v1 import ingest_pb2 as pb

NUMBERS = {
    "import_wh": st.integers(-(2**31), 2**31 - 1),
    "export_varh": st.integers(0, 9),
    "voltage_b_v": st.floats(width=32, allow_nan=False),
    "power_factor": st.just(0.0),
    "device_status": st.integers(0, 2**32 - 1),
}
reads = st.lists(
    st.builds(
        Row,
        st.sampled_from(["A", "B", "C"]),
        st.integers(-(2**63), 2**63 - 1),
        st.fixed_dictionaries({}, optional=NUMBERS),
    ),
    min_size=1,
    max_size=20,
).filter(lambda rows: any(row.values for row in rows))


@settings(max_examples=200)
@given(reads)
def test_reads_one_by_one_are_the_same_batch(rows):
    request = pb.SendReadsRequest(
        seq=9, interval_s=900, read=[pb.Read(meter=row.meter, end_us=row.end_us, **row.values) for row in rows]
    )
    dictionary, batch = batch_of_rows(request)
    assert list(dictionary.meter) == meters_of(rows)
    found = decoded(batch, list(dictionary.meter))
    assert (found.seq, found.rows) == (9, len(rows))
    for i, row in enumerate(rows):
        assert dictionary.meter[found.meter_index[i]] == row.meter
        assert found.end_us[i] == row.end_us
        assert found.mask[i] == sum(CHANNEL_BIT[name] for name in row.values)
        assert {name: found.channels[name][i].item() for name in row.values} == row.values


def test_a_zero_that_was_sent_is_present():
    _, batch = batch_of_rows(pb.SendReadsRequest(seq=1, interval_s=900, read=[pb.Read(meter="A", import_wh=0)]))
    assert (list(batch.channel_mask), list(batch.import_wh), list(batch.export_wh)) == ([1], [0], [])


@pytest.mark.parametrize(("count", "reason"), [(0, "EMPTY_BATCH"), (READS_MAX + 1, "TOO_MANY_ROWS")])
def test_none_and_too_many_reads_are_refused(count, reason):
    with pytest.raises(Rejected) as caught:
        batch_of_rows(pb.SendReadsRequest(read=[pb.Read(meter="A", import_wh=1)] * count))
    assert caught.value.reason == reason


def test_the_most_reads_pass():
    request = pb.SendReadsRequest(seq=1, interval_s=900, read=[pb.Read(meter="A", import_wh=1)] * READS_MAX)
    assert len(batch_of_rows(request)[1].stamp_us) == READS_MAX


def screen(*events, topology=WORLD, **change):
    """events_of for (meter, at_us, code)."""
    meters = list(dict.fromkeys(meter for meter, _, _ in events))
    fields = {
        "epoch": 1,
        "seq": 1,
        "meter": meters,
        "meter_index": [meters.index(meter) for meter, _, _ in events],
        "at_us": [at_us for _, at_us, _ in events],
        "code": [code for _, _, code in events],
    }
    return events_of(pb.SendEventsRequest(**{**fields, **change}), HOME, topology, NOW_US, Limits())


GASP = pb.EVENT_CODE_POWER_FAIL


def test_more_events_or_names_than_a_request_may_have(monkeypatch):
    monkeypatch.setattr(meter_rows, "ROWS_MAX", 2)
    most = [("ONE", NOW_US, GASP), ("THREE", NOW_US, GASP)]
    assert screen(*most)[2] == 2
    for refused in ({"events": [*most, most[0]]}, {"events": most[:1], "meter": ["ONE", "X", "Y"]}):
        with pytest.raises(Rejected) as caught:
            screen(*refused.pop("events"), **refused)
        assert caught.value.reason == "TOO_MANY_ROWS"


SCREENED = [
    (("GHOST", NOW_US), pb.ROW_REASON_UNKNOWN_METER),
    (("OTHERS", NOW_US), pb.ROW_REASON_NOT_YOURS),
    (("NOBODYS", NOW_US), 0),
    (("ONE", NOW_US + 120 * US), 0),
    (("ONE", NOW_US + 120 * US + 1), pb.ROW_REASON_FUTURE),
    (("ONE", 2**63 - 1), pb.ROW_REASON_FUTURE),
    (("ONE", NOW_US - LATE_WINDOW_US), 0),
    (("ONE", NOW_US - LATE_WINDOW_US - 1), pb.ROW_REASON_TOO_OLD),
    (("ONE", -(2**63)), pb.ROW_REASON_TOO_OLD),
    (("NEW", INSTALLED_US), 0),
    (("NEW", INSTALLED_US - 1), pb.ROW_REASON_NOT_INSTALLED),
    (("RETIRED", RETIRED_US), 0),
    (("RETIRED", RETIRED_US + 1), pb.ROW_REASON_NOT_INSTALLED),
]


@pytest.mark.parametrize(("event", "reason"), SCREENED)
def test_an_event_is_screened_at_each_boundary(event, reason):
    events, rejects, rows = screen((*event, GASP))
    assert rows == 1
    assert rejects.reason.tolist() == ([reason] if reason else [])
    assert events.rows == (0 if reason else 1)


def test_the_good_events_of_a_mixed_request_are_kept_with_their_codes():
    events, rejects, rows = screen(
        ("THREE", NOW_US, 2), ("GHOST", NOW_US, 1), ("ONE", NOW_US - 7, 11), ("ONE", NOW_US - 7, 11)
    )
    assert rows == 4
    assert events.slot.tolist() == [1, 0, 0]
    assert events.at_us.tolist() == [NOW_US, NOW_US - 7, NOW_US - 7]
    assert events.code.tolist() == [2, 11, 11]
    assert rejects.row.tolist() == [1]
    assert json.loads(rejects.detail[0]) == {"meter": "GHOST", "at_us": NOW_US, "code": 1}


def test_every_code_of_the_contract_but_unspecified_is_taken():
    assert {code for code in pb.EventCode.values() if code} == set(EventCode)
    events, _, _ = screen(*(("ONE", NOW_US, code) for code in EventCode))
    assert events.code.tolist() == list(EventCode)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": 0}, "BAD_SEQ"),
        ({"epoch": 2**63}, "BAD_SEQ"),
        ({"seq": 0}, "BAD_SEQ"),
        ({"seq": 2**64 - 1}, "BAD_SEQ"),
        ({"at_us": [], "code": [], "meter_index": []}, "EMPTY_BATCH"),
        ({"code": []}, "COLUMN_LENGTH"),
        ({"meter_index": [0, 0]}, "COLUMN_LENGTH"),
        ({"meter_index": [1]}, "INDEX_RANGE"),
        ({"meter": []}, "INDEX_RANGE"),
        ({"meter": ["bad id"]}, "BAD_ID"),
        ({"code": [0]}, "UNKNOWN_ENUM"),
        ({"code": [12]}, "UNKNOWN_ENUM"),
        ({"code": [-1]}, "UNKNOWN_ENUM"),
    ],
)
def test_a_request_that_breaks_the_contract_is_refused_whole(change, reason):
    with pytest.raises(Rejected) as caught:
        screen(("ONE", NOW_US, GASP), **change)
    assert caught.value.reason == reason
    assert caught.value.message


def test_events_and_reads_agree_on_who_is_in_service():
    for (meter, at_us), reason in SCREENED:
        found = checked([Row(meter, at_us, {"import_wh": 1})], 60).rejects.reason.tolist()
        assert found in ([[reason]] if reason else [[], [pb.ROW_REASON_UNALIGNED]])


def with_phases(*rows):
    """Screen events of meter THREE, (code, phases) each."""
    request = pb.SendEventsRequest(head_end="H", epoch=1, seq=1, meter=["THREE"], meter_index=[0] * len(rows))
    request.at_us.extend([NOW_US] * len(rows))
    request.code.extend(code for code, _ in rows)
    request.phases.extend(phases for _, phases in rows)
    return events_of(request, HOME, WORLD, NOW_US, Limits())[0].phases.tolist()


def test_phases_are_kept_where_a_code_is_about_phases_and_dropped_where_it_is_not():
    rows = [(code, 2) for code in EventCode]
    about = {EventCode.POWER_FAIL, EventCode.POWER_RESTORED, EventCode.PHASE_LOSS, EventCode.PHASE_RETURN}
    assert with_phases(*rows) == [2 if code in about else 0 for code, _ in rows]
    assert with_phases((3, 0), (3, 7)) == [0, 7]


def test_phases_of_another_number_of_rows_or_beyond_three_refuse_the_request():
    with pytest.raises(Rejected, match="phases 8"):
        with_phases((3, 8))
    request = pb.SendEventsRequest(
        head_end="H", epoch=1, seq=1, meter=["THREE"], meter_index=[0, 0], at_us=[NOW_US] * 2, code=[3, 3], phases=[1]
    )
    with pytest.raises(Rejected, match="phases 1, at_us 2"):
        events_of(request, HOME, WORLD, NOW_US, Limits())
