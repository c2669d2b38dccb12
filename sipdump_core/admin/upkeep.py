"""Commands that look after segments: ``prune``, ``ship``, ``recover``, ``compact``, ``list``."""

import argparse
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs

from sipdump_core.admin.arguments import add_json, add_store
from sipdump_core.admin.output import Output
from sipdump_core.admin.store import Store
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import Ability, Capped, Compacted, Compacts, Recovered, Recovers, Ships, can
from sipdump_core.drivers.names import one_look
from sipdump_core.errors import ConfigError, SipDumpError
from sipdump_core.lifecycle.caps import Caps, Limits
from sipdump_core.lifecycle.retention import PATIENCE, Pruned, PruneSummary, answers, counted, listed, prune_all
from sipdump_core.lifecycle.thinning import Thinned
from sipdump_core.lifecycle.thinning import thin as thin_by_rules
from sipdump_core.pipeline.spool import counted_folders
from sipdump_core.segment import UNREADABLE, Starts, StoredSegment
from sipdump_core.settings.options import duration

__all__ = [
    "add_compact",
    "add_list",
    "add_prune",
    "add_recover",
    "add_ship",
    "compact",
    "list_segments",
    "prune",
    "recover",
    "ship",
]

Done = TypeVar("Done", Recovered, Compacted)
A = TypeVar("A", bound=Ability)
_LONG = 600.0
"""Seconds that one step of recover or compact may take: it makes a whole segment."""
_Result = tuple[dict[str, Any], SipDumpError | None, str]
"""A row of JSON, an error, and a line for a person; the line is empty if the error says it all."""


def add_prune(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``prune``."""
    add_store(parser)
    add_json(parser)
    ages = parser.add_mutually_exclusive_group()
    ages.add_argument("--fage", type=_age, metavar="AGE", help='delete what is older: seconds, or "2d", "2d6h40m30s"')
    ages.add_argument("--fagex", metavar="AGE", help="the same, named as the parameter")
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    _add_timeout(parser)
    parser.set_defaults(run=prune)


def prune(args: argparse.Namespace, output: Output) -> int:
    """Delete sealed segments that are too old."""
    store = Store(args, output)
    given = _fage(args)
    fage = given or store.params.retention
    rules = [] if given else store.params.rules  # an age that is given is all that counts
    caps = None if given else _caps(store)
    if not (fage or rules or caps):
        raise ConfigError(
            "no age given: use --fage SECONDS, --fagex 2d, or "
            '-f FILE with modparam("sipdump", "fage", ...), "keep" or "max_bytes"'
        )
    locations: dict[str, list[str]] = {backend.name: [] for backend in store.backends}
    decisions: dict[str, list[dict[str, Any]]] = {backend.name: [] for backend in store.backends}
    verb, thin = ("would prune", "would thin") if args.dry_run else ("pruned", "thinned")
    due: list[str] = []
    tell = due.append if args.dry_run else output.say  # nothing takes long in a dry run, but 100,000 writes
    with store, one_look(), output.progress("prune", "segments") as progress:

        def each(pruned: Pruned) -> None:
            progress.step()
            if pruned.error:
                return
            stored = pruned.stored
            if pruned.is_whole:
                locations[pruned.backend].append(stored.location)
                tell(f"{verb} {stored.location} {stored.size} bytes" + (f" ({pruned.why})" if args.dry_run else ""))
            else:
                tell(f"{thin} {stored.location}, but for what is held by {', '.join(pruned.holds)} ({pruned.why})")
            decisions[pruned.backend].append(
                {
                    "location": stored.location,
                    "action": "delete" if pruned.is_whole else "thin",
                    "why": pruned.why,
                    "holds": list(pruned.holds),
                }
            )

        pruning = prune_all(store.backends, fage or math.inf, each, dry_run=args.dry_run, patience=args.timeout)
        results = list(pruning)
        gone = {location for known in locations.values() for location in known}
        for backend in store.backends:
            with store.guarded(backend, output.error):
                for thinned in thin_by_rules(backend, rules, dry_run=args.dry_run):
                    if thinned.error:
                        output.error(thinned.error)
                    elif thinned.stored.location not in gone:
                        tell(_thinned_line(thinned, thin))
                        decisions[backend.name].append(_decision(thinned))
                        if thinned.deleted:
                            gone.add(thinned.stored.location)
        if caps:
            _prune_by_caps(caps, results, each, output, gone if args.dry_run else set(), dry_run=args.dry_run)
    if due:
        output.say("\n".join(due))
    for result in results:
        for error in result.errors:
            output.error(error)
        what = f"{result.segments} segments {'to prune' if args.dry_run else 'pruned'}, {result.bytes} bytes"
        output.say(f"{result.backend}: {what if result.lifecycle else 'no lifecycle: what it stores is not pruned'}")
    others = store.survey()
    rows = [
        {**attrs.asdict(one), "pruned": locations[one.backend], "decisions": decisions[one.backend]} for one in results
    ]
    where = {"folder": store.params.folder, "fprefix": store.params.fprefix, "other_prefixes": others}
    return output.result(
        {
            "fage": fage or None,
            "keep": [rule.text for rule in rules],
            "dry_run": args.dry_run,
            **where,
            "backends": rows,
        }
    )


def _caps(store: Store) -> Caps | None:
    """Return the caps of a configuration, if it has any."""
    params = store.params
    limits = Limits(params.cap, *params.free)
    if not (limits.any or any(can(backend, Capped) and backend.cap for backend in store.backends)):
        return None
    folders = counted_folders(params.folder, params.fprefix, store.backends)
    return Caps(lambda: store.backends, tuple, folders, limits, params.rotate, time.time)


def _prune_by_caps(
    caps: Caps,
    results: Sequence[PruneSummary],
    each: Callable[[Pruned], None],
    output: Output,
    gone: set[str],
    *,
    dry_run: bool,
) -> None:
    by_name = {result.backend: result for result in results}
    try:
        for pruned in caps.prune(dry_run=dry_run, gone=gone):
            each(pruned)
            by_name[pruned.backend].count(pruned)
    except SipDumpError as error:
        output.error(error)


def _thinned_line(thinned: Thinned, verb: str) -> str:
    size = f", {thinned.records} messages" if thinned.records else ""
    held = f"; calls that are due are held by {', '.join(thinned.holds)}" if thinned.holds else ""
    return f"{verb} {thinned.stored.location}: {thinned.calls} calls{size} ({thinned.why}{held})"


def _decision(thinned: Thinned) -> dict[str, Any]:
    return {
        "location": thinned.stored.location,
        "action": "delete" if thinned.deleted else "thin",
        "why": thinned.why,
        "holds": list(thinned.holds),
        "calls": thinned.calls,
    }


def _add_timeout(parser: argparse.ArgumentParser, seconds: float = PATIENCE) -> None:
    help_ = f"go on without a third party's backend that answers nothing for so long (default: {seconds:g})"
    parser.add_argument("--timeout", type=float, default=seconds, metavar="SECONDS", help=help_)


def _fage(args: argparse.Namespace) -> int:
    name = "--fagex" if args.fage is None else "--fage"
    if args.fagex is not None:
        try:
            args.fage = _seconds(args.fagex)
        except ValueError as error:
            raise ConfigError(str(error), name) from None
    if args.fage is not None and args.fage < 1:
        raise ConfigError("must be 1 second or more", name)
    return args.fage or 0


def _age(text: str) -> int:
    try:
        return _seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> int:
    """Read seconds, or a time expression of Kamailio's ``fagex``."""
    return int(text) if re.fullmatch(r"-?\d{1,18}", text, re.ASCII) else duration(text)


def add_ship(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ship``."""
    add_store(parser)
    add_json(parser)
    parser.set_defaults(run=ship)


def ship(args: argparse.Namespace, output: Output) -> int:
    """Upload what waits in a spool."""
    store = Store(args, output)
    with store:
        results = [_ship(store, backend, output) for backend in store.able(Ships)]
    if not (results or output.failed):
        raise ConfigError("no backend that ships is switched on; use -f FILE with one in its mode, such as 32 (s3)")
    for result in results:
        output.say(f"{result['backend']}: {result['segments']} segments shipped, {result['bytes']} bytes")
    return output.result({"folder": store.params.folder, "fprefix": store.params.fprefix, "backends": results})


def _ship(store: Store, backend: Ships, output: Output) -> dict[str, Any]:
    result: dict[str, Any] = {"backend": backend.name, "segments": 0, "bytes": 0, "shipped": [], "errors": []}

    def failed(error: object) -> None:
        result["errors"].append(str(error))
        output.error(error)

    with store.guarded(backend, failed), output.progress("ship", "B", backend.unshipped()) as progress:
        for shipped in backend.ship(progress.step):
            if shipped.error:
                failed(shipped.error)
                continue
            result["segments"] += 1
            result["bytes"] += shipped.stored.size
            result["shipped"].append(shipped.location)
            output.say(f"shipped {shipped.location} {shipped.stored.size} bytes")
    return result


def add_recover(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``recover``."""
    add_store(parser)
    add_json(parser)
    _add_timeout(parser, _LONG)
    parser.set_defaults(run=recover)


def recover(args: argparse.Namespace, output: Output) -> int:
    """Make segments of what a crash left."""
    return _each(args, output, "recover", Recovers, lambda backend: backend.recover(), _recovered)


def _recovered(done: Recovered) -> _Result:
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
    if done.in_use:
        return row, None, f"skipped: {done.error}"
    lost = f", {done.lost} bytes lost at {done.damages} places, kept as {done.kept}" if done.kept else ""
    line = f"recovered {done.source}: {done.records} records in {done.location or 'no file'}{lost}"
    return row, done.error, "" if done.error else line


def add_compact(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``compact``."""
    add_store(parser)
    add_json(parser)
    help_partition = "only this hour or day of their starts, in UTC: date=2026-11-22/hour=23"
    parser.add_argument("--partition", default="", metavar="DATE[/HOUR]", help=help_partition)
    parser.add_argument(
        "--min-age", type=float, metavar="SECONDS", help="leave younger ones alone (default: twice the rotate)"
    )
    parser.add_argument(
        "--target-size", type=int, metavar="BYTES", help="leave larger ones alone, make none larger (default: 128 MiB)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be merged, and do nothing")
    _add_timeout(parser, _LONG)
    parser.set_defaults(run=compact)


def compact(args: argparse.Namespace, output: Output) -> int:
    """Merge small segments."""
    wanted = {"partition": args.partition, "dry_run": args.dry_run, "min_age": args.min_age}
    if args.target_size is not None:
        wanted["target_size"] = args.target_size
    return _each(args, output, "compact", Compacts, lambda backend: backend.compact(**wanted), _compacted)


def _compacted(done: Compacted) -> _Result:
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
    what = f"{done.partition}: {len(done.sources)} segments, {done.size_before} bytes"
    if done.location:
        line = f"compacted {what}, into {done.location}, {done.size_after} bytes, {done.records} records"
    else:
        line = "" if done.error else f"would compact {what}"
    return row, done.error, line


def _each(
    args: argparse.Namespace,
    output: Output,
    verb: str,
    ability: type[A],
    run: Callable[[A], Iterable[Done]],
    shown: Callable[[Done], _Result],
) -> int:
    """Run something for every backend that can do it, and print each of its results."""
    store = Store(args, output)
    rows = []
    for backend in store.able(ability):
        with store, store.guarded(backend, output.error):
            for done in _run(backend, verb, run, args.timeout):
                row, error, line = shown(done)
                rows.append(row)
                if error:
                    output.error(error)
                if line:
                    output.say(line)
    if not (rows or output.failed):
        output.say(f"nothing to {verb}")
    return output.result(rows)


def _run(backend: A, verb: str, run: Callable[[A], Iterable[Done]], patience: float) -> Iterable[Done]:
    return answers(backend, verb, lambda: run(backend), patience) if isinstance(backend, Backend) else run(backend)


def add_list(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``list``."""
    add_store(parser)
    add_json(parser)
    parser.add_argument("--count", action="store_true", help="read segments whose number of records is not known")
    _add_timeout(parser)
    parser.set_defaults(run=list_segments)


def list_segments(args: argparse.Namespace, output: Output) -> int:
    """List the segments of every backend."""
    store = Store(args, output)
    rows: list[dict[str, Any]] = []
    starts = Starts()
    with one_look():
        for backend in store.backends:
            with store, store.guarded(backend, output.error):
                for stored in listed(backend, args.timeout):
                    records = stored.records
                    if records is None and args.count and stored.state != UNREADABLE:  # that has been said
                        with store.guarded(backend, output.error):  # the next one may be readable
                            records = counted(backend, stored, args.timeout)
                    rows.append(_listed(backend, stored, records, starts))
        store.survey()
    rows.sort(key=lambda row: (row["start"], row["name"]))
    output.table(rows, ("backend", "start", "size", "records", "state", "name"))
    return output.result(rows)


def _listed(backend: Backend, stored: StoredSegment, records: int | None, starts: Starts) -> dict[str, Any]:
    return {
        "name": stored.segment.name,
        "backend": backend.name,
        "start": starts.iso(stored.segment),
        "size": stored.size,
        "records": records,
        "state": stored.state,
        "location": stored.location,
    }
