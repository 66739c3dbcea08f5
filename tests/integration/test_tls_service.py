"""The whole service over mutual TLS, and starts that its certificate files do not allow."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from served import HEAD_END, METERS, Served, fresh_end_us, serving
from service_process import until
from tls_world import CA, NOW, OTHER_CA, Files

from meterwatch.client import AlarmFeed, Backoff, HeadEnd, Unreachable, security
from meterwatch.client.secure import in_environment
from meterwatch.quality import METHOD_MASK
from meterwatch.transport import dev, rotation

BROKEN_MIN = 2  # connections that must have ended by their age


def test_reads_and_alarms_go_over_tls_and_over_connections_that_end_by_their_age(dsn: str, tmp_path: Path) -> None:
    files = Files(tmp_path)
    admin, admin_key = dev.write_pair(tmp_path, "admin", dev.client(CA, "root", "admin", NOW))
    own, own_key = dev.write_pair(tmp_path, "hes", dev.client(CA, HEAD_END, "head-end", NOW))
    tls = files.server(connection_age_max_s=1.0, connection_age_grace_s=0.3)
    ca = str(files.ca(CA))
    environment = {"METERWATCH_TLS_CA": ca, "METERWATCH_TLS_CERT": str(admin), "METERWATCH_TLS_KEY": str(admin_key)}
    with serving(dsn):
        pass  # the import of the registry may take longer than a connection lives here
    with in_environment(environment), serving(dsn, registered=True, tls=tls) as served:
        fast = Backoff(first_s=0.01, max_s=0.05)
        mine = security(ca, str(own), str(own_key))
        with HeadEnd(served.address, HEAD_END, credentials=mine, backoff=fast, give_up_after_s=60) as head_end:
            while head_end.reconnects < BROKEN_MIN:
                head_end.send_columns(METERS, [0], [fresh_end_us()], 900, import_wh=[7])
                head_end.flush()
            totals = head_end.flush()
        assert totals.accepted == totals.sent > 0
        assert stored(served) == totals.sent
        feed = AlarmFeed(served.address, backoff=Backoff(first_s=0.01, max_s=0.05), give_up_after_s=60)
        with feed:
            for _ in feed:
                if feed.reconnects >= BROKEN_MIN:
                    break
        text = generate_latest(served.service.metrics.registry).decode()
    (left_s,) = [float(line.split()[1]) for line in text.splitlines() if line.startswith("meterwatch_tls_certificate")]
    assert 89 * 86_400 < left_s < 90 * 86_400
    assert "meterwatch_tls_files_refused 0.0" in text


def stored(served: Served) -> int:
    """Reads that somebody sent: of a week of them the service estimates others."""
    ((reads,),) = served.sql("SELECT count(*) FROM reads WHERE quality & %s = 0", METHOD_MASK)
    return int(reads)


def expires_in_s(served: Served) -> float:
    return metric(served, "meterwatch_tls_certificate_expires_in_seconds")


def metric(served: Served, name: str) -> float:
    families = text_string_to_metric_families(generate_latest(served.service.metrics.registry).decode())
    (value,) = [sample.value for family in families for sample in family.samples if sample.name == name]
    return float(value)


def of_another(address: str, credentials: Any) -> int:
    """Reads accepted of one more head-end with these credentials; 0: it did not get through."""
    fast = Backoff(first_s=0.01, max_s=0.05)
    try:
        with HeadEnd(address, HEAD_END, credentials=credentials, backoff=fast, give_up_after_s=2) as another:
            another.send_columns(METERS, [0], [fresh_end_us()], 900, import_wh=[7])
            return another.flush().accepted
    except Unreachable:
        return 0


def test_reads_go_on_while_the_certificate_changes_and_stop_for_whom_the_new_ca_does_not_know(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "LOOK_EVERY_S", 0.05)
    files = Files(tmp_path)
    own, own_key = dev.write_pair(tmp_path, "hes", dev.client(CA, HEAD_END, "head-end", NOW))
    tls = files.server(connection_age_max_s=1.0, connection_age_grace_s=0.3)
    mine = security(str(files.ca(CA)), str(own), str(own_key))
    fast = Backoff(first_s=0.01, max_s=0.05)
    with serving(dsn) as served:
        before = stored(served)
    with serving(dsn, registered=True, tls=tls) as served:
        with HeadEnd(served.address, HEAD_END, credentials=mine, backoff=fast, give_up_after_s=60) as head_end:

            def over_new_connections() -> None:
                reached = head_end.reconnects + BROKEN_MIN
                while head_end.reconnects < reached:
                    head_end.send_columns(METERS, [0], [fresh_end_us()], 900, import_wh=[7])
                    head_end.flush()

            over_new_connections()
            files.server(dev.server(CA, NOW, days=300))
            until(lambda: expires_in_s(served) > 200 * 86_400, "the new certificate is in force")
            over_new_connections()
            (tmp_path / "server.key.pem").write_bytes(dev.server(CA, NOW).key_pem)
            until(lambda: metric(served, "meterwatch_tls_files_refused") == 1, "the key of another is refused")
            over_new_connections()
            files.server(dev.server(CA, NOW, days=100))
            until(lambda: expires_in_s(served) < 200 * 86_400, "sound files are in force")
            over_new_connections()
            totals = head_end.flush()
        assert totals.accepted == totals.sent > 0
        files.ca(OTHER_CA)
        more = 0
        while accepted := of_another(served.address, mine):  # until the other CA is in force
            more += accepted
        assert stored(served) == before + totals.sent + more


def serve(directory: Path, **settings: str) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METERWATCH_")}
    ended = subprocess.run(
        [sys.executable, "-c", "from meterwatch.cli import app; app(['serve'])"],
        cwd=directory,
        env={**clean, **{f"METERWATCH_{name}": value for name, value in settings.items()}},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, ended.stderr


def start_with(files: Files) -> tuple[int, str]:
    return serve(
        files.directory,
        DATABASE__URL="postgresql://me@127.0.0.1:1/x",
        SERVER__TLS__CERTIFICATE=str(files.directory / "server.pem"),
        SERVER__TLS__KEY=str(files.directory / "server.key.pem"),
        SERVER__TLS__CLIENT_CA=str(files.directory / "ca.pem"),
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda files: dev.write_pair(files.directory, "server", dev.server(CA, NOW, days=-1)), "expired on"),
        (lambda files: (files.directory / "server.key.pem").chmod(0o644), "open to everybody"),
    ],
)
def test_a_start_with_wrong_files_is_exit_code_78_before_the_database_is_asked(
    tmp_path: Path, change: Callable[[Files], object], says: str
) -> None:
    files = Files(tmp_path)
    files.server()
    change(files)
    code, said = start_with(files)
    assert code == 78, said
    assert says in said
    assert "PRIVATE" not in said


def test_a_port_for_tokens_that_is_taken_is_exit_code_78(dsn: str, tmp_path: Path) -> None:
    tls = Files(tmp_path).server()
    key = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key | {"kid": "1", "use": "sig", "alg": "ES256"}]}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = serve(
            tmp_path,
            DATABASE__URL=dsn,
            SERVER__PORT="0",
            SERVER__TLS__CERTIFICATE=str(tls.certificate),
            SERVER__TLS__KEY=str(tls.key),
            SERVER__TLS__CLIENT_CA=str(tls.client_ca),
            SERVER__TLS__TOKEN_PORT=str(port),
            ACCESS__JWKS_FILE=str(tmp_path / "jwks.json"),
            ACCESS__ISSUER="issuer",
            ACCESS__AUDIENCE="audience",
        )
    assert code == 78, said
    assert f"port {port} on 127.0.0.1 cannot be bound: stop what listens there or set server.tls.token_port" in said
