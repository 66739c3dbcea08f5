"""meterwatch.v1.Rules over gRPC: the rules that stand aside, and having them work again."""

from __future__ import annotations

from typing import Any

from alarm.book import Book
from meterwatch.in_force import InForce
from meterwatch.standing_aside import SuspendedRule
from meterwatch.v1 import rules_pb2 as pb
from meterwatch.v1 import rules_pb2_grpc
from rules.apart import Rule


class RulesService(rules_pb2_grpc.RulesServicer):
    """Servicer of meterwatch.v1.Rules."""

    def __init__(self, in_force: InForce, book: Book) -> None:
        self._in_force, self._book = in_force, book

    async def ListSuspended(self, request: pb.ListSuspendedRequest, context: Any) -> pb.ListSuspendedResponse:
        """Show."""
        return pb.ListSuspendedResponse(rule=map(self._shown, self._in_force.suspended))

    async def Resume(self, request: pb.ResumeRequest, context: Any) -> pb.ResumeResponse:
        """Make new rules. StorageUnavailable: those in force stay, and it may be called again."""
        return pb.ResumeResponse(rule=map(self._shown, await self._in_force.resume()))

    def _shown(self, one: SuspendedRule) -> pb.SuspendedRule:
        kinds = (one.asset_kind,) if one.asset_kind else ()
        lasting = [
            alarm
            for alarm in self._book
            if one.rule in (alarm.rule, Rule(alarm.rule).family.rule)
            and alarm.lasts
            and (not kinds or alarm.asset_kind in kinds)
        ]
        return pb.SuspendedRule(
            rule=one.rule, asset_kind=one.asset_kind, since_us=one.since_us, error=one.error, alarms=len(lasting)
        )
