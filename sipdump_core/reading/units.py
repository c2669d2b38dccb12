"""Which of the stored segments to read, so that each record comes once.

One segment is stored by several backends, under one stem; a backend whose store failed for a while went on in a fresh
file of the same second; a compaction put many into one; retention has deleted here what is still there. All that may
hold the same records makes one unit, and of a unit the holdings of one backend are read, and of the others only what
that one has not.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Generic, TypeVar

import attrs

from sipdump_core.drivers.base import Backend
from sipdump_core.pipeline.dead_letter import DeadLetters
from sipdump_core.segment import StoredSegment

__all__ = ["Family", "Holding", "Unit", "family", "units"]

Family = tuple[str, str, str]
"""Node, prefix and stamp: the segments of all backends that were opened at one moment, whatever their sequence."""


def family(node: str, stored: StoredSegment) -> Family:
    """Return the family of a segment."""
    return node, stored.segment.prefix, stored.segment.stamp


@attrs.frozen
class Holding:
    """A segment in one backend's store."""

    backend: Backend
    stored: StoredSegment
    node: str = ""
    """The collector that stored it, or where it did: names are the same in other places, and mean nothing there."""
    sources: frozenset[str] = frozenset()
    """Stems of the segments that a compaction made it of."""
    prefix_stamps: frozenset[tuple[str, str]] = frozenset()
    """Prefix and stamp of these."""

    @property
    def covers(self) -> frozenset[Family]:
        """The families whose records it may hold."""
        own = family(self.node, self.stored)
        return frozenset({own} | {(self.node, prefix, stamp) for prefix, stamp in self.prefix_stamps})


H = TypeVar("H", bound=Holding)


@attrs.frozen
class Unit(Generic[H]):
    """Holdings to be read, of which each record comes once."""

    holdings: Sequence[H]
    spare: Sequence[H]
    """What holds the same records, for where one of ``holdings`` cannot be read."""
    overlapping: bool = False
    """Two compactions put different segments together: records may come twice, and must be told by their content."""


def units(holdings: Iterable[H], asked: Collection[str] = ()) -> list[Unit[H]]:
    """Choose what to read.

    Args:
        holdings: all that is stored.
        asked: fields of a record that the question needs, as ``"node"``; a backend that loses one comes last.

    Returns:
        Units, by the start of their oldest segment.
    """
    return sorted((_choose(some, asked) for some in _connected(_without_sources(holdings))), key=_start)


def _without_sources(holdings: Iterable[H]) -> list[H]:
    """Leave out what the same backend holds in a merged segment, too: a compaction is under way, or was cut off."""
    holdings = list(holdings)
    merged = {(id(holding.backend), holding.node, stem): holding for holding in holdings for stem in holding.sources}
    return [
        holding
        for holding in holdings
        if merged.get((id(holding.backend), holding.node, holding.stored.segment.stem), holding) is holding
    ]


def _connected(holdings: Sequence[H]) -> Iterable[list[H]]:
    """Yield the groups of holdings that share families, directly or by way of others."""
    root: dict[Family, Family] = {}

    def find(one: Family) -> Family:
        while (above := root.setdefault(one, one)) != one:
            root[one] = one = root.setdefault(above, above)
        return one

    for holding in holdings:
        first, *others = holding.covers
        for other in others:
            root[find(other)] = find(first)
    groups: defaultdict[Family, list[H]] = defaultdict(list)
    for holding in holdings:
        groups[find(family(holding.node, holding.stored))].append(holding)
    return groups.values()


def _choose(holdings: Sequence[H], asked: Collection[str]) -> Unit[H]:
    dead = [holding for holding in holdings if isinstance(holding.backend, DeadLetters)]
    unit = _best([holding for holding in holdings if not isinstance(holding.backend, DeadLetters)], asked)
    # what one backend refused another one may have, or refused too
    return attrs.evolve(unit, holdings=[*unit.holdings, *dead], overlapping=True) if dead else unit


def _best(holdings: Sequence[H], asked: Collection[str]) -> Unit[H]:
    by_backend: defaultdict[int, list[H]] = defaultdict(list)
    for holding in holdings:
        by_backend[id(holding.backend)].append(holding)
    counts = {key: _records(some) for key, some in by_backend.items()}
    most = max(counts.values(), default=0)

    def rank(key: int) -> tuple[object, ...]:
        some = by_backend[key]
        backend = some[0].backend
        return (
            -len(frozenset[Family]().union(*(holding.covers for holding in some))),
            most - counts[key] if counts[key] else 0,
            len({*asked} & {*backend.loses}),
            backend.forgeable,
            backend.remote,
            len(backend.loses),
            backend.name,
        )

    chosen: list[H] = []
    spare: list[H] = []
    covered: set[Family] = set()
    overlapping = False
    for key in sorted(by_backend, key=rank):
        before = frozenset(covered)
        for holding in by_backend[key]:
            if holding.covers <= before:
                spare.append(holding)
                continue
            overlapping |= bool(holding.covers & before)
            chosen.append(holding)
            covered |= holding.covers
    chosen.sort(key=lambda holding: holding.stored.segment)
    return Unit(chosen, spare, overlapping)


def _records(holdings: Sequence[Holding]) -> int:
    """Return how many records some segments hold, 0 where that is not known of one."""
    counts = [holding.stored.records for holding in holdings]
    return sum(count or 0 for count in counts) if all(counts) else 0


def _start(unit: Unit[H]) -> tuple[str, int, str]:
    first = unit.holdings[0].stored.segment
    return first.stamp, first.sequence, first.prefix
