"""Four head-ends send the same reads at once, in other orders and batches, while the registry grows: one truth."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import numpy as np
import psycopg
from pydantic import SecretStr

from meterwatch.app import running
from meterwatch.client import HeadEnd, RegistryFile, Totals, import_registry
from meterwatch.clock import US
from meterwatch.config import ClockSection, Config, Database, Server

START_S = 1_772_409_600
STEP_S = 900
METERS, STEPS, SENDERS = 200, 48, 4
COLUMNS = (
    "meter,transformer,phases,nominal_v,rated_a,contract_kw,multiplier,interval_s,installed_on,terminal_type,comm_mode,"
    "concentrator,head_end"
)


def registry(meters: range) -> list[RegistryFile]:
    head_ends = "\n".join(["head_end,time_zone,late_window_days", *(f"H{i},UTC,45" for i in range(SENDERS))])
    rows = "\n".join([COLUMNS, *(f"M{i},T{i // 50},A,230,100,,1,900,2020-01-01,,,," for i in meters)])
    stations = {i // 50 for i in meters}
    transformers = "\n".join(
        ["transformer,feeder,rated_kva,winding,district", *(f"T{i},,400,Dyn11,D" for i in stations)]
    )
    return [
        RegistryFile(kind, kind, text.encode())
        for kind, text in (("head_ends", head_ends), ("transformers", transformers), ("meters", rows))
    ]


def send(address: str, sender: int) -> Totals:
    """All reads, interval by interval in an order of its own; the odd senders know other values of 1 % of them."""
    random = np.random.default_rng(sender)
    names = [f"M{i}" for i in range(METERS)]
    with HeadEnd(address, f"H{sender}", batch_rows=int(random.integers(20, 400))) as head_end:
        for step in random.permutation(STEPS).tolist():
            meter = random.permutation(METERS)
            wh = (meter * 7 + step) % 900
            wh = np.where((meter + step) % 100 == 0, wh + sender % 2, wh)
            end_us = np.full(METERS, (START_S + STEP_S * (step + 1)) * US)
            head_end.send_columns(names, meter, end_us, STEP_S, import_wh=wh)
        return head_end.flush()


async def test_four_head_ends_at_once_leave_each_read_once_and_account_for_every_row(dsn: str) -> None:
    start = datetime.fromtimestamp(START_S + STEP_S * (STEPS + 1), UTC)
    config = Config(
        server=Server(port=0),
        database=Database(url=SecretStr(dsn)),
        clock=ClockSection(mode="simulated", start=start, speed=1.0),
    )
    async with running(config) as service:
        await asyncio.to_thread(import_registry, service.address, registry(range(METERS)))
        senders = [asyncio.create_task(asyncio.to_thread(send, service.address, i)) for i in range(SENDERS)]
        for more in range(3):  # the registry grows meanwhile
            grown = registry(range(METERS * (more + 1), METERS * (more + 1) + 50))
            answer = await asyncio.to_thread(import_registry, service.address, grown)
            assert not answer.error
        totals = await asyncio.gather(*senders)
        with psycopg.connect(service.dsn) as connection:
            stored = connection.execute("SELECT count(*), count(DISTINCT (slot, end_at)) FROM reads").fetchone()
            beside = connection.execute("SELECT count(*) FROM read_versions").fetchone()
            ledger = connection.execute(
                "SELECT sum(accepted), sum(versions), sum(duplicates), sum(rejected), bool_and(evaluated) FROM batches"
            ).fetchone()
            values = connection.execute(
                "SELECT count(*) FROM reads r JOIN meters m USING (slot) WHERE import_wh NOT IN"
                " ((substr(meter, 2)::int * 7 + s) %% 900, (substr(meter, 2)::int * 7 + s) %% 900 + 1)".replace(
                    " s)", " (extract(epoch FROM end_at)::bigint - %(start)s) / 900 - 1)"
                ),
                {"start": START_S},
            ).fetchone()
    everything = METERS * STEPS
    assert stored == (everything, everything)
    assert values == (0,)
    for total in totals:
        assert total.sent == everything == total.accepted + total.versions + total.duplicates
    assert sum(total.accepted for total in totals) == everything
    versions = sum(total.versions for total in totals)
    assert beside == (versions,)
    # two values of one read: whoever comes second makes one version, and both are known from then on
    assert versions == sum((meter + step) % 100 == 0 for meter in range(METERS) for step in range(STEPS))
    assert ledger == (everything, versions, SENDERS * everything - everything - versions, 0, True)
