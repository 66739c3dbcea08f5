"""A job that raises is told of, once by its traceback, and goes on; nobody else feels it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from meterwatch import interruptions as module
from meterwatch import jobs as jobs_module
from meterwatch.background import in_background
from meterwatch.errors import StorageUnavailable
from meterwatch.interruptions import Interruptions
from meterwatch.jobs import AGAIN_S_MAX, FAILS_S, Jobs, kept_going
from rules.profile import OutageProfile
from storage.interruptions import Known


def logged(work: Callable[[], None]) -> list[Any]:
    with structlog.testing.capture_logs() as lines:
        work()
    return [line for line in lines if line["log_level"] == "error"]


def test_a_job_fails_for_some_time_after_it_raised_and_the_log_has_each_error_once() -> None:
    now_s = [0.0]
    jobs = Jobs(lambda: now_s[0])

    def raised(text: str) -> list[Any]:
        return logged(lambda: jobs.raised("upkeep", ValueError(text)))

    assert len(raised("one")) == 1
    assert not raised("one")
    assert len(raised("two\nlines")) == 1
    jobs.raised("routes", KeyError("x"))
    assert jobs.failing == [("routes", "KeyError: 'x'"), ("upkeep", "ValueError: two lines")]
    assert jobs.errors == 4
    now_s[0] = FAILS_S
    assert not jobs.failing
    assert len(raised("two\nlines")) == 1


async def test_a_job_begins_anew_after_rising_pauses_and_waits_for_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    errors: list[Exception] = [ValueError("ours"), StorageUnavailable("away"), *(ValueError("ours") for _ in range(6))]

    async def slept(seconds: float) -> None:
        pauses.append(seconds)

    async def run() -> None:
        if errors:
            raise errors.pop(0)

    jobs = Jobs()
    monkeypatch.setattr(jobs_module, "asyncio", SimpleNamespace(sleep=slept))
    await kept_going("a job", run, jobs)
    assert jobs.errors == 7, "the database is no fault of a job"
    assert pauses == [5.0, 10.0, 20.0, 40.0, *[AGAIN_S_MAX] * 4]


async def test_a_job_that_is_cancelled_ends() -> None:
    task = asyncio.create_task(kept_going("a job", lambda: asyncio.sleep(3600), Jobs()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_steps_in_the_background_are_told_of_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterwatch.background.EVERY_S", 0.0)
    jobs, counted, again = Jobs(), [], asyncio.Event()

    async def once() -> bool:
        if len(counted) == 3:
            again.set()
            return False
        raise ZeroDivisionError("ours")

    task = asyncio.create_task(in_background("forecasting", once, lambda: counted.append(1), lambda: 0, jobs))
    async with asyncio.timeout(60):
        await again.wait()
    task.cancel()
    assert (jobs.errors, jobs.failing) == (3, [("forecasting", "ZeroDivisionError: ours")])


class Table:
    """storage.interruptions.InterruptionStore in memory."""

    def __init__(self) -> None:
        self.marks: dict[int, tuple[Any, ...]] = {}
        self.written: list[Any] = []

    async def owe(self, rows: list[tuple[Any, ...]]) -> list[int]:
        numbers = list(range(len(self.marks) + 1, len(self.marks) + 1 + len(rows)))
        self.marks |= dict(zip(numbers, rows, strict=True))
        return numbers

    async def write(self, known: list[Known], marks: list[int]) -> None:
        self.written += [(one.slot, one.from_us) for one in known]
        for mark in marks:
            del self.marks[mark]


async def test_a_group_whose_interruptions_cannot_be_found_stays_marked_and_the_others_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, raised, table = True, list[Exception](), Table()

    def found(heard: Any, _: Any) -> tuple[int, int]:
        if broken and heard.group == ("feeder", 2):
            raise ZeroDivisionError("ours")
        return 0, 0

    monkeypatch.setattr(module, "interruptions", found)
    monkeypatch.setattr(module, "Known", lambda slot, from_us, *_: SimpleNamespace(slot=slot, from_us=from_us))
    store: Any = table
    kept = Interruptions(store, OutageProfile(), raised.append)

    def judged(number: int, from_us: int) -> None:
        heard: Any = SimpleNamespace(group=("feeder", number), slot=[number], from_us=from_us, topology=table)
        kept.judged(heard)

    for number in (1, 2, 3):
        judged(number, 7)
    await kept.owe()
    await kept.flush()
    assert (table.written, list(table.marks.values())) == ([([1], 7), ([3], 7)], [("feeder", 2, 7)])
    assert [str(error) for error in raised] == ["ours"]
    assert kept.waiting == 1

    judged(2, 9)
    await kept.owe()
    await kept.flush()
    assert len(raised) == 2
    assert list(table.marks.values()) == [("feeder", 2, 7)]
    broken = False
    judged(2, 11)
    await kept.owe()
    await kept.flush()
    assert table.written[2:] == [([2], 7), ([2], 9), ([2], 11)]
    assert (table.marks, kept.waiting) == ({}, 0)
