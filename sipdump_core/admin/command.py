"""``sipdump-admin``: what an operator does beside the daemon: prune, list, recover, compact, backends...

Heavy imports stand in the functions that need them: ``--help`` must answer at once.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sipdump_core.version import VERSION

if TYPE_CHECKING:
    from sipdump_core.drivers.base import Backend
    from sipdump_core.lifecycle.retention import Pruned
    from sipdump_core.plan import Plan

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when all was done, 1 when something was not, 2 for a wrong command line.
    """
    args = _parser().parse_args(argv)
    from sipdump_core.errors import SipDumpError  # noqa: PLC0415 - see the module's docstring

    try:
        return int(args.run(args))
    except SipDumpError as error:
        print(f"sipdump-admin: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away, as head(1) does
        return 1


def _prune(args: argparse.Namespace) -> int:
    import attrs  # noqa: PLC0415

    from sipdump_core.errors import ConfigError  # noqa: PLC0415
    from sipdump_core.lifecycle.retention import prune_all  # noqa: PLC0415

    plan, backends, failed = _open(args)
    fage = _fage(args) or plan.params.retention
    if not fage:
        raise ConfigError(
            'no age given: use --fage SECONDS, --fagex 2d, or -f FILE with modparam("sipdump", "fage", ...)'
        )
    locations: dict[str, list[str]] = {backend.name: [] for backend in backends}
    with _Progress("prune", "segments") as progress:

        def each(pruned: "Pruned") -> None:
            progress.step()
            if pruned.error:
                return
            locations[pruned.backend].append(pruned.stored.location)
            if not args.json:
                verb = "would prune" if args.dry_run else "pruned"
                progress.print(f"{verb} {pruned.stored.location} {pruned.stored.size} bytes")

        results = list(prune_all(backends, fage, each, dry_run=args.dry_run))
    failed |= any(result.errors for result in results)
    if args.json:
        rows = [{**attrs.asdict(result), "pruned": locations[result.backend]} for result in results]
        print(json.dumps({"fage": fage, "dry_run": args.dry_run, "backends": rows}, indent=2))
        return int(failed)
    for result in results:
        for refusal in result.errors:
            print(f"sipdump-admin: {refusal}", file=sys.stderr)
        what = "to prune" if args.dry_run else "pruned"
        line = f"{result.segments} segments {what}, {result.bytes} bytes"
        print(f"{result.backend}: {line if result.lifecycle else 'no lifecycle: what it stores is not pruned'}")
    return int(failed)


def _ship(args: argparse.Namespace) -> int:
    from sipdump_core.drivers.capabilities import Ships, can  # noqa: PLC0415
    from sipdump_core.errors import ConfigError, SipDumpError  # noqa: PLC0415

    _, backends, failed = _open(args)
    results: list[dict[str, Any]] = []
    for backend in backends:
        if not can(backend, Ships):
            continue
        result: dict[str, Any] = {"backend": backend.name, "segments": 0, "bytes": 0, "shipped": [], "errors": []}
        try:
            with _Progress("ship", "B", backend.unshipped()) as progress:
                for shipped in backend.ship(progress.step):
                    if shipped.error:
                        result["errors"].append(str(shipped.error))
                        continue
                    result["segments"] += 1
                    result["bytes"] += shipped.stored.size
                    result["shipped"].append(shipped.location)
                    if not args.json:
                        progress.print(f"shipped {shipped.location} {shipped.stored.size} bytes")
        except SipDumpError as error:
            result["errors"].append(str(error))
        failed |= bool(result["errors"])
        results.append(result)
    if not (results or failed):
        raise ConfigError("no backend that ships is switched on: give -f FILE, whose mode has one, as 32 (s3)")
    if args.json:
        print(json.dumps({"backends": results}, indent=2))
        return int(failed)
    for result in results:
        for refusal in result["errors"]:
            print(f"sipdump-admin: {refusal}", file=sys.stderr)
        print(f"{result['backend']}: {result['segments']} segments shipped, {result['bytes']} bytes")
    return int(failed)


class _Progress:
    """A bar on standard error while something long is under way, if that is a terminal; else nothing.

    Args:
        what: is shown before the bar.
        unit: what is counted.
        total: how many there will be, where that is known.
    """

    def __init__(self, what: str, unit: str, total: int | None = None) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # noqa: PLC0415 - see the module's docstring

            scaled = unit == "B"
            self._bar = tqdm(
                desc=what, unit=unit if scaled else f" {unit}", unit_scale=scaled, total=total, leave=False
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, count: int = 1) -> None:
        """Count on."""
        if self._bar is not None:
            self._bar.update(count)

    def print(self, line: str) -> None:
        """Print a line on standard output, the bar out of its way."""
        if self._bar is None:
            print(line)
        else:
            self._bar.write(line)


def _recover(args: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []

    def show(backend: "Backend") -> None:
        for done in backend.recover():  # type: ignore[attr-defined]  # not every backend has it
            row = {
                "backend": done.backend,
                "source": done.source,
                "location": done.location or None,
                "records": done.records,
                "damages": done.damages,
                "bytes_lost": done.lost,
                "kept": done.kept or None,
                "in_use": done.in_use,
                "error": str(done.error) if done.error else None,
            }
            rows.append(row)
            if args.json:
                continue
            if done.in_use:
                print(f"skipped: {done.error}")
            elif done.error:
                print(f"sipdump-admin: {done.error}", file=sys.stderr)
            else:
                lost = f", {done.lost} bytes lost at {done.damages} places, kept as {done.kept}" if done.kept else ""
                print(f"recovered {done.source}: {done.records} records in {done.location or 'no file'}{lost}")

    failed = _each(args, "recover", show)
    if args.json:
        print(json.dumps(rows, indent=2))
    elif not rows and not failed:
        print("nothing to recover")
    return int(failed or any(row["error"] and not row["in_use"] for row in rows))


def _compact(args: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []

    def show(backend: "Backend") -> None:
        wanted = {"partition": args.partition, "dry_run": args.dry_run, "min_age": args.min_age}
        if args.target_size is not None:
            wanted["target_size"] = args.target_size
        for done in backend.compact(**wanted):  # type: ignore[attr-defined]  # not every backend has it
            row = {
                "backend": done.backend,
                "partition": done.partition,
                "sources": [stored.location for stored in done.sources],
                "location": done.location or None,
                "size_before": done.size_before,
                "size_after": done.size_after or None,
                "records": done.records,
                "error": str(done.error) if done.error else None,
            }
            rows.append(row)
            if args.json:
                continue
            if done.error:
                print(f"sipdump-admin: {done.error}", file=sys.stderr)
            what = f"{done.partition}: {len(done.sources)} segments, {done.size_before} bytes"
            if done.location:
                print(f"compacted {what}, into {done.location}, {done.size_after} bytes, {done.records} records")
            elif not done.error:
                print(f"would compact {what}")

    failed = _each(args, "compact", show)
    if args.json:
        print(json.dumps(rows, indent=2))
    elif not rows and not failed:
        print("nothing to compact")
    return int(failed or any(row["error"] for row in rows))


def _each(args: argparse.Namespace, method: str, show: "Callable[[Backend], None]") -> bool:
    """Call a function for every backend that has a method; give whether something failed."""
    from sipdump_core.drivers.capabilities import Compacts, Recovers, can  # noqa: PLC0415
    from sipdump_core.errors import SipDumpError  # noqa: PLC0415 - see the module's docstring

    ability = {"recover": Recovers, "compact": Compacts}[method]
    _, backends, failed = _open(args)
    for backend in backends:
        if not can(backend, ability):
            continue
        try:
            show(backend)
        except ImportError as error:
            hint = f"install it with: pip install 'sipdump[{backend.name}]'"
            print(f"sipdump-admin: {backend.name}: {error}; {hint}", file=sys.stderr)
            failed = True
        except SipDumpError as error:
            print(f"sipdump-admin: {backend.name}: {error}", file=sys.stderr)
            failed = True
    return failed


def _list(args: argparse.Namespace) -> int:
    from sipdump_core.clock import local_iso  # noqa: PLC0415
    from sipdump_core.errors import SipDumpError  # noqa: PLC0415
    from sipdump_core.lifecycle.retention import counted, listed  # noqa: PLC0415

    _, backends, failed = _open(args)
    rows: list[dict[str, Any]] = []
    for backend in backends:
        try:
            for stored in listed(backend):
                records = stored.records
                if records is None and args.count:
                    records = counted(backend, stored)
                rows.append(
                    {
                        "name": stored.segment.name,
                        "backend": backend.name,
                        "start": local_iso(stored.segment.start),
                        "size": stored.size,
                        "records": records,
                        "state": "sealed" if stored.sealed else "open",
                        "location": stored.location,
                    }
                )
        except SipDumpError as error:
            print(f"sipdump-admin: {error}", file=sys.stderr)
            failed = True
    rows.sort(key=lambda row: (row["start"], row["name"]))
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        _table(rows, ("backend", "start", "size", "records", "state", "name"))
    return int(failed)


def _backends(args: argparse.Namespace) -> int:
    from sipdump_core.drivers.discovery import discover  # noqa: PLC0415
    from sipdump_core.settings.options import describe  # noqa: PLC0415

    drivers = discover()
    rows: list[dict[str, Any]] = [
        {
            "name": driver.name,
            "kind": driver.kind,
            "flag": driver.flag or None,
            "suffix": getattr(driver.cls, "suffix", "") or None,
            "distribution": driver.distribution,
            "version": driver.version,
            "state": f"not usable: {driver.fault}" if driver.fault else "loaded",
        }
        for driver in drivers
    ]
    if args.config or args.socket:
        (*told,) = _call(args, "sipdump.backends", [])
        daemon = {row["name"]: row for row in told}
        for row in rows:
            row["daemon"] = daemon.get(row["name"])
            row["state"] = _state(row["daemon"]) if row["daemon"] else "unknown to the daemon: restart it"
    if args.json:
        for row, driver in zip(rows, drivers, strict=True):
            row["options"] = describe(driver.cls.options) if driver.cls else []
        print(json.dumps(rows, indent=2))
    else:
        _table(rows, ("name", "kind", "flag", "suffix", "distribution", "version", "state"))
        for driver in drivers if args.verbose else ():
            _print_options(driver.name, describe(driver.cls.options) if driver.cls else [])
    return int(any(driver.error for driver in drivers))


def _state(told: dict[str, Any]) -> str:
    """Say in a line what a daemon tells of one of its drivers."""
    since = f" since {told['since']}" if "since" in told else ""
    dropped = f", {told['dropped']} records dropped" if told.get("dropped") else ""
    why = f": {told['error']}" if told.get("error") else ""
    return f"{told['state']}{since}{dropped}{why}"


def _print_options(driver: str, options: Iterable[dict[str, Any]]) -> None:
    """Print what modparam("sipdump_<driver>", ...) can set, with defaults as they are written there."""
    rows = [
        {**told, "unit": told["unit"] or None, "default": json.dumps(told["default"], ensure_ascii=False)}
        for told in options
    ]
    print(f'\nmodparam("sipdump_{driver}", NAME, VALUE)' if rows else f"\n{driver} has no options")
    if rows:
        _table(rows, ("name", "type", "unit", "default", "help"))


def _new_backend(args: argparse.Namespace) -> int:
    from sipdump_core.scaffold.project import write  # noqa: PLC0415

    folder = args.dir or Path(f"sipdump-{args.name}")
    for path in write(args.name, args.kind, folder):
        print(f"wrote {folder / path}")
    print(f"try it: cd {shlex.quote(str(folder))} && python3 -m pip install -e '.[dev]' && python3 -m pytest")
    return 0


def _enable(args: argparse.Namespace) -> int:
    return _control(args, "sipdump.enable", [] if args.value is None else [args.value])


def _rpc(args: argparse.Namespace) -> int:
    # as kamcmd: what looks like an int is one, and "s:" before it makes it a string
    values = [int(a) if re.fullmatch(r"[+-]?\d{1,10}", a, re.ASCII) else a.removeprefix("s:") for a in args.args]
    return _control(args, args.method, values)


def _control(args: argparse.Namespace, method: str, values: list[Any]) -> int:
    """Call the daemon, and print its answer as kamcmd prints it, or as JSON."""
    results = _call(args, method, values)
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            print(_shown(result))
    return 0


def _call(args: argparse.Namespace, method: str, values: list[Any]) -> list[Any]:
    from sipdump_core.control.binrpc import call  # noqa: PLC0415
    from sipdump_core.errors import ConfigError  # noqa: PLC0415

    try:
        return call(args.socket or _socket(args), method, *values, timeout=args.timeout)
    except ValueError as error:
        raise ConfigError(str(error), f"--socket {args.socket}") from None


def _socket(args: argparse.Namespace) -> str:
    """Find the daemon's first control socket in its configuration."""
    from sipdump_core.config.reader import read_config  # noqa: PLC0415
    from sipdump_core.errors import ConfigError  # noqa: PLC0415

    if not args.config:
        raise ConfigError("say which daemon: -f FILE (its configuration) or --socket unix:/path")
    for setting in read_config(args.config, args.defines).settings:
        if (setting.module, setting.name) == ("sipdump_ctl", "binrpc"):
            return str(setting.value)
    raise ConfigError('it has no modparam("sipdump_ctl", "binrpc", ...), so its daemon takes no commands', args.config)


def _shown(value: Any, indent: str = "") -> str:
    if not isinstance(value, dict):
        return str(value)
    members = [f"{indent}\t{name}: {_shown(member, indent + chr(9))}\n" for name, member in value.items()]
    return "{\n" + "".join(members) + indent + "}"


def _open(args: argparse.Namespace) -> "tuple[Plan, list[Backend], bool]":
    """Make the backends that the command line and the configuration name; the flag says whether one failed."""
    from sipdump_core.config.reader import override, read_config  # noqa: PLC0415
    from sipdump_core.plan import make_plan  # noqa: PLC0415
    from sipdump_core.settings.options import Setting  # noqa: PLC0415
    from sipdump_core.workshop import Workshop  # noqa: PLC0415

    given = [
        Setting("sipdump", name, value, f"--{name}")
        for name, value in (("folder", args.folder), ("fprefix", args.fprefix))
        if value is not None
    ]
    settings = read_config(args.config, args.defines).settings if args.config else []
    plan = make_plan(override(settings, given), to_start=False)
    backends, errors = Workshop(plan).keepers()
    for error in errors:
        print(f"sipdump-admin: {error}", file=sys.stderr)
    return plan, backends, bool(errors)


def _fage(args: argparse.Namespace) -> int:
    from sipdump_core.errors import ConfigError  # noqa: PLC0415
    from sipdump_core.settings.options import duration  # noqa: PLC0415

    if args.fagex is None:
        if args.fage is not None and args.fage < 1:
            raise ConfigError("must be 1 second or more", "--fage")
        return args.fage or 0
    try:
        return duration(args.fagex)
    except ValueError as error:
        raise ConfigError(str(error), "--fagex") from None


def _table(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    lines = [columns, *(["-" if row[name] is None else str(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sipdump-admin", description="Look after what sipdump has stored.")
    parser.add_argument("-v", "--version", action="version", version=f"sipdump {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("-f", dest="config", metavar="FILE", help="the daemon's configuration")
    help_define = "define NAME for the configuration, as the daemon's option does"
    where.add_argument("-A", dest="defines", action="append", default=[], metavar="NAME[=VALUE]", help=help_define)
    where.add_argument("--folder", help='where the segments stand (default: the configuration\'s, or "/tmp")')
    where.add_argument(
        "--fprefix", help='how their names begin (default: the configuration\'s, or "kamailio-sipdump-")'
    )
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print JSON")

    prune = commands.add_parser("prune", parents=[where, output], help="delete sealed segments that are too old")
    ages = prune.add_mutually_exclusive_group()
    ages.add_argument("--fage", type=int, metavar="SECONDS", help="delete what is older than this")
    ages.add_argument("--fagex", metavar="TIME", help='the same as a time expression: "2d", "2d6h40m30s"')
    prune.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    prune.set_defaults(run=_prune)

    ship = commands.add_parser("ship", parents=[where, output], help="upload what waits in a spool")
    ship.set_defaults(run=_ship)

    _add_upkeep(commands, [where, output])

    listing = commands.add_parser("list", parents=[where, output], help="list the segments of every backend")
    listing.add_argument("--count", action="store_true", help="read segments whose number of records is not known")
    listing.set_defaults(run=_list)

    daemon = argparse.ArgumentParser(add_help=False)
    daemon.add_argument("-f", dest="config", metavar="FILE", help="the daemon's configuration, which names its socket")
    daemon.add_argument("-A", dest="defines", action="append", default=[], metavar="NAME[=VALUE]", help=help_define)
    daemon.add_argument("--socket", metavar="ADDRESS", help="the daemon's socket: unix:/path, unixd:, tcp:, udp:")
    daemon.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for the answer (default: 10)")

    enable = commands.add_parser("enable", parents=[daemon, output], help="ask whether the daemon stores, or set it")
    enable.add_argument("value", nargs="?", type=int, choices=(0, 1), help="1: store, 0: do not")
    enable.set_defaults(run=_enable)

    rpc = commands.add_parser("rpc", parents=[daemon, output], help="send the daemon a control command")
    rpc.add_argument("method", metavar="METHOD", help="as sipdump.stats; system.listMethods lists all")
    rpc.add_argument("args", nargs="*", metavar="ARG", help="its arguments")
    rpc.set_defaults(run=_rpc)

    backends = commands.add_parser(
        "backends", parents=[daemon, output], help="list the installed drivers; with -f or --socket, how a daemon's do"
    )
    backends.add_argument("--verbose", action="store_true", help="show the options of each")
    backends.set_defaults(run=_backends)

    new = commands.add_parser("new-backend", help="write a small distribution with a backend, for you to go on from")
    new.add_argument("name", metavar="NAME", help="the backend's name; the distribution is sipdump-NAME")
    new.add_argument(
        "--kind",
        choices=("file", "stream"),
        default="file",
        help="file: segment files in a folder (default); stream: a database, a queue, whatever is connected to",
    )
    new.add_argument("--dir", type=Path, metavar="DIR", help="the folder for its files (default: sipdump-NAME)")
    new.set_defaults(run=_new_backend)
    return parser


def _add_upkeep(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    recover = commands.add_parser("recover", parents=parents, help="make segments of what a crash left")
    recover.set_defaults(run=_recover)

    compact = commands.add_parser("compact", parents=parents, help="merge small segments of an hour into one")
    help_partition = "only this hour or day of their starts, in UTC: date=2026-11-22/hour=23"
    compact.add_argument("--partition", default="", metavar="DATE[/HOUR]", help=help_partition)
    compact.add_argument(
        "--min-age", type=float, metavar="SECONDS", help="leave younger ones alone (default: twice the rotate)"
    )
    compact.add_argument(
        "--target-size", type=int, metavar="BYTES", help="leave larger ones alone, make none larger (default: 128 MiB)"
    )
    compact.add_argument("--dry-run", action="store_true", help="say what would be merged, and do nothing")
    compact.set_defaults(run=_compact)
