"""Which reads the service misses, so that a head-end can poll them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from meterwatch.client.retry import open_channel
from meterwatch.v1 import gaps_pb2


class Gap(NamedTuple):
    """Reads of one meter that are overdue, from one interval end to another."""

    meter: str
    interval_s: int
    first_end_us: int
    last_end_us: int
    reads: int


def missing_reads(
    address: str, head_end: str = "", meters: Sequence[str] = (), from_us: int = 0, to_us: int = 0
) -> Iterator[Gap]:
    """Overdue reads of a head-end's meters, or of some meters, as they come. Times as in GapsRequest.

    An Ack's overdue_reads says when asking is worth it. Raises grpc.RpcError.
    """
    request = gaps_pb2.GapsRequest(head_end=head_end, meter=meters, from_us=from_us, to_us=to_us)
    with open_channel(address) as channel:
        chunks = channel.unary_stream(
            "/meterwatch.v1.Gaps/List",
            request_serializer=gaps_pb2.GapsRequest.SerializeToString,
            response_deserializer=gaps_pb2.GapsResponse.FromString,
        )(request)
        for chunk in chunks:
            yield from map(Gap, chunk.meter, chunk.interval_s, chunk.first_end_us, chunk.last_end_us, chunk.reads)
