"""The contract kit: good backends pass, each broken one is caught by the check that names its fault."""

from types import ModuleType

import pytest

from sipdump_core.testing.contract import checks
from tests.broken import contents, processes, segments
from tests.broken.good import FAULTS, FileContract, GoodStreamWithSegments, StreamContract
from tests.broken.run import caught


class TestGood(FileContract):
    pass


class TestGoodStream(StreamContract):
    pass


class TestGoodStreamWithSegments(StreamContract):
    backend_class = GoodStreamWithSegments


@pytest.mark.parametrize("module", [contents, segments, processes], ids=lambda module: module.__name__)
def test_every_broken_backend_is_caught(module: ModuleType) -> None:
    faults = [fault for fault in FAULTS if fault.backend.__module__ == module.__name__]
    assert len(faults) >= 30
    found = caught(faults)
    for fault in faults:
        said = found.get(fault.backend.__name__, {})
        assert said.keys() == set(fault.caught_by), fault.backend.__name__
        for check, message in said.items():
            assert checks()[check] in message.splitlines()[0]
