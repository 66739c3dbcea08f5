"""grpc.health.v1 for strangers too: `INGEST` for ingestion, "" for all.

The servicer that comes with gRPC writes to a watcher while it holds the lock with which a status is set. Anybody may
watch, and whoever leaves the answer unread would hold it for good: a service that never says that it serves, and none
that stops. Here a status is a value, and telling it is the watcher's own matter.

Promises: nothing that watches is waited for. At most WATCHES_MAX watch; of more the longest there makes way. A name
nobody serves is SERVICE_UNKNOWN to a watcher and NOT_FOUND to who checks it, as the protocol has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from meterwatch.errors import Overloaded

INGEST: Final = "meterwatch.v1.Ingest"
WATCHES_MAX: Final = 1024
"""Of all callers: nobody is asked who he is. A watch that waits costs about 30 KiB. (ours)"""
RETRY_S: Final = 1.0

_SERVING: Final = pb.HealthCheckResponse.SERVING
_NOT_SERVING: Final = pb.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = pb.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Servicer of grpc.health.v1.Health, and what the service says of itself there."""

    def __init__(self) -> None:
        self._status: dict[str, pb.HealthCheckResponse.ServingStatus] = {"": _SERVING}
        self._final = False
        self._watches: dict[asyncio.Event, None] = {}
        """Longest there first. Set: there is something new; not in it any more: it has to make way."""

    def starting(self) -> None:
        """Ingestion is not there yet."""
        self._set({INGEST: _NOT_SERVING})

    def serving(self) -> None:
        """All is there."""
        self._set({INGEST: _SERVING, "": _SERVING})

    def draining(self) -> None:
        """Nothing is served any more, for good."""
        self._set(dict.fromkeys(self._status, _NOT_SERVING))
        self._final = True

    def _set(self, status: dict[str, pb.HealthCheckResponse.ServingStatus]) -> None:
        if self._final:
            return
        self._status |= status
        for news in self._watches:
            news.set()

    async def Check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:
        """What is said of a name now."""
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: pb.HealthCheckRequest, context: Any) -> AsyncIterator[pb.HealthCheckResponse]:
        """What is said of a name now, and each time it is another."""
        if len(self._watches) >= WATCHES_MAX:
            oldest = next(iter(self._watches))
            del self._watches[oldest]
            oldest.set()
        news = asyncio.Event()
        self._watches[news] = None
        told: pb.HealthCheckResponse.ServingStatus | None = None
        try:
            while news in self._watches:
                news.clear()
                status = self._status.get(request.service, _UNKNOWN)
                if status == told:
                    await news.wait()
                    continue
                told = status
                yield pb.HealthCheckResponse(status=status)
            raise Overloaded("QUEUE_FULL", f"more than {WATCHES_MAX} watch; watch again", RETRY_S)
        finally:
            self._watches.pop(news, None)
