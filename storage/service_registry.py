"""meterwatch.v1.Registry over gRPC: import CSV files as one transaction, list assets in pages.

An import that has begun is finished, and `on_change` called, even if the client goes away: what is committed and what
the service believes must not differ. Refuses to know what `on_change` does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Final

import grpc

from meterwatch import status
from meterwatch.access.identity import caller
from meterwatch.clock import Clock
from meterwatch.errors import MeterwatchError, Rejected
from meterwatch.planned import ASSET_KINDS as ASSET_KINDS_PLANNED
from meterwatch.registry_csv import Parsed, RegistryCsv, ThermalTypeOf, parse
from meterwatch.v1 import registry_pb2, registry_pb2_grpc
from storage.planned import PlannedStore
from storage.registry import PAGE_MAX, Imported, RegistryStore
from storage.registry_sql import ASSET_KINDS

FILES_MAX: Final = 8
STREAM_BYTES_MAX: Final = 256 * 1024 * 1024
"""Files of some five million meters."""
PAGE_DEFAULT: Final = 1000
VALID_FROM_US_MAX: Final = 7_258_118_400_000_000  # 2200-01-01
WITH_PARENT: Final = ("transformer", "concentrator", "meter")


class RegistryService(registry_pb2_grpc.RegistryServicer):
    """Servicer of meterwatch.v1.Registry. `on_change` is awaited after each import that was not a check."""

    def __init__(
        self,
        store: RegistryStore,
        clock: Clock,
        on_change: Callable[[], Awaitable[None]],
        planned: PlannedStore,
        on_plan: Callable[[], Awaitable[None]],
        thermal_types: Collection[str] = (),
    ) -> None:
        """thermal_types: those there are."""
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._planned = planned
        self._on_plan = on_plan
        self._thermal_types = thermal_types
        self._running: set[asyncio.Task[Imported]] = set()

    async def Import(self, request: registry_pb2.ImportRequest, context: Any) -> registry_pb2.ImportResponse:
        """Import the files of the request."""
        if not 1 <= len(request.file) <= FILES_MAX:
            message = f"{len(request.file)} files arrived; 1 to {FILES_MAX} were expected; join or split the import"
            await status.abort_with(context, grpc.StatusCode.INVALID_ARGUMENT, "BAD_IMPORT", message)
        if not 0 <= request.valid_from_us <= VALID_FROM_US_MAX:
            message = (
                f"valid_from_us {request.valid_from_us} arrived; microseconds since 1970 up to {VALID_FROM_US_MAX}"
                " were expected; correct it, or give 0 for now"
            )
            await status.abort_with(context, grpc.StatusCode.INVALID_ARGUMENT, "BAD_IMPORT", message)
        task = asyncio.create_task(self._import(request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            outcome = await asyncio.shield(task)
        except MeterwatchError as error:
            await status.abort(context, error)
        return registry_pb2.ImportResponse(
            count=[
                registry_pb2.ImportCount(kind=kind, added=count.added, changed=count.changed, unchanged=count.unchanged)
                for kind, count in outcome.counts.items()
            ],
            error=[
                registry_pb2.ImportError(file=problem.file, line=problem.line, message=problem.message)
                for problem in outcome.problems
            ],
        )

    async def ImportStream(
        self, requests: AsyncIterator[registry_pb2.ImportRequest], context: Any
    ) -> registry_pb2.ImportResponse:
        """Import files that come in parts."""
        try:
            whole = await _joined(requests)
        except Rejected as error:
            await status.abort(context, error)
        return await self.Import(whole, context)

    async def _import(self, request: registry_pb2.ImportRequest) -> Imported:
        files = [RegistryCsv(file.kind, file.name or f"{file.kind}.csv", file.content) for file in request.file]
        parsed = await asyncio.to_thread(parse, files)
        _refuse_unknown_types(parsed, self._thermal_types)
        valid_from_us = request.valid_from_us or self._clock.now_us()
        outcome = await self._store.import_files(parsed, valid_from_us, request.dry_run)
        if not outcome.problems and not request.dry_run:
            await self._on_change()
        return outcome

    async def PlanWork(self, request: registry_pb2.PlanWorkRequest, context: Any) -> registry_pb2.PlanWorkResponse:
        """Record planned work and tell the rules."""
        work = request.work
        work.planned_by = caller(context).signs(work.planned_by)
        if wrong := _wrong_work(work):
            await status.abort_with(context, grpc.StatusCode.INVALID_ARGUMENT, "BAD_WORK", wrong)
        try:
            await self._planned.record(
                work.work_id, work.asset_kind, work.asset, work.from_us, work.to_us, work.reason, work.planned_by,
                self._clock.now_us(),
            )  # fmt: skip
            await self._on_plan()
        except MeterwatchError as error:
            await status.abort(context, error)
        return registry_pb2.PlanWorkResponse()

    async def CancelWork(
        self, request: registry_pb2.CancelWorkRequest, context: Any
    ) -> registry_pb2.CancelWorkResponse:
        """Take planned work back and tell the rules."""
        try:
            await self._planned.cancel(request.work_id, self._clock.now_us())
            await self._on_plan()
        except MeterwatchError as error:
            await status.abort(context, error)
        return registry_pb2.CancelWorkResponse()

    async def ListWork(self, request: registry_pb2.ListWorkRequest, context: Any) -> registry_pb2.ListWorkResponse:
        """Planned work by its beginning."""
        since_us = min(max(request.since_us, 0), VALID_FROM_US_MAX)
        try:
            found = await self._planned.listed(since_us, districts=caller(context).districts)
        except MeterwatchError as error:
            await status.abort(context, error)
        return registry_pb2.ListWorkResponse(
            work=[
                registry_pb2.PlannedWork(
                    work_id=one.work.work_id, asset_kind=one.work.asset_kind, asset=one.asset,
                    from_us=one.work.from_us, to_us=one.work.to_us, reason=one.work.reason,
                    planned_by=one.planned_by, cancelled=one.cancelled,
                )
                for one in found
            ]
        )  # fmt: skip

    async def ListAssets(
        self, request: registry_pb2.ListAssetsRequest, context: Any
    ) -> registry_pb2.ListAssetsResponse:
        """One page of assets; the token of the next page is the last name of this one."""
        wrong = _wrong(request)
        if wrong:
            await status.abort_with(context, grpc.StatusCode.INVALID_ARGUMENT, "BAD_LIST", wrong)
        size = request.page_size or PAGE_DEFAULT
        identity = caller(context)
        try:
            assets = await self._store.list_assets(
                request.kind, request.parent, request.page_token, size + 1, identity.districts
            )
        except MeterwatchError as error:
            await status.abort(context, error)
        more = len(assets) > size
        return registry_pb2.ListAssetsResponse(
            asset=[
                registry_pb2.Asset(kind=asset.kind, name=asset.name, parent=asset.parent, attribute=asset.attributes)
                for asset in assets[:size]
            ],
            next_page_token=assets[size - 1].name if more else "",
        )


def _refuse_unknown_types(parsed: Parsed, known: Collection[str]) -> None:
    for row, (file, line) in zip(parsed.rows["thermal_types"], parsed.where["thermal_types"], strict=True):
        name = row.thermal_type if isinstance(row, ThermalTypeOf) else None
        if name is not None and name not in known:
            message = f"thermal_type {name[:64]!r} arrived; one of {', '.join(sorted(known))} was expected"
            parsed.report(file, line, f"{message}; correct it, or add it to the types of the profile")


async def _joined(requests: AsyncIterator[registry_pb2.ImportRequest]) -> registry_pb2.ImportRequest:
    """One request of all parts. Rejected if there is too much, or less or more than the sizes say."""
    whole = registry_pb2.ImportRequest()
    parts: dict[tuple[str, str], bytearray] = {}
    sizes: dict[tuple[str, str], int] = {}
    total, first = 0, True
    async for request in requests:
        if first:
            whole.dry_run, whole.valid_from_us, first = request.dry_run, request.valid_from_us, False
        for file in request.file:
            key = (file.kind, file.name)
            parts.setdefault(key, bytearray()).extend(file.content)
            sizes[key] = file.size_bytes
            total += len(file.content)
        if total > STREAM_BYTES_MAX or len(parts) > FILES_MAX:
            raise Rejected(
                "BAD_IMPORT",
                f"{total} bytes in {len(parts)} files arrived; at most {STREAM_BYTES_MAX} in {FILES_MAX} were expected;"
                " import in several calls",
            )
    for (kind, name), content in parts.items():
        if len(content) != sizes[kind, name]:
            raise Rejected(
                "BAD_IMPORT",
                f"{len(content)} bytes of {name or kind} arrived; size_bytes says {sizes[kind, name]}; send every part "
                "once, with the size of the whole file",
            )
        whole.file.add(kind=kind, name=name, content=bytes(content))
    return whole


def _wrong_work(work: registry_pb2.PlannedWork) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", work.work_id):
        return f"work_id {work.work_id[:64]!r} arrived; 1 to 64 of [A-Za-z0-9_.:-] were expected; name it by those"
    if work.asset_kind not in ASSET_KINDS_PLANNED:
        return f"asset_kind {work.asset_kind[:64]!r} arrived; one of {', '.join(ASSET_KINDS_PLANNED)} was expected"
    if not 0 < work.from_us < work.to_us <= VALID_FROM_US_MAX:
        return f"from_us {work.from_us}, to_us {work.to_us} arrived; a beginning and a later end were expected"
    if not 1 <= len(work.planned_by) <= 64 or len(work.reason) > 200 or "\0" in work.reason + work.planned_by:
        return "planned_by of 1 to 64 characters and a reason of up to 200 were expected; shorten or complete them"
    if "\0" in work.asset:
        return "a NUL character arrived; a name was expected; correct it"
    return ""


def _wrong(request: registry_pb2.ListAssetsRequest) -> str:
    if request.kind not in ASSET_KINDS:
        return f"kind {request.kind[:64]!r} arrived; one of {', '.join(ASSET_KINDS)} was expected; name one"
    if request.parent and request.kind not in WITH_PARENT:
        return f"a parent of a {request.kind} arrived; none was expected; leave parent empty"
    if request.page_size > PAGE_MAX:
        return f"page_size {request.page_size} arrived; at most {PAGE_MAX} was expected; ask for smaller pages"
    if "\0" in request.parent or "\0" in request.page_token:
        return "a NUL character arrived; a name was expected; correct it"
    return ""
