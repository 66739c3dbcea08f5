"""The page of an explanation: every section where there is something, and no text that writes on the screen."""

from __future__ import annotations

from datetime import UTC
from zoneinfo import ZoneInfo

import orjson
import pytest
from rich.console import Console

from meterwatch.cli.explain_page import METERS_MAX, after, at, explain_page
from meterwatch.v1 import alarms_pb2 as pb
from meterwatch.v1 import receipts_pb2

NOON_US = 1_700_000_000_000_000
EVIL = "\x1b[2J[red]"


def page(found: pb.ExplainResponse) -> str:
    console = Console(width=250, color_system=None)
    with console.capture() as capture:
        console.print(explain_page(found, UTC))
    return capture.get()


def full() -> pb.ExplainResponse:
    def evil(**fields: object) -> dict[str, object]:
        return {name: EVIL if value is ... else value for name, value in fields.items()}

    evidence = {"affected": 3, "thresholds": {"x": 1}, "far_us": NOON_US, EVIL: EVIL, "many": list(range(99))}
    alarm = pb.Alarm(
        alarm_id="OUT-1", type="OUTAGE", onset_us=NOON_US, raised_us=NOON_US + 70_000_000, recorded_us=NOON_US,
        evidence_json=orjson.dumps(evidence).decode(), **evil(asset=..., summary=..., feeder=..., district=...),
    )  # fmt: skip
    return pb.ExplainResponse(
        alarm=alarm,
        change=[
            pb.ExplainedChange(
                kind="AMENDED", version=2, recorded_us=NOON_US, **evil(operator=..., note=...),
                field=[
                    pb.FieldChange(name="cleared_us", before_json="null", after_json=str(NOON_US)),
                    pb.FieldChange(name="note", before_json="null", after_json=orjson.dumps(EVIL).decode()),
                ],
            )
        ],
        limit=[pb.ExplainedLimit(name="posterior_min", told_json="0.99", now_json="null")],
        parent=pb.Alarm(**evil(alarm_id=..., summary=...)),
        child_count=[pb.ChildCount(state=pb.ALARM_STATE_SUPPRESSED, alarms=7)],
        child=[pb.Alarm(**evil(alarm_id=..., summary=...))],
        meters=pb.MetersSeen(
            members=500, looked_at=400, off=300, on=90, silent=10,
            meter=[pb.MeterSeen(said="OFF", said_us=NOON_US, **evil(meter=..., transformer=...)) for _ in range(99)],
        ),
        load=[pb.LoadSeen(end_us=NOON_US, b=1.25, coverage=0.5, hold_s=1800), pb.LoadSeen(b=0.0)],
        receipt=[
            receipts_pb2.SubscriberReceipt(
                subscriber=EVIL, kind="RAISED", committed_us=NOON_US, sent_us=NOON_US, received_us=NOON_US + 250_000
            )
        ],
        delivery=[pb.Delivery(made_us=NOON_US, ended_us=NOON_US + 5_000_000, **evil(department=..., last_error=...))],
        **evil(rules_version=..., told_by=...),
    )  # fmt: skip


def test_every_section_is_there_and_no_text_writes_on_the_screen() -> None:
    shown = page(full())
    for title in (
        *("Times", "Judged by", "Evidence", "Meters", "Load", "Folded into", "Folded into this one"),
        *("What happened", "Who was told", "Who had it on the screen"),
    ):
        assert f"\n{title}\n" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    assert "\\x1b[2J[red]" in shown
    for words in ("300 said OFF, 90 said ON, 10 were silent, of 500 (400 looked at)", f"{METERS_MAX} of them"):
        assert words in shown
    for words in (
        "7 SUPPRESSED",
        "posterior_min  0.99  -",
        "30 min",
        "5 s later",
        "0.25 s later",
        "and 87 more",
        "cleared_us",
    ):
        assert words in shown


def test_of_an_overload_only_the_silent_meters_are_listed() -> None:
    found = full()
    found.alarm.type = "OVERLOAD"
    found.meters.meter[0].said = "SILENT"
    found.meters.meter[0].meter = "the silent one"
    shown = page(found)
    assert "10 were silent, of 500 (400 looked at); 1 of them" in shown
    assert "the silent one" in shown
    assert "said OFF" not in shown


def test_an_alarm_of_which_nothing_is_known_has_a_short_page() -> None:
    shown = page(pb.ExplainResponse(alarm=pb.Alarm(alarm_id="OUT-1", onset_us=NOON_US)))
    assert "not on record" in shown
    assert "Meters" not in shown
    assert "Who was told" not in shown


@pytest.mark.parametrize(
    ("us", "since_us", "said"),
    [
        (70_000_000, 10_000_000, "1 min later"),
        (10_000_000, 70_500_000, "1 min before"),
        (5, 5, "0 s later"),
        (2 * 86_400_000_000 + 3_600_000_001, 1, "2 d 1 h later"),
        (0, 5, ""),
        (5, 0, ""),
    ],
)
def test_how_long_after_is_said_in_two_units(us: int, since_us: int, said: str) -> None:
    assert after(us, since_us) == said


def test_times_are_shown_in_the_zone_and_none_as_a_dash() -> None:
    assert at(NOON_US, UTC) == "2023-11-14 22:13:20 UTC"
    assert at(NOON_US, ZoneInfo("Asia/Shanghai")) == "2023-11-15 06:13:20 CST"
    assert at(0, UTC) == "-"
