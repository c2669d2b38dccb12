"""Answers that are sent as they are made, in a thread, so that a page fills while the store is searched."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Generator, Iterator

from anyio import to_thread
from markupsafe import Markup
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sipdump_core.viewing.web.desk import Desk, Scan

__all__ = ["FLUSH", "Filling", "sent_in_time"]

FLUSH = Markup("\0")
"""Where a template wants the browser to get what there is."""
_AT_ONCE = 16 << 10
_STALLED = 30.0
"""Seconds in which a client must take what it is sent."""


class Filling(Response):
    """A page that is sent while it is made.

    Args:
        desk: bounds the search.
        scan: what the page shows; it ends when its time is up, or the browser goes away.
        pieces: the page, which asks ``scan`` as it goes on; :data:`FLUSH` is where to send what there is.
    """

    media_type = "text/html"

    def __init__(self, desk: Desk, scan: Scan, pieces: Iterator[str]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._desk = desk
        self._scan = scan
        self._pieces = pieces

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        # taken here and not in the view, so that it is given back whatever happens
        async with self._desk.slot():
            watch = asyncio.create_task(self._watch(receive))
            try:
                async with self._desk.bounded(self._scan):
                    await sent_in_time(
                        send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                    )
                    async for chunk in self._chunks():
                        await sent_in_time(send, {"type": "http.response.body", "body": chunk, "more_body": True})
                await sent_in_time(send, {"type": "http.response.body", "body": b""})
            finally:
                watch.cancel()
                self._scan.end("the browser went away")

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._scan.end("the browser went away")

    async def _chunks(self) -> AsyncIterator[bytes]:
        joined = _joined(self._pieces)
        try:
            while chunk := await to_thread.run_sync(next, joined, b""):
                yield chunk
        finally:
            with contextlib.suppress(RuntimeError):  # a cancelled request: its thread ends by itself
                joined.close()


def _joined(pieces: Iterator[str]) -> Generator[bytes, None, None]:
    """Yield the pieces of a template in larger ones."""
    held: list[str] = []
    size = 0
    sent = time.monotonic()
    for piece in pieces:
        if piece != FLUSH:
            held.append(piece)
            size += len(piece)
        if held and (size > _AT_ONCE or (piece == FLUSH and time.monotonic() - sent > 0.02)):
            yield "".join(held).encode("utf-8", "replace")
            held, size, sent = [], 0, time.monotonic()
    if held:
        yield "".join(held).encode("utf-8", "replace")


async def sent_in_time(send: Send, message: Message, seconds: float = _STALLED) -> None:
    """Send something to a client, which must take it in time.

    Args:
        send: sends.
        message: what.
        seconds: how long it may take.

    Raises:
        OSError: it did not, or is gone.
    """
    try:
        await asyncio.wait_for(send(message), seconds)
    except TimeoutError:
        raise OSError("the client takes nothing") from None
