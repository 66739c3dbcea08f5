"""Laws of the alarm tables, on a real database."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import psycopg_pool
import pytest

from meterwatch.alarms import Action, Alarm, AlarmFilter, AlarmState, Draft, Pages, TransitionKind
from meterwatch.episodes import Severity, Verdict
from meterwatch.errors import StorageUnavailable
from storage import alarms
from storage.alarms import AlarmStore

NOW_US = 1_700_000_000_123_457
RAISED = TransitionKind.RAISED
WINDOW_US = 600_000_000


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[AlarmStore]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("TRUNCATE alarms, alarm_log, alarm_actions, alarm_pages, batches")
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=8, open=False) as pool:
        yield AlarmStore(pool)


def alarm(alarm_id: str, **changes: object) -> Alarm:
    evidence = {"affected": 3, "share": float("nan")}
    made = Alarm(
        alarm_id, "OUTAGE", "transformer", 0, "T0", "F0", "North", AlarmState.UNACK_ACTIVE, Severity.HIGH, "SUSTAINED",
        NOW_US - 60, NOW_US - 30, None, NOW_US, 1, 0, None, "out", evidence,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


async def test_what_was_committed_comes_back_to_the_microsecond(store: AlarmStore) -> None:
    draft = Draft(RAISED, alarm("A"))
    (seq,) = await store.commit([draft], [], now_us=NOW_US)
    expected = alarm("A", seq=seq, evidence={"affected": 3, "share": None})
    assert await store.load_open_and_recent(NOW_US) == [expected]
    (logged,) = await store.log_after(seq - 1, 10)
    assert (logged.seq, logged.kind, logged.alarm, logged.recorded_us) == (seq, "RAISED", expected, NOW_US)
    assert (await store.oldest_seq(), await store.newest_seq()) == (seq, seq)


async def test_the_log_tells_what_the_alarm_was_before(store: AlarmStore) -> None:
    await store.commit([Draft(RAISED, alarm("A"))], [], now_us=NOW_US)
    over = alarm("A", version=2, state=AlarmState.RTN_UNACK, cleared_us=NOW_US)
    await store.commit([Draft(TransitionKind.CLEARED, over)], [], now_us=NOW_US)
    found = await store.get("A")
    assert found is not None
    assert found[0].cleared_us == NOW_US
    assert [t.was and t.was.state for t in found[1]] == [None, "UNACK_ACTIVE"]


async def test_a_commit_is_all_or_nothing(store: AlarmStore) -> None:
    before = await store.newest_seq()
    with pytest.raises(psycopg.errors.UniqueViolation):
        await store.commit([Draft(RAISED, alarm("A")), Draft(RAISED, alarm("A"))], [], now_us=NOW_US)
    assert await store.newest_seq() == before
    assert await store.get("A") is None


async def test_alarms_are_found_by_what_a_verdict_is_about(store: AlarmStore) -> None:
    day = 86_400_000_000
    ended = [
        alarm(f"A{i}", onset_us=NOW_US - i * day, cleared_us=NOW_US - i * day + 1, state=AlarmState.NORMAL)
        for i in range(5)
    ]
    other = alarm("B", asset_id=ended[0].asset_id + 1)
    await store.commit([Draft(RAISED, one) for one in [*ended, other]], [], now_us=NOW_US)

    def about(**of: Any) -> Verdict:
        one = ended[0]
        return Verdict(one.rule, one.asset_kind, one.asset_id, NOW_US - 3 * day, (), **of)

    for verdict, expected in ((about(), "A0 A1 A2 A3"), (about(until_us=NOW_US - day), "A2 A3")):
        assert sorted(a.alarm_id for a in await store.within([verdict])) == expected.split()


async def test_cursors_of_concurrent_commits_have_no_gap_for_a_reader_that_follows(store: AlarmStore) -> None:
    start = await store.newest_seq()
    commits = [store.commit([Draft(RAISED, alarm(f"A{i}"))], [], now_us=NOW_US) for i in range(40)]
    writers = asyncio.gather(*commits)
    seen: list[int] = []
    while len(seen) < 40:
        seen += [t.seq for t in await store.log_after(start + len(seen), 100)]
    await writers
    assert seen == list(range(start + 1, start + 41))


async def test_a_plain_sequence_hides_transitions_from_a_reader_that_follows(
    store: AlarmStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: cursors in the order in which they were asked for, not of the commits."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("CREATE SEQUENCE plain_cursor")
    taken, committed = asyncio.Event(), asyncio.Event()

    async def take(cursor: psycopg.AsyncCursor[Any], count: int) -> list[int]:
        row = await (await cursor.execute("SELECT nextval('plain_cursor')")).fetchone()
        assert row is not None
        if row[0] == 1:
            taken.set()
            await committed.wait()
        return [int(row[0])]

    monkeypatch.setattr(alarms, "_take_seqs", take)
    slow = asyncio.create_task(store.commit([Draft(RAISED, alarm("slow"))], [], now_us=NOW_US))
    await taken.wait()
    await store.commit([Draft(RAISED, alarm("quick"))], [], now_us=NOW_US)
    seen = [t.seq for t in await store.log_after(0, 100)]
    committed.set()
    await slow
    seen += [t.seq for t in await store.log_after(seen[-1], 100)]
    assert seen == [2]


async def test_a_batch_is_evaluated_in_the_same_commit(store: AlarmStore, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        row = await connection.execute(
            "INSERT INTO batches (head_end_id, kind, epoch, seq, digest, answer, rows_sent, accepted, versions, "
            "duplicates, rejected, received_at) VALUES (0, 1, 1, 1, '', '', 0, 0, 0, 0, 0, now()) RETURNING batch_id"
        )
        (batch_id,) = await row.fetchone()  # type: ignore[misc]
        assert await store.commit([], [batch_id], now_us=NOW_US) == []
        row = await connection.execute("SELECT evaluated FROM batches WHERE batch_id = %s", (batch_id,))
        assert await row.fetchone() == (True,)


async def test_an_action_is_found_with_the_alarm_as_it_was_after_it(store: AlarmStore) -> None:
    action = Action("a1", "A", TransitionKind.ACKNOWLEDGED, "Kim", "on it")
    await store.commit([Draft(RAISED, alarm("A"))], [], now_us=NOW_US)
    acked = Draft(TransitionKind.ACKNOWLEDGED, alarm("A", version=2, state=AlarmState.ACK_ACTIVE), action=action)
    await store.commit([acked], [], now_us=NOW_US)
    await store.commit([Draft(TransitionKind.CLEARED, alarm("A", version=3))], [], now_us=NOW_US)
    ((found, after),) = await store.find_actions("a1")
    assert (found, after.version) == (action, 2)
    assert await store.find_actions("a2") == []


async def test_the_log_says_who_did_it_and_why(store: AlarmStore) -> None:
    action = Action("a1", "A", TransitionKind.SHELVED, "Kim", "crew there", shelve_s=60, once=True)
    (seq,) = await store.commit([Draft(RAISED, alarm("A"))], [], now_us=NOW_US)
    shelved = alarm("A", version=2, shelved_until_us=NOW_US, shelved_once=True, shelved_by="Kim", shelved_reason="crew")
    await store.commit([Draft(TransitionKind.SHELVED, shelved, action=action)], [], now_us=NOW_US)
    assert [t.action for t in await store.log_after(seq - 1, 10)] == [None, action]
    (found,) = await store.get_many(["A"])
    assert (found.shelved_until_us, found.shelf) == (NOW_US, "SHELVED_ONCE")


async def test_a_list_of_what_pages_leaves_out_what_is_shelved_or_out_of_service(store: AlarmStore) -> None:
    alarms = [alarm("A"), alarm("B", shelved_until_us=NOW_US), alarm("C", out_of_service_by="Kim")]
    await store.commit([Draft(RAISED, a) for a in alarms], [], now_us=NOW_US)
    for wanted, active in ((AlarmFilter(), True), (AlarmFilter(paging_only=True), False)):
        assert [a.alarm_id for a in await store.list_page(wanted, active_only=active, limit=9)] == ["A"]
    assert len(await store.list_page(AlarmFilter(), active_only=False, limit=9)) == 3


async def test_a_shelved_alarm_is_loaded_however_long_it_is_over(store: AlarmStore) -> None:
    old = alarm("A", state=AlarmState.NORMAL, cleared_us=NOW_US - 2, shelved_until_us=NOW_US)
    await store.commit([Draft(RAISED, old)], [], now_us=NOW_US)
    assert [a.alarm_id for a in await store.load_open_and_recent(NOW_US)] == ["A"]


async def test_finished_alarms_are_loaded_only_if_recent(store: AlarmStore) -> None:
    old = alarm("A", state=AlarmState.NORMAL, cleared_us=NOW_US - 2)
    recent = alarm("B", state=AlarmState.NORMAL, cleared_us=NOW_US)
    await store.commit([Draft(RAISED, old), Draft(RAISED, recent)], [], now_us=NOW_US)
    assert [a.alarm_id for a in await store.load_open_and_recent(NOW_US - 1)] == ["B"]


async def test_what_lasts_is_loaded_however_long_ago_it_began(store: AlarmStore) -> None:
    history = alarm("A", state=AlarmState.NORMAL, onset_us=1, raised_us=1, cleared_us=None)
    gone = alarm("B", state=AlarmState.RETRACTED, onset_us=1, raised_us=1, cleared_us=None)
    await store.commit([Draft(RAISED, history), Draft(RAISED, gone)], [], now_us=NOW_US)
    assert [a.alarm_id for a in await store.load_open_and_recent(NOW_US)] == ["A"]


async def test_a_database_out_of_reach_is_storage_unavailable(dsn: str) -> None:
    pool = psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False)
    with pytest.raises(StorageUnavailable):
        await AlarmStore(pool).newest_seq()


def plainly(began: list[tuple[int, str]], from_us: int, now_us: int, count: int, top: int, most: int) -> Pages:
    """Counted one by one."""
    mine = sorted((at_us, name) for at_us, name in began if at_us > from_us)
    sources = {name: [at_us for at_us, other in mine if other == name] for _, name in mine}
    source = {name: ("OUTAGE", "transformer", name) for name in sources}
    often = [
        name for name, at in sources.items()
        if any(b - a < WINDOW_US for a, b in zip(at, at[count - 1 :], strict=False))
    ]  # fmt: skip
    frequent = sorted(sources, key=lambda name: (-len(sources[name]), name))[:top]
    return Pages(
        dict(Counter((now_us - at_us) // WINDOW_US for at_us, _ in mine)),
        [(source[name], len(sources[name])) for name in frequent],
        [(source[name], len(sources[name])) for name in sorted(often)[:most]],
    )


@pytest.mark.parametrize("seed", range(4))
async def test_pages_are_counted_as_one_by_one(store: AlarmStore, seed: int) -> None:
    draw = random.Random(seed)
    begins = NOW_US - 24 * 6 * WINDOW_US
    began = [(begins + draw.randrange(0, 24 * 6 * WINDOW_US), f"T{int(draw.expovariate(0.2))}") for _ in range(300)]
    began += [(NOW_US - WINDOW_US, "T0"), (NOW_US, "T0"), (NOW_US, "T1"), (NOW_US, "T1"), (NOW_US, "T1")]
    for i, (at_us, name) in enumerate(began):
        await store.commit([Draft(RAISED, alarm(f"A{i}", asset=name))], [], now_us=at_us)
    for hours in (1, 8, 24):
        from_us = NOW_US - hours * 6 * WINDOW_US
        for count, top, most in ((3, 10, 1000), (2, 3, 2)):
            found = await store.pages(from_us, NOW_US, window_us=WINDOW_US, chatter_count=count, top=top, most=most)
            assert found == plainly(began, from_us, NOW_US, count, top, most)


async def test_only_what_begins_to_page_is_a_page(store: AlarmStore) -> None:
    async def count() -> int:
        found = await store.pages(0, NOW_US, window_us=WINDOW_US, chatter_count=3, top=10, most=10)
        return sum(found.windows.values())

    raised = alarm("A")
    await store.commit([Draft(RAISED, raised), Draft(RAISED, alarm("B", state=AlarmState.NORMAL))], [], now_us=NOW_US)
    assert await count() == 1
    worse, shelved = replace(raised, version=2), replace(raised, version=3, shelved_until_us=NOW_US)
    await store.commit([Draft(TransitionKind.SEVERITY, worse, was=raised)], [], now_us=NOW_US)
    await store.commit([Draft(TransitionKind.SHELVED, shelved, was=worse)], [], now_us=NOW_US)
    assert await count() == 1
    lifted = replace(raised, version=4)
    await store.commit([Draft(TransitionKind.UNSHELVED, lifted, was=shelved)], [], now_us=NOW_US)
    assert await count() == 2


async def test_what_begins_to_page_in_the_call_of_another_is_counted_apart(store: AlarmStore) -> None:
    drafts = [Draft(RAISED, alarm("A")), Draft(RAISED, alarm("B"), under="A"), Draft(RAISED, alarm("C"))]
    await store.commit(drafts, [], now_us=NOW_US)
    await store.commit([Draft(RAISED, alarm("D"), under="A")], [], now_us=NOW_US - WINDOW_US)
    found = await store.pages(0, NOW_US, window_us=WINDOW_US, chatter_count=3, top=10, most=10)
    assert (found.windows, found.under) == ({0: 2}, 2)
    assert [times for _, times in found.top] == [4]


async def test_what_is_for_planning_pages_nobody_and_is_listed_as_active_if_it_is_named(store: AlarmStore) -> None:
    foretold = alarm("F", rule="FORECAST_OVERLOAD", for_planning=True)
    shelved = alarm("S", rule="FORECAST_OVERLOAD", for_planning=True, shelved_until_us=NOW_US)
    alarms_ = [alarm("A"), foretold, shelved]
    await store.commit([Draft(RAISED, one) for one in alarms_], [], now_us=NOW_US)
    found = await store.pages(0, NOW_US + 1, window_us=WINDOW_US, chatter_count=3, top=10, most=10)
    assert (sum(found.windows.values()), found.under) == (1, 0)
    for rules in (frozenset[str](), frozenset({"FORECAST_OVERLOAD"}), frozenset({"OUTAGE"})):
        wanted = AlarmFilter(rules, paging_only=True)
        expected = {one.alarm_id for one in alarms_ if wanted.matches(one)}
        for asked, active in ((wanted, False), (AlarmFilter(rules), True)):
            listed = await store.list_page(asked, active_only=active, limit=10)
            assert {one.alarm_id for one in listed} == expected
    assert {one.alarm_id for one in await store.list_page(AlarmFilter(), active_only=False, limit=10)} == set("AFS")
