"""Free memory goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import os

import numpy as np
import pytest

from loadtest.cpu import rss_mb
from meterwatch import memory
from meterwatch.memory import give_back, keep_giving_back

BLOCK = 40_000
"""Bytes of an array that comes from the heap, not from pages of its own."""


def test_a_heap_with_holes_is_given_back() -> None:
    blocks = [np.ones(BLOCK, np.uint8) for _ in range(2_000)]
    blocks[:] = blocks[::100]  # what is left keeps the heap from shrinking by itself
    before_mb = rss_mb(os.getpid())
    give_back()
    assert rss_mb(os.getpid()) < before_mb - 40
    assert all(block.all() for block in blocks)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()


async def test_it_is_given_back_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    given = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(memory, "give_back", lambda: loop.call_soon_threadsafe(given.release))
    job = asyncio.create_task(keep_giving_back(0.001))
    async with asyncio.timeout(60):
        for _ in range(3):
            await given.acquire()
    job.cancel()
