"""Listings as a table for people or as JSON for programs."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from meterwatch.client.secure import CA, CERT, KEY, TOKEN_FILE, in_environment
from meterwatch.transport.settings import Client


class Output(enum.StrEnum):
    """How a listing is written."""

    table = "table"
    json = "json"
    jsonl = "jsonl"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="table, json (one array) or jsonl (a line each).")]
AddressOption = Annotated[str | None, typer.Option("--address", help="host:port of the service; else as configured.")]


def address_of(context: typer.Context, address: str | None) -> str:
    """The address given, or where the configured service listens; from now on with the certificate files configured."""
    from meterwatch.config import load_config

    config = load_config(context.obj)
    context.with_resource(in_environment(default_files(config.client)))
    if address:
        return address
    host = "127.0.0.1" if config.server.host in ("0.0.0.0", "::") else config.server.host
    return f"[{host}]:{config.server.port}" if ":" in host else f"{host}:{config.server.port}"


def default_files(client: Client) -> dict[str, str | None]:
    """Variables of the environment for the client's configured files, where it has none."""
    files = {CA: client.ca, CERT: client.certificate, KEY: client.key, TOKEN_FILE: client.token_file}
    return {name: None if value is None or name in os.environ else str(value) for name, value in files.items()}


def listing(rows: Iterable[dict[str, Any]], columns: Sequence[str], output: Output) -> None:
    """Write rows; a table shows `columns`, JSON everything."""
    if output is Output.jsonl:
        for row in rows:
            line(row)
        return
    if output is Output.json:
        sys.stdout.write(orjson.dumps(list(rows), option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=not terminal)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    width = None if terminal else 1000
    console = Console(file=sys.stdout, width=width, color_system="auto" if terminal else None, markup=False)
    console.print(table, soft_wrap=not terminal)


def line(row: dict[str, Any]) -> None:
    """Write one JSON object on one line, at once."""
    sys.stdout.write(orjson.dumps(row).decode() + "\n")
    sys.stdout.flush()


def utc(time_us: int) -> str:
    """2026-01-31T12:15:00Z; empty for 0."""
    if not time_us:
        return ""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
