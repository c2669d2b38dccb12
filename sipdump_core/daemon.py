"""``sipdumpd``: receives SIP traffic from servers and stores it, in the foreground, until it is told to stop."""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence

from sipdump_core.config import override, parse_modparam_option, read_config
from sipdump_core.errors import SipDumpError
from sipdump_core.hep_source import HepSource
from sipdump_core.log import Event, log, setup
from sipdump_core.params import MODE_EVENT_ROUTE
from sipdump_core.plan import Plan, make_plan
from sipdump_core.sipdump import SipDump
from sipdump_core.version import VERSION

__all__ = ["main"]

_STOP = {signal.SIGTERM, signal.SIGINT}
_STOP_TIMEOUT = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 after an orderly end (or a good check), 1 when it could not start or could not store all at its end.
    """
    args = _parser().parse_args(argv)
    setup(args.log_format, args.log_level)
    try:
        settings = read_config(args.config) if args.config else []
        plan = make_plan(override(settings, map(parse_modparam_option, args.modparam)))
        if args.check:
            print("config file ok, exiting...", file=sys.stderr)
            return 0
        return _run(plan)
    except SipDumpError as error:
        log.error(Event(f"{'config check failed' if args.check else 'cannot start'}: {error}"))
        return 1


def _run(plan: Plan) -> int:
    # Blocked before any thread starts, so that all of them inherit it and only sigwait below sees these signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP, signal.SIGHUP})
    dump = SipDump(plan=plan, default_queue_full="drop")
    try:
        source = HepSource(plan.modules["sipdump_hep"], dump)
    except SipDumpError:
        dump.close()
        raise
    names = ", ".join(driver.name for driver in plan.chosen) or "event route only"
    log.info(Event("sipdumpd started", version=VERSION, pid=os.getpid(), mode=plan.params.mode, backends=names))
    if not dump.enable:
        log.warning(
            Event('enable is 0: nothing will be stored; to store, set modparam("sipdump", "enable", 1) and restart')
        )
    if plan.params.mode & MODE_EVENT_ROUTE and plan.route.callback is None:
        log.warning(Event('mode has the event route (2), but no modparam("sipdump", "event_callback", ...) names one'))
    _notify("READY=1")
    while True:
        received = signal.sigwait({*_STOP, signal.SIGHUP})
        if received in _STOP:
            break
        log.info(Event("rotating now", signal="SIGHUP"))
        dump.rotate()
    _notify("STOPPING=1")
    log.info(Event("stopping", signal=signal.Signals(received).name))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)  # a second one ends it at once
    source.close()
    whole = dump.close(_STOP_TIMEOUT)
    _summary(dump, source)
    return 0 if whole else 1


def _summary(dump: SipDump, source: HepSource) -> None:
    stats = dump.stats()
    counts = {key: value for key, value in source.stats().items() if value or key in ("packets", "malformed")}
    log.info(Event("summary: HEP", **counts))
    log.info(
        Event(
            "summary: records",
            received=stats.received,
            disabled=stats.disabled,
            route_dropped=stats.route_dropped,
            route_errors=stats.route_errors,
            queue_dropped=stats.queue_dropped,
        )
    )
    for backend in dump.backends:
        numbers = stats.backends[backend.name]
        dropped = {f"dropped ({reason})": count for reason, count in numbers.dropped.items()} or {"dropped": 0}
        log.info(Event("summary: backend", name=backend.name, stored=numbers.stored, **dropped, **backend.stats()))


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); does nothing where the daemon runs under something else."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.send(state.encode())
    except OSError as error:
        log.warning(Event("cannot notify systemd", error=error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sipdumpd",
        description="Receive SIP traffic over HEP and store it as Kamailio's sipdump module does.",
    )
    parser.add_argument("-f", dest="config", metavar="FILE", help="read modparams from FILE, in Kamailio's syntax")
    parser.add_argument(
        "--modparam",
        action="append",
        default=[],
        metavar="MODULE:NAME:TYPE:VALUE",
        help="set a parameter over the file's; TYPE is i for an integer, s for a string",
    )
    parser.add_argument("-c", dest="check", action="store_true", help="check the configuration, and exit with 0 or 1")
    parser.add_argument("--log-format", choices=("kv", "json"), default="kv", help="key=value (default) or JSON lines")
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info", help="what to log from (default: info)")
    parser.add_argument("-v", "--version", action="version", version=f"sipdump {VERSION}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
