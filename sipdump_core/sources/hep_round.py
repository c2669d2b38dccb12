"""Decoding a round of packets at once, where they lie.

Nearly all packets of a peer are laid out alike, and differ from earlier ones in time and payload only. These are
decoded here, in one loop without a call for each. Whatever is odd, or new, goes to :meth:`HepDecoder.decode`, which
makes the same records of all others, too.
"""

from collections.abc import Callable, Iterable
from mmap import mmap

from sipdump_core.record import Flow, Record, new_record
from sipdump_core.sources.hep_chunks import MAGICS
from sipdump_core.sources.hep_decoder import MICROS_END, HepDecoder
from sipdump_core.sources.hep_peers import MICROS_HEAD, Layout, Open

__all__ = ["RoundDecoder"]

_FAMILY = 12
"""Where the address family is, in packets whose layout is known."""
_LINE_END = ord("\r")
"""No keep-alive begins with a byte that is greater."""
_EVER_US = 1 << 63

Address = tuple[str, int]


class RoundDecoder(HepDecoder):
    """Decodes rounds of packets, and single ones."""

    def decode_round(
        self,
        buffer: bytes | mmap,
        packets: Iterable[tuple[Address, int, int]],
        now_us: int,
        refuse: Callable[[Address, Exception], None],
    ) -> list[Record]:
        """Decode packets in their order, as :meth:`decode` does.

        Args:
            buffer: where the packets are; a slice of it is a copy. It has some 1,200 bytes more behind the last one.
            packets: of each its sender, where it begins, and its size in bytes.
            now_us: the receive time, microseconds since the epoch.
            refuse: is called with the sender of what cannot be decoded, and with the error.
        """
        records: list[Record] = []
        window = self._window or _EVER_US
        earliest, latest = now_us - window, now_us + window
        layouts: dict[tuple[Address, int], Layout] = {}
        sender: Address | None = None
        layout: Layout | None = None
        quick = family = 0
        for peer, at, size in packets:
            try:
                if peer is not sender or buffer[at + _FAMILY] != family:
                    sender, family = peer, buffer[at + _FAMILY]
                    layout = layouts.get((peer, family)) or self._layout(peer, family)
                    if layout is not None:
                        layouts[peer, family] = layout
                        unpack, start, flows = layout.unpack, layout.start, layout.flows
                if layout is not None and size > start:
                    magic, total, before, seconds, head, micros, after, length = unpack(buffer, at)
                    known = flows.get((before, after))
                    if (
                        known is not None
                        and total == size
                        and length == size - start + 6
                        and head == MICROS_HEAD
                        and buffer[at + start] > _LINE_END
                        and magic in MAGICS
                    ):
                        layout.hits += 1
                        time_us = seconds * 1_000_000 + micros
                        if micros >= MICROS_END or not earliest <= time_us <= latest:
                            time_us = self._time(seconds, micros, peer, now_us)
                        flow, link = known
                        buf = buffer[at + start : at + size]
                        if flow.__class__ is Flow:
                            quick += 1
                            records.append(new_record(time_us, flow, buf, link))
                        else:
                            if isinstance(flow, Open) and flow.question:  # what is learned may change layouts
                                sender, layouts = None, {}
                            found = self._ask_known(self._peers[peer], layout, (before, after), time_us, buf)
                            quick += len(found)
                            records += found
                        continue
                records += self.decode(buffer[at : at + size], peer, now_us)
            except Exception as error:  # noqa: BLE001 - one bad packet must not cost the others of its round
                refuse(peer, error)
            sender, layouts = None, {}  # what is known of peers may have changed
        self.counts["records"] += quick
        return records

    def _layout(self, peer: Address, family: int) -> Layout | None:
        known = self._peers.get(peer)
        if known is None:
            return None
        known.used = True
        return known.layouts.get(family.to_bytes())
