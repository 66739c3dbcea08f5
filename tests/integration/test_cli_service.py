"""Every command against a running service: what it prints for programs, what it stores, and how it leaves."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from meterwatch.batch import EventCode
from meterwatch.cli import app
from meterwatch.cli.registry import _csv
from meterwatch.client import HeadEnd

GOLDEN = Path(__file__).parents[1] / "golden" / "nem12"
COLUMN = {"E": "import_wh", "B": "export_wh", "Q": "import_varh", "K": "export_varh"}
WH = {"wh": 1, "kwh": 1000, "mwh": 1_000_000, "varh": 1, "kvarh": 1000, "mvarh": 1_000_000}


def program(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from meterwatch.cli import app; app()", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )


@pytest.fixture(scope="module")
def service(dsn: str) -> Iterator[subprocess.Popen[str]]:
    """`meterwatch serve` on the machine's clock; its first line is in `ready`."""
    environment = {"METERWATCH_DATABASE__URL": dsn, "METERWATCH_SERVER__PORT": "0", "METERWATCH_LOG__FORMAT": "json"}
    process = program("serve", environment=environment)
    assert process.stdout is not None
    process.ready = process.stdout.readline()  # type: ignore[attr-defined]
    yield process
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, ""), errors
    lines = [json.loads(line) for line in errors.splitlines()]  # every line, whoever wrote it
    assert {"ready", "stream open", "stream end", "stopped"} <= {line["event"] for line in lines}
    assert all(datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0) for line in lines)
    assert [line for line in lines if line["level"] in ("error", "critical")] == []


@pytest.fixture(scope="module")
def address(service: Any) -> str:
    return str(service.ready.split()[3].rstrip(":"))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dsn: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METERWATCH_DATABASE__URL", dsn)


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def rows(*arguments: str | Path, code: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*arguments, "-o", "json", code=code).stdout)
    return found


def counts(*arguments: str | Path, code: int = 0) -> dict[str, int]:
    return {row["what"]: row["count"] for row in rows("send", *arguments, code=code)}


def sql(dsn: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query.encode(), values).fetchall()


def write_csv(name: str, meter: str, end: datetime, count: int = 4, step_s: int = 3600, wh: int = 100) -> Path:
    ends = [end + timedelta(seconds=step_s * i) for i in range(count)]
    lines = [f"{meter},{at:%Y-%m-%dT%H:%M:%SZ},{step_s},{wh + i}" for i, at in enumerate(ends)]
    Path(name).write_text("\n".join(["meter,end,interval_s,import_wh", *lines]) + "\n")
    return Path(name)


def registry(directory: Path, name: str, interval_s: int, rated_kva: int) -> None:
    """Files of one head-end, one transformer and one meter."""
    head_end = {"head_end": f"HES-{name}", "time_zone": "Europe/Berlin", "late_window_days": 45}
    meter = {"meter": f"M-{name}", "transformer": f"T-{name}", "head_end": f"HES-{name}", "installed_on": "2001-01-01"}
    for kind, row in (
        ("head_ends", head_end),
        ("transformers", {"transformer": f"T-{name}", "rated_kva": rated_kva}),
        ("meters", meter | {"interval_s": interval_s}),
    ):
        (directory / f"{kind}.csv").write_bytes(_csv(kind, [row])[2])


def recent(hours: int = 10) -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)


# serve


def test_serve_says_once_where_it_is_and_on_what(service: Any, address: str) -> None:
    assert address.startswith("127.0.0.1:")
    for word in ("0 meters", "TimescaleDB", "edition", "PostgreSQL"):
        assert word in service.ready


# send


def test_a_stream_never_creates_a_meter(dsn: str, address: str) -> None:
    file = write_csv("reads.csv", "STRANGER", recent())
    refused = run("send", file, "--address", address, "--head-end", "NOBODY", code=1)
    assert "NOBODY" in refused.stderr
    assert "--register" in refused.stderr
    run("send", write_csv("first.csv", "FIRST", recent()), "--address", address, "--register")
    found = counts(file, "--address", address, code=1)
    assert (found["sent"], found["accepted"], found["rejected UNKNOWN_METER"]) == (4, 0, 4)
    assert sql(dsn, "SELECT count(*) FROM meters WHERE meter = 'STRANGER'") == [(0,)]
    assert counts(file, "--address", address, "--register")["accepted"] == 4
    again = counts(file, "--address", address)
    assert (again["accepted"], again["duplicates"]) == (0, 4)


def test_an_old_file_needs_the_right_and_pages_nobody(dsn: str, address: str) -> None:
    registry(Path(), "OLD", 3600, rated_kva=1)
    run("registry", "import", ".", "--address", address)
    hours = [datetime(2011, 3, 1, tzinfo=UTC) + timedelta(hours=h) for h in range(48)]
    volts = [0 if 10 <= h < 20 or h >= 40 else 230 for h in range(48)]  # an outage with an end, and one without
    lines = [f"M-OLD,{at:%Y-%m-%dT%H:%M:%SZ},3600,{v},{v}" for at, v in zip(hours, volts, strict=True)]
    Path("old.csv").write_text("\n".join(["meter,end,interval_s,import_wh,voltage_a_v", *lines]) + "\n")

    send = ("old.csv", "--address", address, "--head-end", "HES-OLD")
    refused = run("send", *send, "-o", "json", code=1)
    assert "--backfill" in refused.stderr
    assert {row["what"]: row["count"] for row in json.loads(refused.stdout)}["rejected TOO_OLD"] == 48
    assert counts(*send, "--backfill")["accepted"] == 48
    assets = ("T-OLD", "M-OLD")
    kept = sql(dsn, "SELECT time_zone, late_window_days FROM head_ends WHERE head_end = 'HES-OLD'")
    assert kept == [("Europe/Berlin", 36_500)]
    assert [a for a in rows("alarms", "list", "--active", "--address", address) if a["asset"] in assets] == []
    history = [a for a in rows("alarms", "list", "--address", address) if a["asset"] in assets]
    assert {(a["type"], a["state"], a["onset"][:10]) for a in history} == {
        ("OUTAGE", "NORMAL", "2011-03-01"),
        ("OUTAGE", "NORMAL", "2011-03-02"),
    }
    assert [bool(a["cleared"]) for a in sorted(history, key=lambda a: a["onset"])] == [True, False]  # it ends dark


def test_months_of_daily_reads_go_in_batches_the_service_takes(dsn: str, address: str) -> None:
    write_csv("months.csv", "MONTHS", datetime(2019, 1, 1, tzinfo=UTC), count=130, step_s=86_400)
    found = counts("months.csv", "--address", address, "--register")
    assert (found["accepted"], found["batches refused"]) == (130, 0)


def scalar_sums(path: Path) -> tuple[dict[tuple[str, str], int], int]:
    """(meter, column) -> sum in Wh, and how many values: read line by line, knowing nothing of our reader."""
    from decimal import ROUND_HALF_EVEN, Decimal

    sums: dict[tuple[str, str], int] = {}
    values: list[Decimal] = []
    missing: set[int] = set()
    key: tuple[str, str] | None = None
    seen: set[tuple[str, str, str]] = set()
    factor, date, count = 1, "", 0

    def close() -> None:
        nonlocal values, count
        if key is not None and values and (*key, date) not in seen:
            seen.add((*key, date))
            kept = [v for i, v in enumerate(values, 1) if i not in missing]
            count += len(kept)
            sums[key] = sums.get(key, 0) + sum(int((v * factor).to_integral_value(ROUND_HALF_EVEN)) for v in kept)
        values = []
        missing.clear()

    with path.open(newline="") as file:
        for cells in csv.reader(file):
            if cells[0] == "400":
                if cells[3].startswith("N"):
                    missing.update(range(int(cells[1]), int(cells[2]) + 1))
                continue
            close()
            if cells[0] == "200":
                register, number = cells[4][0].upper(), cells[4][1]
                nmi = cells[1] if number == "1" else f"{cells[1]}-{number}"
                key = (nmi, COLUMN[register]) if register in COLUMN else None
                factor = WH.get(cells[7].lower(), 1)
                steps = 1440 // int(cells[8])
            elif cells[0] == "300":
                date, values = cells[1], [Decimal(cell or "0") for cell in cells[2 : 2 + steps]]
                if cells[2 + steps].startswith("N"):
                    values = []
    return sums, count


def stored_sums(dsn: str) -> dict[tuple[str, str], int]:
    found = {}
    for column in COLUMN.values():
        query = f"SELECT meter, sum({column}) FROM reads JOIN meters USING (slot) GROUP BY 1 HAVING count({column}) > 0"
        found |= {(meter, column): int(total) for meter, total in sql(dsn, query)}
    return found


NEM12 = sorted(path for path in GOLDEN.glob("*.csv") if "NEM13" not in path.name)


@pytest.mark.parametrize("path", NEM12, ids=lambda path: path.stem)
def test_a_nem12_file_loads_with_its_sums(dsn: str, address: str, path: Path) -> None:
    expected, _ = scalar_sums(path)
    with psycopg.connect(dsn, autocommit=True) as connection:  # the files share meters
        connection.execute("TRUNCATE reads, read_versions")
    found = counts(path, "--address", address, "--register")
    assert found["accepted"] == found["sent"]
    assert stored_sums(dsn) == expected


def test_accumulated_reads_are_counted_and_not_stored(dsn: str, address: str) -> None:
    before = sql(dsn, "SELECT count(*) FROM reads")
    found = counts(GOLDEN / "Example_NEM13_consumption_data.csv", "--address", address, "--register")
    assert found["sent"] == 0
    assert any(what.startswith("skipped") and count for what, count in found.items())
    assert sql(dsn, "SELECT count(*) FROM reads") == before


BROKEN = sorted(path for path in (GOLDEN / "invalid").iterdir() if path.suffix in (".csv", ".zip"))


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.name)
def test_a_broken_file_loads_nothing_of_any_file(dsn: str, address: str, path: Path) -> None:
    good = write_csv("good.csv", f"GOOD-{path.stem[-20:]}", recent())
    before = sql(dsn, "SELECT (SELECT count(*) FROM reads), (SELECT count(*) FROM meters)")
    result = run("send", good, path, "--address", address, "--register", code=1)
    assert result.stderr.startswith(f"meterwatch: {path.name}")
    assert ", line " in result.stderr
    assert "Traceback" not in result.output
    assert sql(dsn, "SELECT (SELECT count(*) FROM reads), (SELECT count(*) FROM meters)") == before


# alarms


def outage(address: str, meter: str, at: datetime) -> None:
    with HeadEnd(address, "HES-AL", give_up_after_s=30) as head_end:
        us = int(at.timestamp()) * 1_000_000
        head_end.send_events([meter], [us], [int(EventCode.POWER_FAIL)])


@pytest.fixture(scope="module")
def alarm_id(address: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An outage of a transformer with one meter."""
    directory = tmp_path_factory.mktemp("registry")
    registry(directory, "AL", 900, rated_kva=100)
    run("registry", "import", directory, "--address", address)
    outage(address, "M-AL", datetime.now(UTC) - timedelta(minutes=20))
    found = [a for a in rows("alarms", "list", "--active", "--address", address) if a["asset"] in ("T-AL", "M-AL")]
    assert len(found) == 1
    return str(found[0]["alarm_id"])


def test_alarms_are_listed_in_three_forms(address: str, alarm_id: str) -> None:
    table = run("alarms", "list", "--address", address).stdout
    assert alarm_id in table
    assert "\x1b" not in table
    lines = run("alarms", "list", "--address", address, "-o", "jsonl", "--type", "OUTAGE").stdout.splitlines()
    assert alarm_id in {json.loads(line)["alarm_id"] for line in lines}
    assert rows("alarms", "list", "--address", address, "--type", "COMM_LOSS") == []


def test_an_acknowledgement_names_who_and_is_refused_when_stale(address: str, alarm_id: str) -> None:
    stale = run("alarms", "ack", alarm_id, "--version", "99", "--address", address, code=1)
    assert "ALARM_CHANGED" in stale.stderr
    [alarm] = rows("alarms", "ack", alarm_id, "--operator", "ada", "--note", "crew sent", "--address", address)
    assert (alarm["state"], alarm["acknowledged_by"], alarm["note"]) == ("ACK_ACTIVE", "ada", "crew sent")
    assert "ALARM_UNKNOWN" in run("alarms", "ack", "OUT-0", "--address", address, code=1).stderr


def test_operators_put_alarms_aside_and_back(address: str, alarm_id: str) -> None:
    to = ("--address", address)
    assert "ACTION_INVALID" in run("alarms", "shelve", alarm_id, *to, code=1).stderr
    [alarm] = rows("alarms", "shelve", alarm_id, "--for", "30m", "--reason", "crew sent", "--operator", "ada", *to)
    assert (alarm["shelved_by"], alarm["shelved_reason"], alarm["shelved_until"] != "") == ("ada", "crew sent", True)
    assert alarm_id not in {row["alarm_id"] for row in rows("alarms", "list", "--active", *to)}
    [alarm] = rows("alarms", "unshelve", alarm_id, *to)
    assert alarm["shelved_by"] == ""
    [alarm] = rows("alarms", "out-of-service", alarm_id, "--reason", "works", "--operator", "ada", *to)
    assert alarm["out_of_service_by"] == "ada"
    assert rows("alarms", "return-to-service", alarm_id, "--reason", "done", *to)[0]["out_of_service_by"] == ""
    assert alarm_id in {row["alarm_id"] for row in rows("alarms", "assign", "--type", "OUTAGE", "--to", "crew 4", *to)}
    assert rows("alarms", "comment", alarm_id, "--reason", "seen", *to)[0]["assigned_to"] == "crew 4"
    half = run("alarms", "comment", alarm_id, "OUT-0", "--reason", "seen", *to, code=1)
    assert "OUT-0: ALARM_UNKNOWN" in half.stderr
    assert alarm_id in half.stdout
    for wrong in (("comment",), ("comment", alarm_id, "--type", "OUTAGE"), ("shelve", alarm_id, "--for", "soon")):
        run("alarms", *wrong, "--reason", "seen", *to, code=2)


def test_all_alarms_of_an_asset_are_put_aside_and_back(address: str, alarm_id: str) -> None:
    to = ("--address", address)
    alarm = next(row for row in rows("alarms", "list", *to) if row["alarm_id"] == alarm_id)
    asset = f"{alarm['asset_kind']}:{alarm['asset']}"
    [over] = rows("alarms", "shelve-asset", asset, "--for", "2h", "--reason", "crew sent", "--operator", "ada", *to)
    assert (over["asset"], over["operator"], over["type"]) == (alarm["asset"], "ada", "")
    assert rows("alarms", "shelves", *to) == [over]
    assert alarm_id not in {row["alarm_id"] for row in rows("alarms", "list", "--active", *to)}
    rows("alarms", "unshelve-asset", asset, "--reason", "done", *to)
    assert rows("alarms", "shelves", *to) == []
    assert alarm_id in {row["alarm_id"] for row in rows("alarms", "list", "--active", *to)}
    run("alarms", "shelve-asset", alarm["asset"], "--reason", "no kind", *to, code=2)


def test_kpis_are_shown_by_name(address: str, alarm_id: str) -> None:
    found = {row["what"]: row["value"] for row in rows("alarms", "kpi", "--hours", "2", "--address", address)}
    assert (found["windows"], found["stale"], found["flood_now"]) == (12, 0, False)
    assert found["pages"] >= found["paging"] >= 1


def test_follow_shows_what_is_open_then_ends_quietly(address: str, alarm_id: str) -> None:
    process = program("alarms", "follow", "--address", address, "-o", "jsonl")
    assert process.stdout is not None
    found = json.loads(process.stdout.readline())
    while found["alarm_id"] != alarm_id:
        found = json.loads(process.stdout.readline())
    assert found["kind"] == "OPEN"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")


# registry, db, config, doctor


def test_a_registry_import_is_all_or_nothing(address: str, dsn: str) -> None:
    text = _csv("transformers", [{"transformer": "T-NEW", "rated_kva": 100}])[2].decode()
    Path("transformers.csv").write_text(text + text.splitlines()[1].replace("T-NEW", "T-BAD").replace("100", "lots"))
    wrong = run("registry", "import", "transformers.csv", "--address", address, code=1)
    assert "transformers.csv, line 3" in wrong.stderr
    assert sql(dsn, "SELECT count(*) FROM transformers WHERE transformer = 'T-NEW'") == [(0,)]
    Path("transformers.csv").write_text(text)
    for added, unchanged in ((1, 0), (0, 1)):
        [row] = rows("registry", "import", "transformers.csv", "--address", address)
        assert (row["added"], row["unchanged"]) == (added, unchanged)
    assert "T-NEW" in {row["name"] for row in rows("registry", "list", "transformer", "--address", address)}
    assert "one of" in run("registry", "list", "moon", "--address", address, code=1).stderr


def test_db_commands_look_at_the_service_s_database(dsn: str, address: str) -> None:
    assert run("db", "url").stdout.strip() == dsn
    facts = {row["what"]: row["value"] for row in rows("db", "status")}
    assert facts["timescaledb"]
    assert facts["edition"]


def test_db_shell_is_psql_on_the_database() -> None:
    process = program("db", "shell", "--", "-Atc", "SELECT count(*) >= 0 FROM meters")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output.strip()) == (0, "t"), errors


def test_config_commands_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERWATCH_DATABASE__URL", "postgresql://me:hidden@127.0.0.1/x")
    assert "sound" in run("config", "check").stdout
    for form in ("table", "json", "jsonl"):
        shown = run("config", "show", "-o", form).stdout
        assert "hidden" not in shown
        assert "credits" in shown


def test_doctor_finds_a_sound_installation(address: str) -> None:
    assert {row["what"]: row["verdict"] for row in rows("doctor", "--address", address)}["service"] == "ok"


# how commands leave


def test_no_service_is_one_sentence() -> None:
    file = write_csv("reads.csv", "M", recent())
    for arguments in (["alarms", "list"], ["alarms", "follow"], ["registry", "list"], ["send", str(file)]):
        result = run(*arguments, "--address", "127.0.0.1:1", code=69)
        assert result.stderr.splitlines() == [
            "meterwatch: no service at 127.0.0.1:1; start it with 'make serve', or give --address or server.port"
        ]


def test_wrong_usage_leaves_with_2() -> None:
    run("send", code=2)
    run("alarms", "list", "--limit", "0", code=2)
    run("send", "x", "--market-utc-offset", "tomorrow", code=2)


def test_help_names_the_exit_codes() -> None:
    text = " ".join(run("--help").stdout.split())
    for sentence in ("0 done", "1 input or request refused", "2 wrong usage", "69 the service", "78 the configuration"):
        assert sentence in text


def test_piped_output_has_neither_colour_nor_progress(address: str) -> None:
    file = write_csv("piped.csv", "PIPED", recent())
    process = program("send", str(file), "--address", address, "--register", environment={"FORCE_COLOR": "1"})
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "\x1b" not in output + errors
    assert errors == "1 meter registered\n"


def test_a_reader_that_leaves_is_no_error(address: str, alarm_id: str) -> None:
    process = program("registry", "list", "meter", "--address", address, "-o", "jsonl")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert "Traceback" not in errors
    assert errors == ""
