"""The ``.meta`` file beside each segment, with the text of :class:`~sipdump_core.process_table.ProcessTable`."""

import contextlib
import os
from collections.abc import Collection

from sipdump_core.errors import SegmentExistsError, StorageError
from sipdump_core.segment import Segment

__all__ = ["META_SUFFIX", "claim", "create", "rewrite", "sweep"]

META_SUFFIX = ".meta"
"""What the name of such a file ends with."""


def claim(folder: str, segment: Segment, suffixes: list[str], text: str, mode: int) -> Segment:
    """Find a name that is free under every suffix, and take it by creating its ``.meta`` file.

    Args:
        segment: the name to begin with; if it is taken, ``-1``, ``-2`` ... are tried.

    Returns:
        The segment that was claimed.

    Raises:
        StorageError: the file cannot be made; the segment can do without it.
    """
    while True:
        if not any(os.path.lexists(os.path.join(folder, segment.stem + suffix)) for suffix in suffixes):
            try:
                create(folder, segment, text, mode)
            except SegmentExistsError:
                pass
            else:
                return segment
        segment = segment.next()


def create(folder: str, segment: Segment, text: str, mode: int) -> None:
    """Write a segment's ``.meta``, if there is none.

    Raises:
        SegmentExistsError: there is one, of another segment.
        StorageError: it cannot be written.
    """
    _create(os.path.join(folder, segment.stem + META_SUFFIX), text, mode)


def rewrite(folder: str, segment: Segment, text: str, mode: int) -> None:
    """Replace the segment's own ``.meta`` with a newer table, at once for all readers.

    Raises:
        StorageError: it cannot be written; the old one stays.
    """
    path = os.path.join(folder, segment.stem + META_SUFFIX)
    draft = os.path.join(folder, f".{segment.stem}{META_SUFFIX}.{os.getpid()}")
    with contextlib.suppress(OSError):
        os.unlink(draft)  # left by a crash of a process with our pid
    _create(draft, text, mode)
    try:
        os.replace(draft, path)
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error


def sweep(folder: str, prefix: str, deleted: Collection[str], before: float) -> None:
    """Remove ``.meta`` files without a segment: those of the deleted stems, and others last written ``before``."""
    stems: dict[str, set[str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(prefix):
                stamp, dot, suffix = name[len(prefix) :].partition(".")
                stems.setdefault(prefix + stamp, set()).add(dot + suffix)
    for stem, suffixes in stems.items():
        if suffixes == {META_SUFFIX} and Segment.parse(stem, prefix, ""):
            path = os.path.join(folder, stem + META_SUFFIX)
            with contextlib.suppress(OSError):
                if stem in deleted or os.lstat(path).st_mtime < before:
                    os.unlink(path)


def _create(path: str, text: str, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)
            view = memoryview(text.encode())
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error
