"""The Routes service: what is in force, who was told, and the two things an operator can do about it."""

from __future__ import annotations

from typing import Any, Final, Protocol

import grpc

from alarm.routes.dispatch import Dispatch
from alarm.routes.letter import message_id
from meterwatch.errors import Rejected
from meterwatch.notices import DeliveryState, Notice, Receipt, TargetCount
from meterwatch.status import abort
from meterwatch.texts import check_text
from meterwatch.v1 import routes_pb2 as pb
from meterwatch.v1.routes_pb2_grpc import RoutesServicer

RECEIPTS_DEFAULT, RECEIPTS_MAX = 100, 1000
_STATES: Final = ("", *DeliveryState)


class Reader(Protocol):
    """What the service reads from the database by itself."""

    async def receipts(
        self, *, alarm_id: str = "", target: str = "", state: str = "", limit: int = RECEIPTS_MAX
    ) -> list[Receipt]: ...

    async def notices_of(self, alarm_id: str) -> list[Notice]: ...

    async def counts(self) -> list[TargetCount]: ...


class RouteService(RoutesServicer):
    """Serves meterwatch.v1.Routes; without a routes file only what was told by an earlier one."""

    def __init__(self, dispatch: Dispatch | None, reader: Reader, log_id: str) -> None:
        self._dispatch = dispatch
        self._reader = reader
        self._log_id = log_id

    async def ListRoutes(self, request: pb.ListRoutesRequest, context: Any) -> pb.ListRoutesResponse:
        """Routes and targets."""
        try:
            return _routes(self._dispatch, await self._reader.counts())
        except Exception as error:
            await abort(context, error)

    async def ReloadRoutes(self, request: pb.ReloadRoutesRequest, context: Any) -> pb.ReloadRoutesResponse:
        """Read the file again."""
        try:
            return pb.ReloadRoutesResponse(problem=(await self._there().reload()).problems)
        except Exception as error:
            await abort(context, error)

    async def ListDeliveries(self, request: pb.ListDeliveriesRequest, context: Any) -> pb.ListDeliveriesResponse:
        """Who was told."""
        try:
            return await self._deliveries(request)
        except Exception as error:
            await abort(context, error)

    async def RetryDeliveries(self, request: pb.RetryDeliveriesRequest, context: Any) -> pb.RetryDeliveriesResponse:
        """Send again what was given up."""
        try:
            return pb.RetryDeliveriesResponse(messages=await self._there().retry(request.target))
        except Exception as error:
            await abort(context, error)

    def _there(self) -> Dispatch:
        if self._dispatch is None:
            raise Rejected("NO_ROUTES", "this service has no routes file; set alarms.routes_file and start it again")
        return self._dispatch

    async def _deliveries(self, request: pb.ListDeliveriesRequest) -> pb.ListDeliveriesResponse:
        check_text("alarm_id", request.alarm_id, 0, 64)
        check_text("target", request.target, 0, 64)
        if request.state not in _STATES or request.limit > RECEIPTS_MAX:
            raise Rejected(
                "BAD_QUERY",
                f"state is {request.state[:20]!r}, limit {request.limit}; expected {', '.join(DeliveryState)} or none, "
                f"and at most {RECEIPTS_MAX}",
            )
        receipts = await self._reader.receipts(
            alarm_id=request.alarm_id,
            target=request.target,
            state=request.state,
            limit=request.limit or RECEIPTS_DEFAULT,
        )
        notices = await self._reader.notices_of(request.alarm_id) if request.alarm_id else []
        return pb.ListDeliveriesResponse(
            receipt=[receipt_to_wire(receipt, self._log_id) for receipt in receipts], notice=map(_notice, notices)
        )


def receipt_to_wire(receipt: Receipt, log_id: str) -> pb.Receipt:
    """A receipt as a message; absent times are 0."""
    return pb.Receipt(
        alarm_id=receipt.alarm_id,
        seq=receipt.seq,
        change=receipt.change.value,
        shown=receipt.shown,
        message_id=message_id(log_id, receipt.number),
        target=receipt.target,
        department=receipt.department,
        route=receipt.route,
        step=receipt.step,
        state=receipt.state.value,
        attempts=receipt.attempts,
        made_us=receipt.made_us,
        queued_us=receipt.queued_us,
        first_try_us=receipt.first_try_us or 0,
        last_try_us=receipt.last_try_us or 0,
        next_try_us=receipt.next_try_us or 0,
        ended_us=receipt.ended_us or 0,
        last_error=receipt.last_error,
    )


def _notice(notice: Notice) -> pb.NoticeInfo:
    return pb.NoticeInfo(
        target=notice.target,
        department=notice.department,
        route=notice.route,
        step=notice.step,
        state=notice.state.value,
        due_us=notice.due_us or 0,
        told_us=notice.told.at_us if notice.told else 0,
    )


def _routes(dispatch: Dispatch | None, counts: list[TargetCount]) -> pb.ListRoutesResponse:
    answer = pb.ListRoutesResponse()
    kinds: dict[str, str] = {}
    if dispatch is not None:
        file, routes = dispatch.file, dispatch.routes
        answer.file, answer.loaded_us = str(file.path), file.loaded_us
        answer.problem.extend(file.problems)
        for route in routes.routes:
            answer.route.add(
                route=route.name,
                department=route.department,
                target=routes.departments[route.department].targets,
                escalation=[escalation.department for escalation in route.escalations],
            )
        kinds = {target.name: target.kind for target in routes.targets.values()}
    known = {count.target: count for count in counts}
    for name in sorted({*kinds, *known}):
        count = known.get(name, TargetCount(name, 0, 0, 0, None, ""))
        answer.target.add(
            target=name,
            kind=kinds.get(name, ""),
            waiting=count.waiting,
            sent=count.sent,
            dead=count.dead,
            oldest_us=count.oldest_us or 0,
            last_error=count.last_error,
        )
    return answer


def add_routes(service: RouteService, server: grpc.aio.Server) -> None:
    """Register the service."""
    from meterwatch.v1.routes_pb2_grpc import add_RoutesServicer_to_server

    add_RoutesServicer_to_server(service, server)
