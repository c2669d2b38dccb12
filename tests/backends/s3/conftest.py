"""What the tests of the S3 backend share."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.s3_faults import FaultProxy
from tests.s3_server import Server


@pytest.fixture
def client(s3_server: Server) -> Iterator[Any]:
    """boto3's client of the server."""
    with s3_server.client() as made:
        yield made


@pytest.fixture
def proxy(s3_server: Server) -> Iterator[FaultProxy]:
    """What stands between the backend and the server, and fails as it is told."""
    with FaultProxy(s3_server.endpoint) as made:
        yield made
