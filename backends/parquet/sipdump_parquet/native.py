"""The fields as :mod:`sipdump_parquet.fields` pulls them, by the library in C where that understands the message."""

from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from sipdump_parquet.fields import Puller

if TYPE_CHECKING:
    from ctypes import CDLL

__all__ = ["NATIVE_FIELDS", "NativePuller", "best_puller", "packed_names"]

# in the order of fields.c
_HEADERS = ("call-id", "cseq", "from", "to", "via", "user-agent", "server")
NATIVE_FIELDS = (
    "call_id", "method", "status", "cseq", "cseq_method", "from_user", "from_tag", "to_user", "to_tag",
    "request_uri_user", "via_branch", "user_agent",
)  # fmt: skip
_ODD = 255
_SPAN = 8  # bytes
_FEW_USUAL = 0.9  # if more are odd, it costs less to have Python take all
_MOST = (1 << 31) - 1  # offsets are of 32 bits
_NUMBERS = {"status": pa.int32(), "cseq": pa.int64()}


def best_puller(headers: Mapping[str, str], correlate: Sequence[str]) -> "Puller | NativePuller":
    """Return the fastest puller that there is; see :class:`Puller` for the arguments."""
    puller = Puller(headers, correlate)
    library = puller.library()
    return NativePuller(puller, library) if library else puller


class NativePuller:
    """Pulls fields as arrays; a message that the library does not understand goes to a puller in Python.

    Args:
        puller: for those.
        library: from :func:`sipdump_speedups.library`.
    """

    def __init__(self, puller: Puller, library: "CDLL") -> None:
        self._puller = puller
        self._library = library
        self._names = packed_names(puller)

    def pull(self, data: bytes, offsets: Sequence[int]) -> dict[str, Any]:
        """Return what :meth:`Puller.pull` does, most of the columns as :class:`pyarrow.Array`.

        Raises:
            ValueError: the offsets do not ascend, or lie outside the data.
        """
        if offsets[-1] > _MOST:
            return self._puller.pull(data, offsets)
        count = len(offsets) - 1
        where = array("i", offsets)
        spans, odd = pa.allocate_buffer(_SPAN * len(NATIVE_FIELDS) * count), pa.allocate_buffer(_bits(count))
        sizes = array("q", bytes(8 * len(NATIVE_FIELDS)))
        odd_rows = self._library.sipdump_scan(
            data, len(data), where.buffer_info()[0], count, self._names, len(self._names),
            spans.address, sizes.buffer_info()[0], odd.address,
        )  # fmt: skip
        if odd_rows < 0:
            raise ValueError("offsets must ascend, and lie within the data")
        if odd_rows > _FEW_USUAL * count:
            return self._puller.pull(data, offsets)
        made: dict[str, Any] = {}
        for number, (name, size) in enumerate(zip(NATIVE_FIELDS, sizes, strict=True)):
            made[name] = self._strings(data, spans.address + _SPAN * count * number, count, size)
        made |= {name: made[name].cast(kind) for name, kind in _NUMBERS.items()}
        made |= {name: [None] * count for name in self._puller.rare}
        if odd_rows:
            self._put_odd(data, where, pa.Array.from_buffers(pa.bool_(), count, [None, odd]), made)
        return made

    def _strings(self, data: bytes, spans: int, count: int, size: int) -> Any:
        """Return the strings, of so many bytes in all, whose spans are at an address."""
        offsets, valid, values = map(pa.allocate_buffer, (4 * (count + 1), _bits(count), size))
        nulls = self._library.sipdump_gather(
            data, len(data), spans, count, offsets.address, valid.address, values.address, size
        )
        if nulls < 0:
            raise ValueError("the spans are not those of the data")
        return pa.Array.from_buffers(pa.string(), count, [valid, offsets, values], nulls)

    def _put_odd(self, data: bytes, offsets: Sequence[int], odd: Any, made: dict[str, Any]) -> None:
        """Put in what Python makes of the messages that are odd."""
        rows = pc.indices_nonzero(odd).to_pylist()
        messages = [data[offsets[row] : offsets[row + 1]] for row in rows]
        pulled = self._puller.pull(b"".join(messages), list(accumulate(map(len, messages), initial=0)))
        for name, values in pulled.items():
            column = made[name]
            if isinstance(column, list):
                for row, value in zip(rows, values, strict=True):
                    column[row] = value
            else:
                made[name] = pc.replace_with_mask(column, odd, pa.array(values, column.type))


def packed_names(puller: Puller) -> bytes:
    """Return the names of the headers that a puller looks at, as ``sipdump_scan`` takes them."""
    numbers = {header: number for number, header in enumerate(_HEADERS) if header not in puller.wanted}
    return b"".join(bytes((len(name), numbers.get(header, _ODD))) + name for name, header in puller.names.items())


def _bits(count: int) -> int:
    """Return how many bytes so many bits take."""
    return (count + 7) // 8
