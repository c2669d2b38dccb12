"""A bucket: as much of S3 as is needed here, over boto3. Whatever boto3 raises leaves it as an :class:`S3Error`.

Nothing is retried here, nor by boto3: the shipper does that, which knows what else waits.
"""

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlencode

from sipdump_core.errors import SegmentExistsError
from sipdump_core.log import Event, log
from sipdump_s3.client import make_client
from sipdump_s3.content import CHECKSUM_FIELDS, HASH, Content, Found, Part
from sipdump_s3.errors import RAISED, S3Error, mismatch, of_code, translate
from sipdump_s3.options import S3Options

__all__ = ["Bucket", "Version"]

T = TypeVar("T")
Forms = list[tuple[bool, str]]
Refusals = list[S3Error]

DELETE_AT_ONCE = 1000  # what DeleteObjects takes
_CHUNK = 1 << 20
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_GONE = ("NoSuchKey", "NotFound", "404")
_TRAILING = ("sha256", "crc32")  # kinds of checksums in headers of their own, x-amz-checksum-*
_INSTEAD = {"sha256": ("md5", "none"), "crc32": ("md5", "none"), "md5": ("none",)}


class Version(NamedTuple):
    """An object as it is at one moment."""

    etag: str
    version: str
    """Of a bucket that keeps versions; else empty."""
    metadata: Mapping[str, str]
    tags: Mapping[str, str]


class Bucket:
    """One bucket.

    What a server turns out not to know is left out from then on, and logged once: conditions, checksums in headers of
    their own, deletions of many objects at once.

    Args:
        options: the backend's options.
    """

    def __init__(self, options: S3Options) -> None:
        self._opts = options
        self._made: Any = None
        self.checksum = options.checksum
        """The kind that is sent: ``md5``, or else ``none``, instead of the option's where the server refuses that."""
        self._head_checksums = options.checksum in _TRAILING
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
        try:
            found = self._head(key)
            with self._translated("look at", key):
                size, etag = int(found["ContentLength"]), _unquoted(found["ETag"])
        except S3Error as error:
            if error.code in _GONE:
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

        def put(checksum: str, **condition: str) -> None:
            self._client().put_object(
                Bucket=self._opts.bucket, Key=key, Body=io.BytesIO(body), **self._attributes(content, metadata),
                **_sum(content.parts[0], checksum), **condition,
            )  # fmt: skip

        self._send("upload", key, put, conditional=True)

    def begin(self, key: str, content: Content, metadata: Mapping[str, str]) -> str:
        """Begin an upload in parts, and return its id."""

        def begin(checksum: str) -> str:
            algorithm = {"ChecksumAlgorithm": checksum.upper()} if checksum in _TRAILING else {}
            begun = self._client().create_multipart_upload(
                Bucket=self._opts.bucket, Key=key, **self._attributes(content, metadata), **algorithm
            )
            return str(begun["UploadId"])

        return self._send("begin upload", key, begin)

    def put_part(self, key: str, upload: str, number: int, body: bytes, part: Part) -> str:
        """Upload one part, numbered from 1, and return its ETag.

        Raises:
            S3Error: also where the server's sums differ from ours.
        """

        def put(checksum: str) -> tuple[Any, str]:
            answer = self._client().upload_part(
                Bucket=self._opts.bucket, Key=key, UploadId=upload, PartNumber=number, Body=io.BytesIO(body),
                **_sum(part, checksum),
            )  # fmt: skip
            return answer, str(answer["ETag"])

        answer, etag = self._send("upload part", key, put)
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
                pages = self._client().get_paginator("list_parts")  # what it leaves out is uploaded again
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
        complete = partial(self._complete, key, upload, etags, content)
        self._send("complete upload", key, complete, conditional=True)

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
            for page in self._pages("list_multipart_uploads", "NextKeyMarker", prefix):
                for upload in page.get("Uploads", ()):
                    yield upload["Key"], upload["UploadId"]

    def list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """Yield key, size in bytes and time of upload (seconds since the epoch) of every object, page by page."""
        pages = self._pages("list_objects_v2", "NextContinuationToken", prefix)
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
            refusal = None
            if self._batches and len(some) > 1:
                try:
                    yield from self._delete_batch(some)
                    continue
                except S3Error as error:
                    if not error.of_form:
                        yield from ((key, error.at(self.address(key))) for key in some)
                        continue
                    refusal = error
            for key in some:
                trouble = self._delete_one(key)
                if refusal and not trouble:
                    log.warning(
                        Event("server refuses to delete many objects at once; going one by one", error=refusal.reason)
                    )
                    self._batches, refusal = False, None
                yield key, trouble

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

    def version(self, key: str) -> Version:
        """Return what identifies an object as it is now.

        Raises:
            S3Error: there is no such object, or the server refuses or does not answer.
        """
        found = self._head(key)
        return Version(
            str(found["ETag"]),
            str(found.get("VersionId", "")),
            {name.lower(): value for name, value in found.get("Metadata", {}).items()},
            self.tags(key),
        )

    def tags(self, key: str) -> Mapping[str, str]:
        """Return an object's tags; none where the server does not know tags, or this user may not see them."""
        try:
            return self.known_tags(key)
        except S3Error as error:
            if error.code in _GONE or not (error.of_request or error.state in ("refused", "access denied")):
                raise
            return {}

    def known_tags(self, key: str) -> Mapping[str, str]:
        """Return an object's tags.

        Raises:
            S3Error: the server knows no tags, refuses or does not answer.
        """
        with self._translated("look at the tags of", key):
            found = self._client().get_object_tagging(Bucket=self._opts.bucket, Key=key)
        return {tag["Key"]: tag["Value"] for tag in found.get("TagSet", ())}

    def tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Set an object's tags, or take them away where these are none.

        Raises:
            S3Error: the server refuses or does not answer.
        """
        listed = [{"Key": name, "Value": value} for name, value in tags.items()]
        with self._translated("tag", key):
            if not listed:
                self._client().delete_object_tagging(Bucket=self._opts.bucket, Key=key)
                return
            self._client().put_object_tagging(Bucket=self._opts.bucket, Key=key, Tagging={"TagSet": listed})

    def replace(self, key: str, file: BinaryIO, content: Content, metadata: Mapping[str, str], there: Version) -> None:
        """Put a file over an object that is still the one it was, with its tags.

        Raises:
            S3Error: it was replaced meanwhile, or the server refuses or does not answer.
        """
        attributes = self._attributes(content, metadata)
        if there.tags:
            attributes["Tagging"] = urlencode(there.tags)
        if len(content.parts) == 1:
            file.seek(0)
            body = file.read()

            def put(checksum: str, **condition: str) -> None:
                self._client().put_object(
                    Bucket=self._opts.bucket, Key=key, Body=io.BytesIO(body), **attributes,
                    **_sum(content.parts[0], checksum), **condition,
                )  # fmt: skip

            self._send_over(key, put, there)
            return

        def begin(checksum: str) -> str:
            algorithm = {"ChecksumAlgorithm": checksum.upper()} if checksum in _TRAILING else {}
            begun = self._client().create_multipart_upload(Bucket=self._opts.bucket, Key=key, **attributes, **algorithm)
            return str(begun["UploadId"])

        upload = self._send("begin upload", key, begin)
        try:
            etags = []
            for number, part in enumerate(content.parts, 1):
                file.seek(part.offset)
                etags.append(self.put_part(key, upload, number, file.read(part.length), part))
            self._send_over(key, partial(self._complete, key, upload, etags, content), there)
        except BaseException:
            with suppress(S3Error):
                self.abort(key, upload)
            raise

    def forget_version(self, key: str, there: Version) -> None:
        """Delete what a versioned bucket keeps of an object that was replaced or deleted.

        Raises:
            S3Error: the server refuses or does not answer.
        """
        if there.version in ("", "null"):
            return
        with self._translated("delete the old version of", key):
            self._client().delete_object(Bucket=self._opts.bucket, Key=key, VersionId=there.version)

    def tail(self, key: str, length: int) -> tuple[int, str, bytes]:
        """Return an object's size, its ETag, and up to so many bytes of its end.

        Raises:
            S3Error: there is no such object, or the server refuses or does not answer.
        """
        with self._translated("read", key):
            answer = self._client().get_object(Bucket=self._opts.bucket, Key=key, Range=f"bytes=-{length}")
            with answer["Body"] as body:
                data = body.read()
            size = int(answer.get("ContentRange", "").rpartition("/")[2] or answer["ContentLength"])
            return size, str(answer["ETag"]), data

    def part(self, key: str, first: int, length: int, etag: str) -> bytes:
        """Return bytes of an object, if it is still the one with that ETag.

        Raises:
            S3Error: it is gone or another one, or the server refuses or does not answer.
        """
        with self._translated("read", key):
            answer = self._client().get_object(
                Bucket=self._opts.bucket, Key=key, Range=f"bytes={first}-{first + length - 1}", IfMatch=etag
            )
            with answer["Body"] as body:
                data: bytes = body.read()
        if len(data) != length or answer["ETag"] != etag:
            raise S3Error("read", self.address(key), "it was replaced while it was read", state="refused", code="412")
        return data

    def _delete_batch(self, keys: Sequence[str]) -> Iterator[tuple[str, S3Error | None]]:
        with self._translated("delete", keys[0]):
            answer = self._client().delete_objects(
                Bucket=self._opts.bucket, Delete={"Objects": [{"Key": key} for key in keys]}
            )
            deleted = {entry.get("Key") for entry in answer.get("Deleted", ())}
            refused = {entry.get("Key"): entry for entry in answer.get("Errors", ())}
        if not deleted and not refused:
            raise S3Error("delete", self.address(keys[0]), "the server did not say what became of it", state="refused")
        errors = {
            key: of_code("delete", self.address(str(key)), str(entry.get("Code")), str(entry.get("Message")))
            for key, entry in refused.items()
            if entry.get("Code") not in _GONE
        }
        if len(errors) == len(keys) and all(error.state == "refused" for error in errors.values()):
            raise errors[keys[0]]  # not the keys: that they come at once
        for key in keys:
            if key in errors:
                yield key, errors[key]
            elif key in deleted or key in refused:
                yield key, None
            else:
                yield key, of_code("delete", self.address(key), "", "the server did not say what became of it")

    def _delete_one(self, key: str) -> S3Error | None:
        try:
            with self._translated("delete", key):
                self._client().delete_object(Bucket=self._opts.bucket, Key=key)
        except S3Error as error:
            return None if error.code in _GONE else error
        return None

    def _head(self, key: str) -> Any:
        """Ask for an object, with its checksums unless the server refuses that."""
        if self._head_checksums:
            try:
                return self._head_object(key, ChecksumMode="ENABLED")
            except S3Error as error:
                if not error.of_request:
                    raise
        try:
            found = self._head_object(key)
        except S3Error as error:
            if error.code in _GONE:
                self._leave_out_of_head()
            raise
        self._leave_out_of_head()
        return found

    def _head_object(self, key: str, **mode: str) -> Any:
        with self._translated("look at", key):
            return self._client().head_object(Bucket=self._opts.bucket, Key=key, **mode)

    def _leave_out_of_head(self) -> None:
        if self._head_checksums:
            self._head_checksums = False
            log.warning(Event("server refuses to look at objects with their checksums", **self._advice()))

    def _pages(self, operation: str, mark: str, prefix: str) -> Iterator[Any]:
        """Yield the pages of a listing.

        Raises:
            S3Error: a page says that there is another one, but not where it begins, or that it begins where one did.
        """
        marks = set()
        for page in self._client().get_paginator(operation).paginate(Bucket=self._opts.bucket, Prefix=prefix):
            yield page
            if not page.get("IsTruncated"):
                continue
            place = (page.get(mark), page.get("NextUploadIdMarker"))
            if not place[0]:
                reason = f"the server cut the listing short, and gave no {mark} to go on with"
                raise S3Error("list", self.address(prefix), reason, "this is a fault of the server", "refused")
            if place in marks:
                reason = f"the server goes round in circles: it gave the same {mark} twice"
                raise S3Error("list", self.address(prefix), reason, "this is a fault of the server", "refused")
            marks.add(place)

    def _client(self) -> Any:
        if self._made is None:
            self._made = make_client(self._opts)
        return self._made

    def _complete(
        self, key: str, upload: str, etags: Sequence[str], content: Content, checksum: str, **condition: str
    ) -> None:
        parts = [
            {"PartNumber": number, "ETag": etag, **(_sum(part, checksum) if checksum in _TRAILING else {})}
            for number, (etag, part) in enumerate(zip(etags, content.parts, strict=True), 1)
        ]
        self._client().complete_multipart_upload(
            Bucket=self._opts.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
        )

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

    def _agrees(self, part: Part, etag: str, checksum: str) -> bool:
        if self._opts.checksum == "none":
            return True
        etag = "" if self._opts.sse.startswith("aws:kms") else _unquoted(etag)
        return etag in ("", part.md5.hex()) and checksum in ("", part.checksum)

    def _send(self, operation: str, key: str, send: Callable[..., T], *, conditional: bool = False) -> T:
        """Send with a checksum and, if wanted, the condition that the key is free; without what the server refuses.

        Args:
            operation: what it is.
            key: of which object.
            send: takes the kind of checksum, and the condition as keyword argument.
            conditional: whether to state the condition.

        Raises:
            SegmentExistsError: the key is taken.
            S3Error: the server refuses it in every form, or does not answer.
        """
        forms = self._forms(conditional)
        refusals: Refusals = []
        while forms:
            condition, checksum = forms.pop(0)
            try:
                with self._translated(operation, key):
                    answer = send(checksum, IfNoneMatch="*") if condition else send(checksum)
            except S3Error as error:
                if condition and error.code in _TAKEN:
                    raise SegmentExistsError(operation, self.address(key), error.reason) from error
                if not error.of_request:
                    raise
                if "checksum" in error.reason.lower():  # so it is not the condition
                    forms.sort(key=lambda form: not form[0])
                refusals.append(error)
            else:
                if refusals:
                    self._leave_out(refusals[0], condition=conditional and not condition, checksum=checksum)
                return answer
        raise refusals[0]

    def _send_over(self, key: str, send: Callable[..., None], there: Version) -> None:
        """Send with the condition that an object is still the one it was; a server may ignore it, so look before."""
        self._see(key, there)
        try:
            self._send("replace", key, partial(send, IfMatch=there.etag))
        except S3Error as error:
            if error.code in _TAKEN:
                raise S3Error("replace", self.address(key), "it was replaced meanwhile", state="refused") from error
            if not error.of_request:
                raise
            self._see(key, there)
            self._send("replace", key, send)

    def _see(self, key: str, there: Version) -> None:
        if self._head(key)["ETag"] != there.etag:
            raise S3Error("replace", self.address(key), "it was replaced meanwhile", state="refused")

    def _forms(self, conditional: bool) -> Forms:
        """Return the ways to send a request, the best first: with the condition or not, and with which checksum."""
        conditions = (True, False) if conditional and self._conditional else (False,)
        checksums = (self.checksum, *_INSTEAD.get(self.checksum, ()))
        return [(condition, checksum) for checksum in checksums for condition in conditions]

    def _leave_out(self, refusal: S3Error, *, condition: bool, checksum: str) -> None:
        if condition and self._conditional:
            self._conditional = False
            log.warning(
                Event(
                    "server knows no conditional put; keys are only looked at before",
                    bucket=self._opts.bucket,
                    error=refusal.reason,
                )
            )
        if checksum != self.checksum:
            self.checksum = checksum
            instead = "Content-MD5 is sent instead" if checksum == "md5" else "none is sent"
            event = f"server refuses checksums; {instead}"
            log.warning(Event(event, **self._advice(), error=refusal.reason))

    def _advice(self) -> dict[str, str]:
        checksum = "md5" if self.checksum in _TRAILING else self.checksum
        return {"bucket": self._opts.bucket, "hint": f'set modparam("sipdump_s3", "checksum", "{checksum}")'}

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


def _sum(part: Part, checksum: str) -> dict[str, str]:
    """Return the argument that sends a part's checksum of some kind."""
    if checksum == "md5":
        return {CHECKSUM_FIELDS[checksum]: base64.b64encode(part.md5).decode()}
    return {CHECKSUM_FIELDS[checksum]: part.checksum} if checksum in _TRAILING else {}


def _unquoted(etag: str) -> str:
    return etag.strip('"')
