"""`make torture` in short: some cycles lose and double nothing; what is broken on purpose is noticed.

The third control is in tests/storage/test_alarm_store.py, and `make torture CONTROL=plain-sequence`.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterwatch.devtools.torture.run import Run, stop_asked

pytestmark = pytest.mark.timeout(600)
CYCLES = 3
SEED = 11


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="meterwatch-torture-", dir="/tmp"))  # short: a socket's path is below it
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_some_cycles_lose_and_double_nothing(directory: Path) -> None:
    """In two runs on one directory: the second goes on where the first was."""
    Run(directory, SEED).go(1, calm=False)
    run = Run(directory, SEED)
    run.go(CYCLES)
    report = run.report()
    assert report["kept"], report
    assert (report["cycles"], report["interrupted"]) == (CYCLES, False)
    assert {key.epoch for key in run.journal.acks} == {1, 2}
    assert report["reads_acked"] > 10_000
    assert report["transitions_heard"] > 0


def test_the_first_ctrl_c_is_told_and_what_is_done_is_done() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background inherits "ignored"
    try:
        with stop_asked() as asked:
            os.kill(os.getpid(), signal.SIGINT)
            assert asked == [signal.SIGINT]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_commit_without_waiting_for_the_disk_is_noticed(directory: Path) -> None:
    run = Run(directory, SEED, control="commit-off", recover_s_max=60)
    run.go(5)
    assert run.broken.reads_lost, run.report()


def test_storing_what_comes_again_is_noticed(directory: Path) -> None:
    run = Run(directory, SEED, control="dedupe-off", recover_s_max=60)
    run.go(5)
    assert run.broken.reads_doubled, run.report()
