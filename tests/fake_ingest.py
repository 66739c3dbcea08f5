"""An ingest service in memory that breaks streams on demand and watches its clients."""

from __future__ import annotations

import queue
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_status import rpc_status

from meterwatch.status import rich_status
from meterwatch.v1 import ingest_pb2 as pb
from meterwatch.v1 import ingest_pb2_grpc as rpc


class FakeIngest(rpc.IngestServicer):
    """break_rate: chance that a batch ends the stream, half of them after it was stored (a lost ack)."""

    def __init__(self, *, break_rate=0.0, credits=4, seed=0, breaks_max=1000, status=None, welcome=None):
        self.break_rate, self.credits, self.breaks_left = break_rate, credits, breaks_max
        self.status = status
        self.welcome = welcome or {}
        self.rng = random.Random(seed)
        self.stored = {}  # (meter, end_us) -> times stored
        self.ledger = {}  # (epoch, seq) -> (bytes, Ack)
        self.streams = 0
        self.unanswered_max = 0
        self.differing_resends = 0
        self.nack = {}  # seq -> Nack, once
        self.summary_lies = False
        self.lock = threading.Lock()

    def Stream(self, requests, context):
        self.streams += 1
        if self.status is not None and self.breaks_left > 0:
            self.breaks_left -= 1
            context.abort_with_status(rpc_status.to_status(self.status))
        hello = next(requests).hello
        yield pb.IngestResponse(
            welcome=pb.Welcome(
                **{"credits": self.credits, "batch_rows_max": 1000, "message_bytes_max": 4 << 20, **self.welcome}
            )
        )
        inbox = queue.Queue()

        def read():
            try:
                for request in requests:
                    inbox.put(request)
            except Exception:  # the call is over
                pass
            inbox.put(None)

        threading.Thread(target=read, daemon=True).start()
        meters, held, summary, ended = [], [], pb.Summary(), False
        while not ended or held:
            try:  # answers are held back until the client has nothing more to send: it must stop at its credits
                request = inbox.get(timeout=0.02) if not ended else None
                if request is None:
                    ended = True
            except queue.Empty:
                request = None
            if request is None:
                for batch in held:
                    if self.breaks_left > 0 and self.rng.random() < self.break_rate:
                        self.breaks_left -= 1
                        if self.rng.random() < 0.5:
                            self.store(hello, batch, meters)
                        context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")
                    if batch.seq in self.nack:
                        nack = self.nack.pop(batch.seq)
                        summary.nacked += 1
                        yield pb.IngestResponse(nack=nack)
                        continue
                    ack = self.store(hello, batch, meters)
                    summary.acked += 1
                    yield pb.IngestResponse(ack=ack)
                held = []
            elif request.HasField("dictionary"):
                meters += request.dictionary.meter
                yield pb.IngestResponse(dictionary_ack=pb.DictionaryAck(count=len(request.dictionary.meter)))
            else:
                held.append(request.batch)
                summary.batches += 1
                summary.rows += len(request.batch.stamp_us)
                self.unanswered_max = max(self.unanswered_max, len(held))
        if self.summary_lies:
            summary.rows += 1
        yield pb.IngestResponse(summary=summary)

    def store(self, hello, batch, meters):
        with self.lock:
            key, payload = (hello.epoch, batch.seq), batch.SerializeToString(deterministic=True)
            if key in self.ledger:
                self.differing_resends += self.ledger[key][0] != payload
                again = pb.Ack()
                again.CopyFrom(self.ledger[key][1])
                again.replayed = True
                return again
            for index, stamp in zip(batch.meter_index, batch.stamp_us, strict=True):
                self.stored[meters[index], stamp] = self.stored.get((meters[index], stamp), 0) + 1
            ack = pb.Ack(seq=batch.seq, accepted=len(batch.stamp_us), credits=self.credits)
            self.ledger[key] = payload, ack
            return ack

    def SendEvents(self, request, context):
        if self.breaks_left > 0 and self.rng.random() < self.break_rate:
            self.breaks_left -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")
        return pb.SendEventsResponse(accepted=len(request.at_us))


class Serving:
    """A server on a free port."""

    def __init__(self, ingest):
        self.server = grpc.server(ThreadPoolExecutor(8))
        rpc.add_IngestServicer_to_server(ingest, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self):
        self.server.start()
        return self.address

    def __exit__(self, *_):
        self.server.stop(0).wait(5)


def status(code, reason, retry_after_s=None):
    return rich_status(code, reason, "said the fake", retry_after_s)
