"""The replace step: a segment without some of its records takes its place, whatever the backend."""

import fcntl
import os
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers.capabilities import Rewrites, can
from sipdump_core.drivers.folder import RECORDS_XATTR, FolderBackend
from sipdump_core.drivers.rewriting import Change, Rewritten
from sipdump_core.errors import StorageError
from sipdump_core.record import Record
from tests.core.lifecycle.rewrites import KINDS, calls, ids, make, store

pytestmark = pytest.mark.parametrize("kind", KINDS)


def rewritten(backend: object, stored: object, change: Change) -> Rewritten:
    assert can(backend, Rewrites)
    return backend.rewrite(stored, change)  # type: ignore[arg-type]


def test_calls_are_taken_out_and_the_rest_stays_as_it_was(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    records = calls("one", "two", "three")
    stored = store(backend, records)
    before = list(backend.read(stored))
    os.chmod(stored.location, 0o600)
    status = os.stat(stored.location)
    done = rewritten(backend, stored, Change({"two"}))
    left = [record for record in before if record.call_id != "two"]
    assert done == Rewritten(kept=len(left), removed=len(before) - len(left))
    (after,) = backend.segments()
    assert list(backend.read(after)) == left
    assert after.segment == stored.segment
    assert after.sealed
    found = os.stat(stored.location)
    assert (found.st_mtime_ns, found.st_mode, found.st_ino) == (status.st_mtime_ns, status.st_mode, found.st_ino)
    assert found.st_ino != status.st_ino
    assert int(os.getxattr(stored.location, RECORDS_XATTR)) == len(left)
    assert b"two" not in Path(stored.location).read_bytes()
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_what_is_left_alone_is_not_written(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    stored = store(backend, calls("one", "two"))
    inode = os.stat(stored.location).st_ino
    assert not rewritten(backend, stored, Change({"three"})).changed
    assert os.stat(stored.location).st_ino == inode


def test_a_segment_without_records_is_deleted(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    stored = store(backend, calls("one"))
    assert rewritten(backend, stored, Change({"one"})).removed
    assert list(backend.segments()) == []


def test_all_others_go(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    store(backend, calls("one", "two", "three"))
    (stored,) = backend.segments()
    rewritten(backend, stored, Change({"two"}, others=True))
    assert set(ids(backend)) == {"two"}


def test_messages_can_be_masked(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    stored = store(backend, calls("one", "two", "three"))
    before = list(backend.read(stored))

    def mask(record: Record) -> Record:
        return attrs.evolve(record, buf=record.buf.replace(b"alice", b"nobody"))

    done = rewritten(backend, stored, Change({"two"}, mask=mask))
    assert done.masked
    assert not done.removed
    (after,) = backend.segments()
    expected = [mask(record) if record.call_id == "two" else record for record in before]
    assert list(backend.read(after)) == expected


def test_a_message_that_loses_its_call_id_goes(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    stored = store(backend, calls("one", "two"))
    rewritten(backend, stored, Change({"two"}, mask=lambda record: attrs.evolve(record, buf=b"x" * len(record.buf))))
    assert set(ids(backend)) == {"one"}


def test_messages_without_a_call_id_go_if_they_match(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    (first, *rest) = calls("one")
    bare = [attrs.evolve(first, buf=f"OPTIONS sip:{name}@a SIP/2.0\r\nl: 0\r\n\r\n".encode()) for name in ("x", "y")]
    stored = store(backend, [first, *bare, *rest])
    rewritten(backend, stored, Change(set(), also=lambda record: b":x@" in record.buf))
    left = [record.buf for after in backend.segments() for record in backend.read(after)]
    assert sorted(left) == sorted(record.buf for record in (first, bare[1], *rest))


def test_one_that_is_read_and_is_to_stay_is_not_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sipdump_core.drivers.rewriting._USED_WAIT", 0.0)
    backend = make(tmp_path, kind)
    stored = store(backend, calls("one"))
    with open(stored.location, "rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
        with pytest.raises(StorageError, match="in use"):
            rewritten(backend, stored, Change({"one"}))
    assert ids(backend)


def test_a_failure_leaves_it_as_it_was(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(tmp_path, kind)
    stored = store(backend, calls("one", "two"))
    before = Path(stored.location).read_bytes()
    assert isinstance(backend, FolderBackend)
    monkeypatch.setattr(backend, "count_records", lambda _: 1)
    with pytest.raises(StorageError, match="it is as it was"):
        rewritten(backend, stored, Change({"one"}))
    assert Path(stored.location).read_bytes() == before
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_what_a_crash_has_left_is_removed(kind: str, tmp_path: Path) -> None:
    backend = make(tmp_path, kind)
    stored = store(backend, calls("one", "two"))
    draft = tmp_path / f".{stored.segment.name}.rewrite"
    draft.write_bytes(b"half")
    rewritten(backend, stored, Change({"one"}))
    assert not draft.exists()
    assert set(ids(backend)) == {"two"}


def test_a_damaged_one_is_named(kind: str, tmp_path: Path) -> None:
    if kind == "jsonl":  # its format skips lines that are no records
        return
    backend = make(tmp_path, kind)
    stored = store(backend, calls("one", "two"))
    path = Path(stored.location)
    data = path.read_bytes()
    border = 0 if kind == "text" else len(data) // 2
    path.write_bytes(data[:border] + b"\xff" * 400 + data[border + 400 * (kind == "parquet") :])
    with pytest.raises(StorageError, match=stored.segment.name):
        rewritten(backend, stored, Change({"one"}))
