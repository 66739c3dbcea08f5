"""Files that change while the service runs: taken when all are sound and at rest, else the older ones stay."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tls_world import CA, NOW, OTHER_CA, Files

from meterwatch.errors import ConfigError
from meterwatch.server import rotation_of
from meterwatch.transport import dev
from meterwatch.transport.certificates import TlsFiles
from meterwatch.transport.rotation import WARNING, Rotation
from meterwatch.transport.settings import Tls


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def opened(files: Files) -> Rotation:
    rotation = rotation_of(files.server())
    assert rotation is not None
    return rotation


def test_without_files_there_is_no_tls() -> None:
    assert rotation_of(Tls()) is None


def test_files_that_are_wrong_at_the_start_are_no_start(files: Files) -> None:
    tls = files.server(dev.server(CA, NOW, days=-1))
    with pytest.raises(ConfigError, match="expired on"):
        rotation_of(tls)


def test_what_does_not_change_is_not_read_again(files: Files) -> None:
    rotation = opened(files)
    before = rotation.material
    assert rotation.look().look().material is before


def test_new_files_are_taken_when_they_rest(files: Files) -> None:
    rotation = opened(files)
    before = rotation.material
    files.server()
    assert rotation.look().material is before
    assert rotation.look().material.certificate == (files.directory / "server.pem").read_bytes()
    assert not rotation.refused


def test_a_certificate_before_its_key_is_no_mismatch(files: Files) -> None:
    rotation = opened(files)
    old_key = (files.directory / "server.key.pem").read_bytes()
    files.server()
    new_key = (files.directory / "server.key.pem").read_bytes()
    (files.directory / "server.key.pem").write_bytes(old_key)
    with capture_logs() as said:
        rotation.look()
        (files.directory / "server.key.pem").write_bytes(new_key)
        rotation.look()
        rotation.look()
    assert [line["event"] for line in said if line["log_level"] == "error"] == []
    assert rotation.material.key == new_key


def test_bad_files_change_nothing_and_are_said_once_for_each_reason(files: Files) -> None:
    rotation = opened(files)
    before = rotation.material
    (files.directory / "server.pem").write_text("no certificate")
    with capture_logs() as said:
        for _ in range(5):
            rotation.look()
        assert rotation.refused
        (files.directory / "server.key.pem").unlink()
        for _ in range(5):
            rotation.look()
    assert rotation.material is before
    assert rotation.refused
    assert [len(line["problems"]) for line in said if line["log_level"] == "error"] == [1, 2]


def test_sound_files_after_bad_ones_are_taken(files: Files) -> None:
    rotation = opened(files)
    (files.directory / "ca.pem").write_text("no certificate")
    rotation.look().look()
    assert rotation.refused
    files.ca(OTHER_CA)
    assert not rotation.look().look().refused
    assert rotation.material.client_ca == OTHER_CA.certificate_pem


def test_a_file_that_could_not_be_read_is_tried_again_though_it_did_not_change(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = opened(files)
    files.server()

    def fails(*_: object) -> None:
        raise ConfigError(["too many open files"])

    with monkeypatch.context() as broken:
        broken.setattr("meterwatch.transport.rotation.read_material", fails)
        rotation.look().look()
        assert rotation.refused
    assert not rotation.look().refused


def test_the_end_of_the_certificate_is_spoken_of_once_a_day_from_30_days_before(files: Files) -> None:
    files.server(dev.server(CA, NOW, days=31))
    now = [NOW]
    rotation = Rotation(
        TlsFiles(files.directory / "server.pem", files.directory / "server.key.pem", None), lambda: now[0]
    )

    def said_after(passed: timedelta) -> list[str]:
        now[0] = NOW + passed
        with capture_logs() as said:
            rotation.look().look()
        return [line["log_level"] for line in said]

    assert timedelta(days=31) - WARNING == timedelta(days=1)
    day = timedelta(days=1)
    assert said_after(day / 2) == []
    assert said_after(day) == ["warning"]
    assert said_after(day * 2) == ["warning"]
    assert rotation.expires_in_s == (29 * day).total_seconds()
    assert said_after(day * 32) == ["error"]
    assert rotation.expires_in_s < 0
