"""The identity in a bearer token: a JWT (RFC 7519) signed by the issuer the configuration names.

    sub         name
    roles       list of role names, or one string with spaces between
    districts   list of districts; left out: the whole grid
    exp, nbf, iss, aud   required, and checked; exp and nbf with LEEWAY_S

Promises: the algorithm is that of the key, never that of the token; `none` and shared secrets do not exist here; a
refusal says why and never shows the token. Refuses to know where keys come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import jwt
from jwt import exceptions as wrong

from meterwatch.access.identity import DISTRICTS_MAX, How, Identity, roles_in, sound_name
from meterwatch.access.signing_keys import KID_CHARS_MAX, SigningKeys
from meterwatch.errors import Unauthenticated

TOKEN_CHARS_MAX: Final = 6144
"""gRPC itself refuses metadata of more than 8 KiB, at first only now and then: no token shall be taken by chance."""
LEEWAY_S: Final = 60
REQUIRED: Final = ("exp", "nbf", "iss", "aud", "sub")
_SCHEME: Final = "bearer "


class Tokens:
    """Identities by token, of one issuer and for one audience."""

    def __init__(self, keys: SigningKeys, issuer: str, audience: str) -> None:
        self.keys = keys
        self._issuer = issuer
        self._audience = audience

    async def identity(self, headers: Sequence[str | bytes]) -> Identity:
        """Who the `authorization` headers of a call say. Unauthenticated TOKEN_REFUSED or TOKEN_EXPIRED."""
        token = _token(headers)
        header = _header(token)
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(kid, str) or not 0 < len(kid) <= KID_CHARS_MAX:
            _refuse("a token without a kid arrived; expected the name of the key that signed it")
        if "crit" in header:
            _refuse("a token with critical extensions arrived; none are known here")
        key = await self.keys.find(kid)
        if key is None:
            _refuse("a token signed with an unknown key arrived; expected a key of the configured JWKS")
        if algorithm not in key.algorithms:
            _refuse(f"a token with an algorithm its key is not for arrived; expected {' or '.join(key.algorithms)}")
        return identity_of(self._claims(token, key.key, key.algorithms))

    def _claims(self, token: str, key: Any, algorithms: Sequence[str]) -> Mapping[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=list(algorithms), audience=self._audience, issuer=self._issuer,
                leeway=LEEWAY_S, options={"require": list(REQUIRED)},
            )  # fmt: skip
            return claims
        except wrong.ExpiredSignatureError:
            raise Unauthenticated("TOKEN_EXPIRED", "the token has expired; get a new one") from None
        except wrong.ImmatureSignatureError:
            _refuse("the token is not valid yet (nbf or iat ahead); check the clocks")
        except wrong.InvalidAudienceError:
            _refuse(f"the token is for another audience; expected aud {self._audience!r}")
        except wrong.InvalidIssuerError:
            _refuse(f"the token is of another issuer; expected iss {self._issuer!r}")
        except wrong.MissingRequiredClaimError as error:
            _refuse(f"the token has no {error.claim}; expected {', '.join(REQUIRED)}")
        except wrong.InvalidSignatureError:
            _refuse("the signature of the token is not that of its key")
        except (wrong.PyJWTError, ValueError, TypeError, OverflowError) as error:
            _refuse(f"the token cannot be read ({type(error).__name__}); expected a signed JWT")


def identity_of(claims: Mapping[str, Any]) -> Identity:
    """What the claims of a verified token say. Unauthenticated TOKEN_REFUSED when they cannot be meant so."""
    name, roles, districts = claims.get("sub"), claims.get("roles", []), claims.get("districts")
    if not isinstance(name, str) or not sound_name(name):
        _refuse("sub is no name of 1 to 64 printable characters")
    roles = roles.split() if isinstance(roles, str) else roles
    if not _texts(roles):
        _refuse("roles is no list of texts")
    if districts is not None and not (_texts(districts) and 0 < len(districts) <= DISTRICTS_MAX and all(districts)):
        _refuse(f"districts is no list of 1 to {DISTRICTS_MAX} texts; leave it out for the whole grid")
    try:
        expires_s = float(claims["exp"])
    except OverflowError:
        _refuse("exp is beyond all time")
    return Identity(name, roles_in(roles), frozenset(districts or ()), How.TOKEN, expires_s)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _token(headers: Sequence[str | bytes]) -> str:
    if len(headers) != 1:
        _refuse(f"{len(headers)} authorization headers arrived; expected one")
    header = headers[0]
    if isinstance(header, bytes) or header[: len(_SCHEME)].lower() != _SCHEME:
        _refuse("authorization is not of the scheme Bearer; send 'Bearer ' and the token")
    token = header[len(_SCHEME) :].strip()
    if not 0 < len(token) <= TOKEN_CHARS_MAX:
        _refuse(f"a token of {len(token)} characters arrived; expected 1 to {TOKEN_CHARS_MAX}")
    return token


def _header(token: str) -> Mapping[str, Any]:
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
        return header
    except (wrong.PyJWTError, ValueError, RecursionError):
        _refuse("the token cannot be read; expected a signed JWT of three parts")


def _refuse(why: str) -> NoReturn:
    raise Unauthenticated("TOKEN_REFUSED", why)
