"""``sipdump-admin send``: sends a test message to a daemon, and looks whether it arrived."""

import argparse
import contextlib
import os
import socket
import struct
import time
from typing import Any

from sipdump_core.admin.daemon import add_daemon, call_daemon, configured, control_socket
from sipdump_core.admin.output import Output
from sipdump_core.errors import ConfigError, RpcError
from sipdump_core.net.address import Listen, parse_listen
from sipdump_core.settings.hep import HepOptions
from sipdump_core.settings.options import build

__all__ = ["add_send", "send"]

_SRC, _DST, _PORT = "192.0.2.1", "192.0.2.2", 5060  # RFC 5737: addresses of nobody
_WAIT_S = 3.0
_REFUSAL_S = 0.1
_POLL_S = 0.05
_STORED = "stored by "
_REASONS = {
    "disabled": "enable is 0",
    "route_dropped": "the event route dropped it",
    "queue_dropped": "the queue is full",
    "HEP auth_failed": "the daemon wants another auth_key",
    "HEP malformed": "the daemon cannot read it",
}
"""Why a message is not stored, by the counter that rises then."""
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def add_send(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``send``."""
    add_daemon(parser)
    parser.add_argument(
        "--to",
        metavar="ADDRESS",
        help="where it listens for HEP: udp:host:port, tcp:host:port (default: as configured)",
    )
    parser.set_defaults(run=send)


def send(args: argparse.Namespace, output: Output) -> int:
    """Send an OPTIONS request over HEP; with a control socket, check that it arrived and was stored."""
    options = build(HepOptions, configured(args).of("sipdump_hep"))
    where = _target(args, options)
    shown = f"{where.proto}:[{where.host}]:{where.port}" if ":" in where.host else ":".join(map(str, where))
    control = args.socket or (args.config and control_socket(args))
    before = _stats(args, control) if control else {}
    call_id = f"sipdump-admin-{os.urandom(8).hex()}"
    _send(where, shown, _hep3(_options_request(call_id), options.auth_key))
    output.say(f"sent to {shown}: OPTIONS from {_SRC} to {_DST}, Call-ID {call_id}")
    result: dict[str, Any] = {"to": shown, "call_id": call_id, "arrived": None, "stored": None}
    if not control:
        output.say("whether it arrived cannot be checked here: no control socket is known (-f FILE or --socket)")
        return output.result(result)
    _check(args, output, control, before, result)
    return output.result(result)


def _target(args: argparse.Namespace, options: HepOptions) -> Listen:
    if args.to:
        try:
            return parse_listen(args.to)
        except ValueError as error:
            raise ConfigError(str(error), "--to") from None
    if not options.listen:
        raise ConfigError("HEP is switched off: it listens nowhere", args.config)
    given = options.listen[0]
    if not given.value.port:
        raise given.error("the kernel chooses this port; name it with --to")
    return given.value._replace(host=_WILDCARDS.get(given.value.host, given.value.host))


def _options_request(call_id: str) -> bytes:
    """Return a request of RFC 3261 that nobody answers."""
    lines = [
        f"OPTIONS sip:test@{_DST} SIP/2.0",
        f"Via: SIP/2.0/UDP {_SRC}:{_PORT};branch=z9hG4bK{os.urandom(8).hex()}",
        f"From: <sip:sipdump-admin@{_SRC}>;tag={os.urandom(4).hex()}",
        f"To: <sip:test@{_DST}>",
        f"Call-ID: {call_id}",
        "CSeq: 1 OPTIONS",
        "Max-Forwards: 70",
        "User-Agent: sipdump-admin send",
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _hep3(message: bytes, auth_key: str) -> bytes:
    """Return a HEP3 frame: the magic, u16 length, then chunks of u16 vendor, u16 type, u16 length and value."""
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    values = [
        (1, bytes([socket.AF_INET])),
        (2, bytes([socket.IPPROTO_UDP])),
        (3, socket.inet_aton(_SRC)),
        (4, socket.inet_aton(_DST)),
        (7, struct.pack(">H", _PORT)),
        (8, struct.pack(">H", _PORT)),
        (9, struct.pack(">I", seconds)),
        (10, struct.pack(">I", micros)),
        (11, b"\x01"),  # SIP
        *([(14, auth_key.encode())] if auth_key else []),
        (15, message),
    ]
    chunks = b"".join(struct.pack(">HHH", 0, kind, len(value) + 6) + value for kind, value in values)
    return b"HEP3" + struct.pack(">H", len(chunks) + 6) + chunks


def _send(where: Listen, shown: str, frame: bytes) -> None:
    kind = socket.SOCK_DGRAM if where.proto == "udp" else socket.SOCK_STREAM
    try:
        family, _, _, _, target = socket.getaddrinfo(where.host, where.port, type=kind)[0]
        with socket.socket(family, kind) as sock:
            sock.settimeout(5)
            sock.connect(target)
            sock.sendall(frame)
            if where.proto == "udp":  # what ICMP answers comes with the next call; a daemon answers nothing
                sock.settimeout(_REFUSAL_S)
                with contextlib.suppress(TimeoutError):
                    sock.recv(1)
    except OSError as error:
        hint = "is the daemon running, and does it listen there?"
        raise RpcError(f"cannot send to {shown}: {error.strerror or error}; {hint}") from error


def _stats(args: argparse.Namespace, control: str) -> dict[str, int]:
    (stats,) = call_daemon(args, control, "sipdump.stats")
    flat = {name: stats[name] for name in ("received", "disabled", "route_dropped", "queue_dropped")}
    flat |= {f"HEP {name}": count for name, count in stats["sources"].get("hep", {}).items()}
    return flat | {_STORED + name: backend["stored"] for name, backend in stats["backends"].items()}


def _check(
    args: argparse.Namespace, output: Output, control: str, before: dict[str, int], result: dict[str, Any]
) -> None:
    """Watch the daemon's counters until every backend's has risen, or one of them says why it will not."""
    end = time.monotonic() + _WAIT_S
    while True:
        after = _stats(args, control)
        risen = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
        backends = {name.removeprefix(_STORED) for name in after if name.startswith(_STORED)}
        stored = sorted(name for name in backends if _STORED + name in risen)
        why = [text for name, text in _REASONS.items() if name in risen]
        if why or (stored and len(stored) == len(backends)) or time.monotonic() >= end:
            break
        time.sleep(_POLL_S)
    result |= {"arrived": "HEP records" in risen, "stored": stored}
    if stored:
        missing = ", ".join(sorted(backends.difference(stored)))
        others = " (counted with other traffic)" if risen.get("HEP records", 0) > 1 else ""
        output.say(f"it arrived, and is stored by {', '.join(stored)}{others}")
        if missing:
            output.error(f"not stored within {_WAIT_S:g} s by {missing}; see sipdump-admin backends")
    elif why:
        output.error(f"it is not stored: {', '.join(why)}")
    elif result["arrived"]:
        output.error(f"it arrived, and is not stored within {_WAIT_S:g} s; see sipdump-admin backends")
    else:
        output.error(f"it did not arrive within {_WAIT_S:g} s; does the daemon of this control socket listen there?")
