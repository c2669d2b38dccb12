"""What a backend promises about its segments: naming, listing and keeping them."""

import contextlib
import os
import threading
import time
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.guard import Guard
from sipdump_core.errors import SegmentExistsError, StorageError
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.testing.kit import CLOCKS_APART, Kit, content, names, tree
from sipdump_core.testing.promises import promise
from sipdump_core.testing.samples import mixed, numbered, record
from sipdump_core.testing.watch import called, touching

__all__ = ["StoreChecks"]

_RUNS_CODE = [
    *((module, name) for module in ("_pickle", "marshal") for name in ("load", "loads")),
    *(("builtins", name) for name in ("eval", "exec")),
]
"""C functions, with their modules, that run what they are given."""


class StoreChecks(Kit):
    """The checks of opening, listing and reading segments."""

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
        before = content(first)
        others = [self.store(backend, numbered(5, 5 * n), second=n) for n in (1, 2)]
        assert self.find(backend, first.segment) == first, "the older segment is listed otherwise than before"
        assert content(first) == before, "the older segment's file has changed"
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
        before = self.segments(backend), [content(one) for one in stored], os.listdir(backend.site.folder)
        reader = self.reader(backend)
        for _ in range(2):
            assert self.segments(reader) == before[0], f"listed are {names(self.segments(reader))}"
            self.same(backend, numbered(3), self.read(reader, stored[0]))
        assert [content(one) for one in stored] == before[1], "a segment's file has changed"
        if isinstance(backend, FolderBackend):
            left = sorted({*os.listdir(backend.site.folder)} - {*before[2]})
            assert not left, f"in the folder there are {left} now"

    @promise
    def test_unknown_things_are_passed_over(self, backend: Backend) -> None:
        """Anything without a name of the site's form, or not a plain file, is neither listed, read nor changed."""
        self.needs_segments(backend)
        folder, segment = Path(backend.site.folder), self.segment(backend)
        own = tree(folder)
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
        before = {name: content for name, content in tree(folder).items() if name not in own}
        stored = self.store(backend, [record()])
        assert self.segments(backend) == [stored], f"listed are {names(self.segments(backend))}"
        self.holds(backend, [record()])
        backend.delete(stored)
        after = tree(folder)
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
    def test_reading_runs_no_code(self, backend: Backend) -> None:
        """Reading unpickles and evaluates nothing: who can write a file there must not run code here."""
        stored = self.store(backend, mixed(20, seed=3))
        reader = self.reader(backend)
        self.read(reader, stored)  # what is imported only now is no code of a segment
        with touching() as touched, called(*_RUNS_CODE) as calls:
            self.read(reader, stored)
        calls += [one.event for one in touched if one.event.startswith(("pickle", "marshal"))]
        assert not calls, f"it calls {calls[0]}; a segment is data, decode it with json or struct"

    @promise
    def test_reading_what_is_gone_is_a_storage_error(self, backend: Backend) -> None:
        """Reading a segment that was deleted raises StorageError."""
        stored = self.store(backend, [record()])
        self.read(backend, stored)
        backend.delete(stored)
        with pytest.raises(StorageError):
            self.read(backend, stored)

    @promise
    def test_others_may_look_while_it_writes(self, backend: Backend) -> None:
        """While one thread writes, others may list, read, measure and ask: nothing fails, no partial record is read."""
        self.needs_segments(backend)
        wrote = numbered(4000)
        done = threading.Event()
        looked = threading.Semaphore(0)
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
                    looked.release()
            if guard.error:
                failures.append(guard.error)

        threads = [threading.Thread(target=look) for _ in range(2)]
        backend.open(self.segment(backend))
        for thread in threads:
            thread.start()
        try:
            for at in range(0, len(wrote), 50):
                if at % 1000 == 0:  # a fast backend is not at its end before anybody has looked
                    looked.acquire(timeout=1)
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
