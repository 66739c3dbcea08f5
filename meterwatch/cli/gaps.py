"""meterwatch reads: gaps, completeness, estimate. What is missing of what meters owe."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from meterwatch.cli.calls import calling, estimate_reads
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


ESTIMATE_COLUMNS: Final = ("meter", "end", "method", "import_wh", "export_wh")


def estimate(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="Interval ends after this: 2026-01-31T12:00Z.")],
    to: Annotated[str, typer.Option("--to", help="Interval ends up to this, at most 8 days later.")],
    meters: Annotated[list[str] | None, typer.Option("--meter", help="A meter; give it once for each.")] = None,
    head_end: Annotated[str, typer.Option("--head-end", help="All meters of this head-end with gaps.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, write nothing.")] = False,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Estimate missing reads now and show what was written. Any read that is sent takes the place of its estimate."""
    request = gaps_pb2.EstimateRequest(
        head_end=head_end,
        meter=meters or [],
        from_us=time_us(from_, "--from"),
        to_us=time_us(to, "--to"),
        dry_run=dry_run,
    )
    listing(_estimates(address_of(context, address), request), ESTIMATE_COLUMNS, output)


def _estimates(address: str, request: gaps_pb2.EstimateRequest) -> Iterator[dict[str, Any]]:
    for chunk in estimate_reads(address, request):
        columns = zip(chunk.meter, chunk.end_us, chunk.method, chunk.import_wh, chunk.export_wh, strict=True)
        for meter, end_us, method, import_wh, export_wh in columns:
            yield {
                "meter": meter,
                "end": utc(end_us),
                "method": gaps_pb2.EstimateMethod.Name(method).removeprefix("ESTIMATE_METHOD_"),
                "import_wh": None if import_wh < 0 else import_wh,
                "export_wh": None if export_wh < 0 else export_wh,
            }
