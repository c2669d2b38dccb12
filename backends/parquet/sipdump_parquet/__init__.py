"""The Parquet backend: ``.parquet`` files, sorted for search, made of a write-ahead file that survives any crash."""

from sipdump_parquet.backend import ParquetBackend

__all__ = ["ParquetBackend"]
