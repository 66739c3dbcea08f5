"""meterwatch routes: check, test, list, deliveries, reload, retry."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from alarm.routes.file import read_routes
from alarm.routes.rehearse import Told, rehearse
from meterwatch.alarms import Alarm, AlarmState, AlarmType
from meterwatch.cli.calls import DEADLINE_S, calling
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.cli.reads import time_us
from meterwatch.episodes import Severity
from meterwatch.one_call import FORETOLD
from meterwatch.v1 import alarms_pb2, routes_pb2

app = typer.Typer(no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A routes file.")]
TOLD = ("after", "route", "department", "step", "target", "kind", "group", "at")
DELIVERED = (
    "message_id",
    "alarm_id",
    "change",
    "target",
    "department",
    "state",
    "attempts",
    "made",
    "ended",
    "last_error",
)


@app.command()
def check(file: FileArgument) -> None:
    """Say whether a routes file is sound; all problems at once, with their lines."""
    routes = read_routes(file)
    print(
        f"sound: {file}: {len(routes.routes)} routes, {len(routes.departments)} departments, "
        f"{len(routes.targets)} targets"
    )


@app.command(name="test")
def try_(
    context: typer.Context,
    file: FileArgument,
    alarm: Annotated[str | None, typer.Option(help="An alarm of the service; else one as the options say.")] = None,
    type_: Annotated[AlarmType, typer.Option("--type", case_sensitive=False)] = AlarmType.OUTAGE,
    severity: Annotated[str, typer.Option(help="low, medium, high or critical.")] = "high",
    district: Annotated[str, typer.Option()] = "",
    feeder: Annotated[str, typer.Option()] = "",
    at: Annotated[str | None, typer.Option(help="When it is raised: 2026-01-31T12:00Z; else now.")] = None,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show who would be told of an alarm, and when, if nobody acknowledged it. Nothing is sent."""
    routes = read_routes(file)
    at_us = int(datetime.now(UTC).timestamp() * 1e6) if at is None else time_us(at, "--at")
    if severity.upper() not in Severity.__members__:
        raise typer.BadParameter(f"{severity!r} is none; give low, medium, high or critical", param_hint="--severity")
    if alarm is None:
        shown = _made_up(type_, Severity[severity.upper()], district, feeder, at_us)
    else:
        shown = _of_service(address_of(context, address), alarm)
    found = rehearse(routes, shown, at_us)
    listing((_told(one, at_us) for one in found), TOLD, output)
    if not found:
        typer.echo("nobody would be told", err=True)
        raise typer.Exit(1)


@app.command(name="list")
def list_(context: typer.Context, address: AddressOption = None, output: OutputOption = Output.table) -> None:
    """Show the routes in force and how their targets do."""
    with calling(address_of(context, address)) as call:
        found = call("Routes/ListRoutes", routes_pb2.ListRoutesRequest(), routes_pb2.ListRoutesResponse)
    for problem in found.problem:
        typer.echo(f"not in force: {problem}", err=True)
    listing((_route(route) for route in found.route), ("route", "department", "targets", "escalations"), output)
    columns = ("target", "kind", "waiting", "sent", "dead", "oldest", "last_error")
    listing((_target(target) for target in found.target), columns, output)


@app.command()
def deliveries(
    context: typer.Context,
    alarm: Annotated[str, typer.Option(help="Of this alarm.")] = "",
    target: Annotated[str, typer.Option(help="To this target.")] = "",
    state: Annotated[str, typer.Option(help="WAITING, SENT or DEAD.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 100,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show who was told of which alarm when, newest first."""
    request = routes_pb2.ListDeliveriesRequest(alarm_id=alarm, target=target, state=state.upper(), limit=limit)
    with calling(address_of(context, address)) as call:
        found = call("Routes/ListDeliveries", request, routes_pb2.ListDeliveriesResponse)
    listing((_receipt(receipt) for receipt in found.receipt), DELIVERED, output)


@app.command()
def reload(context: typer.Context, address: AddressOption = None) -> None:
    """Have the service read its routes file again; leave with 1 if it is not sound, and nothing changes."""
    with calling(address_of(context, address)) as call:
        found = call("Routes/ReloadRoutes", routes_pb2.ReloadRoutesRequest(), routes_pb2.ReloadRoutesResponse)
    for problem in found.problem:
        typer.echo(problem, err=True)
    if found.problem:
        raise typer.Exit(1)
    print("in force")


@app.command()
def retry(context: typer.Context, target: str, address: AddressOption = None) -> None:
    """Send the messages again that a target did not get and that were given up."""
    request = routes_pb2.RetryDeliveriesRequest(target=target)
    with calling(address_of(context, address)) as call:
        found = call("Routes/RetryDeliveries", request, routes_pb2.RetryDeliveriesResponse)
    print(f"{found.messages} messages wait again for {target}")


def _made_up(type_: AlarmType, severity: Severity, district: str, feeder: str, at_us: int) -> Alarm:
    return Alarm(
        alarm_id="test", rule=type_.value, asset_kind="transformer", asset_id=0, asset="test", feeder=feeder,
        district=district, state=AlarmState.UNACK_ACTIVE, severity=severity, level="", onset_us=at_us, raised_us=at_us,
        cleared_us=None, recorded_us=at_us, version=1, seq=0, parent_id=None, summary="",
        for_planning=type_.value in FORETOLD,
    )  # fmt: skip


def _of_service(address: str, alarm_id: str) -> Alarm:
    with calling(address) as call:
        request = alarms_pb2.GetAlarmRequest(alarm_id=alarm_id)
        found = call("Alarms/GetAlarm", request, alarms_pb2.GetAlarmResponse, DEADLINE_S).alarm
    return Alarm(
        alarm_id=found.alarm_id, rule=found.type, asset_kind=found.asset_kind, asset_id=0, asset=found.asset,
        feeder=found.feeder, district=found.district, state=AlarmState.UNACK_ACTIVE, severity=Severity(found.severity),
        level=found.level, onset_us=found.onset_us, raised_us=found.raised_us, cleared_us=None,
        recorded_us=found.recorded_us, version=1, seq=0, parent_id=None, summary=found.summary,
        for_planning=found.for_planning,
    )  # fmt: skip


def _told(one: Told, at_us: int) -> dict[str, Any]:
    return {
        "after": f"{(one.at_us - at_us) // 1_000_000} s",
        "route": one.route,
        "department": one.department,
        "step": one.step,
        "target": one.target,
        "kind": one.kind,
        "group": one.group,
        "at": utc(one.at_us),
    }


def _route(route: Any) -> dict[str, Any]:
    return {
        "route": route.route,
        "department": route.department,
        "targets": ", ".join(route.target),
        "escalations": ", ".join(route.escalation),
    }


def _target(target: Any) -> dict[str, Any]:
    return {
        "target": target.target,
        "kind": target.kind or "not in the file",
        "waiting": target.waiting,
        "sent": target.sent,
        "dead": target.dead,
        "oldest": utc(target.oldest_us),
        "last_error": target.last_error,
    }


def _receipt(one: Any) -> dict[str, Any]:
    plain = (
        "message_id", "alarm_id", "seq", "change", "shown", "target", "department", "route", "step", "state",
        "attempts", "last_error",
    )  # fmt: skip
    times = ("made", "queued", "first_try", "last_try", "next_try", "ended")
    row: dict[str, Any] = {name: getattr(one, name) for name in plain}
    return row | {name: utc(getattr(one, f"{name}_us")) for name in times}
