"""The checkup: what is in effect when a plan is started, and what its author should know about it."""

import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping

from sipdump_core.config.reader import Config
from sipdump_core.config.route_block import RouteBlock
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.discovery import Driver
from sipdump_core.errors import ConfigError
from sipdump_core.net.address import Address, ask_for_buffer, bind_inet
from sipdump_core.net.unix_socket import number_of
from sipdump_core.plan import EVENT, Plan
from sipdump_core.settings.core import MODE_EVENT_ROUTE, Params
from sipdump_core.settings.modules import CORE
from sipdump_core.settings.options import Notice, Settings

__all__ = ["in_effect", "notices", "trial"]

_DAY = 86400
_UNITS = (("d", _DAY), ("h", 3600), ("m", 60), ("s", 1))


def in_effect(plan: Plan, event_routes: Mapping[str, RouteBlock]) -> list[tuple[str, str]]:
    """Return what a start of a plan would do, as pairs of a heading and a line. Secrets are left out.

    Args:
        plan: the checked configuration.
        event_routes: its event routes, by name.
    """
    params = plan.params
    hep, ksr, ctl = (plan.modules[f"sipdump_{name}"] for name in ("hep", "ksr", "ctl"))
    control = [f"{given.setting.value} (binrpc)" for given in ctl.binrpc]
    control += [f"{given.setting.value} (jsonrpc)" for given in ctl.jsonrpc]
    return [
        ("folder", f"{params.folder}, files begin with {params.fprefix!r}"),
        ("mode", _mode(plan)),
        ("enable", "1: stores from the start" if params.enable else "0: stores nothing until it is enabled"),
        ("rotation", _rotation(params)),
        ("retention", _retention(params)),
        ("event route", _event_route(plan, event_routes)),
        ("HEP", ", ".join(str(given.setting.value) for given in hep.listen) or "off"),
        ("Kamailio", str(ksr.listen.setting.value) if ksr.listen else "off"),
        ("control", ", ".join(control) or "off"),
        *((driver.kind, _driver(plan.settings, driver)) for driver in plan.chosen),
    ]


def _retention(params: Params) -> str:
    parts = [f"deleted when {_time(params.retention)} old"] if params.retention else []
    parts += [f"calls with {rule.text!r}" for rule in params.rules]
    parts += [f"at most {params.max_bytes} in all"] if params.cap else []
    parts += [f"{params.min_free} of the file system free"] if any(params.free) else []
    return "; ".join(parts) or "nothing is ever deleted"


def notices(plan: Plan, config: Config) -> list[Notice]:
    """Return what the author of a daemon's configuration should know, as a start logs it.

    Args:
        plan: the checked configuration.
        config: what it was read from.
    """
    return [
        *config.notices,
        *plan.notices,
        *_no_settings(plan, config),
        *_nothing_stored(plan),
        *_no_source(plan),
        *_header(plan),
        *_unlimited(plan),
        *_uneven(plan),
        *_folders(plan),
        *_decimal(plan.settings),
    ]


def trial(plan: Plan) -> Iterator[Notice]:
    """Yield what a start finds out by itself: addresses, owners and a receive buffer that it cannot have."""
    hep, ctl, ksr = (plan.modules[f"sipdump_{name}"] for name in ("hep", "ctl", "ksr"))
    inet = [(given, given.value.proto, given.value.host) for given in hep.listen]
    inet += [(given, given.value.proto, given.value.host) for given in (*ctl.binrpc, *ctl.jsonrpc) if given.value.host]
    for given, proto, host in inet:
        try:
            bind_inet(host, 0, socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM).close()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            yield Notice(f"cannot listen on {given.setting.value}: {reason}", given.setting.place)
    for module, options in (("sipdump_ctl", ctl), ("sipdump_ksr", ksr)):
        for what in ("user", "group"):
            try:
                number_of(getattr(options, what), what, "")
            except ConfigError as error:
                yield Notice(str(error), plan.settings.last(module, what, "").place)
    yield from _small_buffer(plan)


def _small_buffer(plan: Plan) -> Iterator[Notice]:
    hep = plan.modules["sipdump_hep"]
    if any(given.value.proto == "udp" for given in hep.listen):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            got = ask_for_buffer(sock, hep.rcvbuf)
        if got < hep.rcvbuf:
            text = f"small receive buffer: the kernel grants {got} bytes, not {hep.rcvbuf}"
            yield Notice(f"{text}; run: sysctl -w net.core.rmem_max={hep.rcvbuf}")


def _no_settings(plan: Plan, config: Config) -> Iterator[Notice]:
    if config.settings and not any(setting.module.startswith(CORE) for setting in plan.settings):
        count = len(config.settings)
        yield Notice(f"the configuration has {count} modparams, and none is for sipdump; its defaults are in effect")


def _nothing_stored(plan: Plan) -> Iterator[Notice]:
    params = plan.params
    if not params.enable:
        binrpc = plan.modules["sipdump_ctl"].binrpc
        command = f"kamcmd -s {binrpc[0].value} sipdump.enable 1, or " if binrpc else ""
        restart = 'set modparam("sipdump", "enable", 1) and restart'
        yield Notice(f"enable is 0: nothing will be stored; to store: {command}{restart}", _place(plan, "enable"))
    if params.mode & MODE_EVENT_ROUTE and plan.route is None:
        text = f"mode has the event route (2), but there is no event_route[{EVENT}] and no event_callback"
        yield Notice(text, _place(plan, "mode"))


def _no_source(plan: Plan) -> Iterator[Notice]:
    if not (plan.modules["sipdump_hep"].listen or plan.modules["sipdump_ksr"].listen):
        place = plan.settings.last("sipdump_hep", "listen", "").place
        yield Notice("nothing brings messages: HEP is off, and sipdump_ksr has no listen", place)


def _header(plan: Plan) -> Iterator[Notice]:
    """Notice transforms that no backend asks for: mode 8 without pcap."""
    if any(driver.transformed for driver in plan.chosen):
        return
    takers = " or ".join(f"{driver.name} ({driver.flag})" for driver in plan.drivers if driver.transformed)
    for driver in plan.chosen:
        if driver.kind == "transform":
            text = (
                f"mode has {driver.name} ({driver.flag}), but no backend that uses it; add {takers or 'one that does'}"
            )
            yield Notice(text, _place(plan, "mode"))


def _unlimited(plan: Plan) -> Iterator[Notice]:
    stores = any(driver.cls and issubclass(driver.cls, Backend) for driver in plan.chosen)
    params = plan.params
    if stores and not (params.retention or params.keep or params.cap or any(params.free)):
        text = 'nothing is ever deleted: fage is 0; to keep 30 days, set modparam("sipdump", "fagex", "30d")'
        yield Notice(text, _place(plan, "fage"))


def _uneven(plan: Plan) -> Iterator[Notice]:
    """Notice a clock that segments end on at other times each day."""
    rotate = plan.params.rotate
    if plan.params.rotate_align and _DAY % rotate and rotate % _DAY:
        text = (
            f"rotate_align: a day is no multiple of rotate ({_time(rotate)}), so segments end at other times each day"
        )
        yield Notice(f"{text}; choose 1h, say (3600)", _place(plan, "rotate"))


def _folders(plan: Plan) -> Iterator[Notice]:
    """Notice sockets and fifos whose folder is not there."""
    ctl, ksr = plan.modules["sipdump_ctl"], plan.modules["sipdump_ksr"]
    for given in [*ctl.binrpc, *ctl.jsonrpc, *([ksr.listen] if ksr.listen else [])]:
        address = given.value if isinstance(given.value, Address) else Address("unix", given.value, "", 0)
        if address.path and (trouble := _no_place(address)):
            yield Notice(trouble, given.setting.place)
    fifos = [given for given in ctl.jsonrpc if given.value.proto == "fifo"]
    if fifos and not os.path.isdir(ctl.fifo_reply_dir):
        place = plan.settings.last("sipdump_ctl", "fifo_reply_dir", "").place
        yield Notice(f"there is no folder {ctl.fifo_reply_dir} (fifo_reply_dir) for the answers; create it", place)


def _no_place(address: Address) -> str:
    """Return why a socket or fifo cannot be made at its path; empty if it can."""
    path, folder = address.path, os.path.dirname(address.path) or "."
    fifo = address.proto == "fifo"
    what = "fifo" if fifo else "socket"
    if not os.path.exists(folder):
        hint = "create it, or let systemd do so (RuntimeDirectory=)"
        return f"there is no folder {folder} for the {what} {path}; {hint}"
    if not os.path.isdir(folder):
        return f"{folder} is a file, so that the {what} {path} cannot be made in it; name a folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} of the {what} {path} is not writable for this user; change its owner or mode"
    if os.path.lexists(path) and not (stat.S_ISFIFO if fifo else stat.S_ISSOCK)(os.lstat(path).st_mode):
        return f"there is a file {path} that is no {what}; move it away, or name another"
    return ""


def _decimal(settings: Settings) -> Iterator[Notice]:
    """Notice permission bits that look octal and are not: 440 for 0440."""
    for module, name in ((CORE, "file_mode"), ("sipdump_ctl", "mode"), ("sipdump_ksr", "mode")):
        setting = settings.last(module, name, 0)
        value = str(setting.value)
        if re.fullmatch("[1-7][0-7]{2}", value) and re.search(rf"\b{value}\b", setting.line or setting.place):
            text = f"{name} {value} is decimal, in octal 0{setting.value:o}; write 0{value} for those permission bits"
            yield Notice(text, setting.place)


def _place(plan: Plan, name: str) -> str:
    found = plan.settings.of(CORE, name)
    return found[-1].place if found else ""


def _mode(plan: Plan) -> str:
    flags = [(driver.flag, driver.name) for driver in plan.chosen if driver.flag & plan.params.mode]
    if plan.params.mode & MODE_EVENT_ROUTE:
        flags.append((MODE_EVENT_ROUTE, "event route"))
    return f"{plan.params.mode}: {', '.join(f'{name} ({flag})' for flag, name in sorted(flags)) or 'none'}"


def _rotation(params: Params) -> str:
    span = _time(params.rotate)
    limits = [] if params.rotate_align else [f"{span} old"]
    limits += [f"{params.rotate_size} bytes long"] if params.rotate_size else []
    limits += [f"{params.rotate_records} records long"] if params.rotate_records else []
    ways = [f"when the local clock shows a multiple of {span}"] if params.rotate_align else []
    ways += [f"when it is {' or '.join(limits)}"] if limits else []
    return f"a segment is sealed {', or '.join(ways)}"


def _event_route(plan: Plan, event_routes: Mapping[str, RouteBlock]) -> str:
    if plan.route is None:
        return "none"
    if event_routes:
        return f"event_route[{EVENT}] at {event_routes[EVENT].place(0)}"
    return f"event_callback {plan.params.event_callback}"


def _driver(settings: Settings, driver: Driver) -> str:
    """Return a driver's name, its origin and the options that are set."""
    options = [f"{each.name}={each.shown_value}" for each in settings.of(f"sipdump_{driver.name}")]
    return f"{driver.name} ({driver.origin}){': ' if options else ''}{', '.join(options)}"


def _time(seconds: int) -> str:
    """Return seconds as a time expression: ``2d6h``."""
    parts = []
    for unit, length in _UNITS:
        count, seconds = divmod(seconds, length)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"
