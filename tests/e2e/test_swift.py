"""What the Swift that S3 tests run against does, so that they may lean on it."""

import base64
import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.e2e import peers
from tests.e2e.swift import REGION, VARIABLE, SwiftServer, need_swift

BUCKET = "calls"
PART = b"p" * (5 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    with SwiftServer(tmp_path_factory.mktemp("swift")) as swift, client(swift) as s3:
        s3.create_bucket(Bucket=BUCKET)
        yield swift


@pytest.fixture
def s3(server: SwiftServer) -> Iterator[Any]:
    with client(server) as made:
        yield made


def client(swift: SwiftServer, secret: str | None = None) -> "closing[Any]":
    """Make a boto3 client that retries nothing."""
    return closing(
        boto3.client(
            "s3",
            endpoint_url=swift.endpoint,
            region_name=REGION,
            aws_access_key_id=swift.access_key,
            aws_secret_access_key=swift.secret if secret is None else secret,
            config=Config(
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    )


def refused(call: Callable[..., Any], **arguments: Any) -> str:
    """Return the code of the error that the server answers with."""
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    return str(raised.value.response["Error"]["Code"])


def of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def keys(s3: Any) -> list[str]:
    return [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def test_an_object_comes_back_with_its_metadata(s3: Any) -> None:
    key = "node=a/date=2026-11-22/hour=07/x.parquet"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"abc", Metadata={"sipdump-sha256": "ff"})
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"abc"
    head = s3.head_object(Bucket=BUCKET, Key=key)
    assert (head["ContentLength"], head["Metadata"]) == (3, {"sipdump-sha256": "ff"})
    assert head["ETag"] == f'"{hashlib.md5(b"abc").hexdigest()}"'
    assert key in keys(s3)


def test_a_wrong_secret_is_refused(server: SwiftServer) -> None:
    with client(server, "wrong") as s3:
        assert refused(s3.put_object, Bucket=BUCKET, Key="secret", Body=b"abc") == "SignatureDoesNotMatch"
        assert refused(s3.list_objects_v2, Bucket=BUCKET) == "SignatureDoesNotMatch"


def test_a_missing_bucket_is_said(s3: Any) -> None:
    assert refused(s3.put_object, Bucket="missing", Key="x", Body=b"abc") == "NoSuchBucket"


@pytest.mark.parametrize(
    ("field", "digest"),
    [("ChecksumSHA256", hashlib.sha256), ("ContentMD5", hashlib.md5)],
)
def test_checksums_are_verified(s3: Any, field: str, digest: Callable[[bytes], Any]) -> None:
    right, wrong = ({field: of(digest(body).digest())} for body in (b"abc", b"abd"))
    s3.put_object(Bucket=BUCKET, Key=f"{field}-right", Body=b"abc", **right)
    assert refused(s3.put_object, Bucket=BUCKET, Key=f"{field}-wrong", Body=b"abc", **wrong) == "BadDigest"
    assert f"{field}-right" in keys(s3)
    assert f"{field}-wrong" not in keys(s3)


def test_a_conditional_put_never_overwrites(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"first", IfNoneMatch="*")
    assert refused(s3.put_object, Bucket=BUCKET, Key="once", Body=b"second", IfNoneMatch="*") == "PreconditionFailed"
    assert s3.get_object(Bucket=BUCKET, Key="once")["Body"].read() == b"first"


def test_a_multipart_upload_is_listed_completed_once_and_aborted(s3: Any) -> None:
    key = "parts"

    def begin() -> tuple[str, list[dict[str, Any]]]:
        upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key, Metadata={"sipdump-sha256": "ee"})["UploadId"]
        parts = []
        for number, body in ((1, PART), (2, b"rest")):
            where = {"Bucket": BUCKET, "Key": key, "UploadId": upload, "PartNumber": number}
            wrong = of(hashlib.sha256(b"other").digest())
            assert refused(s3.upload_part, **where, Body=body, ChecksumSHA256=wrong) == "BadDigest"
            answer = s3.upload_part(**where, Body=body, ChecksumSHA256=of(hashlib.sha256(body).digest()))
            assert answer["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        return upload, parts

    def uploads() -> list[str]:
        return [found["UploadId"] for found in s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())]

    upload, parts = begin()
    listed = s3.list_parts(Bucket=BUCKET, Key=key, UploadId=upload)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in listed] == [(1, len(PART)), (2, 4)]
    assert uploads() == [upload]
    done = {"Bucket": BUCKET, "Key": key, "IfNoneMatch": "*"}
    s3.complete_multipart_upload(UploadId=upload, MultipartUpload={"Parts": parts}, **done)
    head = s3.head_object(Bucket=BUCKET, Key=key)
    assert (head["ContentLength"], head["Metadata"]) == (len(PART) + 4, {"sipdump-sha256": "ee"})
    assert uploads() == []

    upload, parts = begin()
    call = s3.complete_multipart_upload
    assert refused(call, UploadId=upload, MultipartUpload={"Parts": parts}, **done) == "PreconditionFailed"
    assert uploads() == [upload]
    s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)
    assert uploads() == []
    assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(PART) + 4


def test_many_objects_are_deleted_at_once_and_missing_ones_are_no_error(s3: Any) -> None:
    for name in ("gone-1", "gone-2", "stays"):
        s3.put_object(Bucket=BUCKET, Key=name, Body=b"abc")
    wanted = [{"Key": name} for name in ("gone-1", "gone-2", "was-never-there")]
    answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": wanted})
    assert {found["Key"] for found in answer["Deleted"]} == {name["Key"] for name in wanted}
    assert "Errors" not in answer
    assert {"gone-1", "gone-2", "stays"} & set(keys(s3)) == {"stays"}


def test_objects_and_uploads_outlive_a_kill(tmp_path: Path) -> None:
    with SwiftServer(tmp_path) as server:
        with client(server) as s3:
            s3.create_bucket(Bucket=BUCKET)
            s3.put_object(Bucket=BUCKET, Key="kept", Body=b"abc", Metadata={"a": "b"})
            upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
            part = s3.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=1, Body=PART)
        endpoint = server.endpoint
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 60)
        server.start()
        assert server.endpoint == endpoint
        with client(server) as s3:
            found = s3.get_object(Bucket=BUCKET, Key="kept")
            assert (found["Body"].read(), found["Metadata"]) == (b"abc", {"a": "b"})
            (listed,) = s3.list_parts(Bucket=BUCKET, Key="parts", UploadId=upload)["Parts"]
            assert listed["ETag"] == part["ETag"]
            done = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            s3.complete_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload, MultipartUpload=done)
            assert keys(s3) == ["kept", "parts"]


def test_a_missing_server_skips_or_fails_where_all_peers_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("SIPDUMP_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match=VARIABLE):
        need_swift(tmp_path)
    monkeypatch.delenv("SIPDUMP_REQUIRE_PEERS")
    monkeypatch.setattr(peers, "program", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match=VARIABLE):
        need_swift(tmp_path)
