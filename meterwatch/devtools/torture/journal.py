"""What the client process wrote down: lines of text, appended; what says that something was acknowledged is fsynced.

    reads.log    sent H EPOCH SEQ WHAT STEP ROWS     before the batch is given to the client library; WHAT reads|again
                 ack H EPOCH SEQ ACCEPTED VERSIONS DUPLICATES REJECTED
                 events H STEP SENT ACCEPTED DUPLICATES REJECTED     when the call returned
                 flushed STEP                         all up to this step is acknowledged
                 over                                 nothing more is sent
    alarms.log   snapshot SEQ LOG_ID                  where the subscription began
                 told SEQ ALARM VERSION KIND STATE
                 folded SEQ                           the subscriber was too slow and was told of the newest only
                 broken TEXT                          the feed ended

A last line without its end is not read yet. Readers keep their place, so each line is parsed once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

READS: Final = "reads.log"
ALARMS: Final = "alarms.log"
STOP: Final = "stop"
"""File whose presence asks the client to send no more, at the next flush."""
LEAVE: Final = "leave"
"""File whose presence asks a client that sends no more to end."""


class Writer:
    """Appends lines to one journal. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def write(self, *words: object, durable: bool = False) -> None:
        """Write one line; durable: return when it is on the disk."""
        with self._lock:
            self._file.write((" ".join(map(str, words)) + "\n").encode())
            if durable:
                os.fsync(self._file.fileno())


class _Tail:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self) -> Iterator[list[str]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._at += whole
        for line in text[:whole].decode().splitlines():
            yield line.split(" ")


class Key(NamedTuple):
    """A batch as the service knows it."""

    head_end: int
    epoch: int
    seq: int


class Sent(NamedTuple):
    """What a batch held."""

    what: str
    step: int
    rows: int


@dataclass
class ReadsJournal:
    """Everything said in reads.log so far; `read` takes what is new."""

    path: Path
    sent: dict[Key, Sent] = field(default_factory=dict)
    acks: dict[Key, tuple[int, int, int, int]] = field(default_factory=dict)
    acked_twice: list[Key] = field(default_factory=list)
    events: dict[tuple[int, int], tuple[int, int, int, int]] = field(default_factory=dict)
    """By head-end and step: sent, accepted, duplicates, rejected."""
    flushed: int = -1
    over: bool = False

    def __post_init__(self) -> None:
        self._tail = _Tail(self.path / READS)

    def read(self) -> None:
        """Take the lines that came since."""
        for word, *rest in self._tail.lines():
            if word == "sent":
                self.sent[Key(*map(int, rest[:3]))] = Sent(rest[3], int(rest[4]), int(rest[5]))
            elif word == "ack":
                key = Key(*map(int, rest[:3]))
                if key in self.acks:
                    self.acked_twice.append(key)
                accepted, versions, duplicates, rejected = map(int, rest[3:])
                self.acks[key] = (accepted, versions, duplicates, rejected)
            elif word == "events":
                head_end, step, sent, accepted, duplicates, rejected = map(int, rest)
                self.events[head_end, step] = (sent, accepted, duplicates, rejected)
            elif word == "flushed":
                self.flushed = int(rest[0])
            elif word == "over":
                self.over = True

    @property
    def epoch(self) -> int:
        """The newest epoch; 0: none."""
        return max((key.epoch for key in self.sent), default=0)


@dataclass
class AlarmsJournal:
    """Everything said in alarms.log so far; `read` takes what is new."""

    path: Path
    began: int | None = None
    """Cursor of the first snapshot; what came before was never told."""
    log_id: str = ""
    told: dict[int, tuple[str, int, str]] = field(default_factory=dict)
    """By cursor: alarm, version, kind."""
    newest: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tail = _Tail(self.path / ALARMS)
        self._seq_of: dict[tuple[str, int], int] = {}
        self._version: dict[str, int] = {}
        self.doubled = 0

    def read(self) -> None:
        """Take the lines that came since."""
        for word, *rest in self._tail.lines():
            if word == "snapshot":
                if self.began is None:
                    self.began, self.newest = int(rest[0]), int(rest[0])
                self.log_id = rest[1]
            elif word == "told":
                self._told(int(rest[0]), rest[1], int(rest[2]), rest[3])
            else:
                self.problems.append(" ".join([word, *rest]))

    def _told(self, seq: int, alarm: str, version: int, kind: str) -> None:
        """A cursor that comes a second time with the same change is delivery at least once, and no harm."""
        if self.told.get(seq) == (alarm, version, kind):
            return
        if (known := self._seq_of.get((alarm, version))) is not None:
            self.doubled += 1
            self.problems.append(f"version {version} of {alarm} was told with cursors {known} and {seq}")
        elif version <= self._version.get(alarm, 0):
            self.problems.append(f"version {version} of {alarm} came after {self._version[alarm]}")
        self.told[seq] = (alarm, version, kind)
        self._seq_of[alarm, version] = seq
        self._version[alarm] = max(version, self._version.get(alarm, 0))
        self.newest = max(self.newest, seq)
