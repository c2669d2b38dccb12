"""Addresses as Kamailio writes them: ``udp:127.0.0.1:9060``, ``tcp:[::1]:9060``, ``unix:/run/sipdump/ctl``."""

import contextlib
import ipaddress
import os
import re
import socket
from typing import NamedTuple

__all__ = [
    "Address",
    "Listen",
    "ask_for_buffer",
    "bind_inet",
    "canonical_ip",
    "parse_address",
    "parse_endpoint",
    "parse_jsonrpc",
    "parse_listen",
    "socket_path",
]

_ENDPOINT = re.compile(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:\[\]]+)(?::(\d{1,5}))?|([^\[\]]+)")
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
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


def parse_endpoint(text: str) -> tuple[str, int]:
    """Read an address with or without a port: ``10.0.0.5``, ``10.0.0.5:5060``, ``2001:db8::5``, ``[2001:db8::5]:5060``.

    Returns:
        The address in canonical form, and the port, 0 where there is none.

    Raises:
        ValueError: it is not of that form.
    """
    found = _ENDPOINT.fullmatch(text)
    try:
        host, port = (found[1] or found[3] or found[5], found[2] or found[4]) if found else ("", None)
        if port is None or 0 < int(port) < 65536:
            return canonical_ip(host)[1], int(port or 0)
    except ValueError:
        pass
    raise ValueError("must be an IPv4 or IPv6 address, or one with a port: 10.0.0.5:5060, [2001:db8::5]:5060")


class Address(NamedTuple):
    """Where control commands come in."""

    proto: str
    """``unix``, ``unixd`` (datagrams), ``tcp``, ``udp``; and for JSON-RPC ``fifo``, ``http``."""
    path: str
    """Of unix sockets and fifos."""
    host: str
    port: int

    @property
    def stream(self) -> bool:
        """Whether it takes connections."""
        return self.proto in ("unix", "tcp", "http")

    def __str__(self) -> str:
        if self.path:
            return f"{self.proto}:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.proto}:{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address as ctl's ``binrpc`` has it: ``unix:/path``, ``unixs:``, ``unixd:``, ``tcp:host:port``, ``udp:``.

    Raises:
        ValueError: it is not of that form.
    """
    proto, _, rest = text.partition(":")
    proto = "unix" if proto == "unixs" else proto
    if proto in ("tcp", "udp"):
        return Address(proto, "", *parse_listen(text)[1:])
    if proto not in ("unix", "unixd"):
        raise ValueError('must be "unix:/path", "unixd:/path", "tcp:host:port" or "udp:host:port"')
    return Address(proto, socket_path(rest), "", 0)


def socket_path(path: str) -> str:
    """Check the path of a unix socket or fifo.

    Raises:
        ValueError: it is not absolute, or too long (unix(7) allows 107 bytes).
    """
    if not path.startswith("/"):
        raise ValueError("the path must be absolute, as /run/sipdump/ctl")
    if len(os.fsencode(path)) > 107 or "\0" in path:
        raise ValueError("the path of a socket may have 107 bytes")
    return path


def parse_jsonrpc(text: str) -> Address:
    """Read where JSON-RPC comes in: ``unix:/path``, ``udp:host:port`` (datagrams), ``fifo:/path``, ``http:host:port``.

    Raises:
        ValueError: it is not of that form.
    """
    proto, _, rest = text.partition(":")
    if proto in ("http", "udp"):
        try:
            return Address(proto, "", *parse_listen(f"tcp:{rest}")[1:])
        except ValueError:
            raise ValueError(f'must be "{proto}:host:port", an IPv6 address in brackets') from None
    if proto in ("unix", "unixd"):
        return Address("unixd", socket_path(rest), "", 0)
    if proto == "fifo":
        return Address("fifo", socket_path(rest), "", 0)
    raise ValueError('must be "unix:/path" or "udp:host:port" (datagrams), "fifo:/path" or "http:host:port"')


def bind_inet(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Bind a socket to an address: an IPv6 one to IPv6 alone, a TCP one even while old connections linger.

    Raises:
        OSError: it cannot be bound.
        UnicodeError: the host's name cannot be a host name.
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


def ask_for_buffer(sock: socket.socket, size: int) -> int:
    """Ask the kernel for a receive buffer (socket(7)).

    Args:
        sock: a UDP socket.
        size: bytes.

    Returns:
        The bytes that the kernel grants.
    """
    for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):  # the second goes beyond net.core.rmem_max, for those who may
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, size)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it for its own needs


def canonical_ip(text: str) -> tuple[str, str]:
    """Return an address's family and canonical form: no brackets or scope, an IPv4-mapped address as IPv4.

    Returns:
        ``("ipv4", "192.0.2.1")`` or ``("ipv6", "2001:db8::1")``.

    Raises:
        ValueError: it is not an IP address.
    """
    address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return f"ipv{address.version}", str(address)
