"""A job is gone when its end has been waited for, whatever it does with a cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from meterwatch import tasks
from meterwatch.tasks import ending


@pytest.mark.parametrize("lost", [0, 1, 3])
async def test_a_job_that_loses_cancellations_ends_nevertheless(lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    ended = False

    async def job() -> None:
        nonlocal ended
        try:
            for _ in range(lost):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)
            await asyncio.sleep(3600)
        finally:
            ended = True

    running = asyncio.create_task(ending(job()))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended


async def test_results_and_errors_pass() -> None:
    async def well() -> int:
        return 7

    async def badly() -> int:
        raise ValueError("no")

    assert await ending(well()) == 7
    with pytest.raises(ValueError, match="no"):
        await ending(badly())
