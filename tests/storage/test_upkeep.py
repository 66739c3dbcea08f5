"""Upkeep: chunks are there before their reads; only what is older than every promise goes; a lock stops nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest

from meterwatch.clock import US, SimulatedClock
from storage.upkeep import AHEAD_DAYS, Retention, Upkeep

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATE_DAYS = 45


class Fixed(SimulatedClock):
    def now_us(self) -> int:
        return int(NOW.timestamp()) * US


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "TRUNCATE meter_days, reads, read_versions, events, quarantine, batches, alarms, alarm_log, alarm_actions,"
            " meter_links, concentrators, head_ends"
        )
        connection.execute("INSERT INTO head_ends (head_end, late_window_days) VALUES ('H', %s)", (LATE_DAYS,))
    async with psycopg_pool.AsyncConnectionPool(
        dsn, min_size=1, max_size=2, open=False, kwargs={"autocommit": True, "options": "-c TimeZone=UTC"}
    ) as opened:
        yield opened


def upkeep(pool: psycopg_pool.AsyncConnectionPool[Any], **days: int | None) -> Upkeep:
    return Upkeep(pool, Fixed(0, 1.0), Retention(**days))


def read(connection: psycopg.Connection[Any], age_days: float) -> None:
    at = NOW - timedelta(days=age_days)
    connection.execute(
        "INSERT INTO reads (end_at, received_at, slot, interval_s, quality, version) VALUES (%s, %s, 1, 900, 0, 1)",
        (at, at),
    )


def batch(connection: psycopg.Connection[Any], seq: int, age_days: float, evaluated: bool) -> None:
    connection.execute(
        "INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions, duplicates,"
        " rejected, received_at, evaluated) VALUES (1, 1, 1, %s, '', '', 0, 0, 0, 0, 0, %s, %s)",
        (seq, NOW - timedelta(days=age_days), evaluated),
    )


def alarm(connection: psycopg.Connection[Any], seq: int, age_days: float, ended: bool) -> None:
    at = NOW - timedelta(days=age_days)
    connection.execute(
        "INSERT INTO alarms (alarm_id, rule, asset_kind, asset_id, asset, state, severity, level, onset_at, raised_at,"
        " cleared_at, recorded_at, version, seq, summary, evidence) VALUES (%s, 'OUTAGE', 'meter', 1, 'M', %s, 1, 'L',"
        " %s, %s, %s, %s, 1, %s, '', '{}')",
        (f"A{seq}", "RTN_UNACK" if ended else "UNACK_ACTIVE", at, at, at if ended else None, at, seq),
    )
    connection.execute(
        "INSERT INTO alarm_log (seq, alarm_id, version, kind, recorded_at, alarm)"
        " VALUES (%s, %s, 1, 'RAISED', %s, '{}')",
        (seq, f"A{seq}", at),
    )


def ages(connection: psycopg.Connection[Any], table: str, column: str) -> list[float]:
    rows = connection.execute(f"SELECT {column} FROM {table} ORDER BY 1").fetchall()
    return [(NOW - row[0]) / timedelta(days=1) for row in rows]


async def test_the_chunks_of_the_days_to_come_are_there_and_empty(
    dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any]
) -> None:
    await upkeep(pool).once()
    with psycopg.connect(dsn) as connection:
        for table, days in (
            ("reads", AHEAD_DAYS),
            ("events", 7),
            ("read_versions", 7),
            ("transformer_loads", 7),
            ("meter_days", 7),
        ):
            for ahead in (0, days):
                at = NOW + timedelta(days=ahead)
                found = connection.execute(
                    "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = %s"
                    " AND range_start <= %s AND range_end > %s",
                    (table, at, at),
                ).fetchone()
                assert found == (1,), (table, ahead)
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_reads_are_kept_for_ever_unless_told_otherwise(
    dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any]
) -> None:
    with psycopg.connect(dsn) as connection:
        read(connection, 4000)
    await upkeep(pool).once()
    with psycopg.connect(dsn) as connection:
        assert ages(connection, "reads", "end_at") == [4000]


async def test_nothing_that_may_still_be_sent_again_is_dropped(
    dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any]
) -> None:
    with psycopg.connect(dsn) as connection:
        for age in (1, LATE_DAYS, LATE_DAYS + 3):
            read(connection, age)
            batch(connection, age, age, evaluated=True)
    await upkeep(pool, reads_days=1, ledger_days=1).once()
    with psycopg.connect(dsn) as connection:
        assert ages(connection, "reads", "end_at") == [LATE_DAYS, 1]
        assert ages(connection, "batches", "received_at") == [LATE_DAYS, 1]


async def test_local_days_are_kept_as_long_as_told(dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
    with psycopg.connect(dsn) as connection:
        for age in (50, 500):
            connection.execute(
                "INSERT INTO meter_days (slot, day, start_at, day_s, import_wh, export_wh, present, expected,"
                " estimated, covered_s, complete, findings, tail_interval_s, tail_import_wh, tail_export_wh,"
                " tail_same_s, tail_loaded) VALUES (1, %s, %s, 86400, 0, 0, 0, 96, 0, 0, false, 0, 0, 0, 0, 0, 0)",
                ((NOW - timedelta(days=age)).date(), NOW - timedelta(days=age)),
            )
    await upkeep(pool).once()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM meter_days").fetchone() == (2,)
    await upkeep(pool, meter_days=100).once()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM meter_days").fetchone() == (1,)


async def test_a_batch_that_is_not_evaluated_stays_however_old(
    dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any]
) -> None:
    with psycopg.connect(dsn) as connection:
        batch(connection, 1, 500, evaluated=False)
        batch(connection, 2, 500, evaluated=True)
    await upkeep(pool, ledger_days=60).once()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT seq FROM batches").fetchall() == [(1,)]


async def test_the_alarm_log_loses_its_oldest_part_and_has_no_hole(
    dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any]
) -> None:
    with psycopg.connect(dsn) as connection:
        for seq, age, ended in ((1, 900, True), (2, 800, True), (3, 700, False), (4, 600, True), (5, 1, True)):
            alarm(connection, seq, age, ended)
    await upkeep(pool, alarms_days=400).once()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT alarm_id FROM alarms ORDER BY seq").fetchall() == [("A3",), ("A5",)]
        assert connection.execute("SELECT seq FROM alarm_log ORDER BY 1").fetchall() == [(3,), (4,), (5,)]


async def test_an_alarm_without_an_end_goes_when_it_concerns_nobody_and_is_old(
    dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any]
) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE alarms, alarm_log")
        for seq, age, state in ((1, 900, "NORMAL"), (2, 900, "RETRACTED"), (3, 900, "ACK_ACTIVE"), (4, 1, "NORMAL")):
            alarm(connection, seq, age, False)
            connection.execute("UPDATE alarms SET state = %s WHERE seq = %s", (state, seq))
    await upkeep(pool, alarms_days=400).once()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT alarm_id FROM alarms ORDER BY seq").fetchall() == [("A3",), ("A4",)]


async def test_what_was_told_of_an_alarm_goes_with_it(dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any]) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("TRUNCATE alarms, alarm_log")
        for seq, age, state in ((1, 900, "SENT"), (2, 1, "SENT"), (3, 900, "WAITING")):
            alarm(connection, seq, age, True)
            at = NOW - timedelta(days=age)
            connection.execute("INSERT INTO route_claims VALUES ('r', %s, %s, 0)", (f"A{seq}", at))
            connection.execute(
                "INSERT INTO notices (target, alarm_id, route, department, step, group_key, seq, state)"
                " VALUES ('t', %s, 'r', 'd', 0, '', %s, 'TOLD')",
                (f"A{seq}", seq),
            )
            connection.execute(
                "INSERT INTO deliveries (delivery_no, target, route, department, step, group_key, alarms, waiting,"
                " made_at, queued_at, next_try_at, state) VALUES (%s, 't', 'r', 'd', 0, '', 1, 0, %s, %s, %s, %s)",
                (seq, at, at, at, state),
            )
            connection.execute(
                "INSERT INTO delivery_alarms VALUES (%s, 0, %s, %s, 'NEW', NULL, true)", (seq, f"A{seq}", seq)
            )
    await upkeep(pool, alarms_days=400).once()
    with psycopg.connect(dsn) as connection:
        for table in ("route_claims", "notices", "delivery_alarms"):
            assert connection.execute(f"SELECT alarm_id FROM {table}".encode()).fetchall() == [("A2",)]
        assert connection.execute("SELECT delivery_no FROM deliveries ORDER BY 1").fetchall() == [(2,), (3,)]


async def test_a_locked_table_puts_upkeep_off_and_not_the_one_who_locked_it(
    dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.upkeep.LOCK_TIMEOUT", "50ms")
    with psycopg.connect(dsn) as connection:
        read(connection, 500)
    with psycopg.connect(dsn) as connection:
        connection.execute("LOCK TABLE reads IN ACCESS EXCLUSIVE MODE")
        await upkeep(pool, reads_days=100).once()
        assert ages(connection, "reads", "end_at") == [500]
    await upkeep(pool, reads_days=100).once()
    with psycopg.connect(dsn) as connection:
        assert ages(connection, "reads", "end_at") == []


async def test_old_reads_go_though_the_disk_has_no_room_for_new_chunks(
    dsn: str, pool: psycopg_pool.AsyncConnectionPool[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise psycopg.errors.DiskFull("could not extend file")

    monkeypatch.setattr(Upkeep, "_make_chunk", full)
    with psycopg.connect(dsn) as connection:
        read(connection, 500)
    with pytest.raises(psycopg.errors.DiskFull):
        await upkeep(pool, reads_days=100).once()
    with psycopg.connect(dsn) as connection:
        assert ages(connection, "reads", "end_at") == []
