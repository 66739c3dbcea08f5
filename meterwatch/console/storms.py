"""Storms as the console shows them: the line above the list, and which alarms it shows last.

Which alarms stand aside is the service's word (`Storm.aside` counts them); the same few lines here say it of a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from typing import Final

from meterwatch.console.rows import Row
from meterwatch.v1 import alarms_pb2 as pb

Where = frozenset[str] | None
"""Districts in a storm; None: everywhere."""
FAIR: Final[Where] = frozenset()
NAMED_MAX: Final = 4
"""Storms in the line; the others are counted."""


def where(storms: Iterable[pb.Storm]) -> Where:
    """Where alarms of single meters stand aside."""
    storms = list(storms)
    if any(one.reason == pb.STORM_REASON_FLOOD for one in storms):
        return None
    return frozenset(one.district for one in storms)


def stands_aside(row: Row, stormy: Where) -> bool:
    """True: the row is shown after the others."""
    single = row.asset_kind == "meter" and (row.priority or row.severity) < pb.PRIORITY_HIGH
    return single and (stormy is None or row.district in stormy)


def words(found: pb.GetKpisResponse, zone: tzinfo) -> str:
    """The line of storms and floods; empty: there is none."""
    off = sorted((one for one in found.storm if one.reason == pb.STORM_REASON_OFF), key=lambda one: -one.meters_off)
    parts = [_storm(one, zone) for one in off[:NAMED_MAX]]
    if len(off) > NAMED_MAX:
        parts.append(f"{len(off) - NAMED_MAX} districts more")
    line = f" STORM: {'; '.join(parts)}" if parts else ""
    if found.flood_now or len(off) < len(found.storm):
        line += (
            f" FLOOD: more than 10 alarms an operator in 10 minutes; {found.paging} call for somebody now,"
            f" {found.pages} began to in the last hour"
        )
    aside = max((one.aside for one in found.storm), default=0)
    if aside:
        line += f"; {aside} of single meters stand last"
    return f"{line} " if line else ""


def _storm(one: pb.Storm, zone: tzinfo) -> str:
    since = datetime.fromtimestamp(one.since_us / 1e6, UTC).astimezone(zone)
    share = one.meters_off / max(one.meters, 1)
    return (
        f"{one.district} since {since:%H:%M}: {one.meters_off:,} of {one.meters:,} meters off ({share:.1%}),"
        f" {one.roots} outages, {one.paging} alarms"
    )
