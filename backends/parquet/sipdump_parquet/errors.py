"""What can be wrong with a write-ahead file or a Parquet file, beside what any store has."""

from sipdump_core.errors import StorageError

__all__ = ["BusyError", "ContentError"]


class BusyError(StorageError):
    """Another process has the write-ahead file open."""


class ContentError(StorageError):
    """A file's contents cannot be handled; retrying cannot help."""
