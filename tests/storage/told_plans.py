"""What PostgreSQL did for each statement of the product, told by its own auto_explain on the connection that sent it.

So the statement is the one the product sends, with its parameters, settings and transaction, and it is sent once. Of a
function that is not put in place of its call only the call is told. A plan is told when the next statement comes, or
the transaction ends, while the call that sent it is mostly still on the stack.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

ROOT = Path(__file__).parents[2]
PRODUCT = ("alarm", "ingest", "meterwatch", "rules", "storage")
SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_parameter_max_length": "0",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
}
_BLOCKS = ("Shared Hit Blocks", "Shared Read Blocks", "Local Hit Blocks", "Local Read Blocks", "Temp Read Blocks")


class Node(NamedTuple):
    """A node of a plan."""

    what: str
    rows: int
    """That it took or threw away, all loops together; a loop without any counts as one."""
    blocks: int
    """That it and those below it looked at."""


class Told(NamedTuple):
    """A statement that was carried out."""

    text: str
    senders: frozenset[str]
    """Files of the product on the stack when it was told."""
    nodes: list[Node]

    @property
    def worst(self) -> Node:
        return max(self.nodes, key=lambda node: node.rows)

    @property
    def blocks(self) -> int:
        return self.nodes[0].blocks

    def __str__(self) -> str:
        plan = "\n".join(f"  {node.rows:>9,} rows {node.blocks:>8,} blocks  {node.what}" for node in self.nodes)
        return f"{self.text}\n{plan}"


def tell_plans(dsn: str) -> None:
    """From now on every new connection to this database is told. Needs a superuser."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        for setting, value in SETTINGS.items():
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(
                    name, sql.Identifier(*setting.split(".")), sql.Literal(value)
                )
            )


class Listener:
    """Hears the plans of all connections opened while it is `installed`."""

    def __init__(self) -> None:
        self._heard: list[Told] = []

    def install(self, patch: Any) -> None:
        begin = psycopg.BaseConnection.__init__

        def heard(connection: Any, *args: Any, **kwargs: Any) -> None:
            begin(connection, *args, **kwargs)
            connection.add_notice_handler(self._hear)

        patch.setattr(psycopg.BaseConnection, "__init__", heard)

    def taken(self) -> list[Told]:
        """What was told since it was asked last."""
        heard, self._heard = self._heard, []
        return heard

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        _, found, told = (notice.message_primary or "").partition("plan:\n")
        if found:
            entry = json.loads(told)
            text = " ".join(entry["Query Text"].split())
            self._heard.append(Told(text, frozenset(_senders()), list(_nodes(entry["Plan"], 0))))


def _senders() -> Iterator[str]:
    frame = sys._getframe()
    while frame is not None:
        if (name := _product_file(frame.f_code.co_filename)) is not None:
            yield name
        frame = frame.f_back


@cache
def _product_file(path: str) -> str | None:
    parts = Path(path).parts[len(ROOT.parts) :]
    return "/".join(parts) if path.startswith(f"{ROOT}/") and parts[0] in PRODUCT else None


def _nodes(plan: dict[str, Any], depth: int) -> Iterator[Node]:
    loops = plan["Actual Loops"]
    gone = sum(rows for name, rows in plan.items() if name.startswith("Rows Removed by"))
    rows = round(max(plan["Actual Rows"] + gone, 1) * loops)
    what = " ".join(str(plan[key]) for key in ("Node Type", "Relation Name", "Index Name") if key in plan)
    limits = " ".join(
        plan[key] for key in ("Index Cond", "Hash Cond", "Merge Cond", "Filter", "Join Filter") if key in plan
    )
    blocks = sum(plan.get(name, 0) for name in _BLOCKS)
    yield Node(f"{'  ' * depth}{what} x {loops}: {plan['Actual Rows']} and {gone} thrown away; {limits}", rows, blocks)
    for below in plan.get("Plans", ()):
        yield from _nodes(below, depth + 1)
