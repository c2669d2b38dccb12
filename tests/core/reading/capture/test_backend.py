"""Which files are captures of a network, and which are our own and Kamailio's."""

from pathlib import Path

import pytest

from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.reading.capture.backend import is_foreign
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from tests.core.reading.capture import frames
from tests.core.reading.capture.frames import at, ethernet, ipv4, ipv6, message, pcap, tcp, udp
from tests.core.reading.stores import fill, workshop
from tests.core.reading.traffic import call


def own(folder: Path, records: list[Record]) -> Path:
    folder.mkdir()
    shop = workshop(folder)
    fill(shop.backend("pcap", shop.site()), records, 1_795_386_431)
    (path,) = folder.glob("*.pcap")
    return path


@pytest.mark.parametrize("src", ["192.0.2.10", "2001:db8::1"])
def test_our_own(tmp_path: Path, src: str) -> None:
    path = own(tmp_path / "own", call(src=src, dst="2001:db8::2" if ":" in src else "192.0.2.2"))
    assert not is_foreign(str(path))
    copied = tmp_path / "copy.cap"
    copied.write_bytes(path.read_bytes())
    assert is_foreign(str(copied))  # the backend does not read such names; what it has can be read, though
    assert len(list(Store.open(files=[str(copied)]).records(Query()))) == 6


@pytest.mark.parametrize(
    "packet",
    [
        ethernet(ipv4(udp(message()))),
        bytes(12) + ethernet(ipv4(udp(message())))[12:],  # of the loopback device
        bytes(12) + ethernet(ipv6(udp(message())))[12:],
        bytes(12) + ethernet(ipv4(tcp(1, message()), 6))[12:],
        b"short",
    ],
)
def test_captures(tmp_path: Path, packet: bytes) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(pcap(at([packet])))
    assert is_foreign(str(path))


def test_other_files(tmp_path: Path) -> None:
    for name, content in (("a.data", b"====================\n"), ("b", b""), ("c.pcap", b"x"), ("d.pcap", pcap([]))):
        path = tmp_path / name
        path.write_bytes(content)
        assert not is_foreign(str(path))
    with pytest.raises(StorageError, match="No such file"):
        is_foreign(str(tmp_path / "nosuch"))
    with pytest.raises(ConfigError, match="no backend reads such a file; names end in"):
        Store.open(files=[str(tmp_path / "b")])


def test_several_captures_with_one_name(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        path = tmp_path / name / "trace.pcap"
        path.parent.mkdir()
        path.write_bytes(pcap(at([ethernet(ipv4(udp(message(f"{name}@a"))))])))
        paths.append(str(path))
    assert [record.call_id for record in Store.open(files=paths).records(Query())] == ["one@a", "two@a"]


def test_damage_is_an_error_after_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    packet = frames.enhanced(frames.Packet(ethernet(ipv4(udp(message())))))
    path.write_bytes(frames.section() + frames.interface() + packet + b"\6\0\0\0\7\0\0\0")
    opened = Store.open(files=[str(path)])
    assert len(list(opened.records(Query()))) == 1
    assert "damaged from here on" in opened.searched.problems[0]
