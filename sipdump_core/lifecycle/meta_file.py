"""The ``.meta`` file beside each segment, with the text of :class:`~sipdump_core.process_table.ProcessTable`."""

import contextlib
import os
from collections.abc import Collection

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.errors import SegmentExistsError, StorageError
from sipdump_core.ownership import is_ours
from sipdump_core.segment import Segment

__all__ = ["META_SUFFIX", "claim", "create", "rewrite", "sweep"]

META_SUFFIX = ".meta"
"""What the name of such a file ends with."""
_DRAFTS = 100
"""How many names of a draft are tried, because a stranger may have taken some."""


def claim(site: Site, segment: Segment, suffixes: list[str]) -> Segment:
    """Find a name that is free under every suffix, and take it by creating its ``.meta`` file.

    Args:
        site: the folder, the text, and the file's mode.
        segment: the name to begin with; if it is taken, ``-1``, ``-2`` ... are tried.

    Returns:
        The segment that was claimed.

    Raises:
        StorageError: the file cannot be made; the segment can do without it.
    """
    while True:
        if not any(os.path.lexists(os.path.join(site.folder, segment.stem + suffix)) for suffix in suffixes):
            try:
                create(site, segment)
            except SegmentExistsError:
                pass
            else:
                return segment
        segment = segment.next()


def create(site: Site, segment: Segment) -> None:
    """Write a segment's ``.meta``, if there is none.

    Raises:
        SegmentExistsError: there is one, of another segment.
        StorageError: it cannot be written.
    """
    path = os.path.join(site.folder, segment.stem + META_SUFFIX)
    _finish(site, _create(path, site), path)


def rewrite(site: Site, segment: Segment) -> None:
    """Replace the segment's own ``.meta`` with a newer table, at once for all readers.

    Raises:
        StorageError: it cannot be written; the old one stays.
    """
    path = os.path.join(site.folder, segment.stem + META_SUFFIX)
    draft, fd = _draft(site, segment)
    try:
        os.replace(draft, path)
    except OSError as error:
        os.close(fd)
        raise StorageError.from_os("write", path, error) from error
    _finish(site, fd, path)


def sweep(folder: str, prefix: str, deleted: Collection[str], before: float) -> None:
    """Remove ``.meta`` files without a segment: those of the deleted stems, and others last written ``before``."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(folder))
    for at, name in enumerate(names):
        stem = name.removesuffix(META_SUFFIX)
        if stem == name or not name.startswith(prefix):
            continue
        beside = (*names[max(at - 1, 0) : at], *names[at + 1 : at + 2])  # sorted: another of the stem would be here
        if any(other.startswith(f"{stem}.") for other in beside) or not Segment.parse(stem, prefix, ""):
            continue
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            if is_ours(path) and (stem in deleted or os.lstat(path).st_mtime < before):
                os.unlink(path)


def _draft(site: Site, segment: Segment) -> tuple[str, int]:
    """Write the text under a name that no program looks at; return it, and the open file."""
    base = os.path.join(site.folder, f".{segment.stem}{META_SUFFIX}.{os.getpid()}")
    for number in range(_DRAFTS):
        draft = base + (f"-{number}" if number else "")
        if is_ours(draft):
            with contextlib.suppress(OSError):
                os.unlink(draft)  # left by a crash of a process with our pid
        try:
            return draft, _create(draft, site)
        except SegmentExistsError as error:
            taken = error
    raise StorageError("write", taken.target, "strangers have taken this name, and all others that were tried")


def _create(path: str, site: Site) -> int:
    """Write the text into a new file; return its descriptor."""
    mode = site.file_mode
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)
            view = memoryview(site.meta().encode())
            while view:
                view = view[os.write(fd, view) :]
        except OSError:
            os.unlink(path)
            os.close(fd)
            raise
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error
    return fd


def _finish(site: Site, fd: int, path: str) -> None:
    """Close a file; where the site says so, sync it before, in the background."""
    if site.sync:
        SYNCER.hand_over(fd, path)
    else:
        os.close(fd)
