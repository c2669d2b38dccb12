"""Messages are left in their file while their rows are sorted, and come back byte by byte."""

import errno
import mmap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.errors import StorageError
from sipdump_parquet import conversion
from sipdump_parquet.messages import Messages
from sipdump_parquet.sort import Sorter
from tests.backends.parquet.support import SEGMENT, SMALL, calls, leave, make, read
from tests.support import examples

PAGE = mmap.ALLOCATIONGRANULARITY
FRAMES = st.lists(st.tuples(st.integers(0, 40), st.lists(st.binary(max_size=20), min_size=1, max_size=6)), min_size=1)


def table(count: int) -> Any:
    return pa.table({"seq": pa.arange(0, count), "buf": pa.array([b""] * count, pa.binary())})


def put_back(path: Path, start: int, frames: list[tuple[int, list[bytes]]], draw: Any = None) -> None:
    """Write messages with gaps between them, and compare what is read in another order."""
    data = bytearray(b"x" * start)
    places = []
    for gap, messages in frames:
        data += b"x" * gap
        places.append((len(data), list(map(len, messages))))
        data += b"".join(messages)
    path.write_bytes(data)
    everything = [message for _, messages in frames for message in messages]
    order = draw(st.permutations(range(len(everything)))) if draw else list(range(len(everything)))[::-1]
    with path.open("rb") as file:
        kept = Messages(file)
        numbers = [kept.add(at, lengths) for at, lengths in places]
        left = kept.left_out(table(len(everything)), numbers)
        assert "buf" not in left.schema.names
        found = kept.put_in(left.take(pa.array(order)))
        assert found["buf"].type == pa.binary()
        assert found["buf"].to_pylist() == [everything[each] for each in order]


@examples(60)
@given(start=st.sampled_from([16, PAGE - 1, PAGE, PAGE + 1]), frames=FRAMES, data=st.data())
def test_messages_come_back_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, start: int, frames: list[tuple[int, list[bytes]]], data: st.DataObject
) -> None:
    put_back(tmp_path_factory.getbasetemp() / "messages", start, frames, data.draw)


def test_the_next_part_begins_where_the_last_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2 * PAGE + b"onetwothree")
    with path.open("rb") as file:
        kept = Messages(file)
        for at, message in ((0, b"one"), (3, b"two"), (6, b"three")):
            left = kept.left_out(table(1), [kept.add(2 * PAGE + at, [len(message)])])
            assert kept.put_in(left)["buf"].to_pylist() == [message]
            kept.clear()


def test_a_file_system_that_cannot_map_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(mmap, "mmap", refuse)
    put_back(tmp_path / "messages", PAGE + 7, [(3, [b"one", b"", b"two"]), (9, [b"three"])])


@pytest.mark.parametrize("memory", [SMALL, 1 << 20])
def test_no_message_is_moved_before_its_row_is_sorted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    batch = calls(60, size=900)
    leave(tmp_path, batch[:200], batch[200:])
    widths = []
    add = Sorter.add

    def spy(self: Sorter, table: Any, later: int = 0) -> None:
        widths.append((table.nbytes, later))
        add(self, table, later)

    monkeypatch.setattr(Sorter, "add", spy)
    done = conversion.seal(SEGMENT, make(tmp_path, memory=memory).opts, make(tmp_path).site)
    assert done
    assert done.records == len(batch)
    assert sum(later for _, later in widths) >= sum(len(record.buf) for record in batch)
    assert all(nbytes < later for nbytes, later in widths)
    assert read(tmp_path) == batch


def test_a_segment_needs_no_temporary_file_until_its_messages_are_twice_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    batch = calls(60, size=900)
    size = sum(len(record.buf) for record in batch)
    leave(tmp_path, batch)
    with pytest.raises(StorageError, match="No space left"):
        conversion.seal(SEGMENT, make(tmp_path, memory=size // 3).opts, make(tmp_path).site)
    assert conversion.seal(SEGMENT, make(tmp_path, memory=2 * size // 3).opts, make(tmp_path).site)
    assert read(tmp_path) == batch


def test_messages_that_are_left_out_are_bounded_too(tmp_path: Path) -> None:
    class Late:
        cleared = 0

        def put_in(self, table: Any) -> Any:
            return table.append_column("buf", pa.array([b"m"] * len(table)))

        def clear(self) -> None:
            self.cleared += 1

    late = Late()
    sorter = Sorter(["seq"], 1000, str(tmp_path), late)
    try:
        for seq in range(10):
            sorter.add(pa.table({"seq": [9 - seq]}), 500)
        assert late.cleared == 2, "each 2,000 bytes"
        found = pa.concat_tables(sorter.sorted())
        assert late.cleared == 3
        assert found["seq"].to_pylist() == list(range(10))
        assert found["buf"].to_pylist() == [b"m"] * 10
    finally:
        sorter.close()
