"""meterwatch doctor --deep: a sound database passes, and each damage done to it by hand is named.

One service lives through a day and a half of the torture's town, with corrections, events, registers and bad rows; the
damages are done in a transaction that is rolled back, and the invariants are asked inside it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import psycopg
import pytest
from service_process import ServiceProcess, until
from typer.testing import CliRunner

from meterwatch.cli import app
from meterwatch.client import HeadEnd, import_registry
from meterwatch.clock import US
from meterwatch.devtools.torture.town import HEAD_ENDS, METER, METERS, START_US, STEP_S, Reads, Town, end_us, registry
from meterwatch.soundness import NAMES, Verdict, inspect
from rules.profile import RuleProfile
from storage.layout import Layout
from storage.lease import KEY
from storage.migrate import migrate
from storage.sound import EARLIEST, FOUND_MAX, Inspected, Span, inspected
from storage.upkeep import Retention

STEPS = 132
"""33 hours: the first local day is over and judged."""
SEED = 4
ROUTES = """
INSERT INTO route_cursor (seq, next_delivery_no) SELECT seq, 2 FROM alarm_cursor;
INSERT INTO deliveries (delivery_no, target, route, department, step, group_key, alarms, waiting, made_at, queued_at,
                        next_try_at) VALUES (1, 't', 'r', 'd', 0, '', 1, 0, now(), now(), now());
INSERT INTO delivery_alarms SELECT 1, 0, alarm_id, seq, 'RAISED', NULL, true FROM alarm_log WHERE seq = 1;
INSERT INTO subscriber_receipts VALUES (1, 's', '{1,2}', now(), now());
INSERT INTO alarm_actions (action_id, alarm_id, kind, operator, note, recorded_at, seq)
    SELECT 'a-1', alarm_id, kind, 'o', '', now(), seq FROM alarm_log WHERE seq = 1;
"""
"""What no part of this run makes by itself."""


def send(head_end: HeadEnd, reads: Reads | None) -> None:
    if reads is None or not len(reads.meter):
        return
    rows = len(reads.meter)
    head_end.send_columns(
        METER, reads.meter.astype(np.uint32), np.full(rows, end_us(reads.step), np.int64), STEP_S,
        import_wh=reads.import_wh, voltage_a_v=reads.voltage_v, mask=np.full(rows, 0b0010001, np.uint32),
    )  # fmt: skip


def live(address: str) -> None:
    """The town's steps; some rows nobody knows; registers, one of them corrected."""
    town = Town(SEED)
    with HeadEnd(address, HEAD_ENDS[0], 1, batch_rows=500) as first, HeadEnd(address, HEAD_ENDS[1], 1) as second:
        for step in range(STEPS):
            for number, head_end in enumerate((first, second)):
                events = town.events(number, step)
                if events is not None:
                    head_end.flush()
                    head_end.send_events([METER[i] for i in events.meter.tolist()], events.at_us, events.code)
                send(head_end, town.reads(number, step))
                send(head_end, town.again(number, step))
            if step % 8 == 7:
                first.flush()
                second.flush()
        first.send_columns(["nobody"], [0], [end_us(STEPS)], STEP_S, import_wh=[1])
        noon = [end_us(48)]
        for value in (1_000, 2_000):
            first.send_registers([METER[0]], noon, [value])


@pytest.fixture(scope="module")
def lived(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service, alive, after all of it."""
    start = datetime.fromtimestamp(START_US // US, UTC)
    with ServiceProcess(dsn, start, tmp_path_factory.mktemp("sound") / "service.log") as process:
        process.start()
        answer = import_registry(process.address, registry())
        assert not answer.error, answer.error
        live(process.address)
        with psycopg.connect(dsn, autocommit=True) as connection:

            def counted(query: bytes) -> int:
                row = connection.execute(query).fetchone()
                assert row is not None
                return int(row[0])

            until(lambda: counted(b"SELECT count(*) FROM meter_days") >= METERS, "the first day is judged")
            until(lambda: not counted(b"SELECT count(*) FROM meter_days_owed"), "nothing of it is to be judged again")
            until(lambda: not counted(b"SELECT count(*) FROM interruptions_owed"), "interruptions are written")
            connection.execute(ROUTES.encode())
        yield process


async def verdicts_of(dsn: str, profile: RuleProfile | None = None, span: Span | None = None) -> dict[str, Verdict]:
    async with inspected(dsn, Retention(), span) as db:
        return {verdict.invariant: verdict async for verdict in inspect(db, profile or RuleProfile())}


async def test_a_database_that_lived_through_a_day_is_sound_beside_its_service(lived: ServiceProcess, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for table in ("read_versions", "events", "quarantine", "register_versions", "alarm_log", "alarm_pages",
                      "interruptions", "meter_days", "transformer_loads"):  # fmt: skip
            assert connection.execute(f"SELECT count(*) > 0 FROM {table}".encode()).fetchone() == (True,), table
    verdicts = await verdicts_of(dsn)
    assert tuple(verdicts) == NAMES
    assert {name: verdict.found for name, verdict in verdicts.items() if verdict.found} == {}
    assert all(verdict.law.endswith(".") for verdict in verdicts.values())


ONE = "(slot, end_at) = (SELECT slot, end_at FROM reads ORDER BY end_at, slot LIMIT 1)"
CORRECTED = "(slot, end_at) = (SELECT slot, end_at FROM read_versions WHERE version = 1 ORDER BY end_at, slot LIMIT 1)"
NEWEST = "seq = (SELECT max(seq) FROM alarm_log)"
BY_OWNER = "ALTER TABLE audit_log DISABLE TRIGGER USER; ALTER TABLE audit_chain DISABLE TRIGGER USER; "
SECOND = "(SELECT audit_no FROM audit_chain WHERE link_no = 2)"


class Damage(NamedTuple):
    """Statements, and words of the finding that must come of them."""

    invariant: str
    sql: str
    said: str


ALARM = "alarm_id = (SELECT min(alarm_id) FROM alarms)"
DAY = "slot = (SELECT min(slot) FROM meter_days)"
DAMAGES = (
    Damage("stored_reads_are_accounted_for", f"DELETE FROM reads WHERE {ONE}", "batches of reads received at"),
    Damage("stored_reads_are_accounted_for", f"DELETE FROM read_versions WHERE {CORRECTED}", "reads received"),
    Damage("reads_come_from_batches", f"UPDATE reads SET received_at = received_at + interval '1 s' WHERE {ONE}",
           "their batch in the ledger"),
    Damage("stored_events_are_accounted_for", "DELETE FROM events WHERE at = (SELECT min(at) FROM events)", "events"),
    Damage("stored_events_are_accounted_for", "INSERT INTO events SELECT at, received_at + interval '1 s', slot, 9"
           " FROM events LIMIT 1", "1 rows"),
    Damage("stored_registers_are_accounted_for", "DELETE FROM register_versions", "register reads received at"),
    Damage("rejected_rows_are_in_quarantine", "DELETE FROM quarantine", "0 rows in quarantine"),
    Damage("rejected_rows_are_in_quarantine", "UPDATE batches SET answer = '' WHERE rejected > 0", "0 in its answer"),
    Damage("stored_batches_are_evaluated", "INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer,"
           " rows_sent, accepted, versions, duplicates, rejected, received_at, evaluated) SELECT 1, 1, 9, i, '', '', 1,"
           " 0, 0, 1, 0, (SELECT max(received_at) FROM batches), i > 1 FROM generate_series(1, 150) AS i",
           "batch 1 of head-end 1, kind 1, epoch 9"),
    Damage("a_read_exists_once", f"DROP INDEX reads_end_slot; INSERT INTO reads SELECT * FROM reads WHERE {ONE}",
           "2 rows"),
    Damage("a_read_exists_once", "DROP INDEX reads_end_slot", "index reads_end_slot"),
    Damage("reads_have_their_stamp", "DELETE FROM read_stamps WHERE end_at = (SELECT max(end_at) FROM reads)",
           "no row in read_stamps"),
    Damage("versions_stand_in_a_line", f"UPDATE reads SET version = 3 WHERE {CORRECTED}", "version 3 follows 1"),
    Damage("versions_stand_in_a_line", f"DELETE FROM reads WHERE {CORRECTED}", "the last one and not current"),
    Damage("versions_stand_in_a_line", f"UPDATE read_versions SET superseded_at = superseded_at + interval '1 s'"
           f" WHERE {CORRECTED}", "the one before it ended"),
    Damage("cursors_have_no_gap", "DELETE FROM alarm_log WHERE seq = 2", "cursor 3"),
    Damage("cursors_have_no_gap", f"DELETE FROM alarm_log WHERE {NEWEST}", "alarm_cursor"),
    Damage("cursors_have_no_gap", "DELETE FROM alarm_log WHERE seq = 1", "begins with cursor 2"),
    Damage("versions_of_an_alarm_have_no_gap", "UPDATE alarm_log SET version = version + 1 WHERE (alarm_id, version) IN"
           " (SELECT alarm_id, max(version) FROM alarm_log GROUP BY 1 LIMIT 1)", "in alarm_log"),
    Damage("alarms_are_their_last_transition", "UPDATE alarms SET severity = severity % 4 + 1, summary = 'x'"
           " WHERE alarm_id = (SELECT min(alarm_id) FROM alarms)", "another severity, summary"),
    Damage("alarms_are_their_last_transition", "UPDATE alarms SET onset_at = onset_at + interval '1 us'"
           " WHERE alarm_id = (SELECT min(alarm_id) FROM alarms)", "another onset_us"),
    Damage("alarms_are_their_last_transition", f"DELETE FROM alarms WHERE {ALARM}",
           "not in alarms"),
    Damage("alarms_are_their_last_transition", f"DELETE FROM alarm_log WHERE {ALARM}",
           "not in alarm_log"),
    Damage("an_episode_has_one_alarm", "INSERT INTO alarms SELECT (c).* FROM (SELECT jsonb_populate_record(alarms,"
           " '{\"alarm_id\": \"X\"}') AS c FROM alarms WHERE state <> 'RETRACTED' LIMIT 1) AS copy", "X"),
    Damage("pages_follow_from_the_log", "DELETE FROM alarm_pages WHERE seq = (SELECT min(seq) FROM alarm_pages)",
           "missing"),
    Damage("pages_follow_from_the_log", "INSERT INTO alarm_pages SELECT * FROM alarm_pages LIMIT 1", "doubled"),
    Damage("actions_are_in_the_log", "UPDATE alarm_actions SET seq = 2", "is"),
    Damage("parents_are_there", f"UPDATE alarms SET parent_id = 'gone' WHERE {ALARM}",
           "folded into gone"),
    Damage("deliveries_follow_from_the_log", "DELETE FROM delivery_alarms", "0 in delivery_alarms"),
    Damage("deliveries_follow_from_the_log", "UPDATE route_cursor SET seq = seq + 1", "route_cursor at"),
    Damage("deliveries_follow_from_the_log", "UPDATE deliveries SET delivery_no = 7", "next_delivery_no 2"),
    Damage("receipts_are_of_the_log", "UPDATE subscriber_receipts SET seqs = '{1,999999}'", "cursor 999999"),
    Damage("loads_are_sums_of_reads", "UPDATE transformer_loads SET wh = wh + 1 WHERE (transformer_id, window_end) ="
           " (SELECT transformer_id, window_end FROM transformer_loads ORDER BY 2, 1 LIMIT 1)",
           "transformer_loads of X-"),
    Damage("loads_are_sums_of_reads", f"DELETE FROM reads WHERE {ONE}", "transformer_loads of X-"),
    Damage("loads_are_sums_of_reads", "DELETE FROM transformer_loads WHERE window_end = (SELECT max(window_end) -"
           " interval '1 hour' FROM transformer_loads)", "0 Wh"),
    Damage("loads_owed_belong_to_a_batch", "INSERT INTO transformer_loads_owed VALUES (999999, now(), now(), now(),"
           " true)", "no such batch"),
    Damage("loads_owed_belong_to_a_batch", "INSERT INTO transformer_loads_owed SELECT batch_id,"
           " first_end - interval '1 s', last_end, received_at FROM batches WHERE kind = 1 AND last_end IS NOT NULL"
           " LIMIT 1", "another span"),
    Damage("meter_days_are_sums_of_reads", "UPDATE meter_days SET import_wh = import_wh + 1 WHERE slot ="
           " (SELECT min(slot) FROM meter_days)", "meter_days of meter slot"),
    Damage("meter_days_are_sums_of_reads", f"DELETE FROM reads WHERE {ONE}", "present, import_wh"),
    Damage("meter_days_are_sums_of_reads", "UPDATE meter_days SET expected = present - 1 WHERE slot ="
           " (SELECT min(slot) FROM meter_days)", "meter_days of meter slot"),
    Damage("meters_are_registered", f"UPDATE reads SET slot = 999999 WHERE {ONE}", "reads, slot 999999"),
    Damage("meters_are_registered", f"UPDATE meter_days SET slot = 999999 WHERE {DAY}",
           "meter_days, slot 999999"),
    Damage("meters_are_registered", "INSERT INTO estimates_owed (day, slot) VALUES ('2026-01-01', 999999)",
           "estimates_owed, slot 999999"),
    Damage("transformers_are_registered", "INSERT INTO transformer_loads_dirty (transformer_id, from_at)"
           " VALUES (999999, now())", "transformer_loads_dirty, transformer_id 999999"),
    Damage("memberships_do_not_overlap", "INSERT INTO meter_transformers SELECT slot, transformer_id, valid_from"
           " + interval '1 day' FROM meter_transformers LIMIT 1", "meter_transformers of slot"),
    Damage("interruptions_do_not_overlap", "INSERT INTO interruptions SELECT slot, from_at + interval '1 s', NULL"
           " FROM interruptions WHERE to_at > from_at + interval '1 min' LIMIT 1", "interruptions of meter slot"),
    Damage("changes_are_on_record_before_and_after", "INSERT INTO audit_log (at, who, how, method, object, outcome,"
           " peer, calls, call_id) VALUES (now() - interval '2 hours', 'k', 'local', 'A/B', 'x', 'BEGUN', '', 1, 7)",
           "BEGUN, and no outcome"),
    Damage("changes_are_on_record_before_and_after", "INSERT INTO audit_log (at, who, how, method, object, outcome,"
           " peer, calls, call_id) VALUES (now(), 'k', 'local', 'Alarms/Act', 'x', 'OK', '', 1, 8)",
           "OK, and no row BEGUN"),
    Damage("the_audit_log_is_a_chain", f"{BY_OWNER} UPDATE audit_log SET who = 'k' WHERE audit_no = {SECOND}",
           "another row than was written"),
    Damage("the_audit_log_is_a_chain", f"{BY_OWNER} DELETE FROM audit_log WHERE audit_no = {SECOND}",
           "the row is gone"),
    Damage("the_audit_log_is_a_chain", f"{BY_OWNER} DELETE FROM audit_log WHERE audit_no = {SECOND};"
           " DELETE FROM audit_chain WHERE link_no = 2", "another row than was written"),
    Damage("the_audit_log_is_a_chain", f"{BY_OWNER} INSERT INTO audit_log (at, who, how, method, object, outcome, peer,"
           " calls) VALUES (now(), 'k', 'local', 'A/B', 'x', 'OK', '', 1)", "no link in audit_chain"),
)  # fmt: skip


class Damaged(Inspected):
    """A database as one open transaction sees it."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        yield self.connection


def test_every_invariant_has_a_damage_that_shows_it() -> None:
    assert {damage.invariant for damage in DAMAGES} == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("damage", DAMAGES, ids=[f"{i}-{damage.invariant}" for i, damage in enumerate(DAMAGES)])
async def test_each_damage_is_named(lived: ServiceProcess, dsn: str, damage: Damage) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, options="-c TimeZone=UTC") as connection:
        done = await connection.execute(damage.sql.encode())
        assert done.rowcount != 0, "the damage hit nothing"
        db = Damaged(dsn, connection, "", Span(), Retention(), Layout.ROWSTORE, 0.0)
        [verdict] = [one async for one in inspect(db, RuleProfile(), [damage.invariant])]
        await connection.rollback()
    assert any(damage.said in " ".join(one) for one in verdict.found), verdict.found
    assert all(all(one) for one in verdict.found), "every finding has an object, what was found and expected, a remedy"


async def test_a_thousand_findings_are_twenty_and_a_word(lived: ServiceProcess, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, options="-c TimeZone=UTC") as connection:
        await connection.execute("UPDATE meter_days SET import_wh = import_wh + 1")
        db = Damaged(dsn, connection, "", Span(), Retention(), Layout.ROWSTORE, 0.0)
        [verdict] = [one async for one in inspect(db, RuleProfile(), ["meter_days_are_sums_of_reads"])]
        await connection.rollback()
    assert (len(verdict.found), verdict.more) == (FOUND_MAX, True)


async def test_what_the_service_still_owes_is_not_unsound(lived: ServiceProcess, dsn: str) -> None:
    """The same differences, with the marks of those who will put them right."""
    async with await psycopg.AsyncConnection.connect(dsn, options="-c TimeZone=UTC") as connection:
        for statement in (
            "UPDATE meter_days SET import_wh = import_wh + 1 WHERE slot = 3",
            "INSERT INTO meter_days_owed (day, slot) SELECT day, slot FROM meter_days WHERE slot = 3",
            "UPDATE transformer_loads SET wh = wh + 1 WHERE transformer_id = 2",
            "INSERT INTO transformer_loads_dirty (transformer_id, from_at) VALUES (2, '2025-12-31')",
        ):
            await connection.execute(statement.encode())
        db = Damaged(dsn, connection, "", Span(), Retention(), Layout.ROWSTORE, 0.0)
        names = ["meter_days_are_sums_of_reads", "loads_are_sums_of_reads"]
        assert [one.found async for one in inspect(db, RuleProfile(), names)] == [[], []]
        await connection.rollback()


async def test_a_load_of_twenty_years_ago_is_named_and_the_years_between_are_not_walked(
    lived: ServiceProcess, dsn: str
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, options="-c TimeZone=UTC") as connection:
        await connection.execute("CREATE TEMP TABLE lone AS SELECT * FROM transformer_loads LIMIT 1")
        await connection.execute("UPDATE lone SET window_end = window_end - interval '20 years', wh = 77")
        await connection.execute("INSERT INTO transformer_loads SELECT * FROM lone")
        db = Damaged(dsn, connection, "", Span(), Retention(), Layout.ROWSTORE, 0.0)
        parts: list[int] = []
        db.progress = lambda done, of: parts.append(of)
        [verdict] = [one async for one in inspect(db, RuleProfile(), ["loads_are_sums_of_reads"])]
        await connection.rollback()
    assert [one.found for one in verdict.found] == ["77 Wh"]
    assert len(parts) == parts[0] <= STEPS * STEP_S // (6 * 3600) + 6


async def test_a_span_leaves_out_what_is_outside(lived: ServiceProcess, dsn: str) -> None:
    noon = datetime.fromtimestamp(end_us(48) // US, UTC)
    with psycopg.connect(dsn, autocommit=True) as connection:
        [(slot, end_at)] = connection.execute(
            "UPDATE reads SET slot = 999999 WHERE (slot, end_at) = (SELECT slot, end_at FROM reads WHERE end_at > %s"
            " ORDER BY end_at, slot LIMIT 1) RETURNING (SELECT slot FROM reads WHERE end_at > %s ORDER BY end_at, slot"
            " LIMIT 1), end_at", (noon, noon),
        ).fetchall()  # fmt: skip
        try:
            before, after = await verdicts_of(dsn, span=Span(EARLIEST, noon)), await verdicts_of(dsn, span=Span(noon))
        finally:
            connection.execute("UPDATE reads SET slot = %s WHERE slot = 999999 AND end_at = %s", (slot, end_at))
    assert not before["meters_are_registered"].found
    assert after["meters_are_registered"].found


async def test_a_batch_that_a_running_service_leaves_is_named_and_one_that_waits_for_a_start_is_not(
    cluster: Any, dsn: str, lived: ServiceProcess
) -> None:
    name = "sound_left"
    cluster.create_database(name)
    try:
        left = cluster.dsn_of(name)
        migrate(left)
        with psycopg.connect(left, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions,"
                " duplicates, rejected, received_at) VALUES (1, 1, 1, 1, '', '', 1, 0, 0, 1, 0, now())"
            )
            found = {}
            for serving in (False, True):
                if serving:
                    connection.execute("SELECT pg_advisory_lock(%s)", (KEY,))
                async with inspected(left, Retention(), patience_s=0.0) as db:
                    [verdict] = [one async for one in inspect(db, RuleProfile(), ["stored_batches_are_evaluated"])]
                found[serving] = len(verdict.found)
        assert found == {False: 0, True: 1}
    finally:
        cluster.drop_database(name)


async def test_nothing_is_written_and_no_table_stays_locked(lived: ServiceProcess, dsn: str) -> None:
    async with inspected(dsn, Retention()) as db:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await db.find("DELETE FROM read_stamps RETURNING end_at")
        async for _ in inspect(db, RuleProfile(), ["meters_are_registered"]):
            pass
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '1ms'")
            with connection.transaction(force_rollback=True):
                connection.execute("LOCK TABLE reads IN ACCESS EXCLUSIVE MODE")


def test_the_command_says_what_it_found_and_leaves_with_a_code(
    lived: ServiceProcess, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERWATCH_DATABASE__URL", dsn)
    runner = CliRunner()
    told = runner.invoke(app, ["doctor", "--deep", "--since", "2026-01-01", "--until", "2026-01-03"])
    assert (told.exit_code, told.stdout.splitlines()[-1]) == (0, f"sound: {len(NAMES)} laws hold"), told.stdout
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE alarm_cursor SET seq = seq + 1")
        try:
            told = runner.invoke(app, ["doctor", "--deep"])
            asked = runner.invoke(app, ["doctor", "--deep", "--json"])
        finally:
            connection.execute("UPDATE alarm_cursor SET seq = seq - 1")
    assert (told.exit_code, asked.exit_code) == (1, 1)
    assert "UNSOUND cursors_have_no_gap" in told.stdout
    assert "what to do: " in told.stdout
    report = json.loads(asked.stdout)
    broken = {one["invariant"]: one["found"][0]["what"] for one in report["invariants"] if one["found"]}
    assert (report["sound"], broken["cursors_have_no_gap"]) == (False, "alarm_cursor")
