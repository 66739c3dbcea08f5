"""What to set on a PostgreSQL that is not ours, so that it takes reads as fast as the embedded one does.

Nothing here is needed for correctness (that is storage.settings): each piece of advice is a limit, what to set instead,
and why. The embedded database has all of it (storage.embedded.settings).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import psycopg

GiB: Final = 1 << 30
_UNIT_BYTES: Final = {"kB": 1 << 10, "8kB": 8 << 10, "MB": 1 << 20, "GB": 1 << 30}
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "min": 60.0}
CONNECTIONS_MIN: Final = 30
"""Two writers, events, registers, lease, pools of eight, eight and three, and people."""


class _Advice(NamedTuple):
    setting: str
    good: Callable[[float], bool]
    """Of the value in bytes, seconds or as a number; off and on are 0 and 1."""
    instead: str
    why: str


ADVICE: Final = (
    _Advice("shared_buffers", lambda size: size >= GiB, "a quarter of the memory, up to 4GB",
            "the chunk that is written and its unique index should stay in it"),
    _Advice("max_wal_size", lambda size: size >= 4 * GiB, "4GB",
            "a smaller one forces checkpoints under load, and after each every page is logged whole again"),
    _Advice("checkpoint_timeout", lambda seconds: seconds >= 900, "15min", "for the same reason"),
    _Advice("autovacuum", lambda on: on == 1, "on", "without it statistics and visibility of new chunks are missing"),
    _Advice("jit", lambda on: on == 0, "off", "compiling costs more than our short queries"),
    _Advice("random_page_cost", lambda cost: cost <= 2, "1.1 on solid-state disks",
            "otherwise a long look-up by meter may scan whole chunks"),
    _Advice("max_locks_per_transaction", lambda locks: locks >= 128, "256",
            "a statement may touch every chunk of a year"),
    _Advice("max_connections", lambda number: number >= CONNECTIONS_MIN, str(CONNECTIONS_MIN),
            "the service holds up to two dozen"),
)  # fmt: skip


def advise(found: Mapping[str, tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    """Setting and sentence for each that could be better. found: name -> (setting, unit) as in pg_settings."""
    for advice in ADVICE:
        if advice.setting not in found:
            continue
        value, unit = found[advice.setting]
        if not advice.good(_number(value, unit)):
            shown = value + (f" x {unit}" if unit and unit[0].isdigit() else f" {unit}" if unit else "")
            yield advice.setting, f"{shown}; set it to {advice.instead}: {advice.why}"


def read_settings(connection: psycopg.Connection[Any]) -> dict[str, tuple[str, str | None]]:
    """Name -> (setting, unit) of what there is advice on."""
    rows = connection.execute(
        "SELECT name, setting, unit FROM pg_settings WHERE name = ANY(%s)", ([a.setting for a in ADVICE],)
    ).fetchall()
    return {name: (setting, unit) for name, setting, unit in rows}


def _number(value: str, unit: str | None) -> float:
    if value in ("on", "off"):
        return float(value == "on")
    return float(value) * (_UNIT_BYTES.get(unit or "") or _UNIT_S.get(unit or "") or 1)
