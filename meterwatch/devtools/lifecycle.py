"""Draw the lifecycle of an alarm into docs/alarms.md from its tables, or check that the drawing there is fresh.

`python -m meterwatch.devtools.lifecycle` draws, `--check` exits 1 if the page is stale. Between the two marks stands
what is made here, around them what people write. The drawing is Mermaid, which forges show as a picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final

from alarm.lifecycle import KIND, NEXT, NOT_WHEN_CLEARED, NOT_WHEN_FINISHED, SERVICE_NEXT, SHELF_NEXT, Input
from meterwatch.alarms import AlarmState, Service, Shelf
from meterwatch.devtools.stubs import ROOT

OUT: Final = ROOT / "docs" / "alarms.md"
BEGIN: Final = "<!-- made by python -m meterwatch.devtools.lifecycle: edit alarm/lifecycle.py -->\n"
END: Final = "<!-- end of what is made -->\n"

Table = Mapping[tuple[Enum, Input], Enum]
REGIONS: Final[tuple[tuple[str, Enum, Table], ...]] = (
    ("State", AlarmState.UNACK_ACTIVE, NEXT),
    ("Shelf", Shelf.NOT_SHELVED, SHELF_NEXT),
    ("Service", Service.IN_SERVICE, SERVICE_NEXT),
)  # type: ignore[assignment]  # Mapping is invariant in its key, and each table has states of its own type
"""Heading, where a new alarm begins, table."""


def drawn() -> str:
    """What belongs between the marks."""
    lines: list[str] = []
    for heading, first, table in REGIONS:
        lines += [f"### {heading}", "", "```mermaid", "stateDiagram-v2", *_diagram(first, table), "```", ""]
    lines += ["### What can happen", "", "| input | transition | not |", "|---|---|---|"]
    for given in Input:
        limits = ("when over and done",) * (given in NOT_WHEN_FINISHED) + ("when cleared",) * (
            given in NOT_WHEN_CLEARED
        )
        lines.append(f"| {given.name} | `{KIND[given].value}` | {', '.join(limits)} |")
    return "\n".join(lines) + "\n"


def _diagram(first: Enum, table: Table) -> Iterator[str]:
    """One arrow for all inputs that lead from one state to the same other one."""
    arrows: dict[tuple[Enum, Enum], list[str]] = {}
    for (state, given), after in table.items():
        arrows.setdefault((state, after), []).append(given.name)
    yield f"    [*] --> {first.value}"
    for (state, after), inputs in arrows.items():
        yield f"    {state.value} --> {after.value}: {' / '.join(inputs)}"


def page(text: str) -> str:
    """The page with the drawing as it should be. SystemExit if a mark is missing."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/alarms.md needs the lines {BEGIN.strip()!r} and {END.strip()!r}")
    return f"{head}{BEGIN}\n{drawn()}\n{END}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    before = OUT.read_text("utf-8")
    fresh = page(before)
    if fresh != before and check:
        raise SystemExit("docs/alarms.md is stale; run python -m meterwatch.devtools.lifecycle and commit")
    if fresh != before:
        OUT.write_text(fresh, "utf-8")
    sys.stdout.write("docs/alarms.md is fresh\n" if fresh == before else "wrote docs/alarms.md\n")


if __name__ == "__main__":
    main()
