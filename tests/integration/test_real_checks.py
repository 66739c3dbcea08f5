"""Every check of validation over real households: which fire, how often, and that the known faults are among them.

By default the small cut that ships with the project; with METERWATCH_BAMBERG=FILE.parquet in the environment the whole
published file (`pytest tests/integration/test_real_checks.py -s` prints the table). The households are taken as
sound, but for the two that the file's own description names; what fires on them is a false alarm at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from law import SENT
from pydantic import SecretStr
from test_real_reads import CLIMBING, NEGATIVE, WH_MAX, File, reads, register, send_all

from meterwatch.app import Service, running
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server
from meterwatch.local_days import as_date, day_of
from meterwatch.quality import CHECK_OF, Quality

__all__ = ["reads"]  # the fixture
ZONE = "Europe/Zurich"
ASK_S = 0.2


def config(dsn: str, file: File) -> Config:
    return Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="replay", start=datetime.fromtimestamp(int(file.end_s.min()) - 899, UTC)),
    )


async def judged(service: Service, dsn: str, file: File) -> None:
    """Wait until every day but the last, which is not over, is judged. Polls: the job works in its own time."""
    last = as_date(int(day_of(ZONE, file.end_s.max(keepdims=True) * US)[0]))
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not connection.execute(
            "SELECT EXISTS (SELECT FROM local_day_passes WHERE time_zone = %s AND day >= %s)"
            " AND NOT EXISTS (SELECT FROM meter_days_owed)", (ZONE, last),
        ).fetchone()[0]:  # type: ignore[index]  # fmt: skip
            assert not service.core.done()
            await asyncio.sleep(ASK_S)


def findings(dsn: str) -> Iterator[tuple[str, str, int, int, int, int]]:
    """check, what, reads, sound meters, reads of sound meters, days of sound meters."""
    sound = "meter NOT IN (%s, %s)"
    with psycopg.connect(dsn) as connection:
        for bit in Quality:
            if bit in CHECK_OF:
                row: Any = connection.execute(
                    f"SELECT count(*), count(DISTINCT meter) FILTER (WHERE {sound}), count(*) FILTER (WHERE {sound}),"
                    f" count(DISTINCT (meter, ((end_at - interval '1 us') AT TIME ZONE '{ZONE}')::date))"
                    f"   FILTER (WHERE {sound}) FROM reads JOIN meters USING (slot) WHERE quality & %s <> 0",
                    (*[NEGATIVE, CLIMBING] * 3, int(bit)),
                ).fetchone()
                yield CHECK_OF[bit], str(bit.name), *row
        for reason, check in (("NEGATIVE", "V06"), ("ABOVE_CAPACITY", "V06")):
            row = connection.execute(
                f"SELECT count(*), count(DISTINCT meter) FILTER (WHERE {sound}), count(*) FILTER (WHERE {sound}), 0"
                " FROM (SELECT detail ->> 'meter' AS meter FROM quarantine WHERE reason = %s) AS q",
                (*[NEGATIVE, CLIMBING] * 2, reason),
            ).fetchone()
            yield check, reason, *row


def rejected(dsn: str, reason: str) -> list[Any]:
    """end_us, meter, import_wh of the rows in quarantine, by time."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT (detail ->> 'end_us')::bigint, detail ->> 'meter', (detail ->> 'import_wh')::bigint FROM quarantine"
            " WHERE reason = %s ORDER BY 1",
            (reason,),
        ).fetchall()


async def test_the_known_faults_are_caught_by_name_and_the_table_of_false_alarms(dsn: str, reads: File) -> None:
    async with running(config(dsn, reads)) as service:
        await register(service.address, reads.meter)
        await asyncio.to_thread(send_all, service.address, reads, 1)
        await judged(service, dsn, reads)
    table = list(findings(dsn))
    total = len(reads.wh) - int(np.isin(reads.meter_index, [reads.meter.index(m) for m in (NEGATIVE, CLIMBING)]).sum())
    print(f"\n{len(reads.wh)} reads, {total} of {len(reads.meter) - 2} sound meters")
    for check, what, count, meters, false, days in sorted(table):
        share = f"({100 * false / total:.4f} %)"
        print(f"{check} {what:16} {count:8} reads; sound: {false:7} {share:>12} {meters:4} meters {days:6} days")

    assert {meter for _, meter, _ in rejected(dsn, "NEGATIVE")} == {NEGATIVE}
    climb = [wh for _, meter, wh in rejected(dsn, "ABOVE_CAPACITY") if meter == CLIMBING]
    assert climb == reads.wh[(reads.meter_index == reads.meter.index(CLIMBING)) & (reads.wh > WH_MAX)].tolist()
    by_name = {what: count for _, what, count, *_ in table}
    assert by_name["NEGATIVE"] == 15
    assert by_name["ABOVE_CAPACITY"] == int((reads.wh > WH_MAX).sum()) > 0
    with psycopg.connect(dsn) as connection:

        def of(meter: str, bit: Quality) -> int:
            row: Any = connection.execute(
                "SELECT count(*) FROM reads JOIN meters USING (slot) WHERE meter = %s AND quality & %s <> 0",
                (meter, int(bit)),
            ).fetchone()
            return int(row[0])

        assert of(NEGATIVE, Quality.AFTER_GAP) > 0, "what was rejected leaves a gap"
        assert of(CLIMBING, Quality.AFTER_GAP) > 0
        energy: Any = connection.execute(
            "SELECT sum(import_wh), (SELECT sum(import_wh) FROM reads WHERE end_at <= max(start_at + make_interval(secs"
            f" => day_s)) AND {SENT}) FROM meter_days"
        ).fetchone()
    assert energy[0] == energy[1]
