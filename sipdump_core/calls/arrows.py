"""Arrows: each message once a hop, however often it was sent there and however many nodes saw it."""

from collections.abc import Sequence

from sipdump_core.calls.message import Message
from sipdump_core.record import Record

__all__ = ["Arrow"]


class Arrow:
    """One message on one hop."""

    message: Message
    records: Sequence[Record]
    """What was stored of it: by each node that saw it, and each retransmission."""
    src: str
    """Where it was sent from, as ``192.0.2.1:5060``."""
    dst: str
    """Where it was sent to."""
    time_us: int
    """When it was first sent, by the first node's clock: corrected where the clocks of nodes contradict each other."""
    copies: int
    """How often it was sent: 1, and one more for each retransmission."""
    nodes: Sequence[str]
    """The nodes that saw it."""
