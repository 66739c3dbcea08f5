"""Registry files to the service, in parts, so that their size is no matter of a message's limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from meterwatch.client.retry import open_channel
from meterwatch.v1.registry_pb2 import ImportRequest, ImportResponse

METHOD: Final = "/meterwatch.v1.Registry/ImportStream"
PART_BYTES: Final = 1024 * 1024
DEADLINE_S: Final = 900.0


class RegistryFile(NamedTuple):
    """One CSV file: its kind (feeders, transformers, concentrators, head_ends, meters), the name for errors, bytes."""

    kind: str
    name: str
    content: bytes


def import_registry(
    address: str,
    files: Sequence[RegistryFile],
    valid_from_us: int = 0,
    *,
    dry_run: bool = False,
    credentials: Any = None,
    deadline_s: float = DEADLINE_S,
) -> ImportResponse:
    """Import files as one transaction; valid_from_us 0: from now. Raises grpc.RpcError.

    An answer with errors means that nothing was imported.
    """
    channel = open_channel(address, credentials)
    try:
        call = channel.stream_unary(
            METHOD, request_serializer=ImportRequest.SerializeToString, response_deserializer=ImportResponse.FromString
        )
        answer: ImportResponse = call(_parts(files, valid_from_us, dry_run), timeout=deadline_s)
        return answer
    finally:
        channel.close()


def _parts(files: Sequence[RegistryFile], valid_from_us: int, dry_run: bool) -> Iterator[ImportRequest]:
    for kind, name, content in files:
        for at in range(0, max(len(content), 1), PART_BYTES):
            request = ImportRequest(dry_run=dry_run, valid_from_us=valid_from_us)
            request.file.add(kind=kind, name=name, content=content[at : at + PART_BYTES], size_bytes=len(content))
            yield request
