"""meterwatch.v1.UserRules over gRPC: the rules in force, how they fare, and a reload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from meterwatch.v1 import user_rules_pb2 as pb
from meterwatch.v1 import user_rules_pb2_grpc
from meterwatch.wired_user_rules import UserRules


class UserRulesService(user_rules_pb2_grpc.UserRulesServicer):
    """Servicer of meterwatch.v1.UserRules. reload reads the files and puts them in force; it says what is wrong."""

    def __init__(self, user: UserRules, reload: Callable[[], Awaitable[list[str]]]) -> None:
        self._user = user
        self._reload = reload

    async def ListUserRules(self, request: pb.ListUserRulesRequest, context: Any) -> pb.ListUserRulesResponse:
        """Show."""
        status = self._user.status
        return pb.ListUserRulesResponse(
            file=status.files,
            problem=status.refused,
            loaded_us=status.loaded_us,
            rule=[
                pb.UserRule(
                    name=rule.name,
                    on=rule.on.value,
                    expr=rule.expr,
                    for_s=rule.for_s,
                    keep_firing_for_s=rule.keep_firing_s,
                    severity=rule.severity.name,
                    labels=rule.labels,
                    place=place,
                    awake_assets=awake,
                    rows=health.rows,
                    spent_ms=health.spent_ns / 1e6,
                    errors=health.errors,
                    last_error=health.last_error,
                    aside_rows=health.aside_rows,
                    alarms=health.alarms,
                )
                for rule, health, awake, place in self._user.rules()
            ],
        )

    async def ReloadUserRules(self, request: pb.ReloadUserRulesRequest, context: Any) -> pb.ReloadUserRulesResponse:
        """Read the files again."""
        return pb.ReloadUserRulesResponse(problem=await self._reload())
