"""Call flows with answers worked out by hand, as every reader and every backend must find them."""

from tests.flows import corners, edges, legs, others, rfc3665, rfc5359
from tests.flows.scene import Flow

__all__ = ["FLOWS", "Flow"]

FLOWS: tuple[Flow, ...] = tuple(
    make() for module in (rfc3665, rfc5359, corners, edges, others, legs) for make in module.FLOWS
)
