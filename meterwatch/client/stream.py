"""What a head-end's client remembers: of a batch until it is answered, of a stream until it ends."""

from __future__ import annotations

from meterwatch.v1.ingest_pb2 import Welcome


class Pending:
    """A batch without an answer."""

    __slots__ = ("meters", "request", "rows", "sent_s", "seq")

    def __init__(self, seq: int, request: bytes, rows: int, meters: int) -> None:
        self.seq = seq
        self.request = request
        self.rows = rows
        self.meters = meters
        """Dictionary entries the stream must have before it."""
        self.sent_s: float | None = None
        """Monotonic time of the first sending."""


class Stream:
    """What belongs to one stream and ends with it."""

    def __init__(self) -> None:
        self.welcome: Welcome | None = None
        self.credits = 0
        self.in_flight: dict[int, float] = {}
        self.announced = 0
        self.batches = self.rows = self.acked = self.nacked = 0
        self.over = self.finished = False
