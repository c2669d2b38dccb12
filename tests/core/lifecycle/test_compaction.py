"""The order of a compaction's steps, over a store in memory."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.drivers.capabilities import Compacted
from sipdump_core.errors import SipDumpError, StorageError
from sipdump_core.lifecycle.compaction import Candidate, Compaction, Contents, Draft, is_within, packs
from sipdump_core.segment import Segment, StoredSegment


@attrs.define
class Blob:
    text: str
    modified: float = 0.0
    merged: Mapping[str, str] = attrs.field(factory=dict)
    kind: str = ""
    broken: bool = False
    padding: str = ""
    """What a merge with it adds."""
    busy: bool = False


class Store(Compaction[Candidate]):
    """Blobs by name, as ``23-1``; the digest of a blob is its text."""

    def __init__(self, folder: Path, **blobs: Blob) -> None:
        super().__init__("store", str(folder))
        self.blobs = {name.replace("_", "-").removeprefix("h"): blob for name, blob in blobs.items()}
        self.steps: list[str] = []
        self.refused: set[str] = set()

    def candidates(self) -> Iterator[Candidate]:
        for name, blob in sorted(self.blobs.items()):
            segment = Segment("t-", "2026-11-22--23-00-00")
            stored = StoredSegment(segment, len(blob.text), blob.modified, sealed=True, location=name)
            yield Candidate(stored, f"hour={name[:2]}", name, busy=blob.busy)

    def contents(self, candidate: Candidate) -> Contents:
        self._allow(f"contents {candidate.name}")
        blob = self.blobs[candidate.name]
        return Contents(blob.kind, blob.merged, StorageError("read", candidate.name, "broken") if blob.broken else None)

    def holds(self, candidate: Candidate, digest: str) -> bool:
        self._allow(f"holds {candidate.name}")
        return self.blobs[candidate.name].text == digest

    @contextlib.contextmanager
    def draft(self, pack: Sequence[Candidate]) -> Iterator[Draft]:
        names = [each.name for each in pack]
        self._step(f"draft {' '.join(names)}")
        path = Path(self.folder, "draft")
        path.write_text("".join(self.blobs[name].text + self.blobs[name].padding for name in names))
        try:
            yield Draft(str(path), len(names), partial(self._publish, path, names))
        finally:
            path.unlink()

    def _publish(self, path: Path, names: list[str]) -> str:
        self._step("publish")
        name = f"{names[-1]}-1"
        modified = max(self.blobs[source].modified for source in names)
        self.blobs[name] = Blob(path.read_text(), modified, {source: self.blobs[source].text for source in names})
        return name

    def delete(self, sources: Sequence[Candidate]) -> Iterator[tuple[Candidate, SipDumpError | None]]:
        for each in sources:
            try:
                self._step(f"delete {each.name}")
            except StorageError as error:
                yield each, error
            else:
                del self.blobs[each.name]
                yield each, None

    def remove_drafts(self) -> None:
        self._step("remove drafts")

    def _step(self, step: str) -> None:
        self.steps.append(step)
        self._allow(step)

    def _allow(self, step: str) -> None:
        if step in self.refused:
            raise StorageError("take the step", step, "refused")


def run(store: Store, *, target_size: int = 100, min_age: float = 0.0, **options: str | bool) -> list[Compacted]:
    arguments = {"partition": "", "dry_run": False, **options}
    return list(store.run(target_size=target_size, min_age=min_age, now=1000.0, **arguments))  # type: ignore[arg-type]


def test_the_sources_go_when_the_result_is_published(tmp_path: Path) -> None:
    store = Store(tmp_path, h22_1=Blob("other hour"), h23_1=Blob("a", 5.0), h23_2=Blob("bc", 7.0))
    (done,) = run(store)
    assert store.steps == ["remove drafts", "draft 23-1 23-2", "publish", "delete 23-1", "delete 23-2"]
    assert (done.partition, done.location, done.records, done.error) == ("hour=23", "23-2-1", 2, None)
    assert (done.size_before, done.size_after) == (3, 3)
    assert {name: blob.text for name, blob in store.blobs.items()} == {"22-1": "other hour", "23-2-1": "abc"}
    assert not list(tmp_path.iterdir())
    assert run(store) == []


def test_a_dry_run_takes_no_step(tmp_path: Path) -> None:
    store = Store(tmp_path, h23_1=Blob("a"), h23_2=Blob("b"))
    (done,) = run(store, dry_run=True)
    assert store.steps == []
    assert (done.location, done.size_before, done.size_after) == ("", 2, 0)


def test_a_dry_run_deletes_nothing_that_an_earlier_one_left(tmp_path: Path) -> None:
    store = Store(tmp_path, h23_1=Blob("a"), h23_1_1=Blob("ab", merged={"23-1": "a"}), h23_2=Blob("c"))
    run(store, dry_run=True)
    assert store.steps == []
    assert len(store.blobs) == 3


def test_what_is_large_young_busy_or_of_another_kind_is_left(tmp_path: Path) -> None:
    store = Store(
        tmp_path, h23_1=Blob("a"), h23_2=Blob("large" * 20), h23_3=Blob("young", 995.0), h23_4=Blob("b", busy=True),
        h23_5=Blob("c", kind="x"), h23_6=Blob("d"), h23_7=Blob("e", kind="x"),
    )  # fmt: skip
    found = run(store, min_age=10.0, dry_run=True)
    assert [[stored.location for stored in done.sources] for done in found] == [["23-1", "23-6"], ["23-5", "23-7"]]


def test_a_result_that_would_be_larger_is_dropped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(
        tmp_path, h22_1=Blob("a", padding="x"), h22_2=Blob("b"), h23_1=Blob("c"), h23_2=Blob("d"),
    )  # fmt: skip
    (done,) = run(store)
    assert done.partition == "hour=23"
    assert store.steps[:2] == ["remove drafts", "draft 22-1 22-2"]
    assert {"22-1", "22-2"} <= set(store.blobs)
    assert not list(tmp_path.iterdir())
    (warning,) = caplog.records
    assert (warning.levelname, "would be larger" in warning.getMessage()) == ("WARNING", True)


@pytest.mark.parametrize("step", ["draft 23-1 23-2", "publish"])
def test_what_fails_before_the_end_leaves_all_sources(tmp_path: Path, step: str) -> None:
    store = Store(tmp_path, h23_1=Blob("a"), h23_2=Blob("b"))
    store.refused = {step}
    (done,) = run(store)
    assert (done.location, done.size_after) == ("", 0)
    assert step in str(done.error)
    assert set(store.blobs) == {"23-1", "23-2"}
    assert not list(tmp_path.iterdir())


def test_a_source_that_stays_is_deleted_by_a_later_run_and_never_merged_again(tmp_path: Path) -> None:
    store = Store(tmp_path, h23_1=Blob("a"), h23_2=Blob("b"))
    store.refused = {"delete 23-1"}
    (done,) = run(store)
    assert done.location == "23-2-1"
    assert done.error
    store.blobs |= {"23-3": Blob("c"), "23-4": Blob("d")}
    refused, done = run(store)
    assert refused.error
    assert [stored.location for stored in refused.sources] == ["23-1"]
    assert not refused.location
    assert [stored.location for stored in done.sources] == ["23-3", "23-4"], "the result waits for its source"
    store.refused = set()
    (done,) = run(store)
    assert [stored.location for stored in done.sources] == ["23-2-1", "23-4-1"]
    assert {name: blob.text for name, blob in store.blobs.items()} == {"23-4-1-1": "abcd"}


def test_another_segment_that_took_a_sources_name_is_no_source(tmp_path: Path) -> None:
    store = Store(tmp_path, h23_1=Blob("later"), h23_2_1=Blob("ab", merged={"23-1": "a", "23-2": "b"}))
    (done,) = run(store)
    assert done.records == 2
    assert [blob.text for blob in store.blobs.values()] == ["laterab"]


def test_a_broken_segment_spoils_no_others(tmp_path: Path) -> None:
    store = Store(tmp_path, h23_1=Blob("a"), h23_2=Blob("?", broken=True), h23_3=Blob("b"))
    broken, done = run(store)
    assert "broken" in str(broken.error)
    assert [stored.location for stored in done.sources] == ["23-1", "23-3"]


def test_a_segment_that_breaks_a_merge_is_left_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, h23_1=Blob("a"), h23_2=Blob("?"), h23_3=Blob("b"), h23_4=Blob("?"))
    draft = store.draft

    def read(pack: Sequence[Candidate]) -> contextlib.AbstractContextManager[Draft]:
        for each in pack:
            if store.blobs[each.name].text == "?":
                raise StorageError("read", each.stored.location, "a damaged page")
        return draft(pack)

    monkeypatch.setattr(store, "draft", read)
    first, second, done = run(store)
    assert [[stored.location for stored in each.sources] for each in (first, second)] == [["23-2"], ["23-4"]]
    assert [stored.location for stored in done.sources] == ["23-1", "23-3"]
    assert {name: blob.text for name, blob in store.blobs.items()} == {"23-3-1": "ab", "23-2": "?", "23-4": "?"}


@pytest.mark.parametrize("step", ["contents 23-2-1", "holds 23-1"])
def test_an_hour_that_cannot_be_looked_at_is_left_alone(tmp_path: Path, step: str) -> None:
    """The segment that cannot be read may be what others were merged into."""
    store = Store(
        tmp_path, h22_1=Blob("x"), h22_2=Blob("y"), h23_1=Blob("a"), h23_2=Blob("b"),
        h23_2_1=Blob("ab", merged={"23-1": "a", "23-2": "b"}),
    )  # fmt: skip
    store.refused = {step}
    other, failed = run(store)
    assert other.error is None
    assert failed.error
    assert not failed.location
    assert {"23-1", "23-2", "23-2-1"} <= set(store.blobs)


def test_an_hour_that_cannot_be_looked_at_keeps_no_other_waiting(tmp_path: Path) -> None:
    store = Store(tmp_path, h22_1=Blob("a"), h22_2=Blob("b"), h23_1=Blob("c"), h23_2=Blob("d"))
    store.refused = {"contents 22-2"}
    failed, done = run(store)
    assert (failed.partition, str(failed.error)) == ("hour=22", "take the step contents 22-2: refused")
    assert (done.partition, done.location) == ("hour=23", "23-2-1")


def test_two_do_not_meet(tmp_path: Path) -> None:
    store = Store(tmp_path, h23_1=Blob("a"), h23_2=Blob("b"))
    first = store.run(target_size=100, min_age=0.0, partition="", dry_run=True, now=0.0)
    next(first)
    with pytest.raises(StorageError, match="another compaction"):
        run(store)


@pytest.mark.parametrize(
    ("partition", "within"),
    [
        ("", True), ("date=2026-11-22", True), ("date=2026-11-22/", True), ("date=2026-11-22/hour=23", True),
        ("date=2026-11-22/hour=2", False), ("date=2026-11-2", False), ("hour=23", False),
    ],
)  # fmt: skip
def test_partitions(partition: str, within: bool) -> None:
    assert is_within("date=2026-11-22/hour=23", partition) is within


@given(st.lists(st.integers(0, 50)), st.integers(1, 100), st.integers(0, 5))
def test_packs_keep_their_limits_and_the_order(sizes: list[int], limit: int, most: int) -> None:
    items = list(enumerate(sizes))
    found = list(packs(items, limit, lambda item: item[1], most=most))
    assert all(len(pack) > 1 and sum(size for _, size in pack) <= limit for pack in found)
    assert all(len(pack) <= most for pack in found if most > 1)
    flat = [item for pack in found for item in pack]
    assert flat == sorted(flat)
    assert set(flat) <= set(items)
