"""The routes as they run - Dispatch with a courier for each target - under the machine of test_machine.

Transport is a fake: each target takes a message, fails, hangs until its time is over, or takes it and hangs, so that
the answer is lost; a life of the service ends in the midst of a try, in order or by a kill. Time is virtual: waits,
backoff and hours cost nothing. Beside the laws of the machine, one courier sends one message at a time and a target
that hangs costs the others no message.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from alarm_cases import BASE_US
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from test_machine import FILES, US, Machine
from virtual_loop import VirtualLoop

from alarm import hub as hub_module
from alarm.routes import courier as courier_module
from alarm.routes import dispatch as dispatch_module
from alarm.routes import pace as pace_module
from alarm.routes.dispatch import Dispatch
from alarm.routes.model import Target
from alarm.routes.outcome import Outcome, failed, sent
from meterwatch.clock import ReplayClock
from meterwatch.errors import StorageUnavailable
from meterwatch.notices import Parcel

HANGS_S = 10.0
MODES = ("takes", "fails", "hangs", "loses")
AWAY = StorageUnavailable("the database is away")


class LoopClock(ReplayClock):
    """The service's clock, and the machine's, is the loop's."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(BASE_US)
        self._loop = loop

    def now_us(self) -> int:
        return BASE_US + int(self._loop.time() * US)


class FakeTransport:
    """One target. `came` is told of each message that comes to it."""

    def __init__(self, came: Callable[[str, Parcel], None], modes: dict[str, str], target: str) -> None:
        self._came, self._modes, self._target = came, modes, target
        self._busy = False

    async def send(self, parcel: Parcel, now_us: int) -> Outcome:
        assert not self._busy, "two messages at once"
        self._busy = True
        try:
            mode = self._modes[self._target]
            if mode in ("takes", "loses"):
                self._came(self._target, parcel)
            if mode in ("hangs", "loses"):
                await asyncio.sleep(HANGS_S)
            await asyncio.sleep(0)
            return sent() if mode == "takes" else failed(mode)
        finally:
            self._busy = False

    async def close(self) -> None:
        return None


class DispatchMachine(Machine):
    """See the head of this file."""

    def make_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualLoop()

    def make_clock(self) -> ReplayClock:
        assert isinstance(self.loop, VirtualLoop)
        return LoopClock(self.loop)

    def __init__(self) -> None:
        self.modes = dict.fromkeys("abc", "takes")
        self.life: asyncio.Task[None] | None = None
        self.place = tempfile.TemporaryDirectory()
        self.path = Path(self.place.name) / "routes.yaml"
        super().__init__()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.place.cleanup()

    # the routes, as they live

    def start_routes(self) -> None:
        self.path.write_text(self.file)
        self.run(self.live())

    async def live(self) -> None:
        if self.life is not None:
            self.life.cancel()
            with suppress(asyncio.CancelledError):
                await self.life
        desk = self.desk
        self.dispatch = Dispatch(
            self.path, self.outbox, "log", desk, self.clock,
            make_sender=lambda target, log_id, link: self.transport(target),
            machine_us=self.clock.now_us,
        )  # fmt: skip
        desk.published = lambda _: self.dispatch.wake()
        self.life = asyncio.create_task(self.dispatch.run())

    def transport(self, target: Target) -> FakeTransport:
        return FakeTransport(self.message_comes, self.modes, target.name)

    @rule(seconds=st.sampled_from([1, 30, 30, 120, 1000]))
    def time_passes(self, seconds: int) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(page=st.integers(1, 4), fails=st.sampled_from([None, None, None, False, True]))
    def routes_step(self, page: int, fails: bool | None) -> None:
        """Some moments of their life; a commit may fail in it, before or after it holds."""
        if fails is not None:
            self.outbox.fail, self.outbox.fail_after = AWAY, fails
        self.run(asyncio.sleep(page))
        self.outbox.fail = None

    @rule(to=st.sampled_from("abc"), mode=st.sampled_from(MODES))
    def target_is_tried(self, to: str, mode: str) -> None:
        """A target becomes another one."""
        self.modes[to] = mode

    @rule(which=st.integers(0, len(FILES) - 1))
    def file_changes(self, which: int) -> None:
        """In place: no courier of an unchanged target stops for it."""
        self.file = FILES[which]
        self.path.write_text(self.file)
        assert not self.run(self.dispatch.reload()).problems

    @initialize(kill=st.booleans())
    def lives_end(self, kill: bool) -> None:
        """In order: a try under way is written down. By a kill: it is not."""
        courier_module.LEAVE_S = 0.0 if kill else 2 * HANGS_S  # type: ignore[misc]

    def at_the_end(self) -> None:
        self.outbox.fail = None
        self.modes.update(dict.fromkeys("abc", "takes"))
        super().at_the_end()
        assert self.life is not None
        self.life.cancel()
        self.run(asyncio.wait({self.life}))

    def everybody_is_told(self) -> None:
        for _ in range(50):
            self.run(asyncio.sleep(20_000))
            waits = any(state == "WAITING" for state in self.outbox.state.values())
            if not waits and all(notice.due_us is None for notice in self.outbox.notices.values()):
                return


async def _at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    return work(*arguments)


@pytest.fixture
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "WAITING_MAX", 3)
    monkeypatch.setattr(hub_module, "ALARMS_MAX", 64)
    monkeypatch.setattr(courier_module, "LEAVE_S", 0.0)
    monkeypatch.setattr("alarm.routes.dispatch.asyncio.to_thread", _at_once)
    monkeypatch.setattr(dispatch_module, "TICK_S", 30.0)  # hours of ticks are what such a test would cost
    monkeypatch.setattr(dispatch_module, "LOOK_S", 1e9)
    monkeypatch.setattr(courier_module, "IDLE_S", 3600.0)


@pytest.mark.usefixtures("_small_limits")
class TestDispatchMachine(DispatchMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        max_examples=20, stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow], deadline=None
    )
