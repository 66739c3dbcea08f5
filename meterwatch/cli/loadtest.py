"""meterwatch loadtest: a simulated fleet against the service, with faults whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from meterwatch.cli.calls import reach
from meterwatch.cli.failures import EX_FAILED, EX_USAGE, fail
from meterwatch.cli.output import address_of
from meterwatch.client.secure import in_plain_text

if TYPE_CHECKING:
    from loadtest.record import Record

SHOWN: Final = (
    "recall", "precision", "pages_per_fault", "time_to_root_s_p50", "false_roots", "warned_in_time", "lead_min_p50",
    "alarms_over_two_hour_rule", "alarms_in_book_over_two_hour_rule",
)  # fmt: skip
"""Figures of the score told on the screen, those of heat where the scenario has them."""
LISTED: Final = 10


def loadtest(
    context: typer.Context,
    scenario: Annotated[str, typer.Option(help="What to play; --list shows all.")] = "day",
    meters: Annotated[int | None, typer.Option(min=100, max=10_000_000, help="Size of the fleet.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed: the same fleet, reads and faults.")] = 1,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Play so many seeds from --seed on, each by itself; figures over all.")
    ] = 1,
    speed: Annotated[float | None, typer.Option(help="Simulated seconds in one of the machine's.")] = None,
    intervals: Annotated[int | None, typer.Option(help="Quarter-hours to play.")] = None,
    streams: Annotated[int | None, typer.Option(help="Head-ends, one stream each.")] = None,
    reads_per_message: Annotated[int | None, typer.Option(help="Most reads in a message.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any knob, as late_share=0.1; repeatable; --list shows all.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Bring up a service of its own (the default).")] = False,
    address: Annotated[str | None, typer.Option(help="host:port of a running service instead.")] = None,
    lead: Annotated[float, typer.Option(help="Seconds to get ready in, with --address; 0: by size.")] = 0.0,
    json: Annotated[Path | None, typer.Option(help="Write the record of the run to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots to this file.")] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="A limit on a figure, as 'ack_p99_ms<500'; repeatable.")
    ] = None,
    ceiling: Annotated[bool, typer.Option(help="Measure the generator's own ceiling first.")] = True,
    listing: Annotated[bool, typer.Option("--list", help="Show scenarios and knobs, and leave.")] = False,
) -> None:
    """Play a fleet against the service, open loop, and compare its alarms with the truth.

    Latency counts from the scheduled time. Leaves with 1 if a read is unaccounted for, if the generator itself fell
    behind, or if a --require does not hold.
    """
    from loadtest.limits import limit
    from loadtest.run import Order, run
    from loadtest.scenarios import SCENARIOS, turned

    if listing:
        _list()
        return
    if scenario not in SCENARIOS:
        fail([f"scenario {scenario!r} is not known; there are {', '.join(SCENARIOS)}"], EX_USAGE)
    if local and address:
        fail(["--local and --address were given; give one"], EX_USAGE)
    try:
        limits = [limit(text) for text in require or ()]
        given = {
            "speed": speed, "intervals": intervals, "streams": streams, "reads_per_message": reads_per_message,
        }  # fmt: skip
        named = [f"{name}={value}" for name, value in given.items() if value is not None]
        knobs = turned(SCENARIOS[scenario][2], [*named, *(settings or ())])
    except ValueError as error:
        fail([str(error)], EX_USAGE)
    if seeds > 1 and (html or address):
        fail(["--seeds brings up a service for each seed and draws no page; leave --address and --html"], EX_USAGE)
    if address:
        reach(address_of(context, address))
    else:
        context.with_resource(in_plain_text())
    console = Console(stderr=True, soft_wrap=True)
    order = Order(
        scenario, meters or SCENARIOS[scenario][1], seed, knobs, address, None, ceiling, lead_s=lead, limits=limits
    )
    records = []
    for one in range(seed, seed + seeds):
        try:
            records.append(run(replace(order, seed=one, ceiling=ceiling and one == seed), console))
        except RuntimeError as error:
            fail([str(error)], EX_FAILED)
        show(records[-1])
    if seeds > 1:
        _told_together(records, json)
        return
    record = records[0]
    if json is not None:
        record.write(json)
    if html is not None:
        from loadtest.page import page

        html.write_text(page(record), "utf-8")
    if record.problems:
        raise typer.Exit(EX_FAILED)


def _told_together(records: list[Record], json: Path | None) -> None:
    """Print the figures over all seeds, and write them; leaves with 1 if a seed failed."""
    from loadtest.seeds import report_of, write

    report = report_of(records)
    width = max(26, *map(len, report["over_seeds"]))
    seeds = f"{len(records)} seeds"
    print(f"\n{seeds:<{width}} {'over all':>10} {'median':>10} {'worst':>10}")
    for name, values in report["over_seeds"].items():
        print(f"{name:<{width}} {report['score'][name]:>10g} {values['median']:>10g} {values['worst']:>10g}")
    if json is not None:
        write(report, json)
    for problem in report["problems"]:
        print(f"PROBLEM: {problem}")
    if report["problems"]:
        raise typer.Exit(EX_FAILED)


def show(record: Record) -> None:
    """Print what came of a run."""
    total, rates, score = record.totals, record.rates, record.score
    rows: list[tuple[str, str]] = []
    stored = f", {total['stored']:,} counted in the database" if "stored" in total else ""
    answers = ", ".join(f"{total[name]:,} {name}" for name in ("accepted", "duplicates", "rejected"))
    rows.append(("reads", f"{total['sent']:,} sent, {total['acked']:,} acknowledged: {answers}{stored}"))
    rows.append(("events", f"{total['events_sent']:,} sent, {total['events_acked']:,} acknowledged"))
    ceiling = rates["generator_ceiling_reads_per_s"]
    generator = f"; the generator's own ceiling is {ceiling:,.0f}" if ceiling else ""
    rows.append(("rate", f"{rates['acked_reads_per_s']:,.0f} reads/s in {record.seconds:,.0f} s{generator}"))
    rows.append(("generator", f"{record.behind_s_max:.2f} s behind its schedule at worst"))
    for name, values in (("ack", record.ack_ms), ("event ack", record.event_ms), ("alarm", record.alarm_ms)):
        if values:
            rows.append((name, "  ".join(f"{key} {value:,.1f} ms" for key, value in values.items())))
    if record.cpu_s:
        rows.append(("CPU", "  ".join(f"{name} {value:,.1f} s" for name, value in sorted(record.cpu_s.items()))))
    for name in SHOWN:
        if score.get(name) is not None:
            rows.append((name, f"{score[name]:g}"))
    width = max(19, *(len(name) for name, _ in rows))
    for name, text in rows:
        print(f"{name:<{width}} {text}")
    for name, sign in (("missed", "missed"), ("false", "false alarm"), ("late_clears", "cleared late")):
        listed = score.get(name, [])
        for row in listed[:LISTED]:
            print(f"{sign}: " + ", ".join(f"{key} {value}" for key, value in row.items() if value is not None))
        if len(listed) > LISTED:
            print(f"{sign}: {len(listed) - LISTED} more; --json has all")
    for one in record.required:
        print(f"{'holds' if one['ok'] else 'FAILS'}: {one['limit']}, found {one['value']}")
        if one.get("note"):
            print(f"  {one['note']}")
    for problem in record.problems:
        print(f"PROBLEM: {problem}")
    print("every read is accounted for" if not record.problems else "FAILED")


def _list() -> None:
    from loadtest.scenarios import SCENARIOS, Knobs

    for name, (what, meters, knobs) in SCENARIOS.items():
        turned = {key: value for key in Knobs.__slots__ if (value := getattr(knobs, key)) != getattr(Knobs(), key)}
        print(f"{name}: {what}; {meters} meters")
        print("    " + " ".join(f"{key}={value}" for key, value in turned.items()))
    print("\nknobs and their defaults:")
    for key in Knobs.__slots__:
        print(f"    {key}={getattr(Knobs(), key)}")
