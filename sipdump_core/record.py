"""The record: one SIP message with the runtime details of who handled it."""

import socket
from collections.abc import Callable
from typing import Any, Self, cast

import attrs

from sipdump_core import sip

__all__ = ["AFS", "PROTOS", "Flow", "Record", "new_record"]

PROTOS = ("udp", "tcp", "tls", "sctp", "ws", "wss", "none")
AFS = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


def _line_of_text(_: Any, attribute: "attrs.Attribute[str]", value: str) -> None:
    # These stand on a line of their own in .data and .meta files: a control character would forge lines.
    if not isinstance(value, str) or any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError(f"{attribute.name} must be text without control characters, not {value!r}")
    value.encode()  # lone surrogates could not be written either


def _port(_: Any, attribute: "attrs.Attribute[int]", value: int) -> None:
    if not 0 <= value <= 65535:
        raise ValueError(f"{attribute.name} must be 0 to 65535, not {value}")


@attrs.frozen
class Flow:
    """What many messages have in common: who talked to whom, and which process handled them.

    Sources make one flow and share it among its records, so that backends can prepare what repeats
    (an address block, a packet header) once per flow and find it again by identity.

    Raises:
        ValueError: a field is not of its documented form.
    """

    tag: str = attrs.field(validator=_line_of_text)
    """``rcv``, ``snd``, or any text given to ``send``; no control characters."""
    pid: int
    """Process id of the process that handled the message; 0 if it is not known."""
    procno: int
    """That process's rank in the server's process table; 0 if it is not known."""
    proto: str = attrs.field(validator=attrs.validators.in_(PROTOS))
    """The SIP transport: one of udp, tcp, tls, sctp, ws, wss, none."""
    af: str = attrs.field(validator=attrs.validators.in_(AFS))
    """``ipv4`` or ``ipv6``."""
    src_ip: str
    """Source address as text, in its canonical form (RFC 5952 for IPv6)."""
    src_port: int = attrs.field(validator=_port)
    dst_ip: str
    """Destination address as text, of the same family."""
    dst_port: int = attrs.field(validator=_port)
    node: str = attrs.field(default="", validator=_line_of_text)
    """The capture node that reported the message; empty for this process."""

    def __attrs_post_init__(self) -> None:
        for name, ip in (("src_ip", self.src_ip), ("dst_ip", self.dst_ip)):
            try:
                canonical = socket.inet_ntop(AFS[self.af], socket.inet_pton(AFS[self.af], ip))
            except (OSError, ValueError, TypeError):
                raise ValueError(f"{name} must be an {self.af} address, not {ip!r}") from None
            if canonical != ip:
                object.__setattr__(self, name, canonical)


class _Slots:
    """What a record has room for besides its fields."""

    __slots__ = ("__weakref__", "_call_id")


@attrs.frozen
class Record(_Slots):
    """One SIP message, made once and never changed.

    The fields of ``flow`` can be read from the record itself: ``record.src_ip`` is ``record.flow.src_ip``.
    """

    time_us: int
    """When it was handled: microseconds since the epoch, UTC."""
    flow: Flow
    buf: bytes
    """The message exactly as on the wire."""
    correlation_id: str = ""
    """What the capture agent says belongs together, such as the legs of a call (HEP chunk 0x11); empty: nothing."""

    @classmethod
    def of(
        cls,
        buf: bytes,
        *,
        time_us: int,
        tag: str = "rcv",
        pid: int = 0,
        procno: int = 0,
        proto: str = "udp",
        af: str = "ipv4",
        src_ip: str,
        src_port: int,
        dst_ip: str,
        dst_port: int,
        node: str = "",
        correlation_id: str = "",
    ) -> Self:
        """Make a record with a flow of its own from plain values.

        Raises:
            ValueError: a value is not of its documented form, see :class:`Flow`.
        """
        flow = Flow(tag, pid, procno, proto, af, src_ip, src_port, dst_ip, dst_port, node)
        return cls(time_us, flow, bytes(buf), correlation_id)

    tag = property(lambda self: self.flow.tag)
    pid = property(lambda self: self.flow.pid)
    procno = property(lambda self: self.flow.procno)
    proto = property(lambda self: self.flow.proto)
    af = property(lambda self: self.flow.af)
    src_ip = property(lambda self: self.flow.src_ip)
    src_port = property(lambda self: self.flow.src_port)
    dst_ip = property(lambda self: self.flow.dst_ip)
    dst_port = property(lambda self: self.flow.dst_port)
    node = property(lambda self: self.flow.node)

    @property
    def call_id(self) -> str | None:
        """The message's Call-ID, found when first asked for; None if it has none."""
        try:
            return cast(str | None, self._call_id)  # type: ignore[attr-defined]  # a slot, empty until then
        except AttributeError:
            found = sip.call_id(self.buf)
            object.__setattr__(self, "_call_id", found)
            return found


class _Unfrozen(_Slots):
    """Laid out like a record, and open until it becomes one.

    To set a field of a frozen object takes a call; to make a record this way, half the time. One is made a message.
    """

    __slots__ = ("time_us", "flow", "buf", "correlation_id")  # noqa: RUF023 - the order of a record's

    def __init__(self, time_us: int, flow: Flow, buf: bytes, correlation_id: str = "") -> None:
        self.time_us = time_us
        self.flow = flow
        self.buf = buf
        self.correlation_id = correlation_id
        self.__class__ = Record  # type: ignore[assignment]  # the two have the same slots


new_record = cast(Callable[..., Record], _Unfrozen)
"""Makes a record as ``Record(time_us, flow, buf, correlation_id)`` does, faster; for the sources."""
