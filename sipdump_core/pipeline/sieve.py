"""Sifting: finds the records that a store refuses among those that it takes.

That a batch fails again and again tells nothing: the store may be down. What tells is that it takes other records
meanwhile. So nothing is refused before something else was stored: another record of the batch, or a batch that waits
behind it. Of a large batch, a few records are held back until the end, to see that the store still works. Only where
there is nothing else to store, the caller decides whether the store is believed to work.
"""

import random
from collections.abc import Callable, Sequence

from sipdump_core.drivers.batch import Batch

__all__ = ["AwayError", "Offer", "Sieve"]

_PROBES = 3
"""How many records are tried by themselves first, and how many are held back."""
_PATIENCE = 10.0
"""Seconds without success after which it is looked again whether the store works at all."""

Offer = Callable[[Callable[[Batch], Sequence[int]]], None]
"""Calls what it is given, which returns the places of what it could not store, with a batch that waits behind."""


class AwayError(Exception):
    """The store takes nothing now."""


class Sieve:
    """Sifts one batch.

    Args:
        batch: the batch; as a whole it fails.
        write: stores a part of it, and returns the places in that part of what is not stored. Raises AwayError.
        offer: stores a batch that waits behind this one, if there is one.
        pause: waits before records are tried once more.
        now: returns the monotonic time.
        believed: returns whether the store is believed to work though it has stored nothing; it is given whether a
            batch that waits behind fails, too.
    """

    def __init__(
        self,
        batch: Batch,
        write: Callable[[Batch], Sequence[int]],
        offer: Offer,
        pause: Callable[[], None],
        now: Callable[[], float],
        believed: Callable[[bool], bool],
    ) -> None:
        self.unproven = False
        """Whether the store was only believed to work."""
        self._batch = batch
        self._write = write
        self._offer = offer
        self._pause = pause
        self._now = now
        self._believed = believed
        self._others_fail = False
        self._left = set(range(len(batch)))
        """The places of what is not stored."""
        self._held: list[int] = []
        """The places of what is held back."""
        self._stored = False
        """Whether anything was stored since this was last set to False."""
        self._since = now()
        """When something was stored, or the store was last seen to work."""

    def run(self, tries: int) -> tuple[Sequence[int], bool]:
        """Store what can be stored.

        Args:
            tries: how often a record is tried by itself before it is refused.

        Returns:
            The places of what is not stored; and whether the store refuses that, or takes nothing at all.
        """
        try:
            self._sift(tries)
        except AwayError:
            return sorted(self._left), False
        return sorted(self._left), True

    def _sift(self, tries: int) -> None:
        count = len(self._batch)
        probes = random.sample(range(count), min(_PROBES, count)) if count > 1 else []
        for place in probes:
            self._try([place])
        self._prove()
        rest = [place for place in range(count) if place not in probes]
        self._held = random.sample(rest, min(_PROBES, len(rest) // 4))
        self._halve([place for place in rest if place not in self._held])
        self._try_again(self._left.difference(self._held), tries)
        held, self._held = self._held, []
        if held:
            self._stored = False
            self._halve(held)
            if self._left:
                self._prove()
            self._try_again(self._left.intersection(held), tries)

    def _prove(self) -> None:
        """See that the store takes something.

        Raises:
            AwayError: it has taken nothing lately, and does not now, and is not believed to work.
        """
        if self._held and not self._stored:
            self._try([self._held.pop()])
        if not self._stored:
            self._offer(self._offered)
        if not self._stored:
            if not self._believed(self._others_fail):
                raise AwayError
            self.unproven = True
        self._since = self._now()

    def _offered(self, batch: Batch) -> Sequence[int]:
        unstored = self._write(batch)
        self._stored |= len(unstored) < len(batch)
        self._others_fail |= len(unstored) == len(batch)
        return unstored

    def _try(self, places: Sequence[int]) -> None:
        """Try to store a part."""
        unstored = set(self._write(self._batch.part(places)))
        self._left -= {place for at, place in enumerate(places) if at not in unstored}
        if len(unstored) < len(places):
            self._stored, self._since = True, self._now()

    def _halve(self, places: Sequence[int]) -> None:
        """Store what can be stored of a part: the whole, or halves of it, down to single records."""
        waiting = [places] if places else []
        while waiting:
            part = waiting.pop()
            self._look()
            self._try(part)
            rest = [place for place in part if place in self._left]
            if len(rest) > 1:
                middle = len(rest) // 2
                waiting += [rest[middle:], rest[:middle]]

    def _try_again(self, suspects: set[int], tries: int) -> None:
        """Try single records so often that no passing trouble can be the reason."""
        for _ in range(1, tries):
            suspects &= self._left
            if not suspects:
                return
            self._pause()
            for place in sorted(suspects):
                self._look()
                self._try([place])

    def _look(self) -> None:
        """Look again whether the store works, when nothing was stored for a while."""
        if self._now() - self._since > _PATIENCE:
            self._stored = False
            self._prove()
