"""What a question was asked of: for the answer "there is nothing", and for what could not be read."""

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:  # so that --help need not load what reads a store
    from sipdump_core.reading.shelves import Shelved

__all__ = ["Searched"]


@attrs.define
class Searched:
    """What a question was asked of; it grows while the answer is read."""

    segments: int = 0
    """How many segments were read."""
    backends: set[str] = attrs.field(factory=set)
    """In which backends."""
    oldest: float | None = None
    """When the oldest of them starts, by its name: seconds since the epoch."""
    newest: float | None = None
    """The last write to any of them."""
    problems: list[str] = attrs.field(factory=list)
    """What could not be read, one line each."""
    notes: list[str] = attrs.field(factory=list)
    """What else a reader has to know."""
    _counted: set[tuple[str, str, str]] = attrs.field(factory=set, repr=False)

    def problem(self, text: str) -> None:
        """Take down what could not be read, once."""
        if text not in self.problems:
            self.problems.append(text)

    def note(self, text: str) -> None:
        """Take down what a reader has to know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def count(self, shelved: "Shelved") -> None:
        """Take down a segment that was read; it counts once, however often that is."""
        key = shelved.backend.name, shelved.node, shelved.stored.location or shelved.stored.segment.name
        if key in self._counted:
            return
        self._counted.add(key)
        self.segments += 1
        self.backends.add(shelved.backend.name)
        start, modified = shelved.start, shelved.stored.modified
        if start is not None:
            self.oldest = start if self.oldest is None else min(start, self.oldest)
        self.newest = modified if self.newest is None else max(modified, self.newest)
