"""Taps for asyncio: what a transport or a stream receives and sends is intercepted without a further call.

Datagrams are messages. A stream is cut into messages by Content-Length (RFC 3261, section 18.3); line ends between
them are keep-alives and are not stored.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from sipdump_core import sip
from sipdump_core.errors import ClosedError
from sipdump_core.log import Limit
from sipdump_core.sipdump import SipDump

__all__ = ["MessageSplitter", "tap_datagram", "tap_streams"]

Store = Callable[[bytes], None]
_limit = Limit()
_MESSAGE_LIMIT = 1 << 20


class MessageSplitter:
    """Cuts a byte stream into SIP messages.

    Args:
        limit: bytes after which a message that does not end is given away as it is, so that memory stays bounded.
    """

    def __init__(self, limit: int = _MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._buffer = b""

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Take bytes, and yield the messages that are whole now."""
        self._buffer += data
        while True:
            buffer = self._buffer.lstrip(b"\r\n\0")
            start = sip.header_end(buffer)
            length = 0 if start < 0 else sip.content_length(buffer, 0, start) or 0
            whole = start >= 0 and start + length <= len(buffer)
            if not whole and len(buffer) <= self._limit:
                self._buffer = buffer
                return
            end = start + length if whole else len(buffer)
            self._buffer = buffer[end:]
            yield buffer[:end]

    def rest(self) -> bytes:
        """Return what is left when the stream ends: a message that was cut, or nothing."""
        rest, self._buffer = self._buffer.lstrip(b"\r\n\0"), b""
        return rest


def tap_datagram(protocol: asyncio.DatagramProtocol, dump: SipDump, proto: str = "udp") -> asyncio.DatagramProtocol:
    """Wrap a datagram protocol so that all it receives and sends is stored.

    ::

        await loop.create_datagram_endpoint(lambda: tap_datagram(MyProtocol(), dump), local_addr=("0.0.0.0", 5060))

    Args:
        protocol: the protocol; it is given a transport whose ``sendto`` is tapped.
        dump: where the messages go. While the queue is full, ``queue_full`` ``block`` holds up the event loop.
        proto: the transport to record.
    """
    return cast(asyncio.DatagramProtocol, _TappedDatagramProtocol(protocol, dump, proto))


def tap_streams(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dump: SipDump, proto: str = ""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Wrap a pair of streams so that all that is read and written through it is stored, a record a message.

    Args:
        reader: the connection's reader.
        writer: the connection's writer.
        dump: where the messages go.
        proto: the transport to record; by default ``tls`` on an encrypted connection, else ``tcp``.

    Returns:
        A reader and a writer to use in their place.
    """
    local, peer = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
    proto = proto or ("tls" if writer.get_extra_info("ssl_object") else "tcp")
    tapped_reader = _TappedReader(reader, lambda buf: _store(dump.received, buf, peer, local, proto))
    tapped_writer = _TappedWriter(writer, lambda buf: _store(dump.sent, buf, local, peer, proto))
    return cast(asyncio.StreamReader, tapped_reader), cast(asyncio.StreamWriter, tapped_writer)


def _store(store: Callable[..., None], buf: bytes | bytearray | memoryview, src: Any, dst: Any, proto: str) -> None:
    """Store a message; what cannot be stored is logged, and is never the application's trouble."""
    try:
        store(buf, src, dst, proto)
    except (ValueError, TypeError, IndexError, ClosedError) as error:
        _limit.warn("tap", "message not stored", src=src, dst=dst, error=error)


class _Proxy:
    """Passes on whatever is not tapped."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class _TappedDatagramProtocol(_Proxy):
    def __init__(self, protocol: asyncio.DatagramProtocol, dump: SipDump, proto: str) -> None:
        super().__init__(protocol)
        self._dump = dump
        self._proto = proto
        self._local: Any = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._local = transport.get_extra_info("sockname")
        self._target.connection_made(_TappedDatagramTransport(transport, self._dump, self._proto))

    def datagram_received(self, data: bytes, addr: Any) -> None:
        _store(self._dump.received, data, addr, self._local, self._proto)
        self._target.datagram_received(data, addr)


class _TappedDatagramTransport(_Proxy):
    def __init__(self, transport: asyncio.DatagramTransport, dump: SipDump, proto: str) -> None:
        super().__init__(transport)
        self._dump = dump
        self._proto = proto

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        self._target.sendto(data, addr)
        local, peer = self._target.get_extra_info("sockname"), addr or self._target.get_extra_info("peername")
        _store(self._dump.sent, data, local, peer, self._proto)


class _TappedReader(_Proxy):
    def __init__(self, reader: asyncio.StreamReader, store: Store) -> None:
        super().__init__(reader)
        self._store = store
        self._splitter = MessageSplitter()

    def _tap(self, data: bytes) -> bytes:
        for message in self._splitter.feed(data):
            self._store(message)
        if self._target.at_eof():
            rest = self._splitter.rest()
            if rest:
                self._store(rest)
        return data

    async def read(self, n: int = -1) -> bytes:
        return self._tap(await self._target.read(n))

    async def readexactly(self, n: int) -> bytes:
        try:
            return self._tap(await self._target.readexactly(n))
        except asyncio.IncompleteReadError as error:
            self._tap(error.partial)
            raise

    async def readline(self) -> bytes:
        return self._tap(await self._target.readline())

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        try:
            return self._tap(await self._target.readuntil(separator))
        except asyncio.IncompleteReadError as error:
            self._tap(error.partial)
            raise

    def __aiter__(self) -> "_TappedReader":
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line


class _TappedWriter(_Proxy):
    def __init__(self, writer: asyncio.StreamWriter, store: Store) -> None:
        super().__init__(writer)
        self._store = store
        self._splitter = MessageSplitter()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._target.write(data)
        for message in self._splitter.feed(data):
            self._store(message)

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(data))

    def close(self) -> None:
        rest = self._splitter.rest()
        if rest:
            self._store(rest)
        self._target.close()
