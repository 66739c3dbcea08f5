"""meterwatch alarms shelve-asset, unshelve-asset, shelves: what lies over all alarms of an asset or a type."""

from __future__ import annotations

import getpass
from typing import Annotated, Any, Final

import typer

from meterwatch.alarms import AlarmType
from meterwatch.cli.calls import list_shelves, shelve_asset
from meterwatch.cli.operate import OperatorOption, ReasonOption, app, seconds
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.v1 import alarms_pb2 as pb

__all__ = ["app"]
COLUMNS: Final = ("type", "asset_kind", "asset", "until", "operator", "reason")
AssetArgument = Annotated[
    str, typer.Argument(metavar="[KIND:ASSET]", help="As transformer:T-17; none: every asset, with --type.")
]
OneTypeOption = Annotated[AlarmType | None, typer.Option("--type", help="Only alarms of this type.")]


@app.command(name="shelve-asset")
def shelve(
    context: typer.Context,
    asset: AssetArgument = "",
    reason: ReasonOption = "",
    for_: Annotated[str, typer.Option("--for", help="How long: 90s, 30m, 2h; at most 8h.")] = "1h",
    type_: OneTypeOption = None,
    operator: OperatorOption = None,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Put all alarms of an asset or a type aside, those to come too; they page nobody until it is over."""
    _do(context, asset, reason, seconds(for_), type_, operator, address, output)


@app.command(name="unshelve-asset")
def unshelve(
    context: typer.Context,
    asset: AssetArgument = "",
    reason: ReasonOption = "",
    type_: OneTypeOption = None,
    operator: OperatorOption = None,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Lift such a shelf before its time is over."""
    _do(context, asset, reason, 0, type_, operator, address, output)


@app.command()
def shelves(context: typer.Context, address: AddressOption = None, output: OutputOption = Output.table) -> None:
    """List the shelves over assets and types."""
    listing(map(_row, list_shelves(address_of(context, address))), COLUMNS, output)


def _do(
    context: typer.Context,
    asset: str,
    reason: str,
    shelve_s: int,
    type_: AlarmType | None,
    operator: str | None,
    address: str | None,
    output: Output,
) -> None:
    kind, _, name = asset.partition(":")
    if asset and not (kind and name):
        raise typer.BadParameter(
            f"{asset!r}; expected a kind and an asset such as transformer:T-17", param_hint="ASSET"
        )
    request = pb.ShelveAssetRequest(
        operator=operator or getpass.getuser(),
        reason=reason,
        type=type_.value if type_ else "",
        asset_kind=kind,
        asset=name,
        shelve_s=shelve_s,
    )
    answer = shelve_asset(address_of(context, address), request)
    listing([_row(answer.shelf)], COLUMNS, output)
    typer.echo(f"{len(answer.alarm)} alarms", err=True)


def _row(shelf: pb.AssetShelf) -> dict[str, Any]:
    return {
        "type": shelf.type,
        "asset_kind": shelf.asset_kind,
        "asset": shelf.asset,
        "until": utc(shelf.until_us),
        "operator": shelf.operator,
        "reason": shelf.reason,
    }
