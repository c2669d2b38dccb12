"""What is asked of a server, and which of its answers are believed; without a server."""

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import pytest

from sipdump_core.errors import SegmentExistsError
from sipdump_s3.bucket import Bucket
from sipdump_s3.content import HASH, Content
from sipdump_s3.errors import S3Error
from sipdump_s3.options import S3Options
from sipdump_s3.remote import RemoteFile, tail_of

DATA = b"0123456789" * 3


class Client:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: dict[str, dict[str, Any]] = {}

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.asked[operation] = arguments
            answer = self.answers[operation]
            return answer(**arguments) if callable(answer) else answer

        return call


def bucket_of(client: Client, **options: Any) -> Bucket:
    made = Bucket(S3Options(bucket="b", **options))
    made._made = client
    return made


def content(checksum: str = "sha256", part_bytes: int = 100) -> Content:
    return Content.of(io.BytesIO(DATA), part_bytes, checksum)


def test_nothing_is_ever_put_over_another_object() -> None:
    client = Client(put_object={}, complete_multipart_upload={})
    bucket = bucket_of(client)
    bucket.put("key", DATA, content(), {"sipdump-node": "n1"})
    bucket.complete("key", "id", ["e1", "e2", "e3"], content(part_bytes=10))
    assert client.asked["put_object"]["IfNoneMatch"] == "*"
    assert client.asked["complete_multipart_upload"]["IfNoneMatch"] == "*"
    assert client.asked["put_object"]["Metadata"] == {"sipdump-node": "n1", HASH: hashlib.sha256(DATA).hexdigest()}


@pytest.mark.parametrize("checksum", ["sha256", "crc32"])
def test_a_part_counts_if_every_sum_of_the_server_agrees(checksum: str) -> None:
    made = content(checksum)
    (part,) = made.parts
    field = {"sha256": "ChecksumSHA256", "crc32": "ChecksumCRC32"}[checksum]
    good = {"ETag": f'"{part.md5.hex()}"', field: part.checksum}
    client = Client(upload_part=good)
    bucket = bucket_of(client, checksum=checksum)
    assert bucket.put_part("key", "id", 1, DATA, part) == good["ETag"]
    assert client.asked["upload_part"][field] == part.checksum
    for bad in ({**good, "ETag": '"' + "0" * 32 + '"'}, {**good, field: "AAAA"}):
        client.answers["upload_part"] = bad
        with pytest.raises(S3Error, match="arrived changed"):
            bucket.put_part("key", "id", 1, DATA, part)
    client.answers["upload_part"] = {**good, "ETag": "x", "ServerSideEncryption": "aws:kms"}
    bucket.put_part("key", "id", 1, DATA, part)  # the ETag of an encrypted one is no MD5


def test_a_part_that_is_there_is_used_if_it_is_the_same() -> None:
    (part,) = content().parts
    bucket = bucket_of(Client())
    etag = f'"{part.md5.hex()}"'
    assert bucket.is_whole(part, (30, etag, part.checksum))
    assert bucket.is_whole(part, (30, etag, ""))
    for other in (None, (29, etag, part.checksum), (30, '"0"', part.checksum), (30, etag, "AAAA")):
        assert not bucket.is_whole(part, other)


def body(data: bytes, **answer: Any) -> dict[str, Any]:
    return {"ContentLength": len(data), "Body": io.BytesIO(data), "ETag": '"e"', **answer}


def test_what_is_downloaded_must_be_what_was_uploaded() -> None:
    metadata = {"Metadata": {HASH: hashlib.sha256(DATA).hexdigest()}}
    client = Client(get_object=lambda **_: body(DATA, **metadata))
    bucket = bucket_of(client)
    file = io.BytesIO()
    assert bucket.get("key", file).size == len(DATA)
    assert file.getvalue() == DATA
    for bad in (body(DATA[:-1] + b"x", **metadata), body(DATA, Metadata={}, ContentLength=31)):
        client.answers["get_object"] = bad
        with pytest.raises(S3Error, match="not what was uploaded"):
            bucket.get("key", io.BytesIO())
    client.answers["get_object"] = body(DATA)
    bucket.get("key", io.BytesIO())  # of another program: nothing says what it was


def test_all_that_is_read_of_an_object_is_of_one_content() -> None:
    client = Client(get_object=body(DATA[-10:], ContentRange="bytes 20-29/30"))
    bucket = bucket_of(client)
    file = RemoteFile(bucket, "key", tail_of(bucket, "key"))
    client.answers["get_object"] = body(DATA)
    assert file.read(15) == DATA[:15]
    assert client.asked["get_object"]["IfMatch"] == '"e"'
    for bad in (body(DATA[:20], ETag='"f"'), body(DATA[:10])):
        client.answers["get_object"] = bad
        with pytest.raises(S3Error, match="it was replaced") as raised:
            bucket.part("key", 0, 20, '"e"')
        assert raised.value.of_absence


def test_only_what_the_server_says_it_deleted_is_gone() -> None:
    client = Client(
        delete_objects={"Deleted": [{"Key": "a"}], "Errors": [{"Key": "b", "Code": "InternalError", "Message": "m"}]}
    )
    found = dict(bucket_of(client).delete(["a", "b", "c"]))
    assert found["a"] is None
    assert found["b"] is not None
    assert "did not say" in str(found["c"])


def test_no_more_is_deleted_at_once_than_s3_takes() -> None:
    sizes = []

    def delete(**arguments: Any) -> Any:
        sizes.append(len(arguments["Delete"]["Objects"]))
        return {"Deleted": arguments["Delete"]["Objects"]}

    assert len(list(bucket_of(Client(delete_objects=delete)).delete([str(n) for n in range(2001)]))) == 2001
    assert sizes[:2] == [1000, 1000]


def test_a_key_that_is_taken_is_an_error_of_its_own() -> None:
    from botocore.exceptions import ClientError

    def taken(**_: Any) -> Iterator[Any]:
        answer: Any = {"Error": {"Code": "PreconditionFailed"}, "ResponseMetadata": {"HTTPStatusCode": 412}}
        raise ClientError(answer, "PutObject")

    with pytest.raises(SegmentExistsError):
        bucket_of(Client(put_object=taken)).put("key", DATA, content(), {})
