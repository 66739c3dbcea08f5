"""Cycles of kill, recovery and check under load, and the report: `make torture CYCLES=100 JSON=file`.

Exit status 1 if anything acknowledged was lost or doubled, an alarm differs from a run without kills, a law of
meterwatch.soundness does not hold, or the service did not come back. Ctrl-C ends after the present cycle, with all
checks and the report of what was done. With DIR=directory the run is kept, and the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg

from meterwatch.client import import_registry
from meterwatch.devtools.torture.check import Broken, Check, same_alarms
from meterwatch.devtools.torture.controls import CONTROLS
from meterwatch.devtools.torture.journal import LEAVE, STOP, AlarmsJournal, ReadsJournal
from meterwatch.devtools.torture.target import KILLS, Kill, NotRecovered, Target
from meterwatch.devtools.torture.town import Town, end_us, registry
from meterwatch.soundness import inspect
from rules.profile import PROFILES
from storage.arrays import moment
from storage.sound import Span, inspected
from storage.upkeep import Retention

LOAD_S: Final = (0.2, 1.5)
"""How long there is load before a kill: the moment is drawn from it."""
LOOK_BACK_STEPS: Final = 48
"""Steps before the last check that a cycle checks again."""
WHOLE_EVERY: Final = 10
"""Cycles after which everything since the begin is checked."""
PACE: Final = 10.0
STATE: Final = "torture.json"


@dataclass
class Done:
    """What was done so far; kept in the directory of the run."""

    seed: int
    cycles: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    recovery_s: list[float] = field(default_factory=list)
    interrupted: bool = False

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path, seed: int) -> Done:
        if not path.exists():
            return cls(seed)
        done = cls(**json.loads(path.read_text()))
        done.interrupted = False
        return done


class Run:
    """One run on one directory.

    kills, prelude: what tests in place of the usual ways to die, and Python for each life of the service.
    """

    def __init__(
        self, directory: Path, seed: int, *, control: str = "", pace: float | None = PACE, recover_s_max: float = 180.0,
        kills: Mapping[str, tuple[Kill, float]] = KILLS, prelude: str = "",
    ) -> None:  # fmt: skip
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)  # as root PostgreSQL runs as another user, who must get at its own directory below
        self.directory = directory
        self.done = Done.load(directory / STATE, seed)
        self.broken = Broken()
        self.journal, self.heard = ReadsJournal(directory), AlarmsJournal(directory)
        self.target = Target(directory, control, recover_s_max, prelude=prelude)
        self.town = Town(self.done.seed)
        self.check = Check(self.town, self.journal, self.heard, self.broken)
        self._control = CONTROLS[control] if control else None
        self._pace = pace
        self._kills = kills
        self._checked_step = 0

    def go(self, cycles: int, *, calm: bool = True) -> None:
        """Do what is missing of so many cycles and the last checks; `broken` says what was found.

        calm: compare the alarms with those of the same without a kill.
        """
        try:
            with self.target, stop_asked() as asked, self._client(None):
                for cycle in range(self.done.cycles, cycles):
                    if asked:
                        break
                    self.cycle(cycle)
                    if self.broken:
                        break
                self.done.interrupted = bool(asked)
                self._end(calm=calm)
        except NotRecovered as error:
            self.broken.say(str(error))

    def cycle(self, cycle: int) -> None:
        """Load, a kill, recovery, the checks."""
        rng = np.random.default_rng([self.done.seed, cycle])
        self._until_acked(1)
        time.sleep(rng.uniform(*LOAD_S))  # the moment of the kill
        shares = {name: share for name, (_, share) in self._kills.items()}
        kind = self._control.kill if self._control else str(rng.choice(list(shares), p=list(shares.values())))
        self._kills[kind][0](self.target, rng)
        self.target.await_ready()
        self._until_acked(1)
        took_s = time.monotonic() - self.target.killed_s
        self.checks(whole=cycle % WHOLE_EVERY == WHOLE_EVERY - 1)
        self.done.cycles += 1
        self.done.kinds[kind] = self.done.kinds.get(kind, 0) + 1
        self.done.recovery_s.append(round(took_s, 3))
        self.done.save(self.directory / STATE)
        note(
            f"cycle {self.done.cycles}: {kind} killed, reads acknowledged again after {took_s:.1f} s;"
            f" {self.reads_acked:,} reads and {self.heard.newest:,} transitions so far,"
            f" {'all as they must be' if not self.broken else 'NOT as they must be'}"
        )

    def checks(self, *, whole: bool) -> None:
        """Journal against database, and the laws of a sound database; whole: since the begin."""
        with psycopg.connect(self.target.dsn, autocommit=True) as connection:
            self._until_heard(connection)
            first = 0 if whole else max(0, self._checked_step - LOOK_BACK_STEPS)
            self.check.ledger(connection)
            self.check.reads(connection, first)
            self.check.alarms(connection)
            self._checked_step = self.journal.flushed
        asyncio.run(self._sound(Span() if whole else Span(since=moment(end_us(first)))))

    async def _sound(self, span: Span) -> None:
        async with inspected(self.target.dsn, Retention(), span) as db:
            async for verdict in inspect(db, PROFILES["default"]):
                for one in verdict.found:
                    self.broken.say(f"{verdict.invariant}: {one.what}: found {one.found}; expected {one.expected}")

    @property
    def reads_acked(self) -> int:
        """Rows of acknowledged batches."""
        return sum(map(sum, self.journal.acks.values()))

    def report(self) -> dict[str, Any]:
        """The figures of the run."""
        recovery_s = sorted(self.done.recovery_s)
        self.heard.read()
        return {
            "cycles": self.done.cycles,
            "seed": self.done.seed,
            "kills": self.done.kinds,
            "batches_acked": len(self.journal.acks),
            "reads_acked": self.reads_acked,
            "reads_lost": len(self.broken.reads_lost),
            "reads_doubled": len(self.broken.reads_doubled),
            "reads_wrong": len(self.broken.reads_wrong),
            "transitions_heard": len(self.heard.told),
            "alarms_lost": len(self.broken.alarms_lost),
            "alarms_doubled": len(self.broken.alarms_doubled),
            "recovery_s_max": recovery_s[-1] if recovery_s else None,
            "recovery_s_p50": recovery_s[len(recovery_s) // 2] if recovery_s else None,
            "findings": self.broken.told(),
            "interrupted": self.done.interrupted,
            "kept": not self.broken,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        }

    @contextmanager
    def _client(self, steps: int | None) -> Iterator[None]:
        """The service ready, and the client process; it is ended with the context."""
        for name in (STOP, LEAVE):
            (self.directory / name).unlink(missing_ok=True)
        self.journal.read()
        self.journal.over = False
        self.target.start()
        self.target.await_ready()
        if not self.journal.sent:
            with psycopg.connect(self.target.dsn, autocommit=True) as connection:
                for statement in self._control.prepare if self._control else ():
                    connection.execute(statement.encode())
            answer = import_registry(self.target.address, registry())
            assert not answer.error, answer.error
        command = [sys.executable, "-m", "meterwatch.devtools.torture.client", self.target.address, str(self.directory)]
        command += [str(self.done.seed), "--parent", str(os.getpid())]
        command += ["--steps", str(steps)] if steps is not None else []
        command += ["--pace", str(self._pace)] if self._pace is not None else []
        with (self.directory / "client.log").open("ab") as output:
            client = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            yield
        finally:
            client.kill()
            client.wait()

    def _end(self, *, calm: bool) -> None:
        """No more load; then everything must be there, and as without kills."""
        (self.directory / STOP).touch()
        self.target.until(self._over, "the client has all its answers")
        self.checks(whole=True)
        with psycopg.connect(self.target.dsn, autocommit=True) as connection:
            self.check.events(connection)
            if calm and self._control is None and self.done.cycles:
                self._compare_with_calm(connection)
        (self.directory / LEAVE).touch()

    def _over(self) -> bool:
        self.journal.read()
        return self.journal.over

    def _compare_with_calm(self, tortured: psycopg.Connection[Any]) -> None:
        note(f"the same {self.journal.flushed + 1:,} steps without a kill")
        calm = Run(self.directory / "calm", self.done.seed, pace=None, recover_s_max=3600)
        with calm.target, calm._client(self.journal.flushed + 1):
            calm.target.until(calm._over, "the calm client has all its answers")
            with psycopg.connect(calm.target.dsn, autocommit=True) as connection:
                same_alarms(tortured, connection, self.broken)
        shutil.rmtree(calm.directory)

    def _until_acked(self, more: int) -> None:
        self.journal.read()
        target = len(self.journal.acks) + more

        def acked() -> bool:
            self.journal.read()
            return len(self.journal.acks) >= target

        self.target.until(acked, "a batch is acknowledged")

    def _until_heard(self, connection: psycopg.Connection[Any]) -> None:
        row = connection.execute("SELECT seq FROM alarm_cursor").fetchone()
        assert row is not None

        def heard() -> bool:
            self.heard.read()
            return self.heard.began is not None and self.heard.newest >= row[0]

        self.target.until(heard, f"the subscriber was told of cursor {row[0]}")


@contextmanager
def stop_asked() -> Iterator[list[int]]:
    """A list that has something in it once Ctrl-C (or SIGTERM) came; a second one ends the process."""
    asked: list[int] = []
    before = {}

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        note("ends after this cycle")
        signal.signal(number, signal.default_int_handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--json", type=Path, help="also write the report there")
    parser.add_argument("--dir", type=Path, help="keep the run there, or go on with it; else a temporary directory")
    parser.add_argument("--control", default="", choices=["", *CONTROLS], help="break this promise on purpose")
    parser.add_argument("--pace", type=float, default=PACE, help="quarter-hours of 320 meters sent a second")
    given = parser.parse_args(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # grpc's C core tells of every broken connection
    directory = given.dir or Path(tempfile.mkdtemp(prefix="meterwatch-torture-", dir="/tmp"))
    run = Run(directory, given.seed, control=given.control, pace=given.pace)
    run.go(given.cycles)
    report = run.report()
    text = json.dumps(report, indent=2)
    if given.json:
        given.json.write_text(text + "\n")
    print(text)
    if report["kept"] and given.dir is None:
        shutil.rmtree(directory, ignore_errors=True)
    elif not report["kept"]:
        note(f"a promise was broken; the journals and the database are in {directory}")
    return 0 if report["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
