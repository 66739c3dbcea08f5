"""How the alarm system does, as metrics: pages, floods, stale and chattering alarms.

A task asks every EVERY_S, only where metrics are served; a scrape is answered from memory. No asset is a label: who
chatters and the ten most frequent are what GetKpis is for.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from alarm.desk import AlarmDesk
from alarm.kpi import STALE_US, WINDOW_US
from alarm.service import Reader, read_kpis
from meterwatch.clock import Clock
from meterwatch.errors import Overloaded, StorageUnavailable
from meterwatch.metrics import Metrics

EVERY_S: Final = 10.0
SPAN_US: Final = 24 * 6 * WINDOW_US
"""Of the share of time in flood, and of the chattering sources."""
_log = structlog.get_logger(__name__)


class AlarmFigures:
    """The figures of the last 24 hours, for so many operators who share the alarms."""

    def __init__(self, reader: Reader, desk: AlarmDesk, clock: Clock, operators: int) -> None:
        self._reader = reader
        self._desk = desk
        self._clock = clock
        self._operators = operators
        self.pages_now = 0
        self.flood_now = False
        self.flood_share = 0.0
        self.chattering = 0
        self.paging = 0
        self.stale = 0

    def watch(self, metrics: Metrics) -> None:
        """Declare them."""
        metrics.watch(
            gauges={
                "alarm_pages_10min": ("What began to page in the last 10 minutes.", lambda: self.pages_now),
                "alarm_flood": (
                    "1: a flood, from more than 10 pages per operator in 10 minutes until fewer than 5.",
                    lambda: float(self.flood_now),
                ),
                "alarm_flood_share_24h": ("Share of the last 24 h in flood.", lambda: self.flood_share),
                "alarms_paging": ("Alarms that call for somebody.", lambda: self.paging),
                "alarms_stale": ("Of these, active and known for more than 24 h.", lambda: self.stale),
                "alarms_chattering_24h": (
                    "Sources that began to page three times within 10 minutes, in the last 24 h.",
                    lambda: self.chattering,
                ),
            },
            counters={},
        )

    async def run(self) -> None:
        """Ask again and again until cancelled; while the database is away the figures stay as they are."""
        while True:
            try:
                await self.refresh()
            except (StorageUnavailable, Overloaded) as error:
                _log.info("figures of alarms not asked", error=error.message)
            await asyncio.sleep(EVERY_S)

    async def refresh(self) -> None:
        """Ask once."""
        now_us = self._clock.now_us()
        found = await read_kpis(self._reader, now_us - SPAN_US, now_us, self._operators)
        paging = [alarm for alarm in self._desk.book if alarm.pages]
        self.pages_now, self.flood_now = found.pages_now, found.flood_now
        self.flood_share = found.flood_windows / found.windows
        self.chattering = len(found.chattering)
        self.paging = len(paging)
        self.stale = sum(alarm.cleared_us is None and alarm.recorded_us < now_us - STALE_US for alarm in paging)
