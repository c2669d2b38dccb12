"""The server: uvicorn on one socket, with a bound on what strangers can hold, and an end that waits for nobody."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sipdump_core.calls.legs import LegRules
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.log import escaped, setup
from sipdump_core.reading.redacting import redactor_of, stand_ins_of
from sipdump_core.reading.shelves import configs_of, open_shelves
from sipdump_core.viewing.web.app import make_app
from sipdump_core.viewing.web.desk import Desk
from sipdump_core.viewing.web.gate import HEADERS, Keys, Places
from sipdump_core.viewing.web.limits import Limits
from sipdump_core.viewing.web.pages import Pages

__all__ = ["serve"]

_CONNECTIONS = 200
_REQUEST_SECONDS = 10.0
"""A request has this long to arrive as a whole."""
_HEAD_BYTES = 256 << 10
"""Of a request's head: a Call-ID may be as long as a message, and percent-encoded."""
_GRACE = 2
_COLLECT_AFTER = 50_000
"""See :mod:`sipdump_core.reading.session`."""


def serve(args: argparse.Namespace, rules: LegRules, host: str, port: int, url: str | None, limits: Limits) -> int:
    """Serve the page until SIGTERM or SIGINT.

    Args:
        args: the parsed arguments of the store and of the proxy.
        rules: what links the legs of a call.
        host: where to listen.
        port: 0: any that is free.
        url: where browsers reach the proxy; None: there is none, or it checks that itself.
        limits: of searches.

    Returns:
        0.

    Raises:
        ConfigError: there is no such store, or the token is no good.
        StorageError: the port cannot be had.
    """
    shelves, problems = open_shelves(
        configs=args.configs,
        defines=args.defines,
        folders=args.folders,
        fprefix=args.fprefix,
        files=args.files,
        urls=args.urls,
    )
    for problem in problems:
        print(f"sipdump-read: {escaped(str(problem))}", file=sys.stderr)
    keys = Keys(token=_token(args.token_file)) if args.token_file else Keys()
    pages = Pages(list(dict.fromkeys(map(str, shelves))))
    desk = Desk(
        shelves,
        rules,
        pages,
        keys,
        limits,
        problems,
        configs=configs_of(args),
        defines=args.defines,
        base=url or "",
        stand_ins=stand_ins_of(args),
        redactor=redactor_of(args),
    )
    setup("kv", "info")
    gc.set_threshold(_COLLECT_AFTER)
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        places = Places.local(host, port)
        if args.behind_proxy is not None:
            places = places.behind(url)
        shown = f"[{host}]" if ":" in host else host
        base = (url or f"http://{shown}:{port}").rstrip("/")
        asyncio.run(_run(listener, desk, places, f"{base}/?token={keys.token}"))
    return 0


async def _run(listener: socket.socket, desk: Desk, places: Places, address: str) -> None:
    def tell() -> None:
        print(f"sipdump-read: open {address}", flush=True)
        print("sipdump-read: whoever has this address can read every call; Ctrl-C ends it", file=sys.stderr)

    warming = asyncio.create_task(desk.warm())
    await _Server(_configured(desk, places), desk, tell).serve([listener])
    warming.cancel()


def _configured(desk: Desk, places: Places) -> uvicorn.Config:
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())
    logging.getLogger("uvicorn").propagate = False  # the gate logs what goes wrong
    return uvicorn.Config(
        make_app(desk, places),
        http=_Patient,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )


class _Server(uvicorn.Server):
    """Ends what is open when it is told to end."""

    def __init__(self, config: uvicorn.Config, desk: Desk, tell: Callable[[], object] = lambda: None) -> None:
        super().__init__(config)
        self._desk = desk
        self._tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so once everything is ready, also for a signal."""
        await super().startup(sockets)
        self._tell()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGTERM and SIGINT, and return; uvicorn's own way raises the signal again."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._end)
        try:
            yield
        finally:
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(each)

    def _end(self) -> None:
        self.force_exit = self.should_exit  # the second one waits for nobody
        self.should_exit = True
        self._desk.close()


class _Patient(H11Protocol):
    """HTTP/1.1 that waits for a request only so long, and for so many clients."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin, unless too many have begun already."""
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
            return
        self._deadline = self.loop.call_later(_REQUEST_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Take data; with the first of a request, its time begins."""
        super().data_received(data)
        whole = self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)
        if whole and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif not whole and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(_REQUEST_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, with the headers that each answer has."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is under way
            self.transport.close()
            return
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close"), *HEADERS.items()]
        for event in (
            h11.Response(status_code=400, headers=headers, reason="Bad Request"),
            h11.Data(data=msg.encode()),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen.

    Raises:
        StorageError: the port cannot be had.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise StorageError("listen on", place, reason or str(error), "name another one: --listen") from error
    with listener:
        yield listener


def _token(path: str) -> str:
    """Read the token that a proxy knows too.

    Raises:
        ConfigError: others may read the file, or what it has is too short.
        StorageError: it cannot be read.
    """
    place = f"--token-file {path}"
    try:
        with open(path, encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError("others may read it: chmod 600", place)
            token = file.read(1000).strip()
    except UnicodeDecodeError:
        raise ConfigError("a token is letters and digits", place) from None
    except OSError as error:
        raise StorageError.from_os("read", path, error) from error
    if len(token) < 32 or not token.replace("-", "").replace("_", "").isalnum():
        raise ConfigError("a token has at least 32 letters and digits: openssl rand -hex 32", place)
    return token
