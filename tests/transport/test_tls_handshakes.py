"""Real handshakes on loopback: who gets through, who does not and is told why, and what a rotation changes."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from tls_world import CA, ENOUGH_S, NOW, OTHER_CA, Files, Listening, ask, away, listening

from meterwatch.client.refusal import refusal
from meterwatch.client.retry import failure_of, open_channel
from meterwatch.client.secure import Security, in_environment, security
from meterwatch.errors import ConfigError
from meterwatch.transport import dev
from meterwatch.transport.hosts import host_of


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN_FILE", "TOKEN_OVER_PLAINTEXT"):
        monkeypatch.delenv(f"METERWATCH_{name}", raising=False)


def call(address: str, how: Security) -> dict[str, Any]:
    """Who the server takes us for on a new connection; {"refused": code} if it does not let us."""
    with open_channel(address, how.credentials()) as channel:
        try:
            return ask(channel)
        except grpc.RpcError as error:
            return {"refused": failure_of(error).code}


# Who gets through


async def test_a_certificate_of_the_ca_gets_through_and_the_service_sees_name_role_and_districts(files: Files) -> None:
    async with listening(files.server()) as server:
        seen = (await away(call, server.address, files.client()))["auth"]
        assert await away(refusal, server.address, files.client()) == ""
    assert seen["transport_security_type"] == ["ssl"]
    assert seen["x509_common_name"] == ["anna"]
    shown = x509.load_pem_x509_certificate(seen["x509_pem_cert"][0].encode())
    assert shown.subject.rfc4514_string() == "CN=anna,OU=operator,O=meterwatch"
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["meterwatch://district/S%C3%BCd%207"]


REFUSED = {
    "no certificate": (lambda f: f.stranger(), "no certificate was shown"),
    "of another CA": (lambda f: f.client(OTHER_CA), "of anna, which expires"),
    "expired": (lambda f: f.client(days=-1), "of anna, which expired"),
    "the service's is not trusted": (lambda f: f.client(trusts=OTHER_CA), "its certificate is not trusted"),
}


@pytest.mark.parametrize(("who", "says"), REFUSED.values(), ids=REFUSED.keys())
async def test_who_does_not_get_through_is_told_why(files: Files, who: Any, says: str) -> None:
    async with listening(files.server()) as server:
        assert await away(call, server.address, who(files)) == {"refused": "UNAVAILABLE"}
        sentence = await away(refusal, server.address, who(files))
        assert "is reachable" in sentence
        assert says in sentence
        assert "auth" in await away(call, server.address, files.client())


async def test_a_certificate_for_another_host_is_not_trusted(files: Files) -> None:
    async with listening(files.server(dev.server(CA, NOW, hosts=["meters.example"]))) as server:
        assert await away(call, server.address, files.client()) == {"refused": "UNAVAILABLE"}
        assert "not trusted: " in await away(refusal, server.address, files.client())


async def test_plain_text_and_tls_do_not_understand_each_other_and_it_is_said(files: Files) -> None:
    async with listening(files.server()) as server:
        assert await away(call, server.address, Security()) == {"refused": "UNAVAILABLE"}
        assert "speaks TLS; give --tls-ca" in await away(refusal, server.address, Security())
    async with listening() as server:
        assert await away(call, server.address, files.client()) == {"refused": "UNAVAILABLE"}
        assert "speaks no TLS" in await away(refusal, server.address, files.client())
        assert await away(refusal, server.address, Security()) == ""


def test_where_nobody_listens_nothing_is_said_of_certificates(files: Files) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for how in (Security(), files.client()):
            assert refusal(address, how) == ""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # that it is old is the point
@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_nothing_older_than_tls_1_2_is_spoken(files: Files, version: ssl.TLSVersion, accepted: bool) -> None:
    how = files.client()
    context = ssl.create_default_context(cafile=how.ca)
    assert how.certificate is not None
    context.load_cert_chain(how.certificate, how.key)
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or we would refuse TLS 1.1 ourselves
    context.minimum_version = context.maximum_version = version

    def handshake(address: str) -> str:
        with (
            socket.create_connection((host_of(address), int(address.rpartition(":")[2])), ENOUGH_S) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as wrapped,
        ):
            assert wrapped.recv(1)
            return str(wrapped.version())

    async with listening(files.server()) as server:
        if accepted:
            assert await away(handshake, server.address) == version.name.replace("_", ".")
        else:
            with pytest.raises(OSError, match=r"ALERT_PROTOCOL_VERSION|Connection reset|EOF"):
                await away(handshake, server.address)


# Tokens


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_the_port_for_tokens_asks_for_no_certificate_and_takes_the_token(files: Files) -> None:
    token = files.directory / "token"
    token.write_text("aa.bb.cc\n")
    port = free_port()
    who = files.stranger()._replace(token_file=str(token))
    async with listening(files.server(token_port=port)) as server:
        seen = await away(call, f"127.0.0.1:{port}", who)
        assert await away(call, server.address, who) == {"refused": "UNAVAILABLE"}
    assert seen["metadata"]["authorization"] == "Bearer aa.bb.cc"
    assert "x509_pem_cert" not in seen["auth"]


async def test_a_token_is_read_at_each_call(files: Files) -> None:
    token = files.directory / "token"
    token.write_text("one")
    how = files.client(token_file=str(token))
    async with listening(files.server()) as server:
        with open_channel(server.address, how.credentials()) as channel:
            assert (await away(ask, channel))["metadata"]["authorization"] == "Bearer one"
            token.write_text("two")
            assert (await away(ask, channel))["metadata"]["authorization"] == "Bearer two"


@pytest.mark.parametrize("content", [b"", b"\n", b"Bearer x", b"a\nb", b"\xff", b"x" * 20_000])
async def test_a_file_that_holds_no_token_sends_nothing_and_shows_nothing(files: Files, content: bytes) -> None:
    token = files.directory / "token"
    token.write_bytes(content)
    how = files.client(token_file=str(token))
    async with listening(files.server()) as server:
        with open_channel(server.address, how.credentials()) as channel, pytest.raises(grpc.RpcError) as caught:
            await away(ask, channel)
    said = failure_of(caught.value).message
    assert "token" in said
    secret = content.decode("latin-1").strip()
    assert not secret or secret not in said


async def test_in_plain_text_a_token_goes_to_this_machine_only_and_only_when_told(files: Files) -> None:
    token = files.directory / "token"
    token.write_text("aa.bb.cc")
    given: dict[str, str | None] = {"METERWATCH_TOKEN_FILE": str(token)}
    async with listening() as server:
        with in_environment(given), pytest.raises(ConfigError, match="plain text") as caught:
            open_channel(server.address)
        assert "aa.bb" not in str(caught.value)
        with in_environment(given | {"METERWATCH_TOKEN_OVER_PLAINTEXT": "1"}):
            with pytest.raises(ConfigError, match="plain text"):
                open_channel("meters.example:50551")
            with open_channel(server.address) as channel:
                assert (await away(ask, channel))["metadata"]["authorization"] == "Bearer aa.bb.cc"
    assert "METERWATCH_TOKEN_FILE" not in os.environ


# The environment, and what contradicts itself in it


async def test_the_environment_is_enough_for_every_channel(files: Files) -> None:
    how = files.client()
    given = {"METERWATCH_TLS_CA": how.ca, "METERWATCH_TLS_CERT": how.certificate, "METERWATCH_TLS_KEY": how.key}
    async with listening(files.server()) as server:
        with in_environment(given), open_channel(server.address) as channel:
            assert (await away(ask, channel))["auth"]["x509_common_name"] == ["anna"]


async def test_a_program_may_give_its_files_itself(files: Files) -> None:
    how = files.client()
    assert how.ca is not None
    async with listening(files.server()) as server:
        made = security(how.ca, how.certificate, how.key)
        with open_channel(server.address, made) as channel:
            assert "auth" in await away(ask, channel)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (Security(ca="c", certificate="x"), "belong together"),
        (Security(certificate="x", key="y"), "without METERWATCH_TLS_CA"),
        (Security(token_file="t"), "plain text"),
    ],
)
def test_what_contradicts_itself_is_one_sentence(how: Security, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        how.checked("127.0.0.1:1")
    (sentence,) = caught.value.problems
    assert says in sentence


# Rotation and age


async def test_a_new_certificate_is_used_without_a_restart(files: Files) -> None:
    async with listening(files.server()) as server:
        assert "auth" in await away(call, server.address, files.client())
        files.server(dev.server(OTHER_CA, NOW))
        taken(server)
        assert "auth" in await away(call, server.address, files.client(trusts=OTHER_CA))
        assert await away(call, server.address, files.client()) == {"refused": "UNAVAILABLE"}


async def test_bad_new_files_leave_the_service_as_it_was(files: Files) -> None:
    async with listening(files.server()) as server:
        (files.directory / "server.key.pem").write_bytes(dev.server(CA, NOW).key_pem)
        assert taken(server)
        assert "auth" in await away(call, server.address, files.client())


async def test_who_is_trusted_no_more_keeps_a_connection_until_its_age_and_gets_no_new_one(files: Files) -> None:
    tls = files.server(connection_age_max_s=2.0, connection_age_grace_s=0.2)
    watch = "/grpc.health.v1.Health/Watch"
    async with listening(tls) as server:
        with open_channel(server.address, files.client().credentials()) as channel:
            answers = channel.unary_stream(watch)(b"", timeout=ENOUGH_S)
            assert await away(next, answers)
            files.ca(OTHER_CA)
            taken(server)
            assert await away(call, server.address, files.client()) == {"refused": "UNAVAILABLE"}
            with pytest.raises(grpc.RpcError) as caught:
                await away(next, answers)
            assert failure_of(caught.value).code == "UNAVAILABLE"
        assert "auth" in await away(call, server.address, files.client(OTHER_CA))


async def test_a_session_of_before_is_no_way_around_a_ca_that_was_taken_away(files: Files) -> None:
    how = files.client()
    assert how.certificate is not None
    context = ssl.create_default_context(cafile=how.ca)
    context.load_cert_chain(how.certificate, how.key)
    context.set_alpn_protocols(["h2"])

    def handshake(address: str, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        """The session, and whether it went on from the one given; (None, None) if we do not get through."""
        with (
            suppress(OSError),
            socket.create_connection((host_of(address), int(address.rpartition(":")[2])), ENOUGH_S) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as wrapped,
        ):
            if wrapped.recv(1):
                return wrapped.session, wrapped.session_reused
        return None, None

    async with listening(files.server()) as server:
        session, _ = await away(handshake, server.address, None)
        _, reused = await away(handshake, server.address, session)
        assert reused
        files.ca(OTHER_CA)
        taken(server)
        assert await away(handshake, server.address, session) == (None, None)


async def test_every_handshake_is_counted_failed_ones_too(files: Files) -> None:
    async with listening(files.server()) as server:
        assert server.rotation is not None
        await away(call, server.address, files.client())
        before = server.rotation.handshakes
        assert before > 0
        await away(call, server.address, files.stranger())
        assert server.rotation.handshakes > before


async def test_many_handshakes_at_once_while_the_certificate_changes_all_get_through(files: Files) -> None:
    how = files.client()
    async with listening(files.server()) as server:

        async def change() -> None:
            for _ in range(5):
                files.server()
                taken(server)
                await asyncio.sleep(0)  # let the handshakes go on

        answers = await asyncio.gather(change(), *(away(call, server.address, how) for _ in range(40)))
    assert all("auth" in answer for answer in answers[1:])


def taken(server: Listening) -> bool:
    """Let the service look until it has judged what is there; True: it refused it."""
    assert server.rotation is not None
    return server.rotation.look().look().refused
