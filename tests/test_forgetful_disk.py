"""The disk that forgets owes what it says it owes, and gives no more: else a test of a power loss shows nothing.

A process with the library does deeds drawn by chance, and the same deeds are done to an oracle that keeps every state
of every file and of the names.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from forgetful_disk import BLOCK_BYTES, ForgetfulDisk
from preloaded import compiled

SEEDS = range(int(os.environ.get("METERWATCH_FAULT_SEEDS", "16")))
DEEDS = 90
NAMES = "abcdef"
BLOCKS = 4

DO = """
import ctypes, json, os, sys
os.chdir(sys.argv[1])
directory = os.open(".", os.O_RDONLY)
for deed, *given in json.loads(sys.stdin.read()):
    if deed == "sync names":
        os.fsync(directory)
    elif deed == "rename":
        os.rename(*given)
    elif deed == "remove":
        os.unlink(*given)
    else:
        name, *rest = given
        fd = os.open(name, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if deed == "empty" else 0))
        if deed == "write":
            os.pwrite(fd, bytes([rest[2]]) * rest[1], rest[0])
        elif deed == "go and write":
            os.lseek(fd, rest[0], os.SEEK_SET)
            os.write(fd, bytes([rest[2]]) * rest[1])
        elif deed == "write parts":
            parts = [bytes([rest[2]]) * rest[1], bytes([rest[2]])]  # os.pwritev would call pwritev2
            vector = (ctypes.c_void_p * 4)()
            for n, part in enumerate(parts):
                vector[2 * n], vector[2 * n + 1] = ctypes.cast(part, ctypes.c_void_p), len(part)
            assert ctypes.CDLL(None).pwritev(fd, vector, 2, ctypes.c_int64(rest[0])) == rest[1] + 1
        elif deed == "cut":
            os.ftruncate(fd, rest[0])
        elif deed == "cut by name":
            os.truncate(name, rest[0])
        elif deed == "reserve":
            os.posix_fallocate(fd, 0, rest[0])
        elif deed == "sync":
            (os.fsync if rest[0] else os.fdatasync)(fd)
        os.close(fd)
"""


@dataclass
class File:
    """States of a file since the last sync of it, oldest first; `shorter`: it was cut since."""

    states: list[bytes] = field(default_factory=lambda: [b""])
    shorter: bool = False

    def become(self, content: bytes) -> None:
        self.shorter |= len(content) < len(self.states[-1])
        self.states.append(content)

    def sync(self) -> None:
        self.states, self.shorter = self.states[-1:], False


@dataclass
class Oracle:
    """What a cut may leave, by doing the same deeds slowly."""

    names: list[dict[str, File]] = field(default_factory=lambda: [{}])
    """Since the last that are safe, oldest first."""
    made: dict[int, int] = field(default_factory=dict)
    """Of a file made since: with which of `names`."""

    def do(self, deed: str, *given: Any) -> None:
        now = dict(self.names[-1])
        if deed == "sync names":
            self._safe(len(self.names) - 1)
        elif deed == "rename":
            now[given[1]] = now.pop(given[0])
            self.names.append(now)
        elif deed == "remove":
            del now[given[0]]
            self.names.append(now)
        else:
            self._do_to_file(deed, *given)

    def _do_to_file(self, deed: str, name: str, *given: Any) -> None:
        if name not in self.names[-1]:
            file = File()
            self.names.append(self.names[-1] | {name: file})
            self.made[id(file)] = len(self.names) - 1
        file = self.names[-1][name]
        content = file.states[-1]
        if deed in ("write", "go and write", "write parts"):
            at, length, byte = given
            length += deed == "write parts"
            wide = content.ljust(at, b"\0")
            file.become(wide[:at] + bytes([byte]) * length + wide[at + length :])
        elif deed in ("cut", "cut by name"):
            file.become(content[: given[0]].ljust(given[0], b"\0"))
        elif deed == "reserve":
            file.become(content.ljust(given[0], b"\0"))
        elif deed == "empty":
            file.become(b"")
        elif deed == "sync":
            file.sync()
            self._safe(self.made.get(id(file), 0))

    def _safe(self, upto: int) -> None:
        del self.names[:upto]
        self.made = {file: at - upto for file, at in self.made.items() if at > upto}


def drawn(rng: random.Random) -> Iterator[list[Any]]:
    """Deeds that can be done, in their order."""
    there: set[str] = set()
    for _ in range(DEEDS):
        deed = rng.choice(
            ["write"] * 5 + ["go and write", "write parts", "cut", "cut by name", "reserve", "empty"]
            + ["sync"] * 3 + ["sync names", "rename", "remove"]
        )  # fmt: skip
        name, at = rng.choice(NAMES), rng.randrange(BLOCKS * BLOCK_BYTES)
        if deed in ("rename", "remove"):
            if name not in there:
                continue
            there.discard(name)
            other = rng.choice([one for one in NAMES if one != name])
            if deed == "rename":
                there.add(other)
            yield [deed, name, other] if deed == "rename" else [deed, name]
        elif deed == "sync names":
            yield [deed]
        else:
            there.add(name)
            length, byte = rng.randrange(1, 2 * BLOCK_BYTES), rng.randrange(1, 256)
            rest = {"sync": [at % 2], "cut": [at], "cut by name": [at], "reserve": [at + 1], "empty": []}
            yield [deed, name, *rest.get(deed, [at, length, byte])]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("forgetful_disk", tmp_path_factory.mktemp("library"))


def done(library: Path, directory: Path, seed: int) -> tuple[ForgetfulDisk, Oracle]:
    """A disk and an oracle after the same deeds."""
    root = directory / "root"
    root.mkdir()
    disk = ForgetfulDisk(root, directory / "disk")
    disk.begin()
    deeds, oracle = list(drawn(random.Random(seed))), Oracle()
    environment = os.environ | disk.environment | {"LD_PRELOAD": str(library)}
    command = [sys.executable, "-S", "-E", "-c", DO, str(root)]
    subprocess.run(command, input=json.dumps(deeds), text=True, check=True, env=environment)
    for deed in deeds:
        oracle.do(*deed)
    assert contents(root) == {name: file.states[-1] for name, file in oracle.names[-1].items()}
    return disk, oracle


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


@pytest.mark.parametrize("seed", SEEDS)
def test_at_worst_nothing_is_left_but_what_was_synced(library: Path, tmp_path: Path, seed: int) -> None:
    disk, oracle = done(library, tmp_path, seed)
    disk.cut(None)
    assert contents(disk.root) == {name: file.states[0] for name, file in oracle.names[0].items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_by_chance_each_block_and_the_names_are_as_at_some_moment_since(
    library: Path, tmp_path: Path, seed: int
) -> None:
    disk, oracle = done(library, tmp_path, seed + len(SEEDS))
    disk.cut(random.Random(seed))
    left = contents(disk.root)
    assert left.keys() in [names.keys() for names in oracle.names]
    assert any(
        left.keys() == names.keys() and all(may_be(left[name], file) for name, file in names.items())
        for names in oracle.names
    )


def may_be(content: bytes, file: File) -> bool:
    if file.shorter:
        return content in file.states
    return len(content) in map(len, file.states) and all(
        any(piece(content, at) == piece(state.ljust(len(content), b"\0")[: len(content)], at) for state in file.states)
        for at in range(0, len(content), BLOCK_BYTES)
    )


def piece(content: bytes, at: int) -> bytes:
    return content[at : at + BLOCK_BYTES]
