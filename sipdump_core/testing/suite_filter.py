"""What ``pytest --sipdump-backend=NAME`` runs if that is a filter: its contract."""

import pytest

from sipdump_core.drivers.base import Filter
from sipdump_core.testing.filtering import FilterContract
from sipdump_core.testing.plugin import CHOSEN

__all__ = ["TestContract"]


class TestContract(FilterContract):
    """The contract, for the filter named on the command line."""

    @pytest.fixture(autouse=True)
    def _chosen(self, pytestconfig: pytest.Config) -> None:
        self._made = pytestconfig.stash[CHOSEN]

    def make_filter(self) -> Filter:
        """Make the filter with the options of the command line."""
        cls = self._made.cls
        assert issubclass(cls, Filter)
        return cls(self._made.options)
