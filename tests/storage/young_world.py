"""A grid of 5,000 meters whose tables are filled at one stroke, and three things PostgreSQL may know of them.

The rows come out of one number each, so that a table can be filled with a single row, have its statistics taken, and
then get all the others. Nothing here is sound (energies do not add up): it is there to be looked up.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Final

import psycopg
from psycopg import sql

from meterwatch.alarms import Alarm, AlarmState
from meterwatch.episodes import Severity
from storage.arrays import moment
from storage.registry_sql import MERGES, tables_of

DAY: Final = 20_454
DAY_US: Final = 86_400_000_000
START_US: Final = DAY * DAY_US
STEP_US: Final = 900_000_000
METERS, TRANSFORMERS, FEEDERS, DISTRICTS = 5_000, 500, 50, 10
CUSTOMERS: Final = METERS - TRANSFORMERS
"""Slots up to it are customers, the others measure a transformer each."""
ENDS: Final = 20
"""Interval ends that reads have, of the day."""
ALARMS: Final = 20_000
RECEIVED_US: Final = START_US + DAY_US
"""When something is written; all that is filled in was there before."""

_ALARM: Final = Alarm(
    "A", "OUTAGE", "transformer", 0, "T0", "F0", "D0", AlarmState.NORMAL, Severity.HIGH, "SUSTAINED", START_US,
    START_US, START_US, START_US, 1, 0, None, "out",
)  # fmt: skip
_SLOT: Final = f"n %% {METERS} + 1"
_TRANSFORMER: Final = f"n %% {TRANSFORMERS}"
_AT: Final = "%(start)s::timestamptz"
_DATE: Final = f"({_AT} AT TIME ZONE 'UTC')::date"

FILLED: Final[dict[str, tuple[int, str]]] = {
    "head_ends": (3, "(head_end_id, head_end) SELECT n, 'H' || n"),
    "feeders": (FEEDERS, f"(feeder_id, feeder, district) SELECT n, 'F' || n, 'D' || n %% {DISTRICTS}"),
    "transformers": (
        TRANSFORMERS,
        f"(transformer_id, transformer, rated_kva, district) SELECT n, 'T' || n, 400, 'D' || n %% {DISTRICTS}",
    ),
    "concentrators": (100, "(concentrator_id, concentrator, head_end_id) SELECT n, 'DC' || n, 0"),
    "meters": (METERS, "(slot, meter, installed_at) SELECT n + 1, 'M' || n + 1, '2020-01-01'"),
    "transformer_feeders": (
        TRANSFORMERS,
        f"(transformer_id, feeder_id, valid_from) SELECT n, n %% {FEEDERS}, '2020-01-01'",
    ),
    "meter_transformers": (METERS, f"(slot, transformer_id, valid_from) SELECT n + 1, {_TRANSFORMER}, '2020-01-01'"),
    "meter_links": (METERS, "(slot, concentrator_id, head_end_id, valid_from) SELECT n + 1, n %% 100, 0, '2020-01-01'"),
    "meter_registers": (METERS, "(slot, device, digits, valid_from) SELECT n + 1, 'X' || n, 6, '2020-01-01'"),
    "check_meters": (
        TRANSFORMERS,
        f"(slot, transformer_id, valid_from) SELECT n + 1 + {CUSTOMERS}, n, '2020-01-01'",
    ),
    "transformer_thermal_types": (
        TRANSFORMERS,
        "(transformer_id, thermal_type, valid_from) SELECT n, 'ONAN', '2020-01-01'",
    ),
    "read_stamps": (10_000, f"SELECT {_AT} + ({ENDS} - n) * interval '15 min'"),
    "reads": (
        METERS * ENDS,
        "(end_at, received_at, slot, interval_s, quality, version, import_wh)"
        f" SELECT {_AT} + (n / {METERS} + 1) * interval '15 min', %(received)s, {_SLOT}, 900, 0, 1, 5",
    ),
    "read_versions": (
        METERS * 4,
        "(end_at, received_at, superseded_at, slot, interval_s, quality, version, import_wh)"
        f" SELECT {_AT} + (n / {METERS} + 1) * interval '15 min', %(received)s, %(received)s, {_SLOT}, 900, 0, 0, 4",
    ),
    "read_edits": (
        METERS,
        "(action_id, slot, end_at, operator, reason, recorded_at, version, new)"
        f" SELECT 'E' || n, n + 1, {_AT} + interval '15 min', 'op', 'why', %(received)s, 1, '{{}}'",
    ),
    "events": (
        METERS * 10,
        "(at, received_at, slot, code)"
        f" SELECT {_AT} + n * interval '1 s', %(received)s + n * interval '1 us', {_SLOT}, n / {METERS} %% 3 + 1",
    ),
    "register_reads": (
        METERS * 5,
        "(at, received_at, slot, register, version, value_wh)"
        f" SELECT {_AT} - n / {METERS} * interval '1 day', %(received)s, {_SLOT}, 1, 1, 100 - n / {METERS}",
    ),
    "register_versions": (
        METERS * 4,
        "(at, received_at, superseded_at, slot, register, version, value_wh)"
        f" SELECT {_AT} - n / {METERS} * interval '1 day', %(received)s, %(received)s, {_SLOT}, 1, 1, 7",
    ),
    "register_days": (
        METERS * 6,
        "(day, slot, register, first_at, last_at, register_wh, interval_wh, mismatch)"
        f" SELECT {_DATE} - n / {METERS}, {_SLOT}, 1, %(received)s, %(received)s, 1, 1, false",
    ),
    "meter_days": (
        METERS * 8,
        "(day, slot, start_at, day_s, import_wh, export_wh, present, expected, estimated, covered_s, complete,"
        " findings, tail_interval_s, tail_import_wh, tail_export_wh, tail_same_s, tail_loaded)"
        f" SELECT {_DATE} - n / {METERS}, {_SLOT}, {_AT} - n / {METERS} * interval '1 day', 86400, 1, 0, 96, 96, 0,"
        " 86000, true, 0, 900, 1, 0, 0, 0",
    ),
    "meter_days_owed": (METERS * 4, f"(day, slot) SELECT {_DATE} - n / {METERS}, {_SLOT}"),
    "estimates_owed": (METERS * 4, f"(day, slot) SELECT {_DATE} - n / {METERS}, {_SLOT}"),
    "meter_clocks": (METERS, f"(slot, day, lag_s, samples) SELECT n + 1, {_DATE}, 0, 9"),
    "transformer_loads": (
        TRANSFORMERS * 96,
        "(transformer_id, window_end, wh, varh, covered_weight_s, expected_weight_s)"
        f" SELECT {_TRANSFORMER}, {_AT} + (n / {TRANSFORMERS} - 47) * interval '15 min', 1, 1, 1, 1",
    ),
    "transformer_load_estimates": (
        TRANSFORMERS * 96,
        "(transformer_id, window_end, wh, estimated_weight_s, expected_weight_s)"
        f" SELECT {_TRANSFORMER}, {_AT} + (n / {TRANSFORMERS} - 47) * interval '15 min', 1, 1, 1",
    ),
    "transformer_loads_dirty": (METERS * 4, f"(transformer_id, from_at) SELECT {_TRANSFORMER}, {_AT}"),
    "transformer_loads_owed": (
        METERS * 4,
        f"(batch_id, first_end, last_end, received_at, counted) SELECT n + 1000000, {_AT}, {_AT}, %(received)s, true",
    ),
    "transformer_members": (TRANSFORMERS, "(transformer_id, digest) SELECT n, n"),
    "transformer_days": (
        TRANSFORMERS * 28,
        "(day, transformer_id, supply_wh, sales_wh, members, supply_coverage, sales_coverage, loss_share, imbalance)"
        f" SELECT {_DATE} - n / {TRANSFORMERS}, {_TRANSFORMER}, 1, 1, 9, 1, 1, 0, false",
    ),
    "transformer_forecasts": (
        TRANSFORMERS,
        "(transformer_id, made_at, first_end, step_s, forecaster, paths, p10, p50, p90, p_over, p_hot, hot_spot_c,"
        f" overload_chance) SELECT n, {_AT}, {_AT}, 900, 0, 9, '{{1}}', '{{1}}', '{{1}}', '{{1}}', '{{1}}', '{{1}}', 0",
    ),
    "interruptions": (
        METERS * 4,
        f"(slot, from_at, to_at) SELECT {_SLOT}, {_AT} - n / {METERS} * interval '1 h', {_AT}",
    ),
    "interruptions_owed": (METERS * 4, f"(asset_kind, asset_id, from_at) SELECT 'meter', {_SLOT}, {_AT}"),
    "batches": (
        METERS * 4,
        "(head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions, duplicates, rejected,"
        f" first_end, last_end, received_at, evaluated) SELECT 0, 1, 1, n, '', '', 0, 0, 0, 0, 0, {_AT}, {_AT},"
        " %(received)s + n * interval '1 ms', true",
    ),
    "alarms": (
        ALARMS,
        "(alarm_id, rule, asset_kind, asset_id, asset, feeder, district, state, severity, level, onset_at, raised_at,"
        " cleared_at, recorded_at, version, seq, parent_id, summary, evidence) SELECT 'A' || n, 'OUTAGE',"
        f" 'transformer', {_TRANSFORMER}, 'T' || {_TRANSFORMER}, 'F' || n %% {FEEDERS}, 'D' || n %% {DISTRICTS},"
        f" 'NORMAL', 3, 'SUSTAINED', {_AT} - n * interval '1 min', {_AT}, {_AT} - n * interval '1 min',"
        f" {_AT} - n * interval '1 s', 2, 2 * n + 2, 'A' || n / 10, '', '{{\"labels\": {{\"crew\": \"7\"}}}}'",
    ),
    "alarm_log": (
        2 * ALARMS,
        "(seq, alarm_id, version, kind, recorded_at, alarm) SELECT n + 1, 'A' || n / 2, n %% 2 + 1, 'RAISED',"
        f" {_AT} + n * interval '1 s', %(alarm)s::jsonb || jsonb_build_object('alarm_id', 'A' || n / 2, 'version',"
        f" n %% 2 + 1, 'seq', n + 1, 'district', 'D' || n / 2 %% {DISTRICTS})",
    ),
    "alarm_pages": (
        ALARMS,
        "(seq, recorded_at, rule, asset_kind, asset) SELECT 2 * n + 1,"
        f" {_AT} + 2 * n * interval '1 s', 'OUTAGE', 'transformer', 'T' || {_TRANSFORMER}",
    ),
    "alarm_actions": (
        ALARMS,
        "(action_id, alarm_id, kind, operator, note, recorded_at, seq) SELECT 'X' || n, 'A' || n, 'COMMENTED', 'op',"
        f" '', {_AT} - n * interval '1 s', 2 * n + 2",
    ),
    "asset_shelves": (
        METERS,
        "(action_id, rule, asset_kind, asset, shelve_s, until_at, operator, reason, recorded_at) SELECT 'S' || n,"
        f" 'OUTAGE', 'transformer', 'T' || n, 9, {_AT}, 'op', '', {_AT} - n * interval '1 min'",
    ),
    "notices": (
        ALARMS,
        "(target, alarm_id, route, department, step, group_key, seq, state) SELECT 'crew', 'A' || n, 'r', 'd', 0, 'g',"
        " 2 * n + 2, CASE WHEN n %% 100 = 0 THEN 'OPEN' ELSE 'TOLD' END",
    ),
    "deliveries": (
        ALARMS,
        "(delivery_no, target, route, department, step, group_key, alarms, waiting, made_at, queued_at, state,"
        f" next_try_at) SELECT n + 1, 'crew', 'r', 'd', 0, 'g', 1, 0, {_AT}, {_AT},"
        f" CASE WHEN n %% 1000 = 0 THEN 'WAITING' ELSE 'SENT' END, {_AT}",
    ),
    "delivery_alarms": (
        ALARMS,
        "(delivery_no, position, alarm_id, seq, change, shown) SELECT n + 1, 0, 'A' || n, 2 * n + 2, 'RAISED', true",
    ),
    "subscriber_receipts": (
        ALARMS,
        f"(receipt_no, subscriber, seqs, sent_at, received_at) SELECT n + 1, 'desk', ARRAY[2 * n + 2], {_AT}, {_AT}",
    ),
    "audit_log": (
        ALARMS,
        "(at, who, how, method, object, outcome, peer, calls, call_id)"
        f" SELECT {_AT}, 'op', 'LOCAL', 'm', 'o', 'OK', '', 1, n + 1",
    ),
    "ambient_readings": (
        20_000,
        f"(area, at, celsius, recorded_at) SELECT 'D' || n %% 100, {_AT} + n / 100 * interval '1 h', 9, {_AT}",
    ),
    "ambient_forecasts": (
        20_000,
        f"(area, at, celsius, recorded_at) SELECT 'D' || n %% 100, {_AT} + n / 100 * interval '1 h', 9, {_AT}",
    ),
    "customer_flexibility": (
        METERS * 4,
        "(slot, valid_from, protected, shift_kw, avoid_kw)"
        f" SELECT {_SLOT}, {_AT} - n / {METERS} * interval '1 day', false, 1, 1",
    ),
    "planned_works": (
        METERS,
        "(work_id, asset_kind, asset_id, from_at, to_at, reason, planned_by, recorded_at)"
        f" SELECT 'W' || n, (ARRAY['meter', 'transformer', 'feeder'])[n %% 3 + 1], n %% {FEEDERS},"
        f" {_AT} - n * interval '1 h', {_AT} - n * interval '1 h' + interval '30 min', '', '', {_AT}",
    ),
}
"""Table -> how many rows, and what one is made of its number n."""


class Statistics(StrEnum):
    """What PostgreSQL knows of the tables, in the order in which a young database goes through them."""

    OF_ONE_ROW = "of one row"
    NONE = "none"
    TAKEN = "taken"


def fill(dsn: str) -> None:
    """All tables, with statistics OF_ONE_ROW; nobody else takes any."""
    with psycopg.connect(dsn, autocommit=True, options="-c TimeZone=UTC") as connection:
        connection.execute("SET session_replication_role = replica")  # keys are as they must be
        _rows(connection, 0, 0)
        connection.execute(
            "DO $$ DECLARE one regclass; BEGIN FOR one IN SELECT oid FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace IN ('public'::regnamespace, '_timescaledb_internal'::regnamespace) LOOP"
            " EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', one); END LOOP; END $$"
        )
        connection.execute("ANALYZE")
        _rows(connection, 1, None)
        connection.execute("INSERT INTO reader_districts SELECT session_user, 'D3'")
        connection.execute("UPDATE alarm_cursor SET seq = %s", (2 * ALARMS,))
        connection.execute("UPDATE batches SET evaluated = false WHERE seq %% 500 = 0 AND kind = %s", (1,))


def know(dsn: str, statistics: Statistics) -> None:
    """Give a filled database these statistics, and those of the registry, which an import takes."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        if statistics is Statistics.NONE:
            young = (
                "c.relkind = 'r' AND relnamespace IN ('public'::regnamespace, '_timescaledb_internal'::regnamespace)"
            )
            connection.execute(f"DELETE FROM pg_statistic s USING pg_class c WHERE c.oid = s.starelid AND {young}")
            connection.execute(
                "UPDATE pg_class c SET reltuples = -1, relpages = 0, relallvisible = 0"
                " WHERE c.relkind IN ('r', 'i')"
                " AND relnamespace IN ('public'::regnamespace, '_timescaledb_internal'::regnamespace)"
            )
        elif statistics is Statistics.TAKEN:
            connection.execute("ANALYZE")
        registry = map(sql.Identifier, tables_of(MERGES))
        connection.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(registry)))


def _rows(connection: psycopg.Connection[Any], first: int, last: int | None) -> None:
    given = {"start": moment(START_US), "received": moment(START_US), "alarm": json.dumps(_ALARM.to_json())}
    for table, (rows, what) in FILLED.items():
        query = sql.SQL("INSERT INTO {} ").format(sql.Identifier(table)) + sql.SQL(
            what + " FROM generate_series(%(first)s::integer, %(last)s::integer) AS n"
        )
        connection.execute(query, given | {"first": first, "last": rows - 1 if last is None else last})
