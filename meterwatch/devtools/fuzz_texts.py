"""Texts as targets of `meterwatch.devtools.fuzz`: files of reads and of the registry, settings, rules and routes.

A refusal says on one printable line where and what, whatever the file holds.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from alarm.routes.file import parse_routes
from meterwatch import registry_csv
from meterwatch.config import load_config
from meterwatch.devtools import broken_text
from meterwatch.devtools.fuzz_target import ACCEPTED, Finding, Target, said
from meterwatch.errors import ConfigError
from meterwatch.files import FileError, lines
from meterwatch.files.csvfile import read_csv
from meterwatch.files.nem12 import read_nem12
from meterwatch.user_rule_tests import run_file
from meterwatch.user_rules import SHIPPED_DIRECTORY, read_rules
from rules.user.columns import COLUMNS, On
from rules.user.expression import Wrong, parsed

REGISTRY: Final = {
    "head_ends": "head_end,time_zone,late_window_days\nHES-1,Europe/Berlin,45\nHES-2,,\n",
    "feeders": "feeder,substation,district,ampacity_a\nF-1,S-1,NORTH,220\nF-2,S-1,,\n",
    "transformers": "transformer,feeder,rated_kva,winding,district\nT-1,F-1,160,Yyn0,NORTH\nT-2,F-2,400,,\n",
    "concentrators": "concentrator,head_end,comm_mode\nDC-1,HES-1,PLC\n",
    "meters": (
        "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,"
        "comm_mode,concentrator,head_end\nM-1,T-1,A,230,100,17.3,1,900,2014-01-01,residential-1p,PLC,DC-1,HES-1\n"
        '"M-2",T-2,ABC,230,63,,40,3600,,,"RF, mesh",,HES-2\n'
    ),
    "registers": "meter,device,digits,lsb_wh\nM-1,D-1,6,1000\n",
    "check_meters": "meter,transformer\nM-1,T-1\n",
    "thermal_types": "transformer,thermal_type\nT-1,onan-small\nT-2,\n",
    "service_times": "meter,installed_at,retired_at\nM-1,2014-01-01T08:00:00Z,2020-01-01T00:00:00+01:00\n",
}
_CSV: Final = (
    "meter,end,interval_s,import_wh,voltage_a_v\nM-1,2026-01-31T13:15:00+01:00,900,125,230.5\n"
    "M-1,2026-01-31T13:30:00Z,900,,231\nM-2,2026-01-31T13:30:00Z,3600,7,\n"
)
_CSV_LOCAL: Final = (
    "meter,start,fold,interval_s,import_kwh,export_wh,import_kvarh,power_factor,device_status\n"
    "M-1,2026-10-25T02:15,0,900,0.125,0,1.5,0.99,0\nM-1,2026-10-25T02:15,1,900,1.0625,-3,,1,8\n"
    "M-2,2026-01-31T13:30:59.5,,3600,7,,,,\n\nM-3,2026-06-30T23:59:60,,86400,,,,,\n"
)
_NEM12: Final = (
    "100,NEM12,200405011135,MDA1,Ret1\n200,VABD000163,E1Q1,1,E1,N1,METSER123,kWh,30,20040301\n"
    f"300,20040201,{'1.111,' * 48}V,,,20040202120025,20040202142516\n400,1,20,F14,76,\n400,21,48,A,,\n"
    f"200,VABD000163,E1Q1,2,Q1,,METSER123,kVArh,30,\n300,20040201,{'2.5,' * 48}A,,,20040202120025,\n"
    "500,S,RETNSRVCEORD1,20040220154500,\n900\n"
)
_NEM13: Final = (
    "100,NEM13,200401152345,MDA1,Ret1\n250,1234567890,1141,01,11,11,METSER66,E,000021.2,20031001103230,A,,,000534.5,"
    "20040201100030,E64,77,,343.5,kWh,20040509,20040202125010,20040203000130\n900\n"
)
TOML: Final = """[server]
port = 50551
credits = 8
batch_deadline_s = 30.0
[database]
url = "postgresql://me:secret@127.0.0.1:5432/x"
copy_connections = 2
columnstore = "auto"
[retention]
reads_days = 400
[clock]
mode = "replay"
start = 2026-01-31T00:00:00Z
[checks]
changes = { "2026-01-01T00:00:00+01:00" = "lenient" }
[rules]
files = ["shipped:voltage"]
[metrics]
port = 9100
[log]
level = "info"
"""
ROUTES: Final = """version: 1
link: https://console.example/alarms
targets:
  am: {kind: alertmanager, url: "http://127.0.0.1:9093"}
  hook:
    kind: webhook
    url: http://127.0.0.1:1/in
    secret: {env: HOME}
    rate: {messages: 60, per_s: 60}
departments:
  noc: {targets: [am, hook]}
schedules:
  office: {time_zone: Europe/Berlin, hours: ["mon-fri 07:00-17:00"], holidays: [2026-12-25]}
routes:
  - name: a
    match: {type: [OUTAGE], district: [North], severity_min: HIGH}
    department: noc
    schedule: office
    group_by: [feeder]
    group_wait_s: 10
    escalate: [{after_s: 60, department: noc}]
"""
_EXPRESSIONS: Final = (
    "voltage_max_v > 1.10 * nominal_v",
    "not (210 < voltage_a_v < 250) or supply_off and present(import_kw)",
    "abs(net_kw) > max(contract_kw, 3, -1) / 2 - 1e-3",
    "not (present(import_kw) and not supply_off or voltage_a_v >= 2 * 3 + 1) and min(import_kw, 5) <= -(4 - 2.5)",
)
_RULE_TESTS: Final = """tests:
  - name: too high for half an hour is told, and over after a quarter without
    interval: 15m
    meter: {nominal_v: 230}
    reads:
      voltage_a_v: 230x2 254x3 230x3
      import_wh: 5x2 _ 7x5
    expect:
      - {at: 45m, alarms: []}
      - {at: 1h, alarms: [voltage_high]}
    episodes:
      - {alert: voltage_high, onset: 30m, raised: 1h, cleared: 1h30m}
"""
_SHIPPED: Final = [
    path.read_text("utf-8") for path in sorted(SHIPPED_DIRECTORY.glob("*.yaml")) if "_test" not in path.stem
]
_DIRECTORY: Final = Path(tempfile.gettempdir())


def _break_text(rng: random.Random, data: bytes) -> bytes:
    return broken_text.broken(rng, data.decode())


def _break_registry(rng: random.Random, data: bytes) -> bytes:
    kind, _, text = data.partition(b"\0")
    return kind + b"\0" + broken_text.broken(rng, text.decode())


def _one_registry(rng: random.Random) -> bytes:
    kind = rng.choice(list(REGISTRY))
    return f"{kind}\0{REGISTRY[kind]}".encode()


def _take_registry(data: bytes) -> str:
    kind, _, content = data.partition(b"\0")
    found = registry_csv.parse([registry_csv.RegistryCsv(kind.decode(), "made.csv", content)])
    return said([(problem.line, problem.message) for problem in found.problems], content)


def _take_file(data: bytes, read: Callable[[Iterable[tuple[int, list[str]]]], object]) -> str:
    try:
        read(lines.blocks(io.BytesIO(data), "made"))
    except FileError as error:
        return said(error.problems, data)
    return ACCEPTED


def _take_csv(data: bytes) -> str:
    return _take_file(data, lambda blocks: read_csv("made", blocks, time_zone="Europe/Berlin"))


def _take_nem12(data: bytes) -> str:
    return _take_file(data, lambda blocks: read_nem12("made", blocks))


def _with_file(data: bytes, suffix: str, take: Callable[[Path], str]) -> str:
    with tempfile.NamedTemporaryFile(dir=_DIRECTORY, prefix="fuzz-", suffix=suffix) as file:
        file.write(data)
        file.flush()
        return take(Path(file.name))


def _take_config(data: bytes) -> str:
    def take(path: Path) -> str:
        try:
            load_config(path)
        except ConfigError as error:
            if any("//me:secret@" in problem for problem in error.problems):
                raise Finding("a secret shows") from error
            return said([(0, problem) for problem in error.problems], b"")
        return ACCEPTED

    return _with_file(data, ".toml", take)


def _take_rules(data: bytes) -> str:
    def take(path: Path) -> str:
        return said([(problem.line, problem.message) for problem in read_rules([str(path)]).problems], data)

    return _with_file(data, ".yaml", take)


def _take_rule_tests(data: bytes) -> str:
    def take(path: Path) -> str:
        return said([(0, problem.message) for problem in run_file(path, ["shipped:voltage"]).problems], data)

    return _with_file(data, ".yaml", take)


def _take_routes(data: bytes) -> str:
    try:
        parse_routes(data, "made", _DIRECTORY)
    except ConfigError as error:
        return said([(0, problem) for problem in error.problems], data)
    return ACCEPTED


def _take_expression(data: bytes) -> str:
    try:
        parsed(data.decode("utf-8", "replace"), COLUMNS[On.METER])
    except Wrong as wrong:
        return said([(0, wrong.message)], data)
    return ACCEPTED


def _text(text: str) -> Callable[[random.Random], bytes]:
    return lambda _: text.encode()


def _one_of(*texts: str) -> Callable[[random.Random], bytes]:
    return lambda rng: rng.choice(texts).encode()


TEXTS: Final[dict[str, Target]] = {
    "registry": Target(_one_registry, _break_registry, _take_registry),
    "csv": Target(_one_of(_CSV, _CSV_LOCAL), _break_text, _take_csv),
    "nem12": Target(_one_of(_NEM12, _NEM13), _break_text, _take_nem12),
    "config": Target(_text(TOML), _break_text, _take_config),
    "rules": Target(_one_of(*_SHIPPED), _break_text, _take_rules),
    "rule_tests": Target(_text(_RULE_TESTS), _break_text, _take_rule_tests),
    "routes": Target(_text(ROUTES), _break_text, _take_routes),
    "expression": Target(_one_of(*_EXPRESSIONS), _break_text, _take_expression),
}
