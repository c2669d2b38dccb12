"""Backends that treat their segments wrongly."""

import calendar
import contextlib
import fnmatch
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from sipdump_core import Record, Segment, SegmentExistsError, SipDumpError, Site, StorageError, StoredSegment
from sipdump_core.drivers.rewriting import Change, Rewritten
from tests.broken.good import Good, caught_by


class Listing(Good):
    """Lists what ``change`` makes of each segment."""

    def change(self, stored: StoredSegment) -> StoredSegment:
        return stored

    def segments(self) -> Iterable[StoredSegment]:
        return map(self.change, super().segments())


# ---- open and close ----


@caught_by("nothing_is_overwritten", "two_writers_take_no_name_twice")
class Overwrites(Good):
    def open(self, segment: Segment) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.site.folder, segment.name))
        super().open(segment)


@caught_by("two_writers_take_no_name_twice", "links_are_not_followed")
class AppendsToWhatIsThere(Good):
    """A name that is taken is opened again."""

    def open(self, segment: Segment) -> None:
        self.close()
        self._path = os.path.join(self.site.folder, segment.name)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, self.site.file_mode)
        self._size, self._records = os.fstat(self._fd).st_size, 1


@caught_by("nothing_is_overwritten")
class TruncatesWhatIsThere(AppendsToWhatIsThere):
    def open(self, segment: Segment) -> None:
        super().open(segment)
        os.ftruncate(self._fd, 0)


@caught_by("rotation_keeps_the_old_segment")
class RotationGoesOnInTheOldFile(Good):
    _first: Segment | None = None

    def open(self, segment: Segment) -> None:
        self._first = self._first or segment
        if os.path.exists(os.path.join(self.site.folder, self._first.name)):
            os.close(os.open(os.path.join(self.site.folder, segment.name), os.O_CREAT | os.O_WRONLY, 0o600))
            self._path = os.path.join(self.site.folder, self._first.name)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            self._size, self._records = os.fstat(self._fd).st_size, 1
        else:
            super().open(segment)


@caught_by("rotation_keeps_the_old_segment")
class KeepsOneSegment(Good):
    def open(self, segment: Segment) -> None:
        for stored in super().segments():
            if stored.sealed:
                self.delete(stored)
        super().open(segment)


@caught_by("rotation_keeps_the_old_segment")
class TouchesTheOldOnes(Good):
    def open(self, segment: Segment) -> None:
        for stored in super().segments():
            os.utime(stored.location)
        super().open(segment)


@caught_by("a_closed_segment_is_sealed")
class NamesByItsOwnClock(Good):
    def open(self, segment: Segment) -> None:
        own = attrs.evolve(Segment.starting(self.site.prefix, time.time()), suffix=self.suffix)
        while True:
            try:
                return super().open(own)
            except SegmentExistsError:
                own = own.next()


@caught_by("a_closed_segment_is_sealed")
class NamesInUtcAndListsLocal(Good):
    def open(self, segment: Segment) -> None:
        stamp = time.strftime("%Y-%m-%d--%H-%M-%S", time.gmtime(segment.start - 3600))
        super().open(attrs.evolve(segment, stamp=stamp))


@caught_by("segments_of_one_second_are_told_apart")
class IgnoresTheSequence(Good):
    def open(self, segment: Segment) -> None:
        if segment.sequence > 1:
            raise StorageError("open", segment.name, "there is one already")
        super().open(segment)


@caught_by("segments_of_one_second_are_told_apart")
class ListsSequencesOfOneDigit(Good):
    def segments(self) -> Iterable[StoredSegment]:
        return (stored for stored in super().segments() if stored.segment.sequence < 10)


@caught_by("a_segment_without_records_is_not_kept")
class KeepsEmptySegments(Good):
    def close(self) -> None:
        if self._fd >= 0:
            self._records += 1
        super().close()


@caught_by("a_closed_segment_is_sealed")
class CloseDoesNotSeal(Good):
    """The file descriptor, and the lock with it, stays open."""

    def close(self) -> None:
        self._fd = -1


@caught_by("close_twice")
class CloseTwiceRaises(Good):
    def close(self) -> None:
        if self._fd < 0:
            raise StorageError("close", self.name, "no segment is open")
        super().close()


@caught_by("close_twice")
class CloseTwiceWritesAgain(Good):
    _last: Sequence[Record] = ()

    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        self._last = batch

    def close(self) -> None:
        if self._fd < 0 and self._last:
            with open(self._path, "ab") as file:
                file.write(self.encode(self._last))
        super().close()


@caught_by("write_after_close_is_refused")
class WriteAfterCloseIsIgnored(Good):
    def write(self, batch: Sequence[Record]) -> None:
        if self._fd >= 0:
            super().write(batch)


@caught_by("write_after_close_is_refused")
class WriteAfterCloseOpensAgain(Good):
    def write(self, batch: Sequence[Record]) -> None:
        if self._fd < 0 and hasattr(self, "_path"):
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        super().write(batch)


@caught_by("write_after_close_is_refused")
class WriteAfterCloseRaisesAnything(Good):
    def write(self, batch: Sequence[Record]) -> None:
        if self._fd < 0:
            raise OSError(9, "Bad file descriptor")
        super().write(batch)


@caught_by("started_and_stopped_again")
class StopsForGood(Good):
    _stopped = False

    def stop(self) -> None:
        self._stopped = True

    def start(self) -> None:
        if self._stopped:
            raise StorageError("start", self.name, "the connection is closed")


@caught_by("started_and_stopped_again")
class StartWipesTheFolder(Good):
    def start(self) -> None:
        for stored in super().segments():
            self.delete(stored)


@caught_by("two_instances_side_by_side")
class InstancesShareWhatIsHeld(Good):
    """The list belongs to the class."""

    _held: ClassVar[list[Record]] = []

    def write(self, batch: Sequence[Record]) -> None:
        super().write(())
        self._held.extend(batch)

    def flush(self) -> None:
        if self._held and self._fd >= 0:
            super().write(self._held[:])
            self._held.clear()

    def close(self) -> None:
        self.flush()
        super().close()


@caught_by("two_instances_side_by_side")
class InstancesShareTheFolder(Good):
    _folder: ClassVar[str] = ""

    def start(self) -> None:
        type(self)._folder = self.site.folder

    def open(self, segment: Segment) -> None:
        self.site = attrs.evolve(self.site, folder=self._folder)
        super().open(segment)


@caught_by("two_instances_side_by_side", time_limit=0.5)
class OneInstanceAtATime(Good):
    """A lock of the class is held while a segment is open."""

    _lock: ClassVar[threading.Lock] = threading.Lock()

    def open(self, segment: Segment) -> None:
        self._lock.acquire()
        super().open(segment)

    def close(self) -> None:
        if self._fd >= 0:
            self._lock.release()
        super().close()


@caught_by("a_second_start_disturbs_no_writer")
class StartTakesTheOpenOneForACrash(Good):
    def start(self) -> None:
        for stored in [*super().segments()]:
            if stored.records is None:
                records = [*self.read(stored)]
                os.unlink(stored.location)
                recovered = Good(self.opts, self.site)
                recovered.open(stored.segment)
                recovered.write(records)
                recovered.close()


@caught_by("however_many_segments_are_listed")
class ListsOnePage(Good):
    def segments(self) -> Iterable[StoredSegment]:
        return [*super().segments()][:100]  # small, because a busy machine writes few in the time of the check


@caught_by("times_are_kept_in_every_zone")
class ModifiedIsLocalTime(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, modified=calendar.timegm(time.localtime(stored.modified)))


@caught_by("it_works_in_any_thread")
class OneThreadOnly(Good):
    def __init__(self, options: Any, site: Site) -> None:
        super().__init__(options, site)
        self._made_in = threading.get_ident()

    def write(self, batch: Sequence[Record]) -> None:
        if threading.get_ident() != self._made_in:
            raise RuntimeError("objects created in a thread can only be used in that same thread")
        super().write(batch)


# ---- listing ----


@caught_by("the_open_segment_is_listed_as_open")
class ListsTheOpenOneAsSealed(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, sealed=True)


@caught_by("the_open_segment_is_listed_as_open")
class KnowsItsOwnOpenSegmentOnly(Good):
    """Whether a segment is open is known to the instance that writes it: the next process prunes it."""

    def segments(self) -> Iterable[StoredSegment]:
        for stored in super().segments():
            own = self._fd >= 0 and stored.location == self._path
            yield attrs.evolve(stored, sealed=not own)


@caught_by("the_open_segment_is_listed_as_open")
class HidesTheOpenOne(Good):
    def segments(self) -> Iterable[StoredSegment]:
        return (stored for stored in super().segments() if stored.sealed)


@caught_by("a_closed_segment_is_sealed")
class ListsTwice(Good):
    def segments(self) -> Iterable[StoredSegment]:
        return [*super().segments()] * 2


@caught_by("rotation_keeps_the_old_segment", "prune_deletes_what_is_due")
class ListsTheNewestOnly(Good):
    def segments(self) -> Iterable[StoredSegment]:
        return [*super().segments()][-1:]


@caught_by("a_closed_segment_is_sealed")
class ListsWithoutTheSuffix(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, segment=attrs.evolve(stored.segment, suffix=""))


@caught_by("the_listing_tells_the_truth")
class CountsOneTooMany(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, records=(stored.records or 0) + 1)


@caught_by("the_listing_tells_the_truth")
class CountsTheLastBatch(Good):
    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        self._records = 1


@caught_by("the_listing_tells_the_truth")
class SizeInKib(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, size=stored.size // 1024 + 1)


@caught_by("the_listing_tells_the_truth")
class SizeIsZero(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, size=0)


@caught_by("the_listing_tells_the_truth", "prune_deletes_what_is_due")
class ModifiedInMilliseconds(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, modified=stored.modified * 1000)


@caught_by("the_listing_tells_the_truth")
class ModifiedIsTheStart(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, modified=stored.segment.start)


@caught_by("the_listing_tells_the_truth")
class NoLocation(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, location="")


@caught_by("listing_changes_nothing")
class ListingWritesAnIndex(Good):
    def segments(self) -> Iterable[StoredSegment]:
        listed = [*super().segments()]
        Path(self.site.folder, f"index-{id(self)}").write_text(str(len(listed)))
        return listed


@caught_by("listing_changes_nothing")
class ReadingEatsTheSegment(Good):
    def read(self, stored: StoredSegment) -> Iterator[Record]:
        yield from super().read(stored)
        Path(stored.location).write_bytes(b"")


@caught_by("listing_changes_nothing")
class ListsAfterStartOnly(Good):
    _started = False

    def start(self) -> None:
        self._started = True

    def segments(self) -> Iterable[StoredSegment]:
        if not self._started:
            raise StorageError("list", self.name, "not connected")
        return super().segments()


class Names(Good):
    """Lists every name that ``has`` finds good."""

    def has(self, name: str) -> bool:
        return name.startswith(self.site.prefix) and name.endswith(self.suffix)

    def segments(self) -> Iterable[StoredSegment]:
        for name in sorted(os.listdir(self.site.folder)):
            if self.has(name):
                own = Segment.parse(name, self.site.prefix, self.suffix)
                yield from self._looked_at(
                    [own or Segment(self.site.prefix, name[len(self.site.prefix) : -len(self.suffix)], 0, self.suffix)]
                )


@caught_by("unknown_things_are_passed_over", "a_prefix_is_taken_as_it_is")
class ListsByPrefixAndSuffix(Names):
    pass


@caught_by("a_prefix_is_taken_as_it_is")
class PrefixIsAPattern(Names):
    def has(self, name: str) -> bool:
        return fnmatch.fnmatch(name, f"{self.site.prefix}????-??-??--*{self.suffix}")


@caught_by("a_prefix_is_taken_as_it_is")
class PrefixIsARegularExpression(Names):
    def has(self, name: str) -> bool:
        return bool(re.fullmatch(rf"{self.site.prefix}\d{{4}}-\d\d-\d\d--[\d-]*{self.suffix}", name))


@caught_by("a_prefix_is_taken_as_it_is")
class PrefixInAnyCase(Good):
    def open(self, segment: Segment) -> None:
        super().open(attrs.evolve(segment, prefix=segment.prefix.lower()))

    def segments(self) -> Iterable[StoredSegment]:
        site = self.site
        self.site = attrs.evolve(site, prefix=site.prefix.lower())
        try:
            return [attrs.evolve(s, segment=attrs.evolve(s.segment, prefix=site.prefix)) for s in [*super().segments()]]
        finally:
            self.site = site


@caught_by("unknown_things_are_passed_over")
class FollowsLinksInListing(Names):
    def segments(self) -> Iterable[StoredSegment]:
        for path in sorted(Path(self.site.folder).iterdir()):
            own = Segment.parse(path.name, self.site.prefix, self.suffix)
            if own and (path.is_file() or path.is_symlink() or path.is_dir()):
                yield next(self._looked_at([own]), None) or StoredSegment(own, 1, 0.0, sealed=True, location=str(path))


@caught_by("unknown_things_are_passed_over")
class StartTidiesUp(Good):
    def start(self) -> None:
        for path in Path(self.site.folder).iterdir():
            if path.is_file() and not Segment.parse(path.name, self.site.prefix, self.suffix):
                path.unlink()


# ---- deleting ----


@caught_by("delete_is_idempotent")
class DeleteRaisesWhatIsGone(Good):
    def delete(self, stored: StoredSegment) -> None:
        if not os.path.exists(stored.location):
            raise StorageError("delete", stored.location, "there is no such file")
        super().delete(stored)


@caught_by("delete_is_idempotent")
class DeleteDoesNothing(Good):
    def delete(self, stored: StoredSegment) -> None:
        pass


@caught_by("delete_is_idempotent")
class DeleteHides(Good):
    def delete(self, stored: StoredSegment) -> None:
        if os.path.exists(stored.location):
            os.link(stored.location, stored.location + ".deleted")
            super().delete(stored)
            os.rename(stored.location + ".deleted", stored.location)
            self._hidden.add(stored.location)

    _hidden: ClassVar[set[str]] = set()

    def segments(self) -> Iterable[StoredSegment]:
        return (stored for stored in super().segments() if stored.location not in self._hidden)


@caught_by("delete_takes_its_own_only", "segments_of_one_second_are_told_apart")
class DeletesByStem(Good):
    def delete(self, stored: StoredSegment) -> None:
        super().delete(stored)
        for path in Path(self.site.folder).glob(f"{stored.segment.stem}*"):
            path.unlink()


@caught_by("delete_takes_its_own_only")
class DeletesTheNextOne(Good):
    def delete(self, stored: StoredSegment) -> None:
        super().delete(stored)
        for other in [*super().segments()]:
            if other.sealed and other.segment > stored.segment:
                super().delete(other)
                break


@caught_by("delete_takes_its_own_only")
class DeletesTheOlder(Good):
    def delete(self, stored: StoredSegment) -> None:
        for other in [*super().segments()]:
            if other.sealed and other.segment <= stored.segment:
                super().delete(other)


@caught_by("rewrite_takes_out_what_it_is_told_and_nothing_else")
class RewritesNothing(Good):
    def rewrite(self, stored: StoredSegment, change: Change) -> Rewritten:
        records = [*self.read(stored)]
        removed = sum(map(change.takes, records))
        return Rewritten(len(records) - removed, removed)


@caught_by("rewrite_takes_out_what_it_is_told_and_nothing_else")
class RewritesTheTimeToo(Good):
    def rewrite(self, stored: StoredSegment, change: Change) -> Rewritten:
        done = super().rewrite(stored, change)
        with contextlib.suppress(FileNotFoundError):
            os.utime(stored.location)
        return done


@caught_by("rewrite_takes_out_what_it_is_told_and_nothing_else")
class RewritesAllSegments(Good):
    def rewrite(self, stored: StoredSegment, change: Change) -> Rewritten:
        done = super().rewrite(stored, change)
        for other in [*self.segments()]:
            super().rewrite(other, change)
        return done


@caught_by("the_open_segment_is_not_deleted")
class DeletesTheOpenOne(Good):
    def delete(self, stored: StoredSegment) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stored.location)


@caught_by("the_open_segment_is_not_deleted")
class DeleteOfTheOpenOneIsIgnored(Good):
    def delete(self, stored: StoredSegment) -> None:
        with contextlib.suppress(StorageError):
            super().delete(stored)


@caught_by("prune_deletes_what_is_due")
class RefusesEveryDelete(Good):
    def delete(self, stored: StoredSegment) -> None:
        raise StorageError("delete", stored.location, "access denied")


# ---- files ----


@caught_by("files_have_the_mode_that_was_asked_for")
class ModeByUmask(Good):
    def open(self, segment: Segment) -> None:
        super().open(segment)
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(self._fd, 0o666 & ~umask)


@caught_by("files_have_the_mode_that_was_asked_for")
class ModeForAll(Good):
    def close(self) -> None:
        if self._fd >= 0:
            os.fchmod(self._fd, stat.S_IRUSR | stat.S_IWUSR | stat.S_IROTH)
        super().close()


@caught_by("links_are_not_followed")
class FollowsLinks(Good):
    def open(self, segment: Segment) -> None:
        self._path = os.path.join(self.site.folder, segment.name)
        if os.path.exists(self._path) and not os.path.islink(self._path):
            raise SegmentExistsError("open", self._path, "it is there")
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, self.site.file_mode)
        self._size = self._records = 0


@caught_by("nothing_is_written_elsewhere")
class AFileForEachTag(Good):
    def write(self, batch: Sequence[Record]) -> None:
        super().write(batch)
        for record in batch:
            with contextlib.suppress(OSError):
                Path(self.site.folder, record.tag.replace("|", "-")).write_bytes(record.buf)


@caught_by("nothing_is_written_elsewhere")
class WritesToTheWorkingDirectory(Good):
    def close(self) -> None:
        if self._fd >= 0:
            Path("sipdump.index").write_text(self._path)
        super().close()


# ---- sizes ----


@caught_by("record_size_covers_what_is_written")
class SizeOfTheMessageOnly(Good):
    def record_size(self, record: Record) -> int:
        return len(record.buf)


@caught_by("record_size_covers_what_is_written")
class SizeIsConstant(Good):
    def record_size(self, record: Record) -> int:
        return 1000


@caught_by("record_size_covers_what_is_written")
class SizeIsAFloat(Good):
    def record_size(self, record: Record) -> int:
        return len(self.frame(record)) * 1.1  # type: ignore[return-value]  # that is the fault


# ---- several at once, and what stands beside a segment ----


@caught_by("delete_many_is_as_delete", "prune_deletes_what_is_due")
class DeleteManySaysNothing(Good):
    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        for stored in chunk:
            self.delete(stored)
        return iter(())


@caught_by("delete_many_is_as_delete")
class DeleteManyTakesTheOpenOne(Good):
    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        for stored in chunk:
            Path(stored.location).unlink(missing_ok=True)
            yield stored, None


@caught_by("delete_many_is_as_delete")
class DeleteManyEndsWithAnError(Good):
    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        for stored in chunk:
            self.delete(stored)
            yield stored, None


@caught_by("delete_many_is_as_delete")
class DeleteManyWantsAllToBeThere(Good):
    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        for stored in chunk:
            there = os.path.exists(stored.location)
            for one, error in super().delete_many([stored]):
                yield one, error if there else StorageError("delete", one.location, "it is not there")


@caught_by("however_many_segments_are_listed")
class DeleteManyTakesHalfAThousand(Good):
    def delete_many(self, chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        return super().delete_many(chunk[:500])


class Index(Good):
    """Has a file beside each segment."""

    mode = 0o600

    def close(self) -> None:
        if self._fd >= 0 and self._records:
            with contextlib.suppress(OSError):
                os.close(os.open(f"{self._path}.index", os.O_WRONLY | os.O_CREAT, self.mode))
                os.chmod(f"{self._path}.index", self.mode)
        super().close()


@caught_by("delete_is_idempotent")
class DeleteLeavesTheIndex(Index):
    pass


@caught_by("files_have_the_mode_that_was_asked_for")
class IndexForAll(Index):
    mode = 0o644

    def delete(self, stored: StoredSegment) -> None:
        super().delete(stored)
        Path(f"{stored.location}.index").unlink(missing_ok=True)


@caught_by("the_listing_tells_the_truth")
class LocationIsNoPath(Listing):
    def change(self, stored: StoredSegment) -> StoredSegment:
        return attrs.evolve(stored, location=f"store://{stored.segment.name}")


@caught_by("nothing_is_written_elsewhere")
class LeavesTemporaryFiles(Good):
    def close(self) -> None:
        if self._fd >= 0:
            os.close(tempfile.mkstemp()[0])
        super().close()


@caught_by("nothing_is_written_elsewhere")
class WritesToTheHome(Good):
    def stop(self) -> None:
        if "store" in os.listdir(Path.home().parent):  # the kit's, and not that of who runs this
            (Path.home() / ".good").touch()
