"""meterwatch reads: gaps, completeness. What is missing of what meters owe."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from meterwatch.cli.calls import calling
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.cli.reads import time_us
from meterwatch.client.gaps import missing_reads
from meterwatch.v1 import gaps_pb2

GAP_COLUMNS: Final = ("meter", "first_end", "last_end", "reads", "interval_s")


def gaps(
    context: typer.Context,
    meters: Annotated[list[str] | None, typer.Argument(help="Meter numbers; or give --head-end.")] = None,
    head_end: Annotated[str, typer.Option("--head-end", help="All meters of this head-end.")] = "",
    from_: Annotated[str, typer.Option("--from", help="Interval ends after this; else the last six hours.")] = "",
    to: Annotated[str, typer.Option("--to", help="Interval ends up to this; else now.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 10_000,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List reads that are overdue, as runs of missing interval ends: what a head-end should poll again."""
    found = missing_reads(
        address_of(context, address),
        head_end,
        meters or [],
        time_us(from_, "--from") if from_ else 0,
        time_us(to, "--to") if to else 0,
    )
    rows = (
        {
            "meter": gap.meter,
            "first_end": utc(gap.first_end_us),
            "last_end": utc(gap.last_end_us),
            "reads": gap.reads,
            "interval_s": gap.interval_s,
        }
        for gap in found
    )
    listing(_first(rows, limit), GAP_COLUMNS, output)


def _first(rows: Iterator[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    for count, row in enumerate(rows):
        if count == limit:
            Console(stderr=True).print(f"the first {limit} gaps are shown; give --limit for more", highlight=False)
            return
        yield row


class By(StrEnum):
    """What completeness is counted by."""

    hour = "hour"
    comm_mode = "comm_mode"
    terminal_type = "terminal_type"
    district = "district"


def completeness(
    context: typer.Context,
    by: Annotated[list[By] | None, typer.Option("--by", help="Give it once for each.")] = None,
    from_: Annotated[str, typer.Option("--from", help="Interval ends after this; else the last 24 hours.")] = "",
    to: Annotated[str, typer.Option("--to", help="Interval ends up to this; else now.")] = "",
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Count the reads that meters owed and those that are there. Without --by: by communication mode."""
    chosen = by or [By.comm_mode]
    request = gaps_pb2.CompletenessRequest(
        from_us=time_us(from_, "--from") if from_ else 0,
        to_us=time_us(to, "--to") if to else 0,
        by=[gaps_pb2.CompletenessBy.Value(f"COMPLETENESS_BY_{one.name.upper()}") for one in chosen],
    )
    with calling(address_of(context, address)) as call:
        answer = call("Gaps/Completeness", request, gaps_pb2.CompletenessResponse)
    rows = (
        {one.value: utc(row.hour_us) if one is By.hour else getattr(row, one.value) for one in chosen}
        | {
            "expected": row.expected,
            "present": row.present,
            "missing": row.expected - row.present,
            "percent": round(100 * row.present / row.expected, 3),
        }
        for row in answer.row
    )
    listing(rows, [*(one.value for one in chosen), "expected", "present", "missing", "percent"], output)
