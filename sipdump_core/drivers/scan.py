"""Looking for literals in a file without decoding it, for the ``search`` of backends of files.

The file is read by pread into one small buffer that stays in the processor's cache. That is faster than mapped memory,
which costs a page fault for every few pages; and a file that is cut meanwhile ends early, where mapped memory would
raise SIGBUS.
"""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

__all__ = ["FEW", "FileScan", "Literals", "Section"]

FEW = 12
"""Looking for more literals than this costs more than decoding."""
_WINDOW = 1 << 18
_ABSENT = 1 << 62


class FileScan:
    """A file, as long as it was when it was opened; what is appended later is not seen.

    Args:
        path: the file; links are followed.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size
        """Bytes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes of a range; less at the end, and where the file was cut meanwhile."""
        end = min(end, self.size)
        return os.pread(self._fd, end - start, start) if start < end else b""

    def fill(self, buffer: memoryview, start: int) -> int:
        """Read into a buffer from an offset on, until it is full or the file ends; return the number of bytes."""
        want = min(len(buffer), self.size - start)
        done = 0
        while done < want:
            count = os.preadv(self._fd, [buffer[done:want]], start + done)
            if not count:
                break
            done += count
        return done


class Literals:
    """Finds the places of some literals, from the file's start to its end.

    Args:
        scan: the file.
        literals: byte strings, none of them empty.
        end: what goes beyond this offset does not count.
    """

    def __init__(self, scan: FileScan, literals: Sequence[bytes], end: int) -> None:
        self._scan = scan
        self._literals = literals
        self._end = min(end, scan.size)
        self._overlap = max(map(len, literals)) - 1
        self._buffer = bytearray(_WINDOW + self._overlap)
        self._view = memoryview(self._buffer)
        self._start = self._fill = self._stop = 0
        """The window: its offset, its length, and up to where literals may begin in it."""
        self._places: dict[bytes, int] = {}
        """Where each literal is next, in the window; at or behind the place it was last looked for from."""

    def next(self, at: int) -> int:
        """Return the offset of the first literal that begins at or behind an offset; -1 where there is none.

        Args:
            at: not before that of an earlier call.
        """
        while True:
            if at >= self._stop:
                if at >= self._end:
                    return -1
                self._load(at)
            place = min(self._place(literal, at - self._start) for literal in self._literals)
            if place != _ABSENT:
                return self._start + place
            at = self._stop

    def _load(self, at: int) -> None:
        self._start = at
        self._fill = self._scan.fill(self._view[: self._end - at], at)
        whole = self._fill == len(self._buffer)
        self._stop = at + self._fill - self._overlap if whole else self._end  # there is no more where it is not whole
        self._places.clear()

    def _place(self, literal: bytes, at: int) -> int:
        place = self._places.get(literal, -1)
        if place < at:
            place = self._buffer.find(literal, at, self._fill)
            self._places[literal] = place = _ABSENT if place < 0 else place
        return place


class Section:
    """A range of a file, to be read as a file is.

    Args:
        scan: the file.
        start: offset.
        end: offset.
        step: bytes that are read at once, at most.
    """

    def __init__(self, scan: FileScan, start: int, end: int, step: int = 1 << 20) -> None:
        self._scan = scan
        self._at = start
        self._end = end
        self._step = step

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        data = self._scan.read(self._at, min(self._at + min(size, self._step), self._end))
        self._at += len(data)
        return data
