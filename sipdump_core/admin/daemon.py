"""Commands that talk to a running daemon: ``enable``, ``rpc``, ``backends``."""

import argparse
import json
import re
from typing import Any

from sipdump_core.admin.arguments import add_config, add_json
from sipdump_core.admin.output import Output
from sipdump_core.config.reader import read_config
from sipdump_core.control import client
from sipdump_core.control.binrpc import call
from sipdump_core.drivers.discovery import Driver, disabled, load, take_stock
from sipdump_core.errors import ConfigError, RpcError
from sipdump_core.settings.core import Params
from sipdump_core.settings.modules import CORE, MODULES, resolve
from sipdump_core.settings.options import Settings, build, describe

__all__ = [
    "add_backends",
    "add_daemon",
    "add_enable",
    "add_rpc",
    "backends",
    "call_daemon",
    "configured",
    "control_socket",
    "enable",
    "rpc",
]

_NO_SOCKET = 'it has no modparam("sipdump_ctl", "binrpc", ...), so its daemon takes no commands'


def add_daemon(parser: argparse.ArgumentParser) -> None:
    """Add what says which daemon: its configuration or its control socket."""
    add_config(parser, "the daemon's configuration, which names its socket")
    parser.add_argument("--socket", metavar="ADDRESS", help="the daemon's socket: unix:/path, unixd:, tcp:, udp:")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for the answer (default: 10)")
    add_json(parser)


def add_enable(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``enable``."""
    add_daemon(parser)
    parser.add_argument("value", nargs="?", type=int, choices=(0, 1), help="1: store, 0: do not")
    parser.set_defaults(run=enable)


def enable(args: argparse.Namespace, output: Output) -> int:
    """Ask whether the daemon stores, or set it."""
    return _control(args, output, "sipdump.enable", [] if args.value is None else [args.value])


def add_rpc(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``rpc``."""
    add_daemon(parser)
    parser.add_argument("method", metavar="METHOD", help="as sipdump.stats; system.listMethods lists all")
    parser.add_argument("args", nargs="*", metavar="ARG", help="its arguments")
    parser.set_defaults(run=rpc)


def rpc(args: argparse.Namespace, output: Output) -> int:
    """Send the daemon a control command."""
    # as kamcmd: what looks like an int is one, and "s:" before it makes it a string
    values = [int(a) if re.fullmatch(r"[+-]?\d{1,10}", a, re.ASCII) else a.removeprefix("s:") for a in args.args]
    return _control(args, output, args.method, values)


def add_backends(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``backends``."""
    add_daemon(parser)
    parser.add_argument("--verbose", action="store_true", help="show the options of each")
    parser.set_defaults(run=backends)


def backends(args: argparse.Namespace, output: Output) -> int:
    """List the installed drivers; if a daemon is named, with their states there."""
    params = build(Params, configured(args).of(CORE, "block", "load_timeout"))
    stock = take_stock(params.block)
    drivers = disabled([load(driver, params.load_timeout) for driver in stock.drivers])
    rows = [_row(driver) for driver in (*drivers, *stock.refused)]
    for notice in stock.notices:
        output.note(f"warning: {notice}")
    socket = args.socket or (args.config and control_socket(args))
    if args.config and not socket:
        output.note(f"{args.config}: {_NO_SOCKET}; these are the drivers here, not their states in the daemon")
    if socket:
        try:
            reported = call_daemon(args, socket, "sipdump.backends")
        except RpcError as error:
            output.error(error)
            socket = ""
    if socket:
        daemon = {row["name"]: row for row in reported}
        for row in rows:
            row["daemon"] = daemon.get(row["name"])
            row["state"] = _state(row["daemon"]) if row["daemon"] else "unknown to the daemon: restart it"
    output.table(rows, ("name", "kind", "flag", "suffix", "distribution", "version", "state"))
    if args.verbose:
        for row in rows:
            _print_options(output, row["name"], row["options"])
    output.failed |= any(driver.error and not driver.blocked for driver in (*drivers, *stock.refused))
    return output.result(rows)


def _row(driver: Driver) -> dict[str, Any]:
    return {
        "name": driver.name,
        "kind": driver.kind,
        "flag": driver.flag or None,
        "suffix": getattr(driver.cls, "suffix", "") or None,
        "distribution": driver.distribution,
        "version": driver.version,
        "state": f"not usable: {driver.fault}" if driver.fault else "loaded",
        "options": describe(driver.cls.options) if driver.cls else [],
    }


def _state(reported: dict[str, Any]) -> str:
    """Return in a line what a daemon reports of one of its drivers."""
    since = f" since {reported['since']}" if "since" in reported else ""
    dropped = f", {reported['dropped']} records dropped" if reported.get("dropped") else ""
    why = f": {reported['error']}" if reported.get("error") else ""
    return f"{reported['state']}{since}{dropped}{why}"


def _print_options(output: Output, driver: str, options: list[dict[str, Any]]) -> None:
    """Print what modparam("sipdump_<driver>", ...) can set, with defaults as they are written there."""
    rows = [
        {**reported, "unit": reported["unit"] or None, "default": json.dumps(reported["default"], ensure_ascii=False)}
        for reported in options
    ]
    output.say(f'\nmodparam("sipdump_{driver}", NAME, VALUE)' if rows else f"\n{driver} has no options")
    if rows:
        output.table(rows, ("name", "type", "unit", "default", "help"))


def _control(args: argparse.Namespace, output: Output, method: str, values: list[Any]) -> int:
    """Call the daemon, and print its answer as kamcmd prints it, or as JSON."""
    results = call_daemon(args, _socket(args), method, *values)
    for result in results:
        output.value(result)
    return output.result(results)


def call_daemon(args: argparse.Namespace, socket: str, method: str, *values: Any) -> list[Any]:
    """Call a method of a daemon.

    Args:
        args: of :func:`add_daemon`.
        socket: the address of its control socket.
        method: as ``sipdump.stats``.
        values: the arguments.

    Returns:
        The values of the answer.

    Raises:
        ConfigError: the address is not one.
        RpcError: there is no daemon, or no answer.
    """
    try:
        return call(socket, method, *values, timeout=args.timeout)
    except ValueError as error:
        raise ConfigError(str(error), f"--socket {socket}") from None


def _socket(args: argparse.Namespace) -> str:
    if args.socket:
        return str(args.socket)
    if not args.config:
        raise ConfigError("say which daemon: -f FILE (its configuration) or --socket unix:/path")
    socket = control_socket(args)
    if not socket:
        raise ConfigError(_NO_SOCKET, args.config)
    return socket


def control_socket(args: argparse.Namespace) -> str:
    """Return the first control socket of a daemon's configuration; empty if there is none."""
    return client.control_socket(configured(args))


def configured(args: argparse.Namespace) -> Settings:
    """Return the settings of the core and of the modules that are not drivers', from ``-f`` and ``-A``."""
    return resolve(read_config(args.config, args.defines).settings if args.config else [], [CORE, *MODULES])
