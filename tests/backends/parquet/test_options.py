"""The options of the Parquet backend, and the files that come of them."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.settings.options import Setting, build
from sipdump_parquet.options import ParquetOptions
from tests.backends.parquet.support import calls, make, read, write


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
        ({"compression": "gzip", "level": 12}, "must be 1 to 9 with gzip"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make(tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("compression", "brotli"), ("level", 23), ("memory", 1000), ("sync", -1), ("row_group_records", 0)],
)
def test_values_out_of_range(name: str, value: int | str) -> None:
    with pytest.raises(ConfigError, match=name):
        build(ParquetOptions, [Setting("sipdump_parquet", name, value)])


@pytest.mark.parametrize("compression", ["zstd", "gzip", "snappy", "lz4", "none"])
def test_compression(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path, calls(3), compression=compression)
    stands = {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert pq.read_metadata(path).row_group(0).column(0).compression == stands
    assert read(tmp_path) == calls(3)
