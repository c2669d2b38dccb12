"""A bucket: as much of S3 as is needed here, over boto3. Whatever boto3 raises leaves it as an :class:`S3Error`.

Nothing is retried here, by boto3 neither: the shipper does that, who knows what else waits.
"""

import base64
import copy
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import attrs
import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    TokenRetrievalError,
)
from botocore.hooks import HierarchicalEmitter
from botocore.loaders import create_loader

from sipdump_core.errors import SegmentExistsError, StorageError, kind_and_text
from sipdump_core.log import Event, log
from sipdump_s3.options import S3Options

__all__ = ["Bucket", "Content", "Found", "Part", "S3Error"]

DELETE_AT_ONCE = 1000  # what DeleteObjects takes
_MAX_PARTS = 10_000
_CHUNK = 1 << 20
# One for all sessions: reading S3's description, and registering botocore's handlers, takes longer than a request.
_LOADER = create_loader()
_HANDLERS = HierarchicalEmitter()
botocore.session.Session(event_hooks=_HANDLERS)  # registers them there
_HASH = "sipdump-sha256"
_CHECKSUMS = {"sha256": "ChecksumSHA256", "crc32": "ChecksumCRC32", "md5": "ContentMD5"}

# What S3 and its likes answer: for each state its codes, and what the operator can do.
_STATES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("bucket missing", "create the bucket, or correct bucket, region and endpoint_url", ("NoSuchBucket",)),
    (
        "access denied",
        "grant the permissions that docs/s3.md lists; without s3:ListBucket a missing key looks like this too",
        ("AccessDenied", "AllAccessDisabled", "AccountProblem", "403"),
    ),
    (
        "credentials expired",
        "renew them; they are read afresh before each try",
        ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"),
    ),
    (
        "credentials refused",
        "the server does not know this access key; credentials are read afresh before each try",
        ("InvalidAccessKeyId", "InvalidToken", "InvalidClientTokenId", "UnrecognizedClientException", "401"),
    ),
    (
        "wrong secret",
        "correct the secret key; credentials are read afresh before each try",
        ("SignatureDoesNotMatch", "InvalidSignature"),
    ),
    ("wrong region", "set region to the bucket's", ("PermanentRedirect", "AuthorizationHeaderMalformed", "301")),
    ("clock skew", "set this machine's clock, as by NTP", ("RequestTimeTooSkewed",)),
    (
        "server busy",
        "nothing: the daemon tries again, more and more slowly",
        (
            "SlowDown", "ServiceUnavailable", "InternalError", "Throttling", "ThrottlingException", "TooManyRequests",
            "RequestLimitExceeded", "429", "500", "502", "503", "504",
        ),
    ),
    ("server slow", "raise timeout if the line is slow", ("RequestTimeout", "408")),
    (
        "checksum mismatch",
        "look for a fault in the network or the memory if it comes again",
        ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
    ),
    (
        "too large",
        "lower part_bytes, or rotate_size, below what the server takes",
        ("EntityTooLarge", "MaxMessageLengthExceeded", "RequestEntityTooLarge", "413"),
    ),
)  # fmt: skip
_BY_CODE = {code: (state, hint) for state, hint, codes in _STATES for code in codes}
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_UNKNOWN_HEADER = ("NotImplemented", "InvalidArgument", "InvalidRequest", "501")
_UNREACHABLE = "look at the network, the name server, endpoint_url and the server; the daemon tries again"
_NO_S3 = "look at endpoint_url: what answers there may be no S3 server"
_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the machine's role"


class S3Error(StorageError):
    """A server refused an operation, or did not answer.

    Args:
        operation: what was tried, as ``"upload"``.
        target: the address of the object or the bucket.
        reason: what the server answered.
        hint: what the operator can do.
        state: the kind of trouble in a word or two, as ``"access denied"``.
        code: the server's own code, empty where it did not answer.
    """

    def __init__(
        self, operation: str, target: str, reason: str, hint: str = "", state: str = "", code: str = ""
    ) -> None:
        super().__init__(operation, target, reason, hint)
        self.state = state
        self.code = code

    @property
    def of_one(self) -> bool:
        """Say whether it concerns one object, so that others may succeed."""
        return self.state in ("checksum mismatch", "too large", "refused")

    @property
    def of_credentials(self) -> bool:
        """Say whether other credentials may help."""
        return self.state in (
            "no credentials",
            "credentials expired",
            "credentials refused",
            "wrong secret",
            "access denied",
        )


class Part(NamedTuple):
    """A piece of a file."""

    offset: int
    length: int
    md5: bytes
    checksum: str
    """What is sent for the server to verify, in base64; empty for none."""


@attrs.frozen
class Content:
    """What a file holds, told by its sums."""

    sha256: str
    size: int
    parts: Sequence[Part]
    checksum: str
    """The kind of the parts' checksums, as the option has it."""

    @classmethod
    def of(cls, file: BinaryIO, part_bytes: int, checksum: str) -> "Content":
        """Read a file through, once.

        Raises:
            OSError: it cannot be read.
        """
        size = file.seek(0, io.SEEK_END)
        part_bytes = max(part_bytes, -(-size // _MAX_PARTS))
        whole = hashlib.sha256()
        parts = []
        for offset in range(0, size, part_bytes) or (0,):
            file.seek(offset)
            left = length = min(part_bytes, size - offset)
            sums = _Sums(checksum)
            while left:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    raise OSError(f"the file got shorter than its {size} bytes while it was read")
                whole.update(chunk)
                sums.update(chunk)
                left -= len(chunk)
            parts.append(Part(offset, length, sums.md5.digest(), sums.encoded()))
        return cls(whole.hexdigest(), size, parts, checksum)

    @property
    def etag(self) -> str:
        """The ETag that S3 gives: the MD5, or that of the parts' MD5s with their number."""
        if len(self.parts) == 1:
            return self.parts[0].md5.hex()
        joined = b"".join(part.md5 for part in self.parts)
        return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(self.parts)}"

    @property
    def composite(self) -> str:
        """The checksum that S3 computes of the whole: of the one part, or of the parts' checksums with their number."""
        if len(self.parts) == 1:
            return self.parts[0].checksum
        sums = _Sums(self.checksum)
        sums.update(b"".join(base64.b64decode(part.checksum) for part in self.parts))
        return f"{sums.encoded()}-{len(self.parts)}"


class _Sums:
    def __init__(self, checksum: str) -> None:
        self._kind = checksum
        self.md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._crc32 = 0

    def update(self, data: bytes) -> None:
        self.md5.update(data)
        if self._kind == "sha256":
            self._sha256.update(data)
        elif self._kind == "crc32":
            self._crc32 = zlib.crc32(data, self._crc32)

    def encoded(self) -> str:
        digests = {"sha256": self._sha256.digest(), "crc32": self._crc32.to_bytes(4), "md5": self.md5.digest()}
        return base64.b64encode(digests.get(self._kind, b"")).decode()


@attrs.frozen
class Found:
    """An object as HEAD tells of it."""

    size: int
    etag: str
    """Empty where it is no MD5, as with keys of KMS."""
    checksum: str
    """What the server computed, of the kind that is sent; empty where it tells none."""
    metadata: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """What the metadata say of the content; empty where they do not."""
        return self.metadata.get(_HASH, "")

    def claims(self, content: Content) -> bool:
        """Say whether this object was meant to hold that content."""
        if self.sha256:
            return self.sha256 == content.sha256
        return self.size == content.size and self.etag == content.etag  # a server that keeps no metadata

    def holds(self, content: Content) -> bool:
        """Say whether it does hold it, by all that the server tells."""
        if self.size != content.size:
            return False
        if content.checksum == "none":
            return True
        # a sum of another form is of an upload in other parts
        etags_differ = _same_form(self.etag, content.etag) and self.etag != content.etag
        sums_differ = _same_form(self.checksum, content.composite) and self.checksum != content.composite
        return not (etags_differ or sums_differ)


class Bucket:
    """One bucket.

    Args:
        options: the backend's options.
    """

    def __init__(self, options: S3Options) -> None:
        self._opts = options
        self._made: Any = None
        self._conditional = True
        self._batches = True

    def disconnect(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._made is not None:
            self._made.close()

    def address(self, key: str) -> str:
        """Give the address of an object, for people."""
        return f"s3://{self._opts.bucket}/{key}"

    def head(self, key: str) -> Found | None:
        """Look at an object; None where there is none.

        Raises:
            S3Error: the server refuses or does not answer.
        """
        mode = {"ChecksumMode": "ENABLED"} if self._opts.checksum in ("sha256", "crc32") else {}
        try:
            with self._translated("look at", key):
                found = self._client().head_object(Bucket=self._opts.bucket, Key=key, **mode)
                size, etag = int(found["ContentLength"]), _unquoted(found["ETag"])
        except S3Error as error:
            if error.code in ("404", "NoSuchKey", "NotFound"):
                return None
            if error.code.isdigit():  # the answer to HEAD has no body that would say why; that of a listing has
                with self._translated("look at", key):
                    self._client().list_objects_v2(Bucket=self._opts.bucket, Prefix=key, MaxKeys=1)
            raise
        encrypted = found.get("ServerSideEncryption", "").startswith("aws:kms")
        return Found(
            size,
            "" if encrypted else etag,
            found.get(_CHECKSUMS.get(self._opts.checksum, ""), ""),
            {name.lower(): value for name, value in found.get("Metadata", {}).items()},
        )

    def put(self, key: str, body: bytes, content: Content, metadata: Mapping[str, str]) -> None:
        """Store an object at once, never over another one where the server knows the condition.

        Raises:
            SegmentExistsError: the key is taken.
            S3Error: the server refuses or does not answer.
        """

        def put(**condition: str) -> None:
            self._client().put_object(
                Bucket=self._opts.bucket, Key=key, Body=io.BytesIO(body), **self._attributes(content, metadata),
                **self._sum(content.parts[0]), **condition,
            )  # fmt: skip

        self._if_none("upload", key, put)

    def begin(self, key: str, content: Content, metadata: Mapping[str, str]) -> str:
        """Begin an upload in parts, and give its id."""
        algorithm = {"ChecksumAlgorithm": content.checksum.upper()} if content.checksum in ("sha256", "crc32") else {}
        with self._translated("begin upload", key):
            begun = self._client().create_multipart_upload(
                Bucket=self._opts.bucket, Key=key, **self._attributes(content, metadata), **algorithm
            )
            return str(begun["UploadId"])

    def put_part(self, key: str, upload: str, number: int, body: bytes, part: Part) -> str:
        """Upload one part, from 1 on, and give its ETag.

        Raises:
            S3Error: also where the server's sums of it are not ours.
        """
        with self._translated("upload part", key):
            answer = self._client().upload_part(
                Bucket=self._opts.bucket, Key=key, UploadId=upload, PartNumber=number, Body=io.BytesIO(body),
                **self._sum(part),
            )  # fmt: skip
            etag = str(answer["ETag"])
        encrypted = answer.get("ServerSideEncryption", "").startswith("aws:kms")
        checksum = answer.get(_CHECKSUMS.get(self._opts.checksum, ""), "")
        if not self._agrees(part, "" if encrypted else etag, checksum):
            raise self._mismatch("upload part", key, f"part {number} arrived changed")
        return etag

    def parts(self, key: str, upload: str) -> dict[int, tuple[int, str, str]] | None:
        """Give the parts that an upload has: size, ETag and checksum by number; None where it is gone."""
        kind = _CHECKSUMS.get(self._opts.checksum, "")
        found = {}
        try:
            with self._translated("list parts", key):
                pages = self._client().get_paginator("list_parts")
                for page in pages.paginate(Bucket=self._opts.bucket, Key=key, UploadId=upload):
                    for part in page.get("Parts", ()):
                        found[int(part["PartNumber"])] = (int(part["Size"]), str(part["ETag"]), str(part.get(kind, "")))
        except S3Error as error:
            if error.code == "NoSuchUpload":
                return None
            raise
        return found

    def is_whole(self, part: Part, stored: tuple[int, str, str] | None) -> bool:
        """Say whether a part that an upload has is this one."""
        return stored is not None and stored[0] == part.length and self._agrees(part, stored[1], stored[2])

    def complete(self, key: str, upload: str, etags: Sequence[str], content: Content) -> None:
        """Make an object of the parts of an upload, never over another one where the server knows the condition.

        Raises:
            SegmentExistsError: the key is taken.
            S3Error: the server refuses or does not answer.
        """
        kind = _CHECKSUMS[content.checksum] if content.checksum in ("sha256", "crc32") else ""
        parts: list[dict[str, Any]] = []
        for number, (etag, part) in enumerate(zip(etags, content.parts, strict=True), 1):
            parts.append({"PartNumber": number, "ETag": etag, **({kind: part.checksum} if kind else {})})

        def complete(**condition: str) -> None:
            self._client().complete_multipart_upload(
                Bucket=self._opts.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
            )

        self._if_none("complete upload", key, complete)

    def abort(self, key: str, upload: str) -> None:
        """Give up an upload in parts; one that is gone is no error."""
        try:
            with self._translated("abort upload", key):
                self._client().abort_multipart_upload(Bucket=self._opts.bucket, Key=key, UploadId=upload)
        except S3Error as error:
            if error.code not in ("NoSuchUpload", "404"):
                raise

    def uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Give key and id of every upload in parts that is under way."""
        with self._translated("list uploads", prefix):
            pages = self._client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._opts.bucket, Prefix=prefix):
                for upload in page.get("Uploads", ()):
                    yield upload["Key"], upload["UploadId"]

    def list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """Give key, size in bytes and time of upload in seconds since the epoch of every object, page by page."""
        pages: Iterator[Any] = iter(())
        with self._translated("list", prefix):
            pages = iter(
                self._client().get_paginator("list_objects_v2").paginate(Bucket=self._opts.bucket, Prefix=prefix)
            )
        while True:
            with self._translated("list", prefix):
                page = next(pages, None)
                if page is None:
                    return
                page["IsTruncated"]  # it is in every listing; without it the answer is of something else
            for found in page.get("Contents", ()):
                yield found["Key"], int(found["Size"]), found["LastModified"].timestamp()

    def delete(self, keys: Sequence[str]) -> Iterator[tuple[str, S3Error | None]]:
        """Delete objects, up to 1,000 with one request, and give for each why it is still there."""
        for at in range(0, len(keys), DELETE_AT_ONCE):
            some = keys[at : at + DELETE_AT_ONCE]
            if self._batches and len(some) > 1:
                try:
                    yield from self._delete_batch(some)
                    continue
                except S3Error as error:
                    if error.code not in ("NotImplemented", "501"):
                        yield from ((key, error) for key in some)
                        continue
                    self._batches = False
            for key in some:
                try:
                    with self._translated("delete", key):
                        self._client().delete_object(Bucket=self._opts.bucket, Key=key)
                except S3Error as error:
                    yield key, None if error.code == "NoSuchKey" else error
                else:
                    yield key, None

    def get(self, key: str, file: BinaryIO) -> Found:
        """Download an object into a file, and verify that it is what was once uploaded.

        Raises:
            S3Error: also where the content is not what the metadata say.
            OSError: the file cannot be written.
        """
        whole = hashlib.sha256()
        with self._translated("download", key):
            answer = self._client().get_object(Bucket=self._opts.bucket, Key=key)
            expected, opened = int(answer["ContentLength"]), answer["Body"]
        size = 0
        with opened as body:
            while True:
                with self._translated("download", key):
                    chunk = body.read(_CHUNK)
                if not chunk:
                    break
                whole.update(chunk)
                size += len(chunk)
                file.write(chunk)
        file.flush()
        found = Found(expected, "", "", {k.lower(): v for k, v in answer.get("Metadata", {}).items()})
        if size != found.size or found.sha256 not in ("", whole.hexdigest()):
            raise self._mismatch("download", key, "what came is not what was uploaded")
        return found

    def _delete_batch(self, keys: Sequence[str]) -> Iterator[tuple[str, S3Error | None]]:
        with self._translated("delete", keys[0]):
            answer = self._client().delete_objects(
                Bucket=self._opts.bucket, Delete={"Objects": [{"Key": key} for key in keys]}
            )
        deleted = {entry.get("Key") for entry in answer.get("Deleted", ())}
        refused = {entry.get("Key"): entry for entry in answer.get("Errors", ())}
        for key in keys:
            if key in refused and refused[key].get("Code") != "NoSuchKey":
                yield key, self._error("delete", key, str(refused[key].get("Code")), str(refused[key].get("Message")))
            elif key in deleted or key in refused:
                yield key, None
            else:
                yield key, self._error("delete", key, "", "the server did not say what became of it")

    def _client(self) -> Any:
        if self._made is None:
            opts = self._opts
            config = Config(
                connect_timeout=opts.timeout,
                read_timeout=opts.timeout,
                retries={"total_max_attempts": 1},
                # else boto3 adds sums and trailers of its own, which S3-compatible servers may not know
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": opts.addressing},
            )
            session = botocore.session.Session(event_hooks=copy.copy(_HANDLERS), include_builtin_handlers=False)
            session.register_component("data_loader", _LOADER)
            self._made = boto3.session.Session(botocore_session=session).client(
                "s3", region_name=opts.region or None, endpoint_url=opts.endpoint_url or None, config=config
            )
            # S3-compatible servers ask for it, and boto3 sends it no more
            self._made.meta.events.register("before-sign.s3.DeleteObjects", _add_content_md5)
        return self._made

    def _attributes(self, content: Content, metadata: Mapping[str, str]) -> dict[str, Any]:
        opts = self._opts
        given = {
            "StorageClass": opts.storage_class,
            "ServerSideEncryption": opts.sse,
            "SSEKMSKeyId": opts.sse_kms_key_id,
        }
        return {
            "Metadata": {**metadata, _HASH: content.sha256},
            "ContentType": "application/octet-stream",
            **{name: value for name, value in given.items() if value},
        }

    def _sum(self, part: Part) -> dict[str, str]:
        kind = _CHECKSUMS.get(self._opts.checksum)
        return {kind: part.checksum} if kind else {}

    def _agrees(self, part: Part, etag: str, checksum: str) -> bool:
        if self._opts.checksum == "none":
            return True
        etag = "" if self._opts.sse.startswith("aws:kms") else _unquoted(etag)
        return etag in ("", part.md5.hex()) and checksum in ("", part.checksum)

    def _if_none(self, operation: str, key: str, send: Callable[..., None]) -> None:
        """Send with the condition that the key is free; without it to a server that does not know it."""
        if self._conditional:
            try:
                with self._translated(operation, key):
                    send(IfNoneMatch="*")
            except S3Error as error:
                if error.code in _TAKEN:
                    raise SegmentExistsError(operation, self.address(key), error.reason) from error
                if error.code not in _UNKNOWN_HEADER:
                    raise
            else:
                return
        with self._translated(operation, key):
            send()
        if self._conditional:
            self._conditional = False
            log.warning(Event("server knows no conditional put; keys are looked at before", bucket=self._opts.bucket))

    @contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        """Translate what boto3 raises: the one place where that is done."""
        try:
            yield
        except ClientError as error:
            answer = error.response.get("Error", {})
            code = str(answer.get("Code", ""))
            kind = ""
            if code not in _BY_CODE:  # one of the server's own: its status tells the kind
                status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
                kind = status if status in _BY_CODE and status not in ("403", "408") else ""
            raise self._renewing(self._error(operation, key, code, str(answer.get("Message", "")), kind)) from error
        except (BotoCoreError, ValueError, OSError) as error:  # the last as of a certificate file that is not there
            state, hint = _state_of(error)
            raise self._renewing(S3Error(operation, self.address(key), str(error), hint, state)) from error
        except (LookupError, TypeError, AttributeError, RecursionError) as error:  # what boto3 makes of no S3 server
            reason = f"the answer is none of S3: {kind_and_text(error)}"
            raise S3Error(operation, self.address(key), reason, _NO_S3, "misconfigured") from error

    def _renewing(self, error: S3Error) -> S3Error:
        """Have credentials read afresh before the next try, where others may help."""
        if error.of_credentials:
            self.disconnect()
            self._made = None
        return error

    def _error(self, operation: str, key: str, code: str, message: str, kind: str = "") -> S3Error:
        state, hint = _BY_CODE.get(kind or code, ("refused", "" if message else _NO_S3))
        reason = ": ".join(filter(None, [code, message])) or "no reason given"
        return S3Error(operation, self.address(key), reason, hint, state, code)

    def _mismatch(self, operation: str, key: str, reason: str) -> S3Error:
        state, hint = _BY_CODE["BadDigest"]
        return S3Error(operation, self.address(key), reason, hint, state)


def _state_of(error: Exception) -> tuple[str, str]:
    """Give state and hint of what boto3 raises where there is no answer of the server."""
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError)):
        return "no credentials", _NO_CREDENTIALS
    if isinstance(error, (ConnectTimeoutError, ReadTimeoutError)):
        return "server slow", "the server is silent for longer than timeout; the daemon tries again"
    if isinstance(error, EndpointConnectionError):
        return "unreachable", _UNREACHABLE
    if isinstance(error, (HTTPClientError, IncompleteReadError, ResponseStreamingError)):
        return "connection cut", _UNREACHABLE
    return "misconfigured", "look at endpoint_url, region and the configuration of boto3"


def _same_form(one: str, other: str) -> bool:
    """Say whether two sums can be compared: both there, and of as many parts."""
    return bool(one and other) and one.partition("-")[2] == other.partition("-")[2]


def _unquoted(etag: str) -> str:
    return etag.strip('"')


def _add_content_md5(request: Any, **_: Any) -> None:
    body = request.body if isinstance(request.body, bytes) else request.body.encode()
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()
