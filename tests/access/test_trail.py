"""The audit trail: what is answered is on record, and no number of refusals fills a disk or holds up anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.access import trail as module
from meterwatch.access.trail import KINDS_MAX, OTHERS, OWN_KINDS_MAX, WAITING_MAX, AuditRow, Trail, host_of
from meterwatch.errors import Overloaded, StorageUnavailable

LONG_S = 1000.0


def row(who: str = "anna", outcome: str = "OK", peer: str = "10.0.0.1", what: str = "", call_id: int = 0) -> AuditRow:
    return AuditRow(who, "certificate", "Alarms/Act", what, outcome, peer, call_id=call_id)


class Table:
    """A table that may be away or slow."""

    def __init__(self) -> None:
        self.rows: list[AuditRow] = []
        self.commits = 0
        self.away = False
        self.free = asyncio.Event()
        self.free.set()

    async def write(self, rows: Sequence[AuditRow]) -> None:
        await self.free.wait()
        if self.away:
            raise StorageUnavailable("away")
        self.rows += rows
        self.commits += 1


async def test_changed_returns_when_the_row_is_in_the_table() -> None:
    table = Table()
    trail = Trail(table.write)
    table.free.clear()
    waiting = asyncio.create_task(trail.changed(row()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert table.rows == []
    table.free.set()
    await waiting
    assert [one.who for one in table.rows] == ["anna"]


async def test_those_who_wait_together_share_a_commit() -> None:
    table = Table()
    trail = Trail(table.write)
    await asyncio.gather(*(trail.changed(row(str(i))) for i in range(200)))
    assert len(table.rows) == 200
    assert table.commits <= 2


async def test_a_table_that_is_away_fails_the_call_and_not_the_trail() -> None:
    table = Table()
    trail = Trail(table.write)
    table.away = True
    with pytest.raises(StorageUnavailable):
        await trail.changed(row("lost"))
    table.away = False
    await trail.changed(row("kept"))
    assert [one.who for one in table.rows] == ["kept"]
    await trail.flush()


async def test_a_caller_who_leaves_keeps_nobody_from_the_table() -> None:
    table = Table()
    trail = Trail(table.write)
    table.free.clear()
    leaving, staying = (asyncio.create_task(trail.changed(row(name))) for name in ("leaves", "stays"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    table.free.set()
    await staying
    assert {one.who for one in table.rows} == {"leaves", "stays"}  # it was done, and it is on record


async def test_too_many_waiting_are_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 5)
    table = Table()
    trail = Trail(table.write)
    table.free.clear()
    tasks = [asyncio.create_task(trail.changed(row(str(i)))) for i in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused = [task for task in tasks if task.done() and isinstance(task.exception(), Overloaded)]
    assert refused
    table.free.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert len(table.rows) == results.count(None) == 20 - len(refused)
    assert WAITING_MAX >= 100


async def test_a_million_refusals_of_one_kind_are_two_rows_with_the_number() -> None:
    table = Table()
    trail = Trail(table.write, window_s=LONG_S)
    for _ in range(10_000):
        trail.counted(row(outcome="PERMISSION_DENIED ROLE_MISSING", what="alarm_id=A1"))
    await trail.flush()
    assert [one.calls for one in table.rows] == [1, 9_999]
    assert table.rows[0].object == "alarm_id=A1"
    assert table.rows[1].object == ""


async def test_each_outcome_of_a_change_has_its_row_and_never_waits_for_the_table() -> None:
    table = Table()
    table.free.clear()
    trail = Trail(table.write, window_s=LONG_S)
    for number in range(1, 301):
        trail.outcome(row(outcome="NOT_FOUND ALARM_UNKNOWN", call_id=number))  # would hang the test
    table.free.set()
    await trail.flush()
    assert [one.call_id for one in table.rows] == list(range(1, 301))


async def test_what_was_done_is_kept_while_the_table_is_away_and_what_was_only_to_be_begun_is_not() -> None:
    table = Table()
    table.away = True
    trail = Trail(table.write)
    for outcome, number in (("BEGUN", 1), ("OK", 2)):
        with pytest.raises(StorageUnavailable):
            await trail.changed(row(outcome=outcome, call_id=number))
    table.away = False
    trail._try_again()
    await trail.flush()
    assert [(one.outcome, one.call_id) for one in table.rows] == [("OK", 2)]


async def test_too_many_that_wait_keep_others_from_beginning_and_nobody_from_his_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 0)
    table = Table()
    trail = Trail(table.write)
    with pytest.raises(Overloaded):
        await trail.changed(row(outcome="BEGUN", call_id=1))
    await trail.changed(row(outcome="OK", call_id=2))
    assert [one.call_id for one in table.rows] == [2]


async def test_kinds_that_are_too_many_are_one_row_together() -> None:
    table = Table()
    trail = Trail(table.write, window_s=LONG_S)
    for i in range(10_000):
        trail.counted(row(who=f"HES-{i}", outcome="PERMISSION_DENIED OTHER_HEAD_END"))
    await trail.flush()
    assert len(table.rows) == KINDS_MAX + 2
    assert sum(one.calls for one in table.rows) == 10_000
    assert sum(one.calls for one in table.rows if one.peer == OTHERS) == 10_000 - KINDS_MAX


async def test_who_is_refused_in_many_ways_hides_nothing_of_what_is_refused_to_others() -> None:
    table = Table()
    trail = Trail(table.write, window_s=LONG_S)
    for i in range(10_000):
        trail.counted(row(who="", outcome="UNAUTHENTICATED NO_CREDENTIALS", peer=f"10.0.{i // 256}.{i % 256}"))
    hidden = row(who="HES-1", outcome="PERMISSION_DENIED OTHER_HEAD_END")
    trail.counted(hidden)
    await trail.flush()
    strangers = [one for one in table.rows if one.who == ""]
    assert len(strangers) == OWN_KINDS_MAX + 2
    assert sum(one.calls for one in strangers) == 10_000
    assert {one.method for one in strangers if one.peer == OTHERS} == {OTHERS}
    assert [(one.who, one.method, one.outcome) for one in table.rows if one.who] == [
        (hidden.who, hidden.method, hidden.outcome)
    ]


@given(st.lists(st.tuples(st.integers(0, 150), st.booleans()), max_size=400))
def test_no_call_is_counted_twice_or_lost(calls: list[tuple[int, bool]]) -> None:
    """Whatever comes between, and however often a window ends."""

    async def run() -> None:
        table = Table()
        trail = Trail(table.write, window_s=LONG_S)
        for peer, window_ends in calls:
            trail.counted(row(peer=str(peer)))
            if window_ends:
                trail._close_window()
                await asyncio.sleep(0)
        await trail.flush()
        assert sum(one.calls for one in table.rows) + trail.dropped == len(calls)

    asyncio.run(run())


async def test_while_the_table_is_away_what_is_counted_is_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_MAX", 10)
    table = Table()
    table.away = True
    trail = Trail(table.write, window_s=LONG_S)
    for i in range(15):
        trail.counted(row(peer=str(i)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    table.away = False
    trail._try_again()
    await trail.flush()
    assert sum(one.calls for one in table.rows) == 10
    assert trail.dropped == 5


async def test_counting_never_waits_for_the_table() -> None:
    table = Table()
    table.free.clear()
    trail = Trail(table.write, window_s=LONG_S)
    trail.counted(row())  # would hang the test
    await asyncio.sleep(0)
    trail.counted(row())
    table.free.set()
    await trail.flush()
    assert sum(one.calls for one in table.rows) == 2


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:50000", "127.0.0.1"),
        ("ipv6:[::1]:50000", "::1"),
        ("ipv6:%5B::1%5D:50000", "::1"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
        ("", ""),
    ],
)
def test_an_address_is_kept_without_its_port(peer: str, host: str) -> None:
    assert host_of(peer) == host
