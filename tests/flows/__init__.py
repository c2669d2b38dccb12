"""Call flows with answers worked out by hand, as every reader and every backend must find them."""

from tests.flows import corners, edges, legs, others, rfc3665, rfc5359
from tests.flows.scene import Flow

__all__ = ["FLOWS", "Flow"]

MODULES = (rfc3665, rfc5359, corners, edges, others, legs)
FLOWS: tuple[Flow, ...] = tuple(make() for module in MODULES for make in module.FLOWS)
