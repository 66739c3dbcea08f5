"""SIGKILL in the middle of a call that alters something: no change is without a row in the audit log.

Whatever was done when the service died is on record as BEGUN by then; the next start says INTERRUPTED of it, and the
call sent again is on record as OK.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psycopg
import pytest
from google.protobuf.message import Message
from service_process import ENOUGH_S, SIGKILLED, ServiceProcess, import_grid

from meterwatch import failpoints
from meterwatch.clock import US
from meterwatch.v1 import ingest_pb2 as ingest
from meterwatch.v1 import registry_pb2 as registry

START = datetime(2024, 11, 12, tzinfo=UTC)
START_US = int(START.timestamp()) * US
METER = "711109000001"


def work(work_id: str) -> registry.PlanWorkRequest:
    planned = registry.PlannedWork(
        work_id=work_id, asset_kind="transformer", asset="LV1.109", from_us=START_US, to_us=START_US + 3600 * US,
        planned_by="kim",
    )  # fmt: skip
    return registry.PlanWorkRequest(work=planned)


HEAD_END = registry.ImportRequest(
    file=[
        registry.RegistryFile(
            kind="head_ends", name="new.csv", content=b"head_end,time_zone,late_window_days\nHES-NEW,UTC,45\n"
        )
    ]
)
EDIT = ingest.EditReadsRequest(
    action_id="edit-1", operator="kim", reason="r", interval_s=900,
    read=[ingest.Read(meter=METER, end_us=START_US, import_wh=100)],
)  # fmt: skip


class Death(NamedTuple):
    """A call, where the service dies in it, and whether its change is in the database then."""

    point: str
    method: str
    request: Message
    named: str
    """As the audit log names what it is done to."""
    change: str
    done: bool


DEATHS = (
    Death("before_change", "Registry/PlanWork", work("W-1"), "work.work_id=W-1 ",
          "SELECT FROM planned_works WHERE work_id = 'W-1'", False),
    Death("after_change", "Registry/Import", HEAD_END, "file.name=new.csv",
          "SELECT FROM head_ends WHERE head_end = 'HES-NEW'", True),
    Death("after_copy", "Ingest/EditReads", EDIT, "action_id=edit-1 ",
          "SELECT FROM read_edits WHERE action_id = 'edit-1'", True),
)  # fmt: skip


@pytest.fixture(scope="module")
def process(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    output: Path = tmp_path_factory.mktemp("on_record") / "service.log"
    with ServiceProcess(dsn, START, output) as process:
        process.start()
        import_grid(process.address)
        yield process


def call(process: ServiceProcess, death: Death) -> None:
    with grpc.insecure_channel(process.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        channel.unary_unary(f"/meterwatch.v1.{death.method}")(death.request.SerializeToString(), timeout=ENOUGH_S)


@pytest.mark.parametrize("death", DEATHS, ids=[f"{death.point}-{death.method}" for death in DEATHS])
def test_a_death_in_a_change_leaves_no_change_without_a_row(process: ServiceProcess, dsn: str, death: Death) -> None:
    def ask(query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def on_record() -> list[tuple[str, int]]:
        return ask(
            "SELECT outcome, call_id FROM audit_log WHERE method = %s AND strpos(object || ' ', %s) > 0"
            " ORDER BY audit_no",
            death.method,
            death.named,
        )

    process.kill()
    process.start({failpoints.VARIABLE: f"{death.point}:1"})
    with pytest.raises(grpc.RpcError):
        call(process, death)
    assert process.died() == SIGKILLED
    assert bool(ask(death.change)) == death.done
    [(begun, call_id)] = on_record()
    assert (begun, call_id > 0) == ("BEGUN", True)
    process.start()
    assert on_record() == [("BEGUN", call_id), ("INTERRUPTED", call_id)]
    call(process, death)
    assert ask(death.change)
    *_, (begun, again), (outcome, same) = on_record()
    assert (begun, outcome, same) == ("BEGUN", "OK", again)
    assert again != call_id
