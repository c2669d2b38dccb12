"""The replace step over the backend interface, for whoever takes records out of what is stored."""

from sipdump_core.drivers.base import Backend
from sipdump_core.drivers.capabilities import Rewrites, can
from sipdump_core.drivers.guard import blaming
from sipdump_core.drivers.rewriting import Change, Rewritten
from sipdump_core.errors import StorageError
from sipdump_core.segment import StoredSegment

__all__ = ["rewrite"]

_WAITS = "waiting for upload"


def rewrite(backend: Backend, stored: StoredSegment, change: Change) -> Rewritten:
    """Replace a segment by what a change makes of it.

    Raises:
        StorageError: it is still open, its backend cannot do that, or it failed.
        DriverError: the driver raises anything else.
    """
    if not (stored.sealed or stored.pending == _WAITS):
        hint = "rotate (sipdump-admin rpc sipdump.rotate), or recover what a crash left, and try again"
        raise StorageError("rewrite", stored.location or stored.segment.name, f"it is not sealed: {stored.state}", hint)
    able: object = backend
    if not can(able, Rewrites):
        reason = f"the backend {backend.name} cannot rewrite its segments"
        raise StorageError("rewrite", stored.location or stored.segment.name, reason)
    with blaming(backend, "rewrite"):
        done = able.rewrite(stored, change)
        if not isinstance(done, Rewritten):
            raise TypeError(f"rewrite() returned {done!r}")
    return done
