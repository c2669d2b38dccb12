"""BINRPC: the binary protocol that kamcmd speaks with Kamailio's ctl module. A codec, and a small client.

A packet is a header and values. Header: ``A1``, then ``type << 4 | (length bytes - 1) << 2 | (cookie bytes - 1)``, then
length of the body and cookie in so many bytes each, big-endian. A value: one byte ``size << 4 | kind``, then its bytes;
a size with the bit 8 set says how many bytes hold the real size (not for doubles).

Source: the exchanges of kamcmd and Kamailio 5.6.3, and the description in Kamailio's ``src/modules/ctl/binrpc.h``.
"""

import math
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import attrs

from sipdump_core.errors import FormatError, RpcError, RpcFault
from sipdump_core.net.address import Address, parse_address

__all__ = ["Request", "Value", "call", "decode_values", "encode_values", "take_request"]

Value = Any
"""An int, float, str, bytes, a list of values, or a dict of values by name."""

MAX_REQUEST = 65535
"""Bytes of a request, as in Kamailio."""
MAX_REPLY = 128 * 1024 - 16
"""Bytes of a reply's body: no more goes into kamcmd's buffer."""
_MAX_DEPTH = 32
_MAX_FAULT = 255
_MAGIC = 0xA1
_REQUEST, _REPLY, _FAULT = 0, 1, 3
_INT, _STR, _DOUBLE, _STRUCT, _ARRAY, _NAME, _BYTES = range(7)
_END = 8
_DENIED = 'run this as the daemon\'s user, or open the socket to your group: modparam("sipdump_ctl", "group", ...)'


def encode_values(values: Sequence[Value]) -> bytes:
    """Encode values.

    An int beyond 32 bits becomes a double, as Kamailio does with its longs; a list becomes a struct without names,
    which is how Kamailio sends arrays.

    Raises:
        FormatError: a value cannot be put into BINRPC.
    """
    out = bytearray()
    for value in values:
        _encode(out, value, 0)
    return bytes(out)


def _encode(out: bytearray, value: Value, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise FormatError("values are nested too deeply for BINRPC")
    match value:
        case int() if -(1 << 31) <= value < 1 << 31:
            data = (int(value) & 0xFFFFFFFF).to_bytes(4, "big").lstrip(b"\0")
            out.append(len(data) << 4 | _INT)
            out += data
        case int() | float():
            if not math.isfinite(value) or abs(value) >= (1 << 63) / 1000:
                raise FormatError(f"{value} is too large for a number of BINRPC")
            data = (round(value * 1000) & (1 << 64) - 1).to_bytes(8, "big").lstrip(b"\0")
            out.append(len(data) << 4 | _DOUBLE)
            out += data
        case str():
            _encode_bytes(out, _STR, value.encode("utf-8", "surrogateescape") + b"\0")
        case bytes():
            _encode_bytes(out, _BYTES, value)
        case dict():
            out.append(_STRUCT)
            for name, member in value.items():
                _encode_bytes(out, _NAME, name.encode("utf-8", "surrogateescape") + b"\0")
                _encode(out, member, depth + 1)
            out.append(_END << 4 | _STRUCT)
        case list() | tuple():
            out.append(_STRUCT)
            for member in value:
                _encode(out, member, depth + 1)
            out.append(_END << 4 | _STRUCT)
        case _:
            raise FormatError(f"BINRPC has no {type(value).__name__}")


def _encode_bytes(out: bytearray, kind: int, data: bytes) -> None:
    if len(data) < 8:
        out.append(len(data) << 4 | kind)
    else:
        size = len(data).to_bytes(4, "big").lstrip(b"\0")
        out.append((8 | len(size)) << 4 | kind)
        out += size
    out += data


def decode_values(data: bytes) -> list[Value]:
    """Decode values. Strings are UTF-8, other bytes as surrogates (``surrogateescape``).

    Raises:
        FormatError: the bytes are not whole values, or nested more than 32 deep.
    """
    values, error = _decode_as_far(data)
    if error:
        raise error
    return values


def _decode_as_far(data: bytes) -> tuple[list[Value], FormatError | None]:
    """Return the values up to the first that is wrong, and what is wrong with it."""
    reader = _Reader(data)
    values = []
    try:
        while reader.at < len(data):
            values.append(reader.value(0))
    except FormatError as error:
        return values, error
    return values, None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def value(self, depth: int) -> Value:
        kind, size = self._tag()
        if kind in (_STRUCT, _ARRAY):
            if size:
                raise FormatError("record doesn't match type")
            if depth >= _MAX_DEPTH:
                raise FormatError("values are nested too deeply")
            return self._struct(depth + 1) if kind == _STRUCT else self._members(_END << 4 | _ARRAY, depth + 1)
        data = self._take(size)
        if kind == _INT:  # Kamailio, too, takes the last four bytes of a longer one
            return int.from_bytes(data[-4:], "big", signed=len(data) > 3)
        if kind == _DOUBLE:
            return int.from_bytes(data[-8:], "big", signed=len(data) > 7) / 1000
        if kind == _STR:
            return _text(data)
        if kind == _BYTES:
            return data
        raise FormatError("record doesn't match type")

    def _struct(self, depth: int) -> Value:
        if self._peek() != _END << 4 | _STRUCT and self._peek() & 15 != _NAME:
            return self._members(_END << 4 | _STRUCT, depth)
        members = {}
        while self._peek() != _END << 4 | _STRUCT:
            kind, size = self._tag()
            if kind != _NAME:
                raise FormatError("bad record")
            name = _text(self._take(size))
            members[name] = self.value(depth)
        self.at += 1
        return members

    def _members(self, end: int, depth: int) -> list[Value]:
        members = []
        while self._peek() != end:
            members.append(self.value(depth))
        self.at += 1
        return members

    def _peek(self) -> int:
        if self.at >= len(self._data):
            raise FormatError("more data needed")
        return self._data[self.at]

    def _tag(self) -> tuple[int, int]:
        tag = self._peek()
        self.at += 1
        kind, size = tag & 15, tag >> 4
        if kind != _DOUBLE and size & 8:
            if kind in (_STRUCT, _ARRAY):
                raise FormatError("bad record")  # the end of what was not begun
            size = int.from_bytes(self._take(size & 7), "big")
        return kind, size

    def _take(self, size: int) -> bytes:
        data = self._data[self.at : self.at + size]
        if len(data) < size:
            raise FormatError("more data needed")
        self.at += size
        return data


def _text(data: bytes) -> str:
    # Kamailio reads it as a C string, and does not look whether the last byte is the zero that should end it
    return data[:-1].partition(b"\0")[0].decode("utf-8", "surrogateescape")


class _Header(NamedTuple):
    kind: int
    cookie: int
    start: int
    """Where the body starts."""
    end: int


def _header(data: bytes | bytearray) -> _Header | None:
    """Read a packet's header; None while it is not whole."""
    if len(data) < 4:
        return None
    kind = data[1] >> 4
    if data[0] != _MAGIC or kind not in (_REQUEST, _REPLY, _FAULT):
        raise FormatError("corrupted packet")
    size_end = 2 + (data[1] >> 2 & 3) + 1
    start = size_end + (data[1] & 3) + 1
    if len(data) < start:
        return None
    size = int.from_bytes(data[2:size_end], "big")
    return _Header(kind, int.from_bytes(data[size_end:start], "big"), start, start + size)


def _packet(kind: int, cookie: int, body: bytes) -> bytes:
    size = len(body).to_bytes(4, "big").lstrip(b"\0") or b"\0"
    mark = cookie.to_bytes(4, "big").lstrip(b"\0") or b"\0"
    return bytes((_MAGIC, kind << 4 | len(size) - 1 << 2 | len(mark) - 1)) + size + mark + body


@attrs.frozen
class Request:
    """A request, and how to answer it."""

    cookie: int
    method: str = ""
    args: Sequence[Value] = ()
    """Up to the first that is not well-formed: Kamailio, too, sees the rest as missing."""
    error: RpcFault | None = None
    """Why there is nothing to call."""
    stray: bool = False
    """It is the answer of another server."""
    unreadable: bool = False
    """It is no BINRPC."""
    numeric_strings: ClassVar[bool] = False
    """Whether the string "1" is as good as the number, see :meth:`~sipdump_core.control.commands.Rpc.call`."""

    @property
    def close(self) -> bool:
        """Whether the connection is of no use after the answer."""
        return self.error is not None

    @classmethod
    def of(cls, cookie: int, body: bytes) -> Self:
        """Read a request's body."""
        values, error = _decode_as_far(body)
        if not values or not isinstance(values[0], str):
            what = "record doesn't match type" if values else str(error or "end of packet encountered")
            return cls(cookie, error=RpcFault(400, f"bad request method: {what}"))
        return cls(cookie, values[0], values[1:])

    def success(self, values: Sequence[Value], *, array: bool) -> bytes:
        """Encode the answer.

        Args:
            values: the results.
            array: whether it is a list of results; BINRPC makes no difference.

        Raises:
            FormatError: they cannot be put into a BINRPC packet that kamcmd takes.
        """
        del array
        body = encode_values(values)
        if len(body) > MAX_REPLY:
            raise FormatError(f"a reply of {len(body)} bytes is too long for kamcmd")
        return _packet(_REPLY, self.cookie, body)

    def failure(self, fault: RpcFault) -> bytes:
        """Encode a fault."""
        reason = fault.reason.encode("utf-8", "surrogateescape")[:_MAX_FAULT].decode("utf-8", "surrogateescape")
        return _packet(_FAULT, self.cookie, encode_values([fault.code, reason]))


def take_request(buffer: bytearray) -> Request | None:
    """Cut a request off the front of a stream's buffer; None while it is not whole."""
    try:
        header = _header(buffer)
        if header is None:
            return None
        if header.kind != _REQUEST or header.end > MAX_REQUEST:
            corrupted = RpcFault(400, "bad request: corrupted packet")
            return Request(header.cookie, error=corrupted, stray=header.kind != _REQUEST)
    except FormatError as error:
        return Request(0, error=RpcFault(400, f"bad request: {error}"), unreadable=True)
    if len(buffer) < header.end:
        return None
    body = bytes(buffer[header.start : header.end])
    del buffer[: header.end]
    return Request.of(header.cookie, body)


def call(address: str | Address, method: str, *args: Value, timeout: float = 10.0) -> list[Value]:
    """Call a method of a daemon, ours or Kamailio's, over its control socket.

    Args:
        address: as in ``modparam("sipdump_ctl", "binrpc", ...)``, or parsed.
        method: as ``"sipdump.enable"``.
        args: its arguments.
        timeout: seconds until the answer must be there.

    Returns:
        The values of the answer.

    Raises:
        RpcFault: the daemon answered with a fault.
        RpcError: the daemon cannot be reached or gave no answer.
        ValueError: the address is not of its form.
    """
    where = parse_address(address) if isinstance(address, str) else address
    cookie = int.from_bytes(os.urandom(4), "big")
    try:
        packet = _packet(_REQUEST, cookie, encode_values([method, *args]))
        with _connect(where, timeout) as sock:
            sock.sendall(packet)
            kind, body = _receive(sock, cookie, where.stream, time.monotonic() + timeout)
        values = decode_values(body)
    except TimeoutError as error:
        raise RpcError(f"no answer from {address} in {timeout:g} s") from error
    except OSError as error:
        hint = _DENIED if isinstance(error, PermissionError) else "is it running?"
        raise RpcError(f"cannot reach the daemon at {address}: {error.strerror or error}; {hint}") from error
    except FormatError as error:
        raise RpcError(f"no BINRPC from {address}: {error}") from error
    if kind == _FAULT:
        code, reason = (*values, 0, "")[:2]
        raise RpcFault(code if isinstance(code, int) else 0, str(reason))
    return values


def _connect(where: Address, timeout: float) -> socket.socket:
    kind = socket.SOCK_STREAM if where.stream else socket.SOCK_DGRAM
    target: Any = where.path
    family = socket.AF_UNIX
    if not where.path:
        family, _, _, _, target = socket.getaddrinfo(where.host, where.port, type=kind)[0]
    sock = socket.socket(family, kind)
    try:
        sock.settimeout(timeout)
        if where.proto == "unixd":
            sock.bind("")  # the kernel names it (unix(7), autobind), so that the answer has an address to go to
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def _receive(sock: socket.socket, cookie: int, stream: bool, end: float) -> tuple[int, bytes]:
    """Wait for the answer to ``cookie``, and return its type and body."""
    buffer = bytearray()
    while True:
        header = _header(buffer) if buffer else None
        if header is not None and len(buffer) >= header.end:
            body = bytes(buffer[header.start : header.end])
            del buffer[: header.end]
            if header.cookie == cookie or (header.cookie == 0 and header.kind == _FAULT):
                return header.kind, body
            continue
        sock.settimeout(max(0.001, end - time.monotonic()))
        if not stream:
            buffer.clear()
        data = sock.recv(1 << 20)
        if not data and stream:
            raise FormatError("the connection ended before the answer")
        buffer += data
        if len(buffer) > 1 << 24:
            raise FormatError("an answer without end")
