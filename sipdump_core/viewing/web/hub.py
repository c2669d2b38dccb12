"""The hub: one thread follows the store for all viewers, as long as there is one."""

import json
import threading
from collections.abc import Callable, Iterable
from itertools import islice

import attrs

from sipdump_core.cache import Cache
from sipdump_core.calls.call import Call
from sipdump_core.calls.message import Message
from sipdump_core.drivers.query import Query
from sipdump_core.log import Limit
from sipdump_core.reading.lines import endpoint
from sipdump_core.reading.redacting import Redactor
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from sipdump_core.viewing.listing import Row, row_of
from sipdump_core.viewing.live import Live, Viewer
from sipdump_core.viewing.web.addresses import call_path
from sipdump_core.viewing.web.limits import BusyError
from sipdump_core.viewing.web.pages import clock, cut, length_of

__all__ = ["Hub", "masked"]

_VIEWERS = 50
_WAITING = 2000
"""Calls, and messages, that wait for one viewer; what comes more is lost to it, with a count."""
_BEFORE_US = 300_000_000
_BEFORE = 20_000
"""What is read at the start of calls that go on: their messages of some minutes, and no more than so many."""


class Hub:
    """Follows the store while there are viewers.

    Args:
        open_store: opens it; each thread needs one of its own.
        redactor: masks what is shown.
    """

    def __init__(self, open_store: Callable[[], Store], redactor: Redactor | None = None) -> None:
        self._redactor = redactor
        self._open_store = open_store
        self._live: Live | None = None
        self._viewers: dict[Viewer, Callable[[], object]] = {}
        """Each with what wakes it."""
        self._lock = threading.Lock()
        self._closed = False
        self._limit = Limit()
        self._rows: Cache[int, tuple[Row, str]] = Cache(4 * _WAITING)
        self._records: Cache[int, tuple[Record, str]] = Cache(4 * _WAITING)

    def join(self, query: Query, wake: Callable[[], object]) -> Viewer:
        """Add a viewer; the first one begins to follow. This may take a moment.

        Args:
            query: which calls and messages.
            wake: see :class:`~sipdump_core.viewing.live.Viewer`.

        Raises:
            BusyError: there are as many as there may be.
        """
        viewer = Viewer(query, messages=True, waiting=_WAITING, wake=wake)
        with self._lock:
            if self._closed or len(self._viewers) >= _VIEWERS:
                raise BusyError(f"{len(self._viewers)} viewers follow the traffic, and no more may")
            if self._live is None:
                self._live = self._started()
            self._viewers[viewer] = wake
            return self._live.join(viewer)

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer; the last one ends it. This may take a moment."""
        with self._lock:
            self._viewers.pop(viewer, None)
            live = self._live
            if live is None:
                return
            live.leave(viewer)
            if not self._viewers:
                self._live = None
                live.stop()
                self._rows.clear()
                self._records.clear()

    def close(self) -> None:
        """Let nobody in any more, and wake those who are in."""
        self._closed = True
        for wake in list(self._viewers.values()):
            wake()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def events(self, viewer: Viewer) -> str:
        """Return what waits for a viewer as one server-sent event; empty where nothing does.

        It is an object with ``rows``, ``gone`` (Call-IDs), ``messages``, and ``lost`` where something was.
        """
        taken = viewer.take()
        live = self._live
        for problem in live.problems() if live is not None else ():
            self._limit.warn("live", "something cannot be followed", error=problem)
        lost = taken.lost_calls + taken.lost_messages
        if not (taken.rows or taken.gone or taken.messages or lost):
            return ""
        rows = ",".join(self._row(row) for row in taken.rows)
        messages = ",".join(self._message(record) for record in taken.messages)
        gone = json.dumps([call_path("/call", one) for one in taken.gone])
        return f'data: {{"rows":[{rows}],"gone":{gone},"messages":[{messages}],"lost":{lost}}}\n\n'

    def _started(self) -> Live:
        live = Live(self._open_store())
        live.start()
        live.ready.wait(10)
        store = self._open_store()
        newest_us = store.newest_us()
        if newest_us is not None:  # what comes twice counts once: a call knows its messages
            before = store.unsorted(Query(since_us=newest_us - _BEFORE_US))
            live.feed(islice(before, _BEFORE))
        return live

    def _row(self, row: Row) -> str:
        """Return a call as JSON; all viewers get the same row, and it is made once."""
        known = self._rows.get(id(row))
        if known is None:
            shown = self._shown(row)
            summary = shown.summary
            content = {
                "href": call_path("/call", summary.call_id),
                "began": clock(summary.began),
                "began_us": summary.began,
                "state": summary.state,
                "mark": shown.mark,
                "kind": "" if summary.kind == "call" else summary.kind,
                "status": summary.status or "",
                "from": cut(summary.from_user or summary.from_uri),
                "to": cut(summary.to_user or summary.to_uri),
                "messages": summary.messages,
                "duration": length_of(summary.duration),
                "delay": length_of(summary.post_dial_delay),
                "src": summary.src,
                "dst": summary.dst,
                "agent": cut(shown.agent),
                "call_id": cut(summary.call_id, 80),
            }
            known = self._rows.keep(id(row), (row, json.dumps(content)))
        return known[1]

    def _shown(self, row: Row) -> Row:
        """Return a row as it is shown."""
        live = self._live
        if self._redactor is None or live is None:
            return row
        records = live.records(row.call_id)
        if not records:  # it was dropped meanwhile; what happened in it says who calls whom
            blank = attrs.evolve(row.summary, from_user=None, from_uri=None, to_user=None, to_uri=None)
            return attrs.evolve(row, summary=blank, agent="")
        return row_of(masked(row.call_id, records, self._redactor), row.newest_us)

    def _message(self, record: Record) -> str:
        known = self._records.get(id(record))
        if known is None:
            message = Message((self._redactor.record(record) if self._redactor else record).buf)
            call_id = message.call_id
            what = f"{message.label} ({message.cseq_method})" if message.status is not None else message.label
            content = {
                "href": call_path("/call", call_id) if call_id else "",
                "time": clock(record.time_us, "%H:%M:%S.%f"),
                "what": cut(what),
                "mark": _mark(message),
                "from": cut(message.from_.user or message.from_.uri),
                "to": cut(message.to.user or message.to.uri),
                "src": endpoint(record.src_ip, record.src_port),
                "dst": endpoint(record.dst_ip, record.dst_port),
                "proto": record.proto,
                "node": cut(record.node),
            }
            known = self._records.keep(id(record), (record, json.dumps(content)))
        return known[1]


def masked(call_id: str, records: Iterable[Record], redactor: Redactor) -> Call:
    """Return a call of records as a redactor lets them be seen."""
    call = Call(call_id)
    for record in records:
        call.add(redactor.record(record))
    return call


def _mark(message: Message) -> str:
    if message.status is None:
        return "request"
    return {1: "provisional", 2: "success", 3: "redirect"}.get(message.status // 100, "failure")
