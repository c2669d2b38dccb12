"""The options of the KSR source, apart from it so that checking a configuration loads no sockets."""

import attrs

from sipdump_core.net.address import Address, parse_address, socket_path
from sipdump_core.settings.options import Given, at_least, in_range, option, permissions

__all__ = ["KsrOptions"]


def _path(text: str) -> str:
    kind, colon, path = text.partition(":")
    if not (kind == "unix" and colon):
        raise ValueError('must be "unix:/path"')
    return socket_path(path)


@attrs.frozen
class KsrOptions:
    """Options of the KSR source, which takes records from a running Kamailio: ``modparam("sipdump_ksr", ...)``."""

    listen: Given[str] | None = option(
        "", help='where Kamailio\'s workers connect, "unix:/path"; without it nothing is listened on', parse=_path
    )
    mode: int = option(
        0o600, unit="permission bits, 0660 is octal", help="mode of the socket file", check=permissions()
    )
    user: str = option("", help="who owns the socket file, a name or a number; by default the daemon's user")
    group: str = option("", help="the group of the socket file, a name or a number; by default the daemon's group")
    ctl: tuple[Given[Address], ...] = option(
        (),
        help='a Kamailio\'s ctl socket, "unix:/run/kamailio/kamailio_ctl": it is asked for the process table',
        parse=parse_address,
    )
    max_connections: int = option(
        512, help="how many workers may be connected; one more closes the longest idle", check=at_least(1)
    )
    idle_timeout: int = option(
        0,
        unit="seconds",
        help="a worker's connection that brings nothing for so long is closed; 0: never",
        check=in_range(0, 2**31 - 1),
    )
