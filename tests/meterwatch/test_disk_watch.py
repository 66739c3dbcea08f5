"""The disk gets full and is made free again: when reads are refused, and when that is told."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from meterwatch import disk_watch
from meterwatch.disk_watch import AGAIN, MIB, WARN_TIMES, DiskWatch, Room, free_bytes_of, room_of

LEAST = 1000


@pytest.mark.parametrize(
    ("free", "was", "room"),
    [
        (LEAST - 1, Room.ENOUGH, Room.NONE),
        (LEAST, Room.ENOUGH, Room.LITTLE),
        (LEAST * AGAIN - 1, Room.NONE, Room.NONE),
        (LEAST * AGAIN, Room.NONE, Room.LITTLE),
        (LEAST * AGAIN - 1, Room.LITTLE, Room.LITTLE),
        (LEAST * WARN_TIMES - 1, Room.ENOUGH, Room.LITTLE),
        (LEAST * WARN_TIMES, Room.ENOUGH, Room.ENOUGH),
        (LEAST * WARN_TIMES * AGAIN - 1, Room.LITTLE, Room.LITTLE),
        (LEAST * WARN_TIMES * AGAIN, Room.LITTLE, Room.ENOUGH),
        (LEAST * WARN_TIMES * AGAIN, Room.NONE, Room.ENOUGH),
    ],
)
def test_at_each_edge(free: float, was: Room, room: Room) -> None:
    assert room_of(free, LEAST, was) is room


@given(st.integers(0, 20 * LEAST), st.sampled_from(Room))
def test_a_state_lasts_while_the_disk_does_not_change_and_more_room_is_never_worse(free: int, was: Room) -> None:
    room = room_of(free, LEAST, was)
    assert room_of(free, LEAST, room) is room
    assert room_of(free + 1, LEAST, was) >= room
    assert (room is Room.NONE) >= (free < LEAST)


@given(st.integers(0, 1 << 40), st.sampled_from(Room))
def test_with_no_minimum_there_is_always_enough(free: int, was: Room) -> None:
    assert room_of(free, 0, was) is Room.ENOUGH


def test_reads_are_refused_and_taken_again_and_each_change_is_said_once() -> None:
    reasons: list[str] = []
    watch = DiskWatch([Path("/data")], 1024 * MIB, reasons.append)
    with structlog.testing.capture_logs() as said:
        for free_mib in (90_000, 90_000, 5_000, 4_000, 700, 600, 1_100, 1_300, 1_300, 90_000):
            watch.judge(free_mib * MIB)
            assert watch.free_bytes == free_mib * MIB
    assert [line["log_level"] for line in said] == ["warning", "error", "warning", "info"]
    little, refused, taken, enough = reasons
    assert (little, taken, enough) == ("", "", "")
    assert "700 MiB left, expected at least 1024" in refused


async def test_the_place_with_less_room_counts_and_a_look_that_fails_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free: dict[str, list[int | OSError]] = {"wal": [3, 3, 9, 9], "data": [5, OSError(errno.EIO, "broken"), 5]}
    before: list[float] = []

    def look(place: Path) -> int:
        if place.name == "wal":
            before.append(watch.free_bytes)
        value = free[place.name].pop(0)  # IndexError at the fourth look: the end of the watch
        if isinstance(value, OSError):
            raise value
        return value * MIB

    monkeypatch.setattr(disk_watch, "EVERY_S", 0)
    watch = DiskWatch([Path("wal"), Path("data")], MIB, lambda _: None, look)
    with pytest.raises(IndexError):
        await watch.run()
    assert math.isnan(before[0])
    assert before[1:] == [3 * MIB, 3 * MIB, 5 * MIB]


def test_free_is_what_others_than_root_may_write(tmp_path: Path) -> None:
    assert 0 <= free_bytes_of(tmp_path) < 1 << 60
    with pytest.raises(FileNotFoundError):
        free_bytes_of(tmp_path / "gone")
