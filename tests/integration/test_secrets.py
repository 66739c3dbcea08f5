"""What a service says at its most talkative, through trouble with its database and its callers, holds no secret."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import psycopg
from tls_world import CA, NOW, Files

from meterwatch.client.retry import open_channel
from meterwatch.client.secure import Security
from meterwatch.transport import dev
from meterwatch.v1 import registry_pb2, registry_pb2_grpc

SECRET = "hunter2"
TOKEN = "aaaa.hunter2.cccc"


def test_no_password_key_or_token_is_in_the_log(dsn: str, tmp_path: Path) -> None:
    files = Files(tmp_path)
    tls = files.server()
    assert tls.key is not None
    key = tls.key.read_text()
    (tmp_path / "token").write_text(TOKEN)
    admin, admin_key = dev.write_pair(tmp_path, "admin", dev.client(CA, "root", "admin", NOW))
    caller = Security(str(files.ca(CA)), str(admin), str(admin_key), str(tmp_path / "token"))
    settings = {
        "DATABASE__URL": dsn.replace("postgresql://meterwatch@", f"postgresql://meterwatch:{SECRET}@"),
        "SERVER__PORT": "0",
        "SERVER__TLS__CERTIFICATE": str(tls.certificate),
        "SERVER__TLS__KEY": str(tls.key),
        "SERVER__TLS__CLIENT_CA": str(tls.client_ca),
        "LOG__LEVEL": "debug",
    }
    assert SECRET in settings["DATABASE__URL"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from meterwatch.cli import app; app(['serve'])"],
        env={**os.environ, **{f"METERWATCH_{name}": value for name, value in settings.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        address = first.split()[3].rstrip(":")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        for shown in (caller, caller._replace(certificate=None, key=None)):
            with open_channel(address, shown.credentials()) as channel:
                try:
                    registry_pb2_grpc.RegistryStub(channel).Import(registry_pb2.ImportRequest(), timeout=10)
                except grpc.RpcError as error:
                    first += str(error.details())
    finally:
        process.send_signal(signal.SIGTERM)
        output, said = process.communicate(timeout=60)
    assert "ready" in said
    for secret in (SECRET, TOKEN, "PRIVATE KEY", *key.splitlines()[1:-1]):
        assert secret not in first + output + said
