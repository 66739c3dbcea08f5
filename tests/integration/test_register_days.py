"""Register reads from the call to the findings of a judged day, whatever came when; real database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import psycopg
import pytest
from served import HEAD_END, METERS, Served, ended, fresh_end_us, fresh_epoch, serving
from test_judged_days import HOUR_US, US, Plant, plant, quarter_hours, us

from meterwatch.batch import Rejects
from meterwatch.client import HeadEnd
from meterwatch.quality import Quality
from meterwatch.registers import RegisterBatch, RegisterReads
from meterwatch.v1 import ingest_pb2 as pb
from storage.meter_days import DayStore

BACK, MISMATCH = int(Quality.REGISTER_BACK), int(Quality.REGISTER_MISMATCH)
DAY = "2026-01-09T23:00"
"""A midnight in Berlin."""
DAY_US = 24 * HOUR_US
NO_REJECTS = Rejects(np.zeros(0, np.uint32), np.zeros(0, np.uint8), [])


async def show(world: Plant, rows: list[tuple[int, int, int]], *, evaluated: bool = True) -> None:
    """Import registers: slot, us, Wh; as the pipeline does it."""
    table = np.array(rows, np.int64).reshape(-1, 3)
    reads = RegisterReads(table[:, 0].astype(np.int32), table[:, 1], np.ones(len(rows), np.int16), table[:, 2])
    seq = next(world.seq)
    request = RegisterBatch(1, 1, seq, seq.to_bytes(16, "big"), reads, NO_REJECTS, 0, len(rows))
    stored, change = world.writer.write_registers(request, world.clock.now_us())
    if evaluated:
        assert world.marks is not None
        world.marks.observe_registers(change)
        await world.marks.save(DayStore(world.pool).owe)
        world.sql("UPDATE batches SET evaluated = true WHERE batch_id = %s", stored.batch_id)


@pytest.fixture
def clean(dsn: str) -> Iterator[str]:
    yield dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in ("register_reads", "register_versions", "register_days", "meter_registers"):
            connection.execute(f"TRUNCATE {table}")


def figures(world: Plant) -> list[Any]:
    return world.sql("SELECT slot, register, register_wh, interval_wh, mismatch FROM register_days ORDER BY day, slot")


def findings(world: Plant, slot: int) -> list[int]:
    rows = world.sql("SELECT findings & %s FROM meter_days WHERE slot = %s ORDER BY day", BACK | MISMATCH, slot)
    return [bits for (bits,) in rows]


async def test_a_day_is_compared_with_its_registers_and_a_step_back_is_found(clean: str) -> None:
    async with plant(clean, DAY) as world:
        start_us = us(DAY)
        for slot in (0, 1, 2):
            await world.send(quarter_hours(slot, DAY, 96))
        total = sum(wh for _, _, wh in quarter_hours(0, DAY, 96))
        await show(world, [(0, start_us, 5000), (0, start_us + DAY_US, 5000 + total)])
        await show(world, [(1, start_us, 5000), (1, start_us + DAY_US, 5000 + total - 50)])
        await show(world, [(2, start_us - DAY_US, 5000), (2, start_us + HOUR_US, 4000)])
        world.clock.resume(start_us + 26 * HOUR_US)
        await world.judge()
        assert figures(world) == [(0, 1, total, total, False), (1, 1, total - 50, total, True)]
        assert (findings(world, 0)[-1], findings(world, 1)[-1], findings(world, 2)[-1]) == (0, MISMATCH, BACK)
        assert world.words() == {(1, start_us + DAY_US): MISMATCH, (2, start_us + HOUR_US): BACK}
        found = {check: world.metrics.check_findings.labels(check)._value.get() for check in ("V08", "V14")}
        assert found == {"V08": 1, "V14": 1}


async def test_late_and_corrected_registers_judge_their_day_and_that_of_the_next_read_again(clean: str) -> None:
    async with plant(clean, DAY) as world:
        start_us = us(DAY)
        await world.send(quarter_hours(0, DAY, 96))
        await world.send(quarter_hours(0, "2026-01-11T23:00", 96))
        world.clock.resume(start_us + 4 * DAY_US)
        await world.judge()
        await show(world, [(0, start_us + 2 * DAY_US + HOUR_US, 4000)])
        await world.judge()
        assert world.words() == {}
        await show(world, [(0, start_us + 12 * HOUR_US + 3 * US, 5000)])  # two days before the read that it concerns
        await world.judge()
        assert world.words() == {(0, start_us + 2 * DAY_US + HOUR_US): BACK}
        await show(world, [(0, start_us + 12 * HOUR_US + 3 * US, 3000)])
        await world.judge()
        assert world.words() == {}
        await show(world, [(0, start_us, 0), (0, start_us + DAY_US + 4 * US, 3007)])  # read a little after midnight
        await world.judge()
        assert [row[4] for row in figures(world)] == [True]


async def test_a_device_exchange_and_a_known_rollover_are_no_step_back(clean: str) -> None:
    async with plant(clean, DAY) as world:
        start_us = us(DAY)
        world.sql(
            "INSERT INTO meter_registers (slot, device, digits, lsb_wh, valid_from, valid_to) VALUES"
            " (0, 'old', 6, 1, '2020-01-01', '2026-01-10T05:00Z'), (0, 'new', 6, 1, '2026-01-10T05:00Z', 'infinity'),"
            " (1, '', 4, 10, '2020-01-01', 'infinity')"
        )
        await show(world, [(0, start_us, 5000), (0, start_us + 6 * HOUR_US, 0)])
        await show(world, [(1, start_us, 99_990), (1, start_us + HOUR_US, 100)])
        await show(world, [(2, start_us, 99_990), (2, start_us + HOUR_US, 100)])
        world.clock.resume(start_us + 26 * HOUR_US)
        await world.judge()
        assert (findings(world, 0)[-1], findings(world, 1)[-1], findings(world, 2)[-1]) == (0, 0, BACK)


async def test_registers_stored_and_not_evaluated_before_a_crash_are_judged_after_it(clean: str) -> None:
    async with plant(clean, DAY) as world:
        start_us = us(DAY)
        await world.send(quarter_hours(0, DAY, 96))
        await show(world, [(0, start_us + 5 * HOUR_US, 4000)])
        world.clock.resume(start_us + 26 * HOUR_US)
        await world.judge()
        await show(world, [(0, start_us + HOUR_US, 5000)], evaluated=False)
        await world.judge()
        assert world.words() == {}
        await world.start()
        await world.judge()
        assert world.words() == {(0, start_us + 5 * HOUR_US): BACK}


# The call


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


def sent(epoch: int, seq: int, at_us: int, values: list[int], meter: str = METERS[0]) -> pb.SendRegistersRequest:
    rows = len(values)
    return pb.SendRegistersRequest(
        head_end=HEAD_END, epoch=epoch, seq=seq, meter=[meter], meter_index=[0] * rows,
        at_us=[at_us + n * 900 * US for n in range(rows)], register=[pb.REGISTER_IMPORT] * rows, value_wh=values,
    )  # fmt: skip


def call(served: Served, request: pb.SendRegistersRequest) -> pb.SendRegistersResponse:
    return pb.SendRegistersResponse.FromString(served.call("Ingest/SendRegisters", request.SerializeToString()))


def test_an_answered_request_is_stored_and_evaluated_and_its_repeat_has_the_same_answer(served: Served) -> None:
    epoch, at_us = fresh_epoch(), fresh_end_us()
    first = call(served, sent(epoch, 1, at_us, [10, 20, -1]))
    assert (first.accepted, first.versions, first.rejected, first.replayed) == (2, 0, 1, False)
    assert (list(first.rejected_row), list(first.rejected_reason)) == ([2], [pb.ROW_REASON_NEGATIVE])
    ledger = served.sql("SELECT accepted, rejected, evaluated FROM batches WHERE kind = 3 AND epoch = %s", epoch)
    assert ledger == [(2, 1, True)]
    again = call(served, sent(epoch, 1, at_us, [10, 20, -1]))
    assert (again.accepted, again.rejected, again.replayed) == (2, 1, True)
    corrected = call(served, sent(epoch, 2, at_us, [11, 20]))
    assert (corrected.accepted, corrected.versions, corrected.duplicates) == (0, 1, 1)
    with pytest.raises(grpc.RpcError) as caught:
        call(served, sent(epoch, 2, at_us, [12]))
    assert ended(caught.value).reason == "SEQ_REUSED"
    counted = served.service.metrics.registry.get_sample_value
    assert counted("meterwatch_registers_total", {"outcome": "accepted"}) == 2
    assert counted("meterwatch_registers_rejected_total", {"reason": "negative"}) == 1


def test_the_client_sends_registers_and_says_what_became_of_them(served: Served) -> None:
    at_us = fresh_end_us()
    with HeadEnd(served.address, HEAD_END, epoch=fresh_epoch()) as head_end:
        first = head_end.send_registers([METERS[1]] * 2, [at_us, at_us], [5, 6], [1, 2])
        again = head_end.send_registers([METERS[1], "M-nobody"], [at_us, at_us], [7, 8])
        with pytest.raises(ValueError, match="registers"):
            head_end.send_registers([METERS[1]], [at_us], [5], [3])
    assert (first.sent, first.accepted, first.versions, first.rejected) == (2, 2, 0, 0)
    assert (again.sent, again.accepted, again.versions, again.rejected) == (2, 0, 1, 1)
    assert again.rejected_reasons == {"UNKNOWN_METER": 1}
    stored = served.sql("SELECT register, value_wh FROM register_reads WHERE at = to_timestamp(%s / 1e6)", at_us)
    assert sorted(stored) == [(1, 7), (2, 6)]
