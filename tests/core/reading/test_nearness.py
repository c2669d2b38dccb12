"""The quick look at which segments are near a question's span leaves out none that the exact one takes."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.query import Query
from sipdump_core.reading.shelves import Shelved
from sipdump_core.reading.store import _near, may_hold
from sipdump_core.reading.units import Unit
from sipdump_core.segment import Segment, StoredSegment
from sipdump_text import TextBackend

BACKEND = TextBackend(NoOptions(), Site("/", "p-"))
DAY = 86400
YEAR_9999 = 253_402_300_799
TIMES = st.integers(0, 100).map(lambda hours: 1_795_305_600 + hours * 3600)


def shelved(start: int, modified: float) -> Shelved:
    stored = StoredSegment(attrs.evolve(Segment.starting("p-", start), suffix=".data"), 1, modified, sealed=True)
    return Shelved(BACKEND, stored)


@given(TIMES, st.integers(0, DAY), st.none() | TIMES, st.none() | TIMES | st.just(YEAR_9999))
def test_nothing_is_left_out_thatmay_hold_an_answer(
    start: int, length: int, since: int | None, until: int | None
) -> None:
    one = shelved(start, start + length)
    query = Query(
        since_us=None if since is None else since * 1_000_000, until_us=None if until is None else until * 1_000_000
    )
    if may_hold(Unit([one], []), query):
        assert list(_near([one], query)) == [one]


def test_what_is_far_from_the_span_is_left_out() -> None:
    early, middle, late = (shelved(1_795_305_600 + days * DAY, 1_795_305_600 + days * DAY) for days in (0, 30, 60))
    since = 1_795_305_600 + 30 * DAY
    query = Query(since_us=since * 1_000_000, until_us=(since + 60) * 1_000_000)
    assert list(_near([early, middle, late], query)) == [middle]


def test_what_holds_the_same_records_stays() -> None:
    """A file that was copied has another last write; and the other backend may have records that this one lacks."""
    start = 1_795_305_600
    near, copied = shelved(start, start + DAY * 30), shelved(start, start)
    query = Query(since_us=(start + 20 * DAY) * 1_000_000)
    assert list(_near([near, copied], query)) == [near, copied]
