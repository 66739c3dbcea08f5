"""meterwatch indices: how reliable supply is, by feeder or district and by day or month."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Final

import typer

from meterwatch.cli.calls import indices as get_indices
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.v1 import reliability_pb2 as pb

COLUMNS: Final = (
    "place", "period", "planned", "customers", "interruptions", "saifi", "saidi_min", "caidi_min", "maifi_e",
)  # fmt: skip


class Place(enum.StrEnum):
    """What the figures are told of."""

    feeder = "feeder"
    district = "district"
    all = "all"


class Period(enum.StrEnum):
    """Periods of regional time."""

    day = "day"
    month = "month"


def indices(
    context: typer.Context,
    by: Annotated[Place, typer.Option(help="Each feeder, each district, or all together.")] = Place.feeder,
    per: Annotated[Period, typer.Option(help="Each day or each month of regional time.")] = Period.month,
    first: Annotated[str, typer.Option("--from", help="First day: 2026-01-31; else the first of this month.")] = "",
    until: Annotated[str, typer.Option("--to", help="Day after the last one; else tomorrow.")] = "",
    place: Annotated[str, typer.Option(help="Only this feeder or district.")] = "",
    time_zone: Annotated[str, typer.Option(help="IANA name; else the time zone of the most head-ends.")] = "",
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """SAIFI, SAIDI, CAIDI and MAIFI_E (IEEE 1366), planned work and all else apart."""
    request = pb.GetIndicesRequest(
        by=pb.IndexPlace.Value(f"INDEX_PLACE_{by.name.upper()}"),
        per=pb.IndexPeriod.Value(f"INDEX_PERIOD_{per.name.upper()}"),
        first_day=first,
        until_day=until,
        place=place,
        time_zone=time_zone,
    )
    answer = get_indices(address_of(context, address), request)
    listing((_row(index) for index in answer.index), COLUMNS, output)
    behind = f"; interruptions of {answer.behind} feeders are still being written" if answer.behind else ""
    typer.echo(f"by the clock of {answer.time_zone}, as of {utc(answer.as_of_us)}{behind}", err=True)


def _row(index: pb.Index) -> dict[str, Any]:
    return {
        "place": index.place,
        "period": index.period,
        "planned": index.planned,
        "customers": round(index.customers, 2),
        "interruptions": index.interruptions,
        "momentary_events": index.momentary_events,
        "saifi": round(index.saifi, 6),
        "saidi_min": round(index.saidi_min, 3),
        "caidi_min": round(index.caidi_min, 3) if index.HasField("caidi_min") else "",
        "maifi_e": round(index.maifi_e, 6),
    }
