"""meterwatch registry: import, list; and what `send --register` and `send --backfill` write there."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from meterwatch import registry_csv
from meterwatch.cli.calls import import_registry, list_assets
from meterwatch.cli.failures import EX_FAILED, fail
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing
from meterwatch.cli.reads import time_us
from meterwatch.errors import Rejected

app = typer.Typer(no_args_is_help=True)

KINDS: Final = (
    "feeders", "transformers", "head_ends", "concentrators", "meters", "registers", "check_meters", "thermal",
    "thermal_types", "service_times",
)  # fmt: skip
"""File names, and the order in which they build on each other."""
UNASSIGNED: Final = "UNASSIGNED"
"""Transformer of meters registered on the fly: rated so high that it never looks overloaded."""
LATE_WINDOW_DAYS: Final = 36_500
"""A head-end registered for files sends history, however old."""
RATED_A: Final = 20_000
"""Of meters registered on the fly, on three phases: their rating is not known, so no read is refused for it."""
_COLUMNS: Final = {
    "head_ends": registry_csv.HeadEnd._fields,
    "transformers": registry_csv.Transformer._fields,
    "meters": registry_csv.Meter._fields,
}
LONG_AGO: Final = "2000-01-01"
LONG_AGO_US: Final = 946_684_800_000_000


@app.command(name="import")
def import_(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="A directory, or CSV files named by their kind: meters.csv ...")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    valid_from: Annotated[
        str | None,
        typer.Option(help="Since when transformers, links and multipliers that change are so: ISO 8601 with offset."),
    ] = None,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Import CSV files in one transaction; repeating it changes nothing."""
    files = [(kind, path.name, path.read_bytes()) for kind, path in _files(paths)]
    since_us = 0 if valid_from is None else time_us(valid_from, "--valid-from")
    answer = import_registry(address_of(context, address), files, since_us, dry_run=dry_run)
    _refuse_errors(answer)
    listing(
        ({"kind": c.kind, "added": c.added, "changed": c.changed, "unchanged": c.unchanged} for c in answer.count),
        ("kind", "added", "changed", "unchanged"),
        output,
    )


def _files(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for path in paths:
        for file in [path / f"{kind}.csv" for kind in KINDS] if path.is_dir() else [path]:
            if path.is_dir() and not file.exists():
                continue
            if file.stem not in KINDS:
                raise Rejected("FILE", f"{file} is none of {', '.join(KINDS)}; name the file by what it holds")
            found.append((file.stem, file))
    if not found:
        raise Rejected("FILE", f"{paths[0]} holds no registry file; expected {', '.join(k + '.csv' for k in KINDS)}")
    return sorted(found, key=lambda item: KINDS.index(item[0]))


def _refuse_errors(answer: Any) -> None:
    if answer.error:
        fail([f"{e.file}, line {e.line}: {e.message}" if e.line else e.message for e in answer.error], EX_FAILED)


@app.command(name="list")
def list_(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="feeder, transformer, concentrator, head_end or meter.")] = "meter",
    parent: Annotated[str, typer.Option(help="Only of this transformer (meters) or feeder (transformers).")] = "",
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List what is registered."""
    found = list_assets(address_of(context, address), kind, parent)
    rows = [{"kind": a.kind, "name": a.name, "parent": a.parent, **dict(sorted(a.attribute.items()))} for a in found]
    columns = ["name", "parent", *dict.fromkeys(key for row in rows for key in row if key not in _FIXED)]
    listing(rows, columns, output)


_FIXED: Final = ("kind", "name", "parent")


def register_unknown(address: str, head_end: str, meters: dict[str, int]) -> int:
    """Register the meters (number -> interval_s) nobody knows, under UNASSIGNED; return how many."""
    known = {asset.name for asset in list_assets(address, "meter")}
    missing = {meter: interval_s for meter, interval_s in meters.items() if meter not in known}
    files: list[tuple[str, str, bytes]] = []
    if all(asset.name != head_end for asset in list_assets(address, "head_end")):
        row = {"head_end": head_end, "time_zone": "UTC", "late_window_days": LATE_WINDOW_DAYS}
        files.append(_csv("head_ends", [row]))
    if missing:
        if all(asset.name != UNASSIGNED for asset in list_assets(address, "transformer")):
            files.append(_csv("transformers", [{"transformer": UNASSIGNED, "rated_kva": 1_000_000}]))
        common = {"transformer": UNASSIGNED, "installed_on": LONG_AGO, "head_end": head_end}
        common |= {"phases": "ABC", "rated_a": str(RATED_A)}
        files.append(_csv("meters", [{"meter": m, "interval_s": s, **common} for m, s in missing.items()]))
    if files:
        _refuse_errors(import_registry(address, files, LONG_AGO_US, dry_run=False))
    return len(missing)


def allow_backfill(address: str, head_end: str) -> bool:
    """Give a registered head-end the right to send reads however old; False if it has it."""
    found = {asset.name: dict(asset.attribute) for asset in list_assets(address, "head_end")}
    if head_end not in found:
        raise Rejected(
            "HEAD_END_UNKNOWN", f"head-end {head_end!r} is not in the registry; add --register, or import it"
        )
    if int(found[head_end]["late_window_days"]) >= LATE_WINDOW_DAYS:
        return False
    row = found[head_end] | {"head_end": head_end, "late_window_days": LATE_WINDOW_DAYS}
    _refuse_errors(import_registry(address, [_csv("head_ends", [row])], 0, dry_run=False))
    return True


def _csv(kind: str, rows: list[dict[str, Any]]) -> tuple[str, str, bytes]:
    """A registry file with every column of its kind; what a row does not say takes the service's default."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS[kind], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return kind, f"{kind}.csv", text.getvalue().encode()
