"""Fixtures of the tests of query engines, which take long to install and to start: ``make engines`` runs them."""

from pathlib import Path

import pytest

from tests import calls
from tests.s3_server import Server


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, s3_server: Server) -> Path:
    """What two collectors stored at the same time."""
    return calls.store(tmp_path_factory.mktemp("dataset"), s3_server)
