"""The library in C by itself, on memory that ends exactly where the message does, so that sanitizers see each byte."""

import ctypes

from sipdump_parquet.fields import Puller
from sipdump_parquet.native import NATIVE_FIELDS, packed_names

_LIBC = ctypes.CDLL(None)
_LIBC.malloc.restype = ctypes.c_void_p
_LIBC.malloc.argtypes = [ctypes.c_size_t]
_LIBC.free.argtypes = [ctypes.c_void_p]


class Exact:
    """Scans one message at a time.

    Args:
        library: from :func:`sipdump_speedups.load`.
        puller: the headers that count are its.
    """

    def __init__(self, library: ctypes.CDLL, puller: Puller) -> None:
        self._library = library
        self._names = packed_names(puller)

    def fields(self, message: bytes) -> dict[str, str | int | None] | None:
        """Return the fields of a message, None if it is odd."""
        size, count = len(message), len(NATIVE_FIELDS)
        offsets = (ctypes.c_int32 * 2)(0, size)
        spans, sizes, odd = (ctypes.c_int32 * (2 * count))(), (ctypes.c_int64 * count)(), (ctypes.c_uint8 * 1)()
        data = _LIBC.malloc(size)
        ctypes.memmove(data, message, size)
        rows = self._library.sipdump_scan(data, size, offsets, 1, self._names, len(self._names), spans, sizes, odd)
        _LIBC.free(data)
        assert rows == odd[0]
        if rows:
            assert set(sizes) == {0}
            return None
        found: dict[str, str | int | None] = {}
        for name, at, length in zip(NATIVE_FIELDS, spans[::2], spans[1::2], strict=True):
            value = message[at : at + length].decode("ascii") if length >= 0 else None
            found[name] = int(value) if value and name in ("status", "cseq") else value
        assert list(sizes) == [max(0, length) for length in spans[1::2]]
        return found
