"""The gate: every call passes it, and nothing of it is done before it is known who calls and that he may.

Order for each call: identity (a token if one is shown, else the certificate, else LOCAL where neither is asked for),
then the table of methods (methods.py), then whether there is room (room.py), then its request in its turn (doors.py),
then the method. What is in no table is refused. A refusal names the method and what is missing, and is counted in the
audit trail. What alters something is on record before it is begun and, with what came of it, before it is answered; if
it cannot be, nothing is done.
A stream is judged once, at its beginning. It ends with UNAUTHENTICATED when its token or certificate has been expired
for GRACE_S, or its serial is denied, which is looked at every SWEEP_S; cursors stay good, and the caller resumes.

To grpc every method is one with a stream of requests: those alone are received when they are asked for. To a caller it
is what it was, one message. The gate stands outside meterwatch.calls.Watch, so that a stranger's bytes are not even
received.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from meterwatch import failpoints
from meterwatch.access.about import about
from meterwatch.access.certificates import Certificates, over_tls
from meterwatch.access.doors import Doors, Load
from meterwatch.access.identity import LOCAL, NOBODY, Identity, shown
from meterwatch.access.methods import METHODS, Reach, Rule, Takes
from meterwatch.access.room import Place, Room
from meterwatch.access.serials import DeniedSerials
from meterwatch.access.tokens import Tokens
from meterwatch.access.trail import BEGUN, AuditRow, Trail, row_of
from meterwatch.calls import reason_of
from meterwatch.config import Server
from meterwatch.errors import Denied, Rejected, Unauthenticated
from meterwatch.status import abort, abort_with

GRACE_S: Final = 60.0
SWEEP_S: Final = 10.0
NEVER_S: Final = 1e9
"""No stream lasts so long; a timer cannot either."""
UNREAD_S: Final = 60.0
"""A piece of an answer that nobody takes for so long ends the call: what it holds, the database's connection above all,
is for those who read."""
_KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_DENIALS: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED")
Refused = Callable[[str, str, str], None]


class _Stuck(Exception):
    """The other side does not go on: what does it not do?"""


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Interceptor, the first of grpc.aio.server(interceptors=[...]). refused: told of method, code and reason."""

    def __init__(
        self,
        trail: Trail,
        tokens: Tokens | None = None,
        denied: DeniedSerials | None = None,
        refused: Refused = lambda method, code, reason: None,
        now_s: Callable[[], float] = time.time,
        methods: Mapping[str, Rule] = METHODS,
        room: Room | None = None,
        doors: Doors | None = None,
    ) -> None:
        self._trail = trail
        self._tokens = tokens
        self._denied = denied or DeniedSerials()
        self._certificates = Certificates(self._denied, now_s)
        self._refused = refused
        self._now_s = now_s
        self._methods = methods
        self._room = room or Room(Server())
        self._doors = doors or Doors.of(Server())
        self._streams: set[_Call] = set()

    @property
    def keys_problem(self) -> str:
        """Why the keys for tokens were not read again; empty: they were, or there are none."""
        return "" if self._tokens is None else self._tokens.keys.problem

    @property
    def serials_problem(self) -> str:
        """Why the list of denied serials was not read again; empty: it was, or there is none."""
        return self._denied.problem

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
        make: Any = getattr(grpc, f"stream_{kind.rpartition('_')[2]}_rpc_method_handler")
        guarded = self._guarded(details.method.removeprefix("/"), getattr(handler, kind), kind)
        return make(guarded, handler.request_deserializer, handler.response_serializer)

    async def run(self) -> None:
        """Look at what changes behind open streams, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.sweep()

    async def sweep(self) -> None:
        """Read keys and denied serials if they are new, and end the streams that are not allowed any more."""
        if self._tokens is not None:
            await self._tokens.keys.refresh()
        self._denied.reload()
        for call in tuple(self._streams):
            if self._denied(call.identity.serial):
                call.end(
                    Unauthenticated("CERTIFICATE_DENIED", f"the certificate of {call.identity.name!r} is denied by now")
                )

    def _guarded(self, method: str, behaviour: Any, kind: str) -> Any:
        unary = kind.startswith("unary_")
        if inspect.isasyncgenfunction(behaviour):

            async def pieces(requests: Any, context: Any) -> None:
                async with (
                    self._call(method, None if unary else requests, context) as call,
                    aclosing(behaviour(call.request, call)) as answer,
                ):
                    async for piece in answer:
                        call.check_open()
                        await call.hand_over(piece)

            async def each(requests: Any, context: Any) -> None:
                try:
                    await pieces(requests, context)
                except BaseException as error:
                    let_go(error)
                    raise
                finally:
                    del requests, context

            return each

        async def answer(requests: Any, context: Any) -> Any:
            async with self._call(method, None if unary else requests, context) as call:
                if kind == "unary_unary":
                    return await behaviour(call.request, call)
                async with call.limited():
                    return await behaviour(call.request, call)

        async def whole(requests: Any, context: Any) -> Any:
            try:
                return await answer(requests, context)
            except BaseException as error:
                let_go(error)
                raise
            finally:
                del requests, context

        return whole

    @asynccontextmanager
    async def _call(self, method: str, requests: Any, context: Any) -> AsyncIterator[_Call]:
        """One call from its admission to its place in the audit trail. requests: of a stream; None: there is one."""
        rule = self._methods.get(method)
        call = _Call(context, method, self._now_s, partial(self._note_refusal, rule=rule), requests)
        try:
            call.identity = await self._identity(context, rule)
            check_allowed(call.identity, method, rule)
            if call.identity.expires_s is not None:
                call.ends_s = call.identity.expires_s + GRACE_S
            if rule is not None:
                call.place = self._room.take(call.identity, rule.takes)
            if rule is not None and requests is None:
                call.request = await self._received(call, rule)
            if rule is not None and rule.sends:
                self._trail.counted(row_of(call.identity, method, "", "ADMITTED", call.peer()))
            if rule is not None and rule.changes and not rule.sends:
                await self._begin(call, about(method, rule, call.request))
            self._streams.add(call)
            yield call
            if call.begun is not None:
                failpoints.passed("after_change")
                call.done = True
                await self._trail.changed(replace(call.begun, outcome="OK"))
        except (asyncio.CancelledError, GeneratorExit):
            call.ended("CANCELLED")  # whether it was done nobody knows
            raise
        except _Stuck as stuck:
            call.by_gate = True
            await call.give_up(str(stuck))
        except Exception as error:
            if call.outcome == "OK":  # refused here; what broke inside has its status from Watch already
                call.by_gate = True
                await abort(call, error)
            raise
        finally:
            self._streams.discard(call)
            if call.load is not None:
                call.load.leave()
            if call.place is not None:
                self._room.leave(call.place)

    async def _received(self, call: _Call, rule: Rule) -> Any:
        """The one message of a call that has no more. What comes behind it is not received."""
        door = self._doors.anybody if not rule.roles else self._doors.head_ends if rule.sends else self._doors.people
        try:
            name = call.peer() if call.identity.local else call.identity.name
            request, load = await door.receive(name, call.read, share=bool(call.identity.name))
        except TimeoutError:
            raise _Stuck(f"no request was here {door.receive_s:.0f} s after its call; send it with the call") from None
        if rule.takes is Takes.NOTHING and rule.roles:  # no place of its own counts it
            call.load = load
        else:
            load.leave()
        if request is grpc.aio.EOF:
            raise Rejected("MALFORMED", "a call ended before its request was here; expected one message; send it whole")
        if rule.bytes_max is not None and isinstance(request, bytes) and len(request) > rule.bytes_max:
            raise Rejected(
                "MESSAGE_TOO_LARGE",
                f"{len(request)} bytes; a request of {call.method} has at most {rule.bytes_max}; ask in parts",
            )
        return request

    async def _begin(self, call: _Call, what: str) -> None:
        """Have it on record that a change is begun; without that it is not."""
        call.begun = replace(row_of(call.identity, call.method, what, BEGUN, call.peer()), call_id=_call_id())
        await self._trail.changed(call.begun)
        failpoints.passed("before_change")

    async def _identity(self, context: Any, rule: Rule | None) -> Identity:
        """Who calls; NOBODY where nobody is asked. Unauthenticated."""
        if rule is not None and not rule.roles:
            return NOBODY
        auth = context.auth_context()
        by_certificate = self._certificates.identity(auth)  # a denied one is not mended by a token
        headers = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if headers and self._tokens is None:
            raise Unauthenticated("TOKEN_REFUSED", "a token arrived; this service takes none; leave it out")
        if headers and self._tokens is not None:
            return await self._tokens.identity(headers)
        if by_certificate is not None:
            return by_certificate
        if self._tokens is None and not over_tls(auth):
            return LOCAL
        raise Unauthenticated("NO_CREDENTIALS", "nobody said who calls; send a token, or connect with a certificate")

    def _note_refusal(self, call: _Call, rule: Rule | None) -> None:
        """Note what came of a change that was not done; count a denial."""
        code, _, reason = call.outcome.partition(" ")
        if call.by_gate:
            self._refused(call.method, code, reason)
        if call.begun is not None:
            if not call.done:
                self._trail.outcome(replace(call.begun, outcome=call.outcome))
        elif code in _DENIALS:
            what = about(call.method, rule, call.request) if rule is not None and call.identity.roles else ""
            self._trail.counted(row_of(call.identity, call.method, what, call.outcome, call.peer()))


class _Call:
    """A call's context with the identity behind it. Ends itself when that no longer holds.

    refused: told of this call, and not bound to it: in a circle a call with its request would live until the collector
    comes, which is seldom.
    """

    def __init__(
        self,
        context: Any,
        method: str,
        now_s: Callable[[], float],
        refused: Callable[[_Call], None],
        request: Any,
    ) -> None:
        self.identity = NOBODY
        self.method = method
        self.request = request
        """What the method is given; None until it is here."""
        self.outcome = "OK"
        self.ends_s = float("inf")
        self.by_gate = False
        self.place: Place | None = None
        self.load: Load | None = None
        self.begun: AuditRow | None = None
        """Of a change: its row, which may be on record."""
        self.done = False
        """It was done, and only its answer may fail."""
        self._context = context
        self._now_s = now_s
        self._refused = refused
        self._error: Unauthenticated | None = None
        self._limit: asyncio.Timeout | None = None
        self._writes = 0
        self.read = context.read

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._context, name)
        if name == "write":  # of a stream that nothing ends: without a detour
            self.write = found
        return found

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        self.ended(f"{code.name} {reason_of(trailing_metadata)}".rstrip())
        await self._context.abort(code, details, trailing_metadata)
        raise AssertionError("abort() returned")

    def ended(self, outcome: str) -> None:
        """Note that it was not done, before anybody is told so."""
        if self.outcome == "OK":
            self.outcome = outcome
            self._refused(self)

    def end(self, error: Unauthenticated) -> None:
        """Have the stream end with this: at once, or when the message under way is written.

        gRPC takes no status while a message is under way. Whoever does not read gets nothing more, and the status when
        he reads on.
        """
        self._error = error
        if self._limit is not None and not self._writes:
            self._limit.reschedule(asyncio.get_running_loop().time())

    def check_open(self) -> None:
        """Raise what ends the stream, if something does."""
        if self._error is None and self._now_s() > self.ends_s:
            self._error = _expired(self.identity)
        if self._error is not None:
            raise self._error

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[None]:
        """Let a stream run for as long as its identity holds."""
        if self.identity.local or self.identity is NOBODY:
            yield
            return
        self.write = self._write
        left_s = self.ends_s - self._now_s()
        ending = None
        if left_s < NEVER_S:
            ending = asyncio.get_running_loop().call_later(max(left_s, 0), self.end, _expired(self.identity))
        try:
            async with asyncio.timeout(None) as self._limit:
                yield
        except TimeoutError:
            if self._error is None:
                raise
            raise self._error from None
        finally:
            self._limit = None
            if ending is not None:
                ending.cancel()

    async def hand_over(self, piece: Any) -> None:
        """Write a piece of an answer. _Stuck if nobody takes it within UNREAD_S."""
        try:
            async with asyncio.timeout(UNREAD_S):
                await self._context.write(piece)
        except TimeoutError:
            raise _Stuck(
                f"a piece of the answer was not read for {UNREAD_S:.0f} s; ask again, and read as it comes"
            ) from None
        except grpc.aio.InternalError:  # the caller has left between two pieces: nobody is there to be told
            raise asyncio.CancelledError from None

    async def give_up(self, text: str) -> NoReturn:
        """End a call whose caller does not go on; wait no longer for that than for a piece."""
        try:
            async with asyncio.timeout(UNREAD_S):
                await abort_with(self, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", text, 1.0)
        except (TimeoutError, grpc.aio.InternalError):
            raise asyncio.CancelledError from None  # the one end gRPC takes from a handler that adds no status

    async def _write(self, message: Any) -> None:
        """Write, if the stream has not ended; and end it when the message is written, if it has meanwhile."""
        if self._error is not None:
            raise self._error
        self._writes += 1
        try:
            await self._context.write(message)
        finally:
            self._writes -= 1
        if self._error is not None:
            raise self._error


def let_go(error: BaseException | None) -> None:
    """Empty the frames an error went through, and those of what it came of.

    gRPC keeps the error of an aborted call with the call, and its frames hold the call and its request: a circle that
    would live until the collector comes.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def check_allowed(identity: Identity, method: str, rule: Rule | None) -> None:
    """Denied unless the table lets this identity call the method."""
    if rule is None:
        raise Denied("METHOD_CLOSED", f"{method} is in no table of who may call it; it is closed to everybody")
    if not rule.roles:
        return
    if not identity.roles & rule.roles:
        raise Denied(
            "ROLE_MISSING",
            f"{method} needs the role {_any_of(rule.roles)}; {identity.name!r} has {_any_of(identity.roles) or 'none'}",
        )
    if identity.districts and rule.reach is Reach.GRID:
        raise Denied(
            "WHOLE_GRID",
            f"{method} is about the whole grid; {identity.name!r} has {shown(identity.districts)} only",
        )


def _call_id() -> int:
    return secrets.randbits(62) + 1


def _any_of(roles: Iterable[str]) -> str:
    return " or ".join(sorted(str(role) for role in roles))


def _expired(identity: Identity) -> Unauthenticated:
    return Unauthenticated(
        f"{identity.how.name}_EXPIRED",
        f"the {identity.how.value} of {identity.name!r} has expired; get a new one and go on from the last cursor",
        retry_after_s=0.0,
    )
