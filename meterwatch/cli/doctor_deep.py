"""meterwatch doctor --deep: is what is stored in itself consistent? One line per law, and what breaks it."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import typer

from meterwatch.cli.db import dsn_of
from meterwatch.config import Config
from meterwatch.soundness import NAMES, Verdict, inspect
from rules.profile import PROFILES
from storage.sound import EARLIEST, FOUND_MAX, LATEST, Span, inspected
from storage.upkeep import Retention

SAY_EVERY_S: Final = 1.0


class Progress:
    """Where the check is, on stderr, rewritten in place on a terminal and told now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._said_s = time.monotonic()
        self._nth, self._name = 0, ""

    def begun(self, name: str) -> None:
        self._nth, self._name = self._nth + 1, name
        self.part(0, 1)

    def part(self, done: int, of: int) -> None:
        if not self._terminal or time.monotonic() - self._said_s < SAY_EVERY_S:
            return
        self._said_s = time.monotonic()
        self._say(f"{self._nth} of {len(NAMES)}, {self._name}: {100 * done // max(of, 1)} %")

    def over(self) -> None:
        if self._terminal:
            self._say("")

    def _say(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def span_of(since: datetime | None, until: datetime | None) -> Span:
    """The span asked for; times without a zone are UTC."""

    def utc(at: datetime | None, otherwise: datetime) -> datetime:
        return otherwise if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at

    return Span(utc(since, EARLIEST), utc(until, LATEST))


def deep(config: Config, span: Span, as_json: bool) -> None:
    """Ask every invariant, tell what is unsound, and leave with 1 if anything is."""
    verdicts = asyncio.run(_verdicts(config, span, as_json))
    broken = [verdict for verdict in verdicts if verdict.found]
    if as_json:
        report = {
            "sound": not broken,
            "since": None if span.since == EARLIEST else span.since.isoformat(),
            "until": None if span.until == LATEST else span.until.isoformat(),
            "invariants": [_as_json(verdict) for verdict in verdicts],
        }
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        laws = f"{len(verdicts)} laws"
        print(f"sound: {laws} hold" if not broken else f"unsound: {len(broken)} of {laws} are broken")
    if broken:
        raise typer.Exit(1)


async def _verdicts(config: Config, span: Span, as_json: bool) -> list[Verdict]:
    progress = Progress()
    verdicts = []
    retention = Retention(**config.retention.model_dump())
    async with inspected(dsn_of(config), retention, span) as db:
        db.progress = progress.part
        async for verdict in inspect(db, PROFILES[config.rules.profile], begun=progress.begun):
            progress.over()
            verdicts.append(verdict)
            if not as_json:
                _tell(verdict)
    return verdicts


def _tell(verdict: Verdict) -> None:
    print(f"{'UNSOUND' if verdict.found else 'ok     '} {verdict.invariant} ({verdict.took_s:.1f} s)", flush=True)
    if not verdict.found:
        return
    print(f"        law: {verdict.law}")
    for one in verdict.found:
        print(f"        {one.what}: found {one.found}; expected {one.expected}")
    if verdict.more:
        print(f"        and more than these {FOUND_MAX}: repair these and ask again")
    print(f"        what to do: {verdict.found[0].remedy}")


def _as_json(verdict: Verdict) -> dict[str, Any]:
    findings = [one._asdict() for one in verdict.found]
    return verdict._asdict() | {"took_s": round(verdict.took_s, 3), "found": findings}
