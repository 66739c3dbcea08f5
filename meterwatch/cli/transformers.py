"""meterwatch report, forecast, plan: one transformer over time, what is to be expected of it, what could be done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import typer

from meterwatch.cli.calls import calling
from meterwatch.cli.explain import ZoneOption, zone_of
from meterwatch.cli.failures import EX_FAILED, fail
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing, utc
from meterwatch.cli.reads import time_us
from meterwatch.cli.transformer_page import transformer_page
from meterwatch.client.retry import failure_of
from meterwatch.v1 import transformers_pb2 as pb

report_app = typer.Typer(no_args_is_help=True)
forecast_app = typer.Typer(no_args_is_help=True)
plan_app = typer.Typer(no_args_is_help=True)

US: Final = 1_000_000
FORECAST_COLUMNS: Final = ("end", "p10_kva", "p50_kva", "p90_kva", "p_over", "p_hot", "hot_spot_c")
PLAN_COLUMNS: Final = ("from", "to", "measure", "meter", "kw")
Name = Annotated[str, typer.Argument(help="Registered name of the transformer.")]


@report_app.callback()
def _report() -> None:
    """Keeps `transformer` a command of the group."""


@forecast_app.callback()
def _forecast() -> None:
    """Keeps `transformer` a command of the group."""


@report_app.command("transformer")
def report(
    context: typer.Context,
    name: Name,
    from_: Annotated[
        str, typer.Option("--from", help="First moment: 2026-01-31T12:00Z; else 7 days before --to.")
    ] = "",
    to: Annotated[str, typer.Option("--to", help="Last moment; else now, and then the forecast follows.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write the page here; else to stdout.")] = None,
    zone: ZoneOption = "UTC",
    address: AddressOption = None,
) -> None:
    """Write a page with load, band, rating, coverage, temperature and alarms over time; it needs no other file."""
    request = pb.GetCurveRequest(
        transformer=name,
        from_us=time_us(from_, "--from") if from_ else 0,
        to_us=time_us(to, "--to") if to else 0,
    )
    with calling(address_of(context, address)) as call:
        curve = call("Transformers/GetCurve", request, pb.GetCurveResponse)
        forecast = None if to else _forecast_of(call, name)
    html = transformer_page(name, curve, forecast, zone_of(zone))
    if out is None:
        sys.stdout.write(html)
    else:
        out.write_text(html, encoding="utf-8")
        typer.echo(f"{out}: {len(curve.kva)} quarter-hours, {len(curve.alarm)} alarms", err=True)


def _forecast_of(call: Any, name: str) -> Any | None:
    """The newest forecast; None where there is none."""
    try:
        return call("Transformers/GetForecast", pb.GetForecastRequest(transformer=name), pb.GetForecastResponse)
    except grpc.RpcError as error:
        if failure_of(error).reason == "NO_FORECAST":
            return None
        raise


@forecast_app.command("transformer")
def forecast(
    context: typer.Context, name: Name, address: AddressOption = None, output: OutputOption = Output.table
) -> None:
    """Show the newest forecast of a transformer: load with its 80 % band, and the chances of overload and heat."""
    with calling(address_of(context, address)) as call:
        found = call("Transformers/GetForecast", pb.GetForecastRequest(transformer=name), pb.GetForecastResponse)
    listing((_step(found, at) for at in range(len(found.p50_kva))), FORECAST_COLUMNS, output)
    when = f", half of them by {utc(found.overload_us)}" if found.HasField("overload_us") else ""
    typer.echo(
        f"made {utc(found.made_us)} by {found.forecaster}, the best of {found.paths} past days; rated "
        f"{found.rated_kva:g} kVA; chance of an OVERLOAD alarm {found.overload_chance:.0%}{when}",
        err=True,
    )


def _step(found: Any, at: int) -> dict[str, Any]:
    figures = {column: round(getattr(found, column)[at], 3) for column in FORECAST_COLUMNS[1:]}
    return {"end": utc(found.first_end_us + at * found.step_s * US), **figures}


@plan_app.command("transformer")
def plan(
    context: typer.Context,
    name: Name,
    target: Annotated[float, typer.Option(help="Bring the load down to this share of the rating.")] = 1.0,
    careful: Annotated[bool, typer.Option("--careful", help="Plan for the upper band, not the median.")] = False,
    address: AddressOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show the least harm that brings a transformer below its limit. It advises; nothing is switched."""
    load = pb.PLAN_FOR_P90 if careful else pb.PLAN_FOR_P50
    request = pb.PlanLoadRequest(transformer=name, load=load, target_pu=target)
    with calling(address_of(context, address)) as call:
        found = call("Transformers/PlanLoad", request, pb.PlanLoadResponse)
    listing((_measure(one) for one in found.step), PLAN_COLUMNS, output)
    basis = "the forecast" if found.forecast else "the newest load, for four hours"
    if not any(one > found.limit_kw for one in found.before_kw):
        said = "nothing to do"
    elif found.met:
        said = "met"
    else:
        said = f"NOT met: {max(found.shortfall_kw):.1f} kW are missing at worst"
    typer.echo(
        f"by {basis}: {max(found.before_kw):.1f} kW at most, limit {found.limit_kw:.1f} kW, with the plan "
        f"{max(found.after_kw):.1f} kW; hot spot {max(found.before_hot_spot_c):.0f} C, with it "
        f"{max(found.after_hot_spot_c):.0f} C; {found.protected} of {found.customers} customers are protected; {said}",
        err=True,
    )


def _measure(one: Any) -> dict[str, Any]:
    return {
        "from": utc(one.from_us),
        "to": utc(one.to_us),
        "measure": pb.PlanMeasure.Name(one.measure).removeprefix("PLAN_MEASURE_"),
        "meter": one.meter,
        "kw": round(one.kw, 2),
    }


@plan_app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV: meter,protected,shift_kw,avoid_kw,limit_to_kw,limited_at.")],
    valid_from: Annotated[str, typer.Option(help="From when on it counts: 2026-01-31; else now.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    address: AddressOption = None,
) -> None:
    """Take what customers have agreed to spare, and who is protected; all of the file, or nothing."""
    request = pb.ImportFlexibilityRequest(
        name=file.name,
        content=file.read_bytes(),
        valid_from_us=time_us(valid_from, "--valid-from") if valid_from else 0,
        dry_run=dry_run,
    )
    with calling(address_of(context, address)) as call:
        found = call("Transformers/ImportFlexibility", request, pb.ImportFlexibilityResponse)
    if found.error:
        fail(list(found.error), EX_FAILED)
    typer.echo(f"{found.customers} customers {'are sound' if dry_run else 'taken'}", err=True)
