"""The Ingest servicer: the door of meterwatch.v1.Ingest, and its calls of one request and one answer.

Promises: a call is answered when what it sent is committed and evaluated, or refused whole, within batch_deadline_s;
what arrives is limited in bytes before it is parsed. Requests arrive as bytes (identity deserialiser), so that what is
no message gets a reason of ours. The stream is ingest.stream; what reads, events and registers mean is elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from ingest.edits import edit
from ingest.held import Held
from ingest.ports import Pipeline
from ingest.registers import registers_of
from ingest.session import Session, StreamLimits, head_end_of
from ingest.stream import Streams, not_yours
from ingest.unary import batch_of_rows, events_of
from meterwatch.access.identity import caller, check_head_end
from meterwatch.batch import EventBatch, Stored
from meterwatch.check_profile import DEFAULT, CheckProfile
from meterwatch.errors import Rejected
from meterwatch.status import abort, abort_with
from meterwatch.v1 import ingest_pb2 as pb

SERVICE = "meterwatch.v1.Ingest"
UNARY_BYTES_MAX = 262_144
EVENTS_BYTES_MAX = 4 * 1024 * 1024


class IngestService:
    """Handlers of meterwatch.v1.Ingest over a Pipeline."""

    def __init__(
        self,
        streams: Streams,
        pipeline: Pipeline,
        limits: StreamLimits,
        checks: CheckProfile = DEFAULT,
        foreign: Callable[[Any, int], object] = lambda context, rows: None,
    ) -> None:
        self._streams = streams
        self._pipeline = pipeline
        self._limits = limits
        self._checks = checks
        self._foreign = foreign
        self._held = Held()

    def handler(self) -> grpc.GenericRpcHandler:
        """The generic handler to add to a grpc.aio server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Stream": grpc.stream_stream_rpc_method_handler(
                    self._streams.stream, None, pb.IngestResponse.SerializeToString
                ),
                "SendEvents": self._call(pb.SendEventsRequest, EVENTS_BYTES_MAX, self._send_events),
                "SendReads": self._call(pb.SendReadsRequest, UNARY_BYTES_MAX, self._send_reads),
                "SendRegisters": self._call(pb.SendRegistersRequest, EVENTS_BYTES_MAX, self._send_registers),
                "EditReads": self._call(pb.EditReadsRequest, UNARY_BYTES_MAX, self._edit_reads),
            },
        )

    def _call(self, kind: Any, bytes_max: int, answer: Callable[[Any, bytes, Any], Awaitable[Message]]) -> Any:
        """A call of one request and one answer. answer: of the request, its bytes and the context."""

        async def answered(data: bytes, context: Any) -> bytes:
            try:
                self._streams.check_ready()
                _limit(data, bytes_max)
                return (await answer(_parse_as(kind, data), data, context)).SerializeToString()
            except TimeoutError:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
                await abort_with(context, code, "DEADLINE", self._limits.too_slow, 1.0)
            except Exception as error:
                await abort(context, error)

        return grpc.unary_unary_rpc_method_handler(answered)

    async def _send_events(self, request: pb.SendEventsRequest, data: bytes, context: Any) -> Message:
        """Ingest.SendEvents."""
        head_end_id, now_us = self._sender(request, context)
        limits = self._checks.at(now_us).ingest[0]
        events, rejects, rows = events_of(request, head_end_id, self._pipeline.topology(), now_us, limits)
        batch = EventBatch(head_end_id, request.epoch, request.seq, _digest(data), events, rejects, rows)
        if (full := self._held.refusal(request.head_end)) is not None:
            self._pipeline.put_off(batch)
            raise full
        stored = await self._stored(self._pipeline.submit_events, batch, request, context)
        return pb.SendEventsResponse(**_came_of(stored))

    async def _send_registers(self, request: pb.SendRegistersRequest, data: bytes, context: Any) -> Message:
        """Ingest.SendRegisters."""
        head_end_id, now_us = self._sender(request, context)
        limits = self._checks.at(now_us).ingest[0]
        batch = registers_of(request, _digest(data), head_end_id, self._pipeline.topology(), now_us, limits)
        stored = await self._stored(self._pipeline.submit_registers, batch, request, context)
        return pb.SendRegistersResponse(**_came_of(stored), versions=stored.versions)

    async def _send_reads(self, request: pb.SendReadsRequest, data: bytes, context: Any) -> Message:
        """Ingest.SendReads."""
        check_head_end(caller(context), request.head_end)
        dictionary, batch = batch_of_rows(request)
        hello = pb.Hello(head_end=request.head_end, epoch=request.epoch)
        session = Session(self._pipeline, self._limits, self._checks, hello)
        refused = session.extend_dictionary(dictionary)
        with self._held.room(request.head_end):
            response = refused if refused.HasField("nack") else await session.answer(batch)
        if response.HasField("nack"):
            raise Rejected(response.nack.reason, response.nack.message)
        self._say_foreign(context, response.ack.rejected_reason)
        return pb.SendReadsResponse(ack=response.ack)

    async def _edit_reads(self, request: pb.EditReadsRequest, data: bytes, context: Any) -> Message:
        """Ingest.EditReads."""
        identity = caller(context)
        request.operator = identity.signs(request.operator)
        async with asyncio.timeout(self._limits.batch_deadline_s):
            return await edit(self._pipeline, request, _digest(data + identity.name.encode()), self._checks)

    def _sender(self, request: pb.SendEventsRequest | pb.SendRegistersRequest, context: Any) -> tuple[int, int]:
        """Id of the head-end that sends, which may, and the time its request is judged at."""
        check_head_end(caller(context), request.head_end)
        head_end_id = head_end_of(request.head_end, self._pipeline.topology())
        if request.at_us:
            self._pipeline.clock.saw(max(request.at_us))
        return head_end_id, self._pipeline.clock.now_us()

    async def _stored(
        self, submit: Callable[[Any], Awaitable[Stored]], batch: Any, request: Any, context: Any
    ) -> Stored:
        """What came of a batch, within the deadline. Overloaded if there is no room; Rejected if its seq was used."""
        async with asyncio.timeout(self._limits.batch_deadline_s):
            with self._held.room(request.head_end):
                stored = await submit(batch)
        if stored.reused:
            raise Rejected(
                "SEQ_REUSED",
                f"seq {request.seq} of epoch {request.epoch} was sent before with other content; "
                "expected a new seq; count on",
            )
        self._say_foreign(context, stored.rejected_reason.tolist())
        return stored

    def _say_foreign(self, context: Any, reasons: Sequence[int]) -> None:
        """Tell of rows for meters of another head-end."""
        if rows := not_yours(reasons):
            self._foreign(context, rows)


def _limit(data: bytes, most: int) -> None:
    if len(data) > most:
        raise Rejected(
            "MESSAGE_TOO_LARGE", f"{len(data)} bytes; expected at most {most}; split the request or use Stream"
        )


def _parse_as(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except Exception as error:
        raise Rejected(
            "MALFORMED", f"{len(data)} bytes that are no {kind.DESCRIPTOR.full_name} ({error}); send a serialised one"
        ) from None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _came_of(stored: Stored) -> dict[str, Any]:
    """Fields of an answer."""
    return {
        "accepted": stored.accepted,
        "duplicates": stored.duplicates,
        "rejected": len(stored.rejected_row),
        "rejected_row": stored.rejected_row.tolist(),
        "rejected_reason": stored.rejected_reason.tolist(),
        "replayed": stored.replayed,
    }
