"""meterwatch reads: list, edit. What is stored, what was known earlier, and values put in by hand."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from meterwatch.channels import CHANNEL_BIT, CHANNELS, Channel
from meterwatch.cli.calls import edit_reads, query_reads
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.quality import ORIGIN_MASK, ORIGIN_SHIFT, Origin
from meterwatch.v1 import ingest_pb2, reads_pb2

app = typer.Typer(no_args_is_help=True)

US: Final = 1_000_000
FOREVER_US: Final = 7_258_118_400_000_000  # 2200-01-01, as far as the service answers
COLUMNS: Final = ("meter", "end", "import_wh", "export_wh", "voltage_a_v", "origin", "quality", "version", "received")


@app.command(name="list")
def list_(
    context: typer.Context,
    meters: Annotated[list[str], typer.Argument(help="Meter numbers.")],
    from_: Annotated[str, typer.Option("--from", help="First interval end: 2026-01-31T12:00Z, 2026-01-31.")] = "",
    to: Annotated[str, typer.Option("--to", help="Interval ends before this.")] = "",
    as_of: Annotated[str, typer.Option("--as-of", help="What the service knew at this time of its clock.")] = "",
    versions: Annotated[bool, typer.Option("--versions", help="Every version of each read, oldest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 1000,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List stored reads by meter and time. Times without an offset are UTC."""
    request = reads_pb2.QueryRequest(
        meter=meters,
        from_us=time_us(from_, "--from") if from_ else 0,
        to_us=time_us(to, "--to") if to else FOREVER_US,
        as_of_us=time_us(as_of, "--as-of") if as_of else 0,
        all_versions=versions,
    )
    columns = (*COLUMNS, "superseded") if versions else COLUMNS
    listing(_first(_rows(address_of(context, address), request), limit), columns, output)


def _first(rows: Iterator[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    for count, row in enumerate(rows):
        if count == limit:
            Console(stderr=True).print(f"the first {limit} reads are shown; give --limit for more", highlight=False)
            return
        yield row


def _rows(address: str, request: reads_pb2.QueryRequest) -> Iterator[dict[str, Any]]:
    for chunk in query_reads(address, request):
        superseded = chunk.superseded_us or [0] * len(chunk.end_us)
        for i, end_us in enumerate(chunk.end_us):
            quality, received_us = chunk.quality[i], chunk.received_us[i]
            values = {
                c.name: _shown(c, getattr(chunk, c.name)[i])
                for c in CHANNELS
                if chunk.channel_mask[i] & CHANNEL_BIT[c.name]
            }
            row = {
                "meter": chunk.meter[chunk.meter_index[i]],
                "end": utc(end_us),
                "interval_s": chunk.interval_s[i],
                **values,
                "origin": Origin((quality & ORIGIN_MASK) >> ORIGIN_SHIFT).name,
                "quality": quality,
                "version": chunk.version[i],
                "received": utc(received_us),
            }
            yield row | ({"superseded": utc(superseded[i])} if request.all_versions else {})


def _shown(channel: Channel, value: float) -> float:
    """The shortest number that its channel holds as this one: 231.4, not 231.39999389648438."""
    return float(str(channel.dtype.type(value))) if channel.dtype.kind == "f" else value


@app.command()
def edit(
    context: typer.Context,
    meter: str,
    end: Annotated[str, typer.Argument(help="End of the interval: 2026-01-31T12:15Z.")],
    values: Annotated[list[str], typer.Argument(help="Channels and their values: import_wh=130 voltage_a_v=231.5.")],
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    operator: Annotated[str | None, typer.Option(help="Who; else the name you are logged in with.")] = None,
    interval_s: Annotated[int, typer.Option(help="Length of the interval where no read is stored yet.")] = 900,
    action_id: Annotated[
        str | None, typer.Option(help="Of an edit whose answer was lost: the same again changes nothing more.")
    ] = None,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Put values of a read in by hand; its other channels stay as they are.

    No later read of a head-end replaces it. Who, when, why, the old and the new values are kept in read_edits.
    """
    where, end_us = address_of(context, address), time_us(end, "END")
    query = reads_pb2.QueryRequest(meter=[meter], from_us=end_us, to_us=end_us + 1)
    read = ingest_pb2.Read(meter=meter, end_us=end_us)
    version = 0
    for chunk in query_reads(where, query):
        version, interval_s = chunk.version[0], chunk.interval_s[0]
        for channel in CHANNELS:
            if chunk.channel_mask[0] & CHANNEL_BIT[channel.name]:
                setattr(read, channel.name, getattr(chunk, channel.name)[0])
    for name, value in map(_value, values):
        setattr(read, name, value)
    request = ingest_pb2.EditReadsRequest(
        operator=operator or getpass.getuser(), reason=reason, interval_s=interval_s, read=[read],
        expected_version=[version],
    )  # fmt: skip
    answer = edit_reads(where, request, action_id)
    listing(
        [{"edited": answer.edited, "unchanged": answer.unchanged, "replayed": answer.replayed}],
        ("edited", "unchanged", "replayed"),
        output,
    )


def _value(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    kind = {channel.name: channel.dtype.kind for channel in CHANNELS}.get(name)
    if kind is None:
        known = ", ".join(channel.name for channel in CHANNELS)
        raise typer.BadParameter(f"{text!r}; expected a channel and a value, of {known}", param_hint="VALUES")
    try:
        return name, float(value) if kind == "f" else int(value)
    except ValueError:
        raise typer.BadParameter(f"{text!r}; expected a number such as {name}=230", param_hint="VALUES") from None


def time_us(text: str, what: str) -> int:
    """UTC microseconds of an ISO 8601 time; without an offset it is UTC."""
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}; expected a time such as 2026-01-31T12:00Z", param_hint=what) from None
    stamp = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    return (stamp - datetime(1970, 1, 1, tzinfo=UTC)) // datetime.resolution
