"""Questions to a bucket: only what is needed is fetched, of all collectors, while objects come and go."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.capabilities import Searches, Spans, Unites, can
from sipdump_core.drivers.query import Query, parse_grep
from sipdump_core.errors import StorageError
from sipdump_core.reading.command import main
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import BackendShelf, open_shelves
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_s3 import S3Backend
from sipdump_s3.bucket import Bucket
from tests.backends.parquet.test_search import QUESTIONS, by_call, question, record
from tests.s3_server import Server
from tests.s3_support import backend_of, sent

T0_S = 1_795_386_431


@pytest.fixture
def backend(s3_server: Server, s3_bucket: str, tmp_path: Path) -> S3Backend:
    return backend_of(s3_server.endpoint, s3_bucket, tmp_path / "n1", format="parquet", prefix="sip")


def stored_in(backend: S3Backend, records: list[Record], second: int = 0) -> StoredSegment:
    """Store records in an object, and return it."""
    Path(backend.spool.folder).mkdir(parents=True, exist_ok=True)
    backend.inner.start()
    backend.open(Segment.starting(backend.site.prefix, T0_S + second))
    backend.write(records)
    backend.close()
    backend.inner.stop()
    (address,) = sent(backend)
    return next(stored for stored in backend.segments() if stored.location == address)


def call(number: int, node: str = "", size: int = 400) -> list[Record]:
    """Return the two messages of a call."""
    ids = f"Call-ID: call-{number}@h\r\n".encode()
    filling = b"X: " + Random(number).randbytes(size).hex().encode() + b"\r\n"
    return [
        Record.of(
            first + b"\r\n" + ids + b"From: <sip:alice@h>\r\n" + filling + b"\r\n",
            time_us=T0_S * 1_000_000 + 1000 * number + step, src_ip="192.0.2.1", src_port=1, dst_ip="192.0.2.2",
            dst_port=2, node=node,
        )
        for step, first in enumerate((b"OPTIONS sip:bob@h SIP/2.0", b"SIP/2.0 200 OK"))
    ]  # fmt: skip


def calls(first: int, count: int, size: int = 400) -> list[Record]:
    return [each for number in range(first, first + count) for each in call(number, size=size)]


def test_it_has_the_abilities() -> None:
    assert all(can(S3Backend, each) for each in (Searches, Spans, Unites))


def test_what_is_searched_is_what_is_read_and_filtered(backend: S3Backend) -> None:
    draw = Random("s3")
    stored = stored_in(backend, [record(draw) for _ in range(60)])
    hits = 0
    for _ in range(QUESTIONS):
        asked = question(draw)
        wanted = list(filter(asked.matches, backend.read(stored)))
        found = list(backend.search(stored, asked))
        assert Counter(found) == Counter(wanted)
        assert by_call(found) == by_call(wanted)
        hits += len(found)
    assert hits


def test_what_waits_in_the_spool_is_searched(backend: S3Backend) -> None:
    Path(backend.spool.folder).mkdir(parents=True)
    backend.open(Segment.starting(backend.site.prefix, T0_S))
    backend.write(calls(0, 5))
    (stored,) = backend.segments()
    assert list(backend.search(stored, Query(call_ids=["call-3@h"]))) == call(3)
    backend.close()


class Spy:
    """Counts what is fetched of a bucket."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = self.requests = 0
        for name in ("tail", "part", "get"):
            monkeypatch.setattr(Bucket, name, self._spied(getattr(Bucket, name)))

    def _spied(self, method: Any) -> Any:
        def spied(bucket: Bucket, *args: Any) -> Any:
            self.requests += 1
            found = method(bucket, *args)
            data = found[2] if isinstance(found, tuple) else found
            self.bytes += len(data) if isinstance(data, bytes) else 1 << 40
            return found

        return spied


def test_only_what_is_needed_is_fetched(backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.inner.opts = attrs.evolve(backend.inner.opts, row_group_records=1000)
    stored = stored_in(backend, calls(0, 4000, size=2000))
    assert stored.size > 5_000_000
    spy = Spy(monkeypatch)
    assert list(backend.search(stored, Query(call_ids=["call-1234@h"]))) == call(1234, size=2000)
    assert spy.bytes < stored.size / 3
    spy.requests = 0
    assert not list(backend.search(stored, Query(call_ids=["zzz@h"])))  # beyond all of them
    assert not spy.requests, "its end is known by now"
    assert len(list(backend.search(stored, Query(users=["alice"])))) == 8000  # too many to be held: a copy is searched
    assert spy.bytes > 1 << 40


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(
    backend: S3Backend, s3_server: Server, s3_bucket: str
) -> None:
    stored = stored_in(backend, calls(0, 500))
    assert list(backend.search(stored, Query(call_ids=["call-7@h"])))
    key = stored.location.removeprefix(f"s3://{s3_bucket}/")
    with s3_server.client() as client:
        data = client.get_object(Bucket=s3_bucket, Key=key)["Body"].read()
        client.put_object(Bucket=s3_bucket, Key=key, Body=data[:1000] + b"?" + data[1001:])
    with pytest.raises(StorageError) as caught:
        list(backend.search(stored, Query(call_ids=["call-8@h"])))
    assert caught.value.of_absence


def test_of_another_format_the_whole_object_is_read(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    backend = backend_of(s3_server.endpoint, s3_bucket, tmp_path, format="pcap")
    stored = stored_in(backend, calls(0, 20))
    assert [each.buf for each in backend.search(stored, Query(call_ids=["call-7@h"]))] == [each.buf for each in call(7)]


# all collectors


@pytest.fixture
def environment(s3_server: Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    del s3_bucket  # which sets the environment, too
    s3_server.enter(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)


def collector(server: Server, bucket: str, folder: Path, node: str, **options: Any) -> S3Backend:
    return backend_of(server.endpoint, bucket, folder / node, node=node, prefix="sip", **options)


def test_all_collectors_are_listed_whatever_their_keys_and_formats(
    s3_server: Server, s3_bucket: str, tmp_path: Path
) -> None:
    def made(node: str, fprefix: str = "test-", **options: Any) -> None:
        options = {"node": node, "prefix": "sip", "format": "parquet", **options}
        stored_in(backend_of(s3_server.endpoint, s3_bucket, tmp_path / node, fprefix, **options), call(1))

    made("n1")
    made("n2", fprefix="")
    made("n3", format="pcap")
    made("n4", key="{node}/{date}/{file}", format="text", fprefix="2026-x-")
    made("n5", prefix="elsewhere")
    with s3_server.client() as client:
        client.put_object(Bucket=s3_bucket, Key="sip/node=n1/README.txt", Body=b"hello")
        client.put_object(Bucket=s3_bucket, Key="sip/node=n1/2026-99-22--23-31-00.parquet", Body=b"hello")
    reader = collector(s3_server, s3_bucket, tmp_path, "n1", format="parquet")
    there = list(reader.segments_of_all())
    assert sorted((node, each.segment.suffix, each.segment.prefix) for node, each in there) == [
        ("", ".parquet", "test-"),  # its own
        ("n2", ".parquet", ""),
        ("n3", ".pcap", "test-"),
        ("n4/2026-11-22", ".data", "2026-x-"),
    ]
    assert {each.segment.start for _, each in there} == {T0_S}
    for _, each in there:
        assert [found.buf for found in reader.search(each, Query(call_ids=["call-1@h"]))] == [
            wanted.buf for wanted in call(1)
        ]
        assert len(list(reader.read(each))) == 2
    with pytest.raises(StorageError, match="not one of this collector's"):
        reader.delete(next(each for node, each in there if node == "n2"))


def opened(bucket: str, **given: Any) -> Store:
    shelves, problems = open_shelves(urls=[f"s3://{bucket}/sip"], **given)
    assert problems == []
    return Store(shelves)


def records_of(store: Store, query: Query) -> list[Record]:
    searched = Searched()
    found = list(store.records(query, searched))
    assert searched.problems == []
    return found


@pytest.mark.usefixtures("environment")
def test_a_store_of_two_collectors(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    stored_in(collector(s3_server, s3_bucket, tmp_path, "n1", format="parquet"), call(1, "p1") + call(2, "p1"))
    stored_in(collector(s3_server, s3_bucket, tmp_path, "n2", format="text"), call(1) + call(3))
    store = opened(s3_bucket)
    assert len(records_of(store, Query(call_ids=["call-1@h"]))) == 4
    assert len(records_of(store, Query(greps=[parse_grep("call-3@h")]))) == 2
    assert sorted(one.call.call_id for one in store.find(Query(users=["alice"]))) == [
        "call-1@h",
        "call-2@h",
        "call-3@h",
    ]


def test_what_the_configuration_stores_too_comes_once(s3_server: Server, s3_bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "n1"
    stored_in(collector(s3_server, s3_bucket, tmp_path, "n1", format="parquet"), call(1))
    stored_in(collector(s3_server, s3_bucket, tmp_path, "n2", format="parquet"), call(2))
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(
        f'modparam("sipdump", "mode", 33)\nmodparam("sipdump", "folder", "{folder}")\n'
        f'modparam("sipdump", "fprefix", "test-")\nmodparam("sipdump_s3", "bucket", "{s3_bucket}")\n'
        f'modparam("sipdump_s3", "prefix", "sip")\nmodparam("sipdump_s3", "node", "n1")\n'
        f'modparam("sipdump_s3", "endpoint_url", "{s3_server.endpoint}")\n'
    )
    store = opened(s3_bucket, configs=[str(config)])
    assert records_of(store, Query()) == call(1) + call(2)


def test_a_merged_object_names_the_first_ones(backend: S3Backend) -> None:
    first = [stored_in(backend, call(number), 2 * number).segment for number in range(2)]
    list(backend.compact(min_age=0))
    first.append(stored_in(backend, call(2), 4).segment)
    (done,) = backend.compact(min_age=0)
    assert done.error is None
    (merged,) = backend.segments()
    assert merged.segment.sequence
    assert list(backend.united(merged)) == first


@pytest.mark.parametrize("when", range(4))
def test_a_compaction_while_it_is_read_loses_nothing_and_doubles_nothing(backend: S3Backend, when: int) -> None:
    for number in range(3):
        stored_in(backend, call(number) + call(number)[:1], 2 * number)  # one message twice
    wanted = Counter(each for number in range(3) for each in call(number) + call(number)[:1])
    store = Store([BackendShelf(backend)])
    searched = Searched()
    reading = store.unsorted(Query(), searched)
    found = [next(reading) for _ in range(3 * when)]
    if when < 3:
        (done,) = backend.compact(min_age=0)
        assert done.error is None
    found += reading
    assert Counter(found) == wanted
    assert searched.problems == []


def test_a_source_that_is_still_there_is_not_read_again(backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        stored_in(backend, call(number), 2 * number)
    store = Store([BackendShelf(backend)])
    reading = store.unsorted(Query(), Searched())
    found = [next(reading) for _ in range(2)]
    *_, last = backend.segments()
    delete = Bucket.delete

    def all_but_last(bucket: Bucket, keys: list[str]) -> Any:
        return delete(bucket, [key for key in keys if not last.location.endswith(key)])

    monkeypatch.setattr(Bucket, "delete", all_but_last)
    list(backend.compact(min_age=0))
    found += reading
    assert sorted(found, key=lambda each: each.time_us) == calls(0, 3)


@pytest.mark.usefixtures("environment")
def test_an_object_that_is_refused_is_named(
    backend: S3Backend, monkeypatch: pytest.MonkeyPatch, s3_server: Server
) -> None:
    stored_in(backend, call(1))
    with s3_server.client() as client:
        key = next(iter(backend.segments())).location.removeprefix(f"s3://{backend.opts.bucket}/")
        client.put_object(Bucket=backend.opts.bucket, Key=key, Body=b"no Parquet")
    searched = Searched()
    assert not list(Store([BackendShelf(backend)]).unsorted(Query(users=["alice"]), searched))
    assert len(searched.problems) == 1


@pytest.mark.usefixtures("environment")
def test_the_command_finds_calls_of_two_collectors(
    s3_server: Server, s3_bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored_in(collector(s3_server, s3_bucket, tmp_path, "n1", format="parquet"), call(1))
    stored_in(collector(s3_server, s3_bucket, tmp_path, "n2", format="parquet"), call(2))
    assert main(["find", "--store", f"s3://{s3_bucket}/sip", "--user", "alice", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["call_id"], each["messages"]) for each in found] == [("call-1@h", 2), ("call-2@h", 2)]
    assert main(["find", "--store", f"s3://{s3_bucket}/sip", "--user", "nobody"]) == 1
