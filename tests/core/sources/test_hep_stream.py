"""Cutting frames out of streams of HEP3."""

import gzip
import time
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.errors import FormatError
from sipdump_core.sources.hep_stream import FrameReader
from tests.hep import chunk, frame, hep3
from tests.support import examples


@examples(100)
@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=8), st.integers(1, 50), st.integers(0, 255))
def test_a_stream_is_cut_into_its_frames_however_it_arrives(bufs: list[bytes], step: int, packed: int) -> None:
    frames = [frame(chunk(15, buf)) for buf in bufs]
    stream = b"".join(gzip.compress(one) if packed >> n & 1 else one for n, one in enumerate(frames))
    reader = FrameReader()
    found: list[bytes | FormatError] = []
    for at in range(0, len(stream), step):
        found += reader.feed(stream[at : at + step])
    assert found == [frame(chunk(15, buf)) for buf in bufs]
    assert not reader.waiting


def test_garbage_that_looks_like_frames_is_passed_over_quickly() -> None:
    start = time.process_time()
    found = list(FrameReader().feed(b"HEP3\0\0" * 100_000 + hep3()))
    assert time.process_time() - start < 5
    assert [type(f) for f in found] == [FormatError, bytes]


def test_a_stream_goes_on_behind_garbage() -> None:
    reader = FrameReader()
    found = list(reader.feed(hep3() + b"garbage HE" + hep3() + b"HEP3\0\1" + hep3() + b"x" * 1000))
    assert [f for f in found if isinstance(f, bytes)] == [hep3()] * 3
    assert sum(isinstance(f, FormatError) for f in found) == 3
    assert reader.waiting < 6


PIECES = [b"HEP3", b"EEP3", b"HEP3\0\6", hep3(), b"\x1f\x8b\x08", gzip.compress(hep3(), mtime=0), zlib.compress(hep3())]


@examples(150)
@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(PIECES)), max_size=10))
def test_any_stream_ends_and_memory_is_bounded(parts: list[bytes]) -> None:
    reader = FrameReader()
    for part in parts:
        for _ in reader.feed(part):
            pass
        assert reader.waiting <= 65535


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_compressed_members_are_frames(step: int, compress: Callable[[bytes], bytes]) -> None:
    good = [hep3(b"%d" % n) for n in range(3)]
    packed = [compress(one) for one in good]
    stream = packed[0] + good[1] + packed[2] + packed[0][:20] + b"\xff" * 50 + packed[1] + good[2] + packed[0][:-3]
    reader = FrameReader()
    found = [one for at in range(0, len(stream), step) for one in reader.feed(stream[at : at + step])]
    assert [one for one in found if isinstance(one, bytes)] == [*good, good[1], good[2]]
    assert any("damaged gzip" in str(one) for one in found)
    assert reader.waiting == len(packed[0]) - 3


def test_a_member_that_brings_nothing_for_ever_is_given_up() -> None:
    """Empty blocks of deflate: they inflate to nothing, and would be kept until the member ends."""
    reader = FrameReader()
    found = list(reader.feed(b"\x78\x01" + b"\0\0\0\xff\xff" * 40_000 + hep3()))
    assert "grows past 65535 bytes" in str(found[0])
    assert found[-1] == hep3()
    assert reader.waiting < 6


def test_a_member_with_several_frames_and_one_that_grows_too_far() -> None:
    found = list(
        FrameReader().feed(gzip.compress(hep3(b"1") + hep3(b"2")) + gzip.compress(bytes(1 << 24)) + hep3(b"3"))
    )
    assert [one for one in found if isinstance(one, bytes)] == [hep3(b"1"), hep3(b"2"), hep3(b"3")]
    assert "grows past 65535 bytes" in str(next(one for one in found if isinstance(one, FormatError)))


def test_members_that_come_together_are_not_copied_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most a piece is left over where a member ends: the cost of each doesn't grow with what follows."""
    lengths = []

    class Counting:
        def __init__(self, wbits: int) -> None:
            self._machine = make(wbits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            lengths.append(len(data))
            return self._machine.decompress(data, limit)

        eof = property(lambda self: self._machine.eof)
        unused_data = property(lambda self: self._machine.unused_data)

    make = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    members = [hep3(b"%d" % n + b"x" * 20_000) for n in range(300)]
    assert list(FrameReader().feed(b"".join(gzip.compress(one, 0) for one in members))) == members
    assert max(lengths) <= 4096
    assert sum(lengths) < 1.3 * sum(map(len, members))
