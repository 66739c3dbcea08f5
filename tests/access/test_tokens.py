"""Every hostile token is refused with a reason, and no reason shows the token."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from access_authority import AUDIENCE, ISSUER, Issuer, jwks
from cryptography.hazmat.primitives.asymmetric import rsa

from meterwatch.access.identity import How, Role
from meterwatch.access.signing_keys import SigningKeys, parsed, wrong_url
from meterwatch.access.tokens import Tokens
from meterwatch.errors import ConfigError, Unauthenticated

GOOD = Issuer()


def b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def hs256_with_the_public_key() -> str:
    """Signed by hand: PyJWT itself does not take a PEM for a shared secret."""
    import hashlib
    import hmac

    head = b64({"alg": "HS256", "kid": "k1", "typ": "JWT"}) + "." + b64(GOOD.claims())
    return head + "." + b64(hmac.new(GOOD.public_pem, head.encode(), hashlib.sha256).digest())


def with_claim(**changes: Any) -> Callable[[], str]:
    return lambda: GOOD.token(**changes)


def now() -> int:
    return int(time.time())


@pytest.fixture
async def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(GOOD))
    keys = SigningKeys(path)
    await keys.open()
    return Tokens(keys, ISSUER, AUDIENCE)


async def test_a_good_token_says_who_calls(tokens: Tokens) -> None:
    found = await tokens.identity(["Bearer " + GOOD.token("anna", ["operator", "nonsense"], districts=["North"])])
    assert (found.name, found.how) == ("anna", How.TOKEN)
    assert (found.roles, found.districts) == ({Role.OPERATOR}, {"North"})
    assert found.expires_s is not None
    assert found.expires_s > now()


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer"])
async def test_the_scheme_may_be_written_in_any_case(tokens: Tokens, scheme: str) -> None:
    assert (await tokens.identity([f"{scheme} {GOOD.token()}"])).name == "anna"


async def test_roles_may_be_one_text(tokens: Tokens) -> None:
    assert (await tokens.identity(["Bearer " + GOOD.token("a", "viewer engineer")])).roles == {
        Role.VIEWER,
        Role.ENGINEER,
    }


HOSTILE: dict[str, Callable[[], str]] = {
    "alg none": lambda: b64({"alg": "none", "kid": "k1"}) + "." + b64(GOOD.claims()) + ".",
    "alg None": lambda: b64({"alg": "None", "kid": "k1"}) + "." + b64(GOOD.claims()) + ".",
    "no alg": lambda: b64({"kid": "k1"}) + "." + b64(GOOD.claims()) + ".",
    "HS256 with the public key": hs256_with_the_public_key,
    "another curve": lambda: b64({"alg": "ES384", "kid": "k1"}) + "." + b64(GOOD.claims()) + "." + b64(b"x" * 96),
    "RS256 by name only": lambda: b64({"alg": "RS256", "kid": "k1"}) + "." + b64(GOOD.claims()) + "." + b64(b"x" * 256),
    "an end beyond all time": with_claim(exp=10**400),
    "a key of its own in the header": lambda: Issuer().token(
        headers={"jwk": Issuer().jwk, "jku": "http://127.0.0.1:9"}
    ),
    "a kid that is a path": lambda: Issuer(kid="../../dev/null").token(),
    "a kid that is a list": lambda: (
        b64({"alg": "ES256", "kid": ["k1"]}) + "." + b64(GOOD.claims()) + "." + b64(b"x" * 64)
    ),
    "an algorithm that is a list": lambda: (
        b64({"alg": ["ES256"], "kid": "k1"}) + "." + b64(GOOD.claims()) + "." + b64(b"x")
    ),
    "another audience": with_claim(aud="other"),
    "no audience": with_claim(aud=None),
    "another issuer": with_claim(iss="https://evil.test"),
    "no issuer": with_claim(iss=None),
    "no expiry": with_claim(exp=None),
    "expiry that is no number": with_claim(exp="soon"),
    "expiry without end": with_claim(exp=float("inf")),
    "no beginning": with_claim(nbf=None),
    "beginning ahead": lambda: GOOD.token(nbf=now() + 600),
    "issued ahead": lambda: GOOD.token(iat=now() + 600),
    "no subject": with_claim(sub=None),
    "empty subject": with_claim(sub=""),
    "subject that misleads the eye": lambda: GOOD.token("a\u202eb"),
    "long subject": lambda: GOOD.token("x" * 65),
    "roles that are a number": lambda: GOOD.token("a", 7),
    "roles that are no texts": lambda: GOOD.token("a", [7]),
    "districts that are one text": lambda: GOOD.token("a", districts="North"),
    "no district at all": lambda: GOOD.token("a", districts=[]),
    "a district without a name": lambda: GOOD.token("a", districts=[""]),
    "missing kid": lambda: jwt.encode(GOOD.claims(), GOOD.key, algorithm="ES256"),
    "kid that is no text": lambda: b64({"alg": "ES256", "kid": 7}) + "." + b64(GOOD.claims()) + "." + b64(b"x" * 64),
    "unknown kid": lambda: Issuer(kid="k2").token(),
    "a key of its own under a known kid": lambda: Issuer(kid="k1").token(),
    "a key in its header": lambda: Issuer(kid="k1").token(headers={"jwk": Issuer().jwk}),
    "critical extension": lambda: GOOD.token(headers={"crit": ["b64"], "b64": False}),
    "5 MB": lambda: GOOD.token(filler="x" * 5_000_000),
    "two parts": lambda: "a.b",
    "four parts": lambda: GOOD.token() + ".x",
    "nested brackets": lambda: b64(b"[" * 4000) + ".e30.e30",
    "no JSON": lambda: "!!!.###.$$$",
    "empty": lambda: " ",
    "not ASCII": lambda: "\u00e4.\u00f6.\u00fc",
    "cut": lambda: GOOD.token()[:-4],
    "claims of another": lambda: ".".join(
        [GOOD.token().split(".")[0], b64(GOOD.claims("root", ["admin"])), GOOD.token().split(".")[2]]
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_token_is_refused_and_never_shown(tokens: Tokens, case: str) -> None:
    token = HOSTILE[case]()
    with pytest.raises(Unauthenticated) as error:
        await tokens.identity(["Bearer " + token])
    assert error.value.reason == "TOKEN_REFUSED"
    parts = [part for part in token.split(".") if len(part) > 8]
    assert not any(part in error.value.message for part in parts)


@pytest.mark.parametrize(
    "case", ["alg none", "no alg", "HS256 with the public key", "another curve", "RS256 by name only"]
)
async def test_the_key_decides_the_algorithm_before_anything_is_verified(tokens: Tokens, case: str) -> None:
    with pytest.raises(Unauthenticated, match="algorithm its key is not for"):
        await tokens.identity(["Bearer " + HOSTILE[case]()])


async def test_an_expired_token_has_a_reason_of_its_own_after_the_leeway(tokens: Tokens) -> None:
    assert (await tokens.identity(["Bearer " + GOOD.token(exp=now() - 30)])).name == "anna"
    with pytest.raises(Unauthenticated) as error:
        await tokens.identity(["Bearer " + GOOD.token(exp=now() - 90)])
    assert error.value.reason == "TOKEN_EXPIRED"


@pytest.mark.parametrize("headers", [[], ["Bearer a.b.c", "Bearer a.b.c"], ["Basic YTpi"], ["Bearer"], [b"Bearer x"]])
async def test_anything_but_one_bearer_header_is_refused(tokens: Tokens, headers: list[Any]) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.identity(headers)


# Keys


async def test_a_new_key_is_found_when_a_token_names_it_and_not_more_often_than_allowed(tmp_path: Path) -> None:
    path, clock = tmp_path / "jwks.json", [0.0]
    path.write_bytes(jwks(GOOD))
    keys = SigningKeys(path, now_s=lambda: clock[0])
    await keys.open()
    newer = Issuer(kid="k2")
    path.write_bytes(jwks(newer))
    assert await keys.find("k2") is None
    clock[0] = 31.0
    assert await keys.find("k2") is not None
    assert await keys.find("k1") is None  # a key that is withdrawn signs no more


async def test_a_set_that_is_not_sound_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    path, clock = tmp_path / "jwks.json", [0.0]
    path.write_bytes(jwks(GOOD))
    keys = SigningKeys(path, now_s=lambda: clock[0])
    await keys.open()
    path.write_text("{")
    clock[0] = 1000.0
    await keys.refresh()
    assert await keys.find("k1") is not None


async def test_a_file_that_is_not_sound_keeps_the_service_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text('{"keys": []}')
    with pytest.raises(ConfigError, match=r"jwks_file.*no key"):
        await SigningKeys(path).open()
    with pytest.raises(ConfigError, match="jwks_file"):
        await SigningKeys(tmp_path / "none.json").open()


def test_only_public_keys_for_signatures_are_taken() -> None:
    private = GOOD.jwk | {"d": "AAAA"}
    with pytest.raises(ValueError, match="private"):
        parsed(json.dumps({"keys": [private]}).encode())
    shared = {"kty": "oct", "k": b64(b"secret"), "kid": "k1", "alg": "HS256"}
    encryption = GOOD.jwk | {"use": "enc", "kid": "e"}
    nameless = {name: value for name, value in GOOD.jwk.items() if name != "kid"}
    hs256 = GOOD.jwk | {"alg": "HS256", "kid": "h"}
    with pytest.raises(ValueError, match="no key"):
        parsed(json.dumps({"keys": [shared, encryption, nameless, hs256]}).encode())
    with pytest.raises(ValueError, match="two keys"):
        parsed(jwks(GOOD, GOOD))


def test_a_short_rsa_key_is_refused_and_a_key_names_its_algorithms() -> None:
    def jwk(bits: int) -> bytes:
        key = rsa.generate_private_key(65537, bits).public_key()
        return json.dumps({"keys": [json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key)) | {"kid": "r"}]}).encode()

    with pytest.raises(ValueError, match="1024 bits"):
        parsed(jwk(1024))
    assert "RS256" in parsed(jwk(2048))["r"].algorithms
    assert not any(name.startswith("HS") or name == "none" for name in parsed(jwk(2048))["r"].algorithms)


@pytest.mark.parametrize(
    "url",
    ["http://id.test/jwks", "ftp://id.test", "https://", "https://u:p@id.test/jwks", "file:///etc/passwd", "http://["],
)
def test_keys_come_only_over_https(url: str) -> None:
    assert wrong_url(url)


def test_keys_come_over_https_or_from_this_machine() -> None:
    assert not wrong_url("https://id.test/jwks")
    assert not wrong_url("http://127.0.0.1:8080/jwks")
