"""The Ingest servicer: gRPC in front of sessions. Knows calls, timeouts and credits; what a batch means is elsewhere.

Requests of the stream arrive as bytes (identity deserialiser), so that a malformed message gets a Nack in band instead
of ending the stream with a status that names a Python class.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import grpc
import numpy as np
import structlog

from ingest.decode import ID, parse
from ingest.edits import edit
from ingest.ports import Pipeline
from ingest.registers import registers_of
from ingest.session import CREDITS_MAX, Session, StreamLimits, ack_of, head_end_of
from ingest.unary import batch_of_rows, events_of
from meterwatch import failpoints
from meterwatch.access.identity import caller, check_head_end
from meterwatch.batch import EventBatch
from meterwatch.check_profile import DEFAULT, CheckProfile
from meterwatch.errors import Draining, Overloaded, Rejected
from meterwatch.status import abort, abort_with
from meterwatch.v1 import ingest_pb2 as pb

SERVICE = "meterwatch.v1.Ingest"
UNARY_BYTES_MAX = 262_144
EVENTS_BYTES_MAX = 4 * 1024 * 1024

_log = structlog.get_logger(__name__)


class _CreditsExceeded(Exception):
    pass


class _Idle(Exception):
    pass


class _Owed(NamedTuple):
    """An answer to come, and the bytes of the message it answers."""

    answer: Awaitable[pb.IngestResponse]
    size: int


_Answers = asyncio.Queue[_Owed | None]


class _Flight:
    """Batches of a stream under way. Reading pauses, and with it the sender, while their bytes are `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self.batches = 0
        self.stirred_s = time.monotonic()
        """When something last came or left."""
        self.room = asyncio.Event()
        self.room.set()
        self._bytes_max = bytes_max
        self._bytes = 0

    def bytes_came(self, size: int) -> None:
        self.stirred_s = time.monotonic()
        self._bytes += size
        if self._bytes >= self._bytes_max:
            self.room.clear()

    def bytes_left(self, size: int) -> None:
        self.stirred_s = time.monotonic()
        self._bytes -= size
        if self._bytes < self._bytes_max:
            self.room.set()


class _Live:
    """An open stream as a newer one of the same head-end and epoch sees it."""

    def __init__(self, sending: asyncio.Task[None]) -> None:
        self._sending = sending
        self.superseded = False

    def supersede(self) -> None:
        self.superseded = True
        self._sending.cancel()


class IngestService:
    """Handlers of meterwatch.v1.Ingest over a Pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        limits: StreamLimits,
        version: str,
        streams_max: int = 64,
        head_end_streams_max: int = 32,
        checks: CheckProfile = DEFAULT,
        nacked: Callable[[str], object] = lambda reason: None,
        overdue: Callable[[int], tuple[int, int]] = lambda head_end_id: (0, 0),
        foreign: Callable[[Any, int], object] = lambda context, rows: None,
    ) -> None:
        self._foreign = foreign
        self._nacked = nacked
        self._overdue = overdue
        self._pipeline = pipeline
        self._limits = limits
        self._checks = checks
        self._version = version
        self._streams_max, self._head_end_streams_max = streams_max, head_end_streams_max
        self._live: dict[tuple[int, int], _Live] = {}
        self._drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.streams = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """The generic handler to add to a grpc.aio server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Stream": grpc.stream_stream_rpc_method_handler(self.stream, None, pb.IngestResponse.SerializeToString),
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

    @property
    def draining(self) -> bool:
        return self._drained.done()

    def drain(self) -> None:
        """Read nothing more. Each stream ends with DRAINING once what it has read is answered."""
        if not self._drained.done():
            self._drained.set_result(None)

    def _check_ready(self) -> None:
        if self._drained.done():
            raise _draining()
        self._pipeline.check_ready()

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Ingest.Stream."""
        if self.streams >= self._streams_max:
            await abort(
                context, Overloaded("STREAMS_MAX", f"{self.streams} streams open; expected at most that; wait", 1.0)
            )
        self.streams += 1
        try:
            await self._run(requests, context)
        except _CreditsExceeded as error:
            await abort_with(context, grpc.StatusCode.FAILED_PRECONDITION, "CREDITS_EXCEEDED", str(error))
        except (_Idle, TimeoutError) as error:
            await self._too_slow(context, str(error))
        except _Superseded as error:
            await abort_with(context, grpc.StatusCode.ABORTED, "SUPERSEDED", str(error))
        except Exception as error:
            await abort(context, error)
        finally:
            self.streams -= 1

    async def _too_slow(self, context: Any, text: str = "") -> NoReturn:
        text = text or f"no answer from the database within {self._limits.batch_deadline_s:.0f} s; send again"
        await abort_with(context, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", text, 1.0)

    async def _run(self, requests: AsyncIterator[bytes], context: Any) -> None:
        self._check_ready()
        try:
            first = parse(await self._first(requests))
        except StopAsyncIteration:
            raise Rejected(
                "NO_HELLO", "the stream ended before its first message; expected hello; send Hello first"
            ) from None
        if first.WhichOneof("message") != "hello":
            raise Rejected(
                "NO_HELLO", f"first message is {first.WhichOneof('message')}; expected hello; send Hello first"
            )
        check_head_end(caller(context), first.hello.head_end)
        session = Session(self._pipeline, self._limits, self._checks, first.hello)
        key = (session.head_end_id, session.epoch)
        self._check_share(session.head_end_id, key)
        self._pipeline.connected(session.head_end_id)
        _log.info("stream open", head_end=first.hello.head_end, epoch=session.epoch, agent=first.hello.agent[:128])
        answers: _Answers = asyncio.Queue(max(CREDITS_MAX, self._limits.credits) + 2)
        flight = _Flight(self._limits.credits * self._limits.message_bytes_max)
        sending = asyncio.create_task(self._answer(context, session, answers, flight))
        live = _Live(sending)
        if key in self._live:
            self._live[key].supersede()
        self._live[key] = live
        reading = asyncio.create_task(self._read(requests, session, answers, flight))
        others = (
            reading,
            asyncio.create_task(self._end_if_idle(answers, flight)),
            asyncio.create_task(self._end_if_drained(answers, reading)),
        )
        try:
            await sending
        except asyncio.CancelledError:
            if not live.superseded:
                raise
            raise _Superseded(
                f"head-end {first.hello.head_end!r} opened a newer stream with epoch {session.epoch}; expected "
                "one stream per epoch; use another epoch for a second stream"
            ) from None
        finally:
            for task in others:
                task.cancel()
            while not answers.empty():
                _leave(answers.get_nowait())
            if self._live.get(key) is live:
                del self._live[key]
            self._pipeline.gone(session.head_end_id)
            _log.info("stream end", head_end=first.hello.head_end, batches=session.batches, acked=session.acked)

    def _check_share(self, head_end_id: int, key: tuple[int, int]) -> None:
        """One head-end takes no more than its share of the streams; one that replaces another needs no room."""
        own = sum(live == head_end_id for live, _ in self._live)
        if own >= self._head_end_streams_max and key not in self._live:
            raise Overloaded(
                "HEAD_END_STREAMS_MAX",
                f"{own} streams of this head-end are open; expected at most that; close one, or wait",
                1.0,
            )

    async def _answer(self, context: Any, session: Session, answers: _Answers, flight: _Flight) -> None:
        """Send welcome, the answers in the order of their messages, and the summary; an answer may be an error."""
        await self._send(context, await session.welcome(self._version))
        while (item := await answers.get()) is not None:
            try:
                response = await item.answer
            except BaseException:
                _leave(item)
                raise
            flight.bytes_left(item.size)
            if response.HasField("nack"):
                self._nacked(response.nack.reason)
            if response.WhichOneof("message") in ("ack", "nack"):
                flight.batches -= 1
            if response.HasField("ack"):
                self._say_foreign(context, response.ack.rejected_reason)
                response.ack.overdue_reads, response.ack.overdue_meters = self._overdue(session.head_end_id)
                failpoints.passed("inside_ack")
            await self._send(context, response)
        await self._send(context, session.summary())

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        session: Session,
        answers: _Answers,
        flight: _Flight,
    ) -> None:
        """Turn messages into answers to come, until the sender closes its side; an error becomes the last answer."""
        try:
            async for data in requests:
                if self._drained.done():
                    return
                flight.batches += 1
                if flight.batches > session.granted + 1:
                    raise _credits_exceeded(flight.batches, session.granted)
                flight.bytes_came(len(data))
                await answers.put(_Owed(self._one(data, session, flight), len(data)))
                await flight.room.wait()
            await answers.put(None)
        except Exception as error:
            await answers.put(_Owed(_failed(error), 0))

    async def _end_if_idle(self, answers: _Answers, flight: _Flight) -> None:
        """End the stream after the idle timeout unless answers are owed. One timer a stream, not one a message."""
        while True:
            rest_s = flight.stirred_s + self._limits.idle_timeout_s - time.monotonic()
            if rest_s <= 0 and not flight.batches:
                await answers.put(_Owed(_failed(self._idle()), 0))
                return
            await asyncio.sleep(rest_s if rest_s > 0 else self._limits.idle_timeout_s)

    async def _end_if_drained(self, answers: _Answers, reading: asyncio.Task[None]) -> None:
        await asyncio.shield(self._drained)
        reading.cancel()
        await answers.put(_Owed(_failed(_draining()), 0))

    async def _first(self, requests: AsyncIterator[bytes]) -> bytes:
        """The first message; StopAsyncIteration without one, Draining before it, _Idle after the idle timeout."""
        arriving = asyncio.ensure_future(anext(requests))
        try:
            await asyncio.wait(
                (arriving, self._drained),
                timeout=self._limits.idle_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._drained.done():
                raise _draining()
            if not arriving.done():
                raise self._idle()
            return arriving.result()
        finally:
            arriving.cancel()

    def _idle(self) -> _Idle:
        return _Idle(
            f"nothing arrived for {self._limits.idle_timeout_s:.0f} s; expected reads or the end of the stream; close "
            "it when there is nothing to send"
        )

    def _one(self, data: bytes, session: Session, flight: _Flight) -> Awaitable[pb.IngestResponse]:
        try:
            request = parse(data)
            match request.WhichOneof("message"):
                case "batch":
                    if flight.batches > session.granted:
                        raise _credits_exceeded(flight.batches, session.granted)
                    return asyncio.create_task(session.answer(request.batch))
                case "dictionary":
                    response = session.extend_dictionary(request.dictionary)
                    if response.WhichOneof("message") == "dictionary_ack":
                        flight.batches -= 1
                    return _ready(response)
                case _:
                    raise Rejected("MALFORMED", "a second hello; expected dictionary or batch; open a new stream")
        except Rejected as error:
            return _ready(session.refuse(error))

    async def _send(self, context: Any, response: pb.IngestResponse) -> None:
        async with asyncio.timeout(self._limits.idle_timeout_s):
            await context.write(response)

    async def send_events(self, data: bytes, context: Any) -> pb.SendEventsResponse:
        """Ingest.SendEvents."""
        try:
            self._check_ready()
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
            async with asyncio.timeout(self._limits.batch_deadline_s):
                stored = await self._pipeline.submit_events(
                    EventBatch(head_end_id, request.epoch, request.seq, digest, events, rejects, rows)
                )
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
            self._check_ready()
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
            self._check_ready()
            _limit(data, UNARY_BYTES_MAX)
            request = _parse_as(pb.SendReadsRequest, data)
            check_head_end(caller(context), request.head_end)
            dictionary, batch = batch_of_rows(request)
            hello = pb.Hello(head_end=request.head_end, epoch=request.epoch)
            session = Session(self._pipeline, self._limits, self._checks, hello)
            refused = session.extend_dictionary(dictionary)
            response = refused if refused.HasField("nack") else await session.answer(batch)
            if response.HasField("nack"):
                raise Rejected(response.nack.reason, response.nack.message)
            self._say_foreign(context, response.ack.rejected_reason)
            return pb.SendReadsResponse(ack=response.ack)
        except TimeoutError:
            await self._too_slow(context)
        except Exception as error:
            await abort(context, error)

    def _say_foreign(self, context: Any, reasons: Sequence[int]) -> None:
        """Tell of rows for meters of another head-end."""
        if reasons and (rows := list(reasons).count(pb.ROW_REASON_NOT_YOURS)):
            self._foreign(context, rows)

    async def edit_reads(self, data: bytes, context: Any) -> pb.EditReadsResponse:
        """Ingest.EditReads."""
        try:
            self._check_ready()
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


class _Superseded(Exception):
    pass


def _draining() -> Draining:
    return Draining("the service is about to stop; send again when it is back, or to another")


def _leave(owed: _Owed | None) -> None:
    """Give up an answer nobody will get, so that neither it nor its error is left behind."""
    answer = None if owed is None else owed.answer
    if isinstance(answer, asyncio.Task):
        if not answer.cancel() and not answer.cancelled():
            answer.exception()
    elif inspect.iscoroutine(answer):
        answer.close()


def _credits_exceeded(batches: int, granted: int) -> _CreditsExceeded:
    return _CreditsExceeded(f"{batches} batches in flight; expected at most {granted}; wait for answers")


async def _ready(response: pb.IngestResponse) -> pb.IngestResponse:
    return response


async def _failed(error: Exception) -> pb.IngestResponse:
    raise error


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


__all__ = ["ID", "IngestService", "ack_of"]
