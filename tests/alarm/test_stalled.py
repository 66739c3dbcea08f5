"""Some subscribers stop to read during a storm: the others hear all of it, the stalled ones resume without a gap."""

from __future__ import annotations

import asyncio
from typing import Any

from alarm_cases import episode, verdict
from test_service import World, serving

from meterwatch.episodes import Severity
from meterwatch.v1 import alarms_pb2 as pb

READERS, STALLED = 12, 4
ROUNDS = 60
QUEUE_MAX = 16
"""Far fewer than the transitions of the storm, so that a stalled queue must fold."""
PADDING = "x" * 40_000
"""So large that the buffers of a connection that nobody reads fill early in the storm."""


async def storm(world: World) -> list[int]:
    """Four alarms change again and again; the cursors. It waits for no subscriber: it is over before they read."""
    seqs = []
    for number in range(ROUNDS):
        level = Severity.CRITICAL if number % 2 else Severity.HIGH
        told = [verdict(episode(10, severity=level, evidence={"pad": PADDING}), asset_id=i) for i in range(4)]
        seqs += [t.seq for t in await world.desk.record(told, [])]
        await asyncio.sleep(0)
    return seqs


class Listener:
    """One subscriber: the newest version of each alarm, the cursors it was sent, and the ranges told to be folded."""

    def __init__(self, world: World, from_seq: int = 0, log_id: str = "") -> None:
        request = pb.SubscribeRequest(transitions_max=100, from_seq=from_seq, log_id=log_id)
        self.call: Any = world.stub.Subscribe(request)
        self.versions: dict[str, int] = {}
        self.seqs: list[int] = []
        self.folded: list[pb.Coalesced] = []

    async def seated(self) -> None:
        while not (await self.call.read()).snapshot.complete:
            pass

    async def until(self, seq: int) -> None:
        """Read until everything up to a cursor was told."""
        while not self.seqs or self.seqs[-1] < seq:
            message = await self.call.read()
            if message.HasField("coalesced"):
                self.folded.append(message.coalesced)
            for transition in message.transitions.transition:
                self.seqs.append(transition.seq)
                self.versions[transition.alarm.alarm_id] = transition.alarm.version
        assert self.seqs == sorted(set(self.seqs))

    def missing(self, seqs: list[int]) -> list[int]:
        """Cursors that were neither sent nor told to be folded."""
        told = {seq for one in self.folded for seq in range(one.first_seq, one.last_seq + 1)}
        return [seq for seq in seqs if seq not in told and seq not in set(self.seqs)]


async def test_stalled_subscribers_cost_the_others_nothing_and_resume_without_a_gap(dsn: str) -> None:
    async with serving(dsn, queue_max=QUEUE_MAX) as world:
        readers = [Listener(world) for _ in range(READERS)]
        stalled = [Listener(world) for _ in range(STALLED)]
        for one in (*readers, *stalled):
            await one.seated()
        log_id = world.desk.hub.log_id
        reading = [asyncio.create_task(one.until(world.desk.hub.seq + 4 * ROUNDS)) for one in readers]
        seqs = await storm(world)
        newest = {alarm.alarm_id: alarm.version for alarm in world.desk.book}
        await asyncio.gather(*reading)
        for one in readers:
            assert (one.missing(seqs), one.versions) == ([], newest)
        first, *others = stalled
        for one in others:
            await one.until(seqs[-1])
            assert (one.missing(seqs), one.versions) == ([], newest)
            assert one.folded, "a subscriber that read nothing was never behind"
            assert len(one.seqs) + sum(part.merged for part in one.folded) == len(seqs)
        first.call.cancel()  # it reads no more here, and comes again from the cursor it has
        again = Listener(world, from_seq=seqs[0] - 1, log_id=log_id)
        await again.until(seqs[-1])
        assert (again.seqs, again.versions) == (seqs, newest)
