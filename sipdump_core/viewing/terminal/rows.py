"""The rows of the call list: sorted as they come, bounded, and narrowed by a text."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable
from typing import Any

from sipdump_core.viewing.listing import Column, Row, joined, sort_key

__all__ = ["Rows"]

_Key = tuple[Any, ...]


class Rows:
    """The calls that are listed.

    Args:
        limit: how many are kept; the oldest go first. 0: all.
        by: the column that they are sorted by.
        downwards: whether the largest comes first.
    """

    def __init__(self, limit: int, by: Column, *, downwards: bool) -> None:
        self.limit = limit
        self.dropped = 0
        """Calls that were listed and are no more, because others are newer."""
        self.by, self.downwards = by, downwards
        self._key = sort_key(by, downwards=downwards)
        self._rows: dict[str, Row] = {}
        self._ages: list[tuple[int, str]] = []
        """Beginning and Call-ID of all, the oldest first."""
        self._keys: dict[str, _Key] = {}
        """The keys of those that are shown; each ends in the Call-ID."""
        self._order: list[_Key] = []
        self._text = ""
        self._calls_only = False

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._rows

    @property
    def total(self) -> int:
        """How many calls there are, also those that the text hides."""
        return len(self._rows)

    def at(self, place: int) -> Row:
        """Return the row at a place."""
        return self._rows[self._order[place][-1]]

    def get(self, call_id: str) -> Row | None:
        """Return the row of a call, shown or not; None if there is none."""
        return self._rows.get(call_id)

    def place(self, call_id: str | None) -> int | None:
        """Return where a call is shown; None if it is not."""
        key = self._keys.get(call_id or "")
        return None if key is None else bisect_left(self._order, key)

    def shown(self) -> list[str]:
        """Return the Call-IDs that are shown, in their order."""
        return [key[-1] for key in self._order]

    def states(self) -> Counter[str]:
        """Return how many calls are in each state, of those that are shown."""
        return Counter(self._rows[call_id].summary.state for call_id in self._keys)

    def put(self, rows: Iterable[Row]) -> None:
        """Add calls, or what is known of them by now."""
        for row in rows:
            call_id = row.call_id
            known = self._rows.get(call_id)
            if known is not None:
                row = joined(known, row)  # noqa: PLW2901 - it is the row from here on
                self._remove(call_id, known)
            self._rows[call_id] = row
            insort(self._ages, (row.summary.began, call_id))
            self._show(row)
            if self.limit and len(self._ages) > self.limit:
                oldest = self._ages[0][1]
                self._remove(oldest, self._rows[oldest])
                self.dropped += 1

    def remove(self, call_ids: Iterable[str]) -> None:
        """Take calls away."""
        for call_id in call_ids:
            known = self._rows.get(call_id)
            if known is not None:
                self._remove(call_id, known)

    def clear(self) -> None:
        """Take all away."""
        self.dropped = 0
        for each in (self._rows, self._ages, self._keys, self._order):
            each.clear()

    def sort(self, by: Column, *, downwards: bool) -> None:
        """Sort by another column."""
        self.by, self.downwards = by, downwards
        self._key = sort_key(by, downwards=downwards)
        self._rearrange()

    def narrow(self, text: str, *, calls_only: bool = False) -> None:
        """Show only what has a text somewhere, in any case.

        Args:
            text: the text; empty: everything has it.
            calls_only: hide registrations and the like.
        """
        self._text, self._calls_only = text.lower(), calls_only
        self._rearrange()

    def _rearrange(self) -> None:
        self._keys = {row.call_id: self._key(row) for row in self._rows.values() if self._has_text(row)}
        self._order = sorted(self._keys.values())

    def _show(self, row: Row) -> None:
        if self._has_text(row):
            key = self._keys[row.call_id] = self._key(row)
            insort(self._order, key)

    def _remove(self, call_id: str, row: Row) -> None:
        del self._rows[call_id]
        del self._ages[bisect_left(self._ages, (row.summary.began, call_id))]
        key = self._keys.pop(call_id, None)
        if key is not None:
            del self._order[bisect_left(self._order, key)]

    def _has_text(self, row: Row) -> bool:
        summary = row.summary
        if self._calls_only and summary.kind != "call":
            return False
        if not self._text:
            return True
        some = (
            row.call_id, summary.from_uri, summary.to_uri, summary.request_uri, summary.state, summary.status,
            summary.reason, row.method, row.agent, *summary.hops, *summary.nodes,
        )  # fmt: skip
        return self._text in " ".join(map(str, some)).lower()
