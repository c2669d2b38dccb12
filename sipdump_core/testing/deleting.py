"""What a backend promises about deleting: all of a segment, and nothing else."""

import contextlib
import itertools
import os
import time
from functools import partial
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.capabilities import Rewrites, can
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.rewriting import Change
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.lifecycle.retention import prune
from sipdump_core.segment import Segment
from sipdump_core.testing.kit import Kit, names, tree
from sipdump_core.testing.promises import does_not_apply, promise
from sipdump_core.testing.samples import numbered, record
from sipdump_core.testing.watch import at_step, steps

__all__ = ["DeleteChecks"]


class DeleteChecks(Kit):
    """The checks of deleting and pruning."""

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
        left = [name for name in tree(Path(backend.site.folder)) if first.segment.stem in name]
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
        before = {name: content for name, content in tree(folder).items() if name.endswith(tuple(beside))}
        backend.delete(stored[1])
        left = sorted(s.segment for s in self.segments(backend))
        assert left == [stored[0].segment, stored[2].segment], names(self.segments(backend))
        self.holds(backend, numbered(2) + numbered(2, 4))
        after = tree(folder)
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
    def test_rewrite_takes_out_what_it_is_told_and_nothing_else(self, backend: Backend) -> None:
        """rewrite() takes records out of a segment that keeps its name and age; without any it is gone, others stay."""
        if not (can(type(backend), Rewrites) and self.can_read(backend)):
            does_not_apply("the backend has no rewrite(): erasing and rules leave its segments alone")
        first = numbered(1)[0]
        some = [
            attrs.evolve(first, time_us=first.time_us + n, buf=b"PING sip:%d SIP/2.0\r\n\r\n" % n) for n in range(6)
        ]
        stored = self.store(backend, some)
        other = self.store(backend, numbered(2, 6), second=1)
        reader: object = self.reader(backend)
        assert can(reader, Rewrites)
        gone = {one.buf for one in some[1:3]}
        done = reader.rewrite(stored, Change(frozenset(), also=lambda one: one.buf in gone))
        assert (done.kept, done.removed, done.masked) == (4, 2, 0), f"it reports {done}"
        after = self.find(backend, stored.segment)
        assert after.sealed, f"it is {after.state} now"
        younger = after.modified - stored.modified
        most = 0.0 if isinstance(backend, FolderBackend) else backend.site.rotate  # of others no more is known
        assert 0 <= younger <= most, f"its last write was {stored.modified}, and is {after.modified}"
        assert after.records in (None, 4), f"it is listed with {after.records} records"
        left = [some[0], *some[3:]]
        self.same(backend, left, self.read(self.reader(backend), after))
        reader.rewrite(after, Change(frozenset(), others=True))
        assert [s.segment for s in self.segments(backend)] == [other.segment], names(self.segments(backend))
        self.holds(backend, numbered(2, 6))

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

    @promise
    def test_delete_many_takes_its_own_only(self, site: Site) -> None:
        """delete_many() takes the named segments, and none whose name or prefix begins like theirs."""
        prefixes = [f"{site.prefix}{more}" for more in ("a", "a-", "ab", "A", "a_", "a-2026-")]
        sites = [attrs.evolve(site, prefix=prefix) for prefix in prefixes]
        kept: dict[str, list[Segment]] = {}
        try:
            for own in sites:
                with self.started(own) as backend:
                    self.needs_segments(backend)
                    segment = self.segment(backend)
                    kept[own.prefix] = [attrs.evolve(segment, sequence=sequence) for sequence in (0, 1, 10)]
                    for one in kept[own.prefix]:
                        backend.open(one)
                        backend.write(Batch([record(one.name.encode())]))
                        backend.close()
                    self.settle(backend)
            for own, at in itertools.product(sites, (1, 0)):
                backend = self.make_backend(own)
                gone = self.find(backend, kept[own.prefix].pop(at))
                refused = [str(error) for _, error in backend.delete_many([gone]) if error]
                assert not refused, f"{gone.segment.name} is not deleted: {refused}"
            for own in sites:
                self.holds(self.make_backend(own), [record(one.name.encode()) for one in kept[own.prefix]])
        finally:
            for own in sites:
                with contextlib.suppress(Exception):  # as in site
                    self.clean(self.make_backend(own))

    @promise
    def test_listing_goes_on_while_others_delete(self, backend: Backend) -> None:
        """While others delete, segments() raises nothing, and lists each segment that was not deleted."""
        stays = [self.store(backend, [record()], second=second).segment for second in (0, 1000)]
        goes = self.store(backend, [record()], second=1)
        reader, other = self.reader(backend), self.reader(backend)
        count = steps(lambda: self.segments(reader))
        end = time.monotonic() + 3  # enough for each step of a folder, for some of a remote store
        for second, number in enumerate(sorted({*range(1, min(count, 30)), *range(1, count, max(1, count // 30))}), 2):
            listed = at_step(number, partial(self.segments, reader), partial(other.delete, goes))
            found = [one.segment for one in listed if one.segment != goes.segment]
            assert found == stays, f"while {goes.segment.name} was deleted, listed were {names(listed)}"
            if time.monotonic() > end:
                break
            other.delete(goes)  # if it was not, because there were fewer steps this time
            goes = self.store(backend, [record()], second=second)
        lazy = iter(reader.segments())
        first = next(lazy)
        for stored in self.segments(other):
            other.delete(stored)
        listed = [first, *lazy]
        assert {one.segment for one in listed} <= {*stays, goes.segment}, f"listed are {names(listed)}"
