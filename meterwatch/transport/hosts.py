"""Which addresses never leave the machine."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and localhost; False for every other name, whatever it may resolve to."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(address: str) -> str:
    """The host of host:port or [host]:port."""
    return address.rpartition(":")[0].strip("[]")
