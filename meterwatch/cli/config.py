"""meterwatch config: check, show."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import orjson
import typer

from meterwatch.cli.output import Output, OutputOption, listing
from meterwatch.config import config_path, load_config

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(context: typer.Context) -> None:
    """Say whether the configuration is sound; all problems at once."""
    config = load_config(context.obj)
    if config.alarms.routes_file is not None:
        from alarm.routes.file import read_routes

        read_routes(config.alarms.routes_file)
    from meterwatch.server import rotation_of

    rotation_of(config.server.tls)
    print(f"sound: {config_path(context.obj) or 'no file, defaults'} and the environment")


@app.command()
def show(context: typer.Context, output: OutputOption = Output.table) -> None:
    """Show every key with the value in force; secrets as asterisks."""
    values = load_config(context.obj).model_dump(mode="json")
    if output is Output.json:
        sys.stdout.write(orjson.dumps(values, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    listing(({"key": key, "value": value} for key, value in _flat(values)), ("key", "value"), output)


def _flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
