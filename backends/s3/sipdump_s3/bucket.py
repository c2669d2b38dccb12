"""A bucket: as much of S3 as is needed here, over boto3. Whatever boto3 raises leaves it as an :class:`S3Error`.

Nothing is retried here, nor by boto3: the shipper does that, which knows what else waits.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from sipdump_core.errors import SegmentExistsError
from sipdump_core.log import Event, log
from sipdump_s3.client import make_client
from sipdump_s3.content import CHECKSUM_FIELDS, HASH, Content, Found, Part
from sipdump_s3.errors import RAISED, S3Error, mismatch, of_code, translate
from sipdump_s3.options import S3Options

__all__ = ["Bucket"]

DELETE_AT_ONCE = 1000  # what DeleteObjects takes
_CHUNK = 1 << 20
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_UNKNOWN_HEADER = ("NotImplemented", "InvalidArgument", "InvalidRequest", "501")


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
        """Return the address of an object, for people."""
        return f"s3://{self._opts.bucket}/{key}"

    def head(self, key: str) -> Found | None:
        """Return what the server knows of an object; None where there is none.

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
            if error.code.isdigit():  # an answer to HEAD has no body to say why; a listing has one
                with self._translated("look at", key):
                    self._client().list_objects_v2(Bucket=self._opts.bucket, Prefix=key, MaxKeys=1)
            raise
        encrypted = found.get("ServerSideEncryption", "").startswith("aws:kms")
        return Found(
            size,
            "" if encrypted else etag,
            found.get(CHECKSUM_FIELDS.get(self._opts.checksum, ""), ""),
            {name.lower(): value for name, value in found.get("Metadata", {}).items()},
        )

    def put(self, key: str, body: bytes, content: Content, metadata: Mapping[str, str]) -> None:
        """Store an object with one request, never over another one where the server knows the condition.

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
        """Begin an upload in parts, and return its id."""
        algorithm = {"ChecksumAlgorithm": content.checksum.upper()} if content.checksum in ("sha256", "crc32") else {}
        with self._translated("begin upload", key):
            begun = self._client().create_multipart_upload(
                Bucket=self._opts.bucket, Key=key, **self._attributes(content, metadata), **algorithm
            )
            return str(begun["UploadId"])

    def put_part(self, key: str, upload: str, number: int, body: bytes, part: Part) -> str:
        """Upload one part, numbered from 1, and return its ETag.

        Raises:
            S3Error: also where the server's sums differ from ours.
        """
        with self._translated("upload part", key):
            answer = self._client().upload_part(
                Bucket=self._opts.bucket, Key=key, UploadId=upload, PartNumber=number, Body=io.BytesIO(body),
                **self._sum(part),
            )  # fmt: skip
            etag = str(answer["ETag"])
        encrypted = answer.get("ServerSideEncryption", "").startswith("aws:kms")
        checksum = answer.get(CHECKSUM_FIELDS.get(self._opts.checksum, ""), "")
        if not self._agrees(part, "" if encrypted else etag, checksum):
            raise mismatch("upload part", self.address(key), f"part {number} arrived changed")
        return etag

    def parts(self, key: str, upload: str) -> dict[int, tuple[int, str, str]] | None:
        """Return the parts that an upload has, as size, ETag and checksum by number; None where it is gone."""
        kind = CHECKSUM_FIELDS.get(self._opts.checksum, "")
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
        """Return whether a part that an upload has is this one."""
        return stored is not None and stored[0] == part.length and self._agrees(part, stored[1], stored[2])

    def complete(self, key: str, upload: str, etags: Sequence[str], content: Content) -> None:
        """Make an object of an upload's parts, never over another one where the server knows the condition.

        Raises:
            SegmentExistsError: the key is taken.
            S3Error: the server refuses or does not answer.
        """
        kind = CHECKSUM_FIELDS[content.checksum] if content.checksum in ("sha256", "crc32") else ""
        parts: list[dict[str, Any]] = []
        for number, (etag, part) in enumerate(zip(etags, content.parts, strict=True), 1):
            parts.append({"PartNumber": number, "ETag": etag, **({kind: part.checksum} if kind else {})})

        def complete(**condition: str) -> None:
            self._client().complete_multipart_upload(
                Bucket=self._opts.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
            )

        self._if_none("complete upload", key, complete)

    def abort(self, key: str, upload: str) -> None:
        """Abort an upload in parts; one that is gone is not an error."""
        try:
            with self._translated("abort upload", key):
                self._client().abort_multipart_upload(Bucket=self._opts.bucket, Key=key, UploadId=upload)
        except S3Error as error:
            if error.code not in ("NoSuchUpload", "404"):
                raise

    def uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield key and id of every upload in parts that is under way."""
        with self._translated("list uploads", prefix):
            pages = self._client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._opts.bucket, Prefix=prefix):
                for upload in page.get("Uploads", ()):
                    yield upload["Key"], upload["UploadId"]

    def list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """Yield key, size in bytes and time of upload (seconds since the epoch) of every object, page by page."""
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
                page["IsTruncated"]  # every listing has it; without it the answer is not one
            for found in page.get("Contents", ()):
                yield found["Key"], int(found["Size"]), found["LastModified"].timestamp()

    def delete(self, keys: Sequence[str]) -> Iterator[tuple[str, S3Error | None]]:
        """Delete objects, up to 1,000 with one request, and yield for each None, or why it is still there."""
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
            S3Error: also where the content differs from what the metadata say.
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
            raise mismatch("download", self.address(key), "what came is not what was uploaded")
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
                code, message = (str(refused[key].get(name)) for name in ("Code", "Message"))
                yield key, of_code("delete", self.address(key), code, message)
            elif key in deleted or key in refused:
                yield key, None
            else:
                yield key, of_code("delete", self.address(key), "", "the server did not say what became of it")

    def _client(self) -> Any:
        if self._made is None:
            self._made = make_client(self._opts)
        return self._made

    def _attributes(self, content: Content, metadata: Mapping[str, str]) -> dict[str, Any]:
        opts = self._opts
        given = {
            "StorageClass": opts.storage_class,
            "ServerSideEncryption": opts.sse,
            "SSEKMSKeyId": opts.sse_kms_key_id,
        }
        return {
            "Metadata": {**metadata, HASH: content.sha256},
            "ContentType": "application/octet-stream",
            **{name: value for name, value in given.items() if value},
        }

    def _sum(self, part: Part) -> dict[str, str]:
        kind = CHECKSUM_FIELDS.get(self._opts.checksum)
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
            log.warning(
                Event("server knows no conditional put; keys are only looked at before", bucket=self._opts.bucket)
            )

    @contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        """Translate what boto3 raises; where other credentials may help, the next try reads them afresh."""
        try:
            yield
        except RAISED as error:
            translated = translate(operation, self.address(key), error)
            if translated.of_credentials:
                self.disconnect()
                self._made = None
            raise translated from error


def _unquoted(etag: str) -> str:
    return etag.strip('"')
