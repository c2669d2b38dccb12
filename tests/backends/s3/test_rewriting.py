"""Objects that are replaced by ones without some of their records."""

import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers.rewriting import Change
from sipdump_core.errors import StorageError
from sipdump_core.lifecycle.caps import Caps, Limits
from sipdump_core.record import Record
from sipdump_s3 import S3Backend
from sipdump_s3 import bucket as buckets
from tests.core.admin.run import run
from tests.core.lifecycle.rewrites import START, calls
from tests.core.reading.stores import fill
from tests.s3_server import Server
from tests.s3_support import backend_of, sent, spooled


def wait_in_spool(backend: S3Backend, records: Sequence[Record], start: float) -> None:
    backend.spool.prepare()
    fill(backend.inner, records, start)


@pytest.mark.parametrize("kind", ["text", "pcap", "parquet"])
def test_an_object_keeps_its_key_metadata_and_tags(
    s3_server: Server, s3_bucket: str, tmp_path: Path, kind: str
) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path, format=kind)
    wait_in_spool(backend, calls("one", "two", "three"), START)
    (address,) = sent(backend)
    (stored,) = backend.segments()
    key = address.partition(f"{s3_bucket}/")[2]
    with backend.bucket() as bucket:
        bucket.tag(key, {"case": "4711"})
        before = bucket.version(key)
    done = backend.rewrite(stored, Change({"two"}))
    assert done.removed
    (after,) = backend.segments()
    assert (after.segment, after.location, after.modified) == (stored.segment, stored.location, stored.modified)
    assert {record.call_id for record in backend.read(after)} == {"one", "three"}
    with backend.bucket() as bucket:
        found = bucket.version(key)
    assert found.tags == {"case": "4711"}
    same = {name: value for name, value in before.metadata.items() if name not in ("sipdump-sha256", "sipdump-records")}
    assert same.items() <= found.metadata.items()
    assert found.etag != before.etag
    assert [name for name in Path(backend.spool.folder).iterdir() if name.name.startswith(".compaction")] == []


def test_an_object_without_records_is_deleted(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path)
    wait_in_spool(backend, calls("one"), START)
    sent(backend)
    (stored,) = backend.segments()
    assert backend.rewrite(stored, Change({"one"})).removed
    assert list(backend.segments()) == []


def test_what_waits_in_the_spool_is_rewritten_there(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path)
    wait_in_spool(backend, calls("one", "two"), START)
    (stored,) = backend.segments()
    assert backend.rewrite(stored, Change({"one"})).removed
    assert len(spooled(backend)) == 1
    sent(backend)
    (stored,) = backend.segments()
    assert {record.call_id for record in backend.read(stored)} == {"two"}


def test_one_that_was_replaced_meanwhile_is_not_written_over(
    s3_server: Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path)
    wait_in_spool(backend, calls("one", "two"), START)
    sent(backend)
    (stored,) = backend.segments()
    replace = buckets.Bucket.replace

    def other_first(self: buckets.Bucket, key: str, *args: object) -> None:
        self._client().put_object(Bucket=s3_bucket, Key=key, Body=b"other")
        replace(self, key, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(buckets.Bucket, "replace", other_first)
    with pytest.raises(StorageError, match="replaced meanwhile"):
        backend.rewrite(stored, Change({"one"}))


def test_a_bucket_with_versions_keeps_none_of_the_old_ones(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path)
    with backend.bucket() as bucket:
        client = bucket._client()
        client.put_bucket_versioning(Bucket=s3_bucket, VersioningConfiguration={"Status": "Enabled"})
        wait_in_spool(backend, calls("one", "two"), START)
        sent(backend)
        (stored,) = backend.segments()
        backend.rewrite(stored, Change({"one"}))
        (left,) = client.list_object_versions(Bucket=s3_bucket)["Versions"]
        assert left["IsLatest"]
        client.delete_object(Bucket=s3_bucket, Key=left["Key"], VersionId=left["VersionId"])


def test_a_large_one_is_replaced_in_parts(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path, part_bytes=5 << 20)
    records = calls("one", "two")
    large = attrs.evolve(records[0], buf=records[0].buf + b"x" * (6 << 20))
    wait_in_spool(backend, [*records[1:], large], START)
    sent(backend)
    (stored,) = backend.segments()
    assert backend.rewrite(stored, Change({"two"})).removed
    (after,) = backend.segments()
    assert {record.call_id for record in backend.read(after)} == {"one"}
    assert after.size > 6 << 20


def test_the_oldest_objects_go_when_there_are_too_many_bytes(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path)
    for number in range(4):
        wait_in_spool(backend, calls(f"c{number}"), START + 3600 * number)
    sent(backend)
    size = sum(stored.size for stored in backend.segments()) // 4
    capped = backend_of(s3_server.endpoint, s3_bucket, tmp_path, max_bytes=str(3 * size))
    wait_in_spool(capped, calls("waits"), START)
    assert capped.cap == 3 * size
    caps = Caps(lambda: [capped], lambda: [capped], [(str(tmp_path), "test-")], Limits(), 60, time.time)
    caps.check_remote()
    sealed = [stored for stored in capped.segments() if stored.sealed]
    assert {record.call_id for stored in sealed for record in capped.read(stored)} == {"c1", "c2", "c3"}
    assert len(spooled(capped)) == 1
    assert caps.stats.segments == 1


def test_rules_holds_and_erasing_reach_the_bucket_and_the_spool(
    s3_server: Server,
    s3_bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3_server.enter(monkeypatch)
    config = tmp_path / "s.cfg"
    config.write_text(f"""
        modparam("sipdump", "mode", 32)
        modparam("sipdump", "folder", "{tmp_path}")
        modparam("sipdump", "fprefix", "test-")
        modparam("sipdump", "keep", "backend=s3 age=1")
        modparam("sipdump_s3", "bucket", "{s3_bucket}")
        modparam("sipdump_s3", "endpoint_url", "{s3_server.endpoint}")
        modparam("sipdump_s3", "format", "text")
        modparam("sipdump_s3", "node", "n1")
    """)
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path)
    wait_in_spool(backend, calls("one", "two", "three"), START)
    sent(backend)
    wait_in_spool(backend, calls("two", "four"), START + 7200)

    def left() -> list[set[str | None]]:
        stored = sorted(backend.segments(), key=lambda one: one.segment)
        return [{record.call_id for record in backend.read(one)} for one in stored]

    code, _, err = run(capsys, "erase", "-f", config, "--call-id", "two")
    assert code == 0, err
    assert left() == [{"one", "three"}, {"four"}]
    assert run(capsys, "hold", "add", "case", "-f", config, "--call-id", "one")[0] == 0
    code, _, err = run(capsys, "prune", "-f", config)
    assert code == 0, err
    assert left() == [{"one"}, {"four"}]
