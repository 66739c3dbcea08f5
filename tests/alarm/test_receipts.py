"""Laws of receipts: nothing is called received that was not, what is confirmed is kept, and no list grows for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alarm import receipts as module
from alarm.receipts import Receipts
from meterwatch.clock import ReplayClock
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.receipts import Point, SentMessage

NOW_US = 1_700_000_000_000_000
AWAY = StorageUnavailable("the database is away")


class SinkReceipts:
    """The table in memory."""

    def __init__(self) -> None:
        self.rows: dict[int, SentMessage] = {}
        self.commits = 0
        self.fail: StorageUnavailable | None = None

    async def last_number(self) -> int:
        return max(self.rows, default=0)

    async def write(self, receipts: Sequence[SentMessage]) -> None:
        await asyncio.sleep(0)  # others come meanwhile
        if self.fail is not None:
            raise self.fail
        self.commits += 1
        self.rows |= {one.number: one for one in receipts}

    async def of(self, seqs: Sequence[int], limit: int) -> list[SentMessage]:
        return [one for one in self.rows.values() if not set(seqs).isdisjoint(one.seqs)][-limit:]


class World:
    def __init__(self) -> None:
        self.store = SinkReceipts()
        self.clock = ReplayClock(NOW_US)
        self.took: list[tuple[str, float]] = []
        self.receipts = Receipts(
            self.store, self.clock, 0, lambda stage, s: self.took.append((stage, s)), self.clock.now_us
        )

    def passes(self, us: int) -> int:
        self.clock._now_us += us
        return self.clock.now_us()

    def times(self) -> dict[tuple[int, ...], tuple[int | None, int | None]]:
        return {one.seqs: (one.received_us, one.shown_us) for one in self.store.rows.values()}


async def test_a_point_stands_for_what_was_sent_up_to_it_and_for_nothing_else() -> None:
    world = World()
    ledger = world.receipts.join("Kim")
    ledger.sent((1, 2), 2)
    ledger.sent((5,), 5)
    at_us = world.passes(10)
    ledger.sent((7,), 7)
    assert await world.receipts.confirm("Kim", [Point(5, at_us)], [Point(2, at_us + 3)]) == 2
    assert world.times() == {(1, 2): (at_us, at_us + 3), (5,): (at_us, None)}
    assert await world.receipts.confirm("Kim", [Point(5, at_us)], [Point(2, at_us + 3)]) == 0
    told = await world.receipts.of([1, 5, 7])
    assert [(one.seqs, one.received_us is None) for one in told] == [((1, 2), False), ((5,), False), ((7,), True)]


async def test_a_copy_sent_after_a_break_is_not_received_by_what_was_said_of_the_first() -> None:
    world = World()
    world.receipts.join("Kim").sent((1,), 1)
    said_us = world.passes(5)
    world.passes(5)
    world.receipts.join("Kim").sent((1,), 1)
    assert await world.receipts.confirm("Kim", [Point(1, said_us)], []) == 1
    assert [one.received_us for one in await world.receipts.of([1])] == [said_us, None]
    assert await world.receipts.confirm("Kim", [Point(1, world.passes(1))], []) == 1


async def test_who_takes_a_name_over_is_noted_and_the_one_before_no_more() -> None:
    world = World()
    before, now = world.receipts.join("Kim"), world.receipts.join("Kim")
    before.sent((1,), 1)
    now.sent((2,), 2)
    assert [one.seqs for one in await world.receipts.of([1, 2])] == [(2,)]


async def test_what_is_shown_is_received() -> None:
    world = World()
    world.receipts.join("Kim").sent((1,), 1)
    at_us = world.passes(4)
    assert await world.receipts.confirm("Kim", [], [Point(1, at_us)]) == 1
    assert world.times() == {(1,): (at_us, at_us)}


async def test_nobody_elses_messages_are_confirmed_and_a_name_nobody_has_confirms_nothing() -> None:
    world = World()
    world.receipts.join("Kim").sent((1,), 1)
    world.receipts.join("Lee").sent((1,), 1)
    assert await world.receipts.confirm("Max", [Point(9, world.passes(1))], []) == 0
    assert await world.receipts.confirm("Lee", [Point(9, world.passes(1))], []) == 1
    assert [one.subscriber for one in world.store.rows.values()] == ["Lee"]


async def test_while_the_database_is_away_nothing_is_answered_and_what_was_said_is_kept_later() -> None:
    world = World()
    world.receipts.join("Kim").sent((1,), 1)
    at_us = world.passes(1)
    world.store.fail = AWAY
    with pytest.raises(StorageUnavailable):
        await world.receipts.confirm("Kim", [Point(1, at_us)], [])
    assert [one.received_us for one in await world.receipts.of([1])] == [at_us]
    world.store.fail = None
    assert await world.receipts.confirm("Kim", [Point(1, at_us)], []) == 0  # said before; the answer means it is kept
    assert world.times() == {(1,): (at_us, None)}


async def test_what_is_said_while_a_receipt_is_written_is_written_after_it() -> None:
    world = World()
    world.receipts.join("Kim").sent((1,), 1)
    point = Point(1, world.passes(1))
    await asyncio.gather(world.receipts.confirm("Kim", [point], []), world.receipts.confirm("Kim", [], [point]))
    assert world.times() == {(1,): (point.at_us, point.at_us)}


async def test_calls_that_come_together_share_a_commit() -> None:
    world = World()
    names = [f"console {i}" for i in range(50)]
    for name in names:
        world.receipts.join(name).sent((1,), 1)
    at_us = world.passes(1)
    said = await asyncio.gather(*(world.receipts.confirm(name, [Point(1, at_us)], []) for name in names))
    assert said == [1] * 50
    assert len(world.store.rows) == 50
    assert world.store.commits <= 2


async def test_stages_are_told_how_long_they_took_and_the_past_is_no_latency() -> None:
    world = World()
    ledger = world.receipts.join("Kim")
    ledger.sent((1,), 1)
    ledger.sent((2,), 2, NOW_US - 250_000)
    at_us = world.passes(1_000_000)
    await world.receipts.confirm("Kim", [Point(2, at_us)], [Point(2, at_us + 500_000)])
    assert sorted(world.took) == [("received", 1.0)] * 2 + [("sent", 0.25)] + [("shown", 0.5)] * 2


async def test_no_list_grows_without_bound_and_what_is_forgotten_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNCONFIRMED_MAX", 3)
    monkeypatch.setattr(module, "NAMES_MAX", 2)
    world = World()
    first = world.receipts.join("first")
    for seq in range(1, 6):
        first.sent((seq,), seq)
    assert world.receipts.forgotten == 2
    assert [one.seqs for one in await world.receipts.of(range(1, 6))] == [(3,), (4,), (5,)]
    for name in ("second", "third"):
        world.receipts.join(name)
    assert world.receipts.forgotten == 5
    assert await world.receipts.of(range(1, 6)) == []


async def test_receipts_that_wait_for_the_database_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNWRITTEN_MAX", 2)
    world = World()
    ledger = world.receipts.join("Kim")
    world.store.fail = AWAY
    for seq in range(1, 4):
        ledger.sent((seq,), seq)
        with pytest.raises(StorageUnavailable):
            await world.receipts.confirm("Kim", [Point(seq, world.passes(1))], [])
    ledger.sent((4,), 4)
    at_us = world.passes(1)
    with pytest.raises(Overloaded) as refused:
        await world.receipts.confirm("Kim", [Point(4, at_us)], [])
    assert refused.value.reason == "QUEUE_FULL"
    assert refused.value.retry_after_s > 0
    world.store.fail = None
    await world.receipts._write()  # what another subscriber's call does
    assert await world.receipts.confirm("Kim", [Point(4, at_us)], []) == 1
    assert sorted(world.store.rows) == [1, 2, 3, 4]


async def test_what_all_subscribers_hold_has_a_limit_and_who_holds_most_forgets_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HELD_MAX", 400)
    monkeypatch.setattr(module, "LOOK_WEIGHT", 10)
    world = World()
    attentive, deaf = world.receipts.join("attentive"), world.receipts.join("deaf")
    attentive.sent((1,), 1)
    for seq in range(2, 200):
        deaf.sent((seq,), seq)
        held = sum(name.held for name in world.receipts._names.values())
        assert held <= 400 + 2 * (module.MESSAGE_WEIGHT + 1)
    kept = [one.seqs[0] for one in await world.receipts.of(range(1, 200))]
    assert kept == [1, *range(kept[1], 200)]
    assert world.receipts.forgotten == 199 - len(kept)


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=40))
def test_the_weight_held_is_that_of_the_messages_that_wait(steps: list[tuple[int, bool]]) -> None:
    async def run() -> None:
        world, seq = World(), 0
        ledger = world.receipts.join("Kim")
        for many, shown in steps:
            first, seq = seq + 1, seq + many
            ledger.sent(tuple(range(first, seq + 1)), seq)
            point = Point(max(seq - 3, 1), world.passes(1))
            await world.receipts.confirm("Kim", [point], [point] if shown else [])
            (name,) = world.receipts._names.values()
            waiting = [*name.unreceived, *name.unshown]
            assert name.held == sum(module.MESSAGE_WEIGHT + len(one.seqs) for one in waiting)

    asyncio.run(run())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sent"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("again"), st.integers(0, 4), st.just(0)),
        st.tuples(st.sampled_from(["received", "shown"]), st.integers(0, 30), st.integers(0, 5)),
    ),
    max_size=40,
)


@dataclass
class Copy:
    """What the oracle knows of a message."""

    seqs: tuple[int, ...]
    sent_us: int
    received_us: int | None = None
    shown_us: int | None = None


@given(STEPS)
def test_what_is_on_record_is_what_a_plain_list_of_copies_says(steps: list[tuple[str, int, int]]) -> None:
    """The oracle looks at each copy with each point alone, one after the other."""
    world = World()
    copies: list[Copy] = []

    async def drive() -> None:
        seq = 0
        ledger = world.receipts.join("Kim")
        for what, number, ago_us in steps:
            now_us = world.passes(1)
            if what == "sent":
                copies.append(Copy(tuple(range(seq + 1, seq + number + 1)), now_us))
                seq += number
                ledger.sent(copies[-1].seqs, seq)
            elif what == "again":
                ledger = world.receipts.join("Kim")
                for copy in copies[max(0, len(copies) - number) :]:
                    copies.append(Copy(copy.seqs, now_us))
                    ledger.sent(copy.seqs, copy.seqs[-1])
            else:
                point = Point(number, now_us - ago_us)
                of_kind = ([point], []) if what == "received" else ([], [point])
                await world.receipts.confirm("Kim", *of_kind)
                said(what, point)

    def said(what: str, point: Point) -> None:
        for copy in copies:
            if copy.seqs[-1] <= point.seq and copy.sent_us <= point.at_us:
                copy.received_us = copy.received_us or point.at_us
                if what == "shown" and copy.shown_us is None:
                    copy.shown_us = max(point.at_us, copy.received_us)

    asyncio.run(drive())
    recorded = [Copy(one.seqs, one.sent_us, one.received_us, one.shown_us) for one in world.store.rows.values()]
    assert sorted(recorded, key=repr) == sorted((copy for copy in copies if copy.received_us), key=repr)


async def test_who_joins_under_many_names_has_only_his_own_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OWNER_NAMES_MAX", 2)
    monkeypatch.setattr(module, "NAMES_MAX", 4)
    world = World()
    world.receipts.join("room/desk").sent((1,), 1)
    eve = [world.receipts.join(f"eve/{number}") for number in range(20)]
    eve[-1].sent((2,), 2)
    assert [one.subscriber for one in await world.receipts.of([1, 2])] == ["room/desk", "eve/19"]


async def test_so_many_names_are_known_and_one_more_has_the_one_forgotten_that_joined_longest_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OWNER_NAMES_MAX", 2)
    monkeypatch.setattr(module, "NAMES_MAX", 3)
    world = World()

    async def after_joining(seq: int, name: str) -> list[str]:
        world.receipts.join(name).sent((seq,), seq)
        return [one.subscriber for one in await world.receipts.of(range(1, seq + 1))]

    assert await after_joining(1, "eve/1") == ["eve/1"]
    assert await after_joining(2, "eve/2") == ["eve/1", "eve/2"]
    assert await after_joining(3, "kim/1") == ["eve/1", "eve/2", "kim/1"]
    assert await after_joining(4, "eve/3") == ["eve/2", "kim/1", "eve/3"]
    assert await after_joining(5, "lee/1") == ["kim/1", "eve/3", "lee/1"]
    assert world.receipts.forgotten == 2
