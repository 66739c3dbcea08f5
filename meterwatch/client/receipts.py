"""Receipts of a feed: tell the service what has come and what was shown, on a thread of its own.

Promises: the caller never waits for it; what could not be told is told later, with the time it happened; at most
POINTS_MAX of a kind wait, and thinned ones make a receipt later, never earlier. A service without receipts is asked
once.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import grpc

from meterwatch.client.retry import failure_of, open_channel
from meterwatch.v1.receipts_pb2 import ConfirmRequest, ConfirmResponse, ReceiptPoint

CONFIRM: Final = "/meterwatch.v1.Receipts/Confirm"
EVERY_S: Final = 1.0
CALL_S: Final = 5.0
LEAVE_S: Final = 2.0
"""What is not told yet may take this long when the feed ends."""
POINTS_MAX: Final = 200
Points = list[tuple[int, float]]
"""Cursor and the steady clock."""


class FeedReceipts:
    """Receipts of one subscriber. `received` and `shown` take cursors that rise; from any thread."""

    def __init__(self, address: str, subscriber: str, credentials: Any = None, every_s: float = EVERY_S) -> None:
        self._address, self._subscriber, self._credentials = address, subscriber, credentials
        self._every_s = every_s
        self._lock = threading.Lock()
        self._received: Points = []
        self._shown: Points = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receipts", daemon=True)

    def start(self) -> None:
        """Begin to tell, unless it has begun."""
        if self._thread.ident is None and not self._over.is_set():
            self._thread.start()

    def received(self, seq: int) -> None:
        """Everything up to a cursor is here."""
        with self._lock:
            _add(self._received, seq)

    def shown(self, seq: int) -> None:
        """Everything up to a cursor was shown to somebody."""
        with self._lock:
            _add(self._shown, seq)

    def close(self) -> None:
        """Tell what is not told yet, and end."""
        self._over.set()

    def join(self) -> None:
        """Wait for the end, LEAVE_S at most."""
        if self._thread.is_alive():
            self._thread.join(LEAVE_S)

    def _run(self) -> None:
        channel = open_channel(self._address, self._credentials)
        confirm = channel.unary_unary(
            CONFIRM,
            request_serializer=ConfirmRequest.SerializeToString,
            response_deserializer=ConfirmResponse.FromString,
        )
        try:
            over = False
            while not over:
                over = self._over.wait(self._every_s)
                if not self._tell(confirm):
                    return
        finally:
            channel.close()

    def _tell(self, confirm: Any) -> bool:
        """One call, if there is news. False: no call will ever help."""
        with self._lock:
            received, self._received = self._received, []
            shown, self._shown = self._shown, []
        if not received and not shown:
            return True
        now_s = time.monotonic()
        request = ConfirmRequest(
            subscriber=self._subscriber, received=_points(received, now_s), shown=_points(shown, now_s)
        )
        try:
            confirm(request, timeout=CALL_S)
        except grpc.RpcError as error:
            with self._lock:
                self._received = _thinned(received + self._received)
                self._shown = _thinned(shown + self._shown)
            return failure_of(error).retried
        return True


def _add(points: Points, seq: int) -> None:
    last = points[-1][0] if points else -1
    if last >= seq:  # sent once more after a break: the point is later, for what came before as well
        points.pop()
    points.append((max(last, seq), time.monotonic()))
    points[:] = _thinned(points)


def _thinned(points: Points) -> Points:
    """Every second one, with the newest, until they are few enough."""
    while len(points) > POINTS_MAX:
        points = points[::-2][::-1]
    return points


def _points(points: Points, now_s: float) -> list[ReceiptPoint]:
    return [ReceiptPoint(seq=seq, ago_us=max(0, int((now_s - at_s) * 1e6))) for seq, at_s in points]
