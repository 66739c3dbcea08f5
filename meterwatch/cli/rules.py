"""meterwatch rules: replay. Looks at the database the service uses; never writes."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from psycopg_pool import AsyncConnectionPool
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from meterwatch.alarms import Alarm
from meterwatch.cli.db import dsn_of
from meterwatch.cli.output import Output, OutputOption, listing, utc
from meterwatch.cli.reads import time_us
from meterwatch.config import Config, load_config
from meterwatch.errors import ConfigError
from meterwatch.profile_file import known_profiles

if TYPE_CHECKING:
    from meterwatch.user_replay import Found

app = typer.Typer(no_args_is_help=True)

SAY_EVERY_S: Final = 10.0
"""Where there is no terminal to draw a bar on."""
COLUMNS: Final = ("difference", "rule", "asset", "onset", "raised", "cleared", "severity", "level")


@app.command()
def replay(
    context: typer.Context,
    from_: Annotated[str, typer.Option("--from", help="Alarms that began from then on: 2026-01-31T12:00Z.")],
    to: Annotated[str, typer.Option("--to", help="And before this.")],
    profile: Annotated[str | None, typer.Option(help="Set of thresholds; else that of the configuration.")] = None,
    profiles: Annotated[Path | None, typer.Option(help="File of profiles; else that of the configuration.")] = None,
    rules: Annotated[
        list[str] | None, typer.Option("--rules", help="Files of user rules: show what these would have raised, alone.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show the alarms that are the same, too.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show which alarms a profile would have raised over stored reads, and what differs from those that were.

    With --rules: which alarms these files of user rules would have raised. Else:
    new: only the profile has it; gone: only the table has it; changed: both, with other times or another level. The
    service need not run. Nothing is written.
    """
    from meterwatch.replay import Difference, Replay
    from meterwatch.replay import replay as run

    config = load_config(context.obj)
    known = known_profiles(profiles or config.rules.profiles_file).rules
    chosen = known.get(profile or config.rules.profile)
    if chosen is None:
        raise ConfigError([f"profile {profile!r} is not known; known are {', '.join(sorted(known))}."])
    from_us, to_us = time_us(from_, "--from"), time_us(to, "--to")
    if from_us >= to_us:
        raise typer.BadParameter(f"{to!r} is not after --from; give a later time", param_hint="--to")
    console = Console(stderr=True, soft_wrap=True)
    if rules:
        found_rows = [_raised(one) for one in asyncio.run(_replayed(config, rules, from_us, to_us))]
        console.print(f"{len(found_rows)} alarms", highlight=False)
        listing(found_rows, COLUMNS[1:], output)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[reads]:,} reads"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("replay", total=None, reads=0)

        said_s = time.monotonic()

        def told(done: int, slices: int, reads: int) -> None:
            nonlocal said_s
            progress.update(task, completed=done, total=slices, reads=reads)
            if progress.disable and time.monotonic() - said_s > SAY_EVERY_S:
                said_s = time.monotonic()
                console.print(f"{done} of {slices} half-days, {reads:,} reads", highlight=False)

        async def work() -> Replay:
            options: dict[str, Any] = {"autocommit": True, "options": "-c TimeZone=UTC"}
            async with AsyncConnectionPool(dsn_of(config), min_size=1, max_size=2, open=False, kwargs=options) as pool:
                return await run(pool, from_us, to_us, chosen, told)

        found = asyncio.run(work())
    counts = {kind: sum(one.kind == kind for one in found.differences) for kind in ("same", "changed", "new", "gone")}
    console.print(
        f"profile {chosen.name}: {counts['new']} new, {counts['gone']} gone, {counts['changed']} changed, "
        f"{counts['same']} the same; {found.reads:,} reads in {found.seconds:.1f} s, "
        f"{found.reads / max(found.seconds, 1e-9):,.0f} reads/s",
        highlight=False,
    )

    def row(one: Difference) -> dict[str, Any]:
        shown = one.replayed or one.stored
        assert shown is not None
        return {"difference": one.kind, **_told(shown), "stored": one.stored and _told(one.stored)}

    listing((row(one) for one in found.differences if every or one.kind != "same"), COLUMNS, output)


async def _replayed(config: Config, names: list[str], from_us: int, to_us: int) -> list[Found]:
    from meterwatch.user_replay import replay_rules
    from meterwatch.user_rules import read_rules

    rules = read_rules(names)
    if rules.problems:
        raise ConfigError([str(problem) for problem in rules.problems])
    options: dict[str, Any] = {"autocommit": True, "options": "-c TimeZone=UTC"}
    async with AsyncConnectionPool(dsn_of(config), min_size=1, max_size=2, open=False, kwargs=options) as pool:
        return await replay_rules(pool, rules, from_us, to_us)


def _raised(found: Found) -> dict[str, Any]:
    episode = found.episode
    return {
        "rule": found.rule,
        "asset_kind": found.asset_kind,
        "asset": found.asset,
        "onset": utc(episode.onset_us),
        "raised": utc(episode.raised_us),
        "cleared": utc(episode.cleared_us or 0),
        "severity": episode.severity.name,
        "level": episode.level,
        "summary": episode.summary,
    }


def _told(alarm: Alarm) -> dict[str, Any]:
    return {
        "rule": alarm.rule,
        "asset_kind": alarm.asset_kind,
        "asset": alarm.asset,
        "onset": utc(alarm.onset_us),
        "raised": utc(alarm.raised_us),
        "cleared": utc(alarm.cleared_us or 0),
        "severity": alarm.severity.name,
        "level": alarm.level,
        "summary": alarm.summary,
    }
