"""The Receipts service: a subscriber says how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from alarm.receipts import Receipts
from meterwatch.access.identity import caller, subscriber_of
from meterwatch.alarms import Transition
from meterwatch.errors import Rejected
from meterwatch.receipts import Point, SentMessage
from meterwatch.status import abort
from meterwatch.texts import check_text
from meterwatch.v1 import receipts_pb2 as pb
from meterwatch.v1.receipts_pb2_grpc import ReceiptsServicer

POINTS_MAX: Final = 200
"""Of a kind in one call; as receipts.proto says."""
AGO_US_MAX: Final = 7 * 86_400 * 1_000_000
"""Nothing was received longer ago than a subscription and its resumption last."""
NAME_CHARS_MAX: Final = 128


class ReceiptService(ReceiptsServicer):
    """Serves meterwatch.v1.Receipts."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    async def Confirm(self, request: pb.ConfirmRequest, context: Any) -> pb.ConfirmResponse:
        """Keep what a subscriber says."""
        try:
            check_text("subscriber", request.subscriber, 1, NAME_CHARS_MAX)
            subscriber = subscriber_of(caller(context), request.subscriber)
            now_us = self._receipts.machine_us()
            received, shown = (_points(points, now_us) for points in (request.received, request.shown))
            return pb.ConfirmResponse(messages=await self._receipts.confirm(subscriber, received, shown))
        except Exception as error:
            await abort(context, error)


def receipts_to_wire(transitions: Sequence[Transition], messages: Sequence[SentMessage]) -> list[pb.SubscriberReceipt]:
    """What of these messages was about an alarm with this history, oldest first."""
    known = {transition.seq: transition for transition in transitions}
    return [
        pb.SubscriberReceipt(
            subscriber=message.subscriber,
            seq=seq,
            kind=known[seq].kind.value,
            onset_us=known[seq].alarm.onset_us,
            detected_us=known[seq].alarm.raised_us,
            committed_us=known[seq].recorded_us,
            sent_us=message.sent_us,
            received_us=message.received_us or 0,
            shown_us=message.shown_us or 0,
        )
        for message in messages
        for seq in message.seqs
        if seq in known
    ]


def _points(points: Sequence[pb.ReceiptPoint], now_us: int) -> list[Point]:
    longest_us = max((point.ago_us for point in points), default=0)
    if len(points) > POINTS_MAX or longest_us > AGO_US_MAX:
        raise Rejected(
            "RECEIPT_INVALID",
            f"{len(points)} points, one {longest_us} us ago; at most {POINTS_MAX} and {AGO_US_MAX} us are allowed",
        )
    return [Point(point.seq, now_us - point.ago_us) for point in points]
