"""The options of the control sockets, apart from them so that checking a configuration opens nothing."""

import attrs

from sipdump_core.net.address import Address, parse_address, parse_jsonrpc
from sipdump_core.settings.options import Given, at_least, in_range, option, permissions

__all__ = ["CtlOptions"]


def _folder(value: str) -> str | None:
    return None if value.startswith("/") else "must be an absolute path"


@attrs.frozen
class CtlOptions:
    """Options of the control sockets: ``modparam("sipdump_ctl", ...)``."""

    binrpc: tuple[Given[Address], ...] = option(
        (),
        help='a socket for kamcmd: "unix:/path", "unixd:/path", "tcp:host:port" or "udp:host:port"',
        parse=parse_address,
    )
    jsonrpc: tuple[Given[Address], ...] = option(
        (),
        help='a place for JSON-RPC: "unix:/path" or "udp:host:port" (datagrams), "fifo:/path" or "http:host:port"',
        parse=parse_jsonrpc,
    )
    mode: int = option(0o600, help="permission bits of unix sockets and fifos", check=permissions(1))
    user: str = option("", help="who owns unix sockets and fifos, a name or number; by default the daemon's user")
    group: str = option("", help="their group, a name or number; by default the daemon's")
    fifo_reply_dir: str = option("/tmp", help="where reply fifos may be", check=_folder)  # noqa: S108 - Kamailio's
    max_connections: int = option(
        128, help="how many connections may be open; one more closes the longest idle", check=at_least(1)
    )
    idle_timeout: int = option(
        120, unit="seconds", help="a connection without a request is closed after this", check=in_range(1, 86400)
    )
    request_timeout: int = option(
        10,
        unit="seconds",
        help="a request must be whole, and its answer taken, within this",
        check=in_range(1, 3600),
    )
