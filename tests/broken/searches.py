"""Backends that answer questions wrongly, lose their place in a segment, or do not know what they merged."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from sipdump_core import Record, Segment, StorageError, StoredSegment
from sipdump_core.drivers.capabilities import Compacted
from sipdump_core.drivers.query import Query
from tests.broken.good import Good, caught_by


class GoodSearch(Good):
    """Can do all of it: reads and filters, counts records for a place, and keeps what it merged beside the file."""

    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        return filter(query.matches, self.read(stored))

    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        records = list(self.read(stored))
        return ([] if place < 0 else records[place:]), len(records)

    def united(self, stored: StoredSegment) -> Sequence[Segment]:
        path = Path(f"{stored.location}.sources")
        names = path.read_text().split() if path.exists() else []
        found = (Segment.parse(name, self.site.prefix, self.suffix) for name in names)
        return [segment for segment in found if segment]

    def compact(self, **_: Any) -> Iterator[Compacted]:
        sealed = [stored for stored in self.segments() if stored.sealed]
        merged = type(self)(self.opts, self.site)
        segment = attrs.evolve(sealed[-1].segment, sequence=sealed[-1].segment.sequence + 1)
        merged.open(segment)
        merged.write([record for stored in sealed for record in self.read(stored)])
        merged.close()
        location = os.path.join(self.site.folder, segment.name)
        Path(f"{location}.sources").write_text("\n".join(self.sources(sealed)))
        for stored in sealed:
            self.delete(stored)
        yield Compacted(self.name, "", sealed, location)

    def sources(self, sealed: Iterable[StoredSegment]) -> list[str]:
        return [segment.name for stored in sealed for segment in self.united(stored) or [stored.segment]]

    def delete(self, stored: StoredSegment) -> None:
        super().delete(stored)
        Path(f"{stored.location}.sources").unlink(missing_ok=True)


# ---- search ----


class Answers(GoodSearch):
    """Searches for another question, or passes over some records."""

    def asked(self, query: Query) -> Query:
        return query

    def takes(self, record: Record, query: Query) -> bool:
        return True

    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        other = self.asked(query)
        return (one for one in self.read(stored) if other.matches(one) and self.takes(one, query))


@caught_by("search_finds_what_reading_finds")
class SearchForgetsTheSpan(Answers):
    def asked(self, query: Query) -> Query:
        return attrs.evolve(query, since_us=None, until_us=None)


@caught_by("search_finds_what_reading_finds")
class SearchIncludesTheEnd(Answers):
    def asked(self, query: Query) -> Query:
        return attrs.evolve(query, until_us=None if query.until_us is None else query.until_us + 1)


@caught_by("search_finds_what_reading_finds")
class SearchTakesTimesForSorted(GoodSearch):
    """It stops at the first record behind the span."""

    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        for record in self.read(stored):
            if query.until_us is not None and record.time_us >= query.until_us:
                return
            if query.matches(record):
                yield record


@caught_by("search_finds_what_reading_finds")
class SearchTakesAnyWithTheLiteral(GoodSearch):
    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        for record in self.read(stored):
            if any(needle in record.buf for needle in query.needles) or (not query.needles and query.matches(record)):
                yield record


@caught_by("search_finds_what_reading_finds")
class SearchWantsCallIdsAsTheyAreTyped(Answers):
    """8-bit and folded ones are not found."""

    def takes(self, record: Record, query: Query) -> bool:
        return not query.call_ids or any(one.encode() in record.buf for one in query.call_ids)


@caught_by("search_finds_what_reading_finds")
class SearchWantsCallIdsInFull(Answers):
    """The compact form is not known."""

    def takes(self, record: Record, query: Query) -> bool:
        return not query.call_ids or b"call-id" in record.buf.lower()


@caught_by("search_finds_what_reading_finds")
class SearchEndsAtANul(Answers):
    def takes(self, record: Record, query: Query) -> bool:
        literal = next(iter(query.call_ids), "").encode()
        return len(query.call_ids) != 1 or literal.isascii() is False or b"\0" not in record.buf


@caught_by("search_finds_what_reading_finds")
class SearchLimitsCallIds(Answers):
    def takes(self, record: Record, query: Query) -> bool:
        return not query.call_ids or len(record.call_id or "") < 4096


@caught_by("search_finds_what_reading_finds")
class SearchAsksForOneOfSeveral(Answers):
    def asked(self, query: Query) -> Query:
        return attrs.evolve(query, call_ids=sorted(query.call_ids)[:100])


@caught_by("search_finds_what_reading_finds")
class SearchIgnoresCaseInUsers(Answers):
    def asked(self, query: Query) -> Query:
        return attrs.evolve(query, users=[*query.users, *map(str.lower, query.users)])


@caught_by("search_finds_what_reading_finds")
class SearchKnowsSourcesOnly(Answers):
    def takes(self, record: Record, query: Query) -> bool:
        ends = query.endpoints
        return not ends or any(end.holds(record.flow.src_ip, record.flow.src_port) for end in ends)


@caught_by("search_finds_what_reading_finds")
class SearchForgetsTags(Answers):
    def asked(self, query: Query) -> Query:
        return attrs.evolve(query, tags=())


@caught_by("search_finds_what_reading_finds")
class SearchForgetsExpressions(Answers):
    def asked(self, query: Query) -> Query:
        return attrs.evolve(query, greps=[grep for grep in query.greps if not grep.expression])


@caught_by("search_finds_what_reading_finds", "search_sees_an_open_segment")
class SearchTurnsCallsAround(GoodSearch):
    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        return reversed([*super().search(stored, query)])


@caught_by("search_finds_what_reading_finds")
class SearchFindsOnce(GoodSearch):
    """Equal records, as retransmissions are, come once."""

    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        return iter(dict.fromkeys(super().search(stored, query)))


@caught_by("search_finds_what_reading_finds", "search_sees_an_open_segment")
class SearchRaises(GoodSearch):
    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        raise KeyError(query)


@caught_by("search_sees_an_open_segment")
class SearchKnowsSealedOnly(GoodSearch):
    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        return super().search(stored, query) if stored.sealed else iter(())


@caught_by("search_sees_an_open_segment")
class SearchRemembersTheFirstAnswer(GoodSearch):
    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        known = self.__dict__.setdefault("_known", {})
        key = (stored.segment, query)
        if key not in known:
            known[key] = list(super().search(stored, query))
        return iter(known[key])


@caught_by("asking_what_is_gone_is_a_storage_error")
class SearchFindsNothingInWhatIsGone(GoodSearch):
    def search(self, stored: StoredSegment, query: Query) -> Iterator[Record]:
        return super().search(stored, query) if os.path.exists(stored.location) else iter(())


@caught_by("asking_what_is_gone_is_a_storage_error")
class FollowsWhatIsGone(GoodSearch):
    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        try:
            return super().follow(stored, place)
        except StorageError:
            return [], place


# ---- follow ----


@caught_by("follow_goes_on_where_it_ended")
class FollowStartsAgain(GoodSearch):
    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        records, _ = super().follow(stored, place)
        return records, place


@caught_by("follow_goes_on_where_it_ended")
class FollowTakesTheEndForTheStart(GoodSearch):
    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        return super().follow(stored, max(place, 0))


@caught_by("follow_goes_on_where_it_ended")
class FollowForgetsTheLast(GoodSearch):
    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        records, behind = super().follow(stored, place)
        return records[:100], behind


@caught_by("follow_goes_on_where_it_ended")
class FollowEndsAtTheSeal(GoodSearch):
    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        return ([], place) if stored.sealed else super().follow(stored, place)


@caught_by("follow_goes_on_where_it_ended")
class FollowBeginsAgainAtTheSeal(GoodSearch):
    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        sealed = self.__dict__.setdefault("_sealed", set())
        if stored.sealed and stored.segment not in sealed:
            sealed.add(stored.segment)
            place = 0
        return super().follow(stored, place)


@caught_by("follow_goes_on_where_it_ended")
class FollowSorts(GoodSearch):
    def follow(self, stored: StoredSegment, place: int) -> tuple[Sequence[Record], int]:
        records, behind = super().follow(stored, place)
        return sorted(records, key=lambda record: record.buf), behind


# ---- united ----


@caught_by("united_names_what_was_merged")
class UnitesNothing(GoodSearch):
    def united(self, stored: StoredSegment) -> Sequence[Segment]:
        return []


@caught_by("united_names_what_was_merged")
class UnitesItself(GoodSearch):
    def united(self, stored: StoredSegment) -> Sequence[Segment]:
        return super().united(stored) or [stored.segment]


@caught_by("united_names_what_was_merged")
class UnitesTheLastStepOnly(GoodSearch):
    """What was merged twice names what it was made of, which is gone, too."""

    def sources(self, sealed: Iterable[StoredSegment]) -> list[str]:
        return [stored.segment.name for stored in sealed]


@caught_by("united_names_what_was_merged")
class UnitesTheFirst(GoodSearch):
    def united(self, stored: StoredSegment) -> Sequence[Segment]:
        return super().united(stored)[:3]
