"""The asyncio taps, on real sockets."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.sipdump import SipDump
from sipdump_core.sources.asyncio_taps import MessageSplitter, tap_datagram, tap_streams
from tests.core.support import read
from tests.support import OPTIONS

REPLY = b"SIP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nbody"


class Echo(asyncio.DatagramProtocol):
    """Answers each datagram."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.transport.sendto(REPLY, addr)  # type: ignore[attr-defined]  # a datagram transport has it


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.got.set_result(data)


def test_datagrams(tmp_path: Path) -> None:
    async def main(dump: SipDump) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(lambda: tap_datagram(Echo(), dump), local_addr=("127.0.0.1", 0))
        port = server.get_extra_info("sockname")[1]
        client, protocol = await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", port))
        client.sendto(OPTIONS)
        assert await asyncio.wait_for(protocol.got, 10) == REPLY
        peer = client.get_extra_info("sockname")[1]
        client.close()
        server.close()
        return port, peer

    with SipDump(enable=1, folder=tmp_path) as dump:
        port, peer = asyncio.run(main(dump))
    one, two = read(tmp_path)
    assert (one.tag, one.proto, one.src_port, one.dst_port, one.buf) == ("rcv", "udp", peer, port, OPTIONS)
    assert (two.tag, two.proto, two.src_port, two.dst_port, two.buf) == ("snd", "udp", port, peer, REPLY)


def test_what_cannot_be_stored_is_never_the_applications_trouble(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[bytes] = []

    class App(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            got.append(data)

    class Transport:
        def get_extra_info(self, name: str) -> object:
            return ("::", 5060, 0, 0)

        def sendto(self, data: bytes, addr: object) -> None:
            got.append(data)

    dump = SipDump(enable=1, folder=tmp_path)
    tapped = tap_datagram(App(), dump)
    tapped.connection_made(Transport())  # type: ignore[arg-type]  # what the tap uses of it
    tapped.datagram_received(b"dual stack", ("192.0.2.1", 5060))
    tapped.datagram_received(b"no address", ("localhost", 5060))
    dump.close()
    tapped.datagram_received(b"closed", ("192.0.2.1", 5060))
    assert got == [b"dual stack", b"no address", b"closed"]
    assert [r.buf for r in read(tmp_path)] == [b"dual stack"]
    assert "message not stored" in caplog.text


def test_a_connected_datagram_client(tmp_path: Path) -> None:
    async def main(dump: SipDump) -> None:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        inner = Client()
        client, _ = await loop.create_datagram_endpoint(
            lambda: tap_datagram(inner, dump), remote_addr=server.get_extra_info("sockname")
        )
        # what the protocol was given is the tapped transport
        tap_client = tap_datagram(inner, dump)
        tap_client.connection_made(client)
        client.sendto(OPTIONS)
        assert await asyncio.wait_for(inner.got, 10) == REPLY
        client.close()
        server.close()

    with SipDump(enable=1, folder=tmp_path) as dump:
        asyncio.run(main(dump))
    assert [(r.tag, r.buf) for r in read(tmp_path)] == [("rcv", REPLY)]


def test_streams(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader, writer = tap_streams(reader, writer, dump)
        assert await reader.readuntil(b"\r\n\r\n") == b"\r\n\r\n"
        assert await reader.readuntil(b"\r\n\r\n") == OPTIONS
        writer.write(REPLY[:20])
        writer.writelines([REPLY[20:], b"\r\n\r\n"])
        await writer.drain()
        head = await reader.readline()
        assert head == b"MESSAGE sip:x SIP/2.0\r\n"
        assert [line async for line in reader] == [b"Content-Length: 5\r\n", b"\r\n", b"12345"]
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"\r\n\r\n" + OPTIONS)
        assert await reader.readexactly(len(REPLY)) == REPLY
        writer.write(b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 5\r\n\r\n12345")
        writer.write_eof()
        await reader.read()
        writer.close()
        server.close()
        await server.wait_closed()

    with SipDump(enable=1, folder=tmp_path) as dump:
        asyncio.run(main())
    found = read(tmp_path)
    assert [(r.tag, r.proto, r.buf) for r in found] == [
        ("rcv", "tcp", OPTIONS),
        ("snd", "tcp", REPLY),
        ("rcv", "tcp", b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 5\r\n\r\n12345"),
    ]
    assert found[0].src_port == found[1].dst_port


def test_a_stream_that_ends_within_a_message(tmp_path: Path) -> None:
    async def main(dump: SipDump) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(OPTIONS[:40])
        reader.feed_eof()
        writer = _FakeWriter()
        tapped, _ = tap_streams(reader, writer, dump)  # type: ignore[arg-type]  # what the tap uses of it
        with pytest.raises(asyncio.IncompleteReadError):
            await tapped.readexactly(100)

    with SipDump(enable=1, folder=tmp_path) as dump:
        asyncio.run(main(dump))
    assert [(r.proto, r.buf) for r in read(tmp_path)] == [("tls", OPTIONS[:40])]


class _FakeWriter:
    def get_extra_info(self, name: str) -> object:
        return {"sockname": ("::1", 5061, 0, 0), "peername": ("::1", 4, 0, 0), "ssl_object": object()}[name]


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.integers(1, 40))
def test_a_stream_is_cut_into_its_messages_however_it_arrives(bodies: list[bytes], step: int) -> None:
    messages = [b"MESSAGE sip:x SIP/2.0\r\nl: %d\r\n\r\n" % len(body) + body for body in bodies]
    stream = b"\r\n\r\n".join(messages)
    splitter = MessageSplitter()
    found = [m for at in range(0, len(stream), step) for m in splitter.feed(stream[at : at + step])]
    assert found == messages
    assert splitter.rest() == b""


def test_a_message_that_never_ends_is_given_away() -> None:
    splitter = MessageSplitter(limit=100)
    assert list(splitter.feed(b"x" * 80)) == []
    assert list(splitter.feed(b"x" * 80)) == [b"x" * 160]
    assert list(splitter.feed(OPTIONS[:90])) == []


def test_the_limit_of_a_message_that_does_not_end_is_exact() -> None:
    splitter = MessageSplitter(limit=10)
    assert list(splitter.feed(b"x" * 10)) == []
    assert list(splitter.feed(b"y")) == [b"x" * 10 + b"y"]
    assert splitter.rest() == b""
