"""boto3's client, as sipdump wants it: quick to make, with no retries and no additions of its own."""

import base64
import copy
import hashlib
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.hooks import HierarchicalEmitter
from botocore.loaders import create_loader

from sipdump_s3.options import S3Options

__all__ = ["make_client"]

# One for all sessions: reading S3's description, and registering botocore's handlers, takes longer than a request.
_LOADER = create_loader()
_HANDLERS = HierarchicalEmitter()
botocore.session.Session(event_hooks=_HANDLERS)  # registers them there


def make_client(options: S3Options) -> Any:
    """Return a client, which reads credentials now and connects when it is used.

    Raises:
        errors.RAISED: the options or boto3's own configuration do not fit.
    """
    config = Config(
        connect_timeout=options.timeout,
        read_timeout=options.timeout,
        retries={"total_max_attempts": 1},
        # else boto3 adds sums and trailers of its own, which S3-compatible servers may not know
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": options.addressing},
    )
    session = botocore.session.Session(event_hooks=copy.copy(_HANDLERS), include_builtin_handlers=False)
    session.register_component("data_loader", _LOADER)
    client = boto3.session.Session(botocore_session=session).client(
        "s3", region_name=options.region or None, endpoint_url=options.endpoint_url or None, config=config
    )
    # S3-compatible servers ask for it, and boto3 no longer sends it
    client.meta.events.register("before-sign.s3.DeleteObjects", _add_content_md5)
    return client


def _add_content_md5(request: Any, **_: Any) -> None:
    body = request.body if isinstance(request.body, bytes) else request.body.encode()
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()
