"""Files that are wrong, each with the answer people get: rows 59 to 61 and 86 to 100 of the catalogue of bad input."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_inputs import told
from tls_world import OTHER_CA, Files

from alarm.routes.file import parse_routes
from meterwatch import registry_csv
from meterwatch.config import load_config
from meterwatch.devtools.fuzz_texts import REGISTRY, ROUTES, TOML
from meterwatch.errors import ConfigError
from meterwatch.files import FileError, lines
from meterwatch.files.csvfile import read_csv
from meterwatch.server import rotation_of
from meterwatch.user_rules import read_rules

READS = "meter,end,interval_s,import_wh\nM-1,2026-01-31T13:15:00Z,900,125\n"
RULE = """groups:
  - name: g
    on: meter
    rules:
      - alert: high
        expr: voltage_a_v > 250
        for: 30m
        labels: {severity: high}
"""


def of_reads(text: str | bytes, time_zone: str | None = None) -> list[str]:
    data = text if isinstance(text, bytes) else text.encode()
    try:
        read_csv("reads.csv", lines.blocks(io.BytesIO(data), "reads.csv"), time_zone=time_zone)
    except FileError as error:
        return error.message.split("\n")
    return []


def of_registry(kind: str, text: str | bytes) -> list[str]:
    data = text if isinstance(text, bytes) else text.encode()
    found = registry_csv.parse([registry_csv.RegistryCsv(kind, f"{kind}.csv", data)])
    return [f"{problem.file} line {problem.line}: {problem.message}" for problem in found.problems]


def of_config(text: str | bytes, directory: Path) -> list[str]:
    path = directory / "meterwatch.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        load_config(path)
    except ConfigError as error:
        return error.problems
    return []


def of_rules(text: str | bytes, directory: Path) -> list[str]:
    path = directory / "rules.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [str(problem) for problem in read_rules([str(path)]).problems]


def of_routes(text: str | bytes) -> list[str]:
    try:
        parse_routes(text if isinstance(text, bytes) else text.encode(), "routes.yaml", Path())
    except ConfigError as error:
        return error.problems
    return []


def of_tls(files: Files, change: Callable[[Path], object]) -> list[str]:
    """Of a certificate and a key by a CA, the key file changed."""
    tls = files.server()
    assert tls.key is not None
    change(tls.key)
    try:
        rotation_of(tls)
    except ConfigError as error:
        return error.problems
    return []


def with_row(row: str) -> str:
    return READS + row + "\n"


def expr(text: str) -> str:
    return RULE.replace("voltage_a_v > 250", text)


Case = tuple[int, str, Callable[[Path], list[str]]]
CSV: list[Case] = [
    (59, "02:30 in the spring gap of New York, no offset", lambda _: of_reads(with_row("M-1,2026-03-08T02:30,900,5"), "America/New_York")),
    (59, "02:30 in the repeated hour of Berlin, no fold", lambda _: of_reads(with_row("M-1,2026-10-25T02:30,900,5"), "Europe/Berlin")),
    (59, "local time, and no zone given", lambda _: of_reads(with_row("M-1,2026-01-31T13:30:00,900,5"))),
    (61, "infinity as a time", lambda _: of_reads(with_row("M-1,infinity,900,5"))),
    (61, "4714-11-24 BC", lambda _: of_reads(with_row("M-1,4714-11-24 BC,900,5"))),
    (61, "30 February", lambda _: of_reads(with_row("M-1,2026-02-30T00:15:00Z,900,5"))),
    (53, "import_wh 9007199254740993, which is 2^53 + 1", lambda _: of_reads(with_row("M-1,2026-01-31T13:30:00Z,900,9007199254740993"))),
    (98, "semicolons", lambda _: of_reads(READS.replace(",", ";"))),
    (98, "a decimal comma", lambda _: of_reads(with_row('M-1,2026-01-31T13:30:00Z,900,"1,5"'))),
    (98, "an open quote", lambda _: of_reads(with_row('M-1,2026-01-31T13:30:00Z,900,"5'))),
    (98, "a NUL byte", lambda _: of_reads(READS.encode() + b"M-1,2026-01-31T13:30:00Z,900,\x005\n")),
    (98, "Latin-1", lambda _: of_reads(READS.encode() + "M\xfc,2026-01-31T13:30:00Z,900,5\n".encode("latin-1"))),
    (98, "UTF-16", lambda _: of_reads(READS.encode("utf-16"))),
    (98, "a formula as a meter, =cmd()", lambda _: of_reads(with_row("=cmd(),2026-01-31T13:30:00Z,900,5"))),
    (98, "one column too many", lambda _: of_reads(with_row("M-1,2026-01-31T13:30:00Z,900,5,6"))),
    (98, "a column that is not known", lambda _: of_reads(READS.replace("import_wh", "kwh"))),
    (98, "a meter twice in meters.csv", lambda _: of_registry("meters", REGISTRY["meters"].replace('"M-2"', "M-1"))),
    (98, "a meters.csv in Latin-1", lambda _: of_registry("meters", REGISTRY["meters"].replace("residential", "r\xe9sidential").encode("latin-1"))),
    (96, "a transformer of 0 kVA", lambda _: of_registry("transformers", REGISTRY["transformers"].replace("160", "0"))),
    (96, "a transformer of 1e999 kVA", lambda _: of_registry("transformers", REGISTRY["transformers"].replace("160", "1e999"))),
    (96, "a transformer of NaN kVA", lambda _: of_registry("transformers", REGISTRY["transformers"].replace("160", "nan"))),
    (96, "a meter on two transformers", lambda _: of_registry("meters", REGISTRY["meters"] + REGISTRY["meters"].split("\n")[1].replace("T-1", "T-2") + "\n")),
    (96, "a kind of file there is not", lambda _: of_registry("poles", "pole\nP-1\n")),
    (37, "a multiplier of 0", lambda _: of_registry("meters", REGISTRY["meters"].replace(",40,", ",0,"))),
    (37, "a multiplier of x40", lambda _: of_registry("meters", REGISTRY["meters"].replace(",40,", ",x40,"))),
]  # fmt: skip
SETTINGS: list[Case] = [
    (86, "[server] credit = 8", lambda d: of_config(TOML.replace("credits", "credit"), d)),
    (86, "[sever]", lambda d: of_config(TOML.replace("[server]", "[sever]"), d)),
    (87, "a key twice in TOML", lambda d: of_config(TOML.replace("credits = 8", "credits = 8\ncredits = 9"), d)),
    (87, "bytes that are no text", lambda d: of_config(b"\xff\xfe\x00", d)),
    (88, "port = '50551'", lambda d: of_config(TOML.replace("50551", "'fifty'"), d)),
    (88, "clock.start without an offset", lambda d: of_config(TOML.replace("00:00:00Z", "00:00:00"), d)),
    (89, "port 70000, 0 credits, a negative deadline", lambda d: of_config(TOML.replace("50551", "70000").replace("credits = 8", "credits = 0").replace("30.0", "-1"), d)),
    (89, "metrics on the port of the service", lambda d: of_config(TOML.replace("9100", "50551"), d)),
    (90, "a database URL with an @ in its password", lambda d: of_config(TOML.replace("me:secret@", "me:se@cret@"), d)),
    (90, "a database URL of MySQL", lambda d: of_config(TOML.replace("postgresql:", "mysql:"), d)),
    (91, "a key file that everybody may read", lambda d: of_tls(Files(d), lambda key: key.chmod(0o644))),
    (91, "a key that is not the one of the certificate", lambda d: of_tls(Files(d), lambda key: key.write_bytes(OTHER_CA.key_pem))),
]  # fmt: skip
YAML: list[Case] = [
    (86, "a routes file with departmint", lambda _: of_routes(ROUTES.replace("department: noc", "departmint: noc", 1))),
    (87, "YAML anchors", lambda d: of_rules("a: &x [1]\nb: *x\n" + RULE, d)),
    (87, "a rules file larger than 1 MiB", lambda d: of_rules(RULE + "#" * (1 << 20), d)),
    (87, "a tab as indentation", lambda d: of_rules(RULE.replace("        for", "\tfor"), d)),
    (87, "a key twice in YAML", lambda d: of_rules(RULE.replace("for: 30m", "for: 30m\n        for: 10m"), d)),
    (87, "!!python/object/apply:os.system", lambda d: of_rules(RULE.replace("30m", "!!python/object/apply:os.system [ls]"), d)),
    (87, "5,000 brackets in each other", lambda d: of_rules("[" * 5000, d)),
    (88, "for: 12:30, which YAML 1.1 reads as 750", lambda d: of_rules(RULE.replace("30m", "12:30"), d)),
    (88, "district: [NO], which YAML 1.1 reads as false", lambda _: of_routes(ROUTES.replace("[North]", "[NO]"))),
    (92, "a column there is not", lambda d: of_rules(expr("voltge_a_v > 250"), d)),
    (92, "a flag compared with a number", lambda d: of_rules(expr("supply_off > 1"), d)),
    (92, "a threshold that is NaN", lambda d: of_rules(expr("voltage_a_v > nan"), d)),
    (92, "for: -5s", lambda d: of_rules(RULE.replace("30m", "-5s"), d)),
    (92, "a rule twice", lambda d: of_rules(RULE + RULE[RULE.index("      - alert") :], d)),
    (92, "on: pole", lambda d: of_rules(RULE.replace("on: meter", "on: pole"), d)),
    (94, "500 terms", lambda d: of_rules(expr(" + ".join(["1"] * 500) + " > 1"), d)),
    (94, "200 brackets in each other", lambda d: of_rules(expr("(" * 200 + "1" + ")" * 200 + " > 1"), d)),
    (94, "__import__('os')", lambda d: of_rules(expr("__import__('os') > 1"), d)),
    (94, "9 ** 9 ** 9", lambda d: of_rules(expr("9 ** 9 ** 9 > 1"), d)),
    (94, "attributes of a column", lambda d: of_rules(expr("voltage_a_v.__class__ > 1"), d)),
    (95, "an empty rules file", lambda d: of_rules("", d)),
    (95, "a rules file that is not there", lambda d: [str(problem) for problem in read_rules([str(d / "gone.yaml")]).problems]),
    (99, "a rules file that is a directory", lambda d: of_rules_at(d / "x.yaml")),
]  # fmt: skip


def of_rules_at(path: Path) -> list[str]:
    """Of a directory inside a directory of rules, named as a file."""
    path.mkdir()
    return [str(problem) for problem in read_rules([str(path.parent)]).problems]


@pytest.mark.parametrize(("number", "words", "problems"), [*CSV, *YAML], ids=[case[1][:60] for case in (*CSV, *YAML)])
def test_a_file_is_refused_with_its_line(
    number: int, words: str, problems: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    found = [problem.replace(f"{tmp_path}/", "") for problem in problems(tmp_path)]
    assert found, "it was taken"
    assert all(problem.isprintable() for problem in found)
    told(number, words, "FILE", " / ".join(found))


@pytest.mark.parametrize(("number", "words", "problems"), SETTINGS, ids=[case[1][:60] for case in SETTINGS])
def test_settings_are_refused_at_start_without_a_secret(
    number: int, words: str, problems: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    found = [problem.replace(f"{tmp_path}/", "") for problem in problems(tmp_path)]
    assert found, "it was taken"
    assert not any("cret" in problem for problem in found if number == 90)
    told(number, words, "START", " / ".join(found))


TAKEN: list[Case] = [
    (98, "a byte order mark, CRLF, quotes", lambda _: of_reads(b"\xef\xbb\xbf" + READS.replace("\n", "\r\n").replace("M-1", '"M-1"').encode())),
    (60, "23:59:60 of a leap second", lambda _: of_reads(with_row("M-1,2016-12-31T23:59:60Z,900,5"))),
    (96, "a meter without a transformer", lambda _: of_registry("meters", REGISTRY["meters"].replace(",T-1,", ",,"))),
]  # fmt: skip


@pytest.mark.parametrize(("number", "words", "problems"), TAKEN, ids=[case[1] for case in TAKEN])
def test_what_is_unusual_and_sound_is_taken(
    number: int, words: str, problems: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    assert problems(tmp_path) == []
    told(number, words, "TAKEN", "as any other")
