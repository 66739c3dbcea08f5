"""meterwatch alarms: list, follow, ack. What else operators do: meterwatch.cli.operate."""

from __future__ import annotations

import getpass
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from meterwatch.alarms import AlarmType
from meterwatch.cli.calls import acknowledge, alarm_kpis, list_alarms, reach
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, line, listing, utc
from meterwatch.client import AlarmFeed
from meterwatch.v1 import alarms_pb2

app = typer.Typer(no_args_is_help=True)
COLUMNS = ("alarm_id", "state", "severity", "type", "level", "asset", "onset", "version", "stands_under", "summary")

TypeOption = Annotated[
    list[AlarmType] | None, typer.Option("--type", help="Only of this type; repeatable.", case_sensitive=False)
]
DistrictOption = Annotated[list[str] | None, typer.Option("--district", help="Only of this district; repeatable.")]
FeederOption = Annotated[list[str] | None, typer.Option("--feeder", help="Only of this feeder; repeatable.")]
DepartmentOption = Annotated[
    list[str] | None, typer.Option("--department", help="Only of this department of the routes file; repeatable.")
]

LabelOption = Annotated[
    list[str] | None, typer.Option("--label", help="Only with this label of a user rule: NAME=VALUE; repeatable.")
]


def alarm_row(alarm: Any) -> dict[str, Any]:
    """An alarm as the commands show it."""
    return {
        "alarm_id": alarm.alarm_id,
        "state": alarms_pb2.AlarmState.Name(alarm.state).removeprefix("ALARM_STATE_"),
        "severity": alarms_pb2.Severity.Name(alarm.severity).removeprefix("SEVERITY_"),
        "priority": alarms_pb2.Priority.Name(alarm.priority).removeprefix("PRIORITY_"),
        "repeats": alarm.repeats,
        "type": alarm.type,
        "level": alarm.level,
        "asset_kind": alarm.asset_kind,
        "asset": alarm.asset,
        "feeder": alarm.feeder,
        "district": alarm.district,
        "onset": utc(alarm.onset_us),
        "raised": utc(alarm.raised_us),
        "cleared": utc(alarm.cleared_us),
        "version": alarm.version,
        "parent_id": alarm.parent_id,
        "stands_under": alarm.stands_under,
        "for_planning": alarm.for_planning,
        "acknowledged_by": alarm.acknowledged_by,
        "note": alarm.note,
        "shelved_until": utc(alarm.shelved_until_us),
        "shelved_until_normal": alarm.shelved_until_normal,
        "shelved_by": alarm.shelved_by,
        "shelved_reason": alarm.shelved_reason,
        "out_of_service_by": alarm.out_of_service_by,
        "out_of_service_reason": alarm.out_of_service_reason,
        "assigned_to": alarm.assigned_to,
        "label": dict(alarm.label),
        "summary": alarm.summary,
        "evidence_json": alarm.evidence_json,
    }


@app.command(name="list")
def list_(
    context: typer.Context,
    active: Annotated[bool, typer.Option("--active", help="Only those that need somebody.")] = False,
    type_: TypeOption = None,
    district: DistrictOption = None,
    feeder: FeederOption = None,
    department: DepartmentOption = None,
    label: LabelOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 100,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List alarms, newest first."""
    wanted = wanted_of(type_, district, feeder, department, label)
    found = list_alarms(address_of(context, address), wanted, active_only=active, most=limit)
    listing((alarm_row(alarm) for alarm in found), COLUMNS, output)


@app.command()
def follow(
    context: typer.Context,
    from_seq: Annotated[int, typer.Option(min=0, help="Last seq you have; 0: what is open now, then changes.")] = 0,
    type_: TypeOption = None,
    district: DistrictOption = None,
    feeder: FeederOption = None,
    department: DepartmentOption = None,
    label: LabelOption = None,
    subscriber: Annotated[str, typer.Option(help="Name under which the service keeps receipts; else none.")] = "",
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Print alarms as they change, over breaks of the connection, until Ctrl-C. JSON is one line each in any case."""
    where = address_of(context, address)
    reach(where)
    wanted = wanted_of(type_, district, feeder, department, label)
    feed = AlarmFeed(where, from_seq, wanted, give_up_after_s=300.0, subscriber=subscriber)
    with feed, _closed_by_ctrl_c(feed):
        for message in feed:
            if message.HasField("snapshot"):
                for alarm in message.snapshot.alarm:
                    _print({"seq": message.snapshot.seq, "kind": "OPEN", **alarm_row(alarm)}, output)
            elif message.HasField("transition"):
                change = message.transition
                _print({"seq": change.seq, "kind": change.kind, **alarm_row(change.alarm)}, output)


def wanted_of(
    type_: list[AlarmType] | None,
    district: list[str] | None,
    feeder: list[str] | None,
    department: list[str] | None,
    label: list[str] | None,
) -> alarms_pb2.AlarmFilter:
    """The filter that options name; several values of one label: any of them."""
    labels: dict[str, list[str]] = {}
    for given in label or []:
        name, equals, value = given.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{given!r} is no label; write NAME=VALUE", param_hint="--label")
        labels.setdefault(name, []).append(value)
    return alarms_pb2.AlarmFilter(
        type=type_ or [],
        district=district or [],
        feeder=feeder or [],
        department=department or [],
        label=[alarms_pb2.WantedLabel(name=name, value=values) for name, values in labels.items()],
    )


@contextmanager
def _closed_by_ctrl_c(feed: AlarmFeed) -> Iterator[None]:
    """Ctrl-C ends the feed and then the command; raised inside grpc, KeyboardInterrupt may be swallowed."""
    pressed = threading.Event()

    def close(*_: object) -> None:
        pressed.set()
        threading.Thread(target=feed.close, daemon=True).start()

    before = signal.signal(signal.SIGINT, close)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed.is_set():
        raise KeyboardInterrupt


def _print(row: dict[str, Any], output: Output) -> None:
    if output is Output.table:
        print(
            f"{row['seq']:>8} {row['kind']:<12} {row['state']:<13} {row['severity']:<8} {row['asset']:<16} "
            f"{row['onset']} {row['summary']}",
            flush=True,
        )
    else:
        line(row)


@app.command()
def ack(
    context: typer.Context,
    alarm_id: str,
    note: Annotated[str, typer.Option(help="Why, or what is being done.")] = "",
    operator: Annotated[str | None, typer.Option(help="Who; else the name you are logged in with.")] = None,
    version: Annotated[int, typer.Option(min=0, help="Version you saw; refused if it has changed. 0: any.")] = 0,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Acknowledge an alarm."""
    alarm = acknowledge(address_of(context, address), alarm_id, version, operator or getpass.getuser(), note)
    listing([alarm_row(alarm)], COLUMNS, output)


@app.command()
def kpi(
    context: typer.Context,
    hours: Annotated[int, typer.Option(min=1, max=744, help="Span up to now.")] = 24,
    operators: Annotated[int, typer.Option(min=1, max=1000, help="Who share the alarms.")] = 1,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show how the alarm system does: pages per operator and 10 minutes, floods, stale, chattering, most frequent."""
    found = alarm_kpis(address_of(context, address), hours, operators)
    plain = ("pages", "pages_under", "windows", "pages_max", "flood_windows", "flood_now", "paging", "stale")
    rows = [{"what": name, "value": getattr(found, name)} for name in plain]
    for what, sources in (("chattering", found.chattering), ("top", found.top)):
        rows += [
            {"what": what, "value": s.pages, "type": s.type, "asset": f"{s.asset_kind} {s.asset}"} for s in sources
        ]
    rows += [
        {
            "what": "storm",
            "value": one.meters_off,
            "type": alarms_pb2.StormReason.Name(one.reason).removeprefix("STORM_REASON_"),
            "asset": f"{one.district or 'everywhere'}: {one.meters_off} of {one.meters} meters off, {one.roots} "
            f"outages, {one.paging} alarms, {one.aside} aside, since {utc(one.since_us)}",
        }
        for one in found.storm
    ]
    listing(rows, ("what", "value", "type", "asset"), output)
