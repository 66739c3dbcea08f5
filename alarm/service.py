"""The Alarms service: subscribe, list, get, act.

The door of meterwatch.v1.Alarms: who calls, what he may see and sign, and what a request means; the stream of a
subscriber is alarm.subscriptions. Requests are parsed here and not by grpc, so that bytes that are no message get a
status of ours. Errors become statuses in one place, at the edge.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from alarm.desk import AlarmDesk
from alarm.explain import explanation
from alarm.kpi import CHATTER_COUNT, CHATTERING_MAX, TOP, WINDOW_US, Kpis, kpis
from alarm.receipts import Ledger, Receipts
from alarm.receipts_service import NAME_CHARS_MAX, receipts_to_wire
from alarm.storm import Storms, no_storms
from alarm.subscriptions import AGE_S_MAX, BOOKMARK_S, TRANSITIONS_MAX, UNREAD_S_MAX, Log, Subscriptions
from alarm.wire import (
    ID_CHARS_MAX,
    Concerns,
    action_of,
    alarm_to_wire,
    filter_of,
    kpis_to_wire,
    no_departments,
    result_of,
    shelf_of,
    shelf_to_wire,
    storms_to_wire,
    targets_of,
    transition_to_wire,
)
from meterwatch.access.identity import Identity, caller, check_sees, subscriber_of, within
from meterwatch.alarms import Alarm, AlarmFilter, AlarmState, AssetShelf, Pages, Transition
from meterwatch.clock import Clock
from meterwatch.errors import Missing, Rejected
from meterwatch.explained import CHILDREN_SHOWN, Seen
from meterwatch.status import abort
from meterwatch.texts import check_text
from meterwatch.v1 import alarms_pb2 as pb

KPI_HOURS_MAX, KPI_OPERATORS_MAX = 744, 1000
PAGE_DEFAULT, PAGE_MAX = 100, 1000

Request = TypeVar("Request", bound=Message)


class Reader(Log, Protocol):
    """What the service reads from the database by itself."""

    async def list_page(
        self, wanted: AlarmFilter, *, active_only: bool, limit: int, after: tuple[int, str] | None = None
    ) -> list[Alarm]: ...

    async def pages(
        self,
        from_us: int,
        now_us: int,
        *,
        window_us: int,
        chatter_count: int,
        top: int,
        most: int,
        districts: Collection[str] = (),
    ) -> Pages: ...

    async def get(self, alarm_id: str) -> tuple[Alarm, list[Transition]] | None: ...

    async def get_many(self, alarm_ids: Sequence[str]) -> list[Alarm]: ...

    async def children(
        self, alarm_id: str, limit: int, districts: Collection[str] = ()
    ) -> tuple[dict[AlarmState, int], list[Alarm]]: ...


async def nothing_seen(_: Alarm, districts: Collection[str] = ()) -> Seen:
    """A witness that saw nothing: an explanation is then of the record alone."""
    return Seen("")


async def read_kpis(reader: Reader, from_us: int, now_us: int, operators: int, districts: Collection[str] = ()) -> Kpis:
    """Figures of a span. Cost: the pages in it, in the database; here some thousand numbers at most."""
    pages = await reader.pages(
        from_us, now_us, window_us=WINDOW_US, chatter_count=CHATTER_COUNT, top=TOP, most=CHATTERING_MAX,
        districts=districts,
    )  # fmt: skip
    return kpis(pages, from_us, now_us, operators)


class AlarmService:
    """Serves meterwatch.v1.Alarms from a desk and the tables; register with `handlers(service)`."""

    def __init__(
        self,
        desk: AlarmDesk,
        reader: Reader,
        clock: Clock,
        rules_ready: Callable[[], bool],
        bookmark_s: float = BOOKMARK_S,
        age_s_max: float = AGE_S_MAX,
        witness: Callable[[Alarm, Collection[str]], Awaitable[Seen]] = nothing_seen,
        concerns: Concerns = no_departments,
        receipts: Receipts | None = None,
        storms: Callable[[], Storms] = no_storms,
        unread_s_max: float = UNREAD_S_MAX,
        watchdog_age_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._desk = desk
        self._reader = reader
        self._clock = clock
        self._subscriptions = Subscriptions(
            desk.hub, reader, clock, rules_ready, bookmark_s, age_s_max, storms, unread_s_max, watchdog_age_s
        )
        self._witness = witness
        self._concerns = concerns
        self._receipts = receipts
        self._storms = storms

    async def subscribe(self, request: pb.SubscribeRequest, context: Any) -> None:
        """Write the stream of one subscriber until it leaves, does not read, is too old, or the service drains."""
        wanted = within(filter_of(request.filter, self._concerns), caller(context))
        if request.transitions_max > TRANSITIONS_MAX:
            raise Rejected(
                "TRANSITIONS_MAX",
                f"transitions_max is {request.transitions_max}; 1 to {TRANSITIONS_MAX} are allowed, 0 is one by one",
            )
        ledger = self._ledger(request.subscriber, caller(context))
        await self._subscriptions.write(request, wanted, ledger, context)

    def _ledger(self, subscriber: str, identity: Identity) -> Ledger | None:
        """What notes the messages of a subscriber with a name."""
        check_text("subscriber", subscriber, 0, NAME_CHARS_MAX)
        if not subscriber or self._receipts is None:
            return None
        return self._receipts.join(subscriber_of(identity, subscriber))

    async def list_alarms(self, request: pb.ListAlarmsRequest, context: Any) -> pb.ListAlarmsResponse:
        """One page, newest first."""
        wanted = within(filter_of(request.filter, self._concerns), caller(context))
        if request.page_size > PAGE_MAX:
            raise Rejected("PAGE_SIZE", f"page_size is {request.page_size}; 1 to {PAGE_MAX} are allowed, 0 is 100")
        size = request.page_size or PAGE_DEFAULT
        after = _position(request.page_token) if request.page_token else None
        alarms = await self._reader.list_page(wanted, active_only=request.active_only, limit=size + 1, after=after)
        token = _token(alarms[size - 1]) if len(alarms) > size else ""
        found = [alarm_to_wire(alarm, self._leader_id(alarm)) for alarm in alarms[:size]]
        return pb.ListAlarmsResponse(alarm=found, next_page_token=token)

    async def get_alarm(self, request: pb.GetAlarmRequest, context: Any) -> pb.GetAlarmResponse:
        """One alarm with its history."""
        alarm, transitions = await self._found(request.alarm_id, caller(context))
        told = alarm_to_wire(alarm, self._leader_id(alarm))
        return pb.GetAlarmResponse(alarm=told, transition=map(transition_to_wire, transitions))

    def _leader_id(self, alarm: Alarm) -> str:
        """The alarm in whose call it is now; empty: its own."""
        leader = next(iter(self._desk.book.called_with(alarm)), alarm)
        return "" if leader.alarm_id == alarm.alarm_id else leader.alarm_id

    async def explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        """One alarm with all that can be said about it."""
        alarm, transitions = await self._found(request.alarm_id, caller(context))
        identity = caller(context)
        parents = await self._reader.get_many([alarm.parent_id]) if alarm.parent_id else []
        parents = [parent for parent in parents if identity.sees(parent.district)]
        children, worst = await self._reader.children(alarm.alarm_id, CHILDREN_SHOWN, identity.districts)
        seen = await self._witness(alarm, identity.districts)
        answer = explanation(alarm, transitions, parents[0] if parents else None, children, worst, seen)
        answer.called_with.extend(map(alarm_to_wire, self._desk.book.called_with(alarm)))
        answer.alarm.stands_under = self._leader_id(alarm)
        if self._receipts is not None:
            answer.receipt.extend(receipts_to_wire(transitions, await self._receipts.of([t.seq for t in transitions])))
        return answer

    async def _found(self, alarm_id: str, identity: Identity) -> tuple[Alarm, list[Transition]]:
        check_text("alarm_id", alarm_id, 1, ID_CHARS_MAX)
        found = await self._reader.get(alarm_id)
        if found is None:
            raise Missing("ALARM_UNKNOWN", f"alarm {alarm_id!r} is not known; take the id from Subscribe or ListAlarms")
        check_sees(identity, found[0].district, f"alarm {alarm_id}")
        return found

    async def acknowledge(self, request: pb.AcknowledgeRequest, context: Any) -> pb.AcknowledgeResponse:
        """Commit an operator's acknowledgement."""
        check_text("alarm_id", request.alarm_id, 1, ID_CHARS_MAX)
        await self._check_alarms([request.alarm_id], caller(context))
        action = action_of(
            pb.ActRequest(
                action_id=request.action_id,
                alarm_id=request.alarm_id,
                kind=pb.ACTION_KIND_ACKNOWLEDGE,
                operator=caller(context).signs(request.operator),
                note=request.note,
            )
        )
        return pb.AcknowledgeResponse(alarm=alarm_to_wire(await self._desk.act(action, request.expected_version)))

    async def act(self, request: pb.ActRequest, context: Any) -> pb.ActResponse:
        """Commit an operator's action."""
        check_text("alarm_id", request.alarm_id, 1, ID_CHARS_MAX)
        identity = caller(context)
        await self._check_alarms([request.alarm_id], identity)
        request.operator = identity.signs(request.operator)
        alarm = await self._desk.act(action_of(request), request.expected_version)
        return pb.ActResponse(alarm=alarm_to_wire(alarm))

    async def act_on_many(self, request: pb.ActOnManyRequest, context: Any) -> pb.ActOnManyResponse:
        """Commit one action on many alarms."""
        identity = caller(context)
        request.act.operator = identity.signs(request.act.operator)
        targets = targets_of(request, self._concerns)
        if isinstance(targets, AlarmFilter):
            targets = within(targets, identity)
        else:
            await self._check_alarms(targets, identity)
        answers = await self._desk.act_on_many(action_of(request.act), targets)
        return pb.ActOnManyResponse(result=[result_of(*answer) for answer in answers.items()])

    async def _check_alarms(self, alarm_ids: Collection[str], identity: Identity) -> None:
        """Denied if one of them is outside the caller's districts; what is not known is refused later."""
        if identity.districts:
            for alarm in await self._desk.stored(list(alarm_ids)):
                check_sees(identity, alarm.district, f"alarm {alarm.alarm_id}")

    async def get_kpis(self, request: pb.GetKpisRequest, context: Any) -> pb.GetKpisResponse:
        """Figures of the last hours."""
        hours, operators = request.hours or 24, request.operators or 1
        if hours > KPI_HOURS_MAX or operators > KPI_OPERATORS_MAX:
            raise Rejected(
                "BAD_QUERY",
                f"hours is {hours}, operators {operators}; at most {KPI_HOURS_MAX} and {KPI_OPERATORS_MAX} are allowed",
            )
        now_us = self._clock.now_us()
        from_us = now_us - hours * 3_600_000_000
        identity = caller(context)
        found = await read_kpis(self._reader, from_us, now_us, operators, identity.districts)
        paging = [alarm for alarm in self._desk.standing() if alarm.pages and identity.sees(alarm.district)]
        answer = kpis_to_wire(found, paging, now_us)
        answer.one_call.extend(self._desk.book.profile.one_call)
        answer.storm.extend(one for one in storms_to_wire(self._storms(), paging) if identity.sees(one.district))
        return answer

    async def shelve_asset(self, request: pb.ShelveAssetRequest, context: Any) -> pb.ShelveAssetResponse:
        """Commit a shelf over an asset, or its end."""
        identity = caller(context)
        request.operator = identity.signs(request.operator)
        asked = shelf_of(request)
        check_sees(identity, self._district(asked), asked.asset or f"a shelf over every {asked.rule}")
        shelf, alarms = await self._desk.shelve_asset(asked)
        return pb.ShelveAssetResponse(shelf=shelf_to_wire(shelf), alarm=map(alarm_to_wire, alarms))

    async def list_shelves(self, request: pb.ListShelvesRequest, context: Any) -> pb.ListShelvesResponse:
        """Shelves over assets that last."""
        identity = caller(context)
        shelves = self._desk.book.shelves(self._clock.now_us())
        mine = [shelf for shelf in shelves if not shelf.asset or identity.sees(self._district(shelf))]
        return pb.ListShelvesResponse(shelf=map(shelf_to_wire, mine))

    def _district(self, shelf: AssetShelf) -> str:
        """District of the asset under a shelf; of none if it is over a type, or the asset is unknown."""
        return self._desk.book.names.district_of(shelf.asset_kind, shelf.asset)


def handlers(service: AlarmService) -> grpc.GenericRpcHandler:
    """The service for grpc.aio.Server.add_generic_rpc_handlers."""
    descriptor = pb.DESCRIPTOR.services_by_name["Alarms"]
    return grpc.method_handlers_generic_handler(
        descriptor.full_name,
        {
            "Subscribe": grpc.unary_stream_rpc_method_handler(
                _streaming(service.subscribe, pb.SubscribeRequest), None, None
            ),
            "ListAlarms": _unary(service.list_alarms, pb.ListAlarmsRequest),
            "GetAlarm": _unary(service.get_alarm, pb.GetAlarmRequest),
            "Acknowledge": _unary(service.acknowledge, pb.AcknowledgeRequest),
            "Act": _unary(service.act, pb.ActRequest),
            "GetKpis": _unary(service.get_kpis, pb.GetKpisRequest),
            "ActOnMany": _unary(service.act_on_many, pb.ActOnManyRequest),
            "Explain": _unary(service.explain, pb.ExplainRequest),
            "ShelveAsset": _unary(service.shelve_asset, pb.ShelveAssetRequest),
            "ListShelves": _unary(service.list_shelves, pb.ListShelvesRequest),
        },
    )


def _unary(method: Callable[[Request, Any], Awaitable[Message]], request_type: type[Request]) -> Any:
    async def serve(raw: bytes, context: Any) -> Message:
        try:
            return await method(_parsed(raw, request_type), context)
        except Exception as error:
            await abort(context, error)

    return grpc.unary_unary_rpc_method_handler(serve, None, lambda message: message.SerializeToString())


def _streaming(
    method: Callable[[Request, Any], Awaitable[None]], request_type: type[Request]
) -> Callable[[bytes, Any], Awaitable[None]]:
    async def serve(raw: bytes, context: Any) -> None:
        try:
            await method(_parsed(raw, request_type), context)
        except grpc.aio.InternalError:
            return  # the caller has left between two messages: nobody is there to be told
        except Exception as error:
            await abort(context, error)

    return serve


def _parsed(raw: bytes, request_type: type[Request]) -> Request:
    try:
        return request_type.FromString(raw)
    except DecodeError as error:
        raise Rejected(
            "MALFORMED",
            f"{len(raw)} bytes arrived that are no {request_type.DESCRIPTOR.name}; check the client's stubs",
        ) from error


def _token(alarm: Alarm) -> str:
    return base64.urlsafe_b64encode(f"{alarm.recorded_us} {alarm.alarm_id}".encode()).decode()


def _position(token: str) -> tuple[int, str]:
    """(recorded_us, alarm_id) of the last alarm of the page before."""
    try:
        recorded, _, alarm_id = base64.urlsafe_b64decode(token.encode()).decode().partition(" ")
        recorded_us = int(recorded)
    except (binascii.Error, ValueError):
        recorded_us, alarm_id = -1, ""
    if not 0 <= recorded_us < 1 << 57 or not alarm_id or "\0" in alarm_id:
        raise Rejected("PAGE_TOKEN", "page_token is not one of ours; send next_page_token of the page before unchanged")
    return recorded_us, alarm_id
