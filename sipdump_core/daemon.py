"""``sipdumpd``: receives SIP traffic from servers and stores it, in the foreground, until a signal stops it."""

import argparse
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from sipdump_core.checkup import in_effect, notices, trial
from sipdump_core.config.reader import Config, override, parse_modparam_option, read_config
from sipdump_core.control.commands import Rpc
from sipdump_core.control.server import Ctl
from sipdump_core.errors import SipDumpError
from sipdump_core.log import KEPT, Event, escaped, log, setup
from sipdump_core.plan import Plan, make_plan
from sipdump_core.program import as_program
from sipdump_core.settings.options import Notice
from sipdump_core.sipdump import SipDump
from sipdump_core.sources.hep import HepSource
from sipdump_core.sources.ksr import KsrSource
from sipdump_core.version import VERSION
from sipdump_core.workshop import Workshop

__all__ = ["main"]

_STOP = {signal.SIGTERM, signal.SIGINT}
_HARMLESS = {
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR),
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
}
"""Signals without a meaning here, which would kill the process if they had no handler."""
_COLLECT_AFTER = 50_000
"""How many objects more there must be before Python looks for cycles; by default 700."""
_COLLECT_EVERY_S = 10.0
"""Seconds between two looks anyway: what a driver leaves behind in cycles may be large."""
_STOP_TIMEOUT = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; None: those of this process, which ends afterwards.

    Returns:
        0 after an orderly end (or a good check), 1 if it could not start, or could not store everything at its end.
    """
    if argv is None:
        return as_program("sipdumpd", lambda: main(sys.argv[1:]), data=False)
    args = _parser().parse_args(argv)
    setup(args.log_format, args.log_level)
    try:
        config = read_config(args.config, args.defines) if args.config else Config([], {})
        settings = override(config.settings, map(parse_modparam_option, args.modparam))
        plan = make_plan(settings, event_routes=config.event_routes)
        if args.check:
            return _check(plan, config)
        return _run(plan, notices(plan, config))
    except SipDumpError as error:
        print(
            f"sipdumpd: {escaped(str(error), KEPT)}", file=sys.stderr
        )  # plain, not as a log line: a person started it
        return 1


def _check(plan: Plan, config: Config) -> int:
    """Print what a start would do, and what it would warn of."""
    Workshop(plan).check()
    for heading, line in in_effect(plan, config.event_routes):
        print(f"{heading:<12} {line}")
    for notice in [*notices(plan, config), *trial(plan)]:
        print(f"sipdumpd: warning: {escaped(str(notice), KEPT)}", file=sys.stderr)
    print("config file ok, exiting...", file=sys.stderr)
    return 0


def _run(plan: Plan, known: Sequence[Notice]) -> int:
    signals, stops = _listen_for_signals()
    dump = SipDump(plan=plan, default_queue_full="drop", start_pruning=False)
    _handle_signals(stops)  # again: constructors of drivers have run
    with ExitStack() as started:  # if one thing cannot start, those before it are closed again
        started.callback(dump.close)
        source = HepSource(plan.modules["sipdump_hep"], dump)
        started.callback(source.close)
        sources = {"hep": source.stats}
        ksr = _ksr_source(plan, dump)
        if ksr:
            started.callback(ksr.close)
            sources["ksr"] = ksr.stats
        ctl = Ctl(plan.modules["sipdump_ctl"], Rpc(dump, sources))
        started.pop_all()
    names = ", ".join(driver.name for driver in plan.chosen) or "event route only"
    log.info(Event("sipdumpd started", version=VERSION, pid=os.getpid(), mode=plan.params.mode, backends=names))
    for notice in known:
        if notice not in plan.notices:  # those it has logged itself
            log.warning(notice.event())
    dump.start_pruning()
    _collect_seldom()
    _notify("READY=1")
    while not stops:
        received = _next_signal(signals)
        if received == signal.SIGHUP:
            log.info(Event("rotating now; to read the configuration again, restart", signal="SIGHUP"))
            dump.rotate()
        elif received not in _STOP:
            log.info(Event("signal ignored", signal=_name_of(received)))
    _notify("STOPPING=1")
    log.info(Event("stopping", signal=_name_of(stops[0])))
    for number in _STOP:
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    ctl.close()
    source.close()
    if ksr:
        ksr.close()
    whole = dump.close(_STOP_TIMEOUT)
    _summary(dump, source, ksr)
    return 0 if whole else 1


def _next_signal(signals: socket.socket) -> int:
    """Wait for a signal, and return its number; look for cycles meanwhile."""
    while True:
        try:
            return signals.recv(1)[0]
        except TimeoutError:
            gc.collect()


def _collect_seldom() -> None:
    """Have Python look for cycles by the clock: records, which come and go in masses, are in none."""
    gc.freeze()  # what has been made so far stays
    gc.set_threshold(_COLLECT_AFTER)


def _listen_for_signals() -> tuple[socket.socket, list[int]]:
    """Return a socket that gets the number of each signal, as a byte, and a list that gets those to stop at."""
    # The C handler writes it, in whichever thread the signal arrives: none is lost before a wait. A flood of them may
    # fill the socket; then the list has what matters.
    signals, wakeup = socket.socketpair()
    signals.settimeout(_COLLECT_EVERY_S)
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.detach())
    stops: list[int] = []
    _handle_signals(stops)
    return signals, stops


def _handle_signals(stops: list[int]) -> None:
    for number in (signal.SIGHUP, *_HARMLESS):
        signal.signal(number, lambda *_: None)
    for number in _STOP:
        signal.signal(number, lambda received, _: stops.append(received))


def _name_of(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _ksr_source(plan: Plan, dump: SipDump) -> KsrSource | None:
    options = plan.modules["sipdump_ksr"]
    return KsrSource(options, dump) if options.listen else None


def _summary(dump: SipDump, source: HepSource, ksr: KsrSource | None) -> None:
    stats = dump.stats()
    counts = {key: value for key, value in source.stats().items() if value or key in ("packets", "malformed")}
    log.info(Event("summary: HEP", **counts))
    if ksr:
        log.info(Event("summary: KSR", **ksr.stats()))
    log.info(
        Event(
            "summary: records",
            received=stats.received,
            disabled=stats.disabled,
            route_dropped=stats.route_dropped,
            route_errors=stats.route_errors,
            route_slow=stats.route_slow,
            queue_dropped=stats.queue_dropped,
        )
    )
    for name, filtered in stats.filters.items():
        reasons = {f"dropped_{reason.replace(' ', '_')}": count for reason, count in filtered.dropped.items()}
        counts = {"taken": filtered.taken, "changed": filtered.changed, **reasons, **filtered.counters}
        log.info(Event("summary: filter", name=name, **counts))
    for backend in dump.backends:
        numbers = stats.backends[backend.name]
        reasons = {f"dropped_{reason.replace(' ', '_')}": count for reason, count in numbers.dropped.items()}
        dropped = {"dropped": sum(numbers.dropped.values()), **reasons, "refused": numbers.refused}
        log.info(Event("summary: backend", name=backend.name, stored=numbers.stored, **dropped, **numbers.counters))


def _notify(state: str) -> None:
    """Notify systemd (sd_notify(3)); do nothing under anything else."""
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
        help="set a parameter; it overrides the file. TYPE is i for an integer, s for a string",
    )
    parser.add_argument(
        "-A",
        dest="defines",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="define NAME, and its value, for the file's #!ifdef, as Kamailio's option does",
    )
    help_check = "check the configuration, print what is in effect, and exit with 0 or 1"
    help_check = "check the configuration, print what is in effect, and exit with 0 or 1"
    parser.add_argument("-c", dest="check", action="store_true", help=help_check)
    parser.add_argument("--log-format", choices=("kv", "json"), default="kv", help="key=value (default) or JSON lines")
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info", help="the lowest level to log (default: info)")
    parser.add_argument("-v", "--version", action="version", version=f"sipdump {VERSION}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
