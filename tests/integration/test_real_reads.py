"""Real reads, whole: every read of the Bamberg households through the service, counted and summed by SQL.

By default the small cut that ships with the project; with METERWATCH_BAMBERG=FILE.parquet in the environment the whole
published file (2,526,048 reads; `pytest tests/integration/test_real_reads.py -s` then prints what it counted).
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psycopg
import pytest
from law import SENT
from numpy.typing import NDArray
from pydantic import SecretStr

from meterwatch import data
from meterwatch.app import Service, running
from meterwatch.client import HeadEnd, Totals
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server
from meterwatch.v1 import registry_pb2, registry_pb2_grpc

NEGATIVE = "9717902"
CLIMBING = "2046645"
WH_MAX = round(1.2 * 80 * 230 * 3 * 0.25)
"""V06 for the meters as registered below: three phases, 80 A, 230 V, a quarter of an hour."""
HOUSEHOLDS = 20
"""Per transformer."""


@dataclass
class File:
    meter: list[str]
    meter_index: NDArray[np.uint32]
    end_s: NDArray[np.int64]
    wh: NDArray[np.int64]


def small() -> File:
    cut = data.cut()
    return File(cut.meter, cut.meter_index, cut.end_s, cut.wh)


def whole(path: str) -> File:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    meter = table["meter_id"].combine_chunks()
    start_s = table["interval_start_cet"].to_numpy().astype("datetime64[s]").astype(np.int64)
    return File(
        meter.dictionary.to_pylist(),
        meter.indices.to_numpy().astype(np.uint32),
        start_s - 3600 + 900,
        np.rint(table["kwh"].to_numpy() * 1000).astype(np.int64),
    )


@pytest.fixture(scope="module")
def reads() -> File:
    path = os.environ.get("METERWATCH_BAMBERG")
    file = whole(path) if path else small()
    order = np.lexsort((file.meter_index, file.end_s))  # as a head-end would: interval by interval
    return File(file.meter, file.meter_index[order], file.end_s[order], file.wh[order])


def registry(meters: list[str]) -> list[registry_pb2.RegistryFile]:
    districts = range((len(meters) + HOUSEHOLDS - 1) // HOUSEHOLDS)
    files = {
        "head_ends": ["head_end,time_zone,late_window_days", "HES-1,Europe/Zurich,60"],
        "feeders": ["feeder,substation,district,ampacity_a", "F1,S1,CH,400"],
        "transformers": [
            "transformer,feeder,rated_kva,winding,district",
            *(f"T{i},F1,630,Dyn11,CH" for i in districts),
        ],
        "meters": [
            "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,"
            "comm_mode,concentrator,head_end",
            *(
                f"{meter},T{i // HOUSEHOLDS},ABC,230,80,,1,900,2018-01-01,smart_meter,4G,,HES-1"
                for i, meter in enumerate(meters)
            ),
        ],
    }
    return [
        registry_pb2.RegistryFile(kind=kind, name=f"{kind}.csv", content="\n".join(lines).encode())
        for kind, lines in files.items()
    ]


async def register(address: str, meters: list[str]) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = registry_pb2_grpc.RegistryStub(channel)
        answer = await stub.Import(registry_pb2.ImportRequest(file=registry(meters)))
    assert not answer.error, answer.error


def send_all(address: str, file: File, epoch: int) -> Totals:
    """Day by day, so that no batch is longer than the replay clock believes at once."""
    days = np.flatnonzero(np.diff(file.end_s // 86_400)) + 1
    with HeadEnd(address, "HES-1", epoch=epoch) as head_end:
        for first, last in zip([0, *days], [*days, len(file.wh)], strict=True):
            part = slice(first, last)
            wh = file.wh[part].astype(np.int32)
            head_end.send_columns(file.meter, file.meter_index[part], file.end_s[part] * US, 900, import_wh=wh)
        return head_end.flush()


def counted(dsn: str) -> dict[str, Any]:
    with psycopg.connect(dsn) as connection:
        stored, wh = connection.execute(
            f"SELECT count(*), coalesce(sum(import_wh), 0) FROM reads WHERE {SENT}"
        ).fetchone() or (0, 0)
        reasons = dict(
            connection.execute("SELECT reason, count(*) FROM quarantine GROUP BY reason ORDER BY reason").fetchall()
        )
        versions = (connection.execute(f"SELECT count(*) FROM read_versions WHERE {SENT}".encode()).fetchone() or (0,))[
            0
        ]
        alarms = connection.execute("SELECT alarm_id, version, kind FROM alarm_log ORDER BY 1, 2").fetchall()
        negative = connection.execute(
            "SELECT count(*) FROM quarantine WHERE reason = 'NEGATIVE' AND detail ->> 'meter' = %s", (NEGATIVE,)
        ).fetchone()
    return {
        "stored": stored, "wh": int(wh), "reasons": reasons, "versions": versions, "alarms": alarms,
        "negative": (negative or (0,))[0],
    }  # fmt: skip


async def test_every_real_read_is_stored_or_quarantined_and_sending_all_again_changes_nothing(
    dsn: str, reads: File
) -> None:
    config = Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="replay", start=datetime.fromtimestamp(int(reads.end_s.min()) - 900, UTC)),
    )
    good = (reads.wh >= 0) & (reads.wh <= WH_MAX)
    expected_reasons = {"NEGATIVE": int((reads.wh < 0).sum()), "ABOVE_CAPACITY": int((reads.wh > WH_MAX).sum())}
    assert expected_reasons["NEGATIVE"] == 15

    async with running(config) as service:
        await register(service.address, reads.meter)
        before_s = backends_cpu_s(dsn)
        first, seconds = await timed(service, reads, epoch=1)
        first_s = backends_cpu_s(dsn) - before_s
        told = counted(dsn)
        again, _ = await timed(service, reads, epoch=2)
        told_again = counted(dsn)
        before_s = backends_cpu_s(dsn)
        replays, _ = await timed(service, reads, epoch=1)
        replays_s = backends_cpu_s(dsn) - before_s

    print(f"\nCPU of PostgreSQL: {first_s:.2f} s, and {replays_s:.2f} s for the same batches again")
    print(f"{first} in {seconds:.1f} s; in SQL: {told['stored']} reads, {told['wh']} Wh, {told['reasons']}")
    assert first.sent == len(reads.wh) == first.accepted + first.rejected
    assert (first.duplicates, first.versions) == (0, 0)
    assert told["stored"] == first.accepted == int(good.sum())
    assert told["wh"] == int(reads.wh[good].sum())
    assert told["reasons"] == {name: count for name, count in expected_reasons.items() if count}
    assert told["negative"] == 15
    climbed = {reads.meter[i] for i in np.unique(reads.meter_index[reads.wh > WH_MAX])}
    assert CLIMBING in climbed

    assert (again.accepted, again.versions) == (0, 0)
    assert again.duplicates == first.accepted
    assert again.rejected == first.rejected
    assert (replays.replayed, replays.accepted, replays.rejected) == (first.batches, first.accepted, first.rejected)
    for name in ("stored", "wh", "versions", "alarms"):
        assert told_again[name] == told[name], name


def backends_cpu_s(dsn: str) -> float:
    """CPU seconds of the processes that serve this database, those of the service's jobs among them; 0: elsewhere."""
    with psycopg.connect(dsn) as connection:
        pids = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()").fetchall()
    ticks = 0
    for (pid,) in pids:
        with suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def timed(service: Service, reads: File, epoch: int) -> tuple[Totals, float]:
    started = time.monotonic()
    totals = await asyncio.to_thread(send_all, service.address, reads, epoch)
    return totals, time.monotonic() - started
