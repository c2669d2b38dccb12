"""The P-KSR-SIPDump header (flag 8): a message's proto, pid and process number, written into the message itself."""

from collections.abc import Sequence
from typing import Any

from sipdump_core.cache import Cache
from sipdump_core.drivers.base import Transform
from sipdump_core.record import Flow, Record

__all__ = ["HeaderTransform"]


class HeaderTransform(Transform):
    """Inserts ``P-KSR-SIPDump: <proto> pid=<pid> pno=<procno>`` after the message's first line.

    A message without a line end stays as it is (Kamailio 5.6 writes an empty packet for it).
    """

    name = "header"
    flag = 8

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        # by the flow's identity; each entry keeps its flow alive, so that no other flow can get its id
        self._lines: Cache[int, tuple[Flow, bytes]] = Cache()

    def apply(self, batch: Sequence[Record], bufs: Sequence[bytes]) -> list[bytes]:
        """Return the messages with the header in them."""
        lines = self._lines
        out = []
        for record, buf in zip(batch, bufs, strict=True):
            line = lines.get(id(record.flow)) or self._prepare(record.flow)
            out.append(buf.replace(b"\n", line[1], 1))
        return out

    def _prepare(self, flow: Flow) -> tuple[Flow, bytes]:
        text = f"\nP-KSR-SIPDump: {flow.proto} pid={flow.pid} pno={flow.procno}\r\n"
        return self._lines.keep(id(flow), (flow, text.encode()))
