"""The messages of a write-ahead file, left there until their rows are sorted: so each is copied once, to its place."""

import mmap
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Messages"]

_NUMBER = "message"
"""The column that says, in place of ``buf``, which message a row has."""


class Messages:
    """Numbers the messages of a part of a file, and reads them in any order.

    The part is mapped into memory: its pages are those of the system's cache, which takes them back when it needs to.
    Only frames whose sum was right get here; if the device cannot read them any more, the process ends by SIGBUS.

    Args:
        file: the write-ahead file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offsets = array("q")  # from the start of the file; what lies between two frames is an entry, too
        self._values: Any = None

    def add(self, offset: int, lengths: Sequence[int]) -> Any:
        """Add messages that lie one behind the other, and behind all before; return their numbers, an array.

        Args:
            offset: where the first one begins in the file.
            lengths: bytes of each.
        """
        first = len(self._offsets)
        self._offsets.extend(accumulate(lengths, initial=offset))
        self._values = None
        return pa.arange(first, first + len(lengths))

    def left_out(self, table: Any, numbers: Sequence[Any]) -> Any:
        """Return a table of records with the numbers of their messages, as arrays, in place of ``buf``."""
        at = table.schema.get_field_index("buf")
        return table.set_column(at, _NUMBER, pa.chunked_array(numbers))

    def put_in(self, table: Any) -> Any:
        """Return a table with ``buf`` again, of less than 2 GiB.

        Raises:
            OSError: the file cannot be read.
        """
        if self._values is None:
            self._values = self._map()
        at = table.schema.get_field_index(_NUMBER)
        return table.set_column(at, "buf", self._values.take(table[_NUMBER]).cast(pa.binary()))

    def clear(self) -> None:
        """Begin the next part of the file."""
        self._offsets = array("q")
        self._values = None

    def _map(self) -> Any:
        begin, end = self._offsets[0] - 1, self._offsets[-1]  # nothing cannot be mapped, so it is one byte at least
        begin -= begin % mmap.ALLOCATIONGRANULARITY
        data: mmap.mmap | bytes
        try:
            data = mmap.mmap(self._file.fileno(), end - begin, access=mmap.ACCESS_READ, offset=begin)
        except OSError:  # not every file system can map files
            self._file.seek(begin)
            data = self._file.read(end - begin)
        offsets = pc.subtract(_integers(self._offsets), begin)
        return pa.Array.from_buffers(
            pa.large_binary(), len(offsets) - 1, [None, offsets.buffers()[1], pa.py_buffer(data)]
        )


def _integers(values: "array[int]") -> Any:
    """Return an array of the type ``q`` as one of Arrow's, without a copy."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])
