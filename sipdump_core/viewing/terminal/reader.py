"""The reader: the process that reads the store for the terminal, so that a key never waits for a scan.

``python -m sipdump_core.viewing.terminal.reader FD`` talks to the terminal over a socket that it inherits. It ends when
that is closed. A scan runs in the main thread, where a signal can interrupt a backend's search; what comes is followed,
ladders are made and files written in threads of their own, each with a store of its own.
"""

import argparse
import contextlib
import gc
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from sipdump_core.calls.call import Call
from sipdump_core.calls.ladder import Ladder, lay_out
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError, SipDumpError
from sipdump_core.log import warnings_to
from sipdump_core.reading.export import form_of, write_page, write_records
from sipdump_core.reading.files import new_file, replaced_file, write_new
from sipdump_core.reading.finder import Found as FoundCall
from sipdump_core.reading.redacting import redactor_of, stand_ins_of
from sipdump_core.reading.render.formats import Style, render
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import open_shelves
from sipdump_core.reading.store import Interrupted, Store
from sipdump_core.viewing.live import Live, Viewer
from sipdump_core.viewing.scan import Scan
from sipdump_core.viewing.terminal.wire import (
    Broken,
    Came,
    Found,
    Hold,
    Open,
    Opened,
    Options,
    Refused,
    Report,
    Save,
    Saved,
    Scanned,
    Seek,
)
from sipdump_core.viewing.words import Search

__all__ = ["Reader", "main"]

_ROWS = 400
"""Calls that are sent at once, so that the terminal is never busy for long."""
_PAUSE = 0.2
"""Seconds between two reports of what came."""
_COLLECT_AFTER = 100_000
_WAKE = signal.SIGUSR1


class Reader:
    """Answers the terminal's requests.

    Args:
        connection: to the terminal.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._options: Options = connection.recv()
        self._seeks: queue.SimpleQueue[Seek] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[Open | Save] = queue.SimpleQueue()
        self._scanned: Store | None = None
        """What the scan that is under way reads."""
        self._opened: Store | None = None
        """What the ladder that is being made reads."""
        self._idle = threading.Event()
        """Set while no ladder is being made, and no file written: these go first."""
        self._idle.set()
        self._awaited = 0
        """The number of the latest search: what was found for another one is of no use."""
        self._joined = threading.Lock()
        self._viewer, self._viewer_number = Viewer(), 0
        self._problems = Searched()

    def run(self) -> None:
        """Answer until the terminal closes the connection; then the process ends."""
        options = self._options
        args = argparse.Namespace(**options.store, redact=options.redact, users_keys=options.users_keys)
        self._redactor = redactor_of(args)
        self._stand_ins = stand_ins_of(args)
        shelves, problems = open_shelves(**options.store)
        for problem in problems:
            self._problems.problem(problem)
        self._shelves = shelves
        followed, _ = open_shelves(**options.store)  # its own, because a backend is for one thread
        self._live = Live(Store(followed), shown=self._redactor.record if self._redactor else None)
        for work in (self._receive, self._watch, self._work):
            threading.Thread(target=self._guarded, args=(work,), name=f"sipdump{work.__name__}", daemon=True).start()
        self._live.start()
        signal.signal(_WAKE, self._interrupt)
        while True:
            with contextlib.suppress(Interrupted):
                self._scan(self._seeks.get())

    def report_error(self, error: Exception) -> None:
        """Tell the terminal why the reader ends."""
        with contextlib.suppress(OSError):
            self._send(Broken(str(error) or repr(error), wrong=isinstance(error, ConfigError)))

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except (EOFError, ConnectionError):  # the terminal is gone
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the terminal must not wait for ever
            self.report_error(error if isinstance(error, Exception) else SipDumpError(repr(error)))
            os._exit(1)

    def _receive(self) -> None:
        main = threading.main_thread().ident
        while True:
            request = self._connection.recv()
            if request is None:
                raise EOFError
            if isinstance(request, Seek | Hold):
                if isinstance(request, Seek):
                    self._awaited = request.number
                    self._seeks.put(request)
                if self._scanned is not None and main is not None:
                    signal.pthread_kill(main, _WAKE)
            else:
                if self._opened is not None and isinstance(request, Open):
                    self._opened.interrupted = True  # the ladder before is not waited for any more
                self._jobs.put(request)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._scanned is not None:
            self._scanned.interrupt()

    def _send(self, report: Report) -> None:
        with self._sending:
            self._connection.send(report)

    def _scan(self, seek: Seek) -> None:
        """Make a search, unless another one is wanted by now."""
        if seek.number != self._awaited:
            return
        self._live.ready.wait()
        try:
            search = Search(seek.words)
            query = search.query(datetime.now().astimezone(), self._stand_ins)
            rules = search.rules
        except ConfigError as error:
            self._send(Refused(seek.number, str(error)))
            return
        store = self._scanned = Store(self._shelves, rules=rules)
        scan = Scan(store, query, self._live.feed, around=search.around, give_way=self._idle.wait)
        with self._joined:
            self._live.leave(self._viewer)
            self._viewer, self._viewer_number = Viewer(query), seek.number
            self._live.join(self._viewer)
        known: set[str] = set()
        why, back_us = "all", 0
        try:
            for piece in scan.pieces():
                if seek.number != self._awaited:
                    return
                known.update(row.call_id for row in piece.rows)
                known.difference_update(piece.gone)
                back_us = piece.back_us if piece.whole else back_us
                for first in range(0, max(len(piece.rows), 1), _ROWS):
                    rows = piece.rows[first : first + _ROWS]
                    self._send(Found(seek.number, rows, [] if first else piece.gone, back_us))
                if seek.limit and len(known) >= seek.limit:
                    why = "limit"
                    break
        except SipDumpError as error:
            scan.searched.problem(str(error))
        finally:
            self._scanned = None
        searched = scan.searched
        why = "held" if store.interrupted else why
        self._send(Scanned(seek.number, why, searched.segments, searched.problems, searched.notes))

    def _watch(self) -> None:
        """Report what comes."""
        before = None
        while True:
            began = time.monotonic()
            viewer, number = self._viewer, self._viewer_number
            taken = viewer.take(1.0)
            problems = [*self._problems.problems, *self._live.problems()]
            self._problems.problems.clear()
            counts = self._live.counts
            if number and (taken.rows or taken.gone or problems or counts != before):
                for first in range(0, max(len(taken.rows), 1), _ROWS):
                    rows = taken.rows[first : first + _ROWS]
                    gone, lost = ([], 0) if first else (taken.gone, taken.lost_calls)
                    self._send(Came(number, rows, gone, lost, counts, problems))
                before = counts
            time.sleep(max(0.0, _PAUSE - (time.monotonic() - began)))

    def _work(self) -> None:
        """Make ladders, and write files."""
        shelves, _ = open_shelves(**self._options.store)
        with warnings_to(self._problems.problem):
            while True:
                job = self._jobs.get()
                self._idle.clear()
                try:
                    self._open(job, Store(shelves)) if isinstance(job, Open) else self._save(job, Store(shelves))
                except SipDumpError as error:
                    self._send(Refused(job.number, str(error)))
                finally:
                    self._idle.set()

    def _open(self, wanted: Open, store: Store) -> None:
        self._opened = store
        if not self._jobs.empty():
            return  # another one is wanted by now
        held = [Call.of(records) for one in wanted.call_ids if (records := self._live.records(one))]
        if held:
            self._send(Opened(wanted.number, self._laid_out(held), complete=False, legs=0, problems=()))
        searched = Searched()
        found = self._masked(store.find(Query(call_ids=wanted.call_ids), searched, with_legs=True), store)
        if store.interrupted:
            return
        asked = {one.summary.call_id: one for one in found}
        chosen = [asked.pop(one) for one in wanted.call_ids if one in asked]
        others = list(asked.values())
        drawn = [*chosen, *others] if wanted.legs else chosen
        ladder = None
        if drawn:
            calls, summaries = [one.call for one in drawn], [one.summary for one in drawn]
            ladder = lay_out(calls, names=self._options.names, summaries=summaries, notes=searched.notes)
        self._send(Opened(wanted.number, ladder, complete=True, legs=len(others), problems=searched.problems))

    def _masked(self, found: Iterable[FoundCall], store: Store) -> list[FoundCall]:
        """Return calls as the viewer may see them."""
        return list(self._redactor.found(found, store.now_us) if self._redactor else found)

    def _laid_out(self, calls: Sequence[Call]) -> Ladder:
        return lay_out(calls, names=self._options.names, now_us=int(time.time() * 1_000_000))

    def _save(self, wanted: Save, store: Store) -> None:
        path = os.path.expanduser(wanted.path)
        if os.path.lexists(path) and not wanted.replace:
            self._send(Refused(wanted.number, f"{path} is there already", exists=True))
            return
        form = "text" if path.lower().endswith(".txt") else form_of(path)
        searched = Searched()
        query = Query(call_ids=wanted.call_ids)
        found = self._masked(store.find(query, searched, legs=wanted.legs, with_legs=wanted.legs), store)
        if not found:
            raise ConfigError("; ".join(searched.problems) or "these calls are not in the store any more", path)
        with replaced_file(path) if wanted.replace else new_file(path) as draft:
            self._write(found, draft, form, searched.notes, text=path.lower().endswith(".txt"))
        there = {one.summary.call_id for one in found}
        missing = len(set(wanted.call_ids) - there)
        self._send(Saved(wanted.number, os.path.abspath(path), len(found), missing))

    def _write(self, found: list[FoundCall], path: str, form: str, notes: Sequence[str], *, text: bool) -> None:
        names = dict(self._options.names)
        if text:
            ladders = (lay_out([one.call], names=names, summaries=[one.summary], notes=notes) for one in found)
            pages = (render(ladder, "text", Style(messages="raw")) for ladder in ladders)
            write_new(path, "\n\n".join(pages).encode("utf-8", "surrogateescape"))
        elif form == "html":
            write_page(found, path, names, notes)
        else:
            write_records(found, path, form, names)


def main(argv: Sequence[str]) -> int:
    """Run the reader over an inherited socket.

    Args:
        argv: its file descriptor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is a key of the terminal
    gc.set_threshold(_COLLECT_AFTER)
    link = socket.socket(fileno=int(argv[0]))
    connection = Connection(link.detach())
    try:
        reader = Reader(connection)
    except EOFError:
        return 0
    try:
        with warnings_to(reader._problems.problem):
            reader.run()
    except (EOFError, ConnectionError):
        return 0
    except SipDumpError as error:
        reader.report_error(error)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
