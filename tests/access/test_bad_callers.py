"""Who calls with nothing, or with what does not hold, over TLS: rows 70 to 77 of the catalogue of bad input."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from access_authority import Issuer, Pair
from access_world import CA, ENOUGH_S, ISSUES, NORTH, OTHER_CA, Caller, World, served
from bad_inputs import told
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from test_tokens import HOSTILE

from meterwatch.client.refusal import refusal
from meterwatch.client.retry import Failure, failure_of
from meterwatch.client.secure import Security
from meterwatch.v1 import alarms_pb2 as alarms


@pytest.fixture(scope="module")
def world(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(dsn, tmp_path_factory.mktemp("callers")) as running:
        yield running


@pytest.fixture(scope="module")
def alarm_ids(world: World) -> dict[str, str]:
    return world.raise_alarms(60)


def failed(call: Callable[[], Any]) -> Failure:
    """How a call ends that must be refused."""
    with pytest.raises(grpc.RpcError) as error:  # noqa: PT012  (what a stream brings before is looked at elsewhere)
        answer = call()
        for _ in answer if hasattr(answer, "__next__") else ():
            pass
    return failure_of(error.value)


def refused_as(number: int, words: str, call: Callable[[], Any], code: str, reason: str, *hidden: str) -> None:
    """It is refused so, and on record; hidden: names of this run."""
    end = failed(call)
    assert (end.code, end.reason) == (code, reason), end
    message = end.message
    for one in hidden:
        message = message.replace(one, "<id>")
    told(number, words, "RPC", f"{end.code} {end.reason}: {message}")


def listed(caller: Caller) -> Callable[[], Any]:
    return lambda: caller.Alarms.ListAlarms(alarms.ListAlarmsRequest())


def secured(directory: Path, pair: Pair | None, trusts: Any = CA) -> Security:
    """The files of a caller, as a command of ours takes them."""
    (directory / "ca.pem").write_bytes(trusts.pem)
    files = Security(ca=str(directory / "ca.pem"))
    if pair is None:
        return files
    (directory / "anna.pem").write_bytes(pair.certificate)
    (directory / "anna.key").write_bytes(pair.key)
    return files._replace(certificate=str(directory / "anna.pem"), key=str(directory / "anna.key"))


STRANGERS: dict[str, Callable[[], Pair | None]] = {
    "no certificate": lambda: None,
    "a certificate of another CA": lambda: OTHER_CA.issue("anna", roles=["admin"]),
    "a certificate that has expired": lambda: CA.issue("anna", roles=["admin"], days=-1),
}


@pytest.mark.parametrize("words", STRANGERS)
def test_who_gets_through_no_handshake_is_told_why_by_our_client(world: World, tmp_path: Path, words: str) -> None:
    pair = STRANGERS[words]()
    assert failed(listed(world.holder(pair))).code == "UNAVAILABLE"
    address = f"localhost:{world.port}"
    sentence = refusal(address, secured(tmp_path, pair)).replace(address, "<address>").replace(f"{tmp_path}/", "")
    assert "refused the handshake" in sentence
    sentence = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "<time>", re.sub(r" \([A-Z0-9_ ]+\)", "", sentence))
    told(70, words, "RPC", f"UNAVAILABLE, of gRPC itself; our commands say: {sentence}")
    listed(world.person("viewer"))()


def test_a_certificate_without_a_role_may_nothing(world: World) -> None:
    for roles in ((), ("chief",)):
        words = f"a certificate with the roles {', '.join(roles) or 'none'}"
        refused_as(71, words, listed(world.person(*roles)), "PERMISSION_DENIED", "ROLE_MISSING")


def test_a_denied_serial_is_refused_and_its_stream_ends(world: World) -> None:
    pair = CA.issue("lost", roles=["viewer"])
    lost = world.holder(pair)
    call = lost.Alarms.Subscribe(alarms.SubscribeRequest())
    next(call)
    world.denied.write_text(f"{pair.serial}\n")
    world.run(world.gate.sweep())
    refused_as(72, "a stream of a serial denied by now", lambda: call, "UNAUTHENTICATED", "CERTIFICATE_DENIED")
    refused_as(72, "a call of a denied serial", listed(lost), "UNAUTHENTICATED", "CERTIFICATE_DENIED", pair.serial)


def now() -> int:
    return int(time.time())


TOKENS: dict[str, Callable[[], list[str]]] = {
    "a token with alg none": lambda: ["Bearer " + HOSTILE["alg none"]()],
    "a token signed HS256 with the public key": lambda: ["Bearer " + HOSTILE["HS256 with the public key"]()],
    "a token for another audience": lambda: ["Bearer " + ISSUES.token(aud="other")],
    "a token of another issuer": lambda: ["Bearer " + ISSUES.token(iss="https://evil.test")],
    "a token that begins in ten minutes": lambda: ["Bearer " + ISSUES.token(nbf=now() + 600)],
    "a token without kid": lambda: ["Bearer " + HOSTILE["missing kid"]()],
    "a token with an unknown kid": lambda: ["Bearer " + Issuer(kid="k2").token()],
    "a token of 6 KB": lambda: ["Bearer " + ISSUES.token(filler="x" * 4600)],
    "two authorization headers": lambda: [f"Bearer {ISSUES.token()}", f"Bearer {ISSUES.token()}"],
    "Basic instead of Bearer": lambda: ["Basic YTpi"],
}


@pytest.mark.parametrize("words", TOKENS)
def test_a_token_that_does_not_hold_is_refused_and_not_shown(world: World, words: str) -> None:
    headers = TOKENS[words]()
    caller = world.bearer("", [("authorization", header) for header in headers])
    shown = failed(listed(caller)).message
    assert not any(part in shown for header in headers for part in header.split(".") if len(part) > 12)
    refused_as(73, words, listed(caller), "UNAUTHENTICATED", "TOKEN_REFUSED")


def test_an_expired_token_and_none_have_reasons_of_their_own(world: World) -> None:
    old = world.bearer(ISSUES.token("vera", ["viewer"], exp=now() - 600))
    refused_as(73, "a token that expired ten minutes ago", listed(old), "UNAUTHENTICATED", "TOKEN_EXPIRED")
    refused_as(73, "neither token nor certificate", listed(world.bearer("")), "UNAUTHENTICATED", "NO_CREDENTIALS")


def test_bearer_may_be_written_small(world: World) -> None:
    token = ISSUES.token("vera", ["viewer"])
    listed(world.bearer("", [("authorization", f"bearer {token}")]))()
    told(73, "bearer in small letters", "TAKEN", "as any other")


def test_a_stream_ends_a_minute_after_its_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's clock runs ahead by what the token has left but two seconds, instead of a wait of minutes."""
    expires = now() + 300
    monkeypatch.setattr(world.gate, "_now_s", lambda: time.time() + 300 + 60 - 2)
    call = world.bearer(ISSUES.token("vera", ["viewer"], exp=expires)).Alarms.Subscribe(alarms.SubscribeRequest())
    assert next(call).HasField("snapshot")
    refused_as(74, "a stream 60 s after its token expired", lambda: call, "UNAUTHENTICATED", "TOKEN_EXPIRED")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # that it is old is the point
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nothing_older_than_tls_1_2_is_spoken(world: World, tmp_path: Path, version: ssl.TLSVersion) -> None:
    files = secured(tmp_path, CA.issue("anna", roles=["viewer"]))
    context = ssl.create_default_context(cafile=files.ca)
    assert files.certificate is not None
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or we would refuse TLS 1.1 ourselves
    context.minimum_version = context.maximum_version = version
    name = version.name.replace("v", " ").replace("_", ".")
    try:
        with (
            socket.create_connection(("localhost", world.port), ENOUGH_S) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            spoken = bool(wrapped.recv(1))
    except OSError:
        spoken = False
    assert spoken == (version is not ssl.TLSVersion.TLSv1_1)
    told(75, name, "TAKEN" if spoken else "RPC", "as any other" if spoken else "the handshake fails, by gRPC itself")


def test_an_action_without_the_role_and_on_another_district_are_refused(
    world: World, alarm_ids: dict[str, str]
) -> None:
    def acknowledges(caller: Caller, asset: str) -> Callable[[], Any]:
        request = alarms.AcknowledgeRequest(alarm_id=alarm_ids[asset], action_id=f"bad-{asset}", operator="x")
        return lambda: caller.Alarms.Acknowledge(request)

    viewer, north = world.person("viewer", name="vera"), world.person("operator", name="nora", districts=[NORTH])
    refused_as(76, "a viewer acknowledges an alarm", acknowledges(viewer, "T-N"), "PERMISSION_DENIED", "ROLE_MISSING")
    words = "an operator of North acknowledges an alarm of South"
    refused_as(76, words, acknowledges(north, "T-S"), "PERMISSION_DENIED", "OUT_OF_SCOPE", alarm_ids["T-S"])
    world.run(world.gate._trail.flush())
    outcomes = [row[3] for who in ("vera", "nora") for row in world.audited(who=who, method="Alarms/Acknowledge")]
    assert outcomes == ["PERMISSION_DENIED ROLE_MISSING", "PERMISSION_DENIED OUT_OF_SCOPE"]
    assert not world.sql("SELECT 1 FROM alarm_actions WHERE action_id LIKE 'bad-%%'")


def test_without_credentials_there_is_health_and_no_reflection(world: World) -> None:
    nobody = world.bearer("")
    health = health_pb2_grpc.HealthStub(nobody.channel).Check(health_pb2.HealthCheckRequest(), timeout=ENOUGH_S)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    told(77, "health without credentials", "TAKEN", "SERVING")

    def reflects() -> Any:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(nobody.channel)
        return stub.ServerReflectionInfo(iter([asked]), timeout=ENOUGH_S)

    refused_as(77, "reflection without credentials", reflects, "UNAUTHENTICATED", "NO_CREDENTIALS")
