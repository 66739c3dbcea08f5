"""Whom a client trusts and how it says who it is: the files, from arguments or the environment.

    METERWATCH_TLS_CA                    PEM file of the CA of the service, or `system`; not set: plain text
    METERWATCH_TLS_CERT, ..._KEY         PEM files of the client's own certificate and key
    METERWATCH_TOKEN_FILE                a file with a token, read at each call, so it may be renewed in place
    METERWATCH_TOKEN_OVER_PLAINTEXT=1    send it over plain text too, to this machine only

Promises: files are read anew for each channel, so a new certificate needs no restart; a token goes over TLS, or to
loopback when told so, else nowhere; neither key nor token appears in an error or a repr.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import grpc

from meterwatch.errors import ConfigError
from meterwatch.transport.hosts import host_of, is_loopback

CA: Final = "METERWATCH_TLS_CA"
CERT: Final = "METERWATCH_TLS_CERT"
KEY: Final = "METERWATCH_TLS_KEY"
TOKEN_FILE: Final = "METERWATCH_TOKEN_FILE"
TOKEN_OVER_PLAINTEXT: Final = "METERWATCH_TOKEN_OVER_PLAINTEXT"
SYSTEM: Final = "system"
TOKEN_BYTES_MAX: Final = 16_384
"""A peer of gRPC refuses longer metadata."""


class Security(NamedTuple):
    """What a channel is opened with. ca None: plain text."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    token_file: str | None = None
    token_over_plaintext: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """As the environment says; an empty value is none."""
        ca, certificate, key, token = (environ.get(name) or None for name in (CA, CERT, KEY, TOKEN_FILE))
        return cls(ca, certificate, key, token, environ.get(TOKEN_OVER_PLAINTEXT, "") not in ("", "0", "false"))

    def checked(self, address: str) -> Self:
        """Itself; ConfigError where it cannot be done, or a token would be seen on its way."""
        problems = []
        if (self.certificate is None) != (self.key is None):
            problems.append(f"{CERT} and {KEY} belong together (--tls-cert, --tls-key); give both or none.")
        if self.certificate is not None and self.ca is None:
            problems.append(f"{CERT} is given without {CA} (--tls-ca); name the CA of the service, or `{SYSTEM}`.")
        if self.token_file is not None and self.ca is None and not self.may_show_token(address):
            problems.append(
                f"{TOKEN_FILE} is given and the connection to {address} speaks plain text, where everybody on the way "
                f"reads it; give {CA} (--tls-ca), or {TOKEN_OVER_PLAINTEXT}=1 for a service on this machine."
            )
        if problems:
            raise ConfigError(problems)
        return self

    def may_show_token(self, address: str) -> bool:
        """True if a token may go there unencrypted."""
        return self.token_over_plaintext and is_loopback(host_of(address))

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials of a channel, with the token of each call; None: plain text."""
        if self.ca is None:
            return None
        channel = grpc.ssl_channel_credentials(
            None if self.ca == SYSTEM else _bytes(CA, self.ca),
            None if self.key is None else _bytes(KEY, self.key),
            None if self.certificate is None else _bytes(CERT, self.certificate),
        )
        if self.token_file is None:
            return channel
        return grpc.composite_channel_credentials(channel, grpc.metadata_call_credentials(_Bearer(self.token_file)))


def security(
    ca: str = SYSTEM, certificate: str | None = None, key: str | None = None, token_file: str | None = None
) -> grpc.ChannelCredentials:
    """Credentials for HeadEnd and AlarmFeed out of PEM files, for programs that do not use the environment."""
    made = Security(ca, certificate, key, token_file).credentials()
    assert made is not None  # there is a CA
    return made


@contextmanager
def in_environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Have these in the environment, where None leaves what is there; processes started meanwhile have them too."""
    before = {name: os.environ.get(name) for name, value in values.items() if value is not None}
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def in_plain_text() -> AbstractContextManager[None]:
    """Whatever the environment says: for a service of one's own, which has no certificates."""
    return in_environment(dict.fromkeys((CA, CERT, KEY, TOKEN_FILE), ""))


def read_token(path: str) -> str:
    """The token in a file. ValueError or OSError without any of it."""
    with Path(path).open("rb") as file:
        text = file.read(TOKEN_BYTES_MAX + 1).strip()
    if not text or len(text) > TOKEN_BYTES_MAX or not text.isascii() or not text.decode("ascii").isprintable():
        raise ValueError(f"{path} holds no token; expected one line of printable ASCII, as a JWT is")
    if b" " in text:
        raise ValueError(f"{path} holds more than a token; expected it alone, without `Bearer` before it")
    return text.decode("ascii")


class _Bearer(grpc.AuthMetadataPlugin):  # type: ignore[misc]
    """The token of each call, as gRPC asks for it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, context: Any, callback: Callable[[Any, Exception | None], None]) -> None:
        try:
            callback((("authorization", f"Bearer {read_token(self._path)}"),), None)
        except (OSError, ValueError) as error:
            callback((), error)


class _Details(NamedTuple):
    """Of a call, as grpc's own are no class one can make."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class PlainToken(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """The token in each call of a channel that speaks plain text; grpc gives call credentials to no such channel."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _with(self, continuation: Any, details: Any, request: Any) -> Any:
        token = ("authorization", f"Bearer {read_token(self._path)}")
        return continuation(
            _Details(
                details.method,
                details.timeout,
                [*(details.metadata or ()), token],
                details.credentials,
                getattr(details, "wait_for_ready", None),
                getattr(details, "compression", None),
            ),
            request,
        )

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _with


def _bytes(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([f"{name} {path} cannot be read ({error.strerror}); give the path of a PEM file."]) from None
