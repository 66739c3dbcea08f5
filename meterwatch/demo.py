"""`meterwatch demo`: the main job on real reads, with faults, and a verdict on itself.

A service of its own (embedded TimescaleDB, replay clock), a head-end that streams, an operator that subscribes; the two
talk to the service over gRPC like anybody else. Two days of real household reads, then a morning with three faults: a
feeder loses supply, a transformer is overloaded, a concentrator dies; then all is well again. It ends by comparing what
was sent with what SQL counts, and the alarms that came with those that had to come.
"""

from __future__ import annotations

import asyncio
import csv
import shutil
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psycopg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from meterwatch import data
from meterwatch.alarms import AlarmType
from meterwatch.app import running
from meterwatch.batch import EventCode
from meterwatch.client import AlarmFeed, HeadEnd, RegistryFile, Totals, import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server
from meterwatch.quality import METHOD_MASK
from meterwatch.v1 import alarms_pb2
from storage.settings import check_settings

SHIFT_S = 313 * 7 * 86_400
"""The reads of November 2018 are played six years (313 weeks) later: same weekdays, and all demo meters installed."""
STEP_S = 900
FEEDER, TRANSFORMER, CONCENTRATOR = "MV1.101-L45", "LV2.120", "DC-PLC-3.104"
EXTRA_WH = 550
"""Added per meter and quarter-hour of the overloaded transformer: load 1.07 to 1.43 times its rating at any hour."""
OVERLOAD_STEPS = range(1, 13)
DEAD_STEPS = range(2, 10)
OUTAGE_STEPS = range(5, 9)
"""Intervals whose end falls into the feeder outage: nothing is sent."""
FAULT_STEPS = 18
LAST_GASP_SHARE = 0.6
EXPECTED = {("OUTAGE", FEEDER), ("OVERLOAD", TRANSFORMER), ("HOT_SPOT", TRANSFORMER), ("COMM_LOSS", CONCENTRATOR)}


@dataclass
class Summary:
    """What `--json` writes. Latencies in ms of the wall clock; alarm latency from the send that caused the alarm."""

    reads_sent: int = 0
    reads_acked: int = 0
    reads_stored: int = 0
    reads_rejected: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    alarms: list[dict[str, Any]] = field(default_factory=list)
    unexpected_alarms: list[dict[str, Any]] = field(default_factory=list)
    missing_alarms: list[str] = field(default_factory=list)
    ack_latency_ms: dict[str, float] = field(default_factory=dict)
    alarm_latency_ms: dict[str, float] = field(default_factory=dict)
    timescaledb_version: str = ""
    timescaledb_license: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Every read accounted for, and exactly the expected alarms, each with its end."""
        rejected = sum(self.reads_rejected.values())
        return (
            self.reads_acked == self.reads_sent
            and self.reads_stored == self.reads_sent - rejected - self.duplicates
            and not self.unexpected_alarms
            and not self.missing_alarms
        )


@dataclass
class Fleet:
    """The demo grid as the head-end sees it: arrays of length meters."""

    meter: list[str]
    transformer: list[str]
    feeder: list[str]
    concentrator: list[str]
    three_phase: np.ndarray[Any, np.dtype[np.bool_]]


def fleet() -> Fleet:
    """Read the grid that ships with the project."""
    with (data.GRID / "transformers.csv").open() as file:
        feeder_of = {row["transformer"]: row["feeder"] for row in csv.DictReader(file)}
    with (data.GRID / "meters.csv").open() as file:
        rows = list(csv.DictReader(file))
    return Fleet(
        [row["meter"] for row in rows],
        [row["transformer"] for row in rows],
        [feeder_of[row["transformer"]] for row in rows],
        [row["concentrator"] for row in rows],
        np.array([row["phases"] == "ABC" for row in rows]),
    )


class Operator:
    """Follows the alarms in a thread of its own and shows what comes."""

    def __init__(self, address: str, console: Console) -> None:
        self.feed = AlarmFeed(address)
        self.alarms: dict[str, alarms_pb2.Alarm] = {}
        self.latency_ms: list[float] = []
        self.bookmark = threading.Event()
        self.sent_s = time.monotonic()
        """When the head-end last sent something."""
        self._console = console
        self._thread = threading.Thread(target=self._follow, name="operator", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for message in self.feed:
            if message.WhichOneof("message") == "snapshot":
                self.bookmark.set()
            if message.WhichOneof("message") != "transition":
                continue
            transition = message.transition
            alarm = transition.alarm
            self.alarms[alarm.alarm_id] = alarm
            if transition.kind in ("RAISED", "CLEARED"):
                self.latency_ms.append((time.monotonic() - self.sent_s) * 1000)
            colour = {"RAISED": "bold red", "SEVERITY": "red", "CLEARED": "green"}.get(transition.kind, "yellow")
            self._console.print(
                f"  [{colour}]{transition.kind:9}[/] {_clock(transition.recorded_us)} "
                f"[bold]{alarm.type}[/] {alarm.asset_kind} {alarm.asset}: {alarm.summary}",
                highlight=False,
            )

    def close(self) -> None:
        self.feed.close()
        self._thread.join(5)


class Player:
    """The head-end: knows what each meter measured, sends it, and counts."""

    def __init__(self, head_end: HeadEnd, operator: Operator) -> None:
        self._head_end = head_end
        self._operator = operator
        self.fleet = fleet()
        self._random = np.random.default_rng(20181112)
        shapes = data.shapes()
        self.first_us = (int(shapes.end_s[0]) + SHIFT_S) * US
        self._wh = shapes.wh[np.arange(len(self.fleet.meter)) % len(shapes.wh)]

    def send(self, step: int, keep: np.ndarray[Any, np.dtype[np.bool_]] | None = None, overload: bool = False) -> None:
        """Reads of quarter-hour `step` for the meters in `keep`, as one batch, and wait for the ack."""
        wh = self._wh[:, step % self._wh.shape[1]].astype(np.int32)
        if overload:
            wh = wh + np.array([EXTRA_WH if t == TRANSFORMER else 0 for t in self.fleet.transformer], np.int32)
        rows = np.arange(len(wh)) if keep is None else np.flatnonzero(keep)
        three = self.fleet.three_phase[rows]
        volts = self._random.normal(230, 1.5, (3, len(rows))).astype(np.float32)
        self._operator.sent_s = time.monotonic()
        self._head_end.send_columns(
            self.fleet.meter,
            rows.astype(np.uint32),
            np.full(len(rows), self.end_us(step), np.int64),
            STEP_S,
            import_wh=wh[rows],
            voltage_a_v=volts[0],
            voltage_b_v=volts[1],
            voltage_c_v=volts[2],
            mask=np.where(three, 0b1110001, 0b0010001).astype(np.uint32),
        )
        self._head_end.flush()

    def end_us(self, step: int) -> int:
        """End of quarter-hour `step` since the first."""
        return self.first_us + step * STEP_S * US

    def events(self, rows: np.ndarray[Any, np.dtype[np.intp]], at_us: int, spread_s: int, code: EventCode) -> None:
        """Events of these meters, spread over a few seconds."""
        stamps = np.sort(at_us + self._random.integers(0, spread_s * US, len(rows)))
        self._operator.sent_s = time.monotonic()
        self._head_end.send_events([self.fleet.meter[row] for row in rows], stamps, np.full(len(rows), int(code)))


def play(player: Player, console: Console) -> None:
    """Two ordinary days, then the faults."""
    days = player._wh.shape[1]
    console.print(f"[bold]Two days of real reads[/] from {len(player.fleet.meter)} meters")
    with Progress(console=console, transient=True) as progress:
        for step in progress.track(range(days), description="streaming"):
            player.send(step)
    on_feeder = np.array([feeder == FEEDER for feeder in player.fleet.feeder])
    behind = np.array([concentrator == CONCENTRATOR for concentrator in player.fleet.concentrator])
    gasped = on_feeder & (player._random.random(len(on_feeder)) < LAST_GASP_SHARE)
    console.print(f"[bold]Faults[/]: {TRANSFORMER} is overloaded, {CONCENTRATOR} dies, feeder {FEEDER} is cut")
    for i in range(1, FAULT_STEPS + 1):
        step = days - 1 + i
        if i == OUTAGE_STEPS.start:
            cut_us = player.end_us(step) - 600 * US
            lost = int(on_feeder.sum() - gasped.sum())
            console.print(f"  feeder {FEEDER} cut at {_clock(cut_us)}: {gasped.sum()} last gasps, {lost} lost")
            player.events(np.flatnonzero(gasped), cut_us, 20, EventCode.POWER_FAIL)
        if i == OUTAGE_STEPS.stop:
            console.print(f"  feeder {FEEDER} is back at {_clock(player.end_us(step) - 600 * US)}")
            back = np.flatnonzero(on_feeder)
            player.events(back, player.end_us(step) - 600 * US, 20, EventCode.POWER_RESTORED)
        keep = np.ones(len(on_feeder), np.bool_)
        keep[on_feeder] = i not in OUTAGE_STEPS
        keep[behind] = i not in DEAD_STEPS
        if i == DEAD_STEPS.stop:
            console.print(f"  {CONCENTRATOR} is back and sends what it kept")
            for late in DEAD_STEPS:
                player.send(days - 1 + late, behind)
        player.send(step, keep, overload=i in OVERLOAD_STEPS)
        time.sleep(0.15)  # for the eyes of the reader


def run(json_path: Path | None = None) -> None:
    """Play the demo; exit status 0 only if nothing is missing and nothing is too much."""
    console = Console(highlight=False)
    started_s = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="meterwatch-demo-", dir="/tmp"))
    try:
        summary = asyncio.run(_demo(directory, console))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    summary.seconds = round(time.monotonic() - started_s, 1)
    _show(summary, console)
    if json_path is not None:
        json_path.write_bytes(orjson.dumps(asdict(summary), option=orjson.OPT_INDENT_2))
    raise SystemExit(0 if summary.good else 1)


async def _demo(directory: Path, console: Console) -> Summary:
    start = datetime.fromtimestamp(int(data.shapes().end_s[0]) + SHIFT_S - STEP_S, UTC)
    config = Config(
        server=Server(port=0),
        database=Database(data_dir=directory),
        clock=ClockSection(mode="replay", start=start),
    )
    async with running(config, console.print) as service:
        settings = await asyncio.to_thread(check_settings, service.dsn)
        console.print(
            f"TimescaleDB {settings['timescaledb_version']} ({settings['timescaledb_license']} edition), service on "
            f"{service.address}; the clock is replayed from {start:%Y-%m-%d %H:%M} UTC"
        )
        await asyncio.to_thread(_import_grid, service.address)
        summary = await asyncio.to_thread(_drive, service.address, console)
        summary.timescaledb_version = settings["timescaledb_version"]
        summary.timescaledb_license = settings["timescaledb_license"]
        async with await psycopg.AsyncConnection.connect(service.dsn) as connection:
            row = await (
                await connection.execute(f"SELECT count(*) FROM reads WHERE quality & {METHOD_MASK} = 0")
            ).fetchone()
        summary.reads_stored = int(row[0]) if row else 0
    return summary


def _import_grid(address: str) -> None:
    files = [RegistryFile(path.stem, path.name, path.read_bytes()) for path in sorted(data.GRID.glob("*.csv"))]
    answer = import_registry(address, files)
    if answer.error:
        raise SystemExit("\n".join(f"{e.file}:{e.line}: {e.message}" for e in answer.error))


def _drive(address: str, console: Console) -> Summary:
    operator = Operator(address, console)
    operator.bookmark.wait(30)
    latency_ms: list[float] = []
    with HeadEnd(
        address, "HES-1", on_ack=lambda _seq, _ack, latency_s: latency_ms.append((latency_s or 0.0) * 1000)
    ) as head_end:
        play(Player(head_end, operator), console)
        totals = head_end.flush()
    time.sleep(1)  # the last transitions travel to the operator
    operator.close()
    return _summary(totals, latency_ms, operator)


def _summary(totals: Totals, ack_ms: list[float], operator: Operator) -> Summary:
    rejected = Counter(totals.rejected_reasons)
    summary = Summary(
        reads_sent=totals.sent,
        reads_acked=totals.accepted + totals.versions + totals.duplicates + totals.rejected,
        reads_rejected={str(reason): count for reason, count in rejected.items()},
        duplicates=totals.duplicates,
        ack_latency_ms=_percentiles(ack_ms),
        alarm_latency_ms=_percentiles(operator.latency_ms),
    )
    seen: Counter[tuple[str, str]] = Counter()
    for alarm in operator.alarms.values():
        if alarm.type == AlarmType.SYSTEM:  # of the machine it runs on, e.g. little disk
            continue
        told = {
            "type": alarm.type,
            "asset": alarm.asset,
            "severity": alarms_pb2.Severity.Name(alarm.severity).removeprefix("SEVERITY_"),
            "raised": _iso(alarm.raised_us),
            "cleared": _iso(alarm.cleared_us) if alarm.cleared_us else None,
        }
        summary.alarms.append(told)
        key = (alarm.type, alarm.asset)
        seen[key] += 1
        if key not in EXPECTED or seen[key] > 1 or alarm.state == alarms_pb2.ALARM_STATE_RETRACTED:
            summary.unexpected_alarms.append(told)
        elif not alarm.cleared_us:
            summary.missing_alarms.append(f"the end of {key[0]} {key[1]}")
    summary.missing_alarms += [f"{kind} {asset}" for kind, asset in sorted(EXPECTED - set(seen))]
    return summary


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"p50": round(float(np.percentile(values, 50)), 1), "p99": round(float(np.percentile(values, 99)), 1)}


def _show(summary: Summary, console: Console) -> None:
    table = Table(title="meterwatch demo", show_header=False)
    for name, value in asdict(summary).items():
        if name not in ("alarms", "unexpected_alarms", "missing_alarms"):
            table.add_row(name, str(value))
    console.print(table)
    alarms = Table("type", "asset", "severity", "raised", "cleared", title="alarms")
    for alarm in summary.alarms:
        alarms.add_row(*(str(alarm[key] or "-") for key in ("type", "asset", "severity", "raised", "cleared")))
    console.print(alarms)
    for alarm in summary.unexpected_alarms:
        console.print(f"[bold red]unexpected[/] {alarm}")
    for text in summary.missing_alarms:
        console.print(f"[bold red]missing[/] {text}")
    verdict = "[bold green]all reads durable, all alarms as expected[/]" if summary.good else "[bold red]FAILED[/]"
    console.print(verdict)


def _clock(us: int) -> str:
    return datetime.fromtimestamp(us / US, UTC).strftime("%d %H:%M:%S")


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us / US, UTC).isoformat().replace("+00:00", "Z")
