"""Caps: how much a store may take. The oldest segments go first, before the disk is full.

What counts is all that the folder has of the store, and its spools. Only sealed segments go, never what waits for its
store or for its upload, and of what is held nothing.
"""

import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import Capped, can
from sipdump_core.drivers.folder import RECORDS_XATTR, FolderBackend
from sipdump_core.drivers.guard import Guard
from sipdump_core.lifecycle import meta_file as meta
from sipdump_core.lifecycle.holds import Held, held_in
from sipdump_core.lifecycle.retention import Pruned, delete, listed
from sipdump_core.log import Event, Limit, log
from sipdump_core.segment import StoredSegment
from sipdump_core.threads import lasting

__all__ = ["Caps", "CapStats", "Limits", "Usage"]

_EVERY = 1.0
_REMOTE_EVERY = 600.0
_SETTLED = 60.0
"""Seconds beyond ``rotate`` after which a file that was not written to is not looked at again."""


@attrs.frozen
class Limits:
    """How much may be taken. All are off by default."""

    max_bytes: int = 0
    """Bytes of all files; 0: no limit."""
    min_free: int = 0
    """Bytes of the file system that must be free; 0: none."""
    min_free_share: float = 0.0
    """Which part of the file system must be free; 0: none."""

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return bool(self.max_bytes or self.min_free or self.min_free_share)


@attrs.define
class CapStats:
    """Numbers for stats."""

    used_bytes: int = 0
    """At the last look."""
    segments: int = 0
    """How many went because of a cap."""
    bytes: int = 0
    """How much they took."""
    biting: int = 0
    """1 while a cap is reached."""


class Usage:
    """How many bytes the files of some folders have, at the price of a look at what has changed.

    A folder is read only when its names have changed, and a file is looked at again only while it may grow.

    Args:
        folders: what counts: each folder, with what the names there begin with.
        grows: seconds after its last write for which a file may still grow.
        now: the time, seconds since the epoch.
    """

    def __init__(self, folders: Sequence[tuple[str, str]], grows: float, now: Callable[[], float]) -> None:
        self._folders = [_Folder(folder, prefix) for folder, prefix in folders]
        self._grows = grows
        self._now = now

    def total(self) -> int:
        """Return how many bytes there are."""
        settled = self._now() - self._grows - _SETTLED
        return sum(folder.total(settled) for folder in self._folders)


class _Folder:
    def __init__(self, path: str, prefix: str) -> None:
        self._path = path
        self._starts = (prefix, f".{prefix}")
        self._changed = -1
        self._sizes: dict[tuple[str, int], int] = {}
        self._growing: set[tuple[str, int]] = set()

    def total(self, settled: float) -> int:
        try:
            changed = os.stat(self._path).st_mtime_ns
            if changed != self._changed or time.time_ns() - changed < 2_000_000_000:  # its clock may be coarse
                self._list()
                self._changed = changed
        except OSError:
            return 0  # whoever writes there says so
        for key in list(self._growing):
            self._look(key, settled)
        return sum(self._sizes.values())

    def _list(self) -> None:
        with os.scandir(self._path) as entries:
            there = {(entry.name, entry.inode()) for entry in entries if entry.name.startswith(self._starts)}
        for gone in self._sizes.keys() - there:
            del self._sizes[gone]
            self._growing.discard(gone)
        for new in there - self._sizes.keys():
            self._sizes[new] = 0
            self._growing.add(new)

    def _look(self, key: tuple[str, int], settled: float) -> None:
        path = os.path.join(self._path, key[0])
        try:
            status = os.lstat(path)
        except OSError:
            return  # the next listing knows
        if not stat.S_ISREG(status.st_mode):
            self._growing.discard(key)
            return
        self._sizes[key] = status.st_size
        if status.st_mtime < settled or _is_sealed(path):
            self._growing.discard(key)


class Caps:
    """Deletes the oldest segments when there are too many bytes, from ``start`` to ``stop``.

    Args:
        backends: returns the backends whose segments may go.
        live: returns the backends that store now; their numbers tell when something was uploaded.
        folders: see :class:`Usage`; the first one is the store's own.
        limits: how much may be taken.
        rotate: seconds that a segment may be open.
        now: the time, seconds since the epoch.
    """

    def __init__(
        self,
        backends: Callable[[], Iterable[Backend]],
        live: Callable[[], Sequence[Backend]],
        folders: Sequence[tuple[str, str]],
        limits: Limits,
        rotate: float,
        now: Callable[[], float],
    ) -> None:
        self.stats = CapStats()
        self._backends = backends
        self._live = live
        self._folder = folders[0][0]
        self._usage = Usage(folders, rotate, now)
        self._limits = limits
        self._oldest: deque[tuple[Backend, StoredSegment]] = deque()
        self._held: dict[int, Held] = {}
        self._remote_seen: dict[str, int] = {}
        self._remote_at = 0.0
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._log = Limit()

    def start(self) -> None:
        """Look from now on, each second and when a segment is sealed."""
        if self._limits.any:
            lasting(self._run, "sipdump-caps").start()
        if any(can(backend, Capped) and backend.cap for backend in self._live()):
            lasting(self._run_remote, "sipdump-caps-remote").start()

    def wake(self) -> None:
        """Look now: a segment was sealed."""
        self._wake.set()

    def stop(self) -> None:
        """Delete no more."""
        self._stopped.set()
        self._wake.set()

    def check(self) -> None:
        """Delete the oldest sealed segments until the limits hold, or there is none left.

        Raises:
            SipDumpError: what there is cannot be listed, or the holds cannot be read.
        """
        over = self._over()
        if over <= 0:
            self.stats.biting = 0
            return
        if not self.stats.biting:
            given = {name: value for name, value in attrs.asdict(self._limits).items() if value}
            self._log.warn("bites", "a cap is reached: the oldest segments go", used=self.stats.used_bytes, **given)
        self.stats.biting = 1
        fresh = False
        while over > 0 and not self._stopped.is_set():
            if not self._oldest:
                if fresh:
                    what = "a cap is exceeded, and no sealed segment is left that may go"
                    self._log.warn("left", what, used=self.stats.used_bytes, over=over)
                    return
                self._list()
                fresh = True
                continue
            backend, stored = self._oldest.popleft()
            for pruned in delete(backend, [stored], self._held[id(backend)]):
                self._count(pruned)
                if not pruned.error:
                    over -= stored.size if pruned.is_whole else 0
            if self._limits.min_free or self._limits.min_free_share or over <= 0:
                over = self._over()

    def check_remote(self) -> None:
        """Do the same in the stores that have a cap of their own.

        Raises:
            SipDumpError: a store cannot be listed.
        """
        for backend, due, taken, cap in self._remote_due():
            what = "a cap is reached: the oldest segments go"
            self._log.warn(f"bites {backend.name}", what, backend=backend.name, used=taken, max_bytes=cap)
            for pruned in delete(backend, due, held_in(backend)):
                self._count(pruned)

    def prune(self, *, dry_run: bool = False, gone: Set[str] = frozenset()) -> Iterator[Pruned]:
        """Delete once what the limits ask for, and yield each segment when it is gone, with the limit as the reason.

        Args:
            dry_run: yield what would go, and delete nothing.
            gone: the locations of what would have gone before for another reason; with ``dry_run``.

        Raises:
            SipDumpError: what there is cannot be listed, or the holds cannot be read.
        """
        self._list()
        over = self._over()
        used = self.stats.used_bytes
        limit = "max_bytes" if self._limits.max_bytes and over == used - self._limits.max_bytes else "min_free"
        why = f"{limit}: {used} bytes are used, {over} too many"
        over -= sum(stored.size for _, stored in self._oldest if stored.location in gone)
        for backend, stored in self._oldest:
            if over <= 0:
                break
            if stored.location in gone:
                continue
            for pruned in delete(backend, [stored], self._held[id(backend)], dry_run=dry_run):
                over -= stored.size if pruned.is_whole and not pruned.error else 0
                yield attrs.evolve(pruned, why=why)
        for backend, due, taken, cap in self._remote_due(gone):
            why = f"max_bytes {cap} of {backend.name}: {taken} bytes are used"
            for pruned in delete(backend, due, held_in(backend), dry_run=dry_run):
                yield attrs.evolve(pruned, why=why)

    def _remote_due(self, gone: Set[str] = frozenset()) -> Iterator[tuple[Backend, list[StoredSegment], int, int]]:
        """Yield each backend that has too many bytes in a store of its own, what is due, how many, and its limit."""
        for backend in self._backends():
            able: object = backend
            if not (can(able, Capped) and able.cap):
                continue
            there = [stored for stored in listed(backend) if stored.sealed and stored.location not in gone]
            taken = sum(stored.size for stored in there)
            over, due = taken - able.cap, []
            for stored in sorted(there, key=_age):
                if over <= 0:
                    break
                due.append(stored)
                over -= stored.size
            if due:
                yield backend, due, taken, able.cap

    def _over(self) -> int:
        """Return by how many bytes the limits are exceeded."""
        limits = self._limits
        self.stats.used_bytes = used = self._usage.total()
        over = used - limits.max_bytes if limits.max_bytes else 0
        if limits.min_free or limits.min_free_share:
            try:
                found = os.statvfs(self._folder)
            except OSError:
                return over
            free = found.f_bavail * found.f_frsize
            wanted = max(limits.min_free, int(limits.min_free_share * found.f_blocks * found.f_frsize))
            over = max(over, wanted - free)
        return over

    def _list(self) -> None:
        """List what may go, oldest first; what fails in one backend hides no other."""
        found = []
        for backend in self._backends():
            if not isinstance(backend, FolderBackend):
                continue
            with Guard() as guard:
                there = [(backend, stored) for stored in listed(backend) if stored.sealed]
                self._held[id(backend)] = held_in(backend)
                found += there
            if guard.error:
                self._log.warn(backend.name, "segments cannot be listed", backend=backend.name, error=guard.text)
        found.sort(key=lambda pair: _age(pair[1]))
        self._oldest.extend(found)

    def _count(self, pruned: Pruned) -> None:
        if pruned.error:
            self._log.warn("delete", "segment cannot be deleted", backend=pruned.backend, error=pruned.error)
            return
        if not pruned.is_whole and not pruned.removed:
            return
        self.stats.segments += 1
        self.stats.bytes += pruned.stored.size if pruned.is_whole else 0
        what = {"backend": pruned.backend, "name": pruned.stored.segment.name, "bytes": pruned.stored.size}
        log.info(Event("segment deleted for a cap", **what))

    def _run(self) -> None:
        while not self._stopped.is_set():
            with Guard() as guard:
                self.check()
            if guard.error:
                self._log.warn("check", "caps cannot be checked", error=guard.text)
            self._sweep()
            self._wake.wait(_EVERY)
            self._wake.clear()

    def _sweep(self) -> None:
        """Remove process tables whose segments went; the pruner does that for what else is left."""
        if not self.stats.biting:
            return
        with Guard():
            for backend in self._backends():
                if isinstance(backend, FolderBackend):
                    meta.sweep(backend.site.folder, backend.site.prefix, (), time.time() - _SETTLED)
                    return

    def _run_remote(self) -> None:
        while not self._stopped.wait(_EVERY):
            seen = {backend.name: backend.stats().get("uploaded", 0) for backend in self._live()}
            late = time.monotonic() - self._remote_at > _REMOTE_EVERY
            if seen == self._remote_seen and not late:
                continue
            with Guard() as guard:
                self.check_remote()
                self._remote_seen = seen
            self._remote_at = time.monotonic()
            if guard.error:
                self._log.warn("remote", "caps cannot be checked", error=guard.text)


def _age(stored: StoredSegment) -> tuple[str, int, str]:
    segment = stored.segment
    return segment.stamp, segment.sequence, segment.suffix


def _is_sealed(path: str) -> bool:
    try:
        return bool(os.getxattr(path, RECORDS_XATTR, follow_symlinks=False))
    except OSError:
        return False
