"""The S3 backend: ships the sealed segments of any backend of files to a bucket."""

from sipdump_s3.backend import S3Backend
from sipdump_s3.options import S3Options

__all__ = ["S3Backend", "S3Options"]
