"""Values put in by hand through the call, and what was known before, on a whole service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from served import HEAD_END, METERS, Served, ended, fresh_end_us, fresh_epoch, serving
from typer.testing import CliRunner, Result

from meterwatch.cli import app
from meterwatch.client import HeadEnd, RegistryFile, Totals, import_registry
from meterwatch.quality import Origin
from meterwatch.v1 import ingest_pb2 as pb

US = 1_000_000
STEP_US = 900 * US


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


def send(served: Served, end_us: list[int], wh: list[int], origin: Origin = Origin.MEASURED, meter: str = "") -> Totals:
    with HeadEnd(served.address, HEAD_END, epoch=fresh_epoch()) as head_end:
        head_end.send_columns(
            [meter or METERS[0]],
            np.zeros(len(wh), np.uint32),
            np.array(end_us),
            900,
            import_wh=np.array(wh, np.int32),
            origin=np.full(len(wh), int(origin), np.uint32),
        )
        return head_end.flush()


def edit(served: Served, action_id: str, *reads: pb.Read, **fields: Any) -> pb.EditReadsResponse:
    request = pb.EditReadsRequest(
        **{"action_id": action_id, "operator": "ada", "reason": "reading error", "interval_s": 900} | fields, read=reads
    )
    return pb.EditReadsResponse.FromString(served.call("Ingest/EditReads", request.SerializeToString()))


def refused(served: Served, *reads: pb.Read, action_id: str = "refused", **fields: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        edit(served, action_id, *reads, **fields)
    end = ended(caught.value)
    return end.code, end.reason


def stored(served: Served, end_us: int) -> list[Any]:
    return served.sql(
        "SELECT import_wh, (quality >> 24) & 15, version FROM reads WHERE end_at = to_timestamp(%s / 1e6)", end_us
    )


def run(served: Served, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--address", served.address])
    assert result.exit_code == code, result.output
    return result


def test_an_edit_stands_against_later_reads_and_a_repeated_call_has_the_same_answer(served: Served) -> None:
    end_us = fresh_end_us()
    send(served, [end_us], [100])
    read = pb.Read(meter=METERS[0], end_us=end_us, import_wh=130)
    first = edit(served, "once", read)
    assert (first.edited, first.unchanged, first.replayed) == (1, 0, False)
    again = edit(served, "once", read)
    assert (again.edited, again.unchanged, again.replayed) == (1, 0, True)
    assert send(served, [end_us], [101], Origin.REREAD).versions == 1
    assert stored(served, end_us) == [(130, 2, 2)]
    assert served.sql("SELECT operator, reason FROM read_edits WHERE action_id = 'once'") == [("ada", "reading error")]


def test_an_action_names_one_edit(served: Served) -> None:
    end_us = fresh_end_us()
    edit(served, "two", pb.Read(meter=METERS[0], end_us=end_us, import_wh=1))
    other = pb.Read(meter=METERS[0], end_us=end_us, import_wh=2)
    assert refused(served, other, action_id="two") == ("INVALID_ARGUMENT", "ACTION_ID_REUSED")


def test_all_reads_of_an_edit_are_stored_or_none(served: Served) -> None:
    end_us = fresh_end_us()
    good = pb.Read(meter=METERS[0], end_us=end_us, import_wh=130)
    for bad in (
        pb.Read(meter=METERS[0], end_us=end_us - STEP_US, import_wh=-1),
        pb.Read(meter="NOBODY", end_us=end_us, import_wh=1),
        pb.Read(meter=METERS[1], end_us=end_us),
        pb.Read(meter=METERS[0], end_us=end_us, import_wh=131),
        good,
    ):
        assert refused(served, good, bad) == ("INVALID_ARGUMENT", "BAD_EDIT")
    assert refused(served, good, expected_version=[1]) == ("ABORTED", "READ_CHANGED")
    assert refused(served, good, expected_version=[1, 2]) == ("INVALID_ARGUMENT", "COLUMN_LENGTH")
    assert refused(served, good, operator="") == ("INVALID_ARGUMENT", "TEXT_LENGTH")
    assert refused(served, good, reason="") == ("INVALID_ARGUMENT", "TEXT_LENGTH")
    assert stored(served, end_us) == []


def test_every_meter_is_the_editor_s(served: Served) -> None:
    end_us = fresh_end_us()
    reads = [pb.Read(meter=meter, end_us=end_us, import_wh=1) for meter in ("M-other", METERS[1])]
    assert edit(served, "all", *reads, expected_version=[0, 0]).edited == 2


OVERLOADED = "M-over"


def test_an_edit_retracts_the_alarm_that_rested_on_the_wrong_values(served: Served) -> None:
    columns = "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,concentrator,head_end"  # noqa: E501
    files = [
        RegistryFile("transformers", "t", b"transformer,feeder,rated_kva,winding,district\nT-over,,10,,\n"),
        RegistryFile(
            "meters", "m", f"{columns}\n{OVERLOADED},T-over,A,230,100,,1,900,2020-01-01,,,,{HEAD_END}\n".encode()
        ),
    ]
    assert not import_registry(served.address, files).error
    first_us = served.service.clock.now_us() // STEP_US * STEP_US - 20 * STEP_US
    ends = [first_us + i * STEP_US for i in range(12)]
    send(served, ends, [5000] * 12, meter=OVERLOADED)
    state = "SELECT state FROM alarms WHERE rule = 'OVERLOAD' AND asset = 'T-over'"
    assert served.sql(state) == [("UNACK_ACTIVE",)]
    reads = [pb.Read(meter=OVERLOADED, end_us=end_us, import_wh=500) for end_us in ends]
    assert edit(served, "ten times too much", *reads).edited == 12
    assert served.sql(state) == [("RETRACTED",)]


def test_the_command_edits_one_channel_and_keeps_the_others(served: Served) -> None:
    end_us = fresh_end_us()
    with HeadEnd(served.address, HEAD_END, epoch=fresh_epoch()) as head_end:
        head_end.send_rows([{"meter": METERS[0], "end_us": end_us, "import_wh": 100, "voltage_a_v": 231.4}])
        head_end.flush()
    before_us = served.service.clock.now_us()
    end = np.datetime_as_string(np.datetime64(end_us, "us")) + "Z"
    run(served, "reads", "edit", METERS[0], end, "import_wh=130", "--reason", "typing error", "--operator", "ada")
    to = np.datetime_as_string(np.datetime64(end_us + 1, "us")) + "Z"

    def listed(*arguments: str) -> list[Any]:
        output = run(served, "reads", "list", METERS[0], "--from", end, "--to", to, "-o", "json", *arguments).stdout
        return [(r["import_wh"], r["voltage_a_v"], r["origin"], r["version"]) for r in json.loads(output)]

    old, new = (100, 231.4, "MEASURED", 1), (130, 231.4, "EDITED", 2)
    assert listed() == [new]
    assert listed("--as-of", np.datetime_as_string(np.datetime64(before_us, "us")) + "Z") == [old]
    assert listed("--versions") == [old, new]
    query = "SELECT old ->> 'import_wh', new ->> 'import_wh' FROM read_edits WHERE reason = 'typing error'"
    assert served.sql(query) == [("100", "130")]
    for wrong in ("import_kwh=1", "import_wh=x"):
        run(served, "reads", "edit", METERS[0], end, wrong, "--reason", "r", code=2)
    run(served, "reads", "list", METERS[0], "--from", "yesterday", code=2)
