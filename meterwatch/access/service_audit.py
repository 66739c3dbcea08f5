"""meterwatch.v1.Audit over gRPC: the audit log, for whoever may see it."""

from __future__ import annotations

from typing import Any, Final, Protocol

from meterwatch.access.trail import AuditRow, AuditWanted
from meterwatch.errors import Rejected
from meterwatch.texts import check_text
from meterwatch.v1 import audit_pb2 as pb
from meterwatch.v1 import audit_pb2_grpc

ROWS_DEFAULT, ROWS_MAX = 100, 1000
TIME_US_MAX: Final = 7_258_118_400_000_000  # 2200-01-01
NUMBER_MAX: Final = 2**63 - 1


class Reader(Protocol):
    """What the service reads from the database."""

    async def listed(self, wanted: AuditWanted) -> list[tuple[int, AuditRow]]: ...


class AuditService(audit_pb2_grpc.AuditServicer):
    """Servicer of meterwatch.v1.Audit."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def ListAudit(self, request: pb.ListAuditRequest, context: Any) -> pb.ListAuditResponse:
        """List. Rejected BAD_QUERY."""
        for name in ("who", "method", "object"):
            check_text(name, getattr(request, name), 0, 200)
        times_fit = 0 <= request.from_us <= TIME_US_MAX and 0 <= request.to_us <= TIME_US_MAX
        if request.limit > ROWS_MAX or request.before_no > NUMBER_MAX or not times_fit:
            raise Rejected(
                "BAD_QUERY",
                f"limit {request.limit}, from_us {request.from_us}, to_us {request.to_us} arrived; at most {ROWS_MAX} "
                "rows and microseconds since 1970 were expected; correct them",
            )
        rows = await self._reader.listed(
            AuditWanted(
                request.who, request.method, request.object, request.refused, request.from_us, request.to_us,
                request.before_no, request.limit or ROWS_DEFAULT,
            )
        )  # fmt: skip
        return pb.ListAuditResponse(
            entry=[
                pb.AuditEntry(
                    audit_no=number, at_us=row.at_us, who=row.who, how=row.how, method=row.method, object=row.object,
                    outcome=row.outcome, peer=row.peer, calls=row.calls,
                )
                for number, row in rows
            ]
        )  # fmt: skip
