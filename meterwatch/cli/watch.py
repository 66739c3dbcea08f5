"""meterwatch alarms watch: the operators' console."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from typing import Annotated

import typer

from meterwatch.cli.alarms import DepartmentOption, DistrictOption, FeederOption, LabelOption, TypeOption, wanted_of
from meterwatch.cli.calls import reach
from meterwatch.cli.explain import ZoneOption, app, zone_of
from meterwatch.cli.output import AddressOption, address_of

__all__ = ["app"]


@app.command()
def watch(
    context: typer.Context,
    operator: Annotated[
        str | None, typer.Option(envvar="METERWATCH_OPERATOR", help="Who; else the name you are logged in with.")
    ] = None,
    operators: Annotated[int, typer.Option(min=1, max=1000, help="Who share the alarms, for the flood banner.")] = 1,
    zone: ZoneOption = "UTC",
    type_: TypeOption = None,
    district: DistrictOption = None,
    feeder: FeederOption = None,
    department: DepartmentOption = None,
    label: LabelOption = None,
    address: AddressOption = None,
) -> None:
    """Full-screen list of the alarms for a control room, the gravest first; ? shows the keys."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter("watch needs a terminal; use 'meterwatch alarms follow' in a pipe")
    from meterwatch.console.app import Console
    from meterwatch.console.link import ServiceLink

    where = address_of(context, address)
    reach(where)
    wanted = wanted_of(type_, district, feeder, department, label)
    who = operator or getpass.getuser()
    link = ServiceLink(where, wanted, subscriber=f"{who}@{socket.gethostname()}:{os.getpid()}"[-128:])
    Console(link, who, operators, zone_of(zone)).run()
