"""Retention."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.errors import DriverError, SipDumpError, StorageError
from sipdump_core.lifecycle import retention
from sipdump_core.lifecycle.retention import counted, listed, prune, prune_all
from sipdump_core.segment import Segment, StoredSegment
from sipdump_text import TextBackend
from tests.support import record

DAY = 86400


@pytest.fixture
def backend(tmp_path: Path) -> TextBackend:
    return TextBackend(NoOptions(), Site(str(tmp_path), "p-"))


def put(folder: Path, name: str, modified: float) -> Path:
    path = folder / name
    path.write_bytes(b"x" * 10)
    os.utime(path, (modified, modified))
    return path


def state(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return all that is in a folder: contents, times and modes."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode) for path in folder.iterdir()}


def test_prune_takes_what_is_old_and_ours(backend: TextBackend, tmp_path: Path) -> None:
    now = Segment("p-", "2026-11-22--00-00-00").start
    old = put(tmp_path, "p-2026-11-18--00-00-00.data", now - 3 * DAY)
    put(tmp_path, "p-2026-11-18--00-00-00.meta", now)
    put(tmp_path, "p-2026-11-18--00-00-01.meta", now - 3 * DAY)  # stands alone, and is old
    kept = [
        put(tmp_path, name, now - 3 * DAY)
        for name in ("p-x.data", "q-2026-11-18--00-00-00.data", "p-2026-11-18--00-00-05.pcap", "p-notes.meta")
    ]
    kept.append(put(tmp_path, "p-2026-11-18--00-00-05.meta", now - 3 * DAY))  # beside a .pcap that is not pruned here
    kept.append(put(tmp_path, "p-2026-11-20--12-00-00.data", now - DAY))
    kept.append(put(tmp_path, "p-2026-11-21--12-00-00.meta", now - DAY / 2))
    before = state(tmp_path)
    (dry,) = prune([backend], 2 * DAY, now=now, dry_run=True)
    assert state(tmp_path) == before  # a lone .meta is still there, too
    (pruned,) = prune([backend], 2 * DAY, now=now)
    assert dry == pruned
    assert (pruned.stored.location, pruned.stored.size, pruned.error) == (str(old), 10, None)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert not list(prune([backend], 2 * DAY, now=now))


def test_age_is_that_of_the_last_write_whatever_the_name_says(backend: TextBackend, tmp_path: Path) -> None:
    """The name is the start, by a clock and in a zone that may not be ours."""
    now = Segment("p-", "2026-11-22--00-00-00").start
    put(tmp_path, "p-1970-01-01--00-00-10.data", now - 5)
    assert not list(prune([backend], DAY, now=now))
    put(tmp_path, "p-2026-11-21--23-59-59.data", now - 2 * DAY)
    assert len(list(prune([backend], DAY, now=now))) == 1


def test_what_is_just_as_old_as_it_may_be_is_kept(backend: TextBackend, tmp_path: Path) -> None:
    put(tmp_path, "p-2026-11-18--00-00-00.data", 1_000_000)
    assert not list(prune([backend], 100, now=1_000_100))
    assert len(list(prune([backend], 100, now=1_000_101))) == 1


def test_a_store_is_asked_to_delete_no_more_at_once_than_s3_can(
    backend: TextBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retention._CHUNK == 1000
    monkeypatch.setattr(retention, "_CHUNK", 2)
    for second in range(5):
        put(tmp_path, f"p-2026-11-20--00-00-0{second}.data", 1000)
    asked: list[int] = []
    delete_many = backend.delete_many

    def deleting(chunk: Sequence[StoredSegment]) -> Iterator[tuple[StoredSegment, SipDumpError | None]]:
        asked.append(len(chunk))
        return iter(delete_many(chunk))

    monkeypatch.setattr(backend, "delete_many", deleting)
    assert len(list(prune([backend], 50, now=2000))) == 5
    assert asked == [2, 2, 1]


def test_prune_never_takes_the_open_segment(backend: TextBackend, tmp_path: Path) -> None:
    segment = Segment("p-", "2020-01-01--00-00-00", 0, ".data")
    backend.open(segment)
    backend.write([record()])
    os.utime(tmp_path / segment.name, (0, 0))
    other = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    assert not list(prune([other], 1))
    backend.close()
    os.utime(tmp_path / segment.name, (0, 0))
    assert len(list(prune([other], 1))) == 1


def test_prune_goes_on_behind_a_segment_that_cannot_be_deleted(
    backend: TextBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(tmp_path, "p-2026-01-01--00-00-00.data", 0)
    second = put(tmp_path, "p-2026-01-01--00-00-01.data", 0)
    unlink = os.unlink

    def refuse(path: str) -> None:
        if path == str(first):
            raise PermissionError(1, "Operation not permitted")
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    one, two = prune([backend], 1)
    assert isinstance(one.error, StorageError)
    assert "delete" in str(one.error)
    assert two.error is None
    assert first.exists()
    assert not second.exists()


def test_a_folder_that_is_gone_is_a_storage_error() -> None:
    gone = TextBackend(NoOptions(), Site("/nonexistent", "p-"))
    with pytest.raises(StorageError, match="list /nonexistent: No such file or directory"):
        list(prune([gone], 1))


def test_thousands_of_segments_are_pruned_quickly(backend: TextBackend, tmp_path: Path) -> None:
    for n in range(2000):
        stamp = f"p-2026-01-01--{n // 3600:02}-{n // 60 % 60:02}-{n % 60:02}"
        put(tmp_path, stamp + ".data", 0)
        put(tmp_path, stamp + ".meta", 0)
    assert sum(1 for _ in prune([backend], 1)) == 2000
    assert not list(tmp_path.iterdir())


def fail(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


class Listing(Backend):
    """Lists what a test says."""

    name = "listing"
    given: Iterable[Any] = ()

    def segments(self) -> Iterable[StoredSegment]:
        return self.given


class Unlisted(Backend):
    """Lists nothing."""

    name = "unlisted"


SEGMENT = Segment("p-", "2026-11-22--23-31-00")


@pytest.mark.parametrize(
    "given",
    [
        5,
        [5],
        [None],
        fail(RuntimeError("bug")),
        fail(SystemExit(3)),
        [StoredSegment("p-x", 5, 1.0, True)],  # type: ignore[arg-type]  # that is the fault
        [StoredSegment(SEGMENT, None, 1.0, True)],  # type: ignore[arg-type]  # that is the fault
        [StoredSegment(SEGMENT, 5, "now", True)],  # type: ignore[arg-type]  # that is the fault
        [StoredSegment(SEGMENT, 5, 1.0, True, "many")],  # type: ignore[arg-type]  # that is the fault
        [StoredSegment(SEGMENT, 5, 1.0, True, None, None)],  # type: ignore[arg-type]  # that is the fault
        [StoredSegment(Segment("p-", "yesterday"), 5, 1.0, True)],
    ],
)
def test_a_listing_of_nonsense_is_an_error_that_names_the_driver(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listing, "given", property(given) if callable(given) else given)
    bad = Listing(NoOptions(), Site("", "", distribution="sipdump-bad 1.5"))
    with pytest.raises(DriverError, match=r"list: the backend listing of sipdump-bad 1.5 raised "):
        list(listed(bad))


@pytest.mark.parametrize("told", [None, [5], [(SEGMENT, None)], [(StoredSegment(SEGMENT, 5, 1.0, True), "no")]])
def test_a_delete_that_tells_nonsense_is_an_error_that_names_the_driver(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listing, "given", [StoredSegment(SEGMENT, 5, 1.0, True)])
    monkeypatch.setattr(Listing, "delete_many", lambda *_: told)
    bad = Listing(NoOptions(), Site("", "", distribution="sipdump-bad 1.5"))
    (summary,) = prune_all([bad], 10, lambda _: None)
    assert summary.segments == 0
    assert summary.errors[0].startswith("delete: the backend listing of sipdump-bad 1.5 raised ")


def test_records_are_counted_or_the_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredSegment(SEGMENT, 5, 1.0, True)
    bad = Listing(NoOptions(), Site("", ""))
    monkeypatch.setattr(Listing, "read", lambda *_: iter([record(), record()]))
    assert counted(bad, stored) == 2
    monkeypatch.setattr(Listing, "read", lambda *_: None)
    with pytest.raises(DriverError, match="read: the backend listing raised TypeError"):
        counted(bad, stored)


def test_a_prune_goes_on_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listing, "given", property(fail(RuntimeError("bug"))))
    good = TextBackend(NoOptions(), Site(str(tmp_path), "p-"))
    good.open(Segment("p-", "2026-11-22--23-31-00", 0, ".data"))
    good.write([record()])
    good.close()
    bad, without = (cls(NoOptions(), Site("", "")) for cls in (Listing, Unlisted))
    summaries = list(prune_all([bad, without, good], 10, lambda _: None, now=time.time() + 60))
    assert [(s.backend, s.segments, s.lifecycle, bool(s.errors)) for s in summaries] == [
        ("listing", 0, True, True),
        ("unlisted", 0, False, False),
        ("text", 1, True, False),
    ]
