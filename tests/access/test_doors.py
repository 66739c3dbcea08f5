"""Doors: whose turn it is to be received, that places come back however they were left, and whose share is whose."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterwatch.access import doors
from meterwatch.access.doors import ALL_BYTES_MAX, OWN_BYTES_MAX, OWN_WAITING_MAX, WAITING_MAX, Door, Load
from meterwatch.config import Server
from meterwatch.errors import Overloaded

LONG_S = 60.0
LONGEST = Server().message_bytes_max
ALL, OWN = ALL_BYTES_MAX // LONGEST, OWN_BYTES_MAX // LONGEST


class Sender:
    """A call at a door; its request comes, and it is answered, when the test says so. Empty name: without a share."""

    def __init__(self, door: Door, name: str) -> None:
        self.name = name
        self.asked_for = False
        self.load: Load | None = None
        self._request: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._call(door))

    async def _call(self, door: Door) -> None:
        _, self.load = await door.receive(self.name, self._read, share=bool(self.name))

    async def _read(self) -> bytes:
        self.asked_for = True
        return await self._request

    @property
    def on_its_way(self) -> bool:
        return self.asked_for and not self._request.done()

    async def sends(self, size: int = 0) -> None:
        self._request.set_result(bytes(size))
        await settled()

    async def refusal(self) -> Overloaded:
        with pytest.raises(Overloaded) as caught:
            await self.task
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after_s > 0
        return caught.value


async def settled() -> None:
    """Everything that can go on has."""
    for _ in range(8):
        await asyncio.sleep(0)


class Crowd:
    """Senders that are cancelled at the end."""

    def __init__(self) -> None:
        self._all: list[Sender] = []

    async def came(self, door: Door, *names: str) -> list[Sender]:
        """Senders that have gone as far as they can."""
        senders = [Sender(door, name) for name in names]
        self._all += senders
        await settled()
        return senders

    async def leave(self) -> None:
        for sender in self._all:
            sender.task.cancel()
        await asyncio.gather(*(sender.task for sender in self._all), return_exceptions=True)


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    made = Crowd()
    yield made
    await made.leave()


async def test_a_name_has_its_share_and_the_others_have_theirs(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S)
    own = await crowd.came(door, *["HES-1"] * (OWN + 2))
    assert [one.asked_for for one in own] == [True] * OWN + [False] * 2
    (other,) = await crowd.came(door, "HES-2")
    assert other.asked_for
    await own[1].sends()
    assert [one.asked_for for one in own] == [True] * (OWN + 1) + [False]


async def test_a_door_has_so_much_and_what_is_nobodys_has_no_share(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S)
    await crowd.came(door, *[""] * (ALL + 1))
    assert (door.size, door.waiting) == (ALL_BYTES_MAX, 1)
    (last,) = await crowd.came(door, "HES-1")
    assert not last.asked_for


async def test_a_request_that_is_here_weighs_what_it_is_long_until_it_is_left(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S)
    own = await crowd.came(door, *["HES-1"] * 4)
    await own[0].sends(LONGEST // 2)
    assert door.size == LONGEST + LONGEST // 2
    assert not own[2].asked_for, "a half and a whole leave no room for a whole"
    await own[1].sends(LONGEST // 2)
    assert [one.asked_for for one in own] == [True] * 3 + [False]
    for one in own[:2]:
        assert one.load is not None
        one.load.leave()
        one.load.leave()
    await settled()
    assert own[3].asked_for
    assert door.size == 2 * LONGEST


async def test_where_requests_may_be_longer_as_many_of_the_longest_are_received(crowd: Crowd) -> None:
    door = Door(16 * LONGEST, LONG_S)
    await crowd.came(door, *["HES-1"] * (OWN + 1), *[""] * ALL)
    assert (door.size, door.waiting) == (ALL * 16 * LONGEST, OWN + 1)


async def test_the_lines_are_served_in_turn_and_who_sends_much_waits_for_himself(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S)
    first = await crowd.came(door, *(name for name in ("HES-1", "HES-2", "HES-3", "HES-4") for _ in range(OWN)))
    many = await crowd.came(door, *["HES-5"] * 10)
    few = await crowd.came(door, "HES-1", "HES-2")
    served = []
    for one in first[: 2 * OWN]:  # of HES-1 and HES-2
        await one.sends()
        served.append([sender.name for sender in (*many, *few) if sender.asked_for])
    assert served == [
        ["HES-5"],
        ["HES-5", "HES-1"],
        ["HES-5", "HES-1", "HES-2"],
        ["HES-5", "HES-5", "HES-1", "HES-2"],
    ]


async def test_who_leaves_while_he_waits_gives_his_turn_to_the_next(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S)
    own = await crowd.came(door, *["HES-1"] * (OWN + 3))
    own[OWN].task.cancel()
    await settled()
    own[OWN + 1].task.cancel()  # in the same turn of the loop as its turn comes
    await own[0].sends()
    assert [one.asked_for for one in own[OWN:]] == [False, False, True]
    assert (door.size, door.waiting) == (OWN_BYTES_MAX, 0)


async def test_who_leaves_when_his_turn_has_come_and_he_does_not_know_yet_leaves_no_place_taken(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S)
    own = await crowd.came(door, *["HES-1"] * OWN)
    await own[0].sends(LONGEST)
    waits = await crowd.came(door, "HES-1", "HES-1")
    assert own[0].load is not None
    own[0].load.leave()
    assert (door.size, door.waiting) == (OWN_BYTES_MAX, 1), "the turn is given"
    waits[0].task.cancel()
    await settled()
    assert [one.asked_for for one in waits] == [False, True]
    assert (door.size, door.waiting) == (OWN_BYTES_MAX, 0)


async def test_who_has_waited_long_enough_is_told_to_come_again(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "WAIT_S", 0.05)
    door = Door(LONGEST, LONG_S)
    own = await crowd.came(door, *["HES-1"] * (OWN + 1))
    await own[-1].refusal()
    assert not own[-1].asked_for
    assert (door.size, door.waiting) == (OWN_BYTES_MAX, 0)


async def test_too_many_that_wait_are_refused_at_once_and_each_name_leaves_room_for_others(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S)
    await crowd.came(door, *["HES-1"] * (OWN + OWN_WAITING_MAX))
    (one_more, other) = await crowd.came(door, "HES-1", "HES-2")
    await one_more.refusal()
    assert other.asked_for
    await crowd.came(door, *[""] * (WAITING_MAX + ALL - OWN - 1 - door.waiting))
    assert door.waiting == WAITING_MAX
    (anybody,) = await crowd.came(door, "HES-3")
    await anybody.refusal()


async def test_a_request_that_does_not_come_gives_its_place_back(crowd: Crowd) -> None:
    door = Door(LONGEST, 0.05)
    (one,) = await crowd.came(door, "HES-1")
    assert one.asked_for
    with pytest.raises(TimeoutError):
        await one.task
    assert door.size == 0


async def test_where_nobody_is_asked_who_he_is_the_oldest_makes_way_for_who_comes(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S, makes_way=True)
    silent = await crowd.came(door, *[""] * ALL)
    for ended in silent[:3]:
        (honest,) = await crowd.came(door, "")
        await ended.refusal()
        assert honest.asked_for
        await honest.sends()
        await honest.task
        await crowd.came(door, "")
    assert door.size == ALL_BYTES_MAX
    assert not any(one.task.done() for one in silent[3:])


async def test_when_many_come_at_once_as_many_make_way_and_who_came_last_is_received_too(crowd: Crowd) -> None:
    door = Door(LONGEST, LONG_S, makes_way=True)
    silent = await crowd.came(door, *[""] * ALL)
    await crowd.came(door, *[""] * 5)
    assert [one.task.done() for one in silent] == [True] * 5 + [False] * (ALL - 5)
    (honest,) = (await crowd.came(door, *[""] * 100, ""))[-1:]
    async with asyncio.timeout(60):
        while not honest.asked_for:
            assert door.size <= ALL_BYTES_MAX
            await asyncio.sleep(0)
    await honest.sends()
    await honest.task
    assert door.waiting == 0


def test_nobody_has_all_of_a_door() -> None:
    assert OWN_BYTES_MAX * 2 <= ALL_BYTES_MAX
    assert OWN_WAITING_MAX * 2 <= WAITING_MAX
    assert 2 * Server().message_bytes_max <= OWN_BYTES_MAX


Step = tuple[str, str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["comes", "comes", "sends", "sends", "leaves"]),
        st.sampled_from(["a", "b", ""]),
        st.integers(0, 20),
    ),
    max_size=50,
)


@given(STEPS, st.booleans())
def test_in_any_order_of_coming_sending_and_leaving_nobody_waits_for_a_place_that_is_free(
    steps: list[Step], at_once: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doors, "ALL_BYTES_MAX", 30)
        patch.setattr(doors, "OWN_BYTES_MAX", 20)
        patch.setattr(doors, "_LONGEST", 3)
        asyncio.run(any_order(steps, at_once))


async def any_order(steps: list[Step], at_once: bool) -> None:
    """at_once: two steps between each look, so that what happens in one turn of the loop meets."""
    door, there = Door(10, LONG_S), list[Sender]()
    for number, (what, name, which) in enumerate(steps):
        if what == "comes":
            there.append(Sender(door, name))
        elif there:
            one = there[which % len(there)]
            if what == "sends" and one.on_its_way:
                one._request.set_result(bytes(which % 11))
            elif what == "leaves" and one.load is not None:
                one.load.leave()
                there.remove(one)
            elif what == "leaves":
                one.task.cancel()
        if at_once and number % 2:
            continue
        await settled()
        there = [one for one in there if not one.task.done() or one.load is not None]
        as_it_should_be(door, there)
    for one in there:
        one.task.cancel()
    await settled()
    for one in there:
        if one.load is not None:
            one.load.leave()
    kept: tuple[Any, ...] = (door.size, door.waiting, door._own, door._lines, door._on_their_way)
    assert kept == (0, 0, Counter(), {}, {}), "nothing is kept of who has left"


def as_it_should_be(door: Door, there: list[Sender]) -> None:
    here = Counter[str]()
    for one in there:
        here[one.name] += one.load.size if one.load is not None else 10 * one.asked_for
    waiting = [one for one in there if not one.asked_for]
    assert (door.size, door.waiting) == (here.total(), len(waiting))
    assert here.total() <= 30
    assert max(here["a"], here["b"]) <= 20
    for one in waiting:
        assert here.total() > 20 or (one.name and here[one.name] > 10), "room, and somebody waits"
    for name in ("a", "b", ""):
        of_one = [one.asked_for for one in there if one.name == name]
        assert of_one == sorted(of_one, reverse=True), "in the order in which they came"
