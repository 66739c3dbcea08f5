"""A device is exchanged in the middle of a day: the old meter ends, the new one begins, nothing is missing or double.

End to end: registry files, reads over gRPC in order or the morning late, the judged days of both and the load of their
transformer.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
import pytest
from pydantic import SecretStr
from service_process import until

from meterwatch.app import running
from meterwatch.client import HeadEnd, RegistryFile, import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server

ZONE = ZoneInfo("Europe/Zurich")
QUARTER_US = 900 * US
DAY = date(2025, 6, 3)
FIRST_US = int(datetime.combine(DAY, time(0), ZONE).timestamp()) * US
CHANGE = datetime.combine(DAY, time(10, 30), ZONE)
CHANGE_US = int(CHANGE.timestamp()) * US
METERS = (
    "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
    "concentrator,head_end\n"
    "OLD,T,ABC,230,100,11,1,900,2020-01-01,,,,H\nNEW,T,ABC,230,100,11,1,900,2025-06-03,,,,H\n"
)
FILES = {
    "head_ends": "head_end,time_zone,late_window_days\nH,Europe/Zurich,60\n",
    "transformers": "transformer,feeder,rated_kva,winding,district\nT,,160,,\n",
    "meters": METERS,
    "service_times": f"meter,installed_at,retired_at\nOLD,,{CHANGE.isoformat()}\nNEW,{CHANGE.isoformat()},\n",
}


def registry(**changed: str) -> list[RegistryFile]:
    return [RegistryFile(kind, f"{kind}.csv", text.encode()) for kind, text in (FILES | changed).items()]


@pytest.mark.parametrize("late", [False, True], ids=["in order", "the morning late"])
def test_a_meter_is_exchanged_within_a_day(dsn: str, late: bool) -> None:
    tables = "meter_multipliers, meter_transformers, meter_links, meters, head_ends, concentrators, transformers"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            f"TRUNCATE reads, read_versions, batches, alarms, alarm_log, meter_days, meter_days_owed, local_day_passes,"  # type: ignore[arg-type]
            f" transformer_loads, transformer_members, transformer_loads_dirty, quarantine,"
            f" transformer_feeders, feeders, {tables} RESTART IDENTITY"
        )

    def query(text: str) -> list[Any]:
        with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
            return connection.execute(text).fetchall()  # type: ignore[arg-type]

    ends_us = FIRST_US + np.arange(1, 97) * QUARTER_US
    parts = [("OLD", ends_us[ends_us <= CHANGE_US]), ("NEW", ends_us[ends_us > CHANGE_US])]

    def send(address: str) -> None:
        with HeadEnd(address, "H", 1) as client:
            for meter, mine in reversed(parts) if late else parts:
                client.send_columns(
                    [meter], np.zeros(len(mine), np.uint32), mine, 900, import_wh=np.full(len(mine), 500)
                )
                client.flush()
            wrong = [CHANGE_US + QUARTER_US], [CHANGE_US - QUARTER_US]
            for meter, stamps in zip(("OLD", "NEW"), wrong, strict=True):
                client.send_columns([meter], [0], stamps, 900, import_wh=[1])
            client.send_columns(["NEW"], [0], [int(ends_us[-1]) + 86_400 * US], 900, import_wh=[0])
            client.flush()
            until(lambda: len(query("SELECT FROM meter_days WHERE import_wh > 0")) == 2, "both days judged")

    async def live() -> None:
        config = Config(
            server=Server(port=0),
            database=Database(url=SecretStr(dsn)),
            clock=ClockSection(mode="replay", start=CHANGE.astimezone(UTC)),
        )
        async with running(config) as service:
            for changed in (2, 0):
                answer = await asyncio.to_thread(import_registry, service.address, registry(), FIRST_US)
                assert not answer.error, answer.error
                assert [one.changed for one in answer.count] == [0, 0, 0, changed], "again: no change"
            answer = await asyncio.to_thread(
                import_registry,
                service.address,
                registry(service_times="meter,installed_at,retired_at\nNEW,,2025-01-01\n"),
            )
            [error] = answer.error
            assert (error.file, error.line) == ("service_times.csv", 2)
            answer = await asyncio.to_thread(
                import_registry, service.address, [one for one in registry() if one.kind == "meters"], FIRST_US
            )
            assert [one.changed for one in answer.count] == [0], "the hour stays with the same day"
            await asyncio.to_thread(send, service.address)

    asyncio.run(live())
    assert query("SELECT reason, count(*) FROM quarantine GROUP BY reason") == [("NOT_INSTALLED", 2)]
    days = query(
        "SELECT meter, import_wh, present, expected, extract(epoch FROM start_at)::bigint * 1000000, day_s, complete"
        " FROM meter_days JOIN meters USING (slot) WHERE import_wh > 0 ORDER BY start_at"
    )
    before, after = (len(mine) for _, mine in parts)
    assert days == [
        ("OLD", 500 * before, before, before, FIRST_US, before * 900, False),
        ("NEW", 500 * after, after, after, CHANGE_US, after * 900, False),
    ]
    assert query("SELECT count(*) FROM missing_intervals WHERE day = '2025-06-03'") == [(0,)]
    curve = query(
        "SELECT count(*), min(coverage), max(coverage), min(kw)::float8, max(kw)::float8 FROM transformer_load_curve"
        f" WHERE window_end > to_timestamp({FIRST_US // US}) AND window_end <= to_timestamp({int(ends_us[-1]) // US})"
    )
    assert curve == [(96, 1.0, 1.0, 2.0, 2.0)]
