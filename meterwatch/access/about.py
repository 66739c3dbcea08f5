"""What a call was done to, for the audit log: the fields of its request that the table of methods names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from meterwatch.access.methods import Rule

LISTED_MAX: Final = 5
"""Values of one field shown in the audit log."""


def about(method: str, rule: Rule, request: Any) -> str:
    """What a call was done to, as `field=value` for the fields its rule names. Empty for a stream of requests."""
    if not rule.about or not isinstance(request, bytes | Message):
        return ""
    try:
        message = _request_of(method).FromString(request) if isinstance(request, bytes) else request
    except (DecodeError, KeyError):
        return ""
    found = ((path, list(_values([message], path.split(".")))) for path in rule.about)
    return " ".join(f"{path}={_listed(values)}" for path, values in found if values)


def _request_of(method: str) -> Any:
    service, _, name = method.rpartition("/")
    described = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name)
    return message_factory.GetMessageClass(described.input_type)


def _values(messages: Iterable[Any], path: list[str]) -> Iterable[Any]:
    """Values of a field that may lie in sub-messages and be repeated; what is not set is left out."""
    for message in messages:
        value = getattr(message, path[0])
        several = value if not isinstance(value, str | bytes) and hasattr(value, "__len__") else [value]
        if len(path) > 1:
            yield from _values(several, path[1:])
        else:
            yield from (one for one in several if one)


def _listed(values: list[Any]) -> str:
    more = f"+{len(values) - LISTED_MAX}" if len(values) > LISTED_MAX else ""
    return ",".join(str(one) for one in values[:LISTED_MAX]) + more
