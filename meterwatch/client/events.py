"""Events and register reads of a head-end: one call per request, repeated under its number until it is answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from numpy.typing import ArrayLike

from meterwatch.client.encode import checked_events, checked_registers
from meterwatch.client.repeated import Repeated
from meterwatch.client.totals import Totals
from meterwatch.v1.ingest_pb2 import (
    EventCode,
    Register,
    SendEventsRequest,
    SendEventsResponse,
    SendRegistersRequest,
    SendRegistersResponse,
)

SEND_EVENTS: Final = "/meterwatch.v1.Ingest/SendEvents"
SEND_REGISTERS: Final = "/meterwatch.v1.Ingest/SendRegisters"
EVENTS_MAX: Final = 10_000
"""Events or register reads in one request."""


class EventSender:
    """Sends for one (head_end, epoch); requests of events and of registers are each numbered from 1."""

    def __init__(self, calls: Repeated, head_end: str, epoch: int) -> None:
        self._calls, self._head_end, self._epoch = calls, head_end, epoch
        self._events_seq = self._registers_seq = 0

    def send(self, meters: Sequence[str], at_us: ArrayLike, codes: ArrayLike, phases: ArrayLike = 0) -> Totals:
        """Send events and wait for the answers; ValueError, Refused or Unreachable if that cannot be."""
        stamps, kinds, bits = checked_events(meters, at_us, codes, max(EventCode.values()), phases)
        totals = Totals()
        for part, index, rows in _parts(meters):
            self._events_seq += 1
            request = SendEventsRequest(
                head_end=self._head_end, epoch=self._epoch, seq=self._events_seq, meter=index, meter_index=rows
            )
            request.at_us.extend(stamps[part].tolist())
            request.code.extend(kinds[part].tolist())
            if bits[part].any():
                request.phases.extend(bits[part].tolist())
            totals.add(self._calls.answer(SEND_EVENTS, request, SendEventsResponse))
            totals.sent += len(rows)
            totals.batches += 1
        return totals

    def send_registers(
        self, meters: Sequence[str], at_us: ArrayLike, value_wh: ArrayLike, registers: ArrayLike
    ) -> Totals:
        """The same for register reads."""
        stamps, values, kinds = checked_registers(meters, at_us, value_wh, registers, max(Register.values()))
        totals = Totals()
        for part, index, rows in _parts(meters):
            self._registers_seq += 1
            request = SendRegistersRequest(
                head_end=self._head_end, epoch=self._epoch, seq=self._registers_seq, meter=index, meter_index=rows
            )
            request.at_us.extend(stamps[part].tolist())
            request.value_wh.extend(values[part].tolist())
            request.register.extend(kinds[part].tolist())
            answer = self._calls.answer(SEND_REGISTERS, request, SendRegistersResponse)
            totals.add(answer, answer.versions)
            totals.sent += len(rows)
            totals.batches += 1
        return totals

    def close(self) -> None:
        self._calls.close()


def _parts(meters: Sequence[str]) -> Iterator[tuple[slice, list[str], list[int]]]:
    """Rows of one request each, the meter numbers in them, and the number of each row's."""
    for at in range(0, len(meters), EVENTS_MAX):
        part = slice(at, at + EVENTS_MAX)
        index: dict[str, int] = {}
        rows = [index.setdefault(meter, len(index)) for meter in meters[part]]
        yield part, list(index), rows
