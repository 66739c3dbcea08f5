"""meterwatch alarms explain: one alarm as a readable page, or as JSON."""

from __future__ import annotations

import sys
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from meterwatch.cli.calls import explain_alarm
from meterwatch.cli.explain_page import explain_page
from meterwatch.cli.operate import app
from meterwatch.cli.output import AddressOption, address_of

__all__ = ["app", "zone_of"]

ZoneOption = Annotated[str, typer.Option("--zone", help="Time zone of the times shown, e.g. Europe/Madrid.")]


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise typer.BadParameter(f"{name!r} is no time zone; give e.g. Europe/Madrid or UTC") from error


@app.command()
def explain(
    context: typer.Context,
    alarm_id: str,
    zone: ZoneOption = "UTC",
    json: Annotated[bool, typer.Option("--json", help="All of it as JSON, as the call answers.")] = False,
    address: AddressOption = None,
) -> None:
    """Say why there is an alarm: what was seen, by which limits, who was silent, what happened to it since."""
    found = explain_alarm(address_of(context, address), alarm_id)
    if json:
        fields = MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        sys.stdout.write(orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else 120, color_system="auto" if terminal else None)
    console.print(explain_page(found, zone_of(zone)))
