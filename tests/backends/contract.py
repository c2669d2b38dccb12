"""What every backend promises. A test class derives from Contract and overrides ``backend_class``."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.backend import Backend, Site
from sipdump_core.errors import ClosedError, SegmentExistsError, StorageError
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from tests.support import OPTIONS, record

PREFIX = "test-"

MESSAGES = {
    "plain": OPTIONS,
    "nul": OPTIONS.replace(b"bob", b"b\0b"),
    "eight_bit": OPTIONS.replace(b"bob", bytes(range(128, 256))),
    "all_bytes": b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 256\r\n\r\n" + bytes(range(256)),
    "no_final_newline": b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 3\r\n\r\nabc",
    "no_blank_line": b"OPTIONS sip:x SIP/2.0\r\nVia: x",
    "one_line_no_end": b"just garbage of no line",
    "line_feeds_only": OPTIONS.replace(b"\r\n", b"\n"),
    "single_byte": b"x",
    "empty": b"",
    "separators_in_body": b"MESSAGE sip:x SIP/2.0\r\nl: 43\r\n\r\n"
    + b"||||||||||||||||||||\n"
    + b"====================\n"
    + b"x",
    "wrong_content_length": b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 9999\r\n\r\nabc",
    "huge_content_length": b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 9999999999999999999\r\n\r\nabc",
    "trailer_at_end": b"MESSAGE sip:x SIP/2.0\r\n\r\nabc||||||||||||||||||||\n",
    "long": b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 60000\r\n\r\n" + b"long" * 15000,
}

FLOWS: dict[str, dict[str, Any]] = {
    "ipv4": {},
    "ipv6": {"af": "ipv6", "src_ip": "2001:db8::1", "dst_ip": "::1"},
    "sent_tls": {"tag": "snd", "proto": "tls"},
    "ws": {"proto": "ws"},
    "wss": {"proto": "wss"},
    "sctp": {"proto": "sctp"},
    "none": {"proto": "none", "src_ip": "0.0.0.0", "src_port": 0},
    "high_ports": {"src_port": 65535, "dst_port": 1},
    "tag_unicode": {"tag": "pröfung ☎"},
    "tag_hostile": {"tag": "||||||||||||||||||||: ===== ~~~~"},
    "tag_empty": {"tag": ""},
    "no_process": {"pid": 0, "procno": 0},
    "epoch": {"time_us": 0},
    "last_microsecond": {"time_us": 1_795_386_431_999_999},
}


class Contract:
    """The tests. ``keeps`` says what of a record a backend gives back; by default all but the node."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        raise NotImplementedError("override the fixture backend_class")

    @pytest.fixture
    def backend(self, backend_class: type[Backend], tmp_path: Path) -> Iterator[Backend]:
        made = self.make(backend_class, tmp_path)
        made.start()
        yield made
        made.close()
        made.stop()

    def make(self, backend_class: type[Backend], folder: Path) -> Backend:
        return backend_class(backend_class.options(), Site(str(folder), PREFIX))

    def settle(self, backend: Backend) -> None:
        """Wait for what the backend does in the background after a close."""
        backend.stop()
        backend.start()

    def kept(self, original: Record) -> Record:
        """What a record is after it was stored and read back."""
        return original

    def store(self, backend: Backend, *batches: Sequence[Record], second: int = 0) -> StoredSegment:
        segment = Segment(PREFIX, f"2026-11-22--23-31-{second:02}", 0, backend.suffix)
        backend.open(segment)
        for batch in batches:
            backend.write(batch)
        backend.close()
        self.settle(backend)
        return next(stored for stored in backend.segments() if stored.segment == segment)

    @pytest.mark.parametrize("name", MESSAGES)
    def test_every_byte_is_kept(self, backend: Backend, name: str) -> None:
        batch = [record(), record(MESSAGES[name]), record()]
        stored = self.store(backend, batch)
        assert list(backend.read(stored)) == [self.kept(r) for r in batch]

    @pytest.mark.parametrize("name", FLOWS)
    def test_every_field_is_kept(self, backend: Backend, name: str) -> None:
        batch = [record(**FLOWS[name]), record()]
        stored = self.store(backend, batch)
        assert list(backend.read(stored)) == [self.kept(r) for r in batch]

    def test_every_message_alone_in_a_segment(self, backend: Backend) -> None:
        for second, message in enumerate(MESSAGES.values()):
            stored = self.store(backend, [record(message)], second=second)
            assert list(backend.read(stored)) == [self.kept(record(message))]

    @pytest.mark.parametrize("count", [1, 2, 999, 10_000])
    def test_order_is_kept(self, backend: Backend, count: int) -> None:
        batch = [record(b"%d" % n, time_us=n) for n in range(count)]
        stored = self.store(backend, batch[: count // 2] or batch, batch[count // 2 :] if count > 1 else batch)
        assert [r.buf for r in backend.read(stored)] == [r.buf for r in (batch if count > 1 else batch * 2)]

    def test_written_is_visible_after_flush(self, backend: Backend) -> None:
        backend.open(Segment(PREFIX, "2026-11-22--23-31-00", 0, backend.suffix))
        backend.write([record()])
        backend.flush()
        (stored,) = backend.segments()
        assert not stored.sealed
        assert list(backend.read(stored)) == [self.kept(record())]

    def test_sealed_after_close_and_close_twice(self, backend: Backend) -> None:
        stored = self.store(backend, [record()])
        backend.close()
        assert stored.sealed
        assert stored.size > 0

    def test_write_after_close_is_refused(self, backend: Backend) -> None:
        self.store(backend, [record()])
        with pytest.raises(ClosedError):
            backend.write([record()])

    def test_a_taken_name_is_refused_and_what_stands_there_is_kept(self, backend: Backend) -> None:
        stored = self.store(backend, [record()])
        with pytest.raises(SegmentExistsError):
            backend.open(stored.segment)
        assert list(backend.read(stored)) == [self.kept(record())]

    def test_rotation_keeps_the_old_segment(self, backend: Backend) -> None:
        first = self.store(backend, [record(b"first")], second=1)
        second = self.store(backend, [record(b"second")], second=2)
        assert [r.buf for r in backend.read(first)] == [b"first"]
        assert [r.buf for r in backend.read(second)] == [b"second"]

    def test_delete_is_idempotent_and_of_its_own_only(self, backend: Backend, tmp_path: Path) -> None:
        first = self.store(backend, [record()], second=1)
        second = self.store(backend, [record()], second=2)
        backend.delete(first)
        backend.delete(first)
        assert [s.segment for s in backend.segments()] == [second.segment]

    def test_the_open_segment_is_not_deleted(self, backend: Backend) -> None:
        backend.open(Segment(PREFIX, "2026-11-22--23-31-00", 0, backend.suffix))
        backend.write([record()])
        (stored,) = backend.segments()
        with pytest.raises(StorageError):
            backend.delete(stored)
        assert list(backend.segments())

    def test_a_segment_without_records_is_not_kept(self, backend: Backend) -> None:
        backend.open(Segment(PREFIX, "2026-11-22--23-31-00", 0, backend.suffix))
        backend.close()
        assert not list(backend.segments())

    def test_unknown_things_are_passed_over(self, backend: Backend, tmp_path: Path) -> None:
        for name in ("x", f"{PREFIX}2026-99-22--23-31-00", f"other-2026-11-22--23-31-00{backend.suffix}", PREFIX):
            (tmp_path / f"{name}").write_bytes(b"x")
        (tmp_path / f"{PREFIX}2026-11-22--23-31-07{backend.suffix}").mkdir()
        (tmp_path / f"{PREFIX}2026-11-22--23-31-08{backend.suffix}").symlink_to("/dev/null")
        stored = self.store(backend, [record()])
        assert list(backend.segments()) == [stored]

    def test_two_instances_side_by_side(self, backend_class: type[Backend], tmp_path: Path) -> None:
        one, two = self.make(backend_class, tmp_path), self.make(backend_class, tmp_path)
        segment = Segment(PREFIX, "2026-11-22--23-31-00", 0, one.suffix)
        one.open(segment)
        with pytest.raises(SegmentExistsError):
            two.open(segment)
        two.open(segment.next())
        one.write([record(b"one")])
        two.write([record(b"two")])
        one.close()
        two.close()
        assert [[r.buf for r in one.read(stored)] for stored in sorted(one.segments(), key=lambda s: s.segment)] == [
            [b"one"],
            [b"two"],
        ]

    def test_no_file_descriptors_are_left(self, backend_class: type[Backend], tmp_path: Path) -> None:
        before = os.listdir("/proc/self/fd")
        backend = self.make(backend_class, tmp_path)
        stored = self.store(backend, [record()])
        list(backend.read(stored))
        backend.delete(stored)
        assert len(os.listdir("/proc/self/fd")) == len(before)

    def test_record_size_covers_what_is_written(self, backend: Backend) -> None:
        for message in MESSAGES.values():
            for fields in FLOWS.values():
                one = record(message, **fields)
                assert backend.record_size(one) >= len(message)
        empty = self.store(backend, [record()], second=1).size
        two = self.store(backend, [record(), record()], second=2).size
        assert two - empty <= backend.record_size(record())

    def test_options_have_defaults(self, backend_class: type[Backend]) -> None:
        assert attrs.has(backend_class.options)
        backend_class.options()
