"""The S3 backend."""

from sipdump_core.backend import Backend

__all__ = ["S3Backend"]


class S3Backend(Backend):
    """Ships sealed segments to a bucket."""

    name = "s3"
    flag = 32
    requires = ("boto3",)
