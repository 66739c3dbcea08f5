"""The command line over TLS: its options, its environment, its configuration, and what it says when it is refused."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from meterwatch.calls import Watch
from meterwatch.cli import app
from meterwatch.config import Server
from meterwatch.metrics import Metrics
from meterwatch.server import bind, make_server, rotation_of
from meterwatch.transport.settings import Tls

ENOUGH_S = 30.0  # a limit for a hung test, not an expectation


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CONFIG", "TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN_FILE", "TOKEN_OVER_PLAINTEXT"):
        monkeypatch.delenv(f"METERWATCH_{name}", raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls") / "dev"
    result = run("cert", "dev", str(directory), "--host", "meters.example", "--district", "D 1")
    assert result.exit_code == 0, result.output
    return directory


@pytest.fixture(scope="module")
def address(certificates: Path) -> Iterator[str]:
    """A server with mutual TLS that has health and nothing else, on a thread of its own."""
    tls = Tls(
        certificate=certificates / "server.pem", key=certificates / "server.key.pem", client_ca=certificates / "ca.pem"
    )
    started: queue.Queue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def live() -> None:
        ended = asyncio.Event()
        server, health = make_server(Server(port=0, tls=tls), Watch(Metrics()))
        where = bind(server, Server(port=0, tls=tls), rotation_of(tls))
        await server.start()
        health.serving()
        started.put((where, asyncio.get_running_loop(), ended))
        await ended.wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    where, loop, ended = started.get(timeout=ENOUGH_S)
    yield where
    loop.call_soon_threadsafe(ended.set)
    thread.join(ENOUGH_S)


def options(certificates: Path, who: str = "operator") -> list[str]:
    return [
        "--tls-ca", str(certificates / "ca.pem"), "--tls-cert", str(certificates / f"{who}.pem"),
        "--tls-key", str(certificates / f"{who}.key.pem"),
    ]  # fmt: skip


def service_of(result: Result) -> dict[str, str]:
    (row,) = [row for row in json.loads(result.stdout) if row["what"] == "service"]
    return dict(row)


def doctor(*before: str, address: str) -> dict[str, str]:
    Path("meterwatch.toml").write_text(
        '[database]\nurl = "postgresql://x@127.0.0.1:1/y"\n'
        + (Path("client.toml").read_text() if Path("client.toml").exists() else "")
    )
    return service_of(run(*before, "doctor", "--address", address, "-o", "json"))


def test_by_options(certificates: Path, address: str) -> None:
    assert doctor(*options(certificates), address=address)["verdict"] == "ok"
    assert "METERWATCH_TLS_CA" not in os.environ


def test_by_the_environment(certificates: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("CA", "CERT", "KEY"), options(certificates)[1::2], strict=True):
        monkeypatch.setenv(f"METERWATCH_TLS_{name}", value)
    assert doctor(address=address)["verdict"] == "ok"


def test_by_the_configuration_which_the_options_override(certificates: Path, address: str) -> None:
    ca, certificate, key = options(certificates)[1::2]
    Path("client.toml").write_text(f"[client]\nca = '{ca}'\ncertificate = '{certificate}'\nkey = '{key}'\n")
    assert doctor(address=address)["verdict"] == "ok"
    assert doctor("--tls-ca", str(certificates / "viewer.pem"), address=address)["verdict"] == "fail"
    assert "METERWATCH_TLS_CA" not in os.environ


def test_a_refusal_is_a_sentence_and_exit_code_69(certificates: Path, address: str) -> None:
    result = run("alarms", "list", "--address", address)
    assert result.exit_code == 69
    assert "speaks TLS; give --tls-ca" in result.stderr
    result = run("--tls-ca", str(certificates / "ca.pem"), "alarms", "list", "--address", address)
    assert result.exit_code == 69
    assert "refused the handshake" in result.stderr
    assert "no certificate was shown" in result.stderr


def test_files_that_are_not_there_are_exit_code_78(address: str) -> None:
    result = run("--tls-ca", "nowhere.pem", "alarms", "list", "--address", address)
    assert result.exit_code == 78
    assert "METERWATCH_TLS_CA nowhere.pem cannot be read" in result.stderr


def test_a_token_is_not_sent_in_plain_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("aa.hidden.cc")
    result = run("--token-file", "token", "alarms", "list", "--address", "127.0.0.1:1")
    assert result.exit_code == 78
    assert "plain text" in result.stderr
    assert "hidden" not in result.output


def test_cert_dev_makes_a_pair_for_each_role_with_keys_for_the_owner_alone(certificates: Path) -> None:
    names = {"ca", "server", "HES-1", "operator", "engineer", "viewer", "admin"}
    assert {path.name for path in certificates.iterdir()} == {
        f"{name}{end}" for name in names for end in (".pem", ".key.pem")
    }
    for key in certificates.glob("*.key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_cert_dev_overwrites_nothing(certificates: Path) -> None:
    before = (certificates / "ca.key.pem").read_bytes()
    result = run("cert", "dev", str(certificates))
    assert result.exit_code == 78
    assert "an empty directory was expected" in result.stderr
    assert (certificates / "ca.key.pem").read_bytes() == before


def test_cert_show_tells_name_role_and_end(certificates: Path) -> None:
    files = [str(certificates / f"{name}.pem") for name in ("HES-1", "viewer", "ca")]
    rows = json.loads(run("cert", "show", *files, "-o", "json").stdout)
    assert [(row["name"], row["role"]) for row in rows] == [
        ("HES-1", "head-end"),
        ("viewer", "viewer"),
        ("meterwatch development CA", ""),
    ]
    assert all(row["to"] > row["from"] for row in rows)


def test_cert_show_of_something_else_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("x")
    result = run("cert", "show", "x.pem")
    assert result.exit_code == 78
    assert "holds no readable certificate" in result.stderr


def test_config_check_looks_into_the_certificate_files(certificates: Path) -> None:
    text = "[server.tls]\ncertificate = '{0}/server.pem'\nkey = '{0}/{1}.key.pem'\nclient_ca = '{0}/ca.pem'\n"
    Path("meterwatch.toml").write_text(text.format(certificates, "server"))
    assert run("config", "check").exit_code == 0
    Path("meterwatch.toml").write_text(text.format(certificates, "admin"))
    result = run("config", "check")
    assert result.exit_code == 78
    assert "does not belong to the certificate of server" in result.stderr


def test_config_show_lists_nested_keys_by_their_names() -> None:
    lines = run("config", "show", "-o", "jsonl").stdout.splitlines()
    keys = {json.loads(line)["key"] for line in lines}
    assert {"server.tls.certificate", "server.tls.token_port", "client.ca"} <= keys


def test_psql_gets_the_password_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERWATCH_DATABASE__URL", "postgresql://me:hidden@127.0.0.1:1/x")
    monkeypatch.setattr("meterwatch.cli.db._program", lambda *_: "psql")
    called: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda _, arguments, environment: called.append((arguments, environment)))
    assert run("db", "shell", "--", "-c", "SELECT 1").exit_code == 0
    ((arguments, environment),) = called
    assert "hidden" not in " ".join(arguments)
    assert arguments[-2:] == ["-c", "SELECT 1"]
    assert environment["PGPASSWORD"] == "hidden"
