"""The redact filter (flag 128): takes secrets and users out of messages before anything is stored."""

from sipdump_redact.filter import RedactFilter, RedactOptions

__all__ = ["RedactFilter", "RedactOptions"]
