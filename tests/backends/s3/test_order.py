"""The order of steps in which a segment leaves the spool, and who is kept out meanwhile."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.segment import StoredSegment
from sipdump_s3 import S3Backend, upload
from sipdump_s3.bucket import Bucket
from sipdump_s3.content import Content
from sipdump_s3.errors import S3Error
from sipdump_s3.upload import NOTE_SUFFIX, Uploader, read_note
from tests.s3_faults import FaultProxy, Request
from tests.s3_support import backend_of, sent, spool


@pytest.fixture
def backend(proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> S3Backend:
    return backend_of(proxy.endpoint, s3_bucket, tmp_path)


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_file_goes_when_the_object_was_seen_and_stays_locked_until_then(
    backend: S3Backend, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spool(backend)
    locked = []
    seen: list[str] = []
    delete = FolderBackend.delete

    def put(proxy: FaultProxy, request: Request, client: socket.socket) -> None:
        locked.append(is_locked(path))
        client.sendall(proxy.forward(request))

    def deleting(inner: FolderBackend, stored: StoredSegment) -> None:
        seen.extend(request.method for request in proxy.requests if request.method in ("HEAD", "PUT"))
        delete(inner, stored)

    proxy.on("PUT", "", put)
    monkeypatch.setattr(FolderBackend, "delete", deleting)
    sent(backend)
    assert seen == ["HEAD", "PUT", "HEAD"]
    assert locked == [True]
    assert not path.exists()


def test_a_forked_child_that_has_the_file_open_keeps_no_lock_on_it(
    backend: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spool(backend)
    inherited = []

    def send(_: Uploader, file: BinaryIO, *__: Any) -> str:
        inherited.append(os.dup(file.fileno()))
        raise S3Error("upload", "x", "a test")

    with monkeypatch.context() as patch:
        patch.setattr(Uploader, "send", send)
        assert [shipped.error is None for shipped in backend.ship()] == [False]
    assert not is_locked(path)
    os.close(inherited[0])


def test_a_forked_child_that_has_the_lock_file_open_ships_nothing(backend: S3Backend) -> None:
    spool(backend)
    assert not backend.spool.lock()
    inherited = os.dup(backend.spool._fd)
    backend.spool.unlock()
    assert len(sent(backend)) == 1
    os.close(inherited)


def test_a_note_that_cannot_be_written_spoils_no_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "segment"
    path.write_bytes(b"x" * 100)

    def full(note: Mapping[str, Any], file: Any) -> None:
        file.write(json.dumps(note)[:10])
        raise OSError(28, "No space left on device")

    with path.open("rb") as file:
        content = Content.of(file, 50, "none")
        upload._write_note(file, "key", content, "first")
        monkeypatch.setattr(json, "dump", full)
        upload._write_note(file, "key", content, "second")
        assert read_note(f"{path}{NOTE_SUFFIX}") == ("key", "first")
        assert upload._noted(file, "key", content) == "first"
        assert upload._noted(file, "another key", content) == ""


@pytest.mark.parametrize(("uploaded", "modified"), [(-100, 0), (0, 0), (100, 100), (7200, 7200), (7201, 7200)])
def test_an_object_is_as_old_as_its_segment_however_late_it_was_uploaded(
    backend: S3Backend, monkeypatch: pytest.MonkeyPatch, uploaded: int, modified: int
) -> None:
    """Retention counts from then; a server's clock, or an outage, must make it neither older nor younger."""
    key = backend.keys.key(backend.keys.utc(segment_of(backend)))
    start = backend.keys.start(key)

    def listing(_: Bucket, prefix: str) -> Iterator[tuple[str, int, float]]:
        assert key.startswith(prefix)
        yield key, 10, start + uploaded

    monkeypatch.setattr(Bucket, "list", listing)
    (stored,) = backend.segments()
    assert backend.site.rotate == 7200
    assert stored.modified == start + modified


def segment_of(backend: S3Backend) -> Any:
    path = spool(backend)
    (stored,) = backend.spool.segments()
    path.unlink()
    return backend.keys.local(stored.segment)
