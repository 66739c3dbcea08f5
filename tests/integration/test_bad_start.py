"""A start that cannot be, and files that cannot be read: one sentence, an exit code, nothing stored, no secret."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from bad_inputs import told
from databases import Databases
from served import HEAD_END, METERS, REGISTRY, Served, fresh_database, fresh_end_us, serving
from typer.testing import CliRunner, Result

from meterwatch.cli import app
from meterwatch.errors import ConfigError
from storage.migrate import migrate

SECRET = "hunter2"


@pytest.fixture(scope="module")
def served(dsn: str) -> Iterator[Served]:
    with serving(dsn) as running:
        yield running


def serve(directory: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METERWATCH_")}
    return subprocess.run(
        [sys.executable, "-c", "from meterwatch.cli import app; app(['serve'])"],
        cwd=directory,
        env={**clean, **{f"METERWATCH_{name}": value for name, value in settings.items()}},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def said(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """The sentences of the command itself, and that nothing worse than them is shown."""
    assert "Traceback" not in ended.stderr, ended.stderr
    assert SECRET not in ended.stderr + ended.stdout
    return [line for line in ended.stderr.splitlines() if line.startswith("meterwatch: ")]


def test_a_database_nobody_listens_for(tmp_path: Path) -> None:
    ended = serve(tmp_path, DATABASE__URL=f"postgresql://me:{SECRET}@127.0.0.1:1/x", SERVER__PORT="0")
    assert ended.returncode == 69
    (sentence,) = said(ended)
    assert "database" in sentence


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:%{SECRET}@127.0.0.1:1/x",
        f"postgresql://me:{SECRET}/{SECRET}@127.0.0.1:1/x",
        f"postgresql://me:a@{SECRET}@127.0.0.1:1/x",
        f"postgresql://me:{SECRET}@127.0.0.1:99999/x",
        f"postgresql://me:{SECRET}@127.0.0.1:1/x?bogus={SECRET}",
        f"mysql://me:{SECRET}@127.0.0.1:1/x",
    ],
)
def test_a_database_url_that_cannot_be_read_never_shows(tmp_path: Path, url: str) -> None:
    ended = serve(tmp_path, DATABASE__URL=url, SERVER__PORT="0")
    assert ended.returncode == 78
    (sentence,) = said(ended)
    assert "database.url" in sentence


def test_a_rule_profile_that_is_not_there(tmp_path: Path) -> None:
    ended = serve(tmp_path, DATABASE__URL="postgresql://me@127.0.0.1:1/x", SERVER__PORT="0", RULES__PROFILE="bogus")
    assert ended.returncode == 78
    (sentence,) = said(ended)
    assert "rules.profile" in sentence
    assert "en50160" in sentence


def test_a_profile_of_checks_that_is_not_there(tmp_path: Path) -> None:
    ended = serve(tmp_path, DATABASE__URL="postgresql://me@127.0.0.1:1/x", SERVER__PORT="0", CHECKS__PROFILE="bogus")
    assert ended.returncode == 78
    (sentence,) = said(ended)
    assert "checks.profile" in sentence
    assert "lenient" in sentence


def test_a_port_in_use(tmp_path: Path, cluster: Databases) -> None:
    with fresh_database(cluster) as dsn, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = serve(tmp_path, DATABASE__URL=dsn, SERVER__PORT=str(port))
    assert ended.returncode == 78
    (sentence,) = said(ended)
    assert f"port {port}" in sentence


def test_a_second_service_on_one_database(tmp_path: Path, dsn: str, served: Served) -> None:
    ended = serve(tmp_path, DATABASE__URL=dsn, SERVER__PORT="0")
    assert ended.returncode == 78
    (sentence,) = said(ended)
    assert "another meterwatch serves this database" in sentence
    told(100, "a second service on one database", "START", re.sub(r"\(.*\)", "(...)", sentence))


SCHEMAS = {
    "a schema of version 9999": "INSERT INTO schema_version (version, file, sha256) VALUES (9999, '9999_new.sql', '')",
    "a migration that was altered after it was applied": "UPDATE schema_version SET sha256 = '' WHERE version = 2",
}


def test_a_schema_that_is_not_ours(cluster: Databases) -> None:
    for words, change in SCHEMAS.items():
        with fresh_database(cluster) as dsn:
            with psycopg.connect(dsn) as connection:
                connection.execute(change)  # type: ignore[arg-type]
            with pytest.raises(ConfigError) as caught:
                migrate(dsn)
        (sentence,) = caught.value.problems
        told(100, words, "START", re.sub(r"knows \d+", "knows <n>", sentence))


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[server\nport = 1\n", "is not TOML"),
        ("[server]\nprot = 1\n", "did you mean 'port'"),
        ("[sever]\nport = 1\n", "did you mean 'server'"),
        ("[server]\nport = 'x'\n", "server.port"),
        ("[server]\nport = 70000\n", "server.port"),
        ("[clock]\nmode = 'replay'\n", "clock.start"),
        ("[server]\nhost = '0.0.0.0'\n", "loopback"),
    ],
)
def test_a_wrong_file_of_settings(tmp_path: Path, text: str, fragment: str) -> None:
    (tmp_path / "meterwatch.toml").write_text(text)
    ended = serve(tmp_path)
    assert ended.returncode == 78
    sentences = said(ended)
    assert any(fragment in sentence for sentence in sentences), sentences


def test_a_file_of_settings_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "meterwatch.toml").write_bytes(b"\xff\xfe\x00")
    ended = serve(tmp_path)
    assert ended.returncode == 78
    assert "not TOML" in said(ended)[0]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def counts(served: Served) -> list[object]:
    return served.sql(
        "SELECT (SELECT count(*) FROM meters), (SELECT count(*) FROM transformers), (SELECT count(*) FROM reads),"
        " (SELECT count(*) FROM batches)"
    )


@pytest.mark.parametrize(
    ("name", "line", "text"),
    [
        ("meters.csv", 3, REGISTRY["meters"].replace("900", "-900", 2).replace("-900", "900", 1)),
        ("meters.csv", 2, REGISTRY["meters"].replace("M-1", "M 1")),
        ("meters.csv", 2, REGISTRY["meters"].replace("T-1", "T-nowhere", 1)),
        ("meters.csv", 2, REGISTRY["meters"].replace("2020-01-01", "2020-02-30", 1)),
        ("meters.csv", 3, REGISTRY["meters"].replace("M-2", "M-1")),
        ("meters.csv", 1, REGISTRY["meters"].replace("interval_s", "interval", 1)),
        ("transformers.csv", 2, REGISTRY["transformers"].replace("400", "1e999")),
        ("transformers.csv", 2, REGISTRY["transformers"].replace("T-1", "T-1,,,,,,,")),
    ],
)
def test_a_malformed_registry_file_is_refused_with_its_line(
    served: Served, tmp_path: Path, name: str, line: int, text: str
) -> None:
    before = counts(served)
    for kind, content in REGISTRY.items():
        (tmp_path / f"{kind}.csv").write_text(content.replace("M-4", "M-new"))
    (tmp_path / name).write_text(text)
    result = run("registry", "import", str(tmp_path), "--address", served.address)
    assert result.exit_code == 1, result.output
    assert f"{name}, line {line}: " in result.stderr, result.stderr
    assert counts(served) == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b"meter,transformer\nM-1\n", b"\x00" * 1000])
def test_a_registry_file_that_is_none_is_refused(served: Served, tmp_path: Path, content: bytes) -> None:
    before = counts(served)
    (tmp_path / "meters.csv").write_bytes(content)
    result = run("registry", "import", str(tmp_path / "meters.csv"), "--address", served.address)
    assert result.exit_code == 1, result.output
    assert "meters.csv" in result.stderr
    assert counts(served) == before


GOOD = "meter,end,interval_s,import_wh\nM-1,2026-01-01T00:15:00Z,900,1\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (2, "meter,end,interval_s,import_wh\nM-1,yesterday,900,1\n"),
        (3, GOOD + "M-1,2026-02-30T00:15:00Z,900,1\n"),
        (3, GOOD + "M-1,2026-01-01T00:30:00Z,nine,1\n"),
        (3, GOOD + "M-1,2026-01-01T00:30:00Z,900,lots\n"),
        (3, GOOD + "M-1,2026-01-01T00:30:00Z\n"),
        (3, GOOD + "M-1,2026-01-01T00:30:00,900,1\n"),
        (3, GOOD + "M 1,2026-01-01T00:30:00Z,900,1\n"),
    ],
)
def test_a_malformed_file_of_reads_is_refused_with_its_line_and_nothing_is_sent(
    served: Served, tmp_path: Path, line: int, text: str
) -> None:
    before = counts(served)
    path = tmp_path / "reads.csv"
    path.write_text(text)
    result = run("send", str(path), "--address", served.address, "--head-end", HEAD_END)
    assert result.exit_code == 1, result.output
    assert "reads.csv" in result.stderr
    assert f"line {line}" in result.stderr
    assert counts(served) == before


def test_a_good_file_after_all_this_is_stored(served: Served, tmp_path: Path) -> None:
    ends = [datetime.fromtimestamp(fresh_end_us() / 1e6, UTC).isoformat() for _ in METERS]
    path = tmp_path / "reads.csv"
    lines = [f"{meter},{end},900,7" for meter, end in zip(METERS, ends, strict=True)]
    path.write_text("\n".join(["meter,end,interval_s,import_wh", *lines]) + "\n")
    result = run("send", str(path), "--address", served.address, "--head-end", HEAD_END)
    assert result.exit_code == 0, result.output
    assert served.sql("SELECT count(*), sum(import_wh) FROM reads") == [(len(METERS), 7 * len(METERS))]


def test_an_import_that_moves_every_meter_says_so_before_and_does_it(served: Served, tmp_path: Path) -> None:
    (tmp_path / "transformers.csv").write_text(REGISTRY["transformers"] + "T-2,,400,,\n")
    (tmp_path / "meters.csv").write_text(REGISTRY["meters"].replace("T-1", "T-2"))
    here = "SELECT count(*) FROM meter_transformers JOIN transformers USING (transformer_id) WHERE transformer = 'T-2'"
    said = run("registry", "import", str(tmp_path), "--dry-run", "-o", "jsonl", "--address", served.address)
    assert said.exit_code == 0, said.output
    assert served.sql(here) == [(0,)]
    done = run("registry", "import", str(tmp_path), "-o", "jsonl", "--address", served.address)
    assert done.stdout == said.stdout
    assert served.sql(here) == [(len(METERS) + 1,)]
    counts = ", ".join(line.strip() for line in said.stdout.splitlines())
    told(97, "an import that moves every meter to another transformer, --dry-run and then in earnest", "TAKEN", counts)
