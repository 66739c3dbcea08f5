"""What a script can rely on: exit codes, one sentence on stderr, JSON on stdout, no secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_ingest import FakeIngest, Serving
from typer.testing import CliRunner, Result

from meterwatch.cli import app
from meterwatch.cli.registry import LONG_AGO, _csv
from meterwatch.registry_csv import RegistryCsv, parse
from meterwatch.v1 import ingest_pb2 as pb


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METERWATCH_CONFIG", raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def reads_file() -> str:
    lines = ["meter,end,interval_s,import_wh"]
    lines += [f"M{m},2026-01-01T{h:02}:00:00Z,3600,{m + h}" for m in range(3) for h in range(1, 24)]
    Path("reads.csv").write_text("\n".join(lines) + "\n")
    return "reads.csv"


def test_send_accounts_for_every_read() -> None:
    fake = FakeIngest(break_rate=0.2, breaks_max=1, seed=1)
    with Serving(fake) as address:
        result = run("send", reads_file(), "--address", address, "--batch-rows", "10", "-o", "json")
    assert result.exit_code == 0, result.output
    counts = {row["what"]: row["count"] for row in json.loads(result.stdout)}
    assert (counts["sent"], counts["accepted"], counts["batches refused"]) == (69, 69, 0)
    assert len(fake.stored) == 69


def test_send_again_is_a_new_epoch() -> None:
    fake = FakeIngest()
    with Serving(fake) as address:
        for _ in range(2):
            assert run("send", reads_file(), "--address", address).exit_code == 0
    assert len({epoch for epoch, _ in fake.ledger}) == 2


def test_a_refused_batch_leaves_with_1() -> None:
    fake = FakeIngest()
    fake.nack[1] = pb.Nack(seq=1, reason="TOO_SPREAD", message="x", permanent=True)
    with Serving(fake) as address:
        result = run("send", reads_file(), "--address", address)
    assert result.exit_code == 1
    assert "TOO_SPREAD" in result.stdout


def test_no_service_leaves_with_69() -> None:
    result = run("alarms", "list", "--address", "127.0.0.1:1")
    assert result.exit_code == 69
    assert result.stderr.startswith("meterwatch: ")
    assert run("send", reads_file(), "--address", "127.0.0.1:1", "--give-up-after-s", "0").exit_code == 69


def test_a_wrong_configuration_leaves_with_78() -> None:
    Path("meterwatch.toml").write_text("[server]\nprot = 1\ncredits = 0\n")
    result = run("config", "check")
    assert result.exit_code == 78
    assert len(result.stderr.splitlines()) == 2


def test_a_wrong_file_leaves_with_1_and_its_line() -> None:
    Path("bad.csv").write_text("meter,end,interval_s,import_wh\nM1,yesterday,900,1\n")
    result = run("send", "bad.csv", "--address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "line 2" in result.stderr


def test_config_show_hides_the_url() -> None:
    Path("meterwatch.toml").write_text('[database]\nurl = "postgresql://me:hidden@127.0.0.1/y"\n')
    for arguments in (["config", "show"], ["config", "show", "-o", "json"]):
        result = run(*arguments)
        assert "***" in result.stdout
        assert "hidden" not in result.stdout


def test_doctor_names_what_fails() -> None:
    Path("meterwatch.toml").write_text('[database]\nurl = "postgresql://x@127.0.0.1:1/y"\n')
    result = run("doctor", "--address", "127.0.0.1:1", "-o", "json")
    assert result.exit_code == 1
    verdicts = {row["what"]: row["verdict"] for row in json.loads(result.stdout)}
    assert verdicts == {"python": "ok", "protobuf": "ok", "database": "fail", "service": "fail"}


def test_db_status_and_doctor_read_a_real_database(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERWATCH_DATABASE__URL", dsn)
    facts = {row["what"]: row["value"] for row in json.loads(run("db", "status", "-o", "json").stdout)}
    assert facts["schema version"] >= 1
    assert facts["reads, rows"] == 0
    verdicts = {row["what"]: row["verdict"] for row in json.loads(run("doctor", "-o", "json").stdout)}
    assert [verdicts[what] for what in ("database", "schema", "fsync", "synchronous_commit")] == ["ok"] * 4


def test_registry_files_are_accepted_by_their_reader() -> None:
    rows = {"head_ends": {"head_end": "H"}, "transformers": {"transformer": "T", "rated_kva": 1}}
    rows["meters"] = {"meter": "M", "transformer": "T", "interval_s": 900, "installed_on": LONG_AGO, "head_end": "H"}
    parsed = parse([RegistryCsv(*_csv(kind, [row])) for kind, row in rows.items()])
    assert parsed.problems == []
    assert {kind: len(parsed.rows[kind]) for kind in rows} == dict.fromkeys(rows, 1)
