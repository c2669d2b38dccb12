"""The S3 backend against a server over real HTTP: the contract, keys, listing, retention, options."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.admin import command as admin
from sipdump_core.drivers.base import Backend, Site
from sipdump_core.drivers.query import Query
from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.lifecycle.retention import prune
from sipdump_core.segment import Segment, StoredSegment
from sipdump_core.sipdump import SipDump
from sipdump_core.testing import Contract
from sipdump_core.testing.kit import installed
from sipdump_core.testing.proxy import FaultProxy as TcpProxy
from sipdump_s3 import S3Backend, S3Options
from sipdump_s3.keys import Keys, check_template
from tests.s3_faults import FaultProxy, answer
from tests.s3_server import Server, object_bytes, objects
from tests.s3_support import PREFIX, backend_of, sent, spool, spooled, stored
from tests.support import record, wait_for

ROOT = "node=n1/date=2026-11-22/hour=23/test-2026-11-22--23-31-00"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def backend(s3_server: Server, s3_bucket: str, tmp_path: Path) -> S3Backend:
    return backend_of(s3_server.endpoint, s3_bucket, tmp_path)


class TestContract(Contract):
    backend_class = S3Backend

    @pytest.fixture(autouse=True)
    def _server(self, s3_server: Server, s3_bucket: str) -> Iterator[None]:
        self.bucket = s3_bucket
        with TcpProxy(urlsplit(s3_server.endpoint).port or 0) as self.proxy:
            self.endpoint = f"http://127.0.0.1:{self.proxy.port}"
            yield

    def make_backend(self, site: Site) -> Backend:
        return backend_of(self.endpoint, self.bucket, site, format="parquet")  # the default


def test_a_segment_goes_to_its_partition_with_what_is_known_of_it(backend: S3Backend, client: Any) -> None:
    path = spool(backend, b"one", b"two")
    size = path.stat().st_size
    assert sent(backend) == [f"s3://{backend.opts.bucket}/{ROOT}.data"]
    assert spooled(backend) == []
    head = client.head_object(Bucket=backend.opts.bucket, Key=f"{ROOT}.data")
    assert head["ContentLength"] == size
    metadata = head["Metadata"]
    assert len(metadata.pop("sipdump-sha256")) == 64
    assert metadata.pop("sipdump-end").startswith("20")
    assert metadata.pop("sipdump-version")
    assert metadata == {
        "sipdump-format": "text",
        "sipdump-node": "n1",
        "sipdump-start": "2026-11-22T23:31:00+00:00",
        "sipdump-records": "2",
    }


def test_names_in_the_bucket_are_utc_and_listed_in_local_time(
    backend: S3Backend, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "XYZ-5:30")
    time.tzset()
    spool(backend, stamp="2026-11-23--05-01")
    sent(backend)
    assert list(objects(client, backend.opts.bucket)) == [f"{ROOT}.data"]
    (listed,) = backend.segments()
    assert listed.segment == Segment(PREFIX, "2026-11-23--05-01-00", 0, ".data")
    assert listed.segment.start == Segment(PREFIX, "2026-11-23--05-01-00").start


def test_both_hours_of_a_clock_that_goes_back_are_listed_read_and_deleted_apart(
    backend: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In local time they have one name; only the keys tell them apart."""
    for hour in ("00", "01"):  # in UTC
        spool(backend, hour.encode(), stamp=f"2026-10-25--{hour}-30")
    sent(backend)
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    one, two = backend.segments()
    assert one.segment.stamp == two.segment.stamp == "2026-10-25--02-30-00"
    assert stored(backend) == [b"00", b"01"]
    backend.delete(two)
    assert stored(backend) == [b"00"]


def test_the_zone_of_whoever_uploads_changes_nothing(
    backend: S3Backend, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a daemon in one zone wrote, an operator ships in another; and again, as after a crash, in a third."""

    def zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    zone("EST5EDT")
    path = spool(backend, b"one", stamp="2026-11-22--18-31")
    content = path.read_bytes()
    for name, stamp in (("UTC", "22--23-31"), ("XYZ-5:30", "23--05-01")):
        zone(name)
        path.write_bytes(content)
        (waiting,) = (listed for listed in backend.segments() if not listed.sealed)
        assert waiting.segment.stamp == f"2026-11-{stamp}-00"
        assert [r.buf for r in backend.read(waiting)] == [b"one"]
        sent(backend)
        assert list(objects(client, backend.opts.bucket)) == [f"{ROOT}.data"]
        metadata = client.head_object(Bucket=backend.opts.bucket, Key=f"{ROOT}.data")["Metadata"]
        assert metadata["sipdump-start"] == "2026-11-22T23:31:00+00:00"


def test_the_times_in_the_metadata_are_utc(backend: S3Backend, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is that of the name, the end that of the last write."""
    monkeypatch.setenv("TZ", "XYZ-5:30")
    time.tzset()
    path = spool(backend, stamp="2026-11-23--05-01")
    os.utime(path, (1_795_387_000, 1_795_387_000))
    sent(backend)
    metadata = client.head_object(Bucket=backend.opts.bucket, Key=f"{ROOT}.data")["Metadata"]
    assert metadata["sipdump-start"] == "2026-11-22T23:31:00+00:00"
    assert metadata["sipdump-end"] == "2026-11-22T22:36:40+00:00"


def test_two_collectors_at_once_share_a_bucket(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    backends = []
    for node in ("a", "b"):
        folder = tmp_path / node
        folder.mkdir()
        backends.append(backend_of(s3_server.endpoint, s3_bucket, folder, node=node))
    for backend in backends:
        backend.start()
        for second in range(3):
            spool(backend, f"{backend.opts.node}{second}".encode(), second=second)
    for backend in backends:
        backend.stop()
    assert [stored(backend) for backend in backends] == [[b"a0", b"a1", b"a2"], [b"b0", b"b1", b"b2"]]
    backends[0].delete(next(iter(backends[0].segments())))
    assert [len(stored(backend)) for backend in backends] == [2, 3]
    with pytest.raises(StorageError, match="not one of this collector's segments"):
        backends[0].delete(next(iter(backends[1].segments())))


def test_other_keys_are_neither_listed_nor_pruned(backend: S3Backend, client: Any) -> None:
    spool(backend)
    sent(backend)
    name = "test-2026-11-22--23-31-00"
    foreign = [
        f"{name}.data",
        f"node=n1/{name}.data",
        f"node=n10/date=2026-11-22/hour=23/{name}.data",
        f"node=n1/date=2026-11-22/hour=22/{name}.data",  # of another hour than its own
        f"node=n1/date=2026-11-22/hour=23/{name}.pcap",
        "node=n1/date=2026-11-22/hour=23/other-2026-11-22--23-31-00.data",
        f"node=n1/date=2026-11-22/hour=23/{name}-01.data",
        "node=n1/date=2026-99-22/hour=23/test-2026-99-22--23-31-00.data",
        f"node=n1/date=2026-11-22/hour=23/sub/{name}.data",
        "node=n1/notes.txt",
    ]
    for key in foreign:
        client.put_object(Bucket=backend.opts.bucket, Key=key, Body=b"x")
    assert len(list(backend.segments())) == 1
    assert len(list(prune([backend], 1, now=time.time() + 10**9))) == 1
    assert sorted(objects(client, backend.opts.bucket)) == sorted(foreign)


def test_thousands_of_objects_are_listed_and_pruned_in_pages(
    s3_server: Server, s3_bucket: str, tmp_path: Path, client: Any
) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        backend = backend_of(proxy.endpoint, s3_bucket, tmp_path)

        def put(n: int) -> None:
            stamp = f"2026-11-22--{n // 3600:02}-{n // 60 % 60:02}-{n % 60:02}"
            key = backend.keys.key(Segment(PREFIX, stamp, 0, ".data"))
            client.put_object(Bucket=s3_bucket, Key=key, Body=b"x")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(put, range(1020)))
        now = Segment(PREFIX, "2026-11-22--00-16-50").start
        dry = list(prune([backend], 0, now=now + 7200, dry_run=True))
        assert len(dry) == 1010, "the last 10 may hold younger records"
        assert len(objects(client, s3_bucket)) == 1020
        assert list(prune([backend], 0, now=now + 7200)) == dry
        assert len(objects(client, s3_bucket)) == 10
        assert proxy.count("POST", r"\?delete") == 2


def test_a_segment_that_is_shipped_after_its_listing_is_read_from_the_bucket(backend: S3Backend) -> None:
    backend.start()
    backend.open(Segment(PREFIX, "2026-11-22--23-31-00"))
    backend.write([record(b"one")])
    backend.flush()
    (listed,) = backend.segments()
    backend.close()
    wait_for(lambda: not spooled(backend))
    assert [one.buf for one in backend.read(listed)] == [b"one"]
    assert [one.buf for one in backend.search(listed, Query())] == [b"one"]
    backend.stop()


def test_age_counts_from_the_segment_and_not_from_the_upload(backend: S3Backend) -> None:
    start = time.time() - 100_000
    stamp = Segment.starting(PREFIX, start).stamp
    spool(backend, stamp=stamp[:-3], second=int(stamp[-2:]))
    sent(backend)
    (listed,) = backend.segments()
    assert listed.modified == pytest.approx(start + 7200, abs=1)
    recent = Segment.starting(PREFIX, time.time() - 60).stamp
    spool(backend, stamp=recent[:-3], second=int(recent[-2:]))
    sent(backend)
    _, listed = backend.segments()
    assert listed.modified == pytest.approx(time.time(), abs=30)


def test_errors_of_single_keys_are_told_and_the_others_go(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        backend = backend_of(proxy.endpoint, s3_bucket, tmp_path)
        for second in range(3):
            spool(backend, second=second)
        sent(backend)
        keys = [listed.location.removeprefix(f"s3://{s3_bucket}/") for listed in backend.segments()]

        def partial(_: FaultProxy, request: Any, connection: Any) -> None:
            body = (
                f"<DeleteResult><Deleted><Key>{keys[0]}</Key></Deleted><Error><Key>{keys[1]}</Key>"
                f"<Code>AccessDenied</Code><Message>locked</Message></Error></DeleteResult>"
            ).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        proxy.on("POST", "delete", partial)
        done, refused, untold = prune([backend], 1, now=time.time() + 10**9)
        assert done.error is None
        assert "AccessDenied: locked" in str(refused.error)
        assert "did not say what became of it" in str(untold.error)

        proxy.on("POST", "delete", answer(501, "NotImplemented"))
        assert [pruned.error for pruned in prune([backend], 1, now=time.time() + 10**9)] == [None, None, None]
        assert proxy.count("DELETE") == 3, "one by one, where the server knows no other way"


def test_a_server_whose_clock_is_wrong_makes_no_segment_older_than_its_start(
    s3_server: Server, s3_bucket: str, tmp_path: Path
) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:

        def years_ago(_: FaultProxy, request: Any, connection: Any) -> None:
            told = proxy.forward(request)
            connection.sendall(re.sub(rb"<LastModified>\d{4}", b"<LastModified>1999", told))

        backend = backend_of(proxy.endpoint, s3_bucket, tmp_path)
        spool(backend)
        sent(backend)
        proxy.on("GET", "list-type=2", years_ago)
        (listed,) = backend.segments()
        assert listed.modified == listed.segment.start


def test_what_is_not_uploaded_yet_is_listed_as_open_and_kept(backend: S3Backend) -> None:
    path = spool(backend, b"waits")
    (listed,) = backend.segments()
    assert (listed.sealed, listed.location, listed.records) == (False, str(path), 1)
    assert listed.state == "waiting for upload"
    assert [r.buf for r in backend.read(listed)] == [b"waits"]
    with pytest.raises(StorageError, match="not uploaded yet"):
        backend.delete(listed)
    assert not list(prune([backend], 1, now=time.time() + 10**9))
    assert path.exists()


def test_a_changed_object_is_not_read_for_good(backend: S3Backend, client: Any) -> None:
    spool(backend)
    sent(backend)
    key = f"{ROOT}.data"
    metadata = client.head_object(Bucket=backend.opts.bucket, Key=key)["Metadata"]
    client.put_object(Bucket=backend.opts.bucket, Key=key, Body=b"other", Metadata=metadata)
    (listed,) = backend.segments()
    with pytest.raises(StorageError, match=r"download .*what came is not what was uploaded"):
        list(backend.read(listed))


@pytest.mark.parametrize("checksum", ["sha256", "crc32", "md5", "none"])
@pytest.mark.parametrize("size", [10, 11 << 20])
def test_every_checksum_in_one_piece_and_in_parts(
    s3_server: Server, s3_bucket: str, tmp_path: Path, checksum: str, size: int
) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, checksum=checksum, part_bytes=5 << 20)
        body = os.urandom(1 << 16) * (size >> 16) or b"small"
        spool(backend, body)
        sent(backend)
        assert stored(backend) == [body]
        names = {"sha256": "x-amz-checksum-sha256", "crc32": "x-amz-checksum-crc32", "md5": "content-md5"}
        bodies = [r for r in proxy.requests if r.method == "PUT"]
        assert len(bodies) == (1 if size == 10 else 3)
        for request in bodies:
            given = {name for name in names.values() if f"\r\n{name}:".encode() in request.head.lower()}
            assert given == ({names[checksum]} if checksum in names else set())


def test_the_objects_attributes_are_asked_for(s3_server: Server, s3_bucket: str, tmp_path: Path, client: Any) -> None:
    options = {"storage_class": "STANDARD_IA", "sse": "aws:kms", "sse_kms_key_id": "alias/calls", "prefix": "sip/calls"}
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path, **options)
    spool(backend)
    sent(backend)
    head = client.head_object(Bucket=s3_bucket, Key=f"sip/calls/{ROOT}.data")
    found = head["StorageClass"], head["ServerSideEncryption"], head["SSEKMSKeyId"]
    assert found == ("STANDARD_IA", "aws:kms", "alias/calls")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket": ""}, "no bucket is named; set modparam"),
        ({"format": "s3"}, r'"format", "s3"\): must name a backend of files'),
        ({"format": "nosuch"}, r"\"format\", \"nosuch\"\): no backend 'nosuch' is installed"),
        ({"sse_kms_key_id": "x"}, '"sse", "aws:kms"'),
        ({"format": "header"}, "no backend 'header' is installed"),
        ({"prefix": "x" * 900, "node": "n" * 200}, "longer than the 1024 bytes"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        S3Backend(S3Options(**{"bucket": "b", "format": "text", **options}), Site(str(tmp_path), "", make=installed))


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("bucket", ("s3://calls", "calls/sip", "b c"), ("", "calls", "my.calls_1", "arn:aws:s3:eu:1:accesspoint/x")),
        ("prefix", ("/a", "a//b", "a/../b", ".", "a\n"), ("", "a", "a/b/", "a/..b", "prüf")),
        ("node", ("a/b", "..", ".", "ä", "a b"), ("", "fra1", "a.b-c_d", "...")),
        ("endpoint_url", ("localhost:9000", "ftp://x", "https://"), ("", "http://localhost:9000", "https://x/y")),
        ("spool_max_bytes", (-1, 1, 1048575), (0, 1048576)),
    ],
)
def test_what_options_may_be(name: str, bad: tuple[Any, ...], good: tuple[Any, ...]) -> None:
    (check,) = (field.metadata["check"] for field in attrs.fields(S3Options) if field.name == name)
    assert [value for value in bad if not check(value)] == []
    assert [value for value in good if check(value)] == []


def test_what_needs_boto3_says_how_to_get_it(backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bucket", "client", "compaction", "shipper", "upload"):
        monkeypatch.delitem(sys.modules, f"sipdump_s3.{module}", raising=False)
        monkeypatch.delattr(f"sipdump_s3.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)
    backend.spool.prepare()
    for call in (backend.segments, backend.ship, backend.compact):
        if call == backend.compact:
            monkeypatch.setattr(type(backend.inner), "merge", lambda *_: 0)
        with pytest.raises(StorageError, match=r"load boto3: .*pip install 'sipdump\[s3\]'"):
            list(call())
    with pytest.raises(StorageError, match="load boto3"):
        backend.start()


def test_a_hosts_name_that_is_no_node_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "büro/1")
    with pytest.raises(ConfigError, match=r"the host's name.*set modparam.*node"):
        S3Backend(S3Options(bucket="b", format="text"), Site(str(tmp_path), "", make=installed))


def test_a_bucket_is_asked_for_when_the_daemon_is_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no bucket is named"):
        SipDump(enable=1, mode=32, folder=tmp_path)


@pytest.mark.parametrize(
    ("template", "refusal"),
    [
        ("node={node}/date={date}/hour={hour}/{file}", ""),
        ("{date}/{node}/{file}", ""),
        ("{node}/{file}", ""),
        ("{date}/{file}", "must hold {node}"),
        ("{node}/{date}", "must hold {node}"),
        ("{node}/{file}/x", "end with {file}"),
        ("{node}/x{file}", "behind a slash"),
        ("{node}/{file}{file}", "must hold"),
        ("{node}/{bucket}/{file}", "may hold"),
        ("{node!r}/{file}", "may hold"),
        ("{node:>9}/{file}", "may hold"),
        ("{node.x}/{file}", "may hold"),
        ("{node/{file}", "must be a template"),
        ("/{node}/{file}", "without a leading slash"),
        ("{node}//{file}", "two slashes in a row"),
        ("{node}/../{file}", "no part"),
        ("./{node}/{file}", "no part"),
        ("{{date}}/{node}/{file}", ""),
    ],
)
def test_key_templates(template: str, refusal: str) -> None:
    found = check_template(template)
    assert refusal in found if found else not refusal


@given(
    start=st.integers(0, 4_000_000_000),
    sequence=st.integers(0, 999_999),
    fprefix=st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=20),
    template=st.sampled_from(
        ["node={node}/date={date}/hour={hour}/{file}", "{date}/{node}/{file}", "{{date}}/{node}/{file}"]
    ),
    prefix=st.sampled_from(["", "a", "a/b", "a/b/"]),
)
def test_keys_are_read_back(start: int, sequence: int, fprefix: str, template: str, prefix: str) -> None:
    keys = Keys(prefix, template, "n.1-x", fprefix, ".parquet")
    segment = attrs.evolve(Segment.starting(fprefix, start), sequence=sequence, suffix=".parquet")
    utc = keys.utc(segment)
    assert keys.local(utc) == segment
    key = keys.key(utc)
    assert keys.segment(key) == utc
    assert keys.start(key) == start
    assert key.startswith(keys.root)
    assert "n.1-x" in keys.root or template.startswith("{date}")
    for other in (f"{key}x", key[1:], key.replace("n.1-x", "n.1-y")):
        assert keys.segment(other) is None


@given(st.text(max_size=80))
def test_any_key_is_told_to_be_none_of_ours_or_is_the_very_one(text: str) -> None:
    keys = Keys("", "{node}/{file}", "n", "", ".data")
    segment = keys.segment(text)
    assert segment is None or keys.key(segment) == text


def test_in_process_objects_are_in_the_bucket_at_the_end(
    s3_server: Server, s3_bucket: str, tmp_path: Path, client: Any
) -> None:
    options = {"bucket": s3_bucket, "endpoint_url": s3_server.endpoint, "format": "pcap", "node": "here"}
    with SipDump(enable=1, mode=32 + 8 + 1, folder=tmp_path, backend_options={"s3": options}) as dump:
        dump.intercept([record(), record()])
    (key,) = objects(client, s3_bucket)
    assert object_bytes(client, s3_bucket, key).count(b"P-KSR-SIPDump: udp") == 2, "with the transform that was chosen"
    assert key.startswith("node=here/date=")
    assert key.endswith(".pcap")
    assert dict(dump.backends[0].stats())["uploaded"] == 1
    assert dump.stats().backends["s3"].stored == 2
    assert len(list(tmp_path.glob("*.data"))) == 1


def config_of(folder: Path, bucket: str, endpoint: str) -> Path:
    path = folder / "sipdumpd.cfg"
    path.write_text(
        f'modparam("sipdump", "mode", 33)\nmodparam("sipdump", "folder", "{folder}")\n'
        f'modparam("sipdump_s3", "bucket", "{bucket}")\nmodparam("sipdump_s3", "endpoint_url", "{endpoint}")\n'
        f'modparam("sipdump_s3", "format", "text")\nmodparam("sipdump_s3", "node", "n1")\n'
        f'modparam("sipdump_s3", "timeout", 60)\n'
    )
    return path


def test_an_operator_lists_ships_and_prunes(
    s3_server: Server, s3_bucket: str, tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path, fprefix="kamailio-sipdump-")
    for second in range(2):
        spool(backend, second=second, stamp="2020-11-22--23-31")
    config = str(config_of(tmp_path, s3_bucket, s3_server.endpoint))
    assert admin.main(["ship", "-f", config]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["shipped", "shipped", "s3:"]
    assert out[2].startswith("s3: 2 segments shipped, ")
    assert len(objects(client, s3_bucket)) == 2
    assert admin.main(["ship", "-f", config, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(tmp_path),
        "fprefix": "kamailio-sipdump-",
        "backends": [{"backend": "s3", "segments": 0, "bytes": 0, "shipped": [], "errors": []}],
    }
    assert admin.main(["list", "-f", config]) == 0
    assert capsys.readouterr().out.count("s3  ") == 2
    assert admin.main(["prune", "--fage", "172800", "-f", config, "--dry-run"]) == 0
    assert "s3: 2 segments to prune" in capsys.readouterr().out
    assert admin.main(["prune", "--fage", "172800", "-f", config]) == 0
    assert "s3: 2 segments pruned" in capsys.readouterr().out
    assert objects(client, s3_bucket) == {}


def test_what_cannot_be_shipped_is_said_with_an_honest_exit_code(
    s3_server: Server, s3_bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = backend_of(s3_server.endpoint, "no-such-bucket", tmp_path, fprefix="kamailio-sipdump-")
    path = spool(backend)
    assert admin.main(["ship", "-f", str(config_of(tmp_path, "no-such-bucket", s3_server.endpoint))]) == 1
    out, err = capsys.readouterr()
    assert "s3: 0 segments shipped, 0 bytes" in out
    assert "NoSuchBucket" in err
    assert "create the bucket" in err
    assert path.exists()
    backend.start()
    wait_for(lambda: backend.spool.locked)
    try:
        assert admin.main(["ship", "-f", str(config_of(tmp_path, s3_bucket, s3_server.endpoint))]) == 1
        assert "is in use by " in capsys.readouterr().err
    finally:
        backend.stop()


def test_nothing_is_left_behind(backend: S3Backend) -> None:
    import threading

    before = (threading.active_count(), len(os.listdir("/proc/self/fd")))
    for second in range(3):
        backend.start()
        spool(backend, second=second)
        backend.stop()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    assert isinstance(next(iter(backend.segments())), StoredSegment)


def test_the_policies_of_the_documentation_are_good(s3_bucket: str, client: Any) -> None:
    blocks = re.findall(r"```json\n(.*?)```", (Path(__file__).parents[3] / "docs" / "s3.md").read_text(), re.DOTALL)
    lifecycle, policy = map(json.loads, blocks)
    client.put_bucket_lifecycle_configuration(Bucket=s3_bucket, LifecycleConfiguration=lifecycle)
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket=s3_bucket)["Rules"]
    assert rule["Expiration"] == {"Days": 90}
    assert {action for statement in policy["Statement"] for action in statement["Action"]} == {
        "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:PutObject", "s3:GetObject", "s3:DeleteObject",
        "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:DeleteObjectVersion",
        "s3:GetObjectTagging", "s3:PutObjectTagging", "s3:DeleteObjectTagging",
    }  # fmt: skip
