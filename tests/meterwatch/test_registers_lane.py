"""Register reads on their way through the pipeline: a lane of their own, and answered like everything else."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from pipeline_world import REJECTS, asked, batch, event_batch, piped, started, until

from meterwatch.batch import Stored
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.pipeline import QUEUE_REGISTERS_MAX
from meterwatch.registers import RegisterBatch, RegisterReads


def registers(seq: int) -> RegisterBatch:
    one = np.zeros(1, np.int64)
    reads = RegisterReads(one.astype(np.int32), one, one.astype(np.int16), one)
    return RegisterBatch(1, 9, seq, b"", reads, REJECTS, 0, 1)


async def test_registers_are_observed_before_they_are_recorded_and_answered_after() -> None:
    async with piped() as p:
        p.record_gate.clear()
        answer = asyncio.create_task(p.pipeline.submit_registers(registers(1)))
        await until(lambda: ("saw registers", 1) in p.log)
        assert not answer.done()
        p.record_gate.set()
        assert (await answer).seq == 1
        assert p.log.index(("saw registers", 1)) < p.log.index(("recorded", [1]))


async def test_events_do_not_wait_for_registers_and_a_request_of_registers_fails_alone() -> None:
    async with piped() as p:
        p.shown.poison = {1: StorageUnavailable("away"), 2: ValueError("poison")}
        for expected in (StorageUnavailable, ValueError):
            with pytest.raises(expected):
                await p.pipeline.submit_registers(registers(1 if expected is StorageUnavailable else 2))
        p.shown.gate.clear()
        held = asyncio.create_task(p.pipeline.submit_registers(registers(3)))
        await started(p.shown)
        assert isinstance((await asked(p.pipeline.submit_events(event_batch(1))))[0], Stored)
        more = [registers(4 + n) for n in range(QUEUE_REGISTERS_MAX)]
        waiting = [asyncio.create_task(p.pipeline.submit_registers(one)) for one in more]
        await until(p.pipeline._waiting_registers.full)
        with pytest.raises(Overloaded):
            await p.pipeline.submit_registers(registers(99))
        p.shown.gate.set()
        assert [type(one) for one in await asked(held, *waiting)] == [Stored] * (1 + QUEUE_REGISTERS_MAX)


async def test_without_room_on_the_disk_reads_and_registers_wait_and_events_are_taken() -> None:
    async with piped() as p:
        p.pipeline.connected(1)
        p.pipeline.refuse_reads("12 MiB left")
        for refused in (p.pipeline.submit(batch(1)), p.pipeline.submit_registers(registers(1))):
            with pytest.raises(Overloaded, match="12 MiB left") as caught:
                await refused
            assert (caught.value.reason, caught.value.retry_after_s > 0) == ("DISK_LOW", True)
        assert p.pipeline.not_ready == "12 MiB left"
        assert (await p.pipeline.submit_events(event_batch(1))).seq == 1
        await until(lambda: ("deaf to", {1}) in p.log)  # and stays so: what is not taken cannot be heard
        p.pipeline.refuse_reads("")
        assert p.pipeline.not_ready == ""
        answers = await asked(p.pipeline.submit(batch(1)), p.pipeline.submit_registers(registers(1)))
        assert all(isinstance(answer, Stored) for answer in answers)
        await until(lambda: p.log.count(("deaf to", set())) == 1)
