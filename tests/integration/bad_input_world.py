"""What the tests of bad input share: greetings, times, and how an end is judged and told."""

from __future__ import annotations

import time
from typing import Any

from bad_inputs import told
from served import HEAD_END, STEP_S, US, Ended, Served, fresh_epoch, goes_on

from meterwatch.v1 import ingest_pb2 as pb

DAY_US = 86_400 * US


def hello(epoch: int | None = None, head_end: str = HEAD_END) -> pb.Hello:
    return pb.Hello(head_end=head_end, epoch=fresh_epoch() if epoch is None else epoch)


def grid(offset_s: int) -> int:
    """An interval end `offset_s` from now, on the grid."""
    return (int(time.time()) + offset_s) // STEP_S * STEP_S * US


def ours(end: Ended, code: str, reason: str, *, retried: bool = False, of: tuple[int, str] | None = None) -> None:
    """The call ended so. of: number and input in the catalogue."""
    assert (end.code, end.reason, end.domain) == (code, reason, "meterwatch"), end
    assert (end.retry_s is not None) == retried, end
    assert end.message
    if of is not None:
        again = f" (retry after {end.retry_s:g} s)" if end.retry_s is not None else ""
        told(*of, "RPC", f"{end.code} {end.reason}: {end.message}{again}")


def words(change: dict[str, Any]) -> str:
    """A change to a good batch or request, as the catalogue shows it."""
    return ", ".join(f"{name} {str(value).strip()[:80]}" for name, value in change.items())


def a_new_stream_goes_on(served: Served) -> None:
    with served.stream() as raw:
        goes_on(raw)
