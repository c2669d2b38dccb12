"""The contract of every backend, plain and compressed, and what is JSON's and zstd's own."""

import io
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sipdump_core import ConfigError, Record, Segment, Site, StorageError
from sipdump_core.testing import Contract, record

from sipdump_jsonl import JsonlBackend, JsonlOptions

STAMP = "2026-11-22--23-31-00"


class TestPlain(Contract):
    backend_class = JsonlBackend


class TestCompressed(Contract):
    backend_class = JsonlBackend
    options: ClassVar[dict[str, Any]] = {"compression": "zstd"}


def backend(compression: str = "none", folder: Path = Path("/nonexistent")) -> JsonlBackend:
    return JsonlBackend(JsonlOptions(compression), Site(str(folder), "x-"))


def decode(data: bytes) -> list[Record]:
    file = io.BytesIO(data)
    file.name = "memory"
    return list(backend().decode(file))


def test_a_line_is_an_object_that_other_programs_read() -> None:
    (line,) = backend().encode([record(b"OPTIONS sip:x SIP/2.0\r\nCall-ID: a\r\n\r\n\xc3\xa4")]).splitlines()
    assert json.loads(line) == {
        "time_us": 1795386431765284,
        "tag": "rcv",
        "pid": 2738,
        "procno": 2,
        "proto": "udp",
        "af": "ipv4",
        "src_ip": "127.0.0.1",
        "src_port": 5999,
        "dst_ip": "127.0.0.1",
        "dst_port": 5070,
        "node": "",
        "call_id": "a",
        "buf": "OPTIONS sip:x SIP/2.0\r\nCall-ID: a\r\n\r\nä",
    }


def test_what_is_no_utf8_stands_in_base64() -> None:
    values = json.loads(backend().encode([record(b"\xff\0")]))
    assert "buf" not in values
    assert (values["buf_base64"], values["call_id"]) == ("/wA=", None)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@settings(max_examples=200, deadline=None)
@given(batches=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=4))
def test_round_trip(compression: str, batches: list[list[bytes]]) -> None:
    records = [[record(buf, time_us=n) for n, buf in enumerate(batch)] for batch in batches]
    data = b"".join(backend(compression).encode(batch) for batch in records)
    assert decode(data) == [one for batch in records for one in batch]


@given(st.lists(st.one_of(st.binary(max_size=30), st.just(b"\n"), st.just(b'{"buf":'), st.just(b"[" * 20_000))))
def test_any_bytes_can_be_read(parts: list[bytes]) -> None:
    assert decode(b"x" + b"".join(parts)) == []


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"5",
        b'"text"',
        b"garbage",
        backend().encode([record()]).replace(b'"time_us":1', b'"time_us":"1'),
        backend().encode([record()]).replace(b"2738", b"2738.5"),
        backend().encode([record()]).replace(b"127.0.0.1", b"127.0.0.999"),
        backend().encode([record()]).replace(b'"buf":"', b'"buf_base64":"'),
        backend().encode([record()]).replace(b'"tag"', b'"other"'),
    ],
)
def test_a_line_that_is_no_record_is_passed_over_and_logged(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    good = backend().encode([record()])
    assert decode(good + line.strip() + b"\n" + good) == [record(), record()]
    assert "1 lines that are not records: memory" in caplog.text


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_torn_tail_costs_the_last_batch_at_the_most(compression: str) -> None:
    one, two = [record(b"one")] * 3, [record(b"two")] * 3
    first, second = backend(compression).encode(one), backend(compression).encode(two)
    for cut in range(1, len(second)):
        read = decode(first + second[:-cut])
        assert read[:3] == one
        assert read[3:] == two[: len(read) - 3]
        assert len(read) < 6


def test_a_damaged_frame_is_an_error_and_what_stands_before_it_is_read() -> None:
    first, second = (backend("zstd").encode([record(text)]) for text in (b"one", b"two"))
    for at in range(len(second)):
        file = io.BytesIO(first + second[:at] + bytes([second[at] ^ 0x55]) + second[at + 1 :])
        file.name = "memory"
        records = backend().decode(file)
        assert next(records) == record(b"one")
        told = "a torn tail"  # which is what a length that is too large looks like
        try:
            assert list(records) == []
        except StorageError as error:
            told = str(error)
        assert told.startswith(("a torn tail", "read memory: damaged: "))


def test_compression_saves_space() -> None:
    batch = [record(b"OPTIONS sip:%d SIP/2.0\r\n\r\n" % n) for n in range(1000)]
    assert len(backend("zstd").encode(batch)) * 10 < len(backend("none").encode(batch))


def test_files_of_both_kinds_are_listed_whatever_is_written_now(tmp_path: Path) -> None:
    for compression, suffix in (("none", ".jsonl"), ("zstd", ".jsonl.zst")):
        one = backend(compression, tmp_path)
        one.open(Segment("x-", STAMP, 0, one.suffix))
        one.write([record()])
        one.close()
        assert (tmp_path / f"x-{STAMP}{suffix}").exists()
    for compression in ("none", "zstd"):
        lister = backend(compression, tmp_path)
        stored = list(lister.segments())
        assert [one.segment.suffix for one in stored] == [".jsonl", ".jsonl.zst"]
        assert [list(lister.read(one)) for one in stored] == [[record()], [record()]]
    for found in stored:
        lister.delete(found)
    assert list(tmp_path.iterdir()) == []


def test_without_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed = backend("zstd").encode([record()])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(StorageError, match="zstandard is not installed"):
        decode(compressed)
    assert decode(backend().encode([record()])) == [record()]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'sipdump-jsonl\[zstd\]'"):
        backend("zstd")
