"""Whether a host is this machine, on a private network, or anywhere."""

import ipaddress
import re

_RANGES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
PRIVATE_NETWORKS = tuple(map(ipaddress.ip_network, _RANGES))

# A name that begins with a digit may be an address: 134744072 and 0x8.0x8.2056 are both 8.8.8.8.
_NAME = re.compile(r"[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)*")


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine."""
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def is_inside(host: str) -> bool:
    """Say whether a host is this machine, or on a private network by its address or its name.

    A name counts if it ends in .local or .internal, or has no dots at all, as in Docker Compose.
    """
    if is_loopback(host):
        return True
    address = _address(host)
    if address is not None:
        return any(address in network for network in PRIVATE_NETWORKS)
    name = host.lower()
    return _NAME.fullmatch(name) is not None and ("." not in name or name.endswith((".local", ".internal")))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
