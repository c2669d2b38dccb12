"""What the HEP decoder remembers of each peer: its flows, how its packets are laid out, what tells its direction."""

import re
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from sipdump_core.cache import Remembered, Weighed
from sipdump_core.record import Flow
from sipdump_core.sources.direction import Direction, Local, Question
from sipdump_core.sources.hep_chunks import MICROS, PAYLOAD, SECONDS, read_chunks

__all__ = ["MICROS_HEAD", "PEER_BYTES", "Layout", "Open", "Peer"]

PEER_BYTES = 5000
"""What a peer takes of which nothing is known yet, rather more."""
_FLOW_BYTES = 1200
_LAYOUT_BYTES = 250
_LAYOUT_MAX = 1024
_FAMILIES = (2, 10, 28, 30)
MICROS_HEAD = b"\0\0\0\x0a\0\x0a"
"""Between seconds and microseconds of a packet whose layout can be learned."""
_TIME_CHUNKS = re.compile(rb"\0\0\0\x09\0\x0a.{4}" + re.escape(MICROS_HEAD) + rb".{4}", re.DOTALL)
_LEARN_LIMIT = 100


@attrs.define
class Open:
    """What a flow's messages have in common where each of them has a say in its tag, its transport, or both."""

    flow: Flow
    question: Question | None
    """What tells the tag; None where ``flow`` has it."""
    variants: dict[tuple[str, str], Flow] = attrs.field(factory=dict)
    """The flow with another tag or transport."""

    def variant(self, tag: str, proto: str) -> Flow:
        """Return the flow with a tag and a transport; the same for the same ones."""
        if tag == self.flow.tag and proto == self.flow.proto:
            return self.flow
        found = self.variants.get((tag, proto))
        if found is None:
            found = self.variants[tag, proto] = attrs.evolve(self.flow, tag=tag, proto=proto)
        return found


@attrs.define
class Layout:
    """How all of a peer's packets are laid out: everything but time and payload identifies the flow."""

    struct: struct.Struct
    flows: Weighed[tuple[bytes, bytes], tuple[Flow | Open, str]]
    """Each flow with the correlation id, by what is before the time, and between time and payload."""
    hits: int = 0
    learned: int = 0
    unpack: Callable[..., tuple[Any, ...]] = attrs.field(init=False)
    """``unpack_from`` of the struct, and below its size: kept, as they are asked for again and again."""
    start: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.unpack, self.start = self.struct.unpack_from, self.struct.size


Flows = Weighed[tuple[Any, ...], Open | Flow]


def _forget_flows(flows: Flows, layouts: dict[bytes, Layout]) -> None:
    flows.clear()
    for layout in layouts.values():
        layout.flows.clear()
    layouts.clear()


class Peer(Remembered):
    """What is remembered of one peer.

    Args:
        local: what counts as any sender's own.
        charge: told by how many bytes this has grown, or shrunk.
    """

    def __init__(self, local: Local, charge: Callable[[int], None]) -> None:
        self._charge = charge
        self.flows: Flows = Weighed(charge, _FLOW_BYTES)
        self.layouts: dict[bytes, Layout] = {}
        """By the family: a server's IPv4 and IPv6 traffic are of two layouts."""
        # what was learned may change the tags of flows; not a method of this, so that it goes when it is forgotten
        self.direction = Direction(local, partial(_forget_flows, self.flows, self.layouts), charge)

    def learn(self, data: bytes, chunks: dict[int, bytes], flow: Flow | Open, link: str) -> None:
        """Remember a packet's layout, if its time is in one piece and its payload at its end.

        Args:
            data: the packet.
            chunks: its chunks.
            flow: what it was decoded to.
            link: its correlation id.
        """
        family = data[12:13]
        start = len(data) - len(chunks[PAYLOAD])
        if family[0] not in _FAMILIES or start > _LAYOUT_MAX:
            return
        layout = self.layouts.get(family)
        if layout is not None and layout.learned > _LEARN_LIMIT and layout.hits < layout.learned:
            return  # something else varies from packet to packet, a correlation id say
        found = _TIME_CHUNKS.search(data, 6, 200)
        if found is None or found.end() + 6 > start or data[start - 6 : start - 2] != b"\0\0\0\x0f":
            return
        seconds, micros = found.start() + 6, found.end() - 4
        # The proof: with other bytes in these places, just these three chunks are others.
        other = bytearray(data)
        for place in (*range(seconds, seconds + 4), *range(micros, micros + 4)):
            other[place] ^= 0xFF
        other[start:] = bytes(len(data) - start)
        changed = {SECONDS: bytes(other[seconds : seconds + 4]), MICROS: bytes(other[micros : micros + 4])}
        if read_chunks(bytes(other)) != {**chunks, **changed, PAYLOAD: bytes(other[start:])}:
            return
        shape = struct.Struct(f">4sH{seconds - 6}sI6sI{start - 2 - found.end()}sH")
        if layout is None or layout.struct.format != shape.format:
            hits, learned = (layout.hits, layout.learned) if layout else (0, 0)
            if layout:
                layout.flows.clear()
            layout = self.layouts[family] = Layout(shape, Weighed(self._charge, _LAYOUT_BYTES), hits, learned)
        layout.learned += 1
        _, _, before, _, _, _, after, _ = shape.unpack_from(data)
        layout.flows.keep((before, after), (flow, link))
