"""Departments of a real service: receivers that fail, hang, go and come back, while the service is killed and started.

Nothing is lost, nothing comes in another order, one id always says the same, and at the end the receivers know of every
alarm what the table has.
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from databases import Databases
from receivers import Receiver, receiver
from service_process import ServiceProcess, until
from test_kill import SEED, START, Run, fresh_database

from meterwatch.v1 import alarms_pb2, routes_pb2

pytestmark = pytest.mark.timeout(300)  # a run with kills is one fixture; a busy machine takes a minute for it
KILLS = 6
FILE = """
version: 1
targets:
  hook: {{kind: webhook, url: "{hook}/in", secret: {{file: secret.txt}}, timeout_s: 0.5, rate: {{messages: 10000}}}}
  am: {{kind: alertmanager, url: "{am}", timeout_s: 0.5, resend_s: 5, rate: {{messages: 10000}}}}
departments:
  noc: {{targets: [hook]}}
  grid: {{targets: [am]}}
routes:
  - {{name: all, department: noc, group_wait_s: 0, group_interval_s: 0, group_by: [feeder]}}
  - {{name: outages, match: {{type: [OUTAGE]}}, department: grid, group_wait_s: 0, group_interval_s: 0}}
"""


class Town:
    """A run of the town with its receivers, and how to ask it."""

    def __init__(self, run: Run, hook: Receiver, am: Receiver) -> None:
        self.run, self.hook, self.am = run, hook, am

    def sql(self, query: str) -> list[Any]:
        with psycopg.connect(self.run.dsn) as connection:
            return connection.execute(query.encode()).fetchall()

    def call(self, method: str, request: Any, answer: Any) -> Any:
        with grpc.insecure_channel(self.run.process.address) as channel:
            raw = channel.unary_unary(f"/meterwatch.v1.{method}")(request.SerializeToString(), timeout=60)
            return answer.FromString(raw)


def trouble(hook: Receiver, am: Receiver, over: threading.Event) -> None:
    """One after the other goes away and comes back."""
    for one in itertools.cycle((hook, am)):
        one.go()
        ended = over.wait(0.3)
        one.status = 200
        one.come()
        if ended or over.wait(0.5):
            return


@pytest.fixture(scope="module")
def town(cluster: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    place = tmp_path_factory.mktemp("routes")
    name, dsn = fresh_database(cluster)
    rng = random.Random(SEED)
    with receiver() as hook, receiver() as am:
        hook.turns = itertools.cycle(("fails", "takes", "hangs"))
        am.turns = itertools.cycle(("hangs", "takes", "fails"))
        (place / "secret.txt").write_text("a secret of the tests")
        file = place / "routes.yaml"
        file.write_text(FILE.format(hook=hook.url, am=am.url))
        settings = {"METERWATCH_ALARMS__ROUTES_FILE": str(file)}
        with ServiceProcess(dsn, START, place / "service.log", **settings) as process:
            process.start()
            found = Town(Run(process, dsn), hook, am)
            over = threading.Event()
            troubling = threading.Thread(target=trouble, args=(hook, am, over))
            troubling.start()
            try:
                found.run.go(sorted(rng.sample(range(35, 290), KILLS)), rng)
            finally:
                over.set()
                troubling.join()
            waits = "SELECT count(*) FROM deliveries WHERE state = 'WAITING'"
            due = "SELECT count(*) FROM notices WHERE due_at IS NOT NULL"
            behind = "SELECT c.seq - r.seq FROM alarm_cursor c, route_cursor r"
            until(lambda: [found.sql(q)[0][0] for q in (behind, due, waits)] == [0, 0, 0], "everything was told")
            yield found
    cluster.drop_database(name)


def test_every_department_knows_of_every_alarm_what_the_table_has(town: Town) -> None:
    table = {row[0]: row[1:] for row in town.sql("SELECT alarm_id, rule, state FROM alarms")}
    told = {a["alarm_id"]: a["state"] for r in town.hook.answered for a in r.json["data"]["alarms"]}
    over = {"RTN_UNACK", "NORMAL"}
    for alarm_id, state in told.items():
        assert state == table[alarm_id][1] or {state, table[alarm_id][1]} <= over, alarm_id
    withdrawn = {row[0] for row in town.sql("SELECT alarm_id FROM notices WHERE target = 'hook' AND told_seq IS NULL")}
    states = "('UNACK_ACTIVE', 'ACK_ACTIVE', 'RTN_UNACK')"
    paged = {row[0] for row in town.sql(f"SELECT alarm_id FROM alarm_log WHERE alarm->>'state' IN {states}")}
    assert len(paged) > 2
    assert paged - withdrawn == set(told)
    outages = {alarm_id for alarm_id in set(told) if table[alarm_id][0] == "OUTAGE"}
    assert {a["labels"]["alarm_id"] for r in town.am.answered for a in r.json} == outages


def test_one_id_says_one_thing_and_no_older_state_comes_after_a_newer(town: Town) -> None:
    said: dict[str, bytes] = {}
    newest: dict[str, int] = {}
    assert len(town.hook.requests) > len({r.headers["webhook-id"] for r in town.hook.answered}) > 2
    for request in town.hook.requests:
        first = request.headers["webhook-id"] not in said
        assert said.setdefault(request.headers["webhook-id"], request.body) == request.body
        for one in request.json["data"]["alarms"] if first else ():
            assert newest.get(one["alarm_id"], 0) < one["seq"]
            newest[one["alarm_id"]] = one["seq"]


def test_a_transition_is_told_once(town: Town) -> None:
    doubled = town.sql(
        "SELECT target, alarm_id, seq FROM alarm_deliveries GROUP BY target, alarm_id, seq HAVING count(*) > 1"
    )
    assert doubled == []
    assert town.sql("SELECT DISTINCT state FROM deliveries") == [("SENT",)]


def test_receipts_are_there_by_call(town: Town) -> None:
    (alarm_id,) = town.sql("SELECT alarm_id FROM notices WHERE target = 'am' AND told_seq IS NOT NULL LIMIT 1")[0]
    request = routes_pb2.ListDeliveriesRequest(alarm_id=alarm_id)
    found = town.call("Routes/ListDeliveries", request, routes_pb2.ListDeliveriesResponse)
    assert {receipt.target for receipt in found.receipt} == {notice.target for notice in found.notice} == {"am", "hook"}
    for one in found.receipt:
        assert 0 < one.queued_us <= one.first_try_us <= one.last_try_us <= one.ended_us
        assert (one.state, one.next_try_us) == ("SENT", 0)
    listed = town.call("Routes/ListRoutes", routes_pb2.ListRoutesRequest(), routes_pb2.ListRoutesResponse)
    assert [(target.target, target.waiting, target.dead) for target in listed.target] == [("am", 0, 0), ("hook", 0, 0)]
    assert [route.department for route in listed.route] == ["noc", "grid"]


def test_alarms_are_listed_by_department(town: Town) -> None:
    wanted = alarms_pb2.AlarmFilter(department=["grid"])
    request = alarms_pb2.ListAlarmsRequest(filter=wanted, page_size=1000)
    found = town.call("Alarms/ListAlarms", request, alarms_pb2.ListAlarmsResponse)
    assert {alarm.type for alarm in found.alarm} == {"OUTAGE"}
    request.filter.department[0] = "gird"
    with pytest.raises(grpc.RpcError) as raised:
        town.call("Alarms/ListAlarms", request, alarms_pb2.ListAlarmsResponse)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_a_subscription_by_department_has_every_transition_of_its_alarms_and_no_other(town: Town) -> None:
    [[log_id]] = town.sql("SELECT log_id::text FROM service_identity")
    [[newest]] = town.sql("SELECT seq FROM alarm_cursor")
    request = alarms_pb2.SubscribeRequest(log_id=log_id, filter=alarms_pb2.AlarmFilter(department=["grid"]))
    told: list[int] = []
    with grpc.insecure_channel(town.run.process.address) as channel:
        call = channel.unary_stream("/meterwatch.v1.Alarms/Subscribe")(request.SerializeToString(), timeout=60)
        for raw in call:
            message = alarms_pb2.SubscribeResponse.FromString(raw)
            if message.HasField("transition"):
                told.append(message.transition.seq)
            if message.bookmark.seq >= newest:
                call.cancel()
                break
    outages = town.sql(f"SELECT seq FROM alarm_log WHERE alarm->>'rule' = 'OUTAGE' AND seq <= {newest} ORDER BY seq")
    assert [seq for seq in told if seq <= newest] == [seq for [seq] in outages]
    assert len(told) > 2


def test_a_hangup_reads_the_file_again_and_a_bad_one_changes_nothing(town: Town) -> None:
    def listed() -> Any:
        return town.call("Routes/ListRoutes", routes_pb2.ListRoutesRequest(), routes_pb2.ListRoutesResponse)

    file, sound = Path(listed().file), Path(listed().file).read_text()
    file.write_text(sound.replace("name: all", "name: every"))
    town.run.process.signal(signal.SIGHUP)
    until(lambda: listed().route[0].route == "every", "the new file is in force")
    file.write_text(sound.replace("version: 1", "version: 7"))
    request, answer = routes_pb2.ReloadRoutesRequest(), routes_pb2.ReloadRoutesResponse
    (problem,) = town.call("Routes/ReloadRoutes", request, answer).problem
    assert f"{file}:2: " in problem
    assert (listed().route[0].route, list(listed().problem)) == ("every", [problem])
    file.write_text(sound)
    assert not town.call("Routes/ReloadRoutes", request, answer).problem
