"""meterwatch send: files of other systems into the service.

Every file is read to its end before anything is sent: one that is broken stops the command, and nothing of any file is
stored. Refuses to create meters unless told to.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from meterwatch.cli.calls import reach
from meterwatch.cli.failures import EX_FAILED
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing
from meterwatch.cli.registry import allow_backfill, register_unknown
from meterwatch.client import HeadEnd, Totals
from meterwatch.files import FileReads, read_file
from meterwatch.quality import Origin

# FileReads.method to the origin codes of the contract
_ORIGIN = np.array([Origin.MEASURED, Origin.SUBSTITUTED, Origin.ESTIMATED], np.uint32)
_OFFSET = re.compile(r"([+-]?)(\d{1,2})(?::?(\d\d))?", re.ASCII)


def send(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="NEM12, NEM13 or CSV, plain or zipped.")],
    address: AddressOption = None,
    head_end: Annotated[str, typer.Option(help="Registered name to send as.")] = "files",
    register: Annotated[bool, typer.Option("--register", help="Register meters nobody knows, as UNASSIGNED.")] = False,
    backfill: Annotated[
        bool,
        typer.Option(
            "--backfill",
            help="Let this head-end send reads however old, from now on: sets its late_window_days in the registry. "
            "Alarms of such reads are history and page nobody.",
        ),
    ] = False,
    epoch: Annotated[
        int | None, typer.Option(min=1, help="The same number again: what is stored is answered, not written again.")
    ] = None,
    batch_rows: Annotated[int, typer.Option(min=1, max=65_000, help="Most reads in a batch.")] = 20_000,
    market_utc_offset: Annotated[str, typer.Option(help="Clock of NEM12 files, hours from UTC.")] = "+10:00",
    time_zone: Annotated[str | None, typer.Option(help="Clock of CSV times without offset: Europe/Berlin.")] = None,
    interval_s: Annotated[int | None, typer.Option(help="Interval length of CSV files without such a column.")] = None,
    give_up_after_s: Annotated[float, typer.Option(help="Leave after so long without an answer.")] = 60.0,
    output: OutputOption = Output.table,
) -> None:
    """Send files and say what became of each read.

    All files are read before anything is sent: if one is broken, its lines are named and nothing of any file is stored.
    A read the service refuses (unknown meter, too old, impossible) goes to its quarantine table; the others are stored.
    Meters nobody knows are created with --register only. Leaves with 1 if a file, a batch or a read was refused.
    """
    where = address_of(context, address)
    offset_s = _offset_s(market_utc_offset)
    console = Console(stderr=True, soft_wrap=True)
    loaded = [read_file(f, time_zone=time_zone, interval_s=interval_s, utc_offset_s=offset_s) for f in files]
    reads = [file.storable() for file in loaded]
    for file in reads:
        for note in file.notes:
            console.print(f"{file.source}: {note}", markup=False, highlight=False)
    reach(where)
    if register:
        count = register_unknown(where, head_end, _meters(reads))
        console.print(f"{count} meter{'' if count == 1 else 's'} registered", highlight=False)
    if backfill and allow_backfill(where, head_end):
        console.print(f"head-end {head_end} may send reads however old from now on", markup=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("reads", total=sum(file.rows for file in reads))
        sender = HeadEnd(
            where,
            head_end,
            epoch,
            "meterwatch send",
            batch_rows=batch_rows,
            give_up_after_s=give_up_after_s,
            on_ack=lambda seq, ack, latency_s: progress.advance(
                task, ack.accepted + ack.versions + ack.duplicates + ack.rejected
            ),
        )
        with sender:
            for file in reads:
                _send(sender, file)
            totals = sender.flush()
    listing(_rows(totals, reads), ("what", "count"), output)
    for reason, change in _HINT.items():
        if totals.rejected_reasons[reason]:
            console.print(f"{reason}: {change}", markup=False, highlight=False)
    if totals.nacked or totals.rejected:
        raise typer.Exit(EX_FAILED)


_HINT: Final = {
    "UNKNOWN_METER": "these meters are not in the registry; import them, or send again with --register",
    "TOO_OLD": "these reads are older than the late window of the head-end; send again with --backfill",
    "NOT_YOURS": "these meters belong to another head-end; send as that one with --head-end",
}


def _offset_s(text: str) -> int:
    match = _OFFSET.fullmatch(text)
    if not match:
        raise typer.BadParameter(f"{text!r}; expected hours from UTC such as +10:00", param_hint="--market-utc-offset")
    sign, hours, minutes = match.groups()
    return (-1 if sign == "-" else 1) * (int(hours) * 3600 + int(minutes or 0) * 60)


def _meters(reads: list[FileReads]) -> dict[str, int]:
    """Interval length per meter, its most frequent one."""
    found: dict[str, int] = {}
    for file in reads:
        key = file.meter_index.astype(np.int64) << 20 | file.interval_s
        pairs, counts = np.unique(key, return_counts=True)
        for pair in pairs[np.argsort(counts)].tolist():
            found[file.meter[pair >> 20]] = pair & 0xFFFFF
    return found


def _send(sender: HeadEnd, file: FileReads) -> None:
    origin = _ORIGIN[file.method]
    channels: dict[str, Any] = file.channels
    sender.send_columns(
        file.meter,
        file.meter_index,
        file.end_us,
        file.interval_s,
        mask=file.present,
        origin=origin if origin.any() else None,
        **channels,
    )


def _rows(totals: Totals, reads: list[FileReads]) -> list[dict[str, object]]:
    skipped: Counter[str] = Counter()
    for file in reads:
        skipped.update(file.skipped)
    counts: list[tuple[str, int]] = [
        ("sent", totals.sent),
        ("accepted", totals.accepted),
        ("duplicates", totals.duplicates),
        ("versions", totals.versions),
        ("rejected", totals.rejected),
        *((f"rejected {reason}", count) for reason, count in totals.rejected_reasons.most_common()),
        *((f"skipped, {reason}", count) for reason, count in skipped.most_common()),
        ("batches refused", totals.nacked),
        *((f"refused, {reason}", count) for reason, count in totals.nack_reasons.most_common()),
    ]
    return [{"what": what, "count": count} for what, count in counts]
