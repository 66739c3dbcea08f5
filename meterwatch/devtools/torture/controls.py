"""The service with a promise broken on purpose, which the check must find: else the harness proves nothing.

The product has no switch for any of it: the harness's service process changes the product's code in its own memory
before it starts. Each control names the kill that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg

from meterwatch.errors import ConfigError


class Control(NamedTuple):
    """What is broken."""

    patch: Callable[[], None]
    kill: str
    """Kind of kill (target.KILLS) that shows it."""
    prepare: Sequence[str] = ()
    """Statements for the database before the load begins."""


def put_in_place(name: str) -> None:
    """Break what a control names, in this process; "": nothing."""
    if not name:
        return
    if name not in CONTROLS:
        raise ConfigError([f"control {name!r}; expected one of {', '.join(CONTROLS)}"])
    CONTROLS[name].patch()


def _commit_off() -> None:
    """Every connection commits without waiting for the disk, and nobody looks whether it does."""
    import storage.settings

    _replace(storage.settings, "not_durable", lambda _found: [])
    kinds: tuple[Any, ...] = (psycopg.Connection, psycopg.AsyncConnection)
    for kind in kinds:
        _replace(kind, "connect", classmethod(_without_waiting(kind.connect.__func__)))
    _replace(psycopg, "connect", psycopg.Connection.connect)


def _without_waiting(connect: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(kind: Any, conninfo: str = "", **given: Any) -> Any:
        given["options"] = given.get("options", "").replace("-c synchronous_commit=on", "")
        given["options"] += " -c synchronous_commit=off"
        return connect(kind, conninfo, **given)

    return wrapped


def _dedupe_off() -> None:
    """Neither the ledger nor the table of reads is asked what is there already."""
    import storage.ledger
    import storage.rowstore
    from storage.reads_table import Suspects

    @contextmanager
    def taking(_table: Any, _connection: Any, group: Sequence[Any]) -> Iterator[Suspects]:
        yield Suspects([None] * len(group), frozenset())

    _replace(storage.ledger, "find", lambda _connection, _kind, batches: [None] * len(batches))
    _replace(storage.rowstore.Rowstore, "taking", taking)


def _plain_sequence() -> None:
    """Cursors come from a sequence, which gives none back."""
    import storage.alarms

    async def take(cursor: Any, count: int) -> list[int]:
        await cursor.execute("SELECT nextval('torture_cursor') FROM generate_series(1, %s)", (count,))
        seqs = [int(row[0]) for row in await cursor.fetchall()]
        if seqs:
            await cursor.execute("UPDATE alarm_cursor SET seq = %s", (seqs[-1],))
        return seqs

    _replace(storage.alarms, "_take_seqs", take)


def _replace(owner: Any, name: str, by: Any) -> None:
    setattr(owner, name, by)


CONTROLS: Final = {
    "commit-off": Control(_commit_off, "postgres"),
    "dedupe-off": Control(
        _dedupe_off, "failpoint",
        ("DROP INDEX reads_end_slot", "ALTER TABLE batches DROP CONSTRAINT batches_pkey"),
    ),
    "plain-sequence": Control(_plain_sequence, "postgres", ("CREATE SEQUENCE torture_cursor",)),
}  # fmt: skip
