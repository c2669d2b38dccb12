"""Our files against those of a real Kamailio, byte for byte; ``tests/data/golden/record.py`` made them."""

import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core import NoOptions, Record, Segment, Site
from sipdump_core.process_table import ProcessTable
from sipdump_core.settings.hep import HepOptions
from sipdump_core.sources.hep_decoder import HepDecoder
from sipdump_core.sources.hep_stream import FrameReader
from sipdump_pcap import HeaderTransform, PcapBackend
from sipdump_text import TextBackend
from tests.e2e.peers import read_data, read_pcap

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
PREFIX = "kamailio-sipdump-"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The dates in the files are local time, and were recorded in UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def golden(suffix: str) -> Path:
    (path,) = GOLDEN.glob(f"{PREFIX}*{suffix}")
    return path


def records() -> list[Record]:
    with golden(".data").open("rb") as file:
        return list(TextBackend(NoOptions(), Site("", PREFIX)).decode(file))


def test_sample_is_varied() -> None:
    """The files hold what they are meant to hold; without that the comparisons below would say little."""
    messages = list(read_data(golden(".data")))
    assert {(m.proto, m.af) for m in messages} == {(p, a) for p in ("udp", "tcp") for a in ("ipv4", "ipv6")}
    assert {m.tag for m in messages} == {"rcv", "snd"}
    everything = [m.buf for m in messages]
    assert any(bytes(range(128, 256)) in buf for buf in everything)
    assert any(b"||||||||||||||||||||\n====================\n" in buf for buf in everything)
    assert any(b"\n" not in buf for buf in everything)
    assert any(not buf.endswith(b"\n") and b"\r\n\r\n" in buf for buf in everything)
    assert any(b"\n" in buf and b"\r" not in buf for buf in everything)
    assert sum(path.stat().st_size for path in GOLDEN.iterdir() if path.is_file()) < 100_000


def test_decode_finds_every_record() -> None:
    expected = [
        (m.tag, m.pid, m.procno, m.proto, m.af, *m.src, *m.dst, f"{m.time:.6f}", m.buf)
        for m in read_data(golden(".data"))
    ]
    found = [
        (
            r.tag, r.pid, r.procno, r.proto, r.af, r.src_ip, r.src_port, r.dst_ip, r.dst_port,
            f"{r.time_us / 1e6:.6f}", r.buf,
        )
        for r in records()
    ]  # fmt: skip
    assert found == expected


def test_data_byte_for_byte(tmp_path: Path) -> None:
    backend = TextBackend(NoOptions(), Site(str(tmp_path), PREFIX))
    segment = Segment.parse(golden(".data").name, PREFIX, ".data")
    assert segment
    backend.open(segment)
    backend.write(records())
    backend.close()
    assert (tmp_path / golden(".data").name).read_bytes() == golden(".data").read_bytes()


def test_pcap_byte_for_byte(tmp_path: Path) -> None:
    """All but the snaplen, and the checksums, which the C module leaves 0, and which are right with us.

    In one case the C module is wrong: of a message without any LF, where it finds no place for its header, it
    stores an empty packet. The message must not get lost, so ours has it, without the header.
    """
    site = Site(str(tmp_path), PREFIX, transforms=[HeaderTransform(NoOptions())])
    backend = PcapBackend(NoOptions(), site)
    segment = Segment.parse(golden(".pcap").name, PREFIX, ".pcap")
    assert segment
    stored = records()
    backend.open(segment)
    backend.write(stored)
    backend.close()
    ours, theirs = (tmp_path / golden(".pcap").name).read_bytes(), golden(".pcap").read_bytes()
    assert (ours[:16], ours[20:24]) == (theirs[:16], theirs[20:24])
    assert (ours[16:20], theirs[16:20]) == (struct.pack("=I", 262144), struct.pack("=I", 65535))
    at = other = 24
    empty = 0
    for record in stored:
        packet, at = cut(ours, at)
        expected, other = cut(theirs, other)
        headers = 16 + (42 if record.af == "ipv4" else 62)
        checksum = 16 + (24 if record.af == "ipv4" else 60)
        assert packet[checksum : checksum + 2] != b"\0\0"
        packet = packet[:checksum] + b"\0\0" + packet[checksum + 2 :]
        if b"\n" not in record.buf:
            empty += 1
            assert len(expected) == headers, "Kamailio does not lose the message any more: compare it like all others"
            expected = whole(expected, record)
        assert packet == expected
    assert at == len(ours)
    assert other == len(theirs)
    assert empty == sum(b"\n" not in record.buf for record in stored) > 0


def cut(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the packet at an offset, with its packet header, and the offset behind it."""
    end = at + 16 + int(struct.unpack_from("=I", data, at + 8)[0])
    assert end <= len(data)
    return data[at:end], end


def whole(packet: bytes, record: Record) -> bytes:
    """Put a message into an empty packet, and its length into all five places where that stands."""
    result, more = bytearray(packet + record.buf), len(record.buf)
    struct.pack_into("=II", result, 8, len(result) - 16, len(result) - 16)
    ip_length, udp_length = (16 + 16, 16 + 38) if record.af == "ipv4" else (16 + 18, 16 + 58)
    for place in (ip_length, udp_length):
        struct.pack_into(">H", result, place, struct.unpack_from(">H", packet, place)[0] + more)
    return bytes(result)


def test_pcap_reads_back_as_the_records() -> None:
    """Kamailio's pcap, read by our decoder, gives the messages and what the header tells of each."""
    with golden(".pcap").open("rb") as file:
        found = list(PcapBackend(NoOptions(), Site("", PREFIX)).decode(file))
    assert len(found) == len(list(read_pcap(golden(".pcap"))))
    for record, original in zip(found, records(), strict=True):
        lost = b"\n" not in original.buf
        assert record.buf == (b"" if lost else original.buf)
        assert (record.time_us, record.af) == (original.time_us, original.af)
        assert (record.src_ip, record.src_port) == (original.src_ip, original.src_port)
        assert (record.dst_ip, record.dst_port) == (original.dst_ip, original.dst_port)
        if not lost:
            assert (record.proto, record.pid, record.procno) == (original.proto, original.pid, original.procno)


def test_meta_line_for_line() -> None:
    """Our process table, given Kamailio's processes, reads as its own, but for the name of the program."""
    expected = golden(".meta").read_text()
    start = re.search(r"^start: (.*)$", expected, re.MULTILINE)
    assert start
    table = ProcessTable(time.mktime(time.strptime(start[1])))
    rows = re.findall(r"^process: (\d+) (\d+) (.*)$", expected, re.MULTILINE)
    for index, pid, description in rows:
        table.add(int(index), int(pid), description)
    assert len(rows) > 5
    version = re.compile(r"^version: \w+ [\d.]+$", re.MULTILINE)
    assert version.sub("version: *", table.render()) == version.sub("version: *", expected)


def test_recorded_call_of_the_examples() -> None:
    """``examples/data/call.hep``: whole HEP3 frames of a call, a REGISTER and an OPTIONS, as Kamailio sent them."""
    data = (Path(__file__).parents[2] / "examples" / "data" / "call.hep").read_bytes()
    assert len(data) < 40_000
    reader = FrameReader()
    frames = list(reader.feed(data))
    assert not reader.waiting
    decoder = HepDecoder(HepOptions(time_window=0), ProcessTable(0))
    found = [decoder.decode(frame, ("127.0.0.1", 5060), 0) for frame in frames if isinstance(frame, bytes)]
    assert len(found) == len(frames) == 17
    messages = [record for records in found for record in records]
    assert [record.buf.split(b" ")[0].decode() for record in messages if record.buf[:3] != b"SIP"] == [
        "INVITE", "INVITE", "ACK", "ACK", "BYE", "BYE", "REGISTER", "OPTIONS",
    ]  # fmt: skip
    assert [record.proto for record in messages] == ["udp"] * 13 + ["tcp"] * 4
    assert {record.tag for record in messages} == {"rcv", "snd"}
    assert len({record.call_id for record in messages}) == 3
    times = [record.time_us for record in messages]
    assert times == sorted(times)
