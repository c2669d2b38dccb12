"""Parquet in the bucket: shipped as it is sealed, recovered after a crash, compacted."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sipdump_core.admin import command as admin
from sipdump_core.errors import StorageError
from sipdump_core.segment import Segment
from sipdump_s3 import S3Backend
from tests.s3_faults import FaultProxy, answer, lose_answer
from tests.s3_server import Server, object_bytes, objects
from tests.s3_support import PREFIX, backend_of, sent, spooled, stored
from tests.support import record

NOW = Segment(PREFIX, "2026-11-25--00-00-00").start


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def backend(proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> S3Backend:
    return backend_of(proxy.endpoint, s3_bucket, tmp_path, format="parquet")


def fill(backend: S3Backend, *stamps: str, suffix: bytes = b"") -> None:
    """Have a segment of two records in the bucket for each stamp."""
    backend.start()
    for stamp in stamps:
        backend.open(Segment(PREFIX, f"2026-11-22--{stamp}", 0, backend.suffix))
        backend.write([record(stamp.encode() + suffix), record(b"x" + stamp.encode() + suffix)])
        backend.close()
    backend.stop()
    assert spooled(backend) == []


def names(client: Any, backend: S3Backend) -> list[str]:
    return sorted(key.rpartition("/")[2].removeprefix(PREFIX) for key in objects(client, backend.opts.bucket))


def test_what_is_sealed_is_shipped_before_the_end(backend: S3Backend, client: Any) -> None:
    fill(backend, "23-31-00")
    (key,) = objects(client, backend.opts.bucket)
    assert key == "node=n1/date=2026-11-22/hour=23/test-2026-11-22--23-31-00.parquet"
    metadata = client.head_object(Bucket=backend.opts.bucket, Key=key)["Metadata"]
    assert (metadata["sipdump-format"], metadata["sipdump-records"]) == ("parquet", "2")
    table = pq.read_table(io.BytesIO(object_bytes(client, backend.opts.bucket, key)))
    assert table.num_rows == 2
    assert stored(backend) == [b"23-31-00", b"x23-31-00"]


def test_what_a_crash_left_is_recovered_and_shipped(backend: S3Backend) -> None:
    backend.spool.prepare()
    backend.open(Segment(PREFIX, "2026-11-22--23-31-00", 0, backend.suffix))
    backend.write([record(b"one")])
    backend.forget()  # as a crash leaves it
    (waiting,) = backend.segments()
    assert (waiting.sealed, waiting.state) == (False, "unsealed")
    (done,) = backend.recover()
    assert (done.records, done.error) == (1, None)
    assert [each.state for each in backend.segments()] == ["waiting for upload"]
    sent(backend)
    assert stored(backend) == [b"one"]
    assert [each.state for each in backend.segments()] == ["sealed"]
    assert list(backend.recover()) == []


def test_small_objects_of_an_hour_become_one(backend: S3Backend, client: Any) -> None:
    fill(backend, "22-59-00", "23-00-00", "23-20-00", "23-40-00")
    before = {listed.segment.stamp: listed.modified for listed in backend.segments()}
    wrote = sorted(stored(backend))
    (dry,) = backend.compact(now=NOW, dry_run=True)
    assert (dry.partition, len(dry.sources), dry.location) == ("date=2026-11-22/hour=23", 3, "")
    assert len(names(client, backend)) == 4
    (done,) = backend.compact(now=NOW)
    assert done.error is None
    assert (done.records, done.partition) == (6, "date=2026-11-22/hour=23")
    assert done.location.endswith("hour=23/test-2026-11-22--23-40-00-1.parquet")
    assert names(client, backend) == ["2026-11-22--22-59-00.parquet", "2026-11-22--23-40-00-1.parquet"]
    assert sorted(stored(backend)) == wrote
    (_, merged) = backend.segments()
    assert merged.modified == before["2026-11-22--23-40-00"], "its age is that of the youngest of them"
    assert list(backend.compact(now=NOW)) == []
    assert list(backend.compact(now=NOW, partition="date=2026-11-21")) == []
    assert not [path for path in Path(backend.spool.folder).iterdir() if path.name.startswith(".compaction-")]


def test_what_is_young_or_large_or_in_the_spool_is_left_alone(backend: S3Backend, client: Any) -> None:
    fill(backend, "23-00-00", "23-20-00")
    content = {key: object_bytes(client, backend.opts.bucket, key) for key in objects(client, backend.opts.bucket)}
    start = Segment(PREFIX, "2026-11-22--23-20-00").start
    written = min(start + 7200, next(s.modified for s in backend.segments() if "23-20" in s.segment.stamp))
    assert list(backend.compact(now=written + 14399)) == []
    assert list(backend.compact(now=NOW, target_size=10)) == []
    key, body = content.popitem()
    waiting = Path(backend.spool.folder) / key.rpartition("/")[2]
    waiting.write_bytes(body)  # it was uploaded, and the deletion is still to come
    assert list(backend.compact(now=NOW)) == []
    waiting.unlink()
    assert len(list(backend.compact(now=NOW))) == 1


def test_what_may_be_in_the_spool_still_under_another_key_is_left_alone(backend: S3Backend, client: Any) -> None:
    """Its key was taken; a crash came before the deletion. Merged, it would be uploaded a second time."""
    fill(backend, "23-20-00", "23-40-00", suffix=b"other")
    fill(backend_of(backend.opts.endpoint_url, backend.opts.bucket, Path(backend.site.folder), format="parquet"),
         "23-40-00")  # fmt: skip
    assert names(client, backend)[-1].endswith("23-40-00.parquet")
    (own,) = (key for key in objects(client, backend.opts.bucket) if key.endswith("-1.parquet"))
    waiting = Path(backend.spool.folder) / f"{PREFIX}2026-11-22--23-40-00.parquet"
    waiting.write_bytes(object_bytes(client, backend.opts.bucket, own))
    assert list(backend.compact(now=NOW)) == []
    sent(backend)
    assert len(list(backend.compact(now=NOW))) == 1
    assert len(stored(backend)) == 6


_FORK = """
import os, sys
from pathlib import Path
from sipdump_core.segment import Segment
from tests.s3_support import PREFIX, backend_of
from tests.support import record

backend = backend_of(sys.argv[1], sys.argv[2], Path(sys.argv[3]), format="parquet")
backend.start()
backend.open(Segment(PREFIX, "2026-11-22--23-31-00", 0, backend.suffix))
backend.write([record(b"parent")])
child = os.fork()
if not child:
    backend.forget()
os.waitpid(child, 0) if child else backend.start()
if not child:
    backend.open(Segment(PREFIX, "2026-11-22--23-31-01", 0, backend.suffix))
    backend.write([record(b"child")])
backend.close()
backend.stop()
os._exit(0)
"""


def test_a_forked_child_seals_its_own_segments(backend: S3Backend) -> None:
    argv = [sys.executable, "-c", _FORK, backend.opts.endpoint_url, backend.opts.bucket, backend.site.folder]
    subprocess.run(argv, check=True, cwd=Path(__file__).parents[3], timeout=60)
    assert spooled(backend) == []
    assert stored(backend) == [b"parent", b"child"]


@pytest.mark.parametrize("fault", [answer(500, "InternalError"), lose_answer], ids=["refused", "lost"])
def test_a_compaction_that_ended_before_its_deletions_is_finished_by_the_next(
    backend: S3Backend, proxy: FaultProxy, client: Any, fault: Any
) -> None:
    fill(backend, "23-00-00", "23-20-00", "23-40-00")
    wrote = sorted(stored(backend))
    proxy.on("POST", "delete", answer(500, "InternalError"))
    (done,) = backend.compact(now=NOW)
    assert isinstance(done.error, StorageError)
    assert len(names(client, backend)) == 4
    proxy.on("DELETE", "23-20-00", fault)
    (again,) = backend.compact(now=NOW)
    assert again.error
    assert not again.location
    assert list(backend.compact(now=NOW)) == []
    assert names(client, backend) == ["2026-11-22--23-40-00-1.parquet"]
    assert sorted(stored(backend)) == wrote


def test_an_object_that_took_a_sources_key_later_is_merged_and_not_deleted(
    backend: S3Backend, proxy: FaultProxy, client: Any
) -> None:
    fill(backend, "23-00-00", "23-20-00")
    assert len(list(backend.compact(now=NOW))) == 1
    other = backend_of(proxy.endpoint, backend.opts.bucket, Path(backend.site.folder), format="parquet")
    fill(other, "23-00-00", suffix=b"later")
    (done,) = backend.compact(now=NOW)
    assert (done.error, done.records) == (None, 6)
    assert len([buf for buf in stored(backend) if buf.endswith(b"later")]) == 2
    assert len(stored(backend)) == 6


def test_what_fails_in_a_compaction_leaves_everything_as_it_was(
    backend: S3Backend, proxy: FaultProxy, client: Any
) -> None:
    fill(backend, "23-00-00", "23-20-00")
    before = names(client, backend)
    for method in ("GET", "PUT"):
        proxy.on(method, "test-2026", answer(503, "SlowDown"))
        (done,) = backend.compact(now=NOW)
        assert isinstance(done.error, StorageError)
        assert names(client, backend) == before


def test_a_format_that_cannot_merge_says_so(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path)
    with pytest.raises(StorageError, match="segments of the format text cannot be merged"):
        list(backend.compact())
    assert list(backend.recover()) == []


def test_an_operator_compacts(
    backend: S3Backend, proxy: FaultProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(backend, "23-00-00", "23-20-00")
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(
        f'modparam("sipdump", "mode", 32)\nmodparam("sipdump", "folder", "{tmp_path}")\n'
        f'modparam("sipdump", "fprefix", "{PREFIX}")\nmodparam("sipdump_s3", "node", "n1")\n'
        f'modparam("sipdump_s3", "bucket", "{backend.opts.bucket}")\n'
        f'modparam("sipdump_s3", "endpoint_url", "{proxy.endpoint}")\n'
    )
    assert admin.main(["compact", "-f", str(config), "--min-age", "-1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["backend"], row["records"], len(row["sources"]), row["error"]) == ("s3", 4, 2, None)
