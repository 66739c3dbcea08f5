"""What a killed run left is removed by the next one, and what a living one has is not."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from loadtest import local


def test_only_what_nobody_holds_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "DIRECTORIES", tmp_path)
    for name in ("left", "alive", "begun"):
        (tmp_path / f"{local.PREFIX}{name}" / "data").mkdir(parents=True)
    for name in ("left", "alive"):
        (tmp_path / f"{local.PREFIX}{name}" / local.LOCK).touch()
    with (tmp_path / f"{local.PREFIX}alive" / local.LOCK).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        local.sweep()
        assert {path.name.removeprefix(local.PREFIX) for path in tmp_path.iterdir()} == {"alive", "begun"}
