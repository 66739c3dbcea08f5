"""The public keys that tokens may be signed with: a JWKS (RFC 7517) from a file or an https URL, by kid.

Promises: only asymmetric keys, each with the algorithms of its own kind, so that no token chooses how it is checked; a
set that is not sound, or cannot be fetched, leaves the keys as they were; an unknown kid is looked for at most once in
LOOK_AGAIN_S, whoever asks. Refuses to know what a token says.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from meterwatch.errors import ConfigError

SET_BYTES_MAX: Final = 262_144
KEYS_MAX: Final = 64
KID_CHARS_MAX: Final = 256
RSA_BITS_MIN: Final = 2048
REFRESH_S: Final = 300.0
LOOK_AGAIN_S: Final = 30.0
FETCH_S: Final = 5.0
_CURVES: Final[Mapping[str, tuple[str, ...]]] = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",)}
_RSA: Final[tuple[str, ...]] = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

_log = structlog.get_logger(__name__)


class SigningKey(NamedTuple):
    """A public key and the algorithms a token signed with it may name."""

    key: Any
    algorithms: tuple[str, ...]


class SigningKeys:
    """The keys of one issuer. source: a path or a URL."""

    def __init__(self, source: Path | str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now_s = now_s
        self._keys: Mapping[str, SigningKey] = {}
        self._looked_s = float("-inf")
        self.problem = ""
        """Why the keys were not read when they were looked for last; empty: they were."""
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Read them for the first time. ConfigError for a file that is not sound; a URL may come to life later."""
        if isinstance(self._source, str) and (wrong := wrong_url(self._source)):
            raise ConfigError([wrong])
        try:
            await self._read()
        except (OSError, ValueError, httpx.HTTPError) as error:
            if isinstance(self._source, Path):
                raise ConfigError([f"access.jwks_file {self._source}: {error}"]) from None
            self.problem = _says(error)
            _log.error("keys for tokens not there yet, every token is refused", error=self.problem)

    async def refresh(self) -> None:
        """Read them again if it is time."""
        if self._now_s() - self._looked_s >= (LOOK_AGAIN_S if isinstance(self._source, Path) else REFRESH_S):
            await self._look()

    async def find(self, kid: str) -> SigningKey | None:
        """The key of this name; None: there is none, and it has been looked for lately."""
        if kid not in self._keys and self._now_s() - self._looked_s >= LOOK_AGAIN_S and not self._turn.locked():
            await self._look()
        return self._keys.get(kid)

    async def _look(self) -> None:
        async with self._turn:
            try:
                await self._read()
            except (OSError, ValueError, httpx.HTTPError) as error:
                self.problem = _says(error)
                _log.error("keys for tokens not read again, the old ones stay", error=self.problem)

    async def _read(self) -> None:
        self._looked_s = self._now_s()
        if isinstance(self._source, Path):
            raw = await asyncio.to_thread(_from_file, self._source)
        else:
            raw = await _fetched(self._source)
        keys = parsed(raw)
        if keys.keys() != self._keys.keys():
            _log.info("keys for tokens read", kids=sorted(keys))
        self._keys, self.problem = keys, ""


def parsed(raw: bytes) -> dict[str, SigningKey]:
    """Keys by kid. ValueError for what is no set of public keys; keys for other ends are left out."""
    if len(raw) > SET_BYTES_MAX:
        raise ValueError(f"more than {SET_BYTES_MAX} bytes arrived; a JWKS was expected")
    document = json.loads(raw)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > KEYS_MAX or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f'an object with "keys", a list of at most {KEYS_MAX} keys, was expected')
    found: dict[str, SigningKey] = {}
    for jwk in listed:
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not 0 < len(kid) <= KID_CHARS_MAX or jwk.get("use", "sig") != "sig":
            continue
        if kid in found:
            raise ValueError(f"two keys have the kid {kid[:64]!r}; each needs one of its own")
        if (key := _key(jwk)) is not None:
            found[kid] = key
    if not found:
        raise ValueError("no key with a kid for signatures by RSA, EC or Ed25519 is in it")
    return found


def _key(jwk: Mapping[str, Any]) -> SigningKey | None:
    if "d" in jwk:
        raise ValueError("a private key is in the JWKS and no secret any more; make a new one, publish the public half")
    allowed = _algorithms(jwk)
    if not allowed:
        return None
    try:
        key = PyJWK(dict(jwk), algorithm=allowed[0]).key
    except PyJWTError as error:
        raise ValueError(f"a key is not sound ({error})") from None
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS_MIN:
        raise ValueError(f"an RSA key of {key.key_size} bits arrived; at least {RSA_BITS_MIN} were expected")
    return SigningKey(key, allowed)


def _algorithms(jwk: Mapping[str, Any]) -> tuple[str, ...]:
    """What a token signed with this key may name: the kind of key decides, and the key's own alg narrows it."""
    kind: tuple[str, ...]
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            kind = _RSA
        case "EC", str(curve):
            kind = _CURVES.get(curve, ())
        case "OKP", "Ed25519":
            kind = ("EdDSA",)
        case _:
            return ()
    return kind if "alg" not in jwk else tuple(one for one in kind if one == jwk["alg"])


def wrong_url(url: str) -> str:
    """What is wrong with a URL that keys shall come from; empty: nothing."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "access.jwks_url is no URL; expected https://host/path."
    if parts.username or parts.password:
        return "access.jwks_url has a user or a password in it; keys are public: leave them out."
    if not host or (
        parts.scheme != "https" and not (parts.scheme == "http" and host in ("127.0.0.1", "::1", "localhost"))
    ):
        return "access.jwks_url is not https; whoever can change what it answers makes tokens: use https://."
    return ""


def _from_file(path: Path) -> bytes:
    if path.stat().st_size > SET_BYTES_MAX:
        raise ValueError(f"more than {SET_BYTES_MAX} bytes arrived; a JWKS was expected")
    return path.read_bytes()


async def _fetched(url: str) -> bytes:
    """The body, without following redirects; ValueError if it is too long or no answer."""
    async with (
        asyncio.timeout(FETCH_S),
        httpx.AsyncClient(follow_redirects=False, timeout=FETCH_S) as client,
        client.stream("GET", url) as answer,
    ):
        if answer.status_code != httpx.codes.OK:
            raise ValueError(f"status {answer.status_code} arrived; 200 was expected")
        body = bytearray()
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > SET_BYTES_MAX:
                raise ValueError(f"more than {SET_BYTES_MAX} bytes arrived; a JWKS was expected")
        return bytes(body)


def _says(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
