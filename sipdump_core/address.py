"""Listen addresses as Kamailio writes them: ``udp:127.0.0.1:9060``, ``tcp:[::1]:9060``."""

import ipaddress
import re
from typing import NamedTuple

__all__ = ["Listen", "canonical_ip", "parse_listen"]

_LISTEN = re.compile(r"(udp|tcp):(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})")


class Listen(NamedTuple):
    """Where to listen."""

    proto: str
    """``udp`` or ``tcp``."""
    host: str
    """An address, or a name to resolve."""
    port: int


def parse_listen(text: str) -> Listen:
    """Read a listen address.

    Raises:
        ValueError: it is not of that form.
    """
    found = _LISTEN.fullmatch(text)
    if found is None or int(found[4]) > 65535:
        raise ValueError('must be "udp:host:port" or "tcp:host:port", an IPv6 address in brackets')
    return Listen(found[1], found[2] or found[3], int(found[4]))


def canonical_ip(text: str) -> tuple[str, str]:
    """Give an address's family and canonical form; brackets and scope go, an IPv4-mapped one becomes IPv4.

    Returns:
        ``("ipv4", "192.0.2.1")`` or ``("ipv6", "2001:db8::1")``.

    Raises:
        ValueError: it is no IP address.
    """
    address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return f"ipv{address.version}", str(address)
