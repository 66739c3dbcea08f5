"""What `meterwatch.devtools.fuzz` aims at: per target a maker of sound inputs, and the code that must take or refuse
them.

A target's `take` returns ACCEPTED or the reason of a refusal that is ours. Every other exception, a refusal without a
sentence, and an input that is accepted and breaks what acceptance promises (every row accounted for; nothing but finite
values of known meters on the grid gets past validation) is a finding.
"""

from __future__ import annotations

import io
import random
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError, Message

from alarm.routes.file import parse_routes
from ingest.decode import columns, parse
from ingest.dictionary import Dictionary
from ingest.edits import edited
from ingest.registers import registers_of
from ingest.unary import batch_of_rows, events_of
from ingest.validate import validate
from meterwatch import registry_csv
from meterwatch.batch import Batch
from meterwatch.check_profile import DEFAULT
from meterwatch.config import load_config
from meterwatch.devtools import broken_text, broken_wire
from meterwatch.errors import ConfigError, Rejected
from meterwatch.files import FileError, lines
from meterwatch.files.csvfile import read_csv
from meterwatch.files.nem12 import read_nem12
from meterwatch.topology import Topology
from meterwatch.user_rule_tests import run_file
from meterwatch.user_rules import SHIPPED_DIRECTORY, read_rules
from meterwatch.v1 import ingest_pb2 as pb
from rules.user.columns import COLUMNS, On
from rules.user.expression import Wrong, parsed

ACCEPTED: Final = "accepted"
US: Final = 1_000_000
NOW_US: Final = 1_770_076_800 * US
STEP_S: Final = 900
METERS: Final = [f"M-{n}" for n in range(8)]
HOME: Final = 1
_FAR: Final = int(np.iinfo(np.int64).max)


class Finding(Exception):
    """Something accepted that must not be, or refused without saying why."""


class Target(NamedTuple):
    """What is aimed at. break_: one thing wrong with a sound input."""

    sound: Callable[[random.Random], bytes]
    break_: Callable[[random.Random, bytes], bytes]
    take: Callable[[bytes], str]


def _registry() -> Topology:
    """Eight meters on a transformer: one of another head-end, one retired, one of nobody, one with a multiplier."""
    n = len(METERS)
    zeros = np.zeros(n, np.int32)
    return Topology(
        as_of_us=1, meter=METERS, transformer_of=zeros, concentrator_of=zeros,
        head_end_of=np.array([HOME, HOME, HOME, HOME, HOME, HOME, 0, -1], np.int32),
        phases=np.array([1, 7, 0, 2, 1, 1, 1, 1], np.uint8), nominal_v=np.full(n, 230, np.float32),
        rated_a=np.full(n, 100, np.float32), contract_kw=np.array([10, 30, np.nan, 5, 5, 5, 5, 5], np.float32),
        interval_s=zeros + STEP_S, installed_us=np.zeros(n, np.int64),
        retired_us=np.array([_FAR] * 5 + [NOW_US - 9 * STEP_S * US] + [_FAR] * 2, np.int64),
        comm_mode=np.zeros(n, np.int16), comm_modes=["PLC"], transformer=["T"], feeder_of=np.zeros(1, np.int32),
        rated_kva=np.ones(1), transformer_district=[""], feeder=["F"], feeder_district=[""], concentrator=["C"],
        concentrator_head_end=np.zeros(1, np.int32), head_end=["OTHER", "HOME"],
        late_window_us=np.array([1, 45]) * 86_400 * US, slot_of={meter: slot for slot, meter in enumerate(METERS)},
        multiplier=np.array([1, 1, 1, 40, 1, 1, 1, 1], np.float32),
    )  # fmt: skip


WORLD: Final = _registry()


# -- messages ---------------------------------------------------------------------------------------------------------


def _stamps(rng: random.Random, rows: int) -> list[int]:
    return [NOW_US - STEP_S * US * rng.randrange(1, 400) for _ in range(rows)]


def _batch(rng: random.Random) -> bytes:
    rows = rng.randrange(1, 9)
    batch = pb.ReadBatch(seq=rng.randrange(1, 99), interval_s=STEP_S, value_meaning=rng.choice((0, 0, 1)))  # type: ignore[arg-type]
    batch.meter_index.extend(rng.randrange(len(METERS)) for _ in range(rows))
    batch.stamp_us.extend(_stamps(rng, rows))
    batch.import_wh.extend(rng.randrange(900) for _ in range(rows))
    for name in ("voltage_a_v", "current_a_a"):
        if rng.random() < 0.7:
            getattr(batch, name).extend(rng.uniform(200, 250) if name[0] == "v" else rng.random() for _ in range(rows))
    if rng.random() < 0.3:
        batch.channel_mask.extend([1] * rows)
    if rng.random() < 0.3:
        batch.origin.extend([rng.randrange(5)] * rows)
    return pb.IngestRequest(batch=batch).SerializeToString()


def _break_batch(rng: random.Random, data: bytes) -> bytes:
    """One thing wrong with the batch, or now and then with the message around it."""
    if rng.random() < 0.1:
        return broken_wire.broken(rng, data)
    (around,) = broken_wire.taken_apart(data)
    return broken_wire.written(around._replace(payload=broken_wire.broken(rng, around.payload)))


def _take_message(data: bytes) -> str:
    request = parse(data)
    known = Dictionary(WORLD)
    if request.WhichOneof("message") == "dictionary":
        known.append(request.dictionary.meter, WORLD)
    known.append([meter for meter in METERS if meter not in request.dictionary.meter], WORLD)
    if request.WhichOneof("message") == "batch":
        found = columns(request.batch, known.fingerprints, 65_000)
        _check(validate(found, known.slots[found.meter_index], known, HOME, 7, WORLD, NOW_US, DEFAULT))
    return ACCEPTED


def _check(batch: Batch) -> None:
    """What a validated batch promises to storage and rules."""
    reads = batch.reads
    if batch.rows_sent != reads.rows + len(batch.rejects.row) + batch.inner_duplicates:
        raise Finding(f"{batch.rows_sent} rows sent, {reads.rows} kept, {len(batch.rejects.row)} rejected")
    owner = WORLD.head_end_of[reads.slot]
    if ((reads.slot < 0) | ((owner != HOME) & (owner != -1))).any():
        raise Finding("a read of a meter that is not the head-end's")
    if (reads.end_us % (reads.interval_s * US)).any() or (reads.end_us > NOW_US + 120 * US).any():
        raise Finding("a read off the grid or of the future")
    for name, values in reads.channels.items():
        present = np.ones(reads.rows, np.bool_) if reads.mask is None else (reads.mask & _bit(name)) != 0
        if not np.isfinite(values[present]).all():
            raise Finding(f"{name} is not finite")


def _bit(name: str) -> int:
    from meterwatch.channels import CHANNEL_BIT

    return CHANNEL_BIT[name]


def _dictionary(rng: random.Random) -> bytes:
    meters = rng.sample(range(50), rng.randrange(1, 6))
    return pb.IngestRequest(dictionary=pb.Dictionary(meter=[f"N-{n}" for n in meters])).SerializeToString()


def _message(data: bytes, kind: type[Message]) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise Rejected("MALFORMED", f"{len(data)} bytes: {error}") from None


def _read(rng: random.Random) -> pb.Read:
    (end_us,) = _stamps(rng, 1)
    return pb.Read(meter=rng.choice(METERS[:5]), end_us=end_us, import_wh=rng.randrange(900), voltage_a_v=230)


def _reads(rng: random.Random) -> bytes:
    reads = [_read(rng) for _ in range(rng.randrange(1, 5))]
    return pb.SendReadsRequest(head_end="HOME", epoch=1, seq=1, interval_s=STEP_S, read=reads).SerializeToString()


def _take_reads(data: bytes) -> str:
    dictionary, batch = batch_of_rows(_message(data, pb.SendReadsRequest))
    known = Dictionary(WORLD)
    known.append(dictionary.meter, WORLD)
    found = columns(batch, known.fingerprints, 65_000)
    _check(validate(found, known.slots[found.meter_index], known, HOME, 7, WORLD, NOW_US, DEFAULT))
    return ACCEPTED


def _events(rng: random.Random) -> bytes:
    rows = rng.randrange(1, 6)
    return pb.SendEventsRequest(
        head_end="HOME", epoch=1, seq=1, meter=METERS, meter_index=[rng.randrange(len(METERS)) for _ in range(rows)],
        at_us=_stamps(rng, rows), code=[rng.randrange(1, 12) for _ in range(rows)],  # type: ignore[misc]
    ).SerializeToString()  # fmt: skip


def _take_events(data: bytes) -> str:
    limits = DEFAULT.at(NOW_US).ingest[0]
    events, rejects, rows = events_of(_message(data, pb.SendEventsRequest), HOME, WORLD, NOW_US, limits)
    if rows != events.rows + len(rejects.row):
        raise Finding(f"{rows} events sent, {events.rows} kept, {len(rejects.row)} rejected")
    return ACCEPTED


def _registers(rng: random.Random) -> bytes:
    rows = rng.randrange(1, 6)
    return pb.SendRegistersRequest(
        head_end="HOME", epoch=1, seq=1, meter=METERS, meter_index=[rng.randrange(len(METERS)) for _ in range(rows)],
        at_us=_stamps(rng, rows), register=[rng.randrange(1, 3) for _ in range(rows)],  # type: ignore[misc]
        value_wh=[rng.randrange(10**9) for _ in range(rows)],
    ).SerializeToString()  # fmt: skip


def _take_registers(data: bytes) -> str:
    limits = DEFAULT.at(NOW_US).ingest[0]
    batch = registers_of(_message(data, pb.SendRegistersRequest), b"", HOME, WORLD, NOW_US, limits)
    if batch.rows_sent != len(batch.reads.slot) + len(batch.rejects.row) + batch.inner_duplicates:
        raise Finding(f"{batch.rows_sent} register reads sent, {len(batch.reads.slot)} kept")
    return ACCEPTED


def _edit(rng: random.Random) -> bytes:
    reads = [_read(rng) for _ in range(rng.randrange(1, 4))]
    return pb.EditReadsRequest(
        action_id="A-1",
        operator="eve",
        reason="misread",
        interval_s=STEP_S,
        read=reads,
        expected_version=[0] * len(reads),
    ).SerializeToString()


def _take_edit(data: bytes) -> str:
    batch = edited(_message(data, pb.EditReadsRequest), b"", WORLD, NOW_US, DEFAULT)
    if batch.rows_sent != batch.reads.rows:
        raise Finding(f"{batch.rows_sent} reads edited, {batch.reads.rows} kept")
    return ACCEPTED


# -- files ------------------------------------------------------------------------------------------------------------

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
    return _said([(problem.line, problem.message) for problem in found.problems], content)


def _said(problems: Iterable[tuple[int, str]], content: bytes) -> str:
    """ACCEPTED without problems, else the first; Finding if one does not say where and what, on one printable line."""
    last = content.count(b"\n") + content.count(b"\r") + 2
    first = ""
    for line, message in problems:
        first = first or message
        if not 0 <= line <= last:
            raise Finding(f"line {line} of a file of {last}: {message}")
        if not message or not message.isprintable():
            raise Finding(f"line {line}: a message that is no line of text: {message!r}")
    return _kind(first) if first else ACCEPTED


def _kind(message: str) -> str:
    """A sentence without what arrived: refusals of one kind have one name."""
    return re.sub(r"'.*'|\".*\"|[\d.]+|0x\w+", "_", message)[:60]


def _take_file(data: bytes, read: Callable[[Iterable[tuple[int, list[str]]]], object]) -> str:
    try:
        read(lines.blocks(io.BytesIO(data), "made"))
    except FileError as error:
        return _said(error.problems, data)
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
            return _said([(0, problem) for problem in error.problems], b"")
        return ACCEPTED

    return _with_file(data, ".toml", take)


def _take_rules(data: bytes) -> str:
    return _with_file(
        data, ".yaml", lambda path: _said([(p.line, p.message) for p in read_rules([str(path)]).problems], data)
    )


def _take_rule_tests(data: bytes) -> str:
    return _with_file(
        data,
        ".yaml",
        lambda path: _said([(0, p.message) for p in run_file(path, ["shipped:voltage"]).problems], data),
    )


def _take_routes(data: bytes) -> str:
    try:
        parse_routes(data, "made", _DIRECTORY)
    except ConfigError as error:
        return _said([(0, problem) for problem in error.problems], data)
    return ACCEPTED


def _take_expression(data: bytes) -> str:
    try:
        parsed(data.decode("utf-8", "replace"), COLUMNS[On.METER])
    except Wrong as wrong:
        return _said([(0, wrong.message)], data)
    return ACCEPTED


def _text(text: str) -> Callable[[random.Random], bytes]:
    return lambda _: text.encode()


def _one_of(*texts: str) -> Callable[[random.Random], bytes]:
    return lambda rng: rng.choice(texts).encode()


TARGETS: Final[dict[str, Target]] = {
    "batch": Target(_batch, _break_batch, _take_message),
    "dictionary": Target(_dictionary, broken_wire.broken, _take_message),
    "reads": Target(_reads, broken_wire.broken, _take_reads),
    "events": Target(_events, broken_wire.broken, _take_events),
    "registers": Target(_registers, broken_wire.broken, _take_registers),
    "edit": Target(_edit, broken_wire.broken, _take_edit),
    "registry": Target(_one_registry, _break_registry, _take_registry),
    "csv": Target(_text(_CSV), _break_text, _take_csv),
    "nem12": Target(_one_of(_NEM12, _NEM13), _break_text, _take_nem12),
    "config": Target(_text(TOML), _break_text, _take_config),
    "rules": Target(
        _one_of(*_SHIPPED),
        _break_text,
        _take_rules,
    ),
    "rule_tests": Target(_text(_RULE_TESTS), _break_text, _take_rule_tests),
    "routes": Target(_text(ROUTES), _break_text, _take_routes),
    "expression": Target(_one_of(*_EXPRESSIONS), _break_text, _take_expression),
}  # fmt: skip
