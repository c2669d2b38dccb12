"""``sipdump-read web``: calls on a page, for a browser on this machine."""

import argparse
import math
import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from sipdump_core.errors import ConfigError
from sipdump_core.reading.arguments import add_legs, add_store, rules_of, whole_number
from sipdump_core.reading.redacting import add_users_key
from sipdump_core.viewing.extras import need

__all__ = ["add_web", "web"]

_LISTEN = re.compile(r"(?:(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):)?(\d{1,5})")


def add_web(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``web``."""
    parser.usage = "%(prog)s [STORE] [--listen ADDRESS:PORT] [--behind-proxy [URL]]"
    add_store(parser)
    add_legs(parser)
    add_users_key(parser)
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8080",
        metavar="ADDRESS:PORT",
        help="where to listen, on loopback; port 0: any that is free (default: 127.0.0.1:8080)",
    )
    parser.add_argument(
        "--behind-proxy",
        nargs="?",
        const="",
        metavar="URL",
        help="a proxy takes care of TLS and users, so listen anywhere; URL is where browsers reach it",
    )
    help_token = "a file with the token, which a proxy may send along (default: another one at each start)"  # noqa: S105
    parser.add_argument("--token-file", metavar="FILE", help=help_token)
    parser.add_argument(
        "--max-seconds", type=float, default=30.0, metavar="N", help="how long a search may take (default: 30)"
    )
    parser.add_argument(
        "--max-rows", type=whole_number, default=1000, metavar="N", help="calls that a search may list (default: 1000)"
    )
    parser.add_argument(
        "--max-searches", type=whole_number, default=4, metavar="N", help="searches at once (default: 4)"
    )
    parser.set_defaults(run=web)


def web(args: argparse.Namespace) -> int:
    """Serve the page until SIGTERM or Ctrl-C."""
    host, port = _listen(args.listen, anywhere=args.behind_proxy is not None)
    url = _proxy(args.behind_proxy) if args.behind_proxy else None
    need("web", "web", ("jinja2", "starlette", "uvicorn"))
    from sipdump_core.viewing.web.limits import Limits  # noqa: PLC0415 - only now it is known to be installed
    from sipdump_core.viewing.web.serving import serve  # noqa: PLC0415

    limits = Limits(args.max_seconds, args.max_rows, args.max_searches)
    if not min(limits.rows, limits.searches) > 0 or not 0 < limits.seconds < math.inf:
        raise ConfigError("--max-seconds, --max-rows and --max-searches must be more than 0, and finite")
    return serve(args, rules_of(args), host, port, url, limits)


def _listen(text: str, *, anywhere: bool) -> tuple[str, int]:
    """Read where to listen.

    Raises:
        ConfigError: it is not of that form, or not on loopback.
    """
    found = _LISTEN.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        raise ConfigError(f'{text!r} is not a place to listen: write it as "127.0.0.1:8080"', "--listen")
    host = found[1] or found[2] or "127.0.0.1"
    if not (anywhere or _is_loopback(host)):
        raise ConfigError(
            f"{host} is not on loopback, and the page has neither TLS nor users: listen on 127.0.0.1, or put a proxy "
            "before it and say --behind-proxy https://NAME",
            "--listen",
        )
    return host, int(found[3])


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _proxy(url: str) -> str:
    """Check where browsers reach the proxy.

    Raises:
        ConfigError: it is no address of a server.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        good = False
    if not good or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise ConfigError(
            f'{url!r} is not an address of a server: write it as "https://sip.example.com"', "--behind-proxy"
        )
    return url
