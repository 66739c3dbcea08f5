"""Ingest.Stream: the long-lived stream of a head-end, as gRPC sees it. What a batch means is the session's.

Promises: answers leave in the order of their messages; no more batches and bytes are under way than granted, which
slows the sender; a newer stream of a head-end and epoch ends the older one; while draining, what was read is answered
and then the stream ends. A stream is given up idle_timeout_s after its last message, or after an answer that nobody
takes: its place, its head-end, its dictionary and its batches are free then, whether the other side hears of it or not.

Messages arrive as bytes (identity deserialiser), so that a malformed one gets a Nack in band instead of ending the
stream with a status that names a Python class.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
import structlog

from ingest.decode import parse
from ingest.ports import Pipeline
from ingest.session import CREDITS_MAX, Session, StreamLimits
from meterwatch import failpoints
from meterwatch.access.identity import Identity, caller, check_head_end
from meterwatch.check_profile import DEFAULT, CheckProfile
from meterwatch.errors import Draining, Overloaded, Rejected
from meterwatch.status import abort, abort_in_time, status_of
from meterwatch.v1 import ingest_pb2 as pb

MUTE_MAX: Final = 16
"""Streams of one caller that have not said hello: of none of them is it known whose share it is. (ours)"""
_log = structlog.get_logger(__name__)


class _CreditsExceeded(Exception):
    pass


class _Idle(Exception):
    pass


class _Superseded(Exception):
    pass


class _Owed(NamedTuple):
    """An answer to come, and the bytes of the message it answers."""

    answer: Awaitable[pb.IngestResponse]
    size: int


class _Ending(NamedTuple):
    """The status of a stream. No exception: that would keep all of the stream alive until the status is taken."""

    code: grpc.StatusCode
    reason: str
    text: str
    retry_after_s: float | None = None


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

    def __init__(self, sending: asyncio.Task[None], session: Session) -> None:
        self.session = session
        self._sending = sending
        self.superseded = False

    def supersede(self) -> None:
        self.superseded = True
        self._sending.cancel()


class Streams:
    """All streams of a service over a Pipeline; `stream` is the handler of one."""

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
        noted: Callable[[Any, str, str], object] = lambda context, outcome, what: None,
    ) -> None:
        """noted: told of what goes on record beside foreign rows: a seq used again, a stream superseded."""
        self._foreign, self._noted = foreign, noted
        self._nacked = nacked
        self._overdue = overdue
        self._pipeline = pipeline
        self._limits = limits
        self._checks = checks
        self._version = version
        self._streams_max, self._head_end_streams_max = streams_max, head_end_streams_max
        self._live: dict[tuple[int, int], _Live] = {}
        self._drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open = 0
        """How many there are."""
        self._mute = Counter[str]()
        """Of them by caller, where callers are known, those that have not said hello."""

    @property
    def draining(self) -> bool:
        return self._drained.done()

    def drain(self) -> None:
        """Read nothing more. Each stream ends with DRAINING once what it has read is answered."""
        if not self._drained.done():
            self._drained.set_result(None)

    def check_ready(self) -> None:
        """Raise Draining or StorageUnavailable while nothing can be taken."""
        if self._drained.done():
            raise _draining()
        self._pipeline.check_ready()

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Ingest.Stream."""
        if self.open >= self._streams_max:
            text = f"{self.open} streams open; expected at most that; wait"
            await abort(context, Overloaded("STREAMS_MAX", text, 1.0))
        self.open += 1
        try:
            ending = await self._lived(requests, context)
        finally:
            self.open -= 1
        if ending is not None:
            await abort_in_time(context, self._limits.idle_timeout_s, *ending)

    async def _lived(self, requests: AsyncIterator[bytes], context: Any) -> _Ending | None:
        """A stream from hello to summary; what it has to end with otherwise."""
        try:
            await self._run(requests, context)
        except _CreditsExceeded as error:
            return _Ending(grpc.StatusCode.FAILED_PRECONDITION, "CREDITS_EXCEEDED", str(error))
        except (_Idle, TimeoutError) as error:
            return _Ending(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", str(error) or self._limits.too_slow, 1.0)
        except _Superseded as error:
            return _Ending(grpc.StatusCode.ABORTED, "SUPERSEDED", str(error))
        except grpc.aio.InternalError:  # a message did not go out: the sender has left, and nobody is to be told
            raise asyncio.CancelledError from None
        except Exception as error:
            return _Ending(*status_of(error))
        return None

    async def _run(self, requests: AsyncIterator[bytes], context: Any) -> None:
        self.check_ready()
        try:
            with self._not_yet_known(caller(context)):
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
        session.others_bytes = partial(self._others_bytes, key)
        self._check_share(session.head_end_id, key)
        self._pipeline.connected(session.head_end_id)
        _log.info("stream open", head_end=first.hello.head_end, epoch=session.epoch, agent=first.hello.agent[:128])
        answers: _Answers = asyncio.Queue(max(CREDITS_MAX, self._limits.credits) + 2)
        flight = _Flight(self._limits.credits * self._limits.message_bytes_max)
        sending = asyncio.create_task(self._answer(context, session, answers, flight))
        live = _Live(sending, session)
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
            self._noted(context, "SUPERSEDED", f"epoch {session.epoch}")
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

    @contextmanager
    def _not_yet_known(self, identity: Identity) -> Iterator[None]:
        """Before hello. Overloaded if the caller has too many such streams: they would take those of all others."""
        if self._mute[identity.name] >= MUTE_MAX and not identity.local:
            raise Overloaded(
                "HEAD_END_STREAMS_MAX",
                f"{MUTE_MAX} streams of {identity.name!r} have not said hello; expected at most that; say it, or wait",
                1.0,
            )
        self._mute[identity.name] += 1
        try:
            yield
        finally:
            self._mute[identity.name] -= 1
            if not self._mute[identity.name]:
                del self._mute[identity.name]

    def _others_bytes(self, key: tuple[int, int]) -> int:
        """What the dictionaries of the other streams of its head-end take."""
        return sum(
            live.session.dictionary_bytes for other, live in self._live.items() if other != key and other[0] == key[0]
        )

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
        await self._in_time(context.send_initial_metadata(()))  # with a message nobody reads no status could follow
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
                if response.nack.reason == "SEQ_REUSED":
                    self._noted(context, "SEQ_REUSED", f"epoch {session.epoch} seq {response.nack.seq}")
            if response.WhichOneof("message") in ("ack", "nack"):
                flight.batches -= 1
            if response.HasField("ack"):
                if rows := not_yours(response.ack.rejected_reason):
                    self._foreign(context, rows)
                response.ack.overdue_reads, response.ack.overdue_meters = self._overdue(session.head_end_id)
                failpoints.passed("inside_ack")
            await self._send(context, response)
        await self._send(context, session.summary())

    async def _send(self, context: Any, response: pb.IngestResponse) -> None:
        await self._in_time(context.write(response))

    async def _in_time(self, sending: Awaitable[None]) -> None:
        """Await what the other side must take. _Idle if it does not."""
        try:
            async with asyncio.timeout(self._limits.idle_timeout_s):
                await sending
        except TimeoutError:
            raise _Idle(
                f"no answer was read for {self._limits.idle_timeout_s:.0f} s; expected them to be read as they come"
            ) from None

    async def _read(self, requests: AsyncIterator[bytes], session: Session, answers: _Answers, flight: _Flight) -> None:
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


def not_yours(reasons: Sequence[int]) -> int:
    """Rows for meters of another head-end."""
    return list(reasons).count(pb.ROW_REASON_NOT_YOURS) if reasons else 0


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
