"""A thousand subscribers of whom fifty stall during a storm: nobody misses anything, however the fifty come back.

Of the stalled, some read at last what was folded for them, some break off and resume from the cursor they have, and
some are left so far behind that the hub lets them go and they resume from the log. The hub alone, without a wire;
test_stalled has the same with connections.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from routes_world import alarm, change

from alarm import hub as hub_module
from alarm.hub import Coalesced, Hub, Subscription
from meterwatch.alarms import Transition
from meterwatch.errors import Overloaded

SUBSCRIBERS, STALLED = 1000, 50
ALARMS, TRANSITIONS, COMMIT, PAGE = 400, 2000, 40, 100
QUEUE_MAX, RING_MAX = 64, 500


class Listener:
    """One subscriber: the newest version of each alarm, and every cursor that was sent or told to be folded."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.cursor = 0
        self.versions: dict[str, int] = {}
        self.sent: list[int] = []
        self.folded = 0
        self.spans: list[Coalesced] = []

    def take(self, transitions: list[Transition]) -> None:
        for transition in transitions:
            assert transition.seq > self.cursor, "again, or out of order"
            self.cursor = transition.seq
            self.sent.append(transition.seq)
            self.versions[transition.alarm.alarm_id] = transition.alarm.version

    async def read(self) -> bool:
        """All that waits. False: the hub has let it go."""
        while self.subscription._queue or self.subscription._folded or self.subscription._overrun:
            try:
                await self.subscription.wait()
            except Overloaded:
                return False
            taken = self.subscription.take(PAGE)
            if isinstance(taken, Coalesced):
                self.folded += taken.merged
                self.spans.append(taken)
            else:
                self.take(taken)
        return True

    def resume(self, hub: Hub, log: list[Transition]) -> None:
        """From the cursor it has, out of the ring or, where that no longer reaches back, the log."""
        self.subscription.close()
        while (joined := hub.subscribe_after(self.cursor, lambda _: True)) is None:
            self.take(log[self.cursor : self.cursor + PAGE])
        self.subscription = joined


def storm(seed: int) -> list[Transition]:
    """Alarms that change in an order by chance."""
    dice, versions, log = random.Random(seed), dict.fromkeys(range(ALARMS), 0), []
    for seq in range(1, TRANSITIONS + 1):
        which = dice.randrange(ALARMS)
        versions[which] += 1
        log.append(change(seq, replace(alarm(f"A{which}"), version=versions[which])))
    return log


@pytest.mark.parametrize(("alarms_max", "let_go"), [(65_536, False), (ALARMS // 2, True)])
async def test_fifty_of_a_thousand_that_stall_resume_without_a_gap_and_cost_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, alarms_max: int, let_go: bool
) -> None:
    monkeypatch.setattr(hub_module, "ALARMS_MAX", alarms_max)
    log = storm(seed=1)
    hub = Hub([], 0, "log", RING_MAX, QUEUE_MAX, SUBSCRIBERS)
    everybody = [Listener(hub.subscribe_now(lambda _: True)[2]) for _ in range(SUBSCRIBERS)]
    stalled, readers = everybody[:STALLED], everybody[STALLED:]
    for at in range(0, TRANSITIONS, COMMIT):
        hub.publish(log[at : at + COMMIT])
        for one in readers:
            assert await one.read()
    assert all(one.sent == list(range(1, TRANSITIONS + 1)) for one in readers)
    newest = readers[0].versions
    for i, one in enumerate(stalled):
        if let_go:
            assert not await one.read()
            one.resume(hub, log)
        elif i % 2:
            one.resume(hub, log)
        assert await one.read()
        told = set(one.sent).union(*(range(span.first_seq, span.last_seq + 1) for span in one.spans))
        assert told == set(range(1, TRANSITIONS + 1))
        assert len(one.sent) + one.folded == TRANSITIONS
        assert (one.versions, one.cursor) == (newest, TRANSITIONS)
        assert bool(one.folded) == (not let_go and i % 2 == 0)
