"""Legs: Call-IDs that belong to one call, because messages say so (a B2BUA makes a new Call-ID for each side)."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sipdump_core.calls.call import Call
from sipdump_core.calls.message import Message
from sipdump_core.calls.summary import Leg
from sipdump_core.record import Record

__all__ = ["CROWD", "Crowd", "Evidence", "LegIndex", "LegRules", "correlations"]

CROWD = 20
"""A value on more Call-IDs than this links nothing: it is reported and not followed."""


class Evidence(NamedTuple):
    """A value that links Call-IDs."""

    kind: str
    """hep, x-cid, x-call-id, session-id, icid, suffix or header."""
    value: str
    """As it is compared: of a suffix the Call-ID without it, of a Session-ID one UUID."""


class Crowd(NamedTuple):
    """A value that is on too many Call-IDs to mean anything."""

    kind: str
    value: str
    call_ids: int
    """How many Call-IDs have it."""


def correlations(record: Record) -> frozenset[str]:
    """Return the values by which a record names other legs of its call, as the column ``correlation`` has them."""
    raise NotImplementedError


class LegRules:
    """What links Call-IDs, beside the headers that are known: X-CID, X-Call-ID, Session-ID, icid-value, a suffix.

    Args:
        headers: names of headers whose value (up to a semicolon) two legs have in common.
        patterns: regular expressions (RE2) that are searched in the headers; their first group is such a value.
        heuristic: also link calls between the same users that one node saw begin within a second.

    Raises:
        ConfigError: a pattern is no regular expression, or has no group.
    """

    def __init__(self, headers: Sequence[str] = (), patterns: Sequence[str] = (), heuristic: bool = False) -> None:
        raise NotImplementedError

    def evidence(self, record: Record, message: Message | None = None) -> set[Evidence]:
        """Return what a record has to link it with others, its own Call-ID left out."""
        raise NotImplementedError


class LegIndex:
    """Finds which of the calls that were added belong together."""

    def __init__(self, rules: LegRules | None = None) -> None:
        raise NotImplementedError

    def add(self, call: Call) -> None:
        """Add a call with what its messages say."""
        raise NotImplementedError

    def values(self, call_id: str) -> set[str]:
        """Return what to look for in a store to find the legs of a call: values, and Call-IDs that it names."""
        raise NotImplementedError

    def legs(self, call_id: str) -> list[Leg]:
        """Return the other legs of a call, through any number of steps, nearest first."""
        raise NotImplementedError

    @property
    def crowds(self) -> list[Crowd]:
        """The values that were not followed, because they are on more than :data:`CROWD` Call-IDs."""
        raise NotImplementedError


_ = re, Iterable
