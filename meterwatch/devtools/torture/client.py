"""The client process: two head-ends and a subscriber over gRPC, each writing down what it is told before it goes on.

    python -m meterwatch.devtools.torture.client ADDRESS DIRECTORY SEED [--steps N] [--pace STEPS_PER_S]

Lives through every death of the service: nothing here is restarted by a kill. Sends until --steps are acknowledged or
the file `stop` is in the directory, listens until there is `leave`, and ends with its parent. A client that begins on a
journal that is there goes on behind the last flush, in a new epoch: what it does not know to be acknowledged it sends
again.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from meterwatch.client import AlarmFeed, Backoff, HeadEnd
from meterwatch.devtools.torture.journal import ALARMS, LEAVE, READS, STOP, AlarmsJournal, ReadsJournal, Writer
from meterwatch.devtools.torture.town import HEAD_ENDS, METER, STEP_S, Reads, Town, end_us
from meterwatch.v1.ingest_pb2 import Ack

BATCH_ROWS: Final = 1_000
FLUSH_STEPS: Final = 4
"""The head-ends wait for each other so often; between, batches of both are on their way."""
MASK: Final = 0b0010001
"""import_wh and voltage_a_v are there."""


class Sender:
    """One head-end."""

    def __init__(self, address: str, number: int, epoch: int, journal: Writer) -> None:
        self._number, self._epoch, self._journal = number, epoch, journal
        self._seq = 0
        self.head_end = HeadEnd(
            address, HEAD_ENDS[number], epoch, batch_rows=BATCH_ROWS, give_up_after_s=None, on_ack=self._acked,
            backoff=Backoff(0.05, 0.3),
        )  # fmt: skip

    def _acked(self, seq: int, ack: Ack, _latency_s: float) -> None:
        counts = (ack.accepted, ack.versions, ack.duplicates, ack.rejected)
        self._journal.write("ack", self._number, self._epoch, seq, *counts, durable=True)

    def send(self, what: str, reads: Reads | None) -> None:
        """One batch, written down first."""
        if reads is None or not len(reads.meter):
            return
        self._seq += 1
        rows = len(reads.meter)
        self._journal.write("sent", self._number, self._epoch, self._seq, what, reads.step, rows)
        self.head_end.send_columns(
            METER, reads.meter.astype(np.uint32), np.full(rows, end_us(reads.step), np.int64), STEP_S,
            import_wh=reads.import_wh, voltage_a_v=reads.voltage_v, mask=np.full(rows, MASK, np.uint32),
        )  # fmt: skip

    def tell(self, town: Town, step: int) -> None:
        """The events of a step; returns when they are acknowledged."""
        events = town.events(self._number, step)
        if events is None:
            return
        self.head_end.flush()
        done = self.head_end.send_events([METER[i] for i in events.meter.tolist()], events.at_us, events.code)
        counts = (len(events.meter), done.accepted, done.duplicates, done.rejected)
        self._journal.write("events", self._number, step, *counts, durable=True)


def follow(feed: AlarmFeed, journal: Writer) -> None:
    """Write down every transition, until the feed is closed."""
    try:
        for message in feed:
            match message.WhichOneof("message"):
                case "snapshot" if message.snapshot.complete:
                    journal.write("snapshot", message.snapshot.seq, message.snapshot.log_id, durable=True)
                case "transition":
                    told = message.transition
                    alarm = told.alarm
                    journal.write("told", told.seq, alarm.alarm_id, alarm.version, told.kind, alarm.state, durable=True)
                case "coalesced":
                    journal.write("folded", message.coalesced.last_seq, durable=True)
    except BaseException as error:  # the thread's boundary: the check reads it
        journal.write("broken", type(error).__name__, str(error).replace("\n", " "), durable=True)


def run(address: str, directory: Path, seed: int, steps: int | None, pace: float | None) -> None:
    """Send until told to end."""
    known, heard = ReadsJournal(directory), AlarmsJournal(directory)
    known.read()
    heard.read()
    town, epoch = Town(seed), known.epoch + 1
    reads, alarms = Writer(directory / READS), Writer(directory / ALARMS)
    feed = AlarmFeed(address, heard.newest if heard.log_id else 0, log_id=heard.log_id, backoff=Backoff(0.05, 0.3))
    follower = threading.Thread(target=follow, args=(feed, alarms), name="subscriber")
    follower.start()
    try:
        with ExitStack() as stack:
            senders = [Sender(address, number, epoch, reads) for number in range(len(HEAD_ENDS))]
            for sender in senders:
                stack.enter_context(sender.head_end)
            _send(town, senders, known.flushed + 1, steps, pace, directory / STOP, reads)
            reads.write("over", durable=True)
            while not (directory / LEAVE).exists():
                time.sleep(0.05)  # the subscriber is told the rest meanwhile
    finally:
        feed.close()
        follower.join()


def _send(
    town: Town, senders: list[Sender], first: int, steps: int | None, pace: float | None, stop: Path, journal: Writer
) -> None:
    step, due_s = first, time.monotonic()
    while steps is None or step < steps:
        for number, sender in enumerate(senders):
            sender.tell(town, step)
            sender.send("reads", town.reads(number, step))
            sender.send("again", town.again(number, step))
        if step % FLUSH_STEPS == FLUSH_STEPS - 1 or step + 1 == steps:
            for sender in senders:
                sender.head_end.flush()
            journal.write("flushed", step, durable=True)
            if stop.exists():
                return
        step += 1
        if pace is not None:
            due_s = max(due_s + 1 / pace, time.monotonic() - 1)
            time.sleep(max(0.0, due_s - time.monotonic()))  # a load that leaves the machine room for everything else


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("directory", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pace", type=float)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # grpc's C core tells of every broken connection
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != given.parent:
        raise SystemExit("the harness died before its client began")
    run(given.address, given.directory, given.seed, given.steps, given.pace)


if __name__ == "__main__":
    main()
