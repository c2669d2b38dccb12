"""Addresses in HEP packets: of 4 or 16 bytes, some IPv4 in IPv6's form, some missing."""

import socket

__all__ = ["one_family", "read_address"]

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, section 2.5.5.2
_UNSPECIFIED = ("", "0.0.0.0", "::")  # noqa: S104 - nobody listens there


def read_address(raw: bytes, *, v6: bool) -> str:
    """Read an address of 4 or 16 bytes; one that is mapped into IPv6 is IPv4; empty where its size makes no sense."""
    if len(raw) == 16:
        return socket.inet_ntoa(raw[12:]) if raw.startswith(_MAPPED) else socket.inet_ntop(socket.AF_INET6, raw)
    return socket.inet_ntoa(raw) if len(raw) == 4 and not v6 else ""


def one_family(src: str, dst: str, *, v6: bool) -> tuple[str, str]:
    """Return both addresses in one family; a missing or unspecified one takes the other's."""
    known = [host for host in (src, dst) if host not in _UNSPECIFIED]
    v6 = any(":" in host for host in known) if known else v6

    def shown(host: str) -> str:
        if host in _UNSPECIFIED:
            return _UNSPECIFIED[1 + v6]
        return f"::ffff:{host}" if v6 and ":" not in host else host

    return shown(src), shown(dst)
