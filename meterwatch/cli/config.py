"""meterwatch config: check, show."""

from __future__ import annotations

import sys

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
    print(f"sound: {config_path(context.obj) or 'no file, defaults'} and the environment")


@app.command()
def show(context: typer.Context, output: OutputOption = Output.table) -> None:
    """Show every key with the value in force; secrets as ***."""
    values = load_config(context.obj).model_dump(mode="json")
    if values["database"]["url"] is not None:
        values["database"]["url"] = "***"
    if output is Output.json:
        sys.stdout.write(orjson.dumps(values, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    rows = [
        {"key": f"{section}.{key}", "value": value} for section, keys in values.items() for key, value in keys.items()
    ]
    listing(rows, ("key", "value"), output)
