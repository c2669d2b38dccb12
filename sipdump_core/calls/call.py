"""A call: all messages of one Call-ID, and what happened in it."""

from collections.abc import Iterable, Sequence

from sipdump_core.calls.arrows import Arrow
from sipdump_core.calls.message import Message
from sipdump_core.calls.summary import Leg, Summary
from sipdump_core.record import Record

__all__ = ["Call"]


class Call:
    """All messages of one Call-ID: of a call, a registration, or whatever else a Call-ID is used for.

    What happened is worked out when it is first asked for, and again after the next message.
    """

    call_id: str
    records: list[Record]
    """The records as they were fed."""
    oldest_us: int
    """The time of the earliest record, in microseconds since the epoch."""
    newest_us: int
    """The time of the latest record."""

    def __init__(self, call_id: str) -> None:
        raise NotImplementedError

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Call":
        """Make a call of records of one Call-ID."""
        raise NotImplementedError

    def add(self, record: Record, message: Message | None = None) -> None:
        """Add a record of this Call-ID."""
        raise NotImplementedError

    @property
    def arrows(self) -> Sequence[Arrow]:
        """Every message once a hop, in the order in which they were sent; see :mod:`sipdump_core.calls.arrows`."""
        raise NotImplementedError

    @property
    def clocks(self) -> dict[str, int]:
        """How far the clocks of nodes are ahead of the first node's, in microseconds, where causality shows it."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """What the Call-ID is used for; see :data:`~sipdump_core.calls.summary.KINDS`."""
        raise NotImplementedError

    def state(self, now_us: int | None = None) -> str:
        """Return what became of it; see :attr:`~sipdump_core.calls.summary.Summary.state`.

        Args:
            now_us: the time that ages are counted to, in microseconds since the epoch: that of the newest record of
                the store, or now while a segment is open. Without it, the call's own latest record.
        """
        raise NotImplementedError

    def summary(self, now_us: int | None = None, legs: Sequence[Leg] = ()) -> Summary:
        """Return all that there is to say about it.

        Args:
            now_us: as of :meth:`state`.
            legs: what :class:`~sipdump_core.calls.legs.LegIndex` found.
        """
        raise NotImplementedError
