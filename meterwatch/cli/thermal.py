"""meterwatch ambient, meterwatch temperatures: the air that is told, and how hot transformers are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Final

import typer

from meterwatch.cli.calls import calling
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.cli.reads import time_us
from meterwatch.errors import Rejected
from meterwatch.v1 import thermal_pb2 as pb

app = typer.Typer(no_args_is_help=True)
ForecastOption = Annotated[bool, typer.Option("--forecast", help="Air that is forecast, not measured.")]
TOGETHER: Final = 10_000
COLUMNS: Final = ("time", "area", "celsius")
TEMPERATURE_COLUMNS: Final = (
    "transformer", "share_of_rating", "hot_spot_c", "top_oil_c", "ambient_c", "minutes_to_high", "ageing_factor",
    "life_today_h", "unknown_min", "thermal_type",
)  # fmt: skip


@app.command(name="import")
def import_(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV with the columns time, area, celsius.")
    ],
    forecast: ForecastOption = False,
    address: AddressOption = None,
) -> None:
    """Store temperatures of the air. An empty area is everywhere; a time without an offset is UTC."""
    readings = readings_of(file)
    changed = 0
    with calling(address_of(context, address)) as call:
        for at in range(0, len(readings), TOGETHER):
            request = pb.ImportAmbientRequest(reading=readings[at : at + TOGETHER], forecast=forecast)
            changed += call("Thermal/ImportAmbient", request, pb.ImportAmbientResponse).changed
    typer.echo(f"{len(readings)} readings, {changed} new or different")


@app.command(name="list")
def list_(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="From here on; else the last day, of forecasts now.")] = "",
    to: Annotated[str, typer.Option("--to", help="Up to here; else now, of forecasts all.")] = "",
    forecast: ForecastOption = False,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List the temperatures of the air that are stored."""
    request = pb.ListAmbientRequest(
        from_us=time_us(from_, "--from") if from_ else 0,
        to_us=time_us(to, "--to") if to else 0,
        forecast=forecast,
    )
    with calling(address_of(context, address)) as call:
        found = call("Thermal/ListAmbient", request, pb.ListAmbientResponse)
    rows = ({"time": utc(one.at_us), "area": one.area, "celsius": round(one.celsius, 2)} for one in found.reading)
    listing(rows, COLUMNS, output)


def temperatures(
    context: typer.Context,
    transformers: Annotated[list[str] | None, typer.Argument(help="Names; else the hottest.")] = None,
    hottest: Annotated[int, typer.Option(min=1, max=1000, help="How many of the hottest.")] = 20,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show how hot transformers are, and how long until 140 C at their present load."""
    request = pb.ListTemperaturesRequest(transformer=transformers or [], hottest=hottest)
    with calling(address_of(context, address)) as call:
        found = call("Thermal/ListTemperatures", request, pb.ListTemperaturesResponse)
    rows = (
        {
            "transformer": one.transformer, "share_of_rating": round(one.share_of_rating, 3),
            "hot_spot_c": round(one.hot_spot_c, 1), "top_oil_c": round(one.top_oil_c, 1),
            "ambient_c": round(one.ambient_c, 1),
            "minutes_to_high": "never" if one.minutes_to_high == float("inf") else round(one.minutes_to_high),
            "ageing_factor": round(one.ageing_factor, 3), "life_today_h": round(one.life_today_s / 3600, 2),
            "unknown_min": round(one.unknown_s / 60), "thermal_type": one.thermal_type,
        }
        for one in found.temperature
    )  # fmt: skip
    listing(rows, TEMPERATURE_COLUMNS, output)


def readings_of(file: Path) -> list[pb.AmbientReading]:
    """The file's readings. Rejected FILE with every line that will not do."""
    problems, readings = [], []
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.DictReader(text)
        if set(lines.fieldnames or ()) != set(COLUMNS):
            raise Rejected(
                "FILE", f"{file}:1: {lines.fieldnames} arrived; the columns {', '.join(COLUMNS)} were expected"
            )
        for row in lines:
            try:
                at_us, celsius = time_us(row["time"], "time"), float(row["celsius"])
                readings.append(pb.AmbientReading(area=row["area"], at_us=at_us, celsius=celsius))
            except (ValueError, TypeError, typer.BadParameter) as error:
                problems.append(f"{file}:{lines.line_num}: {error}")
    if problems:
        raise Rejected("FILE", "; ".join(problems[:20]))
    return readings
