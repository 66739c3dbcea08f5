"""meterwatch work: plan, cancel, list work on the grid, so that the outages it makes call nobody."""

from __future__ import annotations

import getpass
from typing import Annotated, Final

import typer

from meterwatch.cli.calls import calling
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.cli.reads import time_us
from meterwatch.v1 import registry_pb2 as pb

app = typer.Typer(no_args_is_help=True)
COLUMNS: Final = ("work_id", "asset_kind", "asset", "from", "to", "reason", "planned_by", "cancelled")


@app.command()
def plan(
    context: typer.Context,
    work_id: Annotated[str, typer.Argument(help="Its name; again with the same name changes it.")],
    asset_kind: Annotated[str, typer.Argument(help="feeder, transformer or meter.")],
    asset: Annotated[str, typer.Argument(help="Name of the asset.")],
    from_: Annotated[str, typer.Option("--from", help="Beginning, e.g. 2026-01-05T08:00.")],
    to: Annotated[str, typer.Option("--to", help="End.")],
    reason: Annotated[str, typer.Option(help="What is done.")] = "",
    operator: Annotated[str | None, typer.Option(help="Who; else the name you are logged in with.")] = None,
    address: AddressOption = None,
) -> None:
    """Record planned work: what it takes off supply is kept and calls nobody."""
    work = pb.PlannedWork(
        work_id=work_id, asset_kind=asset_kind, asset=asset, from_us=time_us(from_, "--from"),
        to_us=time_us(to, "--to"), reason=reason, planned_by=operator or getpass.getuser(),
    )  # fmt: skip
    with calling(address_of(context, address)) as call:
        call("Registry/PlanWork", pb.PlanWorkRequest(work=work), pb.PlanWorkResponse)


@app.command()
def cancel(
    context: typer.Context,
    work_id: Annotated[str, typer.Argument(help="Its name.")],
    address: AddressOption = None,
) -> None:
    """Take planned work back; what it explained speaks for itself."""
    with calling(address_of(context, address)) as call:
        call("Registry/CancelWork", pb.CancelWorkRequest(work_id=work_id), pb.CancelWorkResponse)


@app.command(name="list")
def list_(context: typer.Context, address: AddressOption = None, output: OutputOption = Output.table) -> None:
    """List planned work, cancelled work included."""
    with calling(address_of(context, address)) as call:
        found = call("Registry/ListWork", pb.ListWorkRequest(), pb.ListWorkResponse)
    listing(
        (
            {
                "work_id": w.work_id, "asset_kind": w.asset_kind, "asset": w.asset, "from": utc(w.from_us),
                "to": utc(w.to_us), "reason": w.reason, "planned_by": w.planned_by, "cancelled": w.cancelled,
            }
            for w in found.work
        ),
        COLUMNS,
        output,
    )  # fmt: skip
