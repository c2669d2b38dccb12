"""Sorts records into calls as they come."""

from sipdump_core.calls.call import Call
from sipdump_core.calls.message import Message
from sipdump_core.record import Record

__all__ = ["CallTracker"]


class CallTracker:
    """Sorts records into calls by their Call-ID, one at a time, in any order.

    Feeding is cheap; a call works out what happened when it is asked. What is tracked stays in memory until it is
    dropped: :meth:`drop` and :meth:`idle` are how a caller bounds it.
    """

    calls: dict[str, Call]
    """The calls by Call-ID, longest idle first."""
    newest_us: int
    """The time of the newest record so far, in microseconds since the epoch."""
    ignored: int
    """How many records had no Call-ID."""

    def __init__(self) -> None:
        self.calls = {}
        self.newest_us = 0
        self.ignored = 0

    def feed(self, record: Record) -> Call | None:
        """Add a record to its call, and return the call; None if the message has no Call-ID."""
        message = Message(record.buf)
        call_id = message.call_id
        if call_id is None:
            self.ignored += 1
            return None
        call = self.calls.pop(call_id, None)
        if call is None:
            call = Call(call_id)
        self.calls[call_id] = call  # last again: calls are in order of their last messages
        call.add(record, message)
        self.newest_us = max(self.newest_us, record.time_us)
        return call

    def drop(self, call_id: str) -> Call | None:
        """Forget a call, and return it; None if there is none."""
        return self.calls.pop(call_id, None)

    def idle(self, before_us: int) -> list[Call]:
        """Forget the calls that had no message since a time, and return them, longest idle first.

        Args:
            before_us: microseconds since the epoch.
        """
        found = []
        for call in self.calls.values():
            if call.newest_us >= before_us:
                break
            found.append(call)
        for call in found:
            del self.calls[call.call_id]
        return found
