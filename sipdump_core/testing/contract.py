"""The contract: all checks in one class."""

from collections.abc import Callable
from typing import Any

from sipdump_core.testing.costs import CostChecks
from sipdump_core.testing.deleting import DeleteChecks
from sipdump_core.testing.driver import DriverChecks
from sipdump_core.testing.failures import FailureChecks
from sipdump_core.testing.files import FileChecks
from sipdump_core.testing.filtering import FilterContract, LeakChecks
from sipdump_core.testing.network import NetworkChecks
from sipdump_core.testing.process import ProcessChecks
from sipdump_core.testing.promises import promise_of
from sipdump_core.testing.search import SearchChecks
from sipdump_core.testing.store import StoreChecks
from sipdump_core.testing.writer import WriterChecks

__all__ = ["Contract", "checks"]


class Contract(  # pytest runs the last one's checks first
    NetworkChecks,
    ProcessChecks,
    CostChecks,
    SearchChecks,
    FileChecks,
    DeleteChecks,
    StoreChecks,
    FailureChecks,
    LeakChecks,
    WriterChecks,
    DriverChecks,
):
    """What every backend promises. A test class derives from it and says which backend it checks::

        from sipdump_core.testing import Contract

        class TestContract(Contract):
            backend_class = LinesBackend
            options = {"width": 100}

    Override what differs for a backend: ``make_backend``, ``settle``, ``received``, ``kept``, ``outage``. A
    check that does not apply is skipped with the reason, as "not checked: ...".
    """


def checks() -> dict[str, str]:
    """Return each check's promise by its name, those of filters last."""
    found: dict[str, Callable[..., Any]] = {}
    for cls in (*reversed(Contract.__bases__), FilterContract):
        found |= {name: value for name, value in vars(cls).items() if name.startswith("test_")}
    return {name: promise_of(check) for name, check in found.items()}
