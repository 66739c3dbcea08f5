"""The table of the audit log: what is in it stays, whoever asks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator

import psycopg
import psycopg_pool
import pytest

from meterwatch.access.trail import AuditRow, AuditWanted
from storage import audit_log
from storage.audit_log import AuditStore


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as open_one:
        yield open_one


async def wrote(dsn: str, *rows: AuditRow) -> None:
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False) as pool:
        await AuditStore(pool).write(rows)


async def listed(dsn: str, wanted: AuditWanted) -> list[str]:
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False) as pool:
        return [row.object for _, row in await AuditStore(pool).listed(wanted)]


def row(
    what: str, at_us: int, who: str = "anna", method: str = "Alarms/Act", outcome: str = "OK", call_id: int = 0
) -> AuditRow:
    return AuditRow(who, "certificate", method, what, outcome, "10.0.0.1", at_us, call_id=call_id)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET who = 'somebody else'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "INSERT INTO audit_log OVERRIDING SYSTEM VALUE SELECT * FROM audit_log ON CONFLICT (audit_no)"
        " DO UPDATE SET who = ''",
        "MERGE INTO audit_log a USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    ],
)
@pytest.mark.parametrize("table", ["audit_log", "audit_chain"])
@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_nothing_is_changed_or_deleted_even_by_the_owner(
    dsn: str, connection: psycopg.Connection, statement: str, role: str, table: str
) -> None:
    await wrote(dsn, row("kept", 1))
    if table == "audit_chain":
        statement = statement.replace("audit_log", table).replace("who = 'somebody else'", "hash = ''")
        statement = statement.replace("OVERRIDING SYSTEM VALUE ", "").replace("who = ''", "hash = ''")
    before = connection.execute("SELECT * FROM audit_log LEFT JOIN audit_chain USING (audit_no) ORDER BY 1").fetchall()
    connection.execute(f"SET session_replication_role = {role}")  # type: ignore[arg-type]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        connection.execute(statement)  # type: ignore[arg-type]
    assert before
    after = connection.execute("SELECT * FROM audit_log LEFT JOIN audit_chain USING (audit_no) ORDER BY 1").fetchall()
    assert after == before


async def test_rows_written_at_once_by_many_are_one_chain(dsn: str, connection: psycopg.Connection) -> None:
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=6, max_size=6, open=False) as pool:
        store = AuditStore(pool)
        await asyncio.gather(*(store.write([row(f"chain-{n}-{i}", n) for i in range(3)]) for n in range(40)))
    links = connection.execute(
        "SELECT a.audit_no, (extract(epoch FROM a.at) * 1000000)::bigint, a.who, a.how, a.method, a.object, a.outcome,"
        " a.peer, a.calls, a.call_id, c.hash FROM audit_chain c JOIN audit_log a USING (audit_no) ORDER BY c.link_no"
    ).fetchall()
    assert connection.execute("SELECT count(*) FROM audit_log").fetchone() == (len(links),)
    prior = b""
    for *values, told in links:  # PostgreSQL writes a comma and a space between elements, as json does
        prior = hashlib.sha256(prior + json.dumps(values, ensure_ascii=False).encode()).digest()
        assert prior == told


async def test_rows_are_found_by_what_is_wanted(dsn: str) -> None:
    base = 1_700_000_000_000_000
    await wrote(
        dsn,
        row("find-1", base, who="f1"),
        row("find-2", base + 1, who="f1", method="Registry/Import"),
        row("find-3", base + 2, who="f2", outcome="PERMISSION_DENIED ROLE_MISSING"),
        row("find-4", base + 3, who="f2", outcome="ADMITTED"),
    )

    def found(**wanted: object) -> AuditWanted:
        return AuditWanted(**({"object": "find-"} | wanted))  # type: ignore[arg-type]

    assert await listed(dsn, found()) == ["find-4", "find-3", "find-2", "find-1"]
    assert await listed(dsn, found(who="f1")) == ["find-2", "find-1"]
    assert await listed(dsn, found(method="Alarms")) == ["find-4", "find-3", "find-1"]
    assert await listed(dsn, found(method="Registry/Import")) == ["find-2"]
    assert await listed(dsn, found(refused=True)) == ["find-3"]
    assert await listed(dsn, found(from_us=base + 1, to_us=base + 3)) == ["find-3", "find-2"]
    assert await listed(dsn, found(limit=2)) == ["find-4", "find-3"]


async def test_pages_follow_one_another(dsn: str) -> None:
    await wrote(dsn, *(row(f"page-{i}", i) for i in range(7)))
    seen: list[str] = []
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False) as pool:
        before_no = 0
        while page := await AuditStore(pool).listed(AuditWanted(object="page-", limit=3, before_no=before_no)):
            seen += [one.object for _, one in page]
            before_no = page[-1][0]
    assert seen == [f"page-{i}" for i in range(6, -1, -1)]


async def test_a_list_has_one_row_of_a_change_and_a_start_says_interrupted_of_what_has_no_outcome(dsn: str) -> None:
    await wrote(
        dsn,
        row("two-done", 1, outcome="BEGUN", call_id=11),
        row("two-left", 2, outcome="BEGUN", call_id=12),
        row("two-refused", 3, outcome="BEGUN", call_id=13),
        row("two-done", 4, call_id=11),
        row("two-refused", 5, outcome="NOT_FOUND WORK_UNKNOWN", call_id=13),
    )

    async def outcomes(**wanted: object) -> list[tuple[str, str]]:
        async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False) as pool:
            found = await AuditStore(pool).listed(AuditWanted(object="two-", **wanted))  # type: ignore[arg-type]
        return [(one.object.removeprefix("two-"), one.outcome) for _, one in found]

    async def settled() -> int:
        async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False) as pool:
            return await AuditStore(pool).settle()

    refused, done = ("refused", "NOT_FOUND WORK_UNKNOWN"), ("done", "OK")
    assert await outcomes() == [refused, done, ("left", "BEGUN")]
    assert await outcomes(refused=True) == [refused]
    assert [await settled(), await settled()] == [1, 0]
    assert await outcomes() == [("left", "INTERRUPTED"), refused, done]
    assert await outcomes(refused=True) == [("left", "INTERRUPTED"), refused]


async def test_a_text_that_postgresql_cannot_store_does_not_lose_the_row(dsn: str) -> None:
    await wrote(dsn, row("nul\0here", 1, who="n"))
    assert await listed(dsn, AuditWanted(who="n")) == ["nulhere"]


async def test_a_start_looks_at_what_was_begun_since_the_last_one_and_at_no_more(dsn: str) -> None:
    """Under statistics of an empty table and under true ones; 40,000 changes are a month of a busy room."""
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False) as pool:
        store = AuditStore(pool)
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO audit_log (at, who, how, method, object, outcome, peer, calls, call_id)"
                " SELECT now(), '', 'local', 'Alarms/Act', 'mark-old', outcome, '', 1, 1000000 + call"
                " FROM generate_series(1, 40000) AS call, unnest(ARRAY['BEGUN', 'OK']) AS outcome ORDER BY call"
            )
        await store.settle()
        new = [row(f"mark-{i}", i, outcome="BEGUN", call_id=2_000_000 + i) for i in range(3)]
        await store.write([*new, row("mark-0", 9, call_id=2_000_000)])
        async with pool.connection() as connection:
            [(mark,)] = await (await connection.execute(audit_log._MARK)).fetchall()
            for known in (False, True):
                if known:
                    await connection.execute("ANALYZE audit_log")
                explained = f"EXPLAIN (ANALYZE, TIMING off) {audit_log._SETTLE}".encode()
                plan = await connection.execute(explained, (mark - audit_log.UNDER_WAY_MAX,))
                told = "\n".join(line for (line,) in await plan.fetchall())
                assert "audit_log_begun" in told, told
                assert "audit_log_call" in told, told
                rows = re.findall(r"actual rows=([\d.]+) loops=(\d+)", told)
                looked_at = sum(float(some) * int(loops) for some, loops in rows)
                assert 3 <= looked_at <= 4 * (audit_log.UNDER_WAY_MAX + 3), told
            await connection.rollback()
        assert await store.settle() == 2
        assert await store.settle() == 0
    assert await listed(dsn, AuditWanted(object="mark-", refused=True)) == ["mark-2", "mark-1"]


async def test_a_change_whose_number_was_given_out_before_the_mark_is_not_forgotten(dsn: str) -> None:
    """A service that lost its lease begins a change and commits when the next one has settled."""
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=2, open=False) as pool:
        store = AuditStore(pool)
        async with pool.connection() as late:
            query = "SELECT nextval(pg_get_serial_sequence('audit_log', 'audit_no'))"
            [(number,)] = await (await late.execute(query)).fetchall()
            await store.write([row("late-other", 1)])
            assert await store.settle() == 0
            await late.execute(
                "INSERT INTO audit_log (audit_no, at, who, how, method, object, outcome, peer, calls, call_id)"
                " OVERRIDING SYSTEM VALUE"
                " VALUES (%s, now(), '', 'local', 'Alarms/Act', 'late-one', 'BEGUN', '', 1, 3000000)",
                (number,),
            )
        assert await store.settle() == 1
    assert await listed(dsn, AuditWanted(object="late-one", refused=True)) == ["late-one"]
