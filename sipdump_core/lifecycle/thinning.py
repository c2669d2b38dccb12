"""Retention by rule: sealed segments are thinned when the age of a rule passes, once for each age.

A call is judged with all its messages, whatever segments they are in, by the first rule that matches it. Its age counts
from the last write of the last segment that has one of them, so that all of it goes at one time. What a round decides
about calls that span segments is noted before the first of these is changed: a crash leaves no half of a call.

What is known of each segment, when its next call is due, is in a small file beside the store. If it is lost, the
segments are judged once more.
"""

import contextlib
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from sipdump_core.calls.call import Call
from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import Reads, Rewrites, can
from sipdump_core.drivers.guard import each_of
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.rewriting import Change, remove_drafts
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.lifecycle.holds import Held, held_in, matching
from sipdump_core.lifecycle.retention import listed
from sipdump_core.lifecycle.rewriting import rewrite
from sipdump_core.locks import own_lock
from sipdump_core.log import Event, log
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment
from sipdump_core.settings.keeping import Rule

__all__ = ["Thinned", "log_thinned", "rules_for", "thin"]

_CSEQ = re.compile(rb"\n(?i:cseq)[ \t]*:\s*\d+[ \t]+([^\s]+)")
_TO_TAG = re.compile(rb"\n(?i:to|t)[ \t]*:[^\r\n]*;[ \t]*tag[ \t]*=", re.IGNORECASE)
_LOOSE = frozenset({"REGISTER", "SUBSCRIBE", "NOTIFY", "PUBLISH", "OPTIONS", "MESSAGE"})
_NEVER_US = 1 << 62
_FAR = 86_400.0
"""Seconds around a segment in which the rest of a call is looked for that has no end, or no beginning, in it."""
_AT_ONCE = 200_000
"""Records whose calls are judged at once where they must be held for that."""


@attrs.frozen
class Thinned:
    """What became of one segment in which calls were due."""

    backend: str
    stored: StoredSegment
    calls: int = 0
    """How many went, or would."""
    records: int = 0
    """How many messages of them were in it; 0 in a dry run."""
    why: str = ""
    """The rules by which they went, with how many calls each."""
    holds: Sequence[str] = ()
    """The holds by which calls that were due stay."""
    deleted: bool = False
    """Nothing is left of it."""
    error: SipDumpError | None = None


@attrs.define
class _Seen:
    """What is known of a call."""

    records: list[Record] | None
    method: str = ""
    """Of its first request, or of a reply where there is no request."""
    first_us: int = 1 << 62
    replied: bool = True
    """Whether ``method`` and ``first_us`` are those of a reply."""
    last: float = 0.0
    """Seconds since the epoch: the last write of the last segment that has a message of it."""
    begun: bool = False
    ended: bool = False
    again: bool = False
    """Whether an INVITE within the call was seen."""
    answered: bool = False
    """Whether a 2xx to an INVITE was seen."""
    hung_up: bool = False

    def add(self, record: Record, modified: float) -> None:
        """Take a message of it."""
        method, status = _line(record.buf)
        if (status > 0, record.time_us) < (self.replied, self.first_us):
            self.replied, self.first_us, self.method = status > 0, record.time_us, method
        self.last = max(self.last, modified)
        if status == 0:
            tagged = _TO_TAG.search(record.buf) is not None
            self.begun |= not tagged
            self.again |= tagged and method == "INVITE"
            self.hung_up |= method == "BYE"
        elif method == "INVITE":
            self.answered |= 200 <= status < 300
        self.ended |= method != "INVITE" if method in ("BYE", "CANCEL") else method == "INVITE" and status >= 300
        if self.records is not None:
            self.records.append(record)

    @property
    def is_whole(self) -> bool:
        """Whether neither its beginning nor its end can be missing."""
        return self.is_loose or (self.begun and (self.ended or self.method != "INVITE"))

    @property
    def state(self) -> str:
        """What became of it, as :attr:`sipdump_core.calls.call.Call.state` says: plain calls are told by a look."""
        if self.begun and self.answered and not self.again and self.method == "INVITE":
            return "ended" if self.hung_up else "answered"
        return Call.of(sorted(self.records or (), key=lambda record: record.time_us)).state(_NEVER_US)

    @property
    def is_loose(self) -> bool:
        """Whether its Call-ID comes again and again, for weeks, with what are no parts of one call."""
        return self.method in _LOOSE


def rules_for(rules: Iterable[Rule], backend: str) -> list[Rule]:
    """Return the rules that are for a backend, in their order."""
    return [rule for rule in rules if rule.backend in ("", backend)]


def log_thinned(thinned: Thinned) -> None:
    """Log a segment that was thinned."""
    if not thinned.error and thinned.records:
        what = {"backend": thinned.backend, "name": thinned.stored.segment.name}
        log.info(Event("segment thinned", **what, calls=thinned.calls, records=thinned.records, rules=thinned.why))


def thin(
    backend: Backend, rules: Sequence[Rule], *, now: float | None = None, dry_run: bool = False
) -> Iterator[Thinned]:
    """Take the calls out of a backend's sealed segments that rules say are due, and yield each segment that had some.

    Args:
        backend: whose segments.
        rules: all of them.
        now: the time to count from, seconds since the epoch.
        dry_run: yield what would be done, and do nothing.

    Raises:
        StorageError: the store cannot be listed.
        DriverError: the driver raises anything else.
    """
    own = rules_for(rules, backend.name)
    if own and can(type(backend), Reads) and can(type(backend), Rewrites) and backend.has_lifecycle():
        lock = os.path.join(backend.site.folder, f".{backend.site.prefix}keep-{backend.name}.lock")
        with own_lock(lock) as alone:
            if alone:  # else another process is at it
                yield from _Round(backend, own, time.time() if now is None else now, dry_run=dry_run).run()


class _Round:
    """One look at all segments of a backend."""

    def __init__(self, backend: Backend, rules: Sequence[Rule], now: float, *, dry_run: bool) -> None:
        self._backend = backend
        self._rules = rules
        self._now = now
        self._dry_run = dry_run
        self._by_state = any(rule.states for rule in rules)
        self._notes = _Notes(backend, rules)
        self._held: Held = held_in(backend)
        self._all: list[StoredSegment] = []
        self._decided: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """By location, the calls that go with another segment's, each with its rule."""

    def run(self) -> Iterator[Thinned]:
        self._all = sorted(listed(self._backend), key=lambda stored: (stored.segment.stamp, stored.segment.sequence))
        if not self._dry_run:
            remove_drafts(self._backend.site.folder, self._backend.site.prefix)
        soonest = min(rule.age_s for rule in self._rules)
        for location, ids in self._notes.pending.items():
            self._decided[location].update(dict.fromkeys(ids, "decided before"))
        deleted = set()
        for at, stored in enumerate(self._all):
            due = self._notes.due.get(_key(stored), stored.modified + soonest)
            if not stored.sealed or ((due is None or due > self._now) and stored.location not in self._decided):
                continue
            try:
                thinned = self._thin(at, stored)
            except SipDumpError as error:
                thinned = Thinned(self._backend.name, stored, error=error)
            if thinned:
                if thinned.deleted:
                    deleted.add(stored.segment.stem)
                yield thinned
        if not self._dry_run:
            self._notes.pending = {
                stored.location: sorted(self._decided[stored.location])
                for stored in self._all
                if self._decided.get(stored.location)
            }
            self._notes.keep({_key(stored) for stored in self._all})
            if deleted:
                meta.sweep(self._backend.site.folder, self._backend.site.prefix, deleted, 0.0)

    def _thin(self, at: int, stored: StoredSegment) -> Thinned | None:
        goes, bare, next_due = self._judge(at, stored)
        decided = self._decided.get(stored.location, {})
        goes.update(decided)
        names: Sequence[str] = ()
        if self._held and goes:
            held = self._held.ids & goes.keys()
            names = self._held.names(held) if held else ()
            goes = {call: rule for call, rule in goes.items() if call not in held}
        counts: defaultdict[str, int] = defaultdict(int)
        for rule in goes.values():
            counts[rule] += 1
        why = "; ".join(f"{count} calls by {rule!r}" for rule, count in counts.items())
        result = Thinned(self._backend.name, stored, len(goes), why=why, holds=names)
        if self._dry_run:
            return result if goes or bare or names else None
        if goes or bare:
            self._notes.pend(self._decided)
            keeps = self._held.keeps

            def also(record: Record) -> bool:
                return self._bare_goes(record, stored) and not keeps(record)

            done = rewrite(self._backend, stored, Change(goes.keys(), also=also if bare else None))
            gone = not done.kept
            result = attrs.evolve(result, records=done.removed, deleted=gone and bool(done.removed))
        self._decided.pop(stored.location, None)
        self._notes.note(stored, next_due)
        return result if result.records else None

    def _judge(self, at: int, stored: StoredSegment) -> tuple[dict[str, str], bool, float | None]:
        """Return the calls of a segment that go with the rule of each, whether others do, and when the next are due."""
        goes: dict[str, str] = {}
        dues: list[float] = []
        bare = False
        parts = -(-(stored.records or stored.size // 500) // _AT_ONCE) if self._by_state else 1
        for part in range(max(1, parts)):
            calls: dict[str, _Seen] = {}
            for record in each_of(self._backend, "read", lambda: self._backend.read(stored)):
                call_id = record.call_id
                if call_id is None:
                    if not part:
                        due = self._bare_due(record, stored)
                        bare |= due is not None and due <= self._now
                        dues += [due] if due is not None and due > self._now else []
                elif parts < 2 or hash(call_id) % parts == part:
                    self._take(calls, call_id, record, stored)
            places = self._complete(at, stored, calls)
            for call_id, seen in calls.items():
                rule = self._rule(seen)
                if rule is None or call_id in self._decided.get(stored.location, ()):
                    continue
                due = seen.last + rule.age_s
                if due > self._now:
                    dues.append(due)
                    continue
                goes[call_id] = rule.text
                for location in places.get(call_id, ()):
                    if call_id not in self._held.ids:
                        self._decided[location][call_id] = rule.text
        return goes, bare, min(dues, default=None)

    def _take(self, calls: dict[str, _Seen], call_id: str, record: Record, stored: StoredSegment) -> None:
        seen = calls.get(call_id)
        if seen is None:
            seen = calls[call_id] = _Seen([] if self._by_state else None)
        # what is open goes on: it cannot be due before it is sealed
        seen.add(record, stored.modified if stored.sealed else max(self._now, stored.modified))

    def _complete(self, at: int, stored: StoredSegment, calls: dict[str, _Seen]) -> dict[str, list[str]]:
        """Add what other segments have of some calls, and return in which others each of these has messages.

        The neighbours are searched, and on from there for as long as they have any; further away only for calls of
        which the beginning or the end is missing. Registrations and their like go no further than the neighbours.
        """
        places: defaultdict[str, list[str]] = defaultdict(list)
        for step in (1, -1):
            wanted = set(calls)
            place = at + step
            while 0 <= place < len(self._all) and wanted:
                other = self._all[place]
                far = abs(other.segment.start - stored.segment.start) > _FAR
                if far and abs(place - at) > 1:
                    break
                found = set()
                for record in self._messages(other, wanted):
                    call_id = record.call_id or ""
                    self._take(calls, call_id, record, other)
                    found.add(call_id)
                for call_id in found:
                    places[call_id].append(other.location)
                wanted = {
                    call_id
                    for call_id in wanted
                    if not calls[call_id].is_whole or (call_id in found and not calls[call_id].is_loose)
                }
                place += step
        return places

    def _messages(self, stored: StoredSegment, wanted: set[str]) -> Iterator[Record]:
        try:
            yield from matching(self._backend, stored, Query(call_ids=wanted))
        except StorageError as error:
            if not error.of_absence:
                raise

    def _rule(self, seen: _Seen) -> Rule | None:
        state: str | None = None
        for rule in self._rules:
            if rule.methods and seen.method not in rule.methods:
                continue
            if rule.states:
                if state is None:
                    state = seen.state
                if state not in rule.states:
                    continue
            return rule
        return None

    def _bare_due(self, record: Record, stored: StoredSegment) -> float | None:
        """Return when a message without a Call-ID is due; no rule with a state is for it."""
        method, _ = _line(record.buf)
        fits = (rule for rule in self._rules if not rule.states and (not rule.methods or method in rule.methods))
        rule = next(fits, None)
        return None if rule is None else stored.modified + rule.age_s

    def _bare_goes(self, record: Record, stored: StoredSegment) -> bool:
        due = self._bare_due(record, stored)
        return due is not None and due <= self._now


class _Notes:
    """What is known of a backend's segments, in a file."""

    def __init__(self, backend: Backend, rules: Sequence[Rule]) -> None:
        site = backend.site
        self._path = os.path.join(site.folder, f".{site.prefix}keep-{backend.name}.json")
        self._rules = [rule.text for rule in rules]
        self.due: dict[str, float | None] = {}
        """By segment, when its next call is due; None: never."""
        self.pending: dict[str, list[str]] = {}
        """By location, calls that are to go because their other segments have lost them."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            with open(self._path, encoding="utf-8") as file:
                found: dict[str, Any] = json.load(file)
            self.pending = {str(location): [str(each) for each in ids] for location, ids in found["pending"].items()}
            if found["rules"] == self._rules:
                self.due = dict(found["due"])

    def note(self, stored: StoredSegment, due: float | None) -> None:
        """Note when the next call of a segment is due."""
        self.due[_key(stored)] = due

    def pend(self, decided: dict[str, dict[str, str]]) -> None:
        """Note what is decided about calls in other segments, durably."""
        pending = {location: sorted(ids) for location, ids in decided.items() if ids}
        if pending != self.pending:
            self.pending = pending
            self._write()

    def keep(self, there: set[str]) -> None:
        """Write what is known of the segments that are there."""
        self.due = {key: due for key, due in self.due.items() if key in there}
        self._write()

    def _write(self) -> None:
        draft = f"{self._path}.{os.getpid()}"
        try:
            with open(draft, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                json.dump({"rules": self._rules, "pending": self.pending, "due": self.due}, file)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # where root has run this, the daemon's user goes on
                folder = os.stat(os.path.dirname(self._path) or ".")
                os.chown(draft, folder.st_uid, folder.st_gid)
            os.replace(draft, self._path)
        except OSError as error:
            raise StorageError.from_os("write", self._path, error) from error


def _key(stored: StoredSegment) -> str:
    return f"{stored.location or stored.segment.name} {stored.modified:.3f}"


def _line(buf: bytes) -> tuple[str, int]:
    """Return a message's method, for a reply that of its CSeq, and a reply's status; 0 for a request."""
    found = _CSEQ.search(buf)
    method = found[1].decode("ascii", "replace").upper() if found else ""
    start = buf.lstrip(b"\r\n")
    if start.startswith(b"SIP/2.0 "):
        digits = start[8:11]
        return method, int(digits) if digits.isdigit() else 1
    return method or start.partition(b" ")[0][:32].decode("ascii", "replace").upper(), 0
