"""An S3 server for tests: moto's, over real HTTP, in a process of its own.

The environment variable ``SIPDUMP_TEST_S3_ENDPOINT`` names another server, as ``http://127.0.0.1:9000``; credentials
and region then come from the usual ``AWS_*`` variables. Each test has a bucket of its own there, and removes it.
"""

import functools
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

__all__ = ["Server", "moto_server", "object_bytes", "objects"]

_LAUNCH = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # ends with the test process, however that ends
"""


@attrs.frozen
class Server:
    """A server, and how to get in."""

    endpoint: str
    environment: dict[str, str]
    """Variables for boto3: credentials and region."""

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set the environment for boto3, so that it finds these credentials and no others."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in {**self.environment, "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Return a boto3 client of the test's own, which shares nothing with the code under test."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        made = _client(self.endpoint, *(self.environment[name] for name in names))
        try:
            yield made
        finally:
            made.close()  # its connections; the next one uses it again

    @contextmanager
    def bucket(self) -> Iterator[str]:
        """Have a bucket of one's own."""
        name = f"sipdump-test-{uuid.uuid4().hex[:12]}"
        with self.client() as client:
            client.create_bucket(Bucket=name)
            try:
                yield name
            finally:
                keys = list(objects(client, name))
                for at in range(0, len(keys), 1000):
                    some = [{"Key": key} for key in keys[at : at + 1000]]
                    client.delete_objects(Bucket=name, Delete={"Objects": some})
                for upload in client.list_multipart_uploads(Bucket=name).get("Uploads", ()):
                    client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
                client.delete_bucket(Bucket=name)


@contextmanager
def moto_server() -> Iterator[Server]:
    """Run a server, or give the one that the environment names."""
    given = os.environ.get("SIPDUMP_TEST_S3_ENDPOINT")
    if given:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        yield Server(given, {**{name: os.environ[name] for name in names}, "AWS_DEFAULT_REGION": _region()})
        return
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    try:
        port = int(process.stdout.readline())
        variables = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": _region()}
        yield Server(f"http://127.0.0.1:{port}", variables)
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


def objects(client: Any, bucket: str, prefix: str = "") -> dict[str, int]:
    """Return the size of every object by its key."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}


def object_bytes(client: Any, bucket: str, key: str) -> bytes:
    """Return an object's content."""
    with client.get_object(Bucket=bucket, Key=key)["Body"] as body:
        return bytes(body.read())


@functools.cache
def _client(endpoint: str, key: str, secret: str, region: str) -> Any:
    import boto3
    from botocore.config import Config

    session = boto3.session.Session(key, secret, region_name=region)
    return session.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))


def _region() -> str:
    return os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
