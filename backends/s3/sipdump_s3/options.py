"""The options of the S3 backend."""

import re

import attrs

from sipdump_core.settings.options import a_size, at_least, in_range, one_of, option
from sipdump_s3.keys import check_path, check_template

__all__ = ["S3Options", "check_node"]


def _bucket(value: str) -> str | None:
    # botocore's own rule; an ARN is left to it
    if value.startswith("arn:") or re.fullmatch(r"[A-Za-z0-9._-]{0,255}", value):
        return None
    return 'must be the name alone, as "calls"; what keys begin with goes into prefix'


def check_node(value: str) -> str | None:
    """Return None for a good name of a collector, else what is allowed."""
    # these alone make the same partition value in every engine
    if re.fullmatch(r"[A-Za-z0-9._-]*", value) and value not in (".", ".."):
        return None
    return "must consist of letters, digits, dot, dash and underscore"


def _url(value: str) -> str | None:
    return None if re.fullmatch(r"(https?://[^/\s]+.*)?", value) else 'must begin with "https://" or "http://"'


def _spool_max(value: int) -> str | None:
    return None if value == 0 or value >= 1 << 20 else "must be 0 (no limit), or 1048576 or more"


@attrs.frozen
class S3Options:
    """Options of the S3 backend. Credentials are found by boto3: environment, shared files, the machine's role."""

    bucket: str = option("", help="the bucket for the segments; it must exist", check=_bucket)
    prefix: str = option("", help="what all keys begin with, without a trailing slash", check=check_path)
    region: str = option("", help="the bucket's region; by default what boto3 finds")
    endpoint_url: str = option("", help="the address of a server other than AWS", check=_url)
    addressing: str = option(
        "auto",
        help="where requests have the bucket's name: path, virtual (host name) or auto",
        check=one_of("auto", "path", "virtual"),
    )
    node: str = option("", help="names this collector in the keys; by default the node of sipdump", check=check_node)
    format: str = option(
        "parquet", help="the backend of files that makes the segments: parquet, pcap, text or another's"
    )
    key: str = option(
        "node={node}/date={date}/hour={hour}/{file}",
        help="layout of the keys below prefix, of {node}, {date}, {hour} (UTC) and {file}",
        check=check_template,
    )
    spool: str = option("", help="the folder of segments that S3 has not confirmed; by default s3-spool in folder")
    spool_max_bytes: int = option(
        10 << 30, unit="bytes", help="how much may wait in the spool; 0: no limit", check=_spool_max
    )
    spool_full: str = option(
        "drop_oldest",
        help="when the spool is full: drop_oldest (segments, counted), or stop (taking records)",
        check=one_of("drop_oldest", "stop"),
    )
    max_bytes: str = option(
        "", help='how much this collector\'s objects may take, as "500G"; then the oldest go', check=a_size
    )
    checksum: str = option(
        "sha256",
        help="the checksum that the server verifies: sha256, crc32, md5 (Content-MD5) or none",
        check=one_of("sha256", "crc32", "md5", "none"),
    )
    part_bytes: int = option(
        16 << 20,
        unit="bytes",
        help="larger segments are uploaded in parts of this size; one part is held in memory",
        check=in_range(5 << 20, 5 << 30),
    )
    storage_class: str = option("", help='storage class of the objects, as "STANDARD_IA"')
    sse: str = option(
        "",
        help="encryption by the server: AES256, aws:kms or aws:kms:dsse",
        check=one_of("", "AES256", "aws:kms", "aws:kms:dsse"),
    )
    sse_kms_key_id: str = option("", help="the key of aws:kms")
    timeout: int = option(
        30, unit="seconds", help="give up on a server that is silent for this long", check=at_least(1)
    )
    retry_max: int = option(120, unit="seconds", help="the longest wait between two tries", check=at_least(1))
    stop_wait: int = option(
        10, unit="seconds", help="how long the daemon waits for uploads at its end", check=in_range(0, 25)
    )
