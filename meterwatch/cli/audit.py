"""meterwatch audit list: who altered what, and what was refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from meterwatch.cli.calls import calling
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.cli.reads import time_us
from meterwatch.texts import visible
from meterwatch.v1 import audit_pb2 as pb

app = typer.Typer(no_args_is_help=True)
COLUMNS: Final = ("at", "who", "how", "method", "object", "outcome", "peer", "calls")
PAGE: Final = 1000


@app.callback()
def _group() -> None:
    """Without it a group of one command would be that command."""


@app.command(name="list")
def list_(
    context: typer.Context,
    who: Annotated[str, typer.Option(help="Only of this name.")] = "",
    method: Annotated[str, typer.Option(help="Only this method, as Alarms/Act, or service, as Alarms.")] = "",
    object_: Annotated[str, typer.Option("--object", help="Only what was done to this, e.g. an alarm's id.")] = "",
    refused: Annotated[bool, typer.Option("--refused", help="Only what was not done.")] = False,
    from_: Annotated[str, typer.Option("--from", help="Since when, e.g. 2026-01-05T08:00.")] = "",
    to: Annotated[str, typer.Option("--to", help="Until when.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many rows.", min=1)] = 100,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List the audit log, newest first. For the role admin."""
    request = pb.ListAuditRequest(
        who=who, method=method, object=object_, refused=refused,
        from_us=time_us(from_, "--from") if from_ else 0, to_us=time_us(to, "--to") if to else 0,
    )  # fmt: skip
    listing(map(_row, _entries(address_of(context, address), request, limit)), COLUMNS, output)


def _entries(address: str, request: pb.ListAuditRequest, most: int) -> Iterator[pb.AuditEntry]:
    with calling(address) as call:
        while most > 0:
            request.limit = min(most, PAGE)
            page = call("Audit/ListAudit", request, pb.ListAuditResponse).entry
            yield from page
            most -= len(page)
            if len(page) < request.limit:
                return
            request.before_no = page[-1].audit_no


def _row(entry: pb.AuditEntry) -> dict[str, Any]:
    return {
        "audit_no": entry.audit_no, "at": utc(entry.at_us), "who": visible(entry.who), "how": entry.how,
        "method": entry.method, "object": visible(entry.object), "outcome": entry.outcome,
        "peer": entry.peer, "calls": entry.calls,
    }  # fmt: skip
