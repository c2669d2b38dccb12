"""What ``pytest --sipdump-backend=NAME`` runs: the contract, for that backend."""

from collections.abc import Iterator

import pytest

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.testing.contract import Contract
from sipdump_core.testing.plugin import CHOSEN

__all__ = ["TestContract"]


class TestContract(Contract):
    """The contract, for the backend named on the command line."""

    @pytest.fixture(autouse=True)
    def _chosen(self, pytestconfig: pytest.Config) -> Iterator[None]:
        chosen = pytestconfig.stash[CHOSEN]
        assert issubclass(chosen.cls, Backend)
        self.backend_class, self._options = chosen.cls, chosen.options
        if not chosen.proxied:
            yield
            return
        with chosen.proxy() as self.proxy:
            self._options = chosen.through(self.proxy)
            yield

    def make_backend(self, site: Site) -> Backend:
        """Make the backend with the options of the command line."""
        return self.backend_class(self._options, site)
