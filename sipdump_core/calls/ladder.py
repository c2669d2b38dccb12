"""The ladder of a call: who sent what to whom, and when, laid out for any renderer."""

from collections.abc import Mapping, Sequence

import attrs

from sipdump_core.calls.arrows import Arrow
from sipdump_core.calls.call import Call
from sipdump_core.calls.summary import Summary

__all__ = ["Column", "Ladder", "Step", "lay_out"]


@attrs.frozen
class Column:
    """A participant: a column of the ladder."""

    address: str
    """As ``192.0.2.1:5060``."""
    name: str
    """What it is called: the name that was given for it, else its address."""


@attrs.frozen
class Step:
    """One arrow of the ladder."""

    number: int
    """From 1, in order."""
    since_us: int
    """Microseconds since the first step."""
    source: int
    """The index of the column that it leaves."""
    target: int
    """The index of the column that it reaches; the same for a message that a server sends to itself."""
    label: str
    """Method, or status and reason phrase."""
    mark: str
    """``request``, ``provisional``, ``success``, ``redirect``, ``failure`` or ``other``: how it is coloured."""
    sdp: bool
    """Whether it has a session description."""
    copies: int
    """How often it was sent."""
    arrow: Arrow
    """The message, with its records."""
    call: int
    """The index of the call (leg) that it belongs to."""


@attrs.frozen
class Ladder:
    """What a renderer draws."""

    columns: Sequence[Column]
    """In the order of the path."""
    steps: Sequence[Step]
    """In order of time and causality."""
    calls: Sequence[Summary]
    """The calls that are drawn, the one asked for first."""
    notes: Sequence[str]
    """What a reader has to know: clocks that differ, values that linked too many Call-IDs."""


def lay_out(
    calls: Sequence[Call],
    *,
    now_us: int | None = None,
    names: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Ladder:
    """Lay out one call, or several legs of one.

    Args:
        calls: the call asked for, and its other legs.
        now_us: as of :meth:`~sipdump_core.calls.call.Call.state`.
        names: names by address, with or without its port.
        notes: more notes.
    """
    raise NotImplementedError
