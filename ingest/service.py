"""The Ingest servicer: the door of meterwatch.v1.Ingest, and its calls of one request and one answer.

Promises: a call is answered when what it sent is committed and evaluated, or refused whole, within batch_deadline_s;
what arrives is limited in bytes before it is parsed. Requests arrive as bytes (identity deserialiser), so that what is
no message gets a reason of ours. The stream is ingest.stream; what reads, events and registers mean is elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import grpc
import numpy as np

from ingest.edits import edit
from ingest.held import Held
from ingest.ports import Pipeline
from ingest.registers import registers_of
from ingest.session import Session, StreamLimits, head_end_of
from ingest.stream import Streams, not_yours
from ingest.unary import batch_of_rows, events_of
from meterwatch.access.identity import caller, check_head_end
from meterwatch.batch import EventBatch
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
                "SendEvents": grpc.unary_unary_rpc_method_handler(
                    self.send_events, None, pb.SendEventsResponse.SerializeToString
                ),
                "SendReads": grpc.unary_unary_rpc_method_handler(
                    self.send_reads, None, pb.SendReadsResponse.SerializeToString
                ),
                "SendRegisters": grpc.unary_unary_rpc_method_handler(
                    self.send_registers, None, pb.SendRegistersResponse.SerializeToString
                ),
                "EditReads": grpc.unary_unary_rpc_method_handler(
                    self.edit_reads, None, pb.EditReadsResponse.SerializeToString
                ),
            },
        )

    async def send_events(self, data: bytes, context: Any) -> pb.SendEventsResponse:
        """Ingest.SendEvents."""
        try:
            self._streams.check_ready()
            _limit(data, EVENTS_BYTES_MAX)
            request = _parse_as(pb.SendEventsRequest, data)
            check_head_end(caller(context), request.head_end)
            topology = self._pipeline.topology()
            head_end_id = head_end_of(request.head_end, topology)
            stamps = np.array(request.at_us, np.int64)
            if len(stamps):
                self._pipeline.clock.saw(int(stamps.max()))
            now_us = self._pipeline.clock.now_us()
            limits = self._checks.at(now_us).ingest[0]
            events, rejects, rows = events_of(request, head_end_id, topology, now_us, limits)
            digest = hashlib.blake2b(data, digest_size=16).digest()
            batch = EventBatch(head_end_id, request.epoch, request.seq, digest, events, rejects, rows)
            if (full := self._held.refusal(request.head_end)) is not None:
                self._pipeline.put_off(batch)
                raise full
            async with asyncio.timeout(self._limits.batch_deadline_s):
                with self._held.room(request.head_end):
                    stored = await self._pipeline.submit_events(batch)
            _refuse_reused(stored.reused, request.seq, request.epoch)
            self._say_foreign(context, stored.rejected_reason.tolist())
            return pb.SendEventsResponse(
                accepted=stored.accepted,
                duplicates=stored.duplicates,
                rejected=len(stored.rejected_row),
                rejected_row=stored.rejected_row.tolist(),
                rejected_reason=stored.rejected_reason.tolist(),
                replayed=stored.replayed,
            )
        except TimeoutError:
            await self._too_slow(context)
        except Exception as error:
            await abort(context, error)

    async def send_registers(self, data: bytes, context: Any) -> pb.SendRegistersResponse:
        """Ingest.SendRegisters."""
        try:
            self._streams.check_ready()
            _limit(data, EVENTS_BYTES_MAX)
            request = _parse_as(pb.SendRegistersRequest, data)
            check_head_end(caller(context), request.head_end)
            topology = self._pipeline.topology()
            head_end_id = head_end_of(request.head_end, topology)
            if len(request.at_us):
                self._pipeline.clock.saw(max(request.at_us))
            digest = hashlib.blake2b(data, digest_size=16).digest()
            now_us = self._pipeline.clock.now_us()
            limits = self._checks.at(now_us).ingest[0]
            batch = registers_of(request, digest, head_end_id, topology, now_us, limits)
            async with asyncio.timeout(self._limits.batch_deadline_s):
                with self._held.room(request.head_end):
                    stored = await self._pipeline.submit_registers(batch)
            _refuse_reused(stored.reused, request.seq, request.epoch)
            self._say_foreign(context, stored.rejected_reason.tolist())
            return pb.SendRegistersResponse(
                accepted=stored.accepted,
                versions=stored.versions,
                duplicates=stored.duplicates,
                rejected=len(stored.rejected_row),
                rejected_row=stored.rejected_row.tolist(),
                rejected_reason=stored.rejected_reason.tolist(),
                replayed=stored.replayed,
            )
        except TimeoutError:
            await self._too_slow(context)
        except Exception as error:
            await abort(context, error)

    async def send_reads(self, data: bytes, context: Any) -> pb.SendReadsResponse:
        """Ingest.SendReads."""
        try:
            self._streams.check_ready()
            _limit(data, UNARY_BYTES_MAX)
            request = _parse_as(pb.SendReadsRequest, data)
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
        except TimeoutError:
            await self._too_slow(context)
        except Exception as error:
            await abort(context, error)

    async def edit_reads(self, data: bytes, context: Any) -> pb.EditReadsResponse:
        """Ingest.EditReads."""
        try:
            self._streams.check_ready()
            _limit(data, UNARY_BYTES_MAX)
            request = _parse_as(pb.EditReadsRequest, data)
            identity = caller(context)
            request.operator = identity.signs(request.operator)
            digest = hashlib.blake2b(data + identity.name.encode(), digest_size=16).digest()
            async with asyncio.timeout(self._limits.batch_deadline_s):
                return await edit(self._pipeline, request, digest, self._checks)
        except TimeoutError:
            await self._too_slow(context)
        except Exception as error:
            await abort(context, error)

    def _say_foreign(self, context: Any, reasons: Sequence[int]) -> None:
        """Tell of rows for meters of another head-end."""
        if rows := not_yours(reasons):
            self._foreign(context, rows)

    async def _too_slow(self, context: Any) -> NoReturn:
        await abort_with(context, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", self._limits.too_slow, 1.0)


def _limit(data: bytes, most: int) -> None:
    if len(data) > most:
        raise _too_large(len(data), most)


def _too_large(size: int, most: int) -> Rejected:
    return Rejected("MESSAGE_TOO_LARGE", f"{size} bytes; expected at most {most}; split the request or use Stream")


def _parse_as(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except Exception as error:
        raise Rejected(
            "MALFORMED", f"{len(data)} bytes that are no {kind.DESCRIPTOR.full_name} ({error}); send a serialised one"
        ) from None


def _refuse_reused(reused: bool, seq: int, epoch: int) -> None:
    if reused:
        raise Rejected(
            "SEQ_REUSED", f"seq {seq} of epoch {epoch} was sent before with other content; expected a new seq; count on"
        )
