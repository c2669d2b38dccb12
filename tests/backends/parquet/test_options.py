"""The options of the Parquet backend, and the files that come of them."""

import json
from pathlib import Path
from typing import Any

import attrs
import pyarrow.parquet as pq
import pytest

from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.settings.options import Setting, build
from sipdump_parquet.options import COLUMNS, ParquetOptions
from tests.backends.parquet.support import calls, make, read, write
from tests.support import OPTIONS, record


def test_columns(tmp_path: Path) -> None:
    columns = "time, seq,call_id , buf"
    path = write(tmp_path, calls(3), columns=columns)
    assert pq.read_schema(path).names == ["seq", "time", "call_id", "buf"]
    back = read(tmp_path)
    assert [one.buf for one in back] == [one.buf for one in calls(3)]
    assert {(one.src_ip, one.proto, one.pid) for one in back} == {("0.0.0.0", "none", 0)}


def test_without_buf_no_record_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path, calls(3), columns="seq,time,from_user")
    assert pq.read_table(path).num_rows == 18
    with pytest.raises(StorageError, match="has no column buf"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"columns": "seq,time,nosuch"}, "no column 'nosuch'; there are: seq, time, tag"),
        ({"columns": "seq,buf"}, "time must be among them"),
        ({"columns": ","}, "no column ''"),
        ({"header": ("a b",)}, "'a b' cannot be a header's name"),
        ({"header": ("",)}, "'' cannot be a header's name"),
        ({"correlate": ("X:",)}, "correlate: 'X:' cannot be a header's name"),
        ({"header": ("User-Agent",)}, "'User-Agent' would have the column user_agent, which every file has"),
        ({"header": ("i",)}, "'i' would have the column call_id"),
        ({"header": ("Date",)}, "would have the column date, as the folders of S3 are named"),
        ({"header": ("X-My-Id", "X_my.id")}, "'X-My-Id' and 'X_my.id' would both have the column x_my_id"),
        ({"header": ("Contact", "m")}, "'Contact' and 'm' would both have the column contact"),
        ({"correlate": ("X-Id",), "columns": "seq,time"}, "the column correlation is not among columns"),
        ({"compression": "gzip", "level": 12}, "must be 1 to 9 with gzip"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make(tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("header", "CSeq", "would have the column cseq, which every file has already"),
        ("header", "X Y", "cannot be a header's name"),
        ("correlate", "X-A, X-B", "cannot be a header's name"),
    ],
)
def test_the_wrong_one_of_several_has_its_place(name: str, value: str, why: str) -> None:
    settings = [
        Setting("sipdump_parquet", "header", "X-Good", "k.cfg:1:1"),
        Setting("sipdump_parquet", name, value, "k.cfg:2:1"),
        Setting("sipdump_parquet", "header", "X-Better", "k.cfg:3:1"),
    ]
    with pytest.raises(ConfigError, match=rf'^k.cfg:2:1: modparam\("sipdump_parquet", "{name}", "{value}"\): {why}'):
        build(ParquetOptions, settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [("compression", "brotli"), ("level", 23), ("memory", 1000), ("sync", -2), ("row_group_records", 0)],
)
def test_values_out_of_range(name: str, value: int | str) -> None:
    with pytest.raises(ConfigError, match=name):
        build(ParquetOptions, [Setting("sipdump_parquet", name, value)])


def test_columns_of_ones_own(tmp_path: Path) -> None:
    given = [("header", "P-Asserted-Identity"), ("header", "X-Token!"), ("correlate", "X-My-Id"), ("correlate", "X-B")]
    options = build(ParquetOptions, [Setting("sipdump_parquet", name, value) for name, value in given])
    buf = OPTIONS.replace(
        b"\r\n\r\n", b"\r\nP-Asserted-Identity: <tel:+1>\r\nX-B: b\r\nx-my-id: a\r\nX-CID: c\r\n\r\n", 1
    )
    path = write(tmp_path, [record(buf), record()], **attrs.asdict(options))
    assert pq.read_schema(path).names == [*COLUMNS[:-1], "p_asserted_identity", "x_token_", "buf"]
    rows = pq.read_table(path, columns=["p_asserted_identity", "x_token_", "correlation"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [("<tel:+1>", None, ["c", "a", "b"]), (None, None, None)]
    pairs = pq.read_metadata(path).metadata
    assert json.loads(pairs[b"sipdump.headers"]) == {
        "p_asserted_identity": "P-Asserted-Identity",
        "x_token_": "X-Token!",
    }
    assert json.loads(pairs[b"sipdump.correlate"]) == ["X-My-Id", "X-B"]
    assert [one.buf for one in read(tmp_path)] == [buf, OPTIONS]


def test_a_column_of_ones_own_need_not_be_among_columns(tmp_path: Path) -> None:
    path = write(tmp_path, [record()], columns="seq,time,max_forwards", header=("Max-Forwards",))
    assert pq.read_schema(path).names == ["seq", "time", "max_forwards"]


@pytest.mark.parametrize("compression", ["zstd", "gzip", "snappy", "lz4", "none"])
def test_compression(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path, calls(3), compression=compression)
    stands = {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert pq.read_metadata(path).row_group(0).column(0).compression == stands
    assert read(tmp_path) == calls(3)
