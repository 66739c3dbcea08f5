"""meterwatch alarms shelve, unshelve, comment, assign, out-of-service, return-to-service: on one alarm or many."""

from __future__ import annotations

import getpass
import re
from typing import Annotated, Any, Final

import typer

from meterwatch.cli.alarms import COLUMNS, DistrictOption, FeederOption, TypeOption, alarm_row, app
from meterwatch.cli.calls import act
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing
from meterwatch.v1 import alarms_pb2 as pb

__all__ = ["app"]
UNIT_S: Final = {"s": 1, "m": 60, "h": 3600}

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ALARM_ID]...", help="Alarms; none: all that a filter below matches.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; to shelve and to comment it must be given.")]
OperatorOption = Annotated[str | None, typer.Option(help="Who; else the name you are logged in with.")]
VersionOption = Annotated[
    int, typer.Option(min=0, help="Version you saw, of one alarm; refused if it has changed. 0: any.")
]


def seconds(text: str) -> int:
    """'90s', '30m' or '2h' in seconds."""
    found = re.fullmatch(r"(\d{1,6})([smh])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time; give e.g. 90s, 30m or 2h")
    return int(found[1]) * UNIT_S[found[2]]


def _do(
    context: typer.Context,
    what: pb.ActRequest,
    ids: list[str] | None,
    wanted: pb.AlarmFilter,
    operator: str | None,
    version: int,
    address: str | None,
    output: Output,
) -> None:
    """Do it and show the alarms after it; leave with 1 if one refused it."""
    filtered = wanted != pb.AlarmFilter()
    if bool(ids) == filtered:
        raise typer.BadParameter("give alarm ids, or at least one of --type, --district, --feeder, and not both")
    if version and len(ids or []) != 1:
        raise typer.BadParameter("--version is for one alarm")
    what.operator = operator or getpass.getuser()
    targets = [pb.ActTarget(alarm_id=alarm_id, expected_version=version) for alarm_id in dict.fromkeys(ids or [])]
    results = act(address_of(context, address), what, targets, wanted if filtered else None)
    listing((alarm_row(result.alarm) for result in results if not result.reason), COLUMNS, output)
    refused = [result for result in results if result.reason]
    for result in refused:
        typer.echo(f"{result.alarm_id}: {result.reason}: {result.message}", err=True)
    if refused:
        raise typer.Exit(1)


def _filter(type_: list[Any] | None, district: list[str] | None, feeder: list[str] | None) -> pb.AlarmFilter:
    return pb.AlarmFilter(type=type_ or [], district=district or [], feeder=feeder or [])


@app.command()
def shelve(
    context: typer.Context,
    alarm_ids: IdsArgument = None,
    reason: ReasonOption = "",
    for_: Annotated[str, typer.Option("--for", help="How long: 90s, 30m, 2h; at most 8h.")] = "1h",
    until_normal: Annotated[bool, typer.Option("--until-normal", help="Only until it returns to normal.")] = False,
    type_: TypeOption = None,
    district: DistrictOption = None,
    feeder: FeederOption = None,
    operator: OperatorOption = None,
    version: VersionOption = 0,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Put alarms aside for a time; they page nobody until it is over."""
    what = pb.ActRequest(kind=pb.ACTION_KIND_SHELVE, note=reason, shelve_s=seconds(for_), until_normal=until_normal)
    _do(context, what, alarm_ids, _filter(type_, district, feeder), operator, version, address, output)


@app.command()
def assign(
    context: typer.Context,
    alarm_ids: IdsArgument = None,
    to: Annotated[str, typer.Option("--to", help="To whom; empty: to nobody.")] = "",
    reason: ReasonOption = "",
    type_: TypeOption = None,
    district: DistrictOption = None,
    feeder: FeederOption = None,
    operator: OperatorOption = None,
    version: VersionOption = 0,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Give alarms to somebody."""
    what = pb.ActRequest(kind=pb.ACTION_KIND_ASSIGN, note=reason, assignee=to)
    _do(context, what, alarm_ids, _filter(type_, district, feeder), operator, version, address, output)


def _plain(name: str, kind: pb.ActionKind.ValueType, text: str) -> None:
    """A command that needs nothing but alarms and a reason."""

    @app.command(name=name, help=text)
    def command(
        context: typer.Context,
        alarm_ids: IdsArgument = None,
        reason: ReasonOption = "",
        type_: TypeOption = None,
        district: DistrictOption = None,
        feeder: FeederOption = None,
        operator: OperatorOption = None,
        version: VersionOption = 0,
        address: AddressOption = None,
        output: OutputOption = Output.table,
    ) -> None:
        what = pb.ActRequest(kind=kind, note=reason)
        _do(context, what, alarm_ids, _filter(type_, district, feeder), operator, version, address, output)


_plain("unshelve", pb.ACTION_KIND_UNSHELVE, "Lift a shelf before its time is over.")
_plain("comment", pb.ACTION_KIND_COMMENT, "Write something into the log of alarms: --reason TEXT.")
_plain("out-of-service", pb.ACTION_KIND_OUT_OF_SERVICE, "Take alarms out until they are put back; they page nobody.")
_plain("return-to-service", pb.ACTION_KIND_RETURN_TO_SERVICE, "Put alarms back into service.")
