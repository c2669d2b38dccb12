"""The options of the HEP source, apart from it so that checking a configuration loads no sockets."""

import attrs

from sipdump_core.net.address import Listen, parse_endpoint, parse_listen
from sipdump_core.settings.options import Given, at_least, in_range, option

__all__ = ["DEFAULT_LISTEN", "HepOptions"]

DEFAULT_LISTEN = "udp:127.0.0.1:9060"


_OFF = Listen("off", "", 0)


def _parse_listen(text: str) -> Listen:
    try:
        return _OFF if text == "off" else parse_listen(text)
    except ValueError as error:
        raise ValueError(f'{error}; or "off"') from None


def _tag(value: str) -> str | None:
    return None if value.isprintable() and len(value) <= 200 else "must be printable text of at most 200 characters"


def _key(value: str) -> str | None:
    return None if len(value.encode("utf-8", "surrogateescape")) <= 1000 else "must have at most 1000 bytes"


@attrs.frozen
class HepOptions:
    """Options of the HEP source: ``modparam("sipdump_hep", ...)``."""

    listen: tuple[Given[Listen], ...] = option(
        (DEFAULT_LISTEN,),
        help='where HEP comes in, "udp:host:port" or "tcp:host:port"; "off": nowhere',
        parse=_parse_listen,
    )
    tag: str = option("hep", help="tag of a message that its sender has neither received nor sent", check=_tag)
    local: tuple[Given[tuple[str, int]], ...] = option(
        (), help="an address, or address:port, that counts as the HEP sender's own", parse=parse_endpoint
    )
    auth_key: str = option("", help="when set, packets with another auth key, or none, are dropped", check=_key)
    time_window: int = option(
        86400,
        unit="seconds",
        help="a time further than this from the receive time is replaced by it; 0: all times are taken",
        check=in_range(0, 2**31 - 1),
    )
    rcvbuf: int = option(
        33554432, unit="bytes", help="the kernel's receive buffer to ask for", check=in_range(4096, 1 << 30)
    )
    max_message: int = option(
        1048576, unit="bytes", help="a compressed message may grow to this, no further", check=in_range(1024, 1 << 30)
    )
    max_connections: int = option(
        512, help="how many TCP connections may be open; one more closes the longest idle", check=at_least(1)
    )
    idle_timeout: int = option(
        3600,
        unit="seconds",
        help="a TCP connection that brings nothing good for so long is closed; 0: never",
        check=in_range(0, 2**31 - 1),
    )

    def __attrs_post_init__(self) -> None:
        if any(given.value == _OFF for given in self.listen):
            if len(self.listen) > 1:
                raise ValueError('listen has "off" and an address as well')
            object.__setattr__(self, "listen", ())
