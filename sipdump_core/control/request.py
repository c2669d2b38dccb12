"""A request, in whatever protocol it came: how it is taken from a buffer, run and answered."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from sipdump_core.control.commands import Rpc
from sipdump_core.errors import FormatError, RpcFault
from sipdump_core.log import Event, log
from sipdump_core.net.loop import Loop

__all__ = ["READ_BYTES", "REQUESTS_A_ROUND", "Answer", "Executor", "Request", "Take"]

READ_BYTES = 65536
"""Bytes to read from a client at once."""
REQUESTS_A_ROUND = 64
"""Requests of a client that are run before the others have their turn."""
_MAX_SLOW = 8
_UNLIMITED = 1 << 24


class Request(Protocol):
    """A request, and how to answer it, in BINRPC, JSON-RPC or HTTP."""

    @property
    def method(self) -> str:
        """The command, as ``"sipdump.enable"``."""

    @property
    def args(self) -> Sequence[Any]:
        """Its arguments."""

    @property
    def error(self) -> RpcFault | None:
        """Why there is nothing to call, if so."""

    @property
    def stray(self) -> bool:
        """Whether it is the answer of another server: two servers that answer answers would do so for ever."""

    @property
    def unreadable(self) -> bool:
        """Whether it is nothing of its protocol."""

    @property
    def close(self) -> bool:
        """Whether the connection ends after the answer."""

    @property
    def numeric_strings(self) -> bool:
        """Whether the string "1" is as good as the number."""

    def success(self, values: Sequence[Any], *, array: bool) -> bytes:
        """Render the answer: a list of results, or one."""

    def failure(self, fault: RpcFault) -> bytes:
        """Render a fault."""


Answer = Callable[[bytes], None]
"""Takes the bytes of an answer, in the loop's thread."""
Take = Callable[[bytearray], Request | None]
"""Cuts a request off the front of a buffer; returns None while it is not whole."""


class Executor:
    """Runs the commands of requests: those that wait for a store in threads of their own, eight at once.

    Args:
        rpc: the commands.
        loop: in whose thread requests come and are answered.
    """

    def __init__(self, rpc: Rpc, loop: Loop) -> None:
        self._rpc = rpc
        self._loop = loop
        self._slow = 0

    def execute(self, request: Request, answer: Answer, limit: int = _UNLIMITED) -> None:
        """Run a request's command, and pass the bytes of the answer to ``answer``, now or later, in this thread.

        Args:
            request: what to run.
            answer: takes the answer.
            limit: bytes that an answer may have; of a longer one a fault says so.
        """
        method = self._rpc.methods.get(request.method)
        if method is None or not method.slow or request.error is not None:
            answer(self._run(request, limit))
        elif self._slow >= _MAX_SLOW:
            answer(request.failure(RpcFault(500, "too many commands are under way, try again later")))
        else:
            run = partial(self._run_slow, request, answer, limit)
            try:
                threading.Thread(target=run, name="sipdump-ctl-command", daemon=True).start()
            except (RuntimeError, MemoryError) as error:  # the limit of threads, say
                self._loop.limit.warn("thread", "control command: no thread for it", error=error)
                answer(request.failure(RpcFault(500, "no thread can be started for it, try again later")))
            else:
                self._slow += 1

    def _run_slow(self, request: Request, answer: Answer, limit: int) -> None:
        try:
            data = self._run(request, limit)
        except BaseException as error:  # noqa: BLE001 - SystemExit, say: a place for a command must not be lost
            log.exception(Event("control command failed", method=request.method))
            data = request.failure(RpcFault(500, f"internal server error: {type(error).__name__}"))

        def finish() -> None:
            self._slow -= 1
            answer(data)

        self._loop.call_soon(finish)

    def _run(self, request: Request, limit: int) -> bytes:
        try:
            if request.error is not None:
                return request.failure(request.error)
            values = self._rpc.call(request.method, request.args, numeric_strings=request.numeric_strings)
            data = request.success(values, array=self._rpc.methods[request.method].array)
            if len(data) > limit:
                reason = f"a reply of {len(data)} bytes does not fit into a datagram; use a stream socket"
                return request.failure(RpcFault(500, reason))
        except RpcFault as fault:
            return request.failure(fault)
        except FormatError as error:
            return request.failure(RpcFault(500, str(error)))
        except Exception as error:  # noqa: BLE001 - a command that fails is answered, and the next one is taken
            log.exception(Event("control command failed", method=request.method))
            return request.failure(RpcFault(500, f"internal server error: {type(error).__name__}"))
        return data
