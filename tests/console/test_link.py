"""The console's link: nothing lost and nothing twice over breaks, and never more waiting than allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from meterwatch.client import Backoff
from meterwatch.console import link as link_module
from meterwatch.console.link import Health, News, ServiceLink
from meterwatch.v1 import alarms_pb2 as pb
from meterwatch.v1 import alarms_pb2_grpc

ENOUGH_S = 30.0  # a limit for a hung test, not an expectation
Script = list[list[pb.SubscribeResponse | grpc.StatusCode]]


class Scripted(alarms_pb2_grpc.AlarmsServicer):
    """Answers each subscription with the next part of a script; the last one stays open."""

    def __init__(self, script: Script) -> None:
        self.requests: list[pb.SubscribeRequest] = []
        self.sent = 0
        self._script = script
        self._over = threading.Event()

    def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> Iterator[pb.SubscribeResponse]:
        self.requests.append(request)
        for step in self._script[min(len(self.requests), len(self._script)) - 1]:
            if isinstance(step, grpc.StatusCode):
                context.abort(step, "scripted")
            self.sent += 1
            yield step
        self._over.wait(ENOUGH_S)

    def release(self) -> None:
        self._over.set()


@contextmanager
def linked(script: Script) -> Iterator[tuple[ServiceLink, Scripted]]:
    servicer = Scripted(script)
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    alarms_pb2_grpc.add_AlarmsServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    link = ServiceLink(f"127.0.0.1:{port}", backoff=Backoff(0.01, 0.02))
    link.start()
    try:
        yield link, servicer
    finally:
        link.close()
        servicer.release()
        server.stop(0).wait(ENOUGH_S)


def snapshot(seq: int, *ids: str, complete: bool = True) -> pb.SubscribeResponse:
    alarms = [pb.Alarm(alarm_id=one, version=1, state=pb.ALARM_STATE_UNACK_ACTIVE) for one in ids]
    return pb.SubscribeResponse(snapshot=pb.Snapshot(seq=seq, alarm=alarms, complete=complete, log_id="L"))


def change(seq: int, alarm_id: str, version: int = 2) -> pb.SubscribeResponse:
    alarm = pb.Alarm(alarm_id=alarm_id, version=version, state=pb.ALARM_STATE_ACK_ACTIVE)
    return pb.SubscribeResponse(transition=pb.Transition(seq=seq, kind="ACKNOWLEDGED", alarm=alarm))


def taken(link: ServiceLink, enough: Callable[[News], bool]) -> News:
    """Take until it is enough; all of it together."""
    all_of_it = News()
    turn = threading.Event()
    for _ in range(int(ENOUGH_S * 100)):
        news = link.take()
        if news.begun:
            all_of_it = News(begun=True)
        all_of_it.rows += news.rows
        all_of_it.changes += news.changes
        all_of_it.folded += news.folded
        if enough(all_of_it):
            return all_of_it
        turn.wait(0.01)  # the feed is on a thread of its own
    raise AssertionError(f"not enough came: {all_of_it}")


def ids(news: News) -> list[tuple[str, int]]:
    return [(row.alarm_id, row.version) for row in news.rows]


def test_after_a_break_it_goes_on_from_the_last_cursor() -> None:
    script: Script = [[snapshot(5, "A"), change(6, "A"), grpc.StatusCode.UNAVAILABLE], [change(7, "B")]]
    with linked(script) as (link, servicer):
        news = taken(link, lambda news: news.changes == 2)
        assert ids(news) == [("A", 1), ("A", 2), ("B", 2)]
        assert [(r.from_seq, r.log_id) for r in servicer.requests] == [(0, ""), (6, "L")]
        assert link.health().reconnects == 1


def test_a_snapshot_that_breaks_comes_anew_and_only_whole() -> None:
    half = snapshot(5, "A", "B", complete=False)
    with linked([[half, grpc.StatusCode.UNAVAILABLE], [half, snapshot(5, "C")]]) as (link, _):
        news = taken(link, lambda news: news.begun)
        assert ids(news) == [("A", 1), ("B", 1), ("C", 1)]


def test_where_the_cursor_is_gone_it_begins_with_a_new_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "AGAIN_S", 0.01)
    script: Script = [
        [snapshot(5, "A"), grpc.StatusCode.UNAVAILABLE],
        [grpc.StatusCode.OUT_OF_RANGE],
        [snapshot(9, "B")],
    ]
    with linked(script) as (link, servicer):
        news = taken(link, lambda news: ids(news) == [("B", 1)])
        assert news.begun
        assert [r.from_seq for r in servicer.requests] == [0, 5, 0]


def test_no_more_waits_than_allowed_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "WAITING_MAX", 10)
    many = [change(i, f"A{i}") for i in range(6, 206)]
    with linked([[snapshot(5), *many]]) as (link, _):
        found: list[tuple[str, int]] = []
        turn = threading.Event()
        for _ in range(int(ENOUGH_S * 100)):
            news = link.take()
            assert len(news.rows) <= 10
            found += ids(news)
            if len(found) == 200:
                break
            turn.wait(0.01)
        assert found == [(f"A{i}", 2) for i in range(6, 206)]


def test_what_the_service_folded_is_counted_and_what_it_says_of_its_rules_is_known() -> None:
    folded = pb.SubscribeResponse(coalesced=pb.Coalesced(merged=7, first_seq=6, last_seq=12))
    bookmark = pb.SubscribeResponse(bookmark=pb.Bookmark(seq=12, log_id="L", rules_ready=False))
    with linked([[snapshot(5), folded, bookmark, change(13, "A")]]) as (link, _):
        assert taken(link, lambda news: news.changes == 1).folded == 7
        assert not link.health().rules_ready


def test_a_refusal_is_shown_while_it_lasts() -> None:
    with linked([[grpc.StatusCode.PERMISSION_DENIED]]) as (link, _):
        turn = threading.Event()
        for _ in range(int(ENOUGH_S * 100)):
            if link.health().trouble:
                break
            turn.wait(0.01)
        assert "scripted" in link.health().trouble
        assert link.health().blind


@pytest.mark.parametrize(
    ("age_s", "begun", "watchdog_age_s", "why"),
    [
        (15.0, True, 90.0, ""),
        (15.6, True, 0.0, "nothing heard for 16 s"),
        (0.0, False, 0.0, "no list yet"),
        (0.0, True, 91.0, "nothing comes through the service for 91 s"),
    ],
)
def test_it_is_blind_without_news_for_15_s_without_a_list_and_without_a_watchdog_for_90_s(
    age_s: float, begun: bool, watchdog_age_s: float, why: str
) -> None:
    assert Health(age_s, begun, 0, True, "", watchdog_age_s).blind == why


def test_bookmarks_say_when_something_came_through_the_service_last() -> None:
    def bookmark(age_s: int) -> pb.SubscribeResponse:
        return pb.SubscribeResponse(bookmark=pb.Bookmark(seq=5, log_id="L", rules_ready=True, watchdog_age_s=age_s))

    with linked([[snapshot(5), bookmark(120), change(6, "A")]]) as (link, _):
        taken(link, lambda news: news.changes == 1)
        assert link.health().blind == "nothing comes through the service for 120 s"
    with linked([[snapshot(5), bookmark(120), bookmark(3), change(6, "A")]]) as (link, _):
        taken(link, lambda news: news.changes == 1)
        assert not link.health().blind
