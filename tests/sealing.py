"""Sealing in the process of the test, which then can look at it, and need not wait for another one to start."""

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.capabilities import Recovered
from sipdump_core.segment import Segment
from sipdump_parquet.options import ParquetOptions

__all__ = ["Here"]


class Here:
    """Has the work of a ``Child`` done by a ``Worker`` of this process, made when there is work."""

    def __init__(self, options: ParquetOptions, site: Site) -> None:
        from sipdump_parquet.worker import Worker

        self._worker = Worker(options, site)

    def take(self, path: str, size: int) -> int:
        return self._worker.take(path, size)

    def seal(self, segment: Segment, *, own: bool) -> Recovered | None:
        return self._worker.seal(segment, own=own)

    def close(self) -> None:
        self._worker.close()

    def forget(self) -> None:
        pass
