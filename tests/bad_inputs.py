"""The catalogue of bad input: what tests send and what they really get, kept in golden/bad_input.json and shown in
docs/bad_input.md.

A test says `told(number, input, where, answer)`; an answer that differs from the one on record fails it. Numbers are
those of the catalogue; `NOT_HAD` says why one has no test. `make bad-input` runs the tests that tell and writes record
and page anew; `python tests/bad_inputs.py --check` compares the page with the record.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
RECORD: Final = ROOT / "tests" / "golden" / "bad_input.json"
PAGE: Final = ROOT / "docs" / "bad_input.md"
WRITE: Final = "METERWATCH_BAD_INPUT"
"""Set to `write`: the record takes what is told."""
YEARS_NEAR_S: Final = 11 * 366 * 86_400
_NUMBER: Final = re.compile(r"(?<![\d.])\d{10,19}(?!\d)")
_FIXED: Final = {2**31 - 1, 2**31}

TITLES: Final = {
    1: "Protobuf and gRPC framing", 31: "Batch and columns", 44: "Values", 54: "Time", 64: "Identity",
    70: "Authentication", 78: "Stream abuse", 86: "Configuration, rules, topology, files",
}  # fmt: skip
"""First number of each part."""
NOT_HAD: Final = {
    93: "no reload waits for a dry run, and none is refused for what its rules would raise: `rules replay --rules` says"
    " it beforehand, over what is stored, and a flood is shown by its roots and counts (docs/alarms.md, Storms)",
}
"""Why a number has no test."""
BESIDE: Final = {
    37: "a column has its unit in its name; only what its energies are can be said wrongly",
    53: "on the wire energies are sfixed32: no float column carries whole numbers",
    63: "no message has a Timestamp: times are whole microseconds",
    68: "no rate of new numbers is limited: unknown meters never enter the registry, and a dictionary has an end (17)",
    81: "no rate of batches is limited: credits and the queue are, and what waits goes into one COPY",
    97: "no share of the meters needs another consent; the time since when is told apart (docs/files.md)",
    99: "the service opens no path that a caller names: commands read files and send what is in them",
}
"""What of a number cannot be sent to this service, beside what can."""


class Told(NamedTuple):
    """One row of the catalogue. where: ROW, NACK, RPC, START, FILE, FLAG, or TAKEN for what is accepted on purpose."""

    number: int
    input: str
    where: str
    answer: str


def steady(text: str) -> str:
    """Text without what differs from run to run: times of about now, incidents, addresses, temporary files."""
    text = _NUMBER.sub(lambda found: "<time>" if _is_about_now(int(found.group())) else found.group(), text)
    text = re.sub(r"\bincident [0-9a-f]{12}|\b[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\b", "<id>", text)
    text = re.sub(r"newest cursor is \d+", "newest cursor is <n>", text)
    return re.sub(r"/tmp/[\w./-]*/", "", text)


def _is_about_now(number: int) -> bool:
    return number not in _FIXED and any(abs(number / unit - time.time()) < YEARS_NEAR_S for unit in (1, 1e3, 1e6, 1e9))


def recorded() -> list[Told]:
    """What is on record, by number and input."""
    rows = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else []
    return sorted(Told(*row) for row in rows)


def told(number: int, sent: str, where: str, answer: str) -> None:
    """Compare with the record; AssertionError if it says otherwise or does not know this input."""
    new = Told(number, steady(sent), where, steady(answer))
    others = [row for row in recorded() if row[:2] != new[:2]]
    if os.environ.get(WRITE) == "write":
        rows = [list(row) for row in sorted([*others, new])]
        RECORD.write_text(json.dumps(rows, indent=0, ensure_ascii=True) + "\n", "utf-8")
        return
    known = [row for row in recorded() if row[:2] == new[:2]]
    assert known == [new], f"`make bad-input` writes it down, if it is meant: {new}"


def page() -> str:
    """docs/bad_input.md as the record says it."""
    rows = recorded()
    had = {row.number for row in rows}
    lines = [
        "# Bad input",
        "",
        "What the service and its commands answer to input that is wrong, as their tests really get it. Made by",
        "`make bad-input` from what the tests say (`tests/bad_inputs.py`); a test that gets another answer fails, and",
        "`make check` compares this page.",
        "",
        "- **ROW**: the row is in quarantine, the rest of its batch is stored.",
        "- **NACK**: the batch is refused in band, and the stream goes on.",
        "- **RPC**: the call or stream ends with this status.",
        "- **START**: the service does not start, exit 78.",
        "- **FILE**: the file is refused as a whole.",
        "- **FLAG**: the read is stored, with this bit in its quality word (docs/schema.md).",
        "- **TAKEN**: accepted on purpose.",
        "",
        "`<time>` is a time of the run.",
        "",
    ]
    for number in range(1, 101):
        if number in TITLES:
            lines += [
                "",
                f"## {TITLES[number]}",
                "",
                "| # | input | where | answer |",
                "|---|---|---|---|",
            ]
        mine = [row for row in rows if row.number == number]
        lines += [f"| {row.number} | {_cell(row.input)} | {row.where} | {_cell(row.answer)} |" for row in mine]
        if number in BESIDE:
            lines.append(f"| {number} | - | not had | {_cell(BESIDE[number])} |")
        if number not in had:
            lines.append(f"| {number} | - | not had | {_cell(NOT_HAD.get(number, 'no test yet'))} |")
    return "\n".join(line for at, line in enumerate(lines) if line or lines[at - 1]) + "\n"


def _cell(text: str) -> str:
    text = text if len(text) <= 400 else text[:400] + "..."
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("\n", " / ")


def main(arguments: list[str]) -> None:
    before = PAGE.read_text("utf-8") if PAGE.exists() else ""
    if "--check" in arguments and before != page():
        raise SystemExit("docs/bad_input.md is stale; run make bad-input and commit")
    if before != page():
        PAGE.write_text(page(), "utf-8")
    sys.stdout.write("docs/bad_input.md is fresh\n" if before == page() else "wrote docs/bad_input.md\n")


if __name__ == "__main__":
    main(sys.argv[1:])
