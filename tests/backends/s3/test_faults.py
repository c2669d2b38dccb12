"""The S3 backend when things go wrong: nothing is lost, nothing is there twice, and somebody is told."""

import logging
import os
import re
import stat
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import pytest

from sipdump_core.drivers.folder import RECORDS_XATTR
from sipdump_core.errors import StorageError, StorageFullError
from sipdump_core.segment import Segment
from sipdump_s3 import S3Backend
from sipdump_s3.errors import S3Error
from sipdump_s3.shipper import Shipper
from tests.s3_faults import Fault, FaultProxy, Request, answer, corrupt, cut, lose_answer, stall
from tests.s3_server import Server, object_bytes, objects
from tests.s3_support import PREFIX, backend_of, sent, spool, spooled, stored
from tests.support import FakeClock, record, wait_for

PART = 5 << 20
pytestmark = pytest.mark.usefixtures("utc")  # names in the spool are in UTC, those of segments in local time
BIG = os.urandom(1 << 20) * 11
"""A message that makes a segment of three parts."""
LARGE = BIG[: 6 << 20]
"""Of two."""


@pytest.fixture
def backend(proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> S3Backend:
    return backend_of(proxy.endpoint, s3_bucket, tmp_path, part_bytes=PART)


@pytest.fixture
def client(s3_server: Server, s3_bucket: str) -> Iterator[Any]:
    with s3_server.client() as made:
        yield made


def state_of(backend: S3Backend) -> str:
    """Try to ship; give the state of what went wrong."""
    (result,) = backend.ship()
    assert isinstance(result.error, S3Error), result
    return result.error.state


def test_the_same_segment_twice_is_one_object(backend: S3Backend, client: Any, proxy: FaultProxy) -> None:
    path = spool(backend, b"one")
    content = path.read_bytes()
    sent(backend)
    path.write_bytes(content)  # as a crash before the deletion leaves it
    sent(backend)
    assert stored(backend) == [b"one"]
    assert spooled(backend) == []
    assert proxy.count("PUT") == 1


def test_another_content_under_the_key_is_never_overwritten(backend: S3Backend, client: Any) -> None:
    first = spool(backend, b"first")
    sent(backend)
    for buf in (b"second", b"third"):
        first.write_bytes(b"")
        first.unlink()
        fresh = backend_of(backend.opts.endpoint_url, backend.opts.bucket, Path(backend.site.folder))
        content = spool(fresh, buf).read_bytes()
        sent(fresh)
        first.write_bytes(content)  # the same again, as after a crash: it finds its own place again
        sent(fresh)
    assert sorted(stored(backend)) == [b"first", b"second", b"third"]
    names = [key.rpartition("/")[2] for key in objects(client, backend.opts.bucket)]
    stem = f"{PREFIX}2026-11-22--23-31-00"
    assert sorted(names) == sorted([f"{stem}.data", f"{stem}-1.data", f"{stem}-2.data"])
    assert len(list(backend.segments())) == 3


def test_one_who_was_faster_is_not_overwritten(backend: S3Backend, client: Any, proxy: FaultProxy) -> None:
    """Between the look and the put another content comes to stand there: the server's condition tells."""

    def overtake(_: FaultProxy, request: Any, connection: Any) -> None:
        key = unquote(request.path).partition(f"/{backend.opts.bucket}/")[2]
        client.put_object(Bucket=backend.opts.bucket, Key=key, Body=b"x")
        connection.sendall(proxy.forward(request))

    proxy.on("PUT", "", overtake)
    spool(backend, b"mine")
    (location,) = sent(backend)
    assert location.endswith("-1.data")
    assert sorted(objects(client, backend.opts.bucket).values())[0] == 1
    assert backend.stats()["conflicts"] == 1


@pytest.mark.parametrize("buf", [b"small", BIG], ids=["put", "multipart"])
def test_an_answer_lost_after_the_commit_makes_no_duplicate(
    backend: S3Backend, client: Any, proxy: FaultProxy, buf: bytes
) -> None:
    proxy.on("PUT|POST", "uploadId=[^&]*$" if buf is BIG else "", lose_answer)
    spool(backend, buf)
    assert state_of(backend) == "connection cut"
    assert len(spooled(backend)) >= 1
    sent(backend)
    assert stored(backend) == [buf]
    assert len(objects(client, backend.opts.bucket)) == 1
    assert spooled(backend) == []


def test_an_answer_lost_within_one_try_is_found_by_the_condition(backend: S3Backend, proxy: FaultProxy) -> None:
    """The server has the object, and the client hears that the key is taken: by itself."""

    def commit_and_refuse(_: FaultProxy, request: Any, connection: Any) -> None:
        proxy.forward(request)
        connection.sendall(proxy.forward(request))

    proxy.on("PUT", "", commit_and_refuse)
    spool(backend, b"one")
    (location,) = sent(backend)
    assert location.endswith("00.data")
    assert stored(backend) == [b"one"]


@pytest.mark.parametrize(
    ("fault", "state", "hint"),
    [
        (answer(500, "InternalError"), "server busy", "tries again"),
        (answer(503, "SlowDown"), "server busy", "tries again"),
        (answer(502, "Whatever"), "server busy", "tries again"),
        (answer(429, "TooManyRequests"), "server busy", "tries again"),
        (answer(400, "RequestTimeout"), "server slow", "timeout"),
        (answer(403, "AccessDenied"), "access denied", "docs/s3.md"),
        (answer(400, "ExpiredToken"), "credentials expired", "read afresh"),
        (answer(403, "InvalidAccessKeyId"), "credentials refused", "read afresh"),
        (answer(403, "SignatureDoesNotMatch"), "wrong secret", "secret key"),
        (answer(403, "RequestTimeTooSkewed"), "clock skew", "clock"),
        (answer(400, "AuthorizationHeaderMalformed"), "wrong region", "region"),
        (answer(404, "NoSuchBucket"), "bucket missing", "create the bucket"),
        (answer(400, "BadDigest"), "checksum mismatch", "network"),
        (answer(400, "XAmzContentSHA256Mismatch"), "checksum mismatch", "network"),
        (answer(400, "EntityTooLarge"), "too large", "part_bytes"),
        (answer(418, "Teapot"), "refused", ""),
        (cut, "connection cut", "tries again"),
        (lose_answer, "connection cut", "tries again"),
        (stall, "server slow", "tries again"),
        (corrupt, "checksum mismatch", ""),
    ],
)
@pytest.mark.parametrize("buf", [b"small" * 99, LARGE], ids=["put", "multipart"])
def test_every_trouble_has_a_state_and_a_hint_and_ends_by_itself(
    backend: S3Backend, proxy: FaultProxy, client: Any, fault: Fault, state: str, hint: str, buf: bytes
) -> None:
    proxy.on("PUT", "", fault)
    path = spool(backend, buf)
    timeout = 1 if fault is stall else 60
    given = attrs.evolve(backend.opts, timeout=timeout)
    (result,) = S3Backend(given, backend.site).ship()
    assert isinstance(result.error, S3Error)
    assert (result.error.state, result.location) == (state, "")
    assert hint in result.error.hint
    assert backend.opts.bucket in str(result.error)
    assert path.exists()
    proxy.clear()
    sent(backend)
    assert stored(backend) == [buf]
    assert len(objects(client, backend.opts.bucket)) == 1
    assert spooled(backend) == []
    assert not client.list_multipart_uploads(Bucket=backend.opts.bucket).get("Uploads")


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("ExpiredToken", "credentials expired"),
        ("RequestTimeTooSkewed", "clock skew"),
        ("AccessDenied", "access denied"),
        ("SignatureDoesNotMatch", "wrong secret"),
    ],
)
def test_why_head_was_refused_is_asked_for(backend: S3Backend, proxy: FaultProxy, code: str, state: str) -> None:
    """The answer to HEAD has no body; without asking again all of these would be just 400 or 403."""
    status = 400 if code == "ExpiredToken" else 403
    proxy.on("HEAD|GET", "test-", answer(status, code), times=2)
    spool(backend)
    assert state_of(backend) == state


def test_a_refused_head_where_listing_is_allowed_is_access_denied(backend: S3Backend, proxy: FaultProxy) -> None:
    proxy.on("HEAD", "", answer(403, ""))
    spool(backend)
    assert state_of(backend) == "access denied"


def test_no_credentials_are_told_and_taken_as_soon_as_there_are_some(
    backend: S3Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    spool(backend, b"one")
    backend.start()
    try:
        wait_for(lambda: backend.health().startswith("no credentials: "))
        assert "AWS_ACCESS_KEY_ID" in backend.health()
        (tmp_path / "credentials").write_text("[default]\naws_access_key_id = k\naws_secret_access_key = s\n")
        wait_for(lambda: not backend.health())
        wait_for(lambda: not spooled(backend))
    finally:
        backend.stop()
    assert stored(backend) == [b"one"]


def test_expired_credentials_are_renewed_from_where_they_come(
    backend: S3Backend, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.on("GET|HEAD|PUT", "", answer(400, "ExpiredToken"), times=3)
    spool(backend)
    backend.start()
    try:
        wait_for(lambda: backend.health().startswith("credentials expired: "))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
        proxy.clear()
        wait_for(lambda: not spooled(backend))
    finally:
        backend.stop()
    assert b"Credential=renewed/" in proxy.requests[-1].head


def test_a_bucket_that_is_missing_and_then_made(
    proxy: FaultProxy, s3_server: Server, s3_bucket: str, client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{s3_bucket}-later"
    backend = backend_of(proxy.endpoint, name, tmp_path, retry_max=1)
    backend.start()
    try:
        spool(backend, b"one")
        wait_for(lambda: backend.health().startswith("bucket missing: "))
        assert "create the bucket" in backend.health()
        client.create_bucket(Bucket=name)
        wait_for(lambda: not spooled(backend))
        wait_for(lambda: not backend.health())
    finally:
        backend.stop()
    assert stored(backend) == [b"one"]
    told = [r.getMessage() for r in caplog.records if r.name == "sipdump" and r.levelno >= logging.WARNING]
    assert sum("uploads work again" in line for line in told) == 1
    assert any("NoSuchBucket" in line and "backend=s3" in line for line in told)
    backend.delete(next(iter(backend.segments())))
    client.delete_bucket(Bucket=name)


def test_what_concerns_one_segment_holds_up_no_other(backend: S3Backend, proxy: FaultProxy) -> None:
    proxy.on("PUT", "31-00.data", answer(400, "EntityTooLarge"), times=99)
    for second in range(3):
        spool(backend, b"%d" % second, second=second)
    first, *others = backend.ship()
    assert isinstance(first.error, S3Error)
    assert [shipped.error for shipped in others] == [None, None]
    assert len(spooled(backend)) == 1


def test_what_concerns_all_ends_the_round(backend: S3Backend, proxy: FaultProxy) -> None:
    proxy.on("PUT", "", answer(503, "SlowDown"), times=99)
    for second in range(3):
        spool(backend, second=second)
    assert len(list(backend.ship())) == 1
    assert proxy.count("PUT") == 1


def test_a_server_without_conditional_put_is_served_all_the_same(
    backend: S3Backend, proxy: FaultProxy, client: Any
) -> None:
    def unknown(_: FaultProxy, request: Any, connection: Any) -> None:
        known = b"if-none-match" not in request.head.lower()
        if known:
            connection.sendall(proxy.forward(request))
        else:
            answer(501, "NotImplemented")(proxy, request, connection)

    proxy.on("PUT|POST", "", unknown, times=99)
    spool(backend, b"0", second=0)
    spool(backend, BIG, second=1)
    sent(backend)
    assert stored(backend) == [b"0", BIG]
    conditional = [r for r in proxy.requests if b"if-none-match" in r.head.lower()]
    assert len(conditional) == 1, "it is asked once"


def refusing(header: bytes, status: int, code: str, message: str) -> Fault:
    """Refuse requests with a header whose name begins so, or with checksums in the body."""

    def act(proxy: FaultProxy, request: Request, connection: Any) -> None:
        if header in request.head.lower() or b"<ChecksumSHA256>" in request.body:
            answer(status, code, message)(proxy, request, connection)
        else:
            connection.sendall(proxy.forward(request))

    return act


REFUSALS = [
    (400, "InvalidArgument", "Unsupported header 'x-amz-checksum-sha256' received for this API call."),
    (501, "NotImplemented", "Header 'x-amz-checksum-sha256' is not implemented"),
    (501, "NotImplemented", "A header you provided implies functionality that is not implemented"),
    (400, "InvalidRequest", "as scripted"),
    (400, "BadRequest", ""),
]


@pytest.mark.parametrize(("status", "code", "message"), REFUSALS)
@pytest.mark.parametrize("where", [".*", "PUT"], ids=["everywhere", "in requests with a body"])
def test_a_server_that_refuses_checksums_gets_md5_instead(
    backend: S3Backend, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, where: str, status: int, code: str,
    message: str,
) -> None:  # fmt: skip
    proxy.on(where, "", refusing(b"x-amz-checksum-", status, code, message), times=999)
    for second, buf in enumerate((b"small", LARGE, b"another")):
        spool(backend, buf, second=second)
    sent(backend)
    assert stored(backend) == [b"small", LARGE, b"another"]
    assert caplog.text.count("server refuses checksums; Content-MD5 is sent instead") == 1
    assert "knows no conditional put" not in caplog.text
    assert caplog.text.count("refuses to look at objects with their checksums") == (where == ".*")
    assert 'set modparam("sipdump_s3", "checksum", "md5")' in caplog.text.replace("\\", "")
    puts = [r for r in proxy.requests if r.method == "PUT"]
    assert all(b"content-md5" in r.head.lower() for r in puts[-4:])
    assert b"if-none-match" in puts[-1].head.lower()


def test_a_server_that_refuses_checksums_of_parts_alone(
    backend: S3Backend, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, client: Any
) -> None:
    message = "Header 'x-amz-checksum-sha256' with value 'x' not implemented"
    proxy.on("PUT", "partNumber", refusing(b"x-amz-checksum-", 501, "NotImplemented", message), times=999)
    spool(backend, BIG)
    sent(backend)
    assert stored(backend) == [BIG]
    assert caplog.text.count("server refuses checksums") == 1
    assert client.list_multipart_uploads(Bucket=backend.opts.bucket).get("Uploads", []) == [], "the first was aborted"


def test_a_server_that_knows_neither_checksums_nor_conditions(
    backend: S3Backend, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    def act(_: FaultProxy, request: Request, connection: Any) -> None:
        head = request.head.lower()
        if b"x-amz-checksum-" in head or b"if-none-match" in head or b"<ChecksumSHA256>" in request.body:
            answer(400, "InvalidRequest")(proxy, request, connection)
        else:
            connection.sendall(proxy.forward(request))

    proxy.on(".*", "", act, times=999)
    spool(backend, b"small", second=0)
    spool(backend, LARGE, second=1)
    sent(backend)
    assert stored(backend) == [b"small", LARGE]
    assert caplog.text.count("knows no conditional put") == caplog.text.count("server refuses checksums") == 1


@pytest.mark.parametrize("status", [400, 415, 422, 501])
@pytest.mark.parametrize("checksum", ["sha256", "md5"])
def test_a_server_that_refuses_every_checksum_gets_none(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, checksum: str, status: int
) -> None:
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, checksum=checksum, part_bytes=PART)

    def act(_: FaultProxy, request: Request, connection: Any) -> None:
        if b"x-amz-checksum-" in request.head.lower() or b"content-md5" in request.head.lower():
            answer(status, "Unsupported", "unknown header")(proxy, request, connection)
        else:
            connection.sendall(proxy.forward(request))

    proxy.on("PUT|POST|HEAD", "", act, times=999)
    for second, buf in enumerate((b"small", LARGE, b"another")):
        spool(backend, buf, second=second)
    sent(backend)
    assert stored(backend) == [b"small", LARGE, b"another"]
    log = caplog.text.replace("\\", "")
    assert log.count("server refuses checksums; none is sent") == 1
    assert 'set modparam("sipdump_s3", "checksum", "none")' in log
    assert "knows no conditional put" not in log


@pytest.mark.parametrize("buf", [b"small" * 99, LARGE], ids=["put", "multipart"])
def test_what_a_server_refuses_in_every_form_is_told_as_it_was_at_first(
    backend: S3Backend, proxy: FaultProxy, buf: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = spool(backend, buf)
    proxy.on("PUT|POST", "", answer(400, "InvalidStorageClass", "no such class"), times=99)
    (result,) = backend.ship()
    assert "InvalidStorageClass: no such class" in str(result.error)
    assert path.exists()
    assert "refuses checksums" not in caplog.text
    assert "conditional" not in caplog.text
    proxy.clear()
    sent(backend)
    assert stored(backend) == [buf]


@pytest.mark.parametrize(
    "refusal",
    [
        answer(501, "NotImplemented"), answer(400, "MalformedXML"), answer(400, "InvalidRequest"),
        answer(400, "InvalidDigest"), answer(403, "AccessDenied"), answer(405, "MethodNotAllowed"), answer(404, ""),
        answer(411, "MissingContentLength"), answer(413, "RequestEntityTooLarge"),
    ],
    ids=["501", "malformed", "invalid", "digest", "403", "405", "404", "411", "413"],
)  # fmt: skip
def test_where_many_cannot_be_deleted_at_once_they_are_deleted_one_by_one(
    backend: S3Backend, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, refusal: Fault
) -> None:
    for round_ in range(2):
        for second in range(3):
            spool(backend, second=10 * round_ + second)
        sent(backend)
        proxy.on("POST", "delete", refusal, times=99)
        objects = list(backend.segments())
        assert [error for _, error in backend.delete_many(objects)] == [None] * 3
        assert list(backend.segments()) == []
        assert proxy.count("POST", "delete") == 1, "it is asked once"
        assert proxy.count("DELETE") == 3 * (round_ + 1)
    assert caplog.text.count("refuses to delete many objects at once") == 1


@pytest.mark.parametrize("body", [b"", b"<DeleteResult></DeleteResult>", b"<html>hello</html>"])
def test_an_answer_that_names_no_key_is_no_deletion(backend: S3Backend, proxy: FaultProxy, body: bytes) -> None:
    for second in range(2):
        spool(backend, second=second)
    sent(backend)
    proxy.on("POST", "delete", page(200, body))
    assert [error for _, error in backend.delete_many(list(backend.segments()))] == [None] * 2
    assert list(backend.segments()) == []


@pytest.mark.parametrize("code", ["NotImplemented", "MethodNotAllowed", "InvalidRequest"])
def test_where_each_key_of_many_is_refused_they_are_deleted_one_by_one(
    backend: S3Backend, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    for second in range(2):
        spool(backend, second=second)
    sent(backend)
    objects = list(backend.segments())
    keys = [stored_.location.removeprefix(f"s3://{backend.opts.bucket}/") for stored_ in objects]
    errors = "".join(f"<Error><Key>{key}</Key><Code>{code}</Code><Message>no</Message></Error>" for key in keys)
    proxy.on("POST", "delete", page(200, f"<DeleteResult>{errors}</DeleteResult>".encode()), times=99)
    assert [error for _, error in backend.delete_many(objects)] == [None] * 2
    assert list(backend.segments()) == []
    assert caplog.text.count("refuses to delete many objects at once") == 1


@pytest.mark.parametrize("code", ["SlowDown", "AccessDenied"])
def test_each_key_of_many_that_may_not_be_deleted_is_told_without_more_requests(
    backend: S3Backend, proxy: FaultProxy, code: str
) -> None:
    for second in range(2):
        spool(backend, second=second)
    sent(backend)
    objects = list(backend.segments())
    keys = [stored_.location.removeprefix(f"s3://{backend.opts.bucket}/") for stored_ in objects]
    errors = "".join(f"<Error><Key>{key}</Key><Code>{code}</Code><Message>no</Message></Error>" for key in keys)
    proxy.on("POST", "delete", page(200, f"<DeleteResult>{errors}</DeleteResult>".encode()))
    assert [code in str(error) for _, error in backend.delete_many(objects)] == [True] * 2
    assert proxy.count("DELETE") == 0


def test_what_may_not_be_deleted_at_all_is_told_of_each_key(backend: S3Backend, proxy: FaultProxy) -> None:
    for second in range(3):
        spool(backend, second=second)
    sent(backend)
    proxy.on("POST|DELETE", "", answer(403, "AccessDenied"), times=99)
    objects = list(backend.segments())
    for stored_, error in backend.delete_many(objects):
        assert isinstance(error, S3Error)
        assert (error.state, error.target) == ("access denied", stored_.location)
    proxy.clear()
    assert [error for _, error in backend.delete_many(objects)] == [None] * 3
    assert proxy.count("POST", "delete") == 2, "it may work again"


@pytest.mark.parametrize("fault", [answer(503, "SlowDown"), cut], ids=["busy", "cut"])
def test_a_server_that_is_busy_is_not_asked_for_each_key(backend: S3Backend, proxy: FaultProxy, fault: Fault) -> None:
    for second in range(3):
        spool(backend, second=second)
    sent(backend)
    proxy.on("POST", "delete", fault)
    objects = list(backend.segments())
    for stored_, error in backend.delete_many(objects):
        assert isinstance(error, S3Error)
        assert error.target == stored_.location
    assert proxy.count("DELETE") == 0
    assert [error for _, error in backend.delete_many(objects)] == [None] * 3


def test_a_listing_that_is_cut_short_is_an_error(backend: S3Backend, proxy: FaultProxy) -> None:
    for second in range(2):
        spool(backend, second=second)
    sent(backend)
    (first, _) = backend.segments()
    key = first.location.removeprefix(f"s3://{backend.opts.bucket}/")
    listing = (
        f"<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>{key}</Key><Size>1</Size>"
        "<LastModified>2026-11-22T23:31:00.000Z</LastModified></Contents></ListBucketResult>"
    )
    proxy.on("GET", "list-type", page(200, listing.encode()))
    listed = backend.segments()
    assert next(iter(listed)).location == first.location
    with pytest.raises(S3Error, match="cut the listing short, and gave no NextContinuationToken"):
        list(listed)


@pytest.mark.parametrize("tokens", [["a", "a"], ["a", "b", "a"], ["a", "b", "c", "a"]], ids="".join)
def test_a_listing_that_goes_round_in_circles_is_an_error(
    backend: S3Backend, proxy: FaultProxy, tokens: list[str]
) -> None:
    listing = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>{}"
    for token in tokens:
        proxy.on("GET", "list-type", page(200, listing.format(token, "</ListBucketResult>").encode()))
    with pytest.raises(S3Error, match="the server goes round in circles: it gave the same NextContinuationToken twice"):
        list(backend.segments())


def test_an_upload_goes_on_where_it_was_after_a_crash(backend: S3Backend, proxy: FaultProxy, client: Any) -> None:
    proxy.on("PUT", "partNumber=3", answer(503, "SlowDown"))
    spool(backend, BIG)
    assert state_of(backend) == "server busy"
    proxy.requests.clear()
    again = backend_of(proxy.endpoint, backend.opts.bucket, Path(backend.site.folder), part_bytes=PART)
    sent(again)
    assert stored(again) == [BIG]
    assert [re.search(r"partNumber=(\d)", r.path)[1] for r in proxy.requests if r.method == "PUT"] == ["3"]  # type: ignore[index]  # each has it
    assert not client.list_multipart_uploads(Bucket=backend.opts.bucket).get("Uploads")


def test_a_part_that_is_not_what_it_should_be_is_sent_again(backend: S3Backend, proxy: FaultProxy, client: Any) -> None:
    proxy.on("PUT", "partNumber=3", answer(503, "SlowDown"))
    spool(backend, BIG)
    assert state_of(backend) == "server busy"
    (upload,) = client.list_multipart_uploads(Bucket=backend.opts.bucket)["Uploads"]
    where = {"Bucket": backend.opts.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
    client.upload_part(**where, PartNumber=1, Body=b"z" * PART)
    sent(backend)
    assert stored(backend) == [BIG]


def test_an_upload_whose_note_is_lost_or_of_another_layout_begins_anew_and_the_old_is_aborted(
    backend: S3Backend, proxy: FaultProxy, client: Any
) -> None:
    for note in (None, "{", '{"key": 1}'):
        proxy.on("PUT", "partNumber=2", answer(503, "SlowDown"))
        path = spool(backend, BIG, second=0 if note is None else len(note))
        assert state_of(backend) == "server busy"
        (found,) = Path(backend.spool.folder).glob("*.upload")
        found.unlink()
        if note:
            found.write_text(note)
        sent(backend)
        assert not path.exists()
        assert not client.list_multipart_uploads(Bucket=backend.opts.bucket).get("Uploads")


def test_abandoned_uploads_of_this_collector_are_aborted_and_of_no_other(backend: S3Backend, client: Any) -> None:
    bucket = backend.opts.bucket
    ours = backend.keys.key(Segment(PREFIX, "2026-11-20--10-00-00", 0, ".data"))
    others = [ours.replace("n1", "n2"), "node=n1/notes.txt"]
    for key in (ours, *others):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    backend.start()
    spool(backend)
    backend.stop()
    left = [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket)["Uploads"]]
    assert sorted(left) == sorted(others)


@pytest.mark.parametrize("name", ["notes.txt", "other-2026-11-20--10-00-00.data", f"{PREFIX}2026-11-20--10-00-00.pcap"])
def test_an_upload_of_another_program_below_our_keys_is_left_alone(backend: S3Backend, client: Any, name: str) -> None:
    bucket = backend.opts.bucket
    ours = backend.keys.key(Segment(PREFIX, "2026-11-20--10-00-00", 0, ".data"))
    client.create_multipart_upload(Bucket=bucket, Key=f"{ours.rpartition('/')[0]}/{name}")
    spool(backend)
    sent(backend)
    (left,) = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert left["Key"].endswith(name)


def test_who_may_not_list_uploads_ships_all_the_same(backend: S3Backend, proxy: FaultProxy) -> None:
    proxy.on("GET", r"\?uploads", answer(403, "AccessDenied"), times=99)
    spool(backend, b"one")
    sent(backend)
    assert stored(backend) == [b"one"]


def test_the_spool_drops_its_oldest_with_a_count(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.down.set()
    options: dict[str, Any] = {"spool_max_bytes": 1 << 20}
    earlier = backend_of(proxy.endpoint, s3_bucket, tmp_path, **options)
    spool(earlier, b"a" * 300_000, b"b", second=0)
    spool(earlier, b"c" * 300_000, second=1)
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, **options)
    backend.start()
    try:
        wait_for(backend.health)
        spool(backend, b"d" * 300_000, second=2)
        assert len(spooled(backend)) == 3
        spool(backend, b"e" * 300_000, second=3)
        assert backend.stats()["dropped_segments"] == 1
        assert backend.stats()["dropped_records"] == 2
        assert len(spooled(backend)) == 3, "what earlier runs left counts"
        assert "spool full, oldest segment dropped" in caplog.text
    finally:
        proxy.down.clear()
        backend.stop()
    assert sorted({buf[:1] for buf in stored(backend)}) == [b"c", b"d", b"e"]


def test_a_segment_on_its_way_is_not_dropped(proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> None:
    proxy.on("PUT", "31-00.data", stall)
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, spool_max_bytes=1 << 20)
    backend.start()
    try:
        spool(backend, b"a" * 400_000, second=0)
        wait_for(lambda: proxy.count("PUT"))
        backend.spool.failing = True  # as when it failed before
        spool(backend, b"b" * 400_000, second=1)
        spool(backend, b"c" * 400_000, second=2)
        assert [name[-7:-5] for name in spooled(backend)] == ["00", "02"]
    finally:
        proxy.clear()
        backend.stop()


def test_a_segment_that_has_just_come_is_not_dropped_while_uploads_work(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path
) -> None:
    """It waits for its turn, and the records for it; when that takes too long, it is the oldest that goes."""
    proxy.on("PUT", "31-00.data", stall)
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, spool_max_bytes=1 << 20)
    backend.start()
    try:
        spool(backend, b"a" * 400_000, second=0)
        wait_for(lambda: proxy.count("PUT"))
        waiting = spool(backend, b"b" * 400_000, second=1)
        backend.open(Segment(PREFIX, "2026-11-22--23-31-02", 0, ".data"))
        assert not write_on(backend, b"c" * 400_000)
        assert waiting.exists()
        os.utime(waiting, (1, 1))
        assert not write_on(backend, b"c" * 400_000), "nor so soon after the start, whatever its age"
        backend.spool._since = 1.0
        assert write_on(backend, b"c" * 400_000)
        assert not waiting.exists()
        backend.close()
    finally:
        proxy.clear()
        backend.stop()
    assert [buf[:1] for buf in stored(backend)] == [b"a", b"c"]


def test_a_full_spool_that_stops_takes_records_again_when_there_is_room(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path
) -> None:
    proxy.down.set()
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, spool_max_bytes=1 << 20, spool_full="stop", retry_max=1)
    backend.start()
    try:
        spool(backend, b"a" * 900_000)
        backend.open(Segment(PREFIX, "2026-11-22--23-31-01", 0, ".data"))
        with pytest.raises(StorageFullError, match=r"the spool holds .* of at most 1048576.*raise spool_max_bytes"):
            backend.write([record(b"b" * 200_000)])
        backend.write([record(b"c")])
        proxy.down.clear()
        wait_for(lambda: len(spooled(backend)) == 1)
        backend.write([record(b"b" * 200_000)])
        backend.close()
    finally:
        backend.stop()
    assert [buf[:1] for buf in stored(backend)] == [b"a", b"c", b"b"]
    assert backend.stats()["dropped_segments"] == 0


def write_on(backend: S3Backend, buf: bytes) -> bool:
    """Try to write a record as the core does: what finds no room comes again."""
    try:
        backend.write([record(buf)])
    except StorageFullError:
        return False
    return True


@pytest.mark.parametrize("choice", ["stop", "drop_oldest"])
@pytest.mark.parametrize("kind", ["text", "parquet"])
def test_a_segment_that_fills_the_spool_is_sealed_and_uploaded(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, choice: str, kind: str
) -> None:
    """Else nothing could ever make room: it is the open one."""
    options: dict[str, Any] = {"spool_max_bytes": 1 << 20, "spool_full": choice, "format": kind, "retry_max": 1}
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, **options)
    backend.start()
    try:
        backend.open(Segment(PREFIX, "2026-11-22--23-31-00", 0, backend.suffix))
        bufs = [os.urandom(200_000) for _ in range(12)]
        for buf in bufs:
            wait_for(partial(write_on, backend, buf))
        backend.close()
        wait_for(lambda: not spooled(backend))
    finally:
        backend.stop()
    assert sorted(stored(backend)) == sorted(bufs)
    assert len({listed.segment for listed in backend.segments()}) >= 3
    assert backend.stats()["dropped_segments"] == 0


def test_a_full_spool_is_not_filled_with_ever_more_segments(proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> None:
    proxy.down.set()
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, spool_max_bytes=1 << 20, spool_full="stop", stop_wait=0)
    backend.start()
    backend.open(Segment(PREFIX, "2026-11-22--23-31-00", 0, ".data"))
    tries = [write_on(backend, b"x" * 400_000) for _ in range(20)]
    assert tries == [True] * 2 + [False] * 18
    assert spooled(backend) == ["test-2026-11-22--23-31-00.data"]
    backend.close()
    backend.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("kind", ["text", "parquet"])
def test_a_segment_that_fills_the_disk_is_sealed_and_uploaded(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, kind: str
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], check=True)
    try:
        proxy.down.set()
        backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, format=kind, retry_max=1)
        backend.start()
        backend.open(Segment(PREFIX, "2026-11-22--23-31-00", 0, backend.suffix))
        bufs = [os.urandom(400_000) for _ in range(12)]
        rest = [buf for buf in bufs if not write_on(backend, buf)]
        assert 0 < len(rest) < len(bufs)
        proxy.down.clear()
        for buf in rest:
            wait_for(partial(write_on, backend, buf))
        backend.close()
        wait_for(lambda: not spooled(backend))
        backend.stop()
        assert sorted(stored(backend)) == sorted(bufs)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_what_cannot_be_counted_is_dropped_all_the_same(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.down.set()
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, spool_max_bytes=1 << 20, stop_wait=0)
    backend.start()
    wait_for(backend.health)
    os.removexattr(spool(backend, b"a" * 700_000), RECORDS_XATTR)
    monkeypatch.setattr(backend.inner, "read", lambda _: 1 / 0)  # a third party's, of a damaged file
    spool(backend, b"b" * 700_000, second=1)
    assert spooled(backend) == ["test-2026-11-22--23-31-01.data"]
    assert backend.stats()["dropped_segments"] == 1
    backend.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_told_and_ends_when_uploads_make_room(proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True)
    try:
        proxy.down.set()
        backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, retry_max=1)
        backend.start()
        spool(backend, b"a" * 1_500_000)
        backend.open(Segment(PREFIX, "2026-11-22--23-31-01", 0, ".data"))
        with pytest.raises(StorageFullError, match="No space left"):
            backend.write([record(b"b" * 900_000)])
        wait_for(backend.health)
        proxy.down.clear()
        wait_for(lambda: len(spooled(backend)) == 1)
        backend.write([record(b"b" * 900_000)])
        backend.close()
        backend.stop()
        assert [buf[:1] for buf in stored(backend)] == [b"a", b"b"]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_certificate_file_that_is_missing_is_no_fault_of_the_segment(
    s3_server: Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    backend = backend_of(s3_server.endpoint.replace("http:", "https:"), s3_bucket, tmp_path)
    path = spool(backend)
    assert state_of(backend)
    assert path.exists()


def page(status: int, body: bytes) -> Fault:
    """Answer as some other server does."""

    def act(_: FaultProxy, __: Any, connection: Any) -> None:
        connection.sendall(
            b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body
        )

    return act


@pytest.mark.parametrize("status", [200, 302, 404, 405])
@pytest.mark.parametrize("body", [b"", b"<html>hello</html>"])
def test_a_server_that_is_none_of_s3(backend: S3Backend, proxy: FaultProxy, status: int, body: bytes) -> None:
    """It says yes to everything, or no; nothing is lost, and nothing is taken for an empty bucket."""
    proxy.on(".*", "", page(status, body), times=9999)
    for second, buf in enumerate((b"small", LARGE)):
        spool(backend, buf, second=second)
    results = list(backend.ship())
    assert results
    assert all(isinstance(result.error, S3Error) for result in results)
    assert len([name for name in spooled(backend) if name.endswith(".data")]) == 2
    with pytest.raises(S3Error):
        list(backend.segments())


def test_keys_that_are_taken_are_not_tried_for_ever(backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_s3.upload._KEYS", 3)
    path = Path(backend.spool.folder) / f"{PREFIX}2026-11-22--23-31-00.data"
    for buf in (b"0", b"1", b"2"):
        spool(backend, buf)
        sent(backend)
        backend = backend_of(backend.opts.endpoint_url, backend.opts.bucket, Path(backend.site.folder))
    spool(backend, b"3")
    (result,) = backend.ship()
    assert "taken by different content, as are the 2 keys after it" in str(result.error)
    assert path.exists()
    assert sorted(stored(backend)) == [b"0", b"1", b"2"]


def test_trouble_has_not_ended_when_nothing_waits_any_more(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when what waited was dropped: that the server works is said when it answers."""
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, retry_max=1)
    proxy.down.set()
    path = spool(backend)
    backend.start()
    try:
        wait_for(backend.health)
        path.unlink()
        tries = backend.stats()["retries"]
        wait_for(lambda: backend.stats()["retries"] > tries + 1)
        assert backend.health().startswith(("connection cut: ", "unreachable: "))
        assert "uploads work again" not in caplog.text
        proxy.down.clear()
        wait_for(lambda: not backend.health())
    finally:
        backend.stop()


def test_a_segment_that_vanishes_holds_up_nobody(
    backend: S3Backend, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = spool(backend, second=0), spool(backend, second=1)

    def vanish(_: FaultProxy, request: Any, connection: Any) -> None:
        second.unlink()
        connection.sendall(proxy.forward(request))

    proxy.on("PUT", "", vanish)
    assert len(sent(backend)) == 1
    assert not first.exists()
    assert "segment is gone from the spool" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_cannot_be_read_is_set_aside_and_the_others_go(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        try:
            backend = backend_of(proxy.endpoint, s3_bucket, Path(folder))
            poison, good = spool(backend, b"poison", second=0), spool(backend, b"good", second=1)
            poison.chmod(0)
            assert len(sent(backend)) == 1
            assert spooled(backend) == ["quarantine"]
            assert (Path(backend.spool.folder) / "quarantine" / poison.name).exists()
            assert not good.exists()
            assert backend.stats()["quarantined"] == 1
            assert "set aside" in caplog.text
        finally:
            os.seteuid(0)


def test_what_is_set_aside_replaces_nothing_that_was_before(backend: S3Backend) -> None:
    aside = Path(backend.spool.folder) / "quarantine"
    for buf in (b"first", b"second", b"third"):
        path = spool(backend, buf)
        os.utime(path, (0, 0))
        backend.spool.quarantine(str(path), "a test")
        assert not path.exists()
        backend._names.clear()
    assert len([path for path in aside.iterdir() if path.name.startswith(PREFIX)]) == 3
    assert {buf for path in aside.iterdir() for buf in (b"first", b"second", b"third") if buf in path.read_bytes()} == {
        b"first", b"second", b"third"
    }  # fmt: skip
    assert backend.stats()["quarantined"] == 3


def test_what_a_spool_makes_is_for_its_owner_alone(backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr("sipdump_s3.spool.sync_folder", synced.append)
    umask = os.umask(0)
    try:
        path = spool(backend)
        backend.spool.quarantine(str(path), "a test")
        assert not backend.spool.lock()
    finally:
        os.umask(umask)
    folder = Path(backend.spool.folder)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (folder, *folder.iterdir())}
    assert modes == {folder.name: 0o700, "quarantine": 0o700, ".shipper": 0o600}
    assert synced == [str(folder.parent)]  # its name
    backend.spool.unlock()


def test_a_lock_that_is_a_link_is_not_followed(backend: S3Backend, tmp_path: Path) -> None:
    spool(backend)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (Path(backend.spool.folder) / ".shipper").symlink_to(victim)
    with pytest.raises(StorageError, match="lock spool"):
        list(backend.ship())
    assert victim.read_text() == "precious"


def test_a_spool_that_others_could_write_to_is_refused(backend: S3Backend) -> None:
    folder = Path(backend.spool.folder)
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    with pytest.raises(StorageError, match="others could put segments there"):
        backend.start()
    folder.chmod(0o700)
    backend.start()
    backend.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of another user")
def test_a_spool_behind_another_users_link_is_refused(backend: S3Backend, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    os.symlink(mine, backend.spool.folder)
    os.lchown(backend.spool.folder, 65534, 65534)
    with pytest.raises(StorageError, match="others could put segments there"):
        backend.start()


def test_a_second_one_at_the_same_spool_waits_and_says_for_whom(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (backend_of(proxy.endpoint, s3_bucket, tmp_path) for _ in range(2))
    one.start()
    wait_for(lambda: one.spool.locked)
    two.start()
    try:
        wait_for(lambda: f"with pid {os.getpid()}" in two.health())
        with pytest.raises(StorageError, match="it is in use by"):
            list(two.ship())
        spool(two, b"of two")
        wait_for(lambda: not spooled(one))
    finally:
        one.stop()
    try:
        wait_for(lambda: two.spool.locked)
        spool(two, b"alone", second=1)
        wait_for(lambda: not spooled(two))
        wait_for(lambda: not two.health())
    finally:
        two.stop()
    assert stored(one) == [b"of two", b"alone"]
    assert caplog.text.count("which ships the segments there") == 1


def test_the_end_waits_for_a_silent_server_no_longer_than_it_may(
    proxy: FaultProxy, s3_bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, stop_wait=0)
    proxy.on("PUT", "", stall, times=99)
    before = threading.enumerate()
    backend.start()
    spool(backend, b"one")
    wait_for(lambda: proxy.count("PUT"))
    backend.stop()
    assert "server is silent" in caplog.text
    assert len(spooled(backend)) == 1
    started = [each for each in threading.enumerate() if each not in before]
    (thread,) = (each for each in started if each.name == "sipdump-s3-shipper")
    proxy.clear()
    thread.join(30)
    assert not thread.is_alive()


class Outage:
    """A clock that runs as fast as it is waited for; the server is away until some time by it."""

    def __init__(self, proxy: FaultProxy, seconds: float) -> None:
        self.clock = FakeClock()
        self.waits: list[float] = []
        self._proxy = proxy
        self._end = self.clock.monotonic() + seconds
        proxy.down.set()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if self._proxy.down.is_set():
            self.waits.append(seconds)
            self.clock.advance(seconds)
            if self.clock.monotonic() >= self._end:
                self._proxy.down.clear()
            return event.is_set()
        return event.wait(min(seconds, 0.01))


def test_two_hours_of_outage(backend: S3Backend, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    for minute in range(0, 60, 10):
        spool(backend, b"%d" % minute, stamp=f"2026-11-22--21-{minute:02}")
    outage = Outage(proxy, 7200)
    shipper = Shipper(
        backend.spool, backend.inner, backend.keys, backend.opts, backend.bucket, outage.clock, outage.wait
    )
    shipper.start()
    wait_for(lambda: not spooled(backend), 60)
    wait_for(lambda: not shipper.illness)
    shipper.stop(5)
    assert sum(outage.waits) >= 7200
    assert max(outage.waits) <= backend.opts.retry_max
    assert 60 <= len(outage.waits) < 400, "some 120 s are waited at the most, 60 s on average"
    assert len({round(seconds, 3) for seconds in outage.waits}) > len(outage.waits) // 2, "they differ"
    assert stored(backend) == [b"0", b"10", b"20", b"30", b"40", b"50"]
    assert caplog.text.count("uploads work again") == 1
    assert backend.stats()["retries"] == len(outage.waits)


def test_writing_never_waits_for_the_network(proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> None:
    """While the server is silent, records come in by the thousand."""
    backend = backend_of(proxy.endpoint, s3_bucket, tmp_path, stop_wait=60)
    proxy.on(".*", "", stall, times=99)
    backend.start()
    spool(backend)
    wait_for(lambda: proxy.requests)
    for second in range(1, 20):
        spool(backend, *[b"x" * 100] * 1000, second=second)
    assert len(spooled(backend)) == 20
    assert len(proxy.requests) == 1
    proxy.clear()
    backend.stop()
    assert len(stored(backend)) == 19_001


def test_objects_hold_what_the_spool_held(backend: S3Backend, client: Any) -> None:
    content = {}
    for second, buf in enumerate((b"", b"x", BIG)):
        path = spool(backend, buf, second=second)
        content[path.name] = path.read_bytes()
    sent(backend)
    keys = objects(client, backend.opts.bucket)
    assert {key.rpartition("/")[2]: object_bytes(client, backend.opts.bucket, key) for key in keys} == content


def test_a_file_that_is_just_being_made_is_not_taken_for_sealed(backend: S3Backend) -> None:
    """It has a name before it has its lock."""
    path = spool(backend)
    backend.spool.writing = path.name
    assert list(backend.ship()) == []
    backend.spool.writing = ""
    assert len(sent(backend)) == 1
