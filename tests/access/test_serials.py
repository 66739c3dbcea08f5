"""The list of denied certificates: read again when it changes, and never emptied by a mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meterwatch.access.serials import DeniedSerials, parsed
from meterwatch.errors import ConfigError


def write(path: Path, text: str, stamp: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(stamp * 10**9, stamp * 10**9))


def test_serials_are_found_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "denied"
    path.write_text("# lost laptops\n0A:bc:12\nserial=0xFF  # anna\n\n00\n7d\n")
    assert parsed(path) == {"abc12", "ff", "0", "7d"}


@pytest.mark.parametrize("text", ["xyz", "12 34", "1" * 41, "-1"])
def test_a_line_that_is_no_serial_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "denied"
    path.write_text(f"ab\n{text}\n")
    with pytest.raises(ValueError, match="line 2"):
        parsed(path)


def test_a_changed_file_is_read_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "denied"
    write(path, "aa\n", 1)
    denied = DeniedSerials(path)
    assert denied("aa")
    assert not denied("bb")
    assert not denied.reload()
    write(path, "bb\n", 2)
    assert denied.reload()
    assert denied("bb")
    assert not denied("aa")


@pytest.mark.parametrize("harm", ["bad", "gone"])
def test_what_was_denied_stays_denied_when_the_file_is_bad_or_gone(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "denied"
    write(path, "aa\n", 1)
    denied = DeniedSerials(path)
    if harm == "bad":
        write(path, "zz\n", 2)
    else:
        path.unlink()
    assert not denied.reload()
    assert denied("aa")
    write(path, "aa\nbb\n", 3)
    assert denied.reload()
    assert denied("bb")


def test_without_a_file_nothing_is_denied() -> None:
    denied = DeniedSerials()
    assert not denied.reload()
    assert not denied("aa")


def test_a_file_that_is_not_there_keeps_the_service_from_starting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="denied_serials_file"):
        DeniedSerials(tmp_path / "none")
