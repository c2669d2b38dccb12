"""Receiving HEP on real sockets."""

import contextlib
import fcntl
import gzip
import socket
import ssl
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

import sipdump_core.net
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.errors import ConfigError
from sipdump_core.net import recvmmsg
from sipdump_core.net.gathering import Gathering
from sipdump_core.record import Record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.settings.options import Setting, build
from sipdump_core.sipdump import SipDump
from sipdump_core.sources import hep, hep_datagrams
from sipdump_core.sources.hep import HepSource
from sipdump_core.sources.hep_datagrams import ROUND
from sipdump_text import TextBackend
from tests.hep import SIP, chunk, frame, hep3
from tests.support import wait_for


class Bench:
    """A source with a dump behind it, and sockets that send to it."""

    def __init__(self, folder: Path, *listen: str, **options: object) -> None:
        self.folder = folder
        self.dump = SipDump(enable=1, folder=folder, default_queue_full="drop")
        listen = listen or ("udp:127.0.0.1:0", "tcp:127.0.0.1:0")
        self.source = HepSource(HepOptions(listen=listen, time_window=0, **options), self.dump)  # type: ignore[arg-type]
        self.sockets: list[socket.socket] = []

    def udp(self, number: int = 0) -> socket.socket:
        return self.connect(number, socket.SOCK_DGRAM)

    def tcp(self, number: int = 1) -> socket.socket:
        return self.connect(number, socket.SOCK_STREAM)

    def connect(self, number: int, kind: int) -> socket.socket:
        where = self.source.addresses[number]
        sock = socket.socket(socket.AF_INET6 if ":" in where.host else socket.AF_INET, kind)
        sock.connect((where.host, where.port))
        self.sockets.append(sock)
        return sock

    def stored(self, count: int) -> list[Record]:
        wait_for(lambda: self.source.stats().get("records", 0) >= count)
        assert self.dump.flush(60)
        backend = TextBackend(NoOptions(), Site(str(self.folder), "kamailio-sipdump-"))
        return [record for stored in backend.segments() for record in backend.read(stored)]

    def count(self, name: str) -> int:
        return self.source.stats().get(name, 0)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.source.close()
        self.dump.close()


@pytest.fixture(params=["recvmmsg", "recvfrom"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have datagrams received in rounds, and one by one, as where there is no recvmmsg."""
    if request.param == "recvfrom":
        monkeypatch.setattr(hep_datagrams, "_recvmmsg", lambda: None)
    return str(request.param)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    with contextlib.ExitStack() as stack:

        def make(*listen: str, **options: object) -> Bench:
            bench = Bench(tmp_path, *listen, **options)
            stack.callback(bench.close)
            return bench

        yield make


@pytest.mark.usefixtures("either_way")
def test_udp(bench: Bench) -> None:
    sock = bench.udp()
    for n in range(300):
        sock.send(hep3(b"%d" % n))
    assert [r.buf for r in bench.stored(300)] == [b"%d" % n for n in range(300)]
    assert bench.count("packets") == 300
    assert bench.count("kernel_dropped") == 0


def test_several_messages_on_one_tcp_stream_in_pieces(bench: Bench) -> None:
    stream = b"".join(hep3(b"%d" % n) for n in range(50))
    sock = bench.tcp()
    for at in range(0, len(stream), 777):
        sock.sendall(stream[at : at + 777])
    assert [r.buf for r in bench.stored(50)] == [b"%d" % n for n in range(50)]


@pytest.mark.usefixtures("either_way")
def test_ipv6(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "udp:[::1]:0", "tcp:[::1]:0")
    bench.udp().send(hep3(b"udp", src=("::1", 1), dst=("2001:db8::1", 2)))
    bench.tcp().sendall(hep3(b"tcp", src=("2001:db8::1", 1), dst=("::1", 2)))
    assert {(r.buf, r.tag) for r in bench.stored(2)} == {(b"udp", "snd"), (b"tcp", "rcv")}
    bench.close()


@pytest.mark.usefixtures("either_way")
def test_malformed_packets_are_counted_and_logged_at_most_once_a_second(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    sock = bench.udp()
    for _ in range(200):
        sock.send(b"garbage")
    sock.send(hep3())
    assert len(bench.stored(1)) == 1
    assert bench.count("malformed") == 200
    lines = [line for line in caplog.messages if "malformed HEP packet" in line]
    assert 1 <= len(lines) <= 3
    assert f"peer=127.0.0.1:{sock.getsockname()[1]}" in lines[0]


def test_a_stream_with_garbage_goes_on_and_one_cut_in_a_frame_is_counted(bench: Bench) -> None:
    sock = bench.tcp()
    sock.sendall(b"GET / HTTP/1.1\r\n\r\n" + hep3(b"good") + hep3(b"torn")[:-1])
    sock.close()
    assert [r.buf for r in bench.stored(1)] == [b"good"]
    wait_for(lambda: bench.count("malformed") == 2)


def test_a_connection_that_brings_nothing_good_is_closed(bench: Bench) -> None:
    sock = bench.tcp()
    with contextlib.suppress(OSError):
        for _ in range(1000):
            sock.sendall(hep3()[:-1].replace(b"HEP3", b"HEP4") + b"HEP3\0\x07x")
    wait_for(lambda: bench.count("connections") == 0)
    bench.tcp().sendall(hep3(b"other"))
    assert [r.buf for r in bench.stored(1)] == [b"other"]


BAD = {
    "a wrong key": hep3(extra=(chunk(14, b"wrong!"),)),
    "no key": hep3(),
    "nothing in it": b"HEP3\0\6",
    "an impossible chunk": frame(b"\0\0\0\1\0\5"),
    "a compressed stranger": gzip.compress(hep3()),
    "damaged gzip": gzip.compress(hep3())[:-8] + bytes(8),
    "a bomb": gzip.compress(bytes(60_000)),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_frames_of_every_kind_close_their_connection_and_hold_up_nobody(
    make_bench: Callable[..., Bench], kind: str
) -> None:
    bench = make_bench(auth_key="sekret")
    good = hep3(b"good", extra=(chunk(14, b"sekret"),))
    bad, honest = bench.tcp(), bench.tcp()
    honest.sendall(good)
    for _ in range(2):  # good ones between them are no reason
        with contextlib.suppress(OSError):
            bad.sendall(BAD[kind] * 45)
            bad.sendall(good)
    assert len(bench.stored(3)) == 3
    with contextlib.suppress(OSError):
        bad.sendall(BAD[kind] * 150 + good)
    wait_for(lambda: bench.count("connections_refused") == 1)
    with contextlib.suppress(ConnectionResetError):
        assert bad.recv(1) == b""
    honest.sendall(good)
    bench.udp().send(good)
    assert len(bench.stored(5)) == 5


@pytest.mark.parametrize(("time_s", "packets"), [(1e9, 512), (0, 64)], ids=["in number", "in time"])
def test_a_socket_has_a_bounded_share_of_a_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, time_s: float, packets: int
) -> None:
    monkeypatch.setattr(hep, "_DATAGRAMS_S", time_s)

    class Endless:
        taken = 0

        def read(self, records: list[Record]) -> int:
            self.taken += ROUND
            assert self.taken <= packets
            return ROUND

    bench.source._read_datagrams(Endless(), Gathering(1 << 25))
    assert bench.count("packets") == packets
    assert not bench.source._loop._rest_s


def test_many_datagrams_of_many_senders_are_all_stored(either_way: str, bench: Bench) -> None:
    """More than a round has room for, long and odd ones among them; the longest that UDP has, too."""
    bufs = [b"%d " % n + b"x" * (n * 37 % 3000) for n in range(300)] + [b"y" * 65_400]
    socks = [bench.udp() for _ in range(3)]
    for n, buf in enumerate(bufs):
        socks[n % 3].send(gzip.compress(hep3(buf)) if n % 50 == 7 else hep3(buf))
        if n % 50 == 9:
            socks[0].send(b"garbage")
    assert {record.buf for record in bench.stored(301)} == set(bufs)
    assert (bench.count("records"), bench.count("malformed"), bench.count("packets")) == (301, 6, 307)
    assert either_way


def test_that_datagrams_come_one_by_one_is_logged(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hep_datagrams, "_recvmmsg", lambda: None)
    caplog.set_level("INFO")
    make_bench("udp:127.0.0.1:0")
    assert "HEP is received one datagram at a time" in caplog.text


@pytest.mark.parametrize("lacks", ["ctypes", "the call"])
def test_where_recvmmsg_is_not_to_be_had_nothing_is_found(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hep_datagrams._recvmmsg() is recvmmsg
    if lacks == "ctypes":
        monkeypatch.setitem(sys.modules, "sipdump_core.net.recvmmsg", None)
        monkeypatch.delattr(sipdump_core.net, "recvmmsg")
    else:
        monkeypatch.setattr(recvmmsg, "is_here", lambda: False)
    assert hep_datagrams._recvmmsg() is None


@pytest.mark.parametrize(("taken", "nap_s"), [(ROUND - 1, 0.002), (ROUND, 0)], ids=["all", "there may be more"])
def test_under_load_datagrams_gather_once_all_are_taken(bench: Bench, taken: int, nap_s: float) -> None:
    class Busy:
        def read(self, records: list[Record]) -> int:
            return taken

    class Loaded(Gathering):
        def nap(self, count: int, now_s: float) -> float:
            return 0.002

    bench.source._read_datagrams(Busy(), Loaded(1 << 25))
    assert bench.source._loop._rest_s == nap_s


def test_each_connection_has_its_turn_and_none_is_cut(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn is over after its time; here after one frame."""
    monkeypatch.setattr(hep, "_TURN_US", -1)
    monkeypatch.setattr(hep, "_FIRST_TURN_US", -1)
    bench = make_bench("tcp:127.0.0.1:0", max_connections=2)
    taken: list[bytes] = []
    monkeypatch.setattr(bench.source, "_deliver", lambda records: taken.extend(record.buf[:1] for record in records))
    busy = threading.Event()
    for name in (b"a", b"b"):
        bench.tcp(0).sendall(b"".join(hep3(name + b"%d" % n) for n in range(20)))
    wait_for(lambda: bench.count("connections") == 2)
    wait_for(lambda: len(taken) == 40)
    taken.clear()
    bench.source._loop.call_soon(busy.wait)
    for sock in bench.sockets:
        sock.sendall(b"".join(hep3(b"%c" % (97 + bench.sockets.index(sock)) + b"%d" % n) for n in range(20)))
    bench.tcp(0).sendall(hep3(b"c"))  # costs one of them its place, but nothing that it has sent
    busy.set()
    wait_for(lambda: len(taken) == 41)
    assert taken.count(b"a") == taken.count(b"b") == 20
    assert b"c" in taken[:30]


def test_a_connection_that_was_never_of_use_makes_room_first(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("tcp:127.0.0.1:0", max_connections=3)
    honest = bench.tcp(0)
    honest.sendall(hep3(b"1"))
    assert bench.stored(1)

    def connected(count: int) -> bool:
        return bench.count("connections") + bench.count("connections_evicted") == count

    for count in range(1, 21):
        bench.tcp(0)
        wait_for(partial(connected, 1 + count))
    honest.sendall(hep3(b"2"))
    late = bench.tcp(0)
    late.sendall(hep3(b"3"))
    assert {record.buf for record in bench.stored(3)} == {b"1", b"2", b"3"}
    assert bench.count("connections_evicted") == 19


def test_a_peer_is_forgotten_with_its_connection(bench: Bench) -> None:
    known = bench.source._decoder._peers
    for count in range(1, 21):
        with contextlib.closing(bench.tcp()) as sock:
            sock.sendall(hep3())
            assert bench.stored(count)
        wait_for(lambda: bench.count("connections") == 0)
    wait_for(lambda: (len(known), known.size) == (0, 0))


@pytest.mark.usefixtures("either_way")
def test_one_packet_that_breaks_the_decoder_costs_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = bench.source._decoder.decode

    def decode(data: bytes, peer: tuple[str, int], now_us: int) -> Sequence[Record]:
        if b"boom" in data:
            raise RuntimeError("surprise")
        return real(data, peer, now_us)

    monkeypatch.setattr(bench.source._decoder, "decode", decode)
    sock = bench.udp()
    for n in range(100):
        sock.send(hep3(b"\r\nboom" if n % 10 == 5 else b"%d" % n))
    assert len(bench.stored(90)) == 90
    assert bench.count("malformed") == 10
    assert caplog.text.count("surprise") <= 4


def test_gzip_members_on_a_stream(bench: Bench) -> None:
    """As heplify sends with payload_zip."""
    stream = b"".join(gzip.compress(hep3(b"%d" % n)) for n in range(20))
    sock = bench.tcp()
    for at in range(0, len(stream), 77):
        sock.sendall(stream[at : at + 77])
    assert [r.buf for r in bench.stored(20)] == [b"%d" % n for n in range(20)]
    sock.sendall(gzip.compress(hep3())[:50])
    sock.close()
    wait_for(lambda: bench.count("malformed") == 1)


def test_tls_on_a_plain_port_is_closed_and_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sock = bench.tcp()
    with pytest.raises((ssl.SSLError, OSError)):
        ssl._create_unverified_context().wrap_socket(sock)
    wait_for(lambda: "TLS comes in where plain HEP is expected" in caplog.text)
    assert "count=1 peer=127.0.0.1" in caplog.text
    assert (bench.count("malformed"), bench.count("connections")) == (1, 0)
    bench.udp().send(b"\x16\xfe\xff" + bytes(50))
    wait_for(lambda: bench.count("malformed") == 2)


def test_a_wrong_key_is_told_with_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, auth_key="sekret")
    sock = bench.udp()
    for _ in range(50):
        sock.send(hep3())
    wait_for(lambda: bench.count("auth_failed") == 50)
    bench.close()
    lines = [line for line in caplog.messages if "auth key" in line]
    assert len(lines) <= 2
    assert "peer=127.0.0.1 hint=\"set the sender's key" in lines[0]


def test_a_half_open_connection_holds_up_nobody(bench: Bench) -> None:
    idle = bench.tcp()
    idle.sendall(hep3()[:9])
    bench.tcp().sendall(hep3(b"other"))
    assert [r.buf for r in bench.stored(1)] == [b"other"]


def test_too_many_connections_cost_the_longest_idle_one_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, "tcp:127.0.0.1:0", max_connections=2)
    first, second = bench.tcp(0), bench.tcp(0)
    second.sendall(hep3(b"1"))
    assert bench.stored(1)
    first.sendall(hep3(b"2"))
    assert bench.stored(2)
    third = bench.tcp(0)
    with contextlib.suppress(ConnectionResetError):
        assert second.recv(1) == b""
    assert bench.count("connections_evicted") == 1
    assert "too many HEP connections, the longest idle is closed limit=2" in caplog.text
    first.sendall(hep3(b"3"))
    third.sendall(hep3(b"4"))
    assert {r.buf for r in bench.stored(4)} == {b"1", b"2", b"3", b"4"}
    bench.close()


def test_an_idle_connection_is_closed_after_its_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "tcp:127.0.0.1:0", idle_timeout=1)
    idle, half = bench.tcp(0), bench.tcp(0)
    half.sendall(hep3()[:9])
    assert idle.recv(1) == b""
    assert half.recv(1) == b""
    wait_for(lambda: bench.count("connections_timed_out") == 2)
    wait_for(lambda: bench.count("malformed") == 1)  # the half frame
    bench.close()


def test_a_connection_that_waits_at_the_end_is_taken(bench: Bench) -> None:
    """In the daemon it is a matter of microseconds, so here the loop is busy until the end has been asked for."""
    ending = threading.Event()
    bench.source._loop.call_soon(ending.wait)
    bench.tcp().sendall(hep3())
    closing = threading.Thread(target=bench.source.close)
    closing.start()
    wait_for(lambda: bench.source._loop.stopping)
    ending.set()
    closing.join()
    assert bench.dump.stats().received == 1


def test_what_has_arrived_is_taken_before_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sock, stream = bench.udp(), bench.tcp()
    wait_for(lambda: bench.count("connections") == 1)
    for _ in range(500):
        sock.send(hep3())
        stream.sendall(hep3())
    wait_for(lambda: not any(fcntl.ioctl(stream, termios.TIOCOUTQ, b"\0" * 4)))  # the kernel may hold some back
    bench.source.close()
    assert bench.count("records") == 1000
    bench.close()


def test_kernel_drops_are_counted_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, "udp:127.0.0.1:0", rcvbuf=4096)
    sock = bench.udp()
    for _ in range(400):
        sock.send(hep3(b"x" * 4000))
    wait_for(lambda: bench.count("kernel_dropped") > 0)
    wait_for(lambda: "the kernel dropped HEP packets" in caplog.text)
    wait_for(lambda: bench.count("packets") + bench.count("kernel_dropped") == 400)
    bench.close()


def test_a_taken_port_is_a_config_error(bench: Bench, tmp_path: Path) -> None:
    taken = bench.source.addresses[0]
    with pytest.raises(
        ConfigError, match=f"cannot listen for HEP on udp:127.0.0.1:{taken.port}: Address already in use"
    ):
        HepSource(
            HepOptions(listen=(f"udp:127.0.0.1:{taken.port}",)),  # type: ignore[arg-type]  # parsed
            bench.dump,
        )


@pytest.mark.parametrize(
    "text", ["127.0.0.1:9060", "udp:127.0.0.1", "sctp:1.2.3.4:5", "udp:1.2.3.4:70000", "udp:::1:9060"]
)
def test_a_wrong_listen_address(text: str) -> None:
    with pytest.raises(ConfigError, match='must be "udp:host:port"'):
        build(HepOptions, [Setting("sipdump_hep", "listen", text)])


def test_hep_can_be_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "off")
    assert bench.source.addresses == []
    assert HepOptions(listen=("off",)).listen == ()  # type: ignore[arg-type]  # parsed
    assert bench.count("packets") == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "sipdump-hep"]
    bench.close()
    with pytest.raises(ConfigError, match='listen has "off" and an address as well'):
        build(HepOptions, [Setting("sipdump_hep", "listen", value) for value in ("off", "udp:127.0.0.1:9060")])


def test_a_wrong_local_address_or_tag() -> None:
    with pytest.raises(ConfigError, match="must be an IPv4 or IPv6 address"):
        build(HepOptions, [Setting("sipdump_hep", "local", "myhost")])
    with pytest.raises(ConfigError, match="must be printable"):
        build(HepOptions, [Setting("sipdump_hep", "tag", "a\nb")])


def test_a_record_that_breaks_everything_does_not_end_the_receiver(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = bench.dump.intercept
    calls = []

    def once(records: list[Record]) -> None:
        calls.append(records)
        if len(calls) == 1:
            raise RuntimeError("surprise")
        real(records)

    monkeypatch.setattr(bench.dump, "intercept", once)
    sock = bench.udp()
    sock.send(hep3(SIP))
    wait_for(lambda: calls)
    sock.send(hep3(b"next"))
    assert [r.buf for r in bench.stored(2)] == [b"next"]
    assert "surprise" in caplog.text
