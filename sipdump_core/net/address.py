"""Listen addresses as Kamailio writes them: ``udp:127.0.0.1:9060``, ``tcp:[::1]:9060``."""

import ipaddress
import re
import socket
from typing import NamedTuple

__all__ = ["Listen", "bind_inet", "canonical_ip", "parse_listen"]

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


def bind_inet(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Bind a socket to an address; on IPv6 to that alone, and over TCP also where old connections linger.

    Raises:
        OSError: it cannot be bound.
        UnicodeError: the host's name is none.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    sock = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


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
