"""Helpers of the S3 tests."""

from pathlib import Path
from typing import Any

import attrs

from sipdump_core.drivers.base import Site
from sipdump_core.segment import Segment
from sipdump_core.testing.kit import installed
from sipdump_s3 import S3Backend, S3Options
from tests.support import record

__all__ = ["PREFIX", "backend_of", "sent", "spool", "spooled", "stored"]

PREFIX = "test-"


def backend_of(endpoint: str, bucket: str, where: Path | Site, fprefix: str = PREFIX, **options: Any) -> S3Backend:
    """Make a backend that talks to a test's server, and waits for it however busy the machine is."""
    given = {"format": "text", "node": "n1", "timeout": 60, **options}
    site = where if isinstance(where, Site) else Site(str(where), fprefix)
    return S3Backend(S3Options(bucket=bucket, endpoint_url=endpoint, **given), attrs.evolve(site, make=installed))


def spool(backend: S3Backend, *bufs: bytes, second: int = 0, stamp: str = "2026-11-22--23-31") -> Path:
    """Put a segment of these messages into the spool, and give its file."""
    segment = Segment(backend.site.prefix, f"{stamp}-{second:02}", 0, backend.suffix)
    backend.open(segment)
    backend.write([record(buf) for buf in bufs or (b"x",)])
    backend.close()
    return Path(backend.spool.folder) / backend.keys.utc(segment).name


def spooled(backend: S3Backend) -> list[str]:
    """Return the names of the files in the spool, except hidden ones."""
    return sorted(path.name for path in Path(backend.spool.folder).iterdir() if not path.name.startswith("."))


def sent(backend: S3Backend) -> list[str]:
    """Ship what stands in the spool; give the addresses, and raise what went wrong first."""
    results = list(backend.ship())
    for result in results:
        if result.error:
            raise result.error
    return [result.location for result in results]


def stored(backend: S3Backend) -> list[bytes]:
    """Return every message in the bucket."""
    return [r.buf for segment in backend.segments() if segment.sealed for r in backend.read(segment)]
