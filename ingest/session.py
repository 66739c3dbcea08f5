"""One head-end's stream: hello, dictionary, credits, and one answer per batch in the order of the batches.

The session owns what belongs to one stream and nothing else: the dictionary, the counts, the refusals. Work on a batch
(decode, validate, store, evaluate) runs as a task; answers leave in order. A batch that is refused gets a Nack and the
stream goes on; an error of ours ends the stream and promises nothing for what was unanswered.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.decode import check_id, columns
from ingest.dictionary import Dictionary
from ingest.ports import Pipeline
from ingest.validate import validate
from meterwatch.batch import Batch, Stored
from meterwatch.check_profile import CheckProfile
from meterwatch.clock import US
from meterwatch.errors import Denied, Rejected
from meterwatch.topology import Topology
from meterwatch.v1 import ingest_pb2 as pb

CREDITS_MAX = 64
"""Credits granted at most to a sender of small batches, which are stored together."""
ROWS_IN_FLIGHT = 80_000
"""Rows a sender of small batches may have unanswered; then a COPY has enough of them to be cheap."""
INLINE_ROWS_MAX = 2_000
"""So many rows are judged on the event loop: the hop to a thread and back costs as much, 50 us and a wait for the GIL.
More of them take one hop for decoding and validation."""
CROWDED_DIVISOR = 4
"""Credits are divided by it while more than half of the service's queue waits for the database."""
DICTIONARIES_BYTES_MAX = 512 * 1024 * 1024
"""Of the dictionaries of all streams of one head-end: 14 million meters with numbers of 12 characters."""
NACKS_MAX = 10
NACKS_WINDOW_S = 60.0
"""This many refusals within the window end the stream: the sender is broken, not unlucky."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of one stream, named as in Welcome."""

    credits: int = 8
    """Batches unanswered at first, and always of batches of ROWS_IN_FLIGHT / credits rows or more."""
    batch_rows_max: int = 65_000
    message_bytes_max: int = 4 * 1024 * 1024
    dictionary_entries_max: int = 1_048_576
    idle_timeout_s: float = 60.0
    batch_deadline_s: float = 30.0

    @property
    def too_slow(self) -> str:
        """What is said of what is not answered within batch_deadline_s."""
        return f"no answer from the database within {self.batch_deadline_s:.0f} s; send again"


def head_end_of(name: str, topology: Topology) -> int:
    """Id of a registered head-end. Rejected BAD_ID, Denied HEAD_END_UNKNOWN."""
    check_id(name, "head_end")
    try:
        return topology.head_end.index(name)
    except ValueError:
        raise Denied(
            "HEAD_END_UNKNOWN",
            f"head-end {name!r} is not in the registry; expected a registered one; import it with "
            "'meterwatch registry import' or send with --register",
        ) from None


class Session:
    """State of one stream after its Hello."""

    def __init__(self, pipeline: Pipeline, limits: StreamLimits, checks: CheckProfile, hello: pb.Hello) -> None:
        if hello.epoch == 0:
            raise Rejected("BAD_EPOCH", "epoch 0; expected a number from 1; send e.g. the start time in seconds")
        if hello.epoch > np.iinfo(np.int64).max:
            raise Rejected("BAD_EPOCH", f"epoch {hello.epoch}; expected at most 2^63 - 1")
        self._pipeline = pipeline
        self._limits = limits
        self._checks = checks
        self.head_end_id = head_end_of(hello.head_end, pipeline.topology())
        self.epoch = hello.epoch
        self._dictionary = Dictionary(pipeline.topology())
        self.others_bytes: Callable[[], int] = lambda: 0
        """What the dictionaries of the head-end's other streams take."""
        self._refused_at: deque[float] = deque(maxlen=NACKS_MAX)
        self.granted = limits.credits
        """Most credits granted so far: so many batches may be under way, whatever the last answer said."""
        self.batches = 0
        self.rows = 0
        self.acked = 0
        self.nacked = 0

    async def welcome(self, version: str) -> pb.IngestResponse:
        """Answer to Hello."""
        return pb.IngestResponse(
            welcome=pb.Welcome(
                server_version=version,
                credits=self._limits.credits,
                batch_rows_max=self._limits.batch_rows_max,
                message_bytes_max=self._limits.message_bytes_max,
                dictionary_entries_max=self._limits.dictionary_entries_max,
                last_acked_seq=await self._pipeline.last_acked(self.head_end_id, self.epoch),
                now_us=self._pipeline.clock.now_us(),
                clock_mode=self._pipeline.clock.mode,
            )
        )

    @property
    def dictionary_bytes(self) -> int:
        return self._dictionary.nbytes

    def extend_dictionary(self, dictionary: pb.Dictionary) -> pb.IngestResponse:
        """Append meters. The whole message is refused if one of its ids is."""
        first = len(self._dictionary)
        count = len(dictionary.meter)
        if first + count > self._limits.dictionary_entries_max:
            return self._nack(
                0,
                Rejected(
                    "DICTIONARY_FULL",
                    f"{count} entries after {first}; expected at most {self._limits.dictionary_entries_max} on one "
                    "stream; open another stream",
                ),
            )
        if (taken := self.dictionary_bytes + self.others_bytes()) + dictionary.ByteSize() > DICTIONARIES_BYTES_MAX:
            return self._nack(
                0,
                Rejected(
                    "DICTIONARY_FULL",
                    f"{count} entries while all dictionaries of this head-end take {taken} bytes; expected at most "
                    f"{DICTIONARIES_BYTES_MAX}; announce on each stream the meters it sends, and no others",
                ),
            )
        try:
            self._dictionary.append(dictionary.meter, self._pipeline.topology())
        except Rejected as error:
            return self._nack(0, error)
        unknown = np.flatnonzero(self._dictionary.slots[first:] < 0) + first
        return pb.IngestResponse(
            dictionary_ack=pb.DictionaryAck(first_index=first, count=count, unknown_index=unknown.tolist())
        )

    async def answer(self, batch: pb.ReadBatch) -> pb.IngestResponse:
        """Take one batch to its end: Ack, Nack, or an error that ends the stream."""
        self.batches += 1
        try:
            async with asyncio.timeout(self._limits.batch_deadline_s):
                stored, rows = await self._store(batch)
        except Rejected as error:
            return self._nack(batch.seq, error)
        if stored.reused:
            return self._nack(
                batch.seq,
                Rejected(
                    "SEQ_REUSED",
                    f"seq {batch.seq} of epoch {self.epoch} was sent before with other content; expected a new seq; "
                    "raise the epoch after losing the memory of what was sent",
                ),
            )
        self.acked += 1
        return pb.IngestResponse(ack=ack_of(stored, self._grant(rows)))

    def _grant(self, rows: int) -> int:
        """Credits for a sender of batches of so many rows; `granted` remembers the most."""
        most = max(CREDITS_MAX, self._limits.credits)
        credits_now = min(max(ROWS_IN_FLIGHT // max(rows, 1), self._limits.credits), most)
        if self._pipeline.crowded:
            credits_now = max(credits_now // CROWDED_DIVISOR, 1)
        self.granted = max(self.granted, credits_now)
        return credits_now

    async def _store(self, batch: pb.ReadBatch) -> tuple[Stored, int]:
        topology = self._pipeline.topology()
        known = self._dictionary
        known.resolve(topology)
        now_us = self._now_us(batch)
        arguments = batch, topology, known.fingerprints, known.slots, now_us
        if len(batch.meter_index) <= INLINE_ROWS_MAX:
            rows, made = self._judged(*arguments)
        else:
            rows, made = await asyncio.to_thread(self._judged, *arguments)
        self.rows += rows
        if isinstance(made, Rejected):
            raise made
        return await self._pipeline.submit(made), rows

    def _now_us(self, batch: pb.ReadBatch) -> int:
        """The service's time at the arrival of the batch; a replay clock is moved by batches in their order."""
        clock = self._pipeline.clock
        if clock.mode == "replay" and len(batch.stamp_us):
            start = batch.stamp_meaning == pb.STAMP_MEANING_INTERVAL_START
            clock.saw(int(np.array(batch.stamp_us, np.int64).max()) + start * batch.interval_s * US)
        return clock.now_us()

    def _judged(
        self,
        batch: pb.ReadBatch,
        topology: Topology,
        fingerprints: NDArray[np.uint32],
        slots: NDArray[np.int32],
        now_us: int,
    ) -> tuple[int, Batch | Rejected]:
        """Decode and validate; the rows read even if they are refused as a whole."""
        found = columns(batch, fingerprints, self._limits.batch_rows_max)
        try:
            return found.rows, validate(
                found,
                slots[found.meter_index],
                self._dictionary,
                self.head_end_id,
                self.epoch,
                topology,
                now_us,
                self._checks,
            )
        except Rejected as error:
            return found.rows, error

    def _nack(self, seq: int, error: Rejected) -> pb.IngestResponse:
        self.nacked += 1
        now = time.monotonic()
        if len(self._refused_at) == NACKS_MAX - 1 and now - self._refused_at[0] < NACKS_WINDOW_S:
            raise Rejected(
                "TOO_MANY_NACKS",
                f"{NACKS_MAX} refused messages within {NACKS_WINDOW_S:.0f} s, last: {error.reason}: {error.message}; "
                "expected a sender that heeds a Nack; fix it, then open a new stream",
            )
        self._refused_at.append(now)
        while len(self._refused_at) > NACKS_MAX - 1:
            self._refused_at.popleft()
        return pb.IngestResponse(
            nack=pb.Nack(
                seq=seq, reason=error.reason, message=error.message, permanent=True, credits=self._limits.credits
            )
        )

    def refuse(self, error: Rejected) -> pb.IngestResponse:
        """Nack for a message that could not be read."""
        return self._nack(0, error)

    def summary(self) -> pb.IngestResponse:
        """Last message of the stream."""
        return pb.IngestResponse(
            summary=pb.Summary(batches=self.batches, rows=self.rows, acked=self.acked, nacked=self.nacked)
        )


def ack_of(stored: Stored, credits_now: int) -> pb.Ack:
    """The Ack that says what became of a batch."""
    return pb.Ack(
        seq=stored.seq,
        accepted=stored.accepted,
        versions=stored.versions,
        duplicates=stored.duplicates,
        rejected=len(stored.rejected_row),
        rejected_row=stored.rejected_row.tolist(),
        rejected_reason=stored.rejected_reason.tolist(),
        replayed=stored.replayed,
        credits=credits_now,
    )
