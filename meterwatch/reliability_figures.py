"""The indices of supply as metrics: of today and of this month, for all customers and for the largest districts.

Asked of the database every EVERY_S by a task, only where metrics are served, and told at each scrape from memory.
Cardinality is bounded: DISTRICTS_MAX districts, two periods, planned or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from meterwatch.clock import Clock
from meterwatch.errors import Overloaded, StorageUnavailable
from storage.arrays import moment
from storage.service_reliability import Indices

EVERY_S: Final = 60.0
REST_SHARE: Final = 20.0
"""Rest after asking, as a share of the time it took: a large registry is asked more seldom."""
DISTRICTS_MAX: Final = 50
"""Those with the most customers; the others are in the figures of all, and in the SQL function."""
_VALUES: Final = (
    ("saifi", "Sustained interruptions of a customer", 6),
    ("saidi_minutes", "Minutes of sustained interruption of a customer", 7),
    ("caidi_minutes", "Mean minutes of a sustained interruption", 8),
    ("maifi_e", "Momentary events of a customer", 9),
)
"""Name, text, column of reliability_indices."""
_log = structlog.get_logger(__name__)


class ReliabilityFigures:
    """A collector for prometheus_client, and the task that feeds it."""

    def __init__(self, indices: Indices, clock: Clock) -> None:
        self._indices = indices
        self._clock = clock
        self._rows: list[tuple[str, tuple[Any, ...]]] = []
        """Period and row of reliability_indices."""

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        rows = self._rows
        for name, text, column in _VALUES:
            family = GaugeMetricFamily(
                f"meterwatch_reliability_{name}",
                f"{text}, of today or this month so far; district empty: all customers.",
                labels=["per", "district", "planned"],
            )
            for per, row in rows:
                if row[column] is not None:
                    family.add_metric([per, row[0], "yes" if row[2] else "no"], row[column])
            yield family

    async def run(self) -> None:
        """Ask again and again until cancelled; while the database is away the figures stay as they are."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                await self.refresh()
            except (StorageUnavailable, Overloaded) as error:
                _log.info("indices not asked", error=error.message)
            await asyncio.sleep(max(EVERY_S, (loop.time() - began_s) * REST_SHARE))

    async def refresh(self) -> None:
        """Ask once."""
        zone, now_us = await self._indices.zone(), self._clock.now_us()
        today = moment(now_us).astimezone(ZoneInfo(zone)).date()
        found = []
        for per, first in (("day", today), ("month", today.replace(day=1))):
            for by in ("all", "district"):
                rows = await self._indices.of(by, per, first, today + timedelta(days=1), now_us, zone)
                found += [(per, row) for row in _largest(rows) if by == "all" or row[0]]
        self._rows = found


def _largest(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    customers: dict[str, float] = {row[0]: row[3] for row in rows}
    chosen = sorted(customers, key=lambda place: (-customers[place], place))[:DISTRICTS_MAX]
    return [row for row in rows if row[0] in chosen]
