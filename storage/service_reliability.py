"""meterwatch.v1.Reliability over gRPC: the indices of supply, asked of the SQL function that people use too."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import date, timedelta
from typing import Any, Final, LiteralString
from zoneinfo import ZoneInfo

from psycopg_pool import AsyncConnectionPool

from meterwatch import status
from meterwatch.access.identity import Identity, caller, check_sees
from meterwatch.clock import Clock
from meterwatch.errors import MeterwatchError, Rejected
from meterwatch.texts import check_text
from meterwatch.v1 import reliability_pb2 as pb
from meterwatch.v1 import reliability_pb2_grpc
from storage.arrays import moment
from storage.faults import storage_faults

DAYS_MAX: Final = {pb.INDEX_PERIOD_DAY: 400, pb.INDEX_PERIOD_MONTH: 120 * 31}
"""As in reliability.proto."""
NAME_CHARS_MAX: Final = 256
BY: Final = {pb.INDEX_PLACE_FEEDER: "feeder", pb.INDEX_PLACE_DISTRICT: "district", pb.INDEX_PLACE_ALL: "all"}
PER: Final = {pb.INDEX_PERIOD_DAY: "day", pb.INDEX_PERIOD_MONTH: "month"}
_INDICES: Final = (
    "SELECT place, period::text, planned, customers, interruptions, momentary_events, saifi, saidi_min, caidi_min,"
    " maifi_e FROM reliability_indices(%s, %s, %s, %s, %s, %s, %s)"
)
_IN_DISTRICTS: Final[dict[str, LiteralString]] = {
    "district": " WHERE place = ANY(%s)",
    "feeder": " WHERE place IN (SELECT feeder FROM feeders WHERE district = ANY(%s))",
}
"""Which places are of some districts; all of the grid together is of none."""


class Indices:
    """The SQL function over a connection pool, for the service's clock and profile."""

    def __init__(self, pool: AsyncConnectionPool[Any], sustained_s: int) -> None:
        self._pool = pool
        self._sustained_s = sustained_s

    async def zone(self) -> str:
        """Time zone of the region."""
        return str((await self._rows("SELECT regional_time_zone()", ()))[0][0])

    async def of(
        self, by: str, per: str, first: date, until: date, as_of_us: int, zone: str, districts: Collection[str] = ()
    ) -> list[tuple[Any, ...]]:
        """Rows of reliability_indices; until is exclusive. districts: only of places in them; none: of all."""
        values = (by, per, first, until, moment(as_of_us), self._sustained_s, zone)
        if districts:
            return await self._rows(_INDICES + _IN_DISTRICTS[by], (*values, sorted(districts)))
        return await self._rows(_INDICES, values)

    async def _rows(self, query: Any, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with storage_faults():
            async with self._pool.connection() as connection:
                rows: list[tuple[Any, ...]] = await (await connection.execute(query, values)).fetchall()
                return rows


class ReliabilityService(reliability_pb2_grpc.ReliabilityServicer):
    """Servicer of meterwatch.v1.Reliability. behind: how many feeders' interruptions are not written yet."""

    def __init__(self, indices: Indices, clock: Clock, behind: Callable[[], int]) -> None:
        self._indices = indices
        self._clock = clock
        self._behind = behind

    async def GetIndices(self, request: pb.GetIndicesRequest, context: Any) -> pb.GetIndicesResponse:
        """Figures by place and period."""
        try:
            return await self._answer(request, caller(context))
        except MeterwatchError as error:
            await status.abort(context, error)

    async def _answer(self, request: pb.GetIndicesRequest, identity: Identity) -> pb.GetIndicesResponse:
        if request.by not in BY or request.per not in PER:
            raise _bad(f"by is {request.by}, per {request.per}", f"1 to {len(BY)} and 1 to {len(PER)}")
        check_text("place", request.place, 0, NAME_CHARS_MAX)
        if request.by == pb.INDEX_PLACE_ALL:
            check_sees(identity, "", "the grid as a whole")
        zone = request.time_zone or await self._indices.zone()
        now_us = self._clock.now_us()
        today = moment(now_us).astimezone(_zone(zone)).date()
        first = _date("first_day", request.first_day) if request.first_day else today.replace(day=1)
        until = _date("until_day", request.until_day) if request.until_day else today + timedelta(days=1)
        if not 0 < (until - first).days <= DAYS_MAX[request.per]:
            raise _bad(f"{first} to {until} arrived", f"1 to {DAYS_MAX[request.per]} days")
        rows = await self._indices.of(BY[request.by], PER[request.per], first, until, now_us, zone, identity.districts)
        return pb.GetIndicesResponse(
            index=[_index(row) for row in rows if request.place in ("", row[0])],
            time_zone=zone,
            as_of_us=now_us,
            behind=self._behind(),
        )


def _index(row: tuple[Any, ...]) -> pb.Index:
    names = [field.name for field in pb.Index.DESCRIPTOR.fields]
    return pb.Index(**{name: value for name, value in zip(names, row, strict=True) if value is not None})


def _date(what: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _bad(f"{what} is {text[:40]!r}", "a day such as 2026-01-31") from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise _bad(f"time_zone is {name[:64]!r}", "an IANA name such as Europe/Berlin") from None


def _bad(arrived: str, expected: str) -> Rejected:
    return Rejected("BAD_QUERY", f"{arrived}; expected {expected}; correct the request")
