"""Commands about what must go and what must stay: ``erase``, ``hold``."""

import argparse
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sipdump_core.admin.arguments import add_json, add_store
from sipdump_core.admin.daemon import call_daemon, control_socket
from sipdump_core.admin.output import Output
from sipdump_core.admin.store import Store
from sipdump_core.clock import local_iso
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import Compacts, Marks, Merges, Recovers, can
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError, RpcError, SipDumpError
from sipdump_core.lifecycle import audit, holds
from sipdump_core.lifecycle.erasure import Erased, found_in, leavings
from sipdump_core.lifecycle.erasure import erase as erase_in
from sipdump_core.lifecycle.retention import listed
from sipdump_core.masking.masker import DROP, Masker, Rules
from sipdump_core.masking.users import Digits, Tokens
from sipdump_core.pipeline.spool import waiting_places
from sipdump_core.pipeline.spool_rewriting import spools_of
from sipdump_core.reading.arguments import span_of
from sipdump_core.reading.redacting import stand_ins_of, with_stand_ins
from sipdump_core.segment import StoredSegment

__all__ = ["add_erase", "add_hold", "erase", "hold"]

_SEAL_WAIT = 60.0
_LOOK_EVERY = 0.2
_NUMBER = re.compile(r"\+?(\d[^@*]*(?:@.*)?)", re.ASCII)
_PASSES = 3
"""How often all is looked through: a compaction may move calls meanwhile."""


def add_erase(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``erase``."""
    add_store(parser)
    add_json(parser)
    _add_calls(parser)
    parser.add_argument("--mask", action="store_true", help="keep the messages, without users, secrets and bodies")
    parser.add_argument("--dry-run", action="store_true", help="say what would be erased, and do nothing")
    parser.add_argument("--reason", default="", metavar="TEXT", help="goes into the audit log, as a ticket's number")
    parser.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="for each answer of a backend (default: 600)"
    )
    parser.set_defaults(run=erase)


def _add_calls(parser: argparse.ArgumentParser) -> None:
    """Add what says which calls."""
    parser.add_argument(
        "--user", dest="users", action="append", default=[], metavar="NUMBER",
        help="calls with this user in From, To or the request URI, as sipdump-read find --user",
    )  # fmt: skip
    parser.add_argument("--call-id", dest="call_ids", action="append", default=[], metavar="ID", help="this call")
    parser.add_argument("--since", metavar="TIME", help="only calls with a message from this time on")
    parser.add_argument("--until", metavar="TIME", help="only calls with a message before this time")
    parser.add_argument(
        "--users-key", dest="users_keys", action="append", default=[], metavar="FILE",
        help="find users whose tokens were made with this key, too (default: that of the configuration)",
    )  # fmt: skip


def erase(args: argparse.Namespace, output: Output) -> int:
    """Erase calls from all that is stored."""
    if bool(args.users) == bool(args.call_ids):
        raise ConfigError("say whose calls: either --user NUMBER or --call-id ID")
    store = Store(args, output)
    query = _query_of(args)
    mask = _masker() if args.mask else None
    erased: list[Erased] = []
    with store:
        if not args.dry_run:
            _seal(store, args, output)
        calls, kept, by_hold = _wanted(store, query, args, output)
        if kept:
            output.error(
                f"{len(kept)} calls are held by {', '.join(by_hold)}, and stay; release the hold to erase them"
            )
        for backend in _all(store):
            with store.guarded(backend, output.error):
                loose = query if query.users else None
                erased += _erase_in(backend, calls, loose, mask, args, output, store.params.folder)
        named = {one.stored.location for one in erased if one.error}
        for path in leavings(_folders(store), query, calls):
            if path in named or ((args.dry_run or args.mask) and path.endswith(".spool")):
                continue  # it was said, or still has the call
            spooled = path.endswith(".spool")
            what = "let the daemon deliver it, and erase again" if spooled else "look at it, and delete it"
            output.error(f"{path}: it has something of these calls, and cannot be rewritten; {what}")
    return _report(store, args, output, calls, kept, erased)


def _erase_in(
    backend: Backend,
    calls: set[str],
    loose: Query | None,
    mask: Any,
    args: argparse.Namespace,
    output: Output,
    folder: str,
) -> list[Erased]:
    did, would = ("masked", "would mask") if args.mask else ("erased", "would erase")
    verb = would if args.dry_run else did
    done: list[Erased] = []
    for number in range(1 if args.dry_run or args.mask else _PASSES):
        before = len(done)
        for one in erase_in(backend, calls, loose, mask, dry_run=args.dry_run, patience=args.timeout, folder=folder):
            if one.error:
                if not number:
                    output.error(one.error)
                    done.append(one)
                continue
            done.append(one)
            gone = ", nothing is left of it" if one.deleted else ""
            where = one.stored.location or one.stored.segment.name
            output.say(f"{verb} {one.messages} messages in {where}{gone}")
        if not any(not one.error for one in done[before:]):
            break
    return done


def _wanted(
    store: Store, query: Query, args: argparse.Namespace, output: Output
) -> tuple[set[str], set[str], list[str]]:
    """Return the Call-IDs that are to go, those that are held, and the holds."""
    found = set(query.call_ids) if query.since_us is None and query.until_us is None else set()
    held: set[str] = set()
    names: dict[str, None] = {}
    for backend in _all(store):
        if query.users or not found:
            ids, errors = found_in(backend, query, args.timeout)
            found |= ids
            for error in errors:
                output.error(f"{backend.name}: {error}")
    there = holds.listed_holds(store.params.folder)
    for backend in _all(store) if there else ():
        with store.guarded(backend, output.error):
            kept = holds.Held(there, backend)
            held |= kept.ids & found
            names.update(dict.fromkeys(kept.names(found)))
    return found - held, held, list(names)


def _all(store: Store) -> list[Backend]:
    """Return the backends, and the spools of those that have one."""
    return [*store.backends, *spools_of(store.backends)]


def _report(
    store: Store, args: argparse.Namespace, output: Output, calls: set[str], kept: set[str], erased: Sequence[Erased]
) -> int:
    done = [one for one in erased if not one.error]
    failed = [one for one in erased if one.error]
    messages = sum(one.messages for one in done)
    found = len(calls) if messages or failed else 0  # a Call-ID that nobody has is no call
    places = len({(one.backend, one.stored.segment.name) for one in done})
    row = {
        "dry_run": args.dry_run,
        "masked": args.mask,
        "calls": found,
        "held_calls": len(kept),
        "messages": messages,
        "segments": places,
        "rewritten": [
            {"backend": one.backend, "location": one.stored.location, "messages": one.messages, "deleted": one.deleted}
            for one in done
        ],
        "failed": [
            {"backend": one.backend, "location": one.stored.location, "error": str(one.error)} for one in failed
        ],
    }
    if not args.dry_run:
        audit.note(
            store.params.folder, "mask" if args.mask else "erase", fprefix=store.params.fprefix, **_subject(args),
            calls=found, held_calls=len(kept), messages=messages, segments=places,
            not_rewritten=[one.stored.segment.name for one in failed], complete=not output.failed,
        )  # fmt: skip
    word = "would be " if args.dry_run else ""
    output.say(f"{found} calls {word}{'masked' if args.mask else 'erased'}: {messages} messages in {places} segments")
    return output.result(row)


def _subject(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the audit log has of what was asked for."""
    sealed = {
        "users": [audit.sealed_name(user) for user in args.users],
        "call_ids": [audit.sealed_name(call_id) for call_id in args.call_ids],
    }
    given = {"since": args.since, "until": args.until, "reason": args.reason}
    return {name: value for name, value in {**sealed, **given}.items() if value}


def _masker() -> Any:
    """Return what masks a message: with a key that nobody keeps, so that nobody can find out who it was."""
    return Masker(Rules(credentials=True, keys=True, bodies={"*"}, users=Tokens(), unparsed=DROP)).mask


def _query_of(args: argparse.Namespace) -> Query:
    args.last = None
    since_us, until_us = span_of(args, datetime.now().astimezone())
    users = [each for user in args.users for each in _spellings(user)]
    query = Query(since_us=since_us, until_us=until_us, users=users, call_ids=args.call_ids)
    if not args.users:
        return query
    configs = [args.config] if args.config else []
    named = argparse.Namespace(
        users_keys=args.users_keys,
        configs=configs,
        defines=args.defines,
        folders=[args.folder or "."],
        files=[],
        urls=[],
    )
    # numbers without their last digits are those of many
    makers = [maker for maker in stand_ins_of(named) if not isinstance(maker, Digits)]
    return with_stand_ins(query, makers)


def _spellings(user: str) -> list[str]:
    """Return a user, and a number with and without its ``+``: whose it is does not depend on how a server writes it."""
    number = _NUMBER.fullmatch(user)
    return [user, *({number[1], "+" + number[1]} - {user})] if number else [user]


def _seal(store: Store, args: argparse.Namespace, output: Output) -> None:
    """Have open segments sealed: by the daemon, or, where none runs, by what takes up what a crash left."""
    socket = control_socket(args) if args.config else ""
    spooling = _open_journals(store)
    if socket:
        try:
            asked = argparse.Namespace(timeout=min(args.timeout, _SEAL_WAIT))
            call_daemon(asked, socket, "sipdump.rotate")
        except RpcError as error:
            output.note(f"no daemon was asked to seal what is open: {error}")
    end = time.monotonic() + (_SEAL_WAIT if socket else 0.0)
    while any(_unsealed(backend) for backend in store.backends) and time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
    while spooling & _open_journals(store) and time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
    for recovering in store.able(Recovers):
        with store.guarded(recovering, output.error):
            for done in recovering.recover():
                if done.error and not done.in_use:
                    output.error(done.error)
    for compacting in store.able(Compacts):  # so that no source is left of one that was cut off
        if not can(getattr(compacting, "inner", compacting), Merges):
            continue  # what its format makes was never merged
        with store.guarded(compacting, output.error):
            for merged in compacting.compact(target_size=0):
                if merged.error:
                    output.error(merged.error)


def _open_journals(store: Store) -> set[str]:
    """Return the paths of the journals that are being written."""
    return {stored.location for spool in spools_of(store.backends) for stored in spool.segments() if not stored.sealed}


def _unsealed(backend: Backend) -> list[StoredSegment]:
    try:
        return [stored for stored in listed(backend) if stored.pending == "unsealed"]
    except SipDumpError:
        return []


def _folders(store: Store) -> list[str]:
    """Return the folders that may have something of the store: its own, and those of spools."""
    found = [store.params.folder, *(place for backend in store.backends for place in waiting_places(backend))]
    return list(dict.fromkeys(os.path.realpath(each) for each in found))


def add_hold(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``hold``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    adding = actions.add_parser("add", help="hold calls: nothing deletes or erases them")
    adding.add_argument("name", metavar="NAME")
    add_store(adding)
    add_json(adding)
    _add_calls(adding)
    adding.add_argument("--reason", default="", metavar="TEXT", help="is kept with the hold, and in the audit log")
    listing = actions.add_parser("list", help="list the holds")
    add_store(listing)
    add_json(listing)
    releasing = actions.add_parser("release", help="release a hold")
    releasing.add_argument("name", metavar="NAME")
    add_store(releasing)
    add_json(releasing)
    releasing.add_argument("--reason", default="", metavar="TEXT", help="goes into the audit log")
    parser.set_defaults(run=hold)


def hold(args: argparse.Namespace, output: Output) -> int:
    """Add, list or release holds."""
    store = Store(args, output)
    folder = store.params.folder
    if args.action == "list":
        rows = [_row(each) for each in holds.listed_holds(folder)]
        if rows:
            output.table(rows, ("name", "created", "holds", "reason"))
        else:
            output.say("there is no hold")
        return output.result(rows)
    if args.action == "release":
        released = holds.release(folder, args.name)
        audit.note(folder, "hold release", name=args.name, **_reason(args))
        output.say(f"released {args.name}: retention deletes what is due of it from now on")
        _mark(store, output, lambda backend: holds.unmark(backend, released), "are not marked as held any more")
        return output.result(_row(released))
    query = _query_of(args)
    if not (args.users or args.call_ids or (query.since_us is not None and query.until_us is not None)):
        raise ConfigError("say what to hold: --user NUMBER, --call-id ID, or --since TIME --until TIME")
    made = holds.Hold(
        args.name, sorted(query.call_ids), sorted(query.users), query.since_us, query.until_us, reason=args.reason
    )
    holds.add(folder, made)
    kinds = [name for name in ("call_ids", "users", "since_us") if getattr(made, name)]
    audit.note(folder, "hold add", name=args.name, by=[kind.removesuffix("_us") for kind in kinds], **_reason(args))
    output.say(f"held as {args.name}: {_row(made)['holds']}")
    _mark(store, output, holds.mark, "are marked as held")
    return output.result(_row(made))


def _mark(store: Store, output: Output, run: Callable[[Backend], int], what: str) -> None:
    """Have stores mark what is held; that they cannot is no error, for the hold is there."""
    for backend in store.backends:
        able: object = backend
        if can(able, Marks):
            with store.guarded(backend, lambda error: output.note(f"warning: what is held is not marked: {error}")):
                count = run(backend)
                if count:
                    output.say(f"{backend.name}: {count} segments {what}")


def _reason(args: argparse.Namespace) -> dict[str, str]:
    return {"reason": args.reason} if args.reason else {}


def _row(one: holds.Hold) -> dict[str, Any]:
    def shown(time_us: int | None) -> str:
        return "" if time_us is None else local_iso(time_us / 1_000_000)

    parts = [f"call {each}" for each in one.call_ids] + [f"user {each}" for each in one.users]
    if one.since_us is not None or one.until_us is not None:
        parts.append(f"{shown(one.since_us)} to {shown(one.until_us)}")
    return {
        "name": one.name,
        "created": local_iso(one.created) if one.created else None,
        "holds": ", ".join(parts),
        "call_ids": list(one.call_ids),
        "users": list(one.users),
        "since": shown(one.since_us) or None,
        "until": shown(one.until_us) or None,
        "reason": one.reason or None,
    }
