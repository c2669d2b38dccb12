"""What a backend promises about its segments: naming, listing, keeping and deleting them."""

import contextlib
import os
import random
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import SegmentExistsError, SipDumpError, StorageError
from sipdump_core.lifecycle.retention import prune
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.testing.kit import CLOCKS_APART, Kit, names
from sipdump_core.testing.promise import not_checked, promise
from sipdump_core.testing.samples import FIELDS, MESSAGES, numbered, record, with_body

__all__ = ["StoreChecks"]


class StoreChecks(Kit):
    """The checks of opening, listing, reading and deleting segments."""

    # ---- open and close ----

    @promise
    def test_a_closed_segment_is_sealed(self, backend: Backend) -> None:
        """After close() the segment is listed once, as sealed, under the name it was opened with."""
        for second in range(3):
            stored = self.store(backend, numbered(2), second=second)
            assert stored.sealed is True, f"it is listed with sealed={stored.sealed!r}"
            self.same(backend, numbered(2), self.read(backend, stored))
        assert len(self.segments(backend)) == 3, f"listed are {names(self.segments(backend))}"

    @promise
    def test_the_listing_tells_the_truth(self, backend: Backend) -> None:
        """A listed segment's size, last write, number of records and location are true."""
        noise = [record(os.urandom(300)) for _ in range(500)]  # no compression shrinks this
        began = time.time()
        stored = [self.store(backend, batch, second=n) for n, batch in enumerate(([record()], noise, noise[:7]))]
        ended = time.time()
        for one, count in zip(stored, (1, 500, 7), strict=True):
            assert type(one.size) is int, f"size is {one.size!r}"
            assert one.size > 0, f"the size of {one.segment.name} is {one.size}"
            assert one.records in (None, count), f"it holds {count} records, and is listed with {one.records}"
            assert began - CLOCKS_APART <= one.modified <= ended + CLOCKS_APART, (
                f"last written now, at {ended:.0f}, it is listed as modified at {one.modified:.0f}"
            )
            assert one.location, "location is empty"
            assert Segment.parse(one.segment.name, one.segment.prefix, one.segment.suffix) == one.segment
            if isinstance(backend, FolderBackend):
                assert os.path.isfile(one.location), f"the location {one.location} is not a file"
            if os.path.isfile(one.location):
                size = os.stat(one.location).st_size
                assert one.size == size, f"the file has {size} bytes, and is listed with {one.size}"
        assert stored[1].size >= 300 * 500 * 0.95, f"150,000 bytes of noise are listed with {stored[1].size} bytes"
        assert len({one.location for one in stored}) == 3, "segments share a location"

    @promise
    def test_a_segment_without_records_is_not_kept(self, backend: Backend) -> None:
        """A segment closed without a record is not listed."""
        self.needs_segments(backend)
        self.write(backend)
        self.settle(backend)
        assert not self.segments(backend), f"listed are {names(self.segments(backend))}"
        self.store(backend, [record()])  # and its name is still free

    @promise
    def test_rotation_keeps_the_old_segment(self, backend: Backend) -> None:
        """A new segment changes nothing in older ones, and each can be read without the others."""
        self.needs_segments(backend)
        first = self.store(backend, numbered(5))
        before = _content(first)
        others = [self.store(backend, numbered(5, 5 * n), second=n) for n in (1, 2)]
        assert self.find(backend, first.segment) == first, "the older segment is listed otherwise than before"
        assert _content(first) == before, "the older segment's file has changed"
        reader = self.reader(backend)
        for n, stored in reversed([*enumerate([first, *others])]):
            self.same(backend, numbered(5, 5 * n), self.read(reader, stored))
        for stored in (first, others[0]):
            backend.delete(stored)
        self.same(backend, numbered(5, 10), self.read(self.reader(backend), others[1]))

    @promise
    def test_segments_of_one_second_are_told_apart(self, backend: Backend) -> None:
        """Segments whose names differ only in the sequence number are different segments."""
        self.needs_segments(backend)
        segment = self.segment(backend)
        wanted = [attrs.evolve(segment, sequence=sequence) for sequence in (0, 1, 2, 10, 11, 100)]
        for number, one in enumerate(wanted):
            backend.open(one)
            backend.write(Batch(numbered(2, 2 * number)))
            backend.close()
        self.settle(backend)
        assert sorted(stored.segment for stored in self.segments(backend)) == wanted, names(self.segments(backend))
        self.holds(backend, numbered(12))
        backend.delete(self.find(backend, wanted[1]))
        left = sorted(stored.segment for stored in self.segments(backend))
        assert left == wanted[:1] + wanted[2:], f"after the delete of {wanted[1].name} there are {left}"

    @promise
    def test_nothing_is_overwritten(self, backend: Backend) -> None:
        """What is stored under a name stays: open() raises SegmentExistsError, or another name is used."""
        self.needs_segments(backend)
        stored = self.store(backend, numbered(3))
        try:
            backend.open(stored.segment)
        except SegmentExistsError:
            self.write(backend, numbered(3, 3), second=1)
        else:
            backend.write(Batch(numbered(3, 3)))
            backend.close()
        self.settle(backend)
        self.holds(backend, numbered(6))

    @promise
    def test_two_writers_take_no_name_twice(self, site: Site) -> None:
        """Opening a name that another instance has open raises SegmentExistsError; that instance goes on."""
        with self.started(site) as one, self.started(site) as two:
            self.needs_segments(one)
            segment = self.segment(one)
            one.open(segment)
            one.write(Batch([record(b"one")]))
            one.flush()
            with pytest.raises(SegmentExistsError):
                two.open(segment)
            two.open(segment.next())
            two.write(Batch([record(b"two")]))
            one.write(Batch([record(b"one more")]))
            two.close()
            one.close()
            self.settle(one)
            self.settle(two)
            self.holds(one, [record(b"one"), record(b"one more"), record(b"two")])

    @promise
    def test_a_second_start_disturbs_no_writer(self, site: Site) -> None:
        """Another instance may start and stop while a segment is open; it must not take it for a crash's remains."""
        with self.started(site) as one:
            segment = self.segment(one)
            one.open(segment)
            one.write(Batch(numbered(2)))
            one.flush()
            with contextlib.suppress(StorageError), self.started(site):  # it may refuse to be the second writer
                pass
            one.write(Batch(numbered(2, 2)))
            one.close()
            self.settle(one)
            self.holds(one, numbered(4))

    @promise
    def test_two_instances_side_by_side(self, site: Site, tmp_path: Path) -> None:
        """Instances share nothing: each has its own folder, prefix, segments and end."""
        other = tmp_path / "other"
        other.mkdir()
        sites = [site, attrs.evolve(site, folder=str(other), prefix=f"x{site.prefix}")]
        try:
            with self.started(sites[0]) as one, self.started(sites[1]) as two:
                one.open(self.segment(one))
                two.open(self.segment(two, 1))
                for n in range(3):
                    one.write(Batch([record(b"one %d" % n)]))
                    two.write(Batch([record(b"two %d" % n, tag="snd", af="ipv6", src_ip="::1", dst_ip="::2")] * 2))
                two.close()
                self.settle(two)
                one.write(Batch([record(b"one 3")]))
                one.close()
                self.settle(one)
                self.holds(one, [record(b"one %d" % n) for n in range(4)])
                twos = [record(b"two %d" % n, tag="snd", af="ipv6", src_ip="::1", dst_ip="::2") for n in range(3)]
                self.holds(two, [two for two in twos for _ in range(2)])
        finally:
            with contextlib.suppress(Exception):  # as in site
                self.clean(self.make_backend(sites[1]))

    # ---- listing ----

    @promise
    def test_the_open_segment_is_listed_as_open(self, backend: Backend) -> None:
        """No instance lists the open segment as sealed, from its open() to its close()."""
        self.needs_segments(backend)
        segment = self.segment(backend)

        def look(when: str) -> list[StoredSegment]:
            listed = [*self.segments(backend), *self.segments(self.reader(backend))]
            assert not any(stored.sealed for stored in listed), f"it is listed as sealed {when}"
            return listed

        backend.open(segment)
        look("after open()")
        for _ in range(2):
            backend.write(Batch(numbered(2)))
            look("after write()")
            backend.flush()
            listed = look("after flush()")
            assert [stored.segment for stored in listed] == [segment] * 2, f"listed are {names(listed)}"
        backend.close()
        self.settle(backend)
        assert self.find(self.reader(backend), segment).sealed, "it is still listed as open after close()"

    @promise
    def test_listing_changes_nothing(self, backend: Backend) -> None:
        """Listing and reading change nothing, and an instance that was never started can do both."""
        stored = [self.store(backend, numbered(3), second=n) for n in range(3)]
        before = self.segments(backend), [_content(one) for one in stored], os.listdir(backend.site.folder)
        reader = self.reader(backend)
        for _ in range(2):
            assert self.segments(reader) == before[0], f"listed are {names(self.segments(reader))}"
            self.same(backend, numbered(3), self.read(reader, stored[0]))
        assert [_content(one) for one in stored] == before[1], "a segment's file has changed"
        if isinstance(backend, FolderBackend):
            left = sorted({*os.listdir(backend.site.folder)} - {*before[2]})
            assert not left, f"in the folder there are {left} now"

    @promise
    def test_unknown_things_are_passed_over(self, backend: Backend) -> None:
        """Anything without a name of the site's form, or not a plain file, is neither listed, read nor changed."""
        self.needs_segments(backend)
        folder, segment = Path(backend.site.folder), self.segment(backend)
        own = _tree(folder)
        stem, suffix, prefix = segment.stem, backend.suffix, backend.site.prefix
        stamp = stem.removeprefix(prefix)
        strange = [
            "x", ".", prefix, suffix, f"other-{stamp}{suffix}", f"{prefix}x{stamp}{suffix}",
            f"{prefix}{prefix}{stamp}{suffix}", f"{stem}{suffix}.bak", f"{stem}{suffix}~", f"{stem}.other",
            f".{stem}{suffix}", f"{stem} {suffix}", f"{stem}-0{suffix}", f"{stem}-01{suffix}", f"{stem}--1{suffix}",
            f"{stem}-x{suffix}", f"{stem}0{suffix}", f"{stem[:-1]}{suffix}",
            f"{prefix}2026-99-22--23-31-00{suffix}", f"{prefix}2026-02-30--23-31-00{suffix}",
            f"{prefix}{stamp.translate({ord('2'): 0x0662})}{suffix}",
        ]  # fmt: skip
        for name in {*strange} - {"", ".", segment.name}:
            (folder / name).write_bytes(b"not a segment")
        later = [self.segment(backend, second).name for second in range(60, 64)]
        (folder / later[0]).mkdir()
        (folder / later[1]).symlink_to("/dev/null")
        (folder / later[2]).symlink_to(folder / "nothing")
        os.mkfifo(folder / later[3])
        before = {name: content for name, content in _tree(folder).items() if name not in own}
        stored = self.store(backend, [record()])
        assert self.segments(backend) == [stored], f"listed are {names(self.segments(backend))}"
        self.holds(backend, [record()])
        backend.delete(stored)
        after = _tree(folder)
        assert {name: after.get(name) for name in before} == before, "what is not the backend's has changed"

    @promise
    def test_a_prefix_is_taken_as_it_is(self, site: Site) -> None:
        """Any prefix works, and only segments with exactly this prefix are listed and deleted."""
        prefixes = ["", "a-b-", "a_b-", "axb-", "AXB-", "a%", "[a.]*?+'\"-", "prüf ☎ #&;$(x)`-", "2026-"]
        prefixes.append("x" * (200 - len(site.prefix)))  # no longer one is allowed
        sites = [attrs.evolve(site, prefix=f"{site.prefix}{prefix}") for prefix in prefixes]
        try:
            stored = []
            for own in sites:
                with self.started(own) as backend:
                    stored.append(self.store(backend, [record(own.prefix.encode())]))
            for own, one in zip(sites, stored, strict=True):
                backend = self.make_backend(own)
                assert self.segments(backend) == [one], (
                    f"with {own.prefix!r} listed are {names(self.segments(backend))}"
                )
                self.holds(backend, [record(own.prefix.encode())])
            for at, own in enumerate(sites):
                self.make_backend(own).delete(stored[at])
                left = [other.prefix for other in sites[at + 1 :] if not self.segments(self.make_backend(other))]
                assert not left, f"the delete with {own.prefix!r} takes the segments with {left}"
        finally:
            for own in sites:
                with contextlib.suppress(Exception):  # as in site
                    self.clean(self.make_backend(own))

    @promise
    def test_however_many_segments_are_listed(self, backend: Backend) -> None:
        """All segments are listed, however many there are, and pruning deletes all of them."""
        self.needs_segments(backend)
        end = time.monotonic() + 2  # enough for some segments in a remote store, for all in a folder
        wrote: list[Segment] = []
        while len(wrote) < 1100 and (time.monotonic() < end or not wrote):
            wrote += [self.write(backend, [record()], second=len(wrote) + n) for n in range(20)]
            self.settle(backend)
        listed = sorted(stored.segment for stored in self.segments(backend))
        assert listed == sorted(wrote), f"{len(wrote)} were written, {len(listed)} are listed"
        pruned = len([*prune([self.reader(backend)], 1.0, now=time.time() + 1e6)])
        assert pruned == len(wrote), f"{len(wrote)} were due, {pruned} were pruned"
        assert not self.segments(backend), f"left are {names(self.segments(backend))}"

    # ---- reading ----

    @promise
    def test_reading_twice_gives_the_same(self, backend: Backend) -> None:
        """A segment can be read any number of times, by several readers at once."""
        stored = self.store(backend, numbered(20))
        self.same(backend, numbered(20), self.read(backend, stored))
        one, two = iter(backend.read(stored)), iter(self.reader(backend).read(stored))
        pairs = list(zip(one, two, strict=True))
        for found in zip(*pairs, strict=True):
            self.same(backend, numbered(20), found)

    @promise
    def test_reading_what_is_gone_is_a_storage_error(self, backend: Backend) -> None:
        """Reading a segment that was deleted raises StorageError."""
        stored = self.store(backend, [record()])
        self.read(backend, stored)
        backend.delete(stored)
        with pytest.raises(StorageError):
            self.read(backend, stored)

    @promise
    def test_a_torn_tail_costs_the_tail_only(self, backend: Backend) -> None:
        """Reading a truncated file yields the records at its beginning unchanged, or raises StorageError."""
        stored = self.store(backend, numbered(20))
        if not os.path.isfile(stored.location):
            not_checked("the location is not a file that could be cut")
        self.same(backend, numbered(20), self.read(backend, stored))
        content = Path(stored.location).read_bytes()
        for cut in (1, 2, 20, len(content) // 2, len(content) - 5, len(content) - 1, len(content)):
            os.truncate(stored.location, len(content) - cut)
            try:
                found = self.read(backend, stored)
            except SipDumpError:
                continue
            finally:
                Path(stored.location).write_bytes(content)
            self.same(backend, numbered(20)[: len(found)], found)
            assert len(found) < 20, f"{cut} bytes were cut off, and 20 records are read"

    @promise
    def test_damage_is_an_error_of_sipdump(self, backend: Backend) -> None:
        """Reading a file with arbitrary content yields records, or raises an error of sipdump_core."""
        stored = self.store(backend, numbered(5))
        if not os.path.isfile(stored.location):
            not_checked("the location is not a file that could be damaged")
        self.same(backend, numbered(5), self.read(backend, stored))
        content = Path(stored.location).read_bytes()
        chance = random.Random(7)  # noqa: S311 - the same damage in each run
        damaged = [
            chance.randbytes(1000),
            bytes(1000),
            b"\xff" * 1000,
            content[50:],
            content + content[: len(content) // 2],
        ]
        damaged += [
            content[:at] + bytes([content[at] ^ chance.randrange(1, 256)]) + content[at + 1 :]
            for at in [*range(min(64, len(content))), *(chance.randrange(len(content)) for _ in range(100))]
        ]
        for data in damaged:
            Path(stored.location).write_bytes(data)
            self.raises_storage_error(lambda: self.read(backend, stored))

    @promise
    def test_a_segment_inside_a_message_is_a_message(self, backend: Backend) -> None:
        """A message may contain the backend's own file format; it stays one message."""
        stored = self.store(backend, [record(), record(b"x")])
        if not os.path.isfile(stored.location):
            not_checked("the location is not a file whose content could be sent")
        forged = Path(stored.location).read_bytes()
        batch = [
            record(with_body(part))
            for part in (forged, forged * 2, forged[1:], forged[:-1], forged[len(forged) // 2 :])
        ]
        for second, records in enumerate(([*batch, record(b"last")], batch), 1):
            again = self.store(backend, records, second=second)
            self.same(backend, records, self.read(backend, again))

    # ---- deleting ----

    @promise
    def test_delete_is_idempotent(self, backend: Backend) -> None:
        """delete() deletes all of a segment, for every instance; deleting one that is gone is no error."""
        first, second = (self.store(backend, [record()], second=n) for n in (0, 1))
        other = self.reader(backend)
        was_file = os.path.isfile(first.location)
        other.delete(first)
        assert not (was_file and os.path.lexists(first.location)), "it is not listed any more, but its file is there"
        assert [s.segment for s in self.segments(backend)] == [second.segment], names(self.segments(backend))
        for _ in range(2):
            backend.delete(first)
            other.delete(first)
        assert [s.segment for s in self.segments(other)] == [second.segment], names(self.segments(other))
        backend.delete(second)
        assert not self.segments(backend), names(self.segments(backend))
        left = [name for name in _tree(Path(backend.site.folder)) if first.segment.stem in name]
        assert not left, f"the deleted segment left {left} behind"

    @promise
    def test_delete_many_is_as_delete(self, backend: Backend) -> None:
        """delete_many() reports each segment once, as gone or with the reason why not, and goes on with the next."""
        stored = [self.store(backend, numbered(2, 2 * n), second=n) for n in range(4)]
        backend.open(self.segment(backend, 5))
        backend.write(Batch([record()]))
        backend.flush()
        (opened,) = (one for one in self.segments(backend) if not one.sealed)
        backend.delete(stored[0])
        told = [*self.reader(backend).delete_many([stored[0], opened, stored[1], stored[2]])]
        assert sorted(one.segment for one, _ in told) == sorted(one.segment for one in (*stored[:3], opened)), (
            f"it reported {names(one for one, _ in told)}"
        )
        for one, error in told:
            if one.segment == opened.segment:
                assert isinstance(error, SipDumpError), "it says that the open segment is gone"
            else:
                assert error is None, f"{one.segment.name} is not deleted: {error}"
        left = sorted(one.segment for one in self.segments(backend))
        assert left == [stored[3].segment, opened.segment], f"left are {names(self.segments(backend))}"

    @promise
    def test_delete_takes_its_own_only(self, backend: Backend) -> None:
        """delete() touches no other segment, and no other file beside it."""
        stored = [self.store(backend, numbered(2, 2 * n), second=n) for n in range(3)]
        folder, stem = Path(backend.site.folder), stored[1].segment.stem
        beside = [f"{stem}.other", f"{stem}.meta", f"{stem}{backend.suffix}.bak", f"{stem}-1.other", f"{stem}x"]
        for name in {*beside} - {stored[1].segment.name}:
            (folder / name).write_bytes(b"not yours")
        before = {name: content for name, content in _tree(folder).items() if name.endswith(tuple(beside))}
        backend.delete(stored[1])
        left = sorted(s.segment for s in self.segments(backend))
        assert left == [stored[0].segment, stored[2].segment], names(self.segments(backend))
        self.holds(backend, numbered(2) + numbered(2, 4))
        after = _tree(folder)
        assert {name: after.get(name) for name in before} == before, "delete() took what is not the backend's"

    @promise
    def test_the_open_segment_is_not_deleted(self, backend: Backend) -> None:
        """delete() of an open segment raises StorageError, from any instance, and its writer goes on."""
        self.needs_segments(backend)
        backend.open(self.segment(backend))
        backend.write(Batch([record(b"one")]))
        backend.flush()
        (stored,) = self.segments(backend)
        for one in (backend, self.reader(backend)):
            with pytest.raises(StorageError):
                one.delete(stored)
        backend.write(Batch([record(b"two")]))
        backend.close()
        self.settle(backend)
        self.holds(backend, [record(b"one"), record(b"two")])

    @promise
    def test_prune_deletes_what_is_due(self, backend: Backend) -> None:
        """Pruning by fage deletes older sealed segments and nothing else; without a lifecycle it deletes nothing."""
        if not backend.has_lifecycle():
            self.write(backend, [record()])
            assert not [*prune([backend], 1.0, now=time.time() + 1e6)], "segments are listed all the same"
            return
        stored = [self.store(backend, numbered(2), second=n) for n in range(2)]
        backend.open(self.segment(backend, 5))
        backend.write(Batch([record()]))
        backend.flush()
        day, soon = 86400.0, time.time() + 43200.0
        assert not [*prune([self.reader(backend)], day, now=soon)], "what is half a day old is pruned at fage of a day"
        late = time.time() + 2 * day
        due = [pruned.stored.segment for pruned in prune([self.reader(backend)], day, now=late, dry_run=True)]
        assert sorted(due) == [one.segment for one in stored], f"due are {due}"
        assert len(self.segments(backend)) == 3, "a dry run deletes"
        pruned = [*prune([self.reader(backend)], day, now=late)]
        assert [one.error for one in pruned] == [None, None], f"{[one.error for one in pruned]}"
        assert [s.segment for s in self.segments(backend)] == [self.segment(backend, 5)], names(self.segments(backend))
        backend.close()
        self.settle(backend)
        self.holds(backend, [record()])

    # ---- sizes ----

    @promise
    def test_record_size_covers_what_is_written(self, backend: Backend) -> None:
        """record_size() is at least what a record adds to its segment, so that rotate_size holds."""
        fresh = self.reader(backend)
        sizes = [fresh.record_size(record(message)) for message in MESSAGES.values()]
        sizes += [fresh.record_size(record(b"", **fields)) for group in FIELDS.values() for fields in group]
        strange = [size for size in sizes if type(size) is not int or size < 0]
        assert not strange, f"record_size() returns {strange}"
        self.needs_segments(backend)
        for n, one in enumerate((record(), record(os.urandom(3000)), record(b""))):
            few, many = (self.store(backend, [one] * count, second=10 * n + count) for count in (1, 5))
            most = 4 * backend.record_size(one)
            assert many.size - few.size <= most, (
                f"4 records of {len(one.buf)} bytes add {many.size - few.size}, their record_size() is {most}"
            )

    # ---- other threads ----

    @promise
    def test_others_may_look_while_it_writes(self, backend: Backend) -> None:
        """While one thread writes, others may list, read, measure and ask: nothing fails, no partial record is read."""
        self.needs_segments(backend)
        wrote = numbered(4000)
        done = threading.Event()
        failures: list[BaseException] = []
        reader = self.reader(backend)
        readable = self.can_read(backend)

        def look() -> None:
            once = False
            with Guard() as guard:
                while not (done.is_set() and once):
                    once = True
                    for one in (backend, reader):
                        one.health()
                        one.stats()
                        one.record_size(wrote[0])
                        for stored in one.segments():
                            assert not stored.sealed, "the open segment is listed as sealed"
                            found = [*one.read(stored)] if readable else []
                            self.same(backend, wrote[: len(found)], found)
            if guard.error:
                failures.append(guard.error)

        threads = [threading.Thread(target=look) for _ in range(2)]
        backend.open(self.segment(backend))
        for thread in threads:
            thread.start()
        try:
            for at in range(0, len(wrote), 50):
                backend.write(Batch(wrote[at : at + 50]))
                backend.flush()
        finally:
            done.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        backend.close()
        self.settle(backend)
        self.holds(backend, wrote)

    # ---- files ----

    @promise
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
    def test_files_have_the_mode_that_was_asked_for(self, site: Site, mode: int) -> None:
        """A segment's file has the permission bits of file_mode, whatever the umask; no file beside it has more."""
        before = os.umask(0o027 if mode == 0o664 else 0)
        try:
            with self.started(attrs.evolve(site, file_mode=mode)) as backend:
                stored = self.store(backend, [record()])
        finally:
            os.umask(before)
        if not os.path.isfile(stored.location):
            not_checked("the location is not a file")
        found = stat.S_IMODE(os.stat(stored.location).st_mode)
        assert found == mode, f"file_mode is {mode:o}, the file's mode {found:o}"
        for name, (kind, _) in _tree(Path(site.folder)).items():
            if stat.S_ISREG(kind):
                assert not stat.S_IMODE(kind) & ~mode, (
                    f"file_mode is {mode:o}, the mode of {name} {stat.S_IMODE(kind):o}"
                )

    @promise
    def test_links_are_not_followed(self, backend: Backend, tmp_path: Path) -> None:
        """Nothing is written through a link at a segment's name: it may lead anywhere."""
        self.needs_segments(backend)
        target, kept = tmp_path / "target", tmp_path / "kept"
        kept.write_bytes(b"somebody's")
        for second, leads_to in enumerate((target, kept)):
            (Path(backend.site.folder) / self.segment(backend, second).name).symlink_to(leads_to)
            with contextlib.suppress(SipDumpError):
                self.write(backend, [record(b"link")], second=second)
            with contextlib.suppress(SipDumpError):
                backend.close()
        self.write(backend, [record()], second=5)
        self.settle(backend)
        assert not target.exists(), "a file was made through a link"
        assert kept.read_bytes() == b"somebody's", "a file was written through a link"

    @promise
    def test_nothing_is_written_elsewhere(
        self, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is written outside the site's folder, whatever tags and messages contain."""
        (tmp_path / "cwd").mkdir()
        monkeypatch.chdir(tmp_path / "cwd")
        monkeypatch.setenv("HOME", str(tmp_path / "cwd"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cwd"))
        hostile = ["../../escaped", "../escaped", "escaped/x", str(tmp_path / "escaped"), "|touch escaped", ".", ".."]
        self.write(backend, [record(text.encode(), tag=text, node=text) for text in hostile])
        self.settle(backend)
        self.received(backend)
        backend.stop()
        backend.start()
        left = sorted(path.name for path in [*tmp_path.iterdir(), *(tmp_path / "cwd").iterdir()])
        assert left == ["cwd", "store"], f"outside the folder there are now {left}"


def _content(stored: StoredSegment) -> bytes:
    path = Path(stored.location)
    return path.read_bytes() if path.is_file() else b""


def _tree(folder: Path) -> dict[str, Any]:
    """Return everything in a folder by name: mode and, of files, content."""
    return {
        str(path.relative_to(folder)): (status.st_mode, path.read_bytes() if stat.S_ISREG(status.st_mode) else b"")
        for path, status in _walk(folder)
    }


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in sorted(folder.rglob("*")):
        yield path, path.lstat()
