"""What contradicts itself in a configuration whose every key is sound: checks over several keys, each a sentence.

A check is a pure function that says what is wrong, or None. No sentence shows a secret.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from meterwatch.check_profile import CHECK_PROFILES
from meterwatch.errors import ConfigError
from meterwatch.profile_file import known_profiles
from meterwatch.transport.hosts import is_loopback
from meterwatch.transport.settings import leaves_in_plain_text

if TYPE_CHECKING:
    from meterwatch.config import Config  # which asks these checks


class Check(NamedTuple):
    keys: tuple[str, ...]
    """What it reads; it is skipped if one of them is already reported."""
    problem: Callable[[Config], str | None]


def _listens_openly(config: Config) -> str | None:
    host = config.server.host
    if is_loopback(host) or config.server.tls.certificate is not None or config.server.insecure_listen:
        return None
    return (
        f"server.host = '{host}' is not a loopback address and the service would speak plain text; set "
        "server.tls.certificate and server.tls.key, or use 127.0.0.1, or set server.insecure_listen = true."
    )


def _leaves_openly(config: Config) -> str | None:
    url = config.database.url
    if url is None or config.database.insecure_network or _url_scheme(config) is not None:
        return None  # nothing to leave by, leave given, or said by another check
    if not leaves_in_plain_text(url.get_secret_value()):
        return None
    return (
        "database.url leads to another machine and does not demand TLS; add ?sslmode=verify-full&sslrootcert=FILE, or "
        "set database.insecure_network = true."
    )


def _same_port(config: Config) -> str | None:
    ports = {"server.port": config.server.port, "metrics.port": config.metrics.port}
    ports["server.tls.token_port"] = config.server.tls.token_port or 0
    for (one, port), (other, same) in itertools.combinations(ports.items(), 2):
        if port and port == same:
            return f"{other} and {one} are both {port}; give them different ports."
    return None


def _clock_start(config: Config) -> str | None:
    if config.clock.mode != "real" and config.clock.start is None:
        return f"clock.mode = '{config.clock.mode}' needs clock.start, e.g. clock.start = 2026-01-31T00:00:00Z."
    if config.clock.mode == "real" and config.clock.start is not None:
        return "clock.start has no meaning with clock.mode = 'real'; remove it or set clock.mode = 'simulated'."
    return None


def _clock_speed(config: Config) -> str | None:
    if config.clock.mode != "simulated" and config.clock.speed != 1.0:
        return f"clock.speed = {config.clock.speed:g} has a meaning only with clock.mode = 'simulated'; remove it."
    return None


_ENCODE: Final = "percent-encode % @ : / ? in user and password"


def _url_scheme(config: Config) -> str | None:
    url = config.database.url
    if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        return "database.url is no PostgreSQL URL; expected postgresql://user:password@host:5432/database."
    return None if url is None else _url_parts(url.get_secret_value())


def _url_parts(url: str) -> str | None:
    """What is wrong with the parts of the URL. Never shows one: a part cut wrongly may be one of the password."""
    try:
        parts = conninfo_to_dict(url)
    except (psycopg.ProgrammingError, UnicodeDecodeError):  # a % of a password with two digits after it may be no text
        return f"database.url cannot be read; {_ENCODE}, and know only PostgreSQL's own parameters after '?'."
    ports = str(parts.get("port") or "5432").split(",")
    if not all(port.isdecimal() and 0 < int(port) < 65_536 for port in ports):
        return f"database.url has a port that is no number from 1 to 65535; correct it, and {_ENCODE}."
    if "@" in str(parts.get("host") or ""):
        return f"database.url has an @ in its host; {_ENCODE}."
    return None


def profile_problems(config: Config) -> list[str]:
    """Of the file of profiles; without any, of the names chosen."""
    try:
        known = known_profiles(config.rules.profiles_file)
    except ConfigError as error:
        return error.problems
    chosen = (("rules", config.rules.profile, known.rules), ("alarms", config.alarms.profile, known.alarms))
    return [
        f"{section}.profile = {name!r} is not known; known are {', '.join(sorted(names))}."
        for section, name, names in chosen
        if name not in names
    ]


def _check_profile(config: Config) -> str | None:
    for name in (config.checks.profile, *config.checks.changes.values()):
        if name not in CHECK_PROFILES:
            return f"checks.profile = {name!r} is not known; known are {', '.join(sorted(CHECK_PROFILES))}."
    return None


def _token_settings(config: Config) -> str | None:
    access = config.access
    if access.jwks_file is not None and access.jwks_url is not None:
        return "access.jwks_file and access.jwks_url are both set; keys come from one place: leave one out."
    if access.tokens and not (access.issuer and access.audience):
        return "access.issuer and access.audience are needed with tokens: one for another service would do else."
    if not access.tokens and (access.issuer or access.audience):
        return "access.issuer and access.audience have a meaning only with access.jwks_file or access.jwks_url."
    return None


def _nobody_could_call(config: Config) -> str | None:
    tls = config.server.tls
    if tls.certificate is None or tls.problem() is not None or config.access.tokens:
        return None
    if tls.client_ca is None:
        return (
            "server.tls is set without server.tls.client_ca and without tokens (access.jwks_file), so nobody could say"
            " who they are; set one of the two."
        )
    if tls.token_port is not None:
        return "server.tls.token_port is for callers with tokens, and none are taken; set access.jwks_file or jwks_url."
    return None


CROSS_CHECKS: Final = (
    Check(("checks.profile", "checks.changes"), _check_profile),
    Check(("server.host", "server.insecure_listen", "server.tls"), _listens_openly),
    Check(("server.tls",), lambda config: config.server.tls.problem()),
    Check(("client.certificate", "client.key"), lambda config: config.client.problem()),
    Check(("server.port", "server.tls", "metrics.port"), _same_port),
    Check(("clock.mode", "clock.start"), _clock_start),
    Check(("clock.mode", "clock.speed"), _clock_speed),
    Check(("access.jwks_file", "access.jwks_url", "access.issuer", "access.audience"), _token_settings),
    Check(("server.tls", "access.jwks_file", "access.jwks_url"), _nobody_could_call),
    Check(("database.url",), _url_scheme),
    Check(("database.url", "database.insecure_network"), _leaves_openly),
)
