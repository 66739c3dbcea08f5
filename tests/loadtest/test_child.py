"""A bench's process: answers of the kind asked for, its failure in its own words, an end that comes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from loadtest.child import Child


def doubles(pipe: Connection, most: int) -> None:
    """Answer a number with its double, at most so large; a text with nothing."""
    try:
        while True:
            order = pipe.recv()
            if isinstance(order, str):
                time.sleep(3600)
            pipe.send(2 * order if order <= most else f"{order} is more than {most}")
    except EOFError:
        pass


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("doubling process", doubles, 10, answers_in_s=60)
    yield child
    child.close()


def test_an_order_is_answered_and_a_failure_is_raised_in_its_own_words(child: Child) -> None:
    assert child.ask(4, int) == 8
    with pytest.raises(RuntimeError, match="the doubling process failed: 11 is more than 10"):
        child.ask(11, int)
    assert child.ask(5, int) == 10
    with pytest.raises(AssertionError, match="answered int, expected float"):
        child.ask(1, float)


def test_a_process_that_has_ended_is_said_to_have(child: Child) -> None:
    assert child.ask(1, int) == 2
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the doubling process has ended"):
        child.answer(int)


def test_a_process_that_says_nothing_is_waited_for_so_long_and_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.child.END_S", 0.1)
    silent = Child("silent process", doubles, 1, answers_in_s=0.1)
    silent.send("sleep")
    with pytest.raises(RuntimeError, match=r"the silent process gave no answer for 0\.1 s"):
        silent.answer(int)
    silent.close()
    with pytest.raises(ProcessLookupError):
        os.kill(silent.pid, 0)
