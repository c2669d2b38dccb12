"""What the tests of searching in files share: questions, and small limits, so that small files have everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import strategies as st

from sipdump_core.drivers.query import Query, parse_endpoint, parse_grep
from sipdump_core.drivers.search import SearchedFolderBackend
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment

TIME_US = 1_795_386_431_000_000
spans = st.one_of(st.none(), st.integers(-3, 40).map(lambda tenths: TIME_US + tenths * 100_000))
queries = st.builds(
    Query,
    since_us=spans,
    until_us=spans,
    greps=st.lists(st.sampled_from(["x", "sip:", "tag: snd", "||||", "Via", "nowhere"]).map(parse_grep), max_size=3),
    call_ids=st.lists(st.sampled_from(["one", "two", "a b", "nowhere"]), max_size=2),
    tags=st.lists(st.sampled_from(["rcv", "snd"]), max_size=1),
    endpoints=st.lists(st.sampled_from(["127.0.0.1:5999", "10.0.0.0/8"]).map(parse_endpoint), max_size=1),
)


@contextmanager
def limits(*, chunk: int, window: int, near: int, **others: int) -> Iterator[None]:
    """Make files of some kilobytes large ones: ``others`` are names in a backend's modules, with ``__`` for a dot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sipdump_core.drivers.scan._WINDOW", window)
        patch.setattr("sipdump_core.drivers.search._NEAR", near)
        patch.setattr("sipdump_core.drivers.search._CLOSE", near // 8)
        patch.setattr("sipdump_core.drivers.search._STEP_AROUND_HIT", chunk)
        patch.setattr("sipdump_core.drivers.search._STEP", chunk)
        for name, value in others.items():
            patch.setattr(name.replace("__", "."), value)
        yield


def stored_at(backend: SearchedFolderBackend, path: Path) -> StoredSegment:
    """Return a file of a backend's as it is listed."""
    (stored,) = [stored for stored in backend.segments() if stored.location == str(path)]
    return stored


def same_as_reading(backend: SearchedFolderBackend, stored: StoredSegment, query: Query) -> None:
    """Fail unless a search finds what reading everything finds, in its order."""
    wanted = [record for record in backend.read(stored) if query.matches(record)]
    assert list(backend.search(stored, query)) == wanted


def followed(backend: SearchedFolderBackend, stored: StoredSegment, place: int = 0) -> tuple[list[Record], int]:
    """Follow until nothing is left."""
    found: list[Record] = []
    while True:
        records, place = backend.follow(stored, place)
        if not records:
            return found, place
        found += records
