"""The power is cut, and what was not synced is gone: everything acknowledged is there.

The disk is a file system as it is, with a library in PostgreSQL that writes down how to undo what is not safe yet
(tests/preload/forgetful_disk.c); the harness of `make torture` is the load and the judge. One cut is in `make test`,
many and the controls are in `make faults`.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psycopg
import pytest
from forgetful_disk import ForgetfulDisk, Forgotten
from preloaded import compiled, loading

from meterwatch.devtools.torture.run import Run
from meterwatch.devtools.torture.target import Target

pytestmark = pytest.mark.timeout(3600)
long = pytest.mark.skipif("METERWATCH_FAULT_SEEDS" not in os.environ, reason="minutes; make faults runs it")
CUTS = max(2, int(os.environ.get("METERWATCH_FAULT_SEEDS", "0")) // 4)
SEED = 15
CHECKPOINT_S = 0.3
"""A checkpoint of so little data is over after about so long."""
LOCAL = """
# little memory, so that backends write pages themselves, and WAL that comes around soon
shared_buffers = '16MB'
max_wal_size = '48MB'
min_wal_size = '32MB'
checkpoint_timeout = '30s'
"""
SWITCHED_OFF = """
import storage.embedded.settings, storage.settings
written = storage.embedded.settings.postgresql_conf
storage.embedded.settings.postgresql_conf = lambda *a, **k: written(*a, **k).replace("{name} = 'on'", "{name} = 'off'")
storage.settings.check_settings = lambda dsn: {{
    "timescaledb_version": "", "timescaledb_license": "", "server_version": "not asked"
}}
storage.settings.not_durable = lambda found: []
"""
"""PostgreSQL with a setting off, and a service that does not look."""
TORN_CUTS_MAX = 12
"""Cuts until a page is half old and half new: of five tries by hand none took more than three."""


class Power:
    """What all processes of a target live on; `cut` is a way to die for the harness.

    at_worst: nothing is left that need not be; else what is left is drawn.
    """

    def __init__(self, directory: Path, *, at_worst: bool) -> None:
        self._at_worst = at_worst
        self._disk = ForgetfulDisk(directory / "data" / "pgdata", directory / "disk")
        self.prelude = loading(compiled("forgetful_disk", directory), **self._disk.environment)
        self.forgotten: list[Forgotten] = []

    def on(self) -> None:
        """What is there is safe."""
        self._disk.begin()

    def cut(self, target: Target, rng: np.random.Generator) -> None:
        """In half of all cuts while a checkpoint is written."""
        checkpoint = threading.Thread(target=_checkpoint, args=(target.dsn,))
        if rng.random() < 0.5:
            checkpoint.start()
            time.sleep(rng.uniform(0, CHECKPOINT_S))  # the moment within it
        target.kill_postgres()
        target.kill_service()
        target.kill_postgres()  # which the service may have started again before it died
        if checkpoint.ident is not None:
            checkpoint.join()
        self.forgotten.append(self._disk.cut(None if self._at_worst else random.Random(int(rng.integers(2**32)))))
        self.on()


def _checkpoint(dsn: str) -> None:
    with suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CHECKPOINT")


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="meterwatch-power-", dir="/tmp"))  # short: a socket's path is below it
    path.chmod(0o711)
    (path / "data").mkdir(mode=0o711)
    (path / "data" / "local.conf").write_text(LOCAL)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def cut_often(directory: Path, cuts: int, *, at_worst: bool, calm: bool) -> None:
    """Load, cuts, checks; calm: the alarms too must be those of a run without a cut."""
    power = Power(directory, at_worst=at_worst)
    power.on()
    run = Run(directory, SEED, kills={"power": (power.cut, 1.0)}, prelude=power.prelude)
    run.go(cuts, calm=calm)
    report = run.report()
    assert report["kept"], report
    assert (report["cycles"], report["kills"]) == (cuts, {"power": cuts})
    assert any(forgotten.changes for forgotten in power.forgotten), power.forgotten


def test_a_power_cut_loses_and_doubles_nothing(directory: Path) -> None:
    cut_often(directory, 1, at_worst=True, calm=False)


@long
@pytest.mark.parametrize("at_worst", [True, False], ids=["nothing more than must be is left", "some more is left"])
def test_power_cuts_lose_and_double_nothing(directory: Path, *, at_worst: bool) -> None:
    cut_often(directory, CUTS, at_worst=at_worst, calm=True)


def switched_off(directory: Path, name: str, *, at_worst: bool) -> Run:
    """A run that begins with what is safe in this directory."""
    power = Power(directory, at_worst=at_worst)
    power.on()
    prelude = power.prelude + SWITCHED_OFF.format(name=name)
    return Run(directory, SEED, kills={"power": (power.cut, 1.0)}, prelude=prelude, recover_s_max=60)


@long
def test_a_database_that_syncs_nothing_is_noticed(directory: Path) -> None:
    """The control: `fsync = off`, and the same judge of the same cut finds what is lost."""
    Run(directory, SEED).go(0, calm=False)
    run = switched_off(directory, "fsync", at_worst=True)
    run.go(1, calm=False)
    assert run.broken.reads_lost, run.report()


@long
def test_pages_torn_by_a_cut_are_noticed(directory: Path) -> None:
    """The control of cuts by chance: without whole pages in the WAL, a page that is half new cannot be mended."""
    run = switched_off(directory, "full_page_writes", at_worst=False)
    with suppress(psycopg.errors.DataCorrupted):  # PostgreSQL started, and the judge met such a page
        run.go(TORN_CUTS_MAX, calm=False)
    said = "".join(path.read_text(errors="replace") for path in directory.glob("data/log/*.log"))
    assert "invalid page in block" in said, run.report()
