"""OpenStack Swift with its s3api: a real S3 server on loopback, to be killed and started again with its objects.

The environment variable ``SIPDUMP_SWIFT`` names the Python that has ``swift`` installed, in a virtual environment of
its own::

    python3 -m venv .venv-swift && .venv-swift/bin/pip install swift
    SIPDUMP_SWIFT=$PWD/.venv-swift/bin/python pytest tests/e2e

Seen with Swift 2.38.3, most of it shown by test_swift.py:

- It refuses a wrong secret (403 SignatureDoesNotMatch; an unknown access key too), a wrong Content-MD5, SHA256 or CRC32
  of an object or a part (400 BadDigest), and a taken key with ``IfNoneMatch="*"`` on PUT and CompleteMultipartUpload
  (412); of two that write at the same time both may succeed.
- All parts but the last have 5 MiB or more (400 EntityTooSmall, at the completion). Uploads and parts outlive a kill.
- It keeps no checksums: HEAD answers with size, metadata and ETag alone (MD5; of a multipart upload the MD5 of the
  parts' MD5s and ``-n``).
- A storage class other than STANDARD is refused (400), SSE and tags are too (501 NotImplemented).
- Addressing is by path, the region is us-east-1, access keys are of the form ``account:user``.
"""

import contextlib
import os
import re
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.peers import Child, lacking, program

VARIABLE = "SIPDUMP_SWIFT"
REGION = "us-east-1"

_NODE = Path(__file__).with_name("swift_node.py")


def need_swift(folder: Path) -> str:
    """Return the Python that has Swift; else skip the test, or fail it where all peers are asked for.

    Args:
        folder: where objects will stand; its file system must have extended attributes.
    """
    found = program(os.environ.get(VARIABLE, ""))
    if not found:
        lacking(f"not installed: OpenStack Swift, whose Python {VARIABLE} names")
    probe = folder / "xattr-probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", b"x" * 1000)
    except OSError as error:
        lacking(f"Swift needs extended attributes in {folder}: {error.strerror}")
    finally:
        probe.unlink()
    return os.path.abspath(found)  # links are not followed: of a virtual environment the link is the entrance


class SwiftServer:
    """A Swift of one process; ready when the ``with`` block begins, gone without a trace but its folder behind it.

    Args:
        folder: an empty folder, or that of an earlier server, whose objects are there again.
        access_key: of the form ``account:user``, of letters and digits.
        secret: the secret to it, without spaces and percent signs.
    """

    def __init__(self, folder: Path, access_key: str = "sipdump:tester", secret: str = "secret/+=") -> None:
        self.folder = folder
        self.access_key = access_key
        self.secret = secret
        self.port = 0
        """Where it listens; the same one for as long as this object lives."""
        self._python = need_swift(folder)
        self._child: Child | None = None
        self._starts = 0

    @property
    def endpoint(self) -> str:
        """The URL for ``endpoint_url``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that boto3 takes the credentials and the region from."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, again after ``kill`` on the same port, and wait until it listens."""
        assert self._child is None, "it runs"
        self._starts += 1
        arguments = [str(self.folder / "swift"), str(self.port), self.access_key, self.secret]
        # its deprecation warnings are no business of ours, and a proxy in the environment must not come between
        environment = {"PYTHONWARNINGS": "ignore", "http_proxy": None, "HTTP_PROXY": None}
        log = self.folder / f"swift-{self._starts}.log"
        # -P: the name swift must not mean the module beside the script
        self._child = Child([self._python, "-P", _NODE, *arguments], log, environment)
        try:
            self._child.says("listening port=", timeout=30)
        except AssertionError:
            self.kill()
            raise
        found = re.search(r"listening port=(\d+)", self._child.output())
        assert found
        self.port = int(found[1])

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does; does nothing where it does not run."""
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(signal.SIGKILL)
            child.wait()

    def output(self) -> str:
        """Return the log of the server that runs."""
        assert self._child is not None, "it does not run"
        return self._child.output()
