"""The contract kit: what every backend promises, as tests that a backend's author runs.

It needs pytest, and is imported by nothing else of sipdump. A test class derives from :class:`Contract`, or
``pytest --sipdump-backend=NAME`` runs the same checks over an installed driver. docs/contract.md has every check's
name and promise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sipdump_core.testing.contract import Contract
    from sipdump_core.testing.filtering import FilterContract
    from sipdump_core.testing.promises import does_not_apply, not_checked, promise
    from sipdump_core.testing.proxy import FaultProxy
    from sipdump_core.testing.samples import record

# The plugin is loaded with every pytest of a machine that has sipdump: the rest is loaded when first used.
_HOME = {
    "Contract": "contract",
    "FaultProxy": "proxy",
    "FilterContract": "filtering",
    "does_not_apply": "promises",
    "not_checked": "promises",
    "promise": "promises",
    "record": "samples",
}

__all__ = ["Contract", "FaultProxy", "FilterContract", "does_not_apply", "not_checked", "promise", "record"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sipdump_core.testing.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
