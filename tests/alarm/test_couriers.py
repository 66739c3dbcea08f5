"""Routes at work against real receivers that fail, hang, go away and come back; the outbox is one in memory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from receivers import Receiver, receiver
from routes_world import NOW_US, SinkOutbox, alarm, change

from alarm.routes.apprised import Threaded
from alarm.routes.courier import backoff_s
from alarm.routes.dispatch import Dispatch
from meterwatch.alarms import Alarm, AlarmState, Transition
from meterwatch.clock import ReplayClock
from meterwatch.errors import ConfigError
from meterwatch.notices import DeliveryState
from meterwatch.one_call import ONE_CALL, OneCall

ENOUGH_S = 60.0
SECRET = "a secret of the tests"
FILE = """
version: 1
link: https://console.example/alarms
targets:
  hook:
    {{kind: webhook, url: "{hook}/in", secret: {{file: secret.txt}},
      bearer: {{file: secret.txt}}, timeout_s: {timeout_s}}}
  am: {{kind: alertmanager, url: "{am}", timeout_s: {timeout_s}, resend_s: 5}}
departments:
  noc: {{targets: [hook, am]}}
routes:
  - {{name: all, department: noc, group_wait_s: 0, group_interval_s: 0, group_by: [asset]}}
"""


@dataclass
class Log:
    """The alarms of a service."""

    transitions: list[Transition] = field(default_factory=list)

    def newest_seq(self) -> int:
        return len(self.transitions)

    def standing(self) -> list[Alarm]:
        return [a for a in {t.alarm.alarm_id: t.alarm for t in self.transitions}.values() if a.stands]

    async def log_after(self, seq: int, limit: int) -> list[Transition]:
        return self.transitions[seq : seq + limit]


@dataclass
class World:
    hook: Receiver
    am: Receiver
    path: Path
    log: Log = field(default_factory=Log)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    dispatch: Dispatch | None = None
    timeout_s: float = 5.0
    one_call: OneCall | None = None

    def __post_init__(self) -> None:
        self.outbox = SinkOutbox(self.log.transitions)
        self.write()

    def write(self, text: str = FILE) -> None:
        self.path.with_name("secret.txt").write_text(SECRET)
        self.path.write_text(text.format(hook=self.hook.url, am=self.am.url, timeout_s=self.timeout_s))

    def counted(self, target: str, what: str) -> None:
        self.counts[target, what] = self.counts.get((target, what), 0) + 1

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Dispatch]:
        """A life of the routes."""
        made = Dispatch(
            self.path, self.outbox, "log", self.log, ReplayClock(NOW_US), counted=self.counted, backoff_s=0.01,
            one_call=self.one_call,
        )  # fmt: skip
        self.dispatch = made
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def happens(self, one: Alarm) -> None:
        seq = len(self.log.transitions) + 1
        self.log.transitions.append(change(seq, one))
        if self.dispatch is not None:
            self.dispatch.wake()

    def state(self, target: str) -> list[DeliveryState]:
        return [self.outbox.state[n] for n, d in self.outbox.deliveries.items() if d.target == target]


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(ENOUGH_S):
        while not done():  # noqa: ASYNC110 (what is waited for happens in other threads, too)
            await asyncio.sleep(0.005)  # between two looks


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with receiver() as hook, receiver() as am:
        yield World(hook, am, tmp_path / "routes.yaml")


async def test_a_webhook_gets_a_signed_cloud_event(world: World) -> None:
    world.happens(alarm())
    async with world.at_work():
        await until(lambda: world.hook.answered)
    (request,) = world.hook.requests
    event = request.json
    assert (event["specversion"], event["type"]) == ("1.0", "meterwatch.alarms.v1")
    (told,) = event["data"]["alarms"]
    assert (told["alarm_id"], told["change"], told["severity"]) == ("A", "NEW", "HIGH")
    assert told["onset_at"] == "2023-11-14T22:12:20.000000Z"
    assert request.headers["content-type"].startswith("application/cloudevents+json")
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{digest}"
    assert request.headers["webhook-id"] == event["id"]


async def test_alertmanager_gets_alerts_that_end_and_are_renewed_meanwhile(world: World) -> None:
    world.happens(alarm())
    async with world.at_work():
        await until(lambda: len(world.am.answered) == 2)  # told, and renewed as it idles
        world.happens(alarm(version=2, state=AlarmState.RTN_UNACK, cleared_us=NOW_US))
        await until(lambda: len(world.am.answered) == 3)
    first, renewed, over = (request.json[0] for request in world.am.answered)
    assert {request.path for request in world.am.requests} == {"/api/v2/alerts"}
    assert first["labels"] == renewed["labels"] == over["labels"]
    assert first["labels"]["alertname"] == "OUTAGE"
    assert first["startsAt"] < first["endsAt"] <= renewed["endsAt"]
    assert over["endsAt"] == "2023-11-14T22:13:20.000000Z"


async def test_many_active_alerts_are_renewed_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alarm.routes.courier.RENEWED_MAX", 2)
    for n in range(5):
        world.happens(alarm(f"A{n}", asset=f"T{n}"))
    async with world.at_work():
        await until(lambda: len(world.am.answered) == 4)  # told at once, then three pages
    pages = [[alert["labels"]["alarm_id"] for alert in request.json] for request in world.am.answered]
    assert [len(page) for page in pages] == [5, 2, 2, 1]
    assert sorted(pages[0]) == pages[1] + pages[2] + pages[3]


@pytest.mark.parametrize("status", [500, 503, 429, 404, 401, 302])
async def test_one_that_fails_gets_the_same_message_until_it_takes_it_and_costs_the_other_nothing(
    world: World, status: int
) -> None:
    world.hook.status, world.hook.says = status, b"not now"
    world.happens(alarm())
    async with world.at_work() as routes:
        await until(lambda: len(world.hook.requests) >= 3 and world.am.answered)
        assert world.state("hook") == [DeliveryState.WAITING]
        assert f"HTTP {status}: not now" in world.outbox.errors.values()
        assert routes.waiting()["hook"] == 1
        assert routes.oldest_s()["hook"] > 0
        world.hook.status = 204
        await until(lambda: world.state("hook") == [DeliveryState.SENT])
    assert len({request.body for request in world.hook.requests}) == 1
    assert len({request.headers["webhook-id"] for request in world.hook.requests}) == 1
    assert world.counts["hook", "failed"] >= 3
    assert world.counts["hook", "sent"] == 1


async def test_one_that_hangs_costs_the_other_nothing_and_gets_it_when_it_is_back(world: World) -> None:
    world.timeout_s = 0.1
    world.write()
    world.hook.go_on.clear()
    world.happens(alarm())
    async with world.at_work():
        await until(lambda: len(world.hook.requests) >= 2 and world.am.answered)
        assert any("no answer within" in error for error in world.outbox.errors.values())
        world.hook.go_on.set()
        await until(lambda: world.state("hook") == [DeliveryState.SENT])


async def test_one_that_goes_away_and_comes_back_misses_nothing(world: World) -> None:
    world.hook.go()
    async with world.at_work():
        for n in range(30):
            world.happens(alarm(f"A{n:02}", asset=f"T{n}"))
            await until(lambda: world.dispatch is not None and world.outbox.cursor == world.log.newest_seq())
        await until(lambda: len({a["labels"]["alarm_id"] for r in world.am.answered for a in r.json}) == 30)
        world.hook.status = 200
        world.hook.come()
        await until(lambda: len({a["alarm_id"] for r in world.hook.answered for a in r.json["data"]["alarms"]}) == 30)
    assert len(world.hook.answered) < 30  # what waited came together
    assert max(world.outbox.state.values(), key=lambda state: state == "DEAD") is DeliveryState.SENT


async def test_what_is_refused_for_good_is_given_up_visibly_and_the_next_message_comes(world: World) -> None:
    world.hook.status, world.hook.says = 400, b"no such field"
    world.happens(alarm())
    async with world.at_work() as routes:
        await until(lambda: world.state("hook") == [DeliveryState.DEAD])
        assert "HTTP 400: no such field" in world.outbox.errors.values()
        world.hook.status = 200
        world.happens(alarm("B", asset="T1"))
        await until(lambda: DeliveryState.SENT in world.state("hook"))
        assert await routes.retry("hook") == 1
        await until(lambda: world.state("hook") == [DeliveryState.SENT] * 2)
    assert world.counts["hook", "dead"] == 1


async def test_a_message_whose_answer_was_lost_comes_again_under_the_same_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the try and its record: the next life knows nothing of it."""
    monkeypatch.setattr("alarm.routes.courier.LEAVE_S", 0.0)
    world.hook.go_on.clear()
    world.happens(alarm())
    async with world.at_work():
        await until(lambda: world.hook.requests)
    world.hook.go_on.set()
    async with world.at_work():
        await until(lambda: world.state("hook") == [DeliveryState.SENT])
    assert len(world.hook.requests) == 2
    assert len({(request.headers["webhook-id"], request.body) for request in world.hook.requests}) == 1


async def test_a_try_under_way_at_the_end_of_a_life_is_written_down(world: World) -> None:
    world.hook.go_on.clear()
    world.happens(alarm())
    async with world.at_work():
        await until(lambda: world.hook.requests)
        asyncio.get_running_loop().call_later(0.1, world.hook.go_on.set)  # while the life ends
    assert world.state("hook") == [DeliveryState.SENT]


async def test_a_life_after_a_life_tells_what_happened_between_and_nothing_again(world: World) -> None:
    world.happens(alarm())
    async with world.at_work():
        await until(lambda: world.state("hook") == world.state("am") == [DeliveryState.SENT])
    world.happens(alarm("B", asset="T1"))
    world.happens(alarm(version=2, state=AlarmState.RTN_UNACK, cleared_us=NOW_US))
    async with world.at_work():
        await until(lambda: len(world.hook.answered) == 3)
    told = [(a["alarm_id"], a["change"]) for r in world.hook.answered for a in r.json["data"]["alarms"]]
    assert sorted(told) == [("A", "NEW"), ("A", "OVER"), ("B", "NEW")]


async def test_a_file_that_is_not_sound_changes_nothing_and_is_reported(world: World) -> None:
    async with world.at_work() as routes:
        before = routes.routes
        world.path.write_text("version: 1\nroutes: 7\n")
        state = await routes.reload()
        assert any("routes.yaml:2:" in problem for problem in state.problems)
        assert (routes.routes, routes.refused()) == (before, 1.0)
        assert world.counts["", "file_refused"] == 1
        world.happens(alarm())
        await until(lambda: world.hook.answered)
        world.write(FILE.replace("[hook, am]", "[am]"))
        assert (await routes.reload()).problems == ()
        assert routes.refused() == 0.0
        world.happens(alarm("B", asset="T1"))
        await until(lambda: "B" in {a["labels"]["alarm_id"] for r in world.am.answered for a in r.json})
    assert len(world.hook.answered) == 1


async def test_a_changed_file_is_found_without_a_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alarm.routes.dispatch.LOOK_S", 0.01)
    async with world.at_work() as routes:
        world.write(FILE.replace("name: all", "name: every"))
        await until(lambda: routes.routes.routes[0].name == "every")


async def test_no_secret_is_in_an_error_or_a_repr(world: World) -> None:
    world.hook.status, world.hook.says = 500, f"token {SECRET} at {world.hook.url}/in".encode()
    world.happens(alarm())
    async with world.at_work() as routes:
        await until(lambda: len(world.hook.requests) >= 2)
        shown = [*world.outbox.errors.values(), repr(routes.routes)]
    assert not any(SECRET in text or world.hook.url in text for text in shown)


async def test_a_start_with_a_bad_file_is_refused(world: World) -> None:
    world.path.write_text("version: 2\n")
    with pytest.raises(ConfigError):
        Dispatch(world.path, world.outbox, "log", world.log, ReplayClock(NOW_US))


def test_waits_double_up_to_a_limit_and_have_a_share_of_chance() -> None:
    assert [backoff_s(n, 1.0, 1.0) for n in (0, 1, 2, 5, 6, 1000)] == [1, 2, 4, 32, 60, 60]
    assert backoff_s(3, 1.0, 0.0) == 4


async def test_a_service_that_blocks_gets_one_thread_and_fails_until_it_ends() -> None:
    hangs = threading.Event()
    calls: list[str] = []

    def notify(title: str, body: str) -> bool:
        calls.append(title)
        return hangs.wait(ENOUGH_S)

    threaded = Threaded(notify, 0.05)
    assert "no answer" in (await threaded.send("a", "")).text
    assert "hangs still" in (await threaded.send("b", "")).text
    hangs.set()
    await until(lambda: not threaded._busy)
    assert (await threaded.send("c", "")).state is DeliveryState.SENT
    assert calls == ["a", "c"]


@pytest.mark.parametrize(("answer", "text"), [(False, "did not take"), (ValueError("x"), "ValueError")])
async def test_a_service_that_does_not_take_it_is_a_failed_try(answer: bool | Exception, text: str) -> None:
    def notify(title: str, body: str) -> bool:
        if isinstance(answer, Exception):
            raise answer
        return answer

    threaded = Threaded(notify, 5)
    for _ in range(3):
        outcome = await threaded.send("t", "b")
        assert outcome.state is DeliveryState.WAITING
        assert text in outcome.text


async def test_a_call_that_was_given_up_hides_nothing_else_of_its_asset(world: World) -> None:
    world.one_call = ONE_CALL
    world.hook.status = 400
    world.happens(alarm("A", rule="OVERLOAD"))
    async with world.at_work():
        await until(lambda: world.state("hook") == [DeliveryState.DEAD])
        world.hook.status = 204
        world.happens(alarm("B", rule="HOT_SPOT"))
        await until(lambda: world.state("hook") == [DeliveryState.DEAD, DeliveryState.SENT])
        world.happens(alarm("C", rule="PHASE"))
        world.happens(alarm("D", asset="T1"))
        await until(lambda: world.state("hook") == [DeliveryState.DEAD, DeliveryState.SENT, DeliveryState.SENT])
    told = [[one["alarm_id"] for one in request.json["data"]["alarms"]] for request in world.hook.requests]
    assert told == [["A"], ["B"], ["D"]]


async def test_targets_are_known_before_anything_is_counted_of_them(world: World) -> None:
    told: list[set[str]] = []
    made = Dispatch(
        world.path, world.outbox, "log", world.log, ReplayClock(NOW_US), known=lambda names: told.append(set(names))
    )
    world.write(FILE.replace("  hook:", "  crews:").replace("[hook, am]", "[crews, am]"))
    await made.reload()
    assert told == [{"hook", "am"}, {"crews", "am"}]
