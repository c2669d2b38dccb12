"""Flows of messages that come with socket addresses: made once, shared by their records."""

import os
import threading
from typing import Any

from sipdump_core.cache import Cache
from sipdump_core.net.address import canonical_ip
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Flow

__all__ = ["Address", "Flows"]

Address = tuple[Any, ...]
"""A socket address as Python has it: ``(host, port)`` or, for IPv6, ``(host, port, flowinfo, scope_id)``."""
_UNSPECIFIED = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 - nothing is bound here


class Flows:
    """Makes flows, and keeps them. Any thread may use it.

    Args:
        table: gets a row for each thread or process that handles messages.
    """

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._flows: Cache[tuple[Any, ...], Flow] = Cache()
        self._who = threading.local()

    def flow(
        self,
        tag: str,
        src: Address,
        dst: Address,
        proto: str,
        pid: int | None = None,
        procno: int | None = None,
        node: str = "",
    ) -> Flow:
        """Return the flow of a message.

        Args:
            tag: as :class:`~sipdump_core.record.Flow` has it; so are ``proto`` and ``node``.
            src: where it came from.
            dst: where it went.
            pid: the process that handled it; this one by default.
            procno: its rank; by default a number of the calling thread.

        Raises:
            ValueError: an address, port, tag or proto is not of its form.
        """
        if pid is None or procno is None:
            own_pid, own_procno = self._whoami()
            pid = own_pid if pid is None else pid
            procno = own_procno if procno is None else procno
        key = (tag, src[0], src[1], dst[0], dst[1], proto, pid, procno, node)
        return self._flows.get(key) or self._make(key)

    def _make(self, key: tuple[Any, ...]) -> Flow:
        tag, src_host, src_port, dst_host, dst_port, proto, pid, procno, node = key
        (af, src_ip), (dst_af, dst_ip) = canonical_ip(src_host), canonical_ip(dst_host)
        # a socket that is bound to every address of one family may bring messages of the other
        if af != dst_af and dst_ip == _UNSPECIFIED[dst_af]:
            dst_af, dst_ip = af, _UNSPECIFIED[af]
        elif af != dst_af and src_ip == _UNSPECIFIED[af]:
            af, src_ip = dst_af, _UNSPECIFIED[dst_af]
        if af != dst_af:
            raise ValueError(f"source {src_host} and destination {dst_host} must be of one address family")
        flow = Flow(tag, pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port, node)
        if (pid, procno) != self._whoami():
            self._table.add(procno, pid, node or "process")
        return self._flows.keep(key, flow)

    def _whoami(self) -> tuple[int, int]:
        """Return this process's id and this thread's rank; a new thread gets a row in the process table."""
        pid = os.getpid()
        if getattr(self._who, "pid", None) != pid:
            self._who.procno = self._table.enter(pid, f"thread {threading.current_thread().name}")
            self._who.pid = pid
        return pid, self._who.procno
