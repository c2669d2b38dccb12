"""The options of the KSR source, apart from it so that checking a configuration loads no sockets."""

import attrs

from sipdump_core.net.address import parse_address, socket_path
from sipdump_core.settings.options import at_least, in_range, option

__all__ = ["KsrOptions"]


def _listen(value: str) -> str | None:
    kind, colon, path = value.partition(":")
    try:
        if value:
            if not (kind == "unix" and colon):
                return 'must be "unix:/path"'
            socket_path(path)
    except ValueError as error:
        return str(error)
    return None


def _ctl(value: str) -> str | None:
    try:
        parse_address(value)
    except ValueError as error:
        return str(error)
    return None


@attrs.frozen
class KsrOptions:
    """Options of the KSR source, which takes records from a running Kamailio: ``modparam("sipdump_ksr", ...)``."""

    listen: str = option(
        "", help='where Kamailio\'s workers connect, "unix:/path"; without it nothing is listened on', check=_listen
    )
    mode: int = option(
        0o600, unit="permission bits, 0660 is octal", help="mode of the socket file", check=in_range(0, 0o777)
    )
    user: str = option("", help="who owns the socket file, a name or a number; by default the daemon's user")
    group: str = option("", help="the group of the socket file, a name or a number; by default the daemon's group")
    ctl: tuple[str, ...] = option(
        (),
        help='a Kamailio\'s ctl socket, "unix:/run/kamailio/kamailio_ctl": it is asked for the process table',
        check=_ctl,
    )
    max_connections: int = option(512, help="how many workers may be connected at once", check=at_least(1))

    @property
    def path(self) -> str:
        """The path in ``listen``; empty: the source is off."""
        return self.listen.partition(":")[2]
