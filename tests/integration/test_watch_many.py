"""The console in a real terminal with 100,000 active alarms: what an operator does works, and a frame costs the lines
of the screen, however many alarms there are. A service without a database tells the alarms; the console is a process
of its own that counts what it draws."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from served import ENOUGH_S
from test_watch import LINES, WATCH, terminal

from meterwatch.v1 import alarms_pb2 as pb
from meterwatch.v1 import alarms_pb2_grpc

pytestmark = pytest.mark.timeout(300)  # each step waits for a process that reads 100,000 alarms, up to ENOUGH_S
ALARMS, PART = 100_000, 500
ROOTS, CHILDREN = 3, 40
CHANGES = 2_000
NOON_US = 1_700_000_000_000_000
COUNTED = """
import atexit, json, os
from meterwatch.console.app import Console
from meterwatch.console.table import AlarmTable
counts = {"lines": 0, "frames": 0, "lines_max": 0, "renewals": 0}
line, lines, renew = AlarmTable.render_line, AlarmTable.render_lines, Console.renew
def counted_line(self, y):
    counts["lines"] += 1
    return line(self, y)
def counted_lines(self, crop):
    before = counts["lines"]
    made = lines(self, crop)
    counts["frames"] += 1
    counts["lines_max"] = max(counts["lines_max"], counts["lines"] - before)
    return made
def counted_renew(self):
    counts["renewals"] += 1
    renew(self)
AlarmTable.render_line, AlarmTable.render_lines, Console.renew = counted_line, counted_lines, counted_renew
atexit.register(lambda: open(os.environ["COUNTS"], "w").write(json.dumps(counts)))
"""


def alarm(number: int, **changes: Any) -> pb.Alarm:
    """One of the many: medium, acknowledged by nobody, older the higher its number."""
    fields: dict[str, Any] = {
        "alarm_id": f"OUT-{number:06}", "type": "OUTAGE", "asset_kind": "transformer", "asset": f"T-{number:06}",
        "district": f"District {number % 50}", "state": pb.ALARM_STATE_UNACK_ACTIVE, "severity": pb.SEVERITY_MEDIUM,
        "priority": pb.PRIORITY_MEDIUM, "onset_us": NOON_US - number * 1_000_000, "version": 1, "summary": "no supply",
    }  # fmt: skip
    return pb.Alarm(**(fields | changes))


def town() -> list[pb.Alarm]:
    """The last are the gravest: three feeders with what is folded into them, and one whose priority is raised."""
    grave = {"asset_kind": "feeder", "severity": pb.SEVERITY_CRITICAL, "priority": pb.PRIORITY_CRITICAL}
    first = ALARMS - ROOTS
    feeders = [alarm(first + i, asset=f"F-{i}", **grave) for i in range(ROOTS)]
    raised = alarm(first - 1, asset="T-RAISED", priority=pb.PRIORITY_HIGH, severity=pb.SEVERITY_LOW)
    folded = [
        alarm(first - 2 - n, parent_id=feeders[n % ROOTS].alarm_id, state=pb.ALARM_STATE_SUPPRESSED)
        for n in range(ROOTS * CHILDREN)
    ]
    return [*(alarm(n) for n in range(first - 1 - len(folded))), *folded, raised, *feeders]


class Town(alarms_pb2_grpc.AlarmsServicer):
    """Tells the alarms, then what the test or an operator's action changes."""

    def __init__(self) -> None:
        self.known = {one.alarm_id: one for one in town()}
        self.changes: queue.Queue[pb.Transition | None] = queue.Queue()
        self.acted: list[pb.ActOnManyRequest] = []
        self.seq = 1

    def change(self, alarm_id: str, kind: str, **fields: Any) -> pb.Alarm:
        one = self.known[alarm_id]
        after = pb.Alarm.FromString(one.SerializeToString())
        after.MergeFrom(pb.Alarm(**fields))
        after.version += 1
        self.known[alarm_id] = after
        self.seq += 1
        self.changes.put(pb.Transition(seq=self.seq, kind=kind, alarm=after))
        return after

    def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> Iterator[pb.SubscribeResponse]:
        every = list(self.known.values())
        for at in range(0, ALARMS, PART):
            part = pb.Snapshot(seq=1, log_id="L", alarm=every[at : at + PART], complete=at + PART >= ALARMS)
            yield pb.SubscribeResponse(snapshot=part)
        while context.is_active():
            try:
                change = self.changes.get(timeout=1.0)
            except queue.Empty:
                yield pb.SubscribeResponse(bookmark=pb.Bookmark(seq=self.seq, log_id="L", rules_ready=True))
                continue
            if change is None:
                return
            yield pb.SubscribeResponse(transition=change)

    def ActOnMany(self, request: pb.ActOnManyRequest, context: Any) -> pb.ActOnManyResponse:
        self.acted.append(request)
        (target,) = request.target
        if target.expected_version != self.known[target.alarm_id].version:
            return pb.ActOnManyResponse(result=[pb.ActResult(reason="ALARM_CHANGED", message="it has changed")])
        if request.act.kind == pb.ACTION_KIND_SHELVE:
            after = self.change(target.alarm_id, "SHELVED", shelved_until_us=NOON_US, shelved_by=request.act.operator)
        else:
            after = self.change(target.alarm_id, "ACKNOWLEDGED", state=pb.ALARM_STATE_ACK_ACTIVE)
        return pb.ActOnManyResponse(result=[pb.ActResult(alarm_id=target.alarm_id, alarm=after)])

    def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        return pb.ExplainResponse(alarm=self.known[request.alarm_id], rules_version="of the test")

    def GetKpis(self, request: pb.GetKpisRequest, context: Any) -> pb.GetKpisResponse:
        return pb.GetKpisResponse(flood_now=True, paging=ALARMS, pages=77)


@contextmanager
def serving() -> Iterator[tuple[str, Town]]:
    told = Town()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    alarms_pb2_grpc.add_AlarmsServicer_to_server(told, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", told
    finally:
        told.changes.put(None)
        server.stop(0).wait(ENOUGH_S)


def test_a_hundred_thousand_alarms_are_ordered_filtered_acted_on_and_drawn_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTS", str(tmp_path / "counts.json"))
    top = ALARMS - ROOTS * CHILDREN
    keys = 0
    with serving() as (address, told), terminal(
        "alarms", "watch", "--address", address, "--operator", "Kim", program=COUNTED + WATCH
    ) as screen:  # fmt: skip

        def press(text: str) -> None:
            nonlocal keys
            keys += len(text)
            screen.press(text)

        told_all = f"{top} of {ALARMS} alarms, line 1"
        shown = screen.until(lambda text: told_all in text and "FLOOD" in text and "T-000000" in text)  # rows come last
        assert f"{ALARMS} call for somebody now" in shown
        rows = [line for line in shown.splitlines() if "UNACK" in line]
        assert [f"F-{i}" in line and "+40" in line for i, line in enumerate(rows[:ROOTS])] == [
            True
        ] * ROOTS  # newest first
        assert "T-RAISED" in rows[ROOTS]
        assert "low " in rows[ROOTS]
        assert "T-000000" in rows[ROOTS + 1]

        press("a")
        screen.until(lambda text: f"Acknowledge OUT-{ALARMS - ROOTS:06}" in text)
        press("crew sent\r")
        screen.until(lambda text: "v ACK" in text and "done" in text)
        press("s")
        screen.until(lambda text: "Shelve OUT-" in text)
        press("\tsensor\r")
        screen.until(lambda text: f"Shelve OUT-{ALARMS - ROOTS + 1:06}: done" in text)
        kinds = [(one.act.kind, one.act.operator, one.act.note) for one in told.acted]
        assert kinds == [(pb.ACTION_KIND_ACKNOWLEDGE, "Kim", "crew sent"), (pb.ACTION_KIND_SHELVE, "Kim", "sensor")]

        press('/district="District 7" T-0000\r')
        screen.until(lambda text: f"of {ALARMS} alarms" in text and "T-000007" in text and "T-000000" not in text)
        press("e")
        screen.until(lambda text: "Judged by" in text and "of the test" in text)
        press("q")
        screen.until(lambda text: "Judged by" not in text)
        press("\x1b")
        screen.until(lambda text: f"{top} of {ALARMS} alarms" in text)

        for n in range(CHANGES):  # a storm while the operator goes to the end and back
            told.change(f"OUT-{n:06}", "AMENDED", summary=f"changed {n}")
        press("G")
        screen.until(lambda text: f"line {top}" in text)
        press("g")
        screen.until(lambda text: f"changed {CHANGES - 1}" in text or "changed 0" in text)
        press("q")
        assert screen.process.wait(ENOUGH_S) == 0
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert 0 < counts["lines_max"] <= LINES
    # a frame of the list for a refresh with news, for a key, and when something else opens or closes over it
    assert counts["frames"] <= 2 * (counts["renewals"] + keys)
