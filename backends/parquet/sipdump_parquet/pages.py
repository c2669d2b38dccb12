"""Single pages of a Parquet file, and its bloom filters, which pyarrow reads only as parts of whole column chunks.

The structures are those of parquet-format 2.12 (https://parquet.apache.org/docs/file-format/), in Thrift's compact
protocol. What a file has in another form than the Parquet backend writes it raises :class:`UnusualError`; pyarrow reads
that.
"""

import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

__all__ = ["Bloom", "Page", "UnusualError", "messages", "page_locations", "xxh64"]

_FOOTER = struct.Struct("<I4s")
_LENGTH = struct.Struct("<I")
_DATA_PAGE, _PLAIN = 0, 0
_BOOLS, _INTS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), (4, 5, 6), 7, 8, (9, 10), 12
_GAP = 1 << 16
"""Pages with no more than so many bytes between them are read at once."""
_AT_ONCE = 1 << 22


class UnusualError(ValueError):
    """A structure is of a form that is legal, but not read here."""


class Page(NamedTuple):
    """Where a data page is."""

    offset: int
    size: int
    """With its header."""
    first: int
    """Its first row, counted from the start of the row group."""


def page_locations(file: BinaryIO, column: int) -> Sequence[Sequence[Page]]:
    """Read where the data pages of a column are, by row group, from the file's offset indexes.

    Args:
        file: an open Parquet file.
        column: the column's number.

    Raises:
        UnusualError: it has no offset index.
        OSError: it cannot be read.
    """
    end = file.seek(0, 2)
    file.seek(end - _FOOTER.size)
    length, _ = _FOOTER.unpack(file.read(_FOOTER.size))
    file.seek(end - _FOOTER.size - length)
    footer = file.read(length)
    found = []
    try:
        for offset, size in _index_places(footer, column):
            file.seek(offset)
            index, _ = _struct(file.read(size), 0)
            found.append([Page(place[1], place[2], place[3]) for place in index[1]])
    except (IndexError, KeyError, TypeError, struct.error) as error:
        raise UnusualError(f"its page index cannot be understood: {error!r}") from error
    return found


def messages(
    file: BinaryIO,
    pages: Sequence[Page],
    rows: Sequence[int],
    compression: str,
    *,
    nullable: bool,
    wanted: Callable[[bytes], bool],
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield values of a column of byte arrays, page by page.

    Args:
        file: an open Parquet file.
        pages: all pages of a row group, from :func:`page_locations`.
        rows: which rows, ascending.
        compression: of the column chunk, as pyarrow names it.
        nullable: whether values may be null; none may.
        wanted: whether a page may hold what is looked for, given its uncompressed bytes.

    Yields:
        How many of ``rows`` are done with this page, and the values of those of its rows that are among
        ``rows``; none of a page that is not wanted.

    Raises:
        UnusualError: a page is of another form, before anything was yielded of it.
        OSError: the file cannot be read.
    """
    codec = _codec(compression)
    done = 0
    for gathered in _gathered(pages, rows):
        begin = gathered[0].offset
        file.seek(begin)
        data = file.read(gathered[-1].offset + gathered[-1].size - begin)
        for page in gathered:
            raw, count, at = _page(data, page.offset - begin, codec, nullable=nullable)
            upto = done
            while upto < len(rows) and rows[upto] < page.first + count:
                upto += 1
            found = _values(raw, at, page.first, rows[done:upto]) if wanted(raw) else []
            done = upto
            yield done, found


class Bloom:
    """A split block bloom filter of a column chunk.

    Args:
        file: an open Parquet file.
        offset: where the filter's header begins.

    Raises:
        UnusualError: it is of another kind.
        OSError: the file cannot be read.
    """

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self._file = file
        file.seek(offset)
        try:
            header, size = _struct(file.read(_BLOOM_HEADER), 0)
            usual = 1 in header[2] and 1 in header[3] and 1 in header[4]  # BLOCK, XXHASH, UNCOMPRESSED
        except (IndexError, KeyError, TypeError) as error:
            raise UnusualError(f"its bloom filter cannot be understood: {error!r}") from error
        if not usual:
            raise UnusualError("its bloom filter is of another kind")
        self._bits = offset + size
        self._blocks = header[1] // _BLOCK.size

    def may_hold(self, hashed: int) -> bool:
        """Return whether a value may be in the chunk, given its :func:`xxh64`."""
        self._file.seek(self._bits + ((hashed >> 32) * self._blocks >> 32) * _BLOCK.size)
        words = _BLOCK.unpack(self._file.read(_BLOCK.size))
        key = hashed & 0xFFFFFFFF
        return all(word >> (key * salt >> 27 & 31) & 1 for word, salt in zip(words, _SALTS, strict=True))


_BLOOM_HEADER = 64
_BLOCK = struct.Struct("<8I")
_SALTS = (
    0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31,
)  # fmt: skip

_P1, _P2, _P3, _P4, _P5 = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5,
)  # fmt: skip
_64 = (1 << 64) - 1
_STRIPE = struct.Struct("<4Q")


def xxh64(data: bytes) -> int:
    """Return the XXH64 of bytes, with the seed 0 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md)."""
    at, size = 0, len(data)
    if size >= _STRIPE.size:
        lanes = [(_P1 + _P2) & _64, _P2, 0, -_P1 & _64]
        while at + _STRIPE.size <= size:
            lanes = [_round(lane, word) for lane, word in zip(lanes, _STRIPE.unpack_from(data, at), strict=True)]
            at += _STRIPE.size
        hashed = sum(_rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & _64
        for lane in lanes:
            hashed = ((hashed ^ _round(0, lane)) * _P1 + _P4) & _64
    else:
        hashed = _P5
    hashed = (hashed + size) & _64
    while at + 8 <= size:
        word = int.from_bytes(data[at : at + 8], "little")
        hashed = (_rotated(hashed ^ _round(0, word), 27) * _P1 + _P4) & _64
        at += 8
    if at + 4 <= size:
        word = int.from_bytes(data[at : at + 4], "little")
        hashed = (_rotated(hashed ^ (word * _P1 & _64), 23) * _P2 + _P3) & _64
        at += 4
    for byte in data[at:]:
        hashed = _rotated(hashed ^ (byte * _P5 & _64), 11) * _P1 & _64
    hashed = (hashed ^ hashed >> 33) * _P2 & _64
    hashed = (hashed ^ hashed >> 29) * _P3 & _64
    return hashed ^ hashed >> 32


def _round(lane: int, word: int) -> int:
    return _rotated((lane + word * _P2) & _64, 31) * _P1 & _64


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _64


def _gathered(pages: Sequence[Page], rows: Sequence[int]) -> Iterator[list[Page]]:
    """Yield the pages that hold rows, those together that are read at once."""
    firsts = [page.first for page in pages]
    gathered: list[Page] = []
    last = -1
    for row in rows:
        number = bisect_right(firsts, row) - 1
        if number == last:
            continue
        last, page = number, pages[number]
        if gathered and (
            page.offset - gathered[-1].offset - gathered[-1].size > _GAP
            or page.offset + page.size - gathered[0].offset > _AT_ONCE
        ):
            yield gathered
            gathered = []
        gathered.append(page)
    if gathered:
        yield gathered


def _page(data: bytes, at: int, codec: Any, *, nullable: bool) -> tuple[bytes, int, int]:
    """Return a page's bytes, how many values it has, and where they begin."""
    try:
        header, begin = _struct(data, at)
        kind, size, stored, values = header[1], header[2], header[3], header[5]
        count, encoding = values[1], values[2]
    except (IndexError, KeyError, TypeError) as error:
        raise UnusualError(f"a page's header cannot be understood: {error!r}") from error
    if kind != _DATA_PAGE or encoding != _PLAIN:
        raise UnusualError("a page is of another kind")
    raw = data[begin : begin + stored]
    if 4 in header and zlib.crc32(raw) != header[4] & 0xFFFFFFFF:
        raise ValueError(f"the page at {at} is damaged: its checksum is wrong")
    if codec is not None:
        raw = codec.decompress(raw, size, asbytes=True)
    if not nullable:
        return raw, count, 0
    (length,) = _LENGTH.unpack_from(raw)
    if not _all_set(raw[4 : 4 + length], count):
        raise UnusualError("a value is null")
    return raw, count, 4 + length


def _all_set(levels: bytes, count: int) -> bool:
    """Return whether definition levels of one bit, in RLE, say that all values are there."""
    at = 0
    while count > 0 and at < len(levels):
        run, at = _varint(levels, at)
        if run & 1:  # bit-packed
            size = run >> 1
            bits = int.from_bytes(levels[at : at + size], "little")
            number = min(8 * size, count)
            if ~bits & ((1 << number) - 1):
                return False
            at += size
        else:
            number = run >> 1
            if not levels[at] & 1:
                return False
            at += 1
        count -= number
    return count <= 0


def _values(raw: bytes, at: int, first: int, rows: Sequence[int]) -> list[bytes]:
    found = []
    length_at = _LENGTH.unpack_from
    row = first
    for one in rows:
        while row < one:
            at += 4 + length_at(raw, at)[0]
            row += 1
        begin = at + 4
        at = begin + length_at(raw, at)[0]
        row += 1
        found.append(raw[begin:at])
    return found


def _codec(compression: str) -> Any:
    name = {"UNCOMPRESSED": None, "LZ4": "lz4_raw"}.get(compression, compression.lower())
    return name and pa.Codec(name)


def _index_places(footer: bytes, column: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the offset index of a column in each row group."""
    for at in _items(footer, *_field(footer, 0, 4)):  # FileMetaData.row_groups
        chunks = _items(footer, *_field(footer, at, 1))  # RowGroup.columns
        chunk = next(begin for number, begin in enumerate(chunks) if number == column)
        offset, length = _field(footer, chunk, 4), _field(footer, chunk, 5)
        yield _zigzag(_varint(footer, offset[1])[0]), _zigzag(_varint(footer, length[1])[0])


def _field(data: bytes, at: int, wanted: int) -> tuple[int, int]:
    """Return the type of a struct's field, and where its value begins."""
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _varint(data, at)
            number = _zigzag(number)
        if number == wanted:
            return head & 15, at
        at = _skipped(data, at, head & 15)
    raise UnusualError(f"it has no field {wanted}")


def _items(data: bytes, kind: int, at: int) -> Iterator[int]:
    """Yield where the items of a list begin."""
    if kind not in _LISTS:
        raise UnusualError("a list is none")
    count, kind, at = _list(data, at)
    for _ in range(count):
        yield at
        at = _skipped(data, at, kind)


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """Return how many items a list has, their type, and where they begin."""
    head = data[at]
    if head >> 4 < 15:
        return head >> 4, head & 15, at + 1
    count, at = _varint(data, at + 1)
    return count, head & 15, at


def _skipped(data: bytes, at: int, kind: int) -> int:
    """Return where a value ends."""
    if kind in _INTS:
        while data[at] & 0x80:
            at += 1
        return at + 1
    if kind == _BINARY:
        length, at = _varint(data, at)
        return at + length
    if kind == _STRUCT:
        while head := data[at]:
            at += 1
            if not head >> 4:
                _, at = _varint(data, at)
            if head & 15 not in _BOOLS:
                at = _skipped(data, at, head & 15)
        return at + 1
    if kind in _LISTS:
        count, kind, at = _list(data, at)
        for _ in range(count):
            at = _skipped(data, at, kind)
        return at
    if kind == _DOUBLE:
        return at + 8
    if kind in (*_BOOLS, 3):  # in a list, they take a byte
        return at + 1
    raise UnusualError(f"it has a field of the type {kind}")


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct by their numbers, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _varint(data, at)
            number = _zigzag(number)
        kind = head & 15
        if kind in _BOOLS:
            fields[number] = kind == 1
        else:
            fields[number], at = _value(data, at, kind)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in _INTS:
        value, at = _varint(data, at)
        return _zigzag(value), at
    if kind == _STRUCT:
        return _struct(data, at)
    if kind in _LISTS:
        count, kind, at = _list(data, at)
        items = []
        for _ in range(count):
            item, at = _value(data, at, kind)
            items.append(item)
        return items, at
    end = _skipped(data, at, kind)
    return data[at:end], end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _zigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)
