"""meterwatch doctor: one line per thing that must be right, ok, warn or fail."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import grpc
import psycopg
import typer
from google.protobuf.internal import api_implementation
from grpc_health.v1 import health_pb2

from meterwatch.cli.db import dsn_of, embedded, one, schema_version
from meterwatch.cli.output import AddressOption, Output, OutputOption, address_of, listing
from meterwatch.client.retry import failure_of, open_channel, why_silent
from meterwatch.config import load_config
from meterwatch.errors import ConfigError, StorageUnavailable
from meterwatch.transport.settings import Tls
from storage.advice import advise, read_settings
from storage.embedded import EmbeddedError
from storage.migrate import migrations

PYTHON_MIN: Final = (3, 11)
FREE_WARN_BYTES: Final = 10 << 30
FREE_FAIL_BYTES: Final = 1 << 30
_DURABLE: Final = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": ("on", "remote_apply")}
_SUSPENDED: Final = """
SELECT rule, asset_kind, since_at::timestamptz(0)::text, error FROM suspended_rules ORDER BY 1, 2"""


class Finding(NamedTuple):
    """One line of the report."""

    verdict: str
    what: str
    detail: str


def doctor(
    context: typer.Context,
    address: AddressOption = None,
    output: OutputOption = Output.table,
    deeply: Annotated[
        bool,
        typer.Option("--deep", help="Compare all that is stored with itself instead; reads only, may run beside it."),
    ] = False,
    since: Annotated[datetime | None, typer.Option(help="--deep: of interval ends from then on, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="--deep: of interval ends before then, UTC.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as -o json; --deep: one object.")] = False,
) -> None:
    """Check this machine, the database and the service; leaves with 1 if something fails."""
    config = load_config(context.obj)
    if as_json:
        output = Output.json
    if deeply:
        from meterwatch.cli.doctor_deep import deep, span_of

        deep(config, span_of(since, until), output is Output.json)
        return
    findings = [_python(), _protobuf(), *_certificate(config.server.tls)]
    try:
        findings += _database(dsn_of(config))
    except (StorageUnavailable, psycopg.Error, EmbeddedError) as error:
        findings.append(Finding("fail", "database", str(error).strip().replace("\n", " ")))
    findings.append(_service(address_of(context, address)))
    if config.database.url is None:
        findings.append(_disk(embedded(config)[0]))
    listing((finding._asdict() for finding in findings), Finding._fields, output)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok" if sys.version_info[:2] >= PYTHON_MIN else "fail", "python", version)


def _protobuf() -> Finding:
    backend = api_implementation.Type()
    if backend == "upb":
        return Finding("ok", "protobuf", "upb")
    return Finding("warn", "protobuf", f"backend {backend} is many times slower than upb; install the binary wheel")


def _database(dsn: str) -> Iterator[Finding]:
    with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as connection:
        yield Finding("ok", "database", f"PostgreSQL {one(connection, 'SHOW server_version')}")
        here, ours = schema_version(connection), migrations()[-1][0]
        change = "start the service, which migrates" if here < ours else "run the newer meterwatch"
        same = here == ours
        detail = f"version {here}" + ("" if same else f", this meterwatch has {ours}; {change}")
        yield Finding("ok" if same else "warn" if here < ours else "fail", "schema", detail)
        for setting, allowed in _DURABLE.items():
            value = one(connection, f"SHOW {setting}")
            good = value in allowed
            detail = value if good else f"{value}; an ack would not survive a crash; set it to {allowed[0]}"
            yield Finding("ok" if good else "fail", setting, detail)
        yield from (Finding("warn", setting, detail) for setting, detail in advise(read_settings(connection)))
        if same:
            yield from _rules(connection)


def _rules(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Those that have raised, as the service has written them down."""
    for rule, kind, since, error in connection.execute(_SUSPENDED).fetchall():
        what = f"{rule} {kind}".strip()
        yield Finding(
            "fail", "rule", f"{what} has raised and stands aside since {since}: {error}; meterwatch rules list"
        )


def _certificate(tls: Tls) -> Iterator[Finding]:
    """Of the service, where it has one."""
    from meterwatch.server import rotation_of
    from meterwatch.transport.rotation import WARNING

    try:
        rotation = rotation_of(tls)
    except ConfigError as error:
        yield from (Finding("fail", "certificate", problem) for problem in error.problems)
        return
    if rotation is not None:
        verdict = "warn" if rotation.expires_in_s < WARNING.total_seconds() else "ok"
        ends = rotation.material.expires_at
        yield Finding(verdict, "certificate", f"{rotation.material.subject} until {ends:%Y-%m-%d %H:%M} UTC")


def _service(address: str) -> Finding:
    channel = open_channel(address)
    try:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        state = health_pb2.HealthCheckResponse.ServingStatus.Name(
            check(health_pb2.HealthCheckRequest(), timeout=5).status
        )
    except grpc.RpcError as error:
        why = why_silent(address) or f"{address} gives no answer ({failure_of(error).code}); start it"
        return Finding("fail", "service", why)
    finally:
        channel.close()
    return Finding("ok" if state == "SERVING" else "fail", "service", f"{address} is {state}")


def _disk(directory: Path) -> Finding:
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    verdict = "fail" if free < FREE_FAIL_BYTES else "warn" if free < FREE_WARN_BYTES else "ok"
    return Finding(verdict, "disk", f"{free / (1 << 30):.1f} GiB free at {existing}")
