"""The Parquet backend."""

from sipdump_core.folder import FolderBackend

__all__ = ["ParquetBackend"]


class ParquetBackend(FolderBackend):
    """Writes and reads ``.parquet`` files."""

    name = "parquet"
    flag = 16
    suffix = ".parquet"
    requires = ("pyarrow",)
