"""Kamailio's pseudo-variables and their transformations, as far as sipdump's event route has use for them.

There is no parsed SIP message in an event route, so what is offered is ``$sipdump(...)``, the time and the process,
and the transformations ``{s.*}`` and ``{line.*}``, as Kamailio 5.6 has them (src/core/pvapi.c; pv_trans.c and pv_time.c
of src/modules/pv). Where Kamailio's documentation and its code differ, the documentation is followed.

A text is compiled once to a closure. What a closure gives is ``bytes`` for strings, ``int``, or None for null. It never
raises, and takes time and memory in proportion to the message: a value over ``MAX_VALUE`` bytes becomes null.
"""

import base64
import binascii
import hashlib
import re
import string
import time
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from sipdump_core.record import Record

__all__ = ["MAX_VALUE", "Format", "Getter", "Value", "compile_format", "compile_pv", "text_of"]

Value = int | bytes | None
Getter = Callable[[Record], Value]
Format = Callable[[Record], bytes]

MAX_VALUE: Final = 262_144
"""Bytes that the result of a transformation may have; Kamailio's limit is 65,535."""

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1  # {s.int} and numbers in strings: a C int
_STARTED = int(time.time())
_NAME = re.compile(r"[0-9A-Za-z_.?]*")
_BLANK = " \t\n"
_TRIM = b" \t\r\n"
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def compile_pv(text: str, *, parse_call_id: bool) -> Getter:
    """Compile one pseudo-variable, as ``$Ts``, ``$sipdump(tag)`` or ``$(sipdump(buf){s.len})``.

    Args:
        text: the variable, and nothing behind it.
        parse_call_id: whether ``$sipdump(call_id)`` has a value; else it is null.

    Raises:
        ValueError: it is none, or none that is known here; the message says what is.
    """
    scanner = _Scanner(text, parse_call_id)
    variable = scanner.variable()
    if scanner.at != len(text):
        more = text[scanner.at :]
        hint = "; transformations are written inside brackets, as $(Ts{s.len})" if more.startswith("{") else ""
        raise ValueError(f"{text}: there is more behind the variable: {more!r}{hint}")
    return variable.get


def compile_format(text: str, *, parse_call_id: bool) -> Format:
    """Compile a text with pseudo-variables in it, as xlog takes it.

    A null prints as ``<null>``; a transformation that fails, or is applied to null, prints nothing (as in Kamailio).

    Raises:
        ValueError: see :func:`compile_pv`.
    """
    scanner = _Scanner(text, parse_call_id)
    parts: list[bytes | _Variable] = []
    while scanner.at < len(text):
        start = text.find("$", scanner.at)
        start = len(text) if start < 0 else start
        if start > scanner.at:
            parts.append(_encode(text[scanner.at : start]))
        scanner.at = start
        if start < len(text):
            parts.append(scanner.variable())
    printers = [_constant(part) if isinstance(part, bytes) else _printer(part) for part in parts]
    if all(isinstance(part, bytes) for part in parts):
        return _constant(b"".join(part for part in parts if isinstance(part, bytes)))
    if len(printers) == 1:
        return printers[0]
    return lambda record: b"".join([printer(record) for printer in printers])


def text_of(value: Value) -> bytes:
    """Give a value as a string: null is empty."""
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    return value.text if isinstance(value, _Read) else b"%d" % value


class _Read(int):
    """A number that was read from a text: it prints as that text, as ``007`` or nothing at all."""

    text: bytes


@attrs.frozen
class _Variable:
    get: Getter
    transformed: bool
    """Whether None may mean that a transformation failed, rather than null."""


def _constant(value: bytes) -> Format:
    return lambda _: value


def _printer(variable: _Variable) -> Format:
    get, null = variable.get, b"" if variable.transformed else b"<null>"

    def printer(record: Record) -> bytes:
        value = get(record)
        return null if value is None else text_of(value)

    return printer


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # as a configuration file is decoded


# --- the variables ---------------------------------------------------------------------------------------------------

_SIPDUMP: Mapping[str, Getter] = {
    "tag": lambda record: record.flow.tag.encode(),
    "buf": lambda record: record.buf,
    "len": lambda record: len(record.buf),
    "af": lambda record: record.flow.af.encode(),
    "proto": lambda record: record.flow.proto.encode(),
    "sproto": lambda record: record.flow.proto.encode(),
    "src_ip": lambda record: record.flow.src_ip.encode(),
    "dst_ip": lambda record: record.flow.dst_ip.encode(),
    "src_port": lambda record: record.flow.src_port,
    "dst_port": lambda record: record.flow.dst_port,
}


def _call_id(record: Record) -> Value:
    found = record.call_id
    return None if found is None else found.encode("utf-8", "backslashreplace")


def _local(seconds: int) -> time.struct_time:
    try:
        return time.localtime(seconds)
    except (OverflowError, OSError, ValueError):
        return time.localtime(0)  # a clock gone mad at the capture node: no year that a date could have


def _utc(seconds: int) -> time.struct_time:
    try:
        return time.gmtime(seconds)
    except (OverflowError, OSError, ValueError):
        return time.gmtime(0)


def _now_us() -> int:
    return time.time_ns() // 1000


def _ctime(seconds: int) -> bytes:
    return time.asctime(_local(seconds)).encode()


def _full(time_us: int) -> bytes:
    return b"%s.%06d" % (time.strftime("%Y-%m-%d %H:%M:%S", _local(time_us // 1_000_000)).encode(), time_us % 1_000_000)


def _strftime(form: str, when: time.struct_time) -> bytes | None:
    try:
        return _encode(time.strftime(form, when)) or None
    except (ValueError, OverflowError, MemoryError):
        return None


_PLAIN: Mapping[str, Getter] = {
    "Ts": lambda record: record.time_us // 1_000_000,
    "Tf": lambda record: _ctime(record.time_us // 1_000_000),
    "TS": lambda _: int(time.time()),
    "TF": lambda _: _ctime(int(time.time())),
    "Tb": lambda _: _STARTED,
    "pp": lambda record: record.flow.pid,
    "null": lambda _: None,
}
_TIMEVAL: Mapping[str, Getter] = {
    "s": lambda record: record.time_us // 1_000_000,
    "u": lambda record: record.time_us % 1_000_000,
    "sn": lambda _: _now_us() // 1_000_000,
    "un": lambda _: _now_us() % 1_000_000,
    "Sn": lambda _: b"%d.%06d" % divmod(_now_us(), 1_000_000),
    "Fn": lambda _: _full(_now_us()),
}
_TIME: Mapping[str, Callable[[time.struct_time], int]] = {
    "sec": lambda t: t.tm_sec,
    "min": lambda t: t.tm_min,
    "hour": lambda t: t.tm_hour,
    "mday": lambda t: t.tm_mday,
    "mon": lambda t: t.tm_mon,
    "year": lambda t: t.tm_year,
    "wday": lambda t: (t.tm_wday + 1) % 7 + 1,
    "yday": lambda t: t.tm_yday,
    "isdst": lambda t: t.tm_isdst,
}
_WITH_NAME = ("sipdump", "TV", "time", "utime", "timef", "utimef")
_KNOWN = "$sipdump(...), " + ", ".join(f"${name}" for name in _PLAIN) + ", $TV(...), $time(...), $timef(...), $$"
_INSTEAD = {
    "ci": "$sipdump(call_id), with parse_call_id 1",
    "si": "$sipdump(src_ip)",
    "sp": "$sipdump(src_port)",
    "Ri": "$sipdump(dst_ip)",
    "Rp": "$sipdump(dst_port)",
    "RAi": "$sipdump(dst_ip)",
    "RAp": "$sipdump(dst_port)",
    "pr": "$sipdump(proto)",
    "proto": "$sipdump(proto)",
    "af": "$sipdump(af)",
    "mb": "$sipdump(buf)",
    "msgbuf": "$sipdump(buf)",
    "ml": "$sipdump(len)",
    "rm": "$(sipdump(buf){s.select,0, })",
    "hdr": "$(sipdump(buf){line.sw,Subject:})",
    "ua": "$(sipdump(buf){line.sw,User-Agent:})",
    "rs": "$(sipdump(buf){s.select,1, })",
}


def _with_name(name: str, inner: str, parse_call_id: bool) -> Getter:
    if name == "sipdump":
        if inner == "call_id":
            return _call_id if parse_call_id else lambda _: None
        return _one_of(_SIPDUMP, "sipdump", inner, (*_SIPDUMP, "call_id"))
    if name == "TV":
        return _one_of(_TIMEVAL, "TV", inner, tuple(_TIMEVAL))
    broken_down = _utc if name.startswith("u") else _local
    if name.endswith("f"):
        if "\0" in inner:
            raise ValueError(f"${name}: the format holds a NUL")
        return lambda record: _strftime(inner, broken_down(record.time_us // 1_000_000))
    if inner not in _TIME:
        raise ValueError(f"${name}({inner}): there are {', '.join(_TIME)}")
    field = _TIME[inner]
    return lambda record: field(broken_down(record.time_us // 1_000_000))


def _one_of(getters: Mapping[str, Getter], name: str, inner: str, known: tuple[str, ...]) -> Getter:
    if inner not in getters:
        raise ValueError(f"${name}({inner}) is not known; there are: {', '.join(f'${name}({key})' for key in known)}")
    return getters[inner]


# --- the parser ------------------------------------------------------------------------------------------------------

Change = Callable[[Record, int | bytes], Value]
"""A transformation: of a value, which is not null, to another."""


class _Scanner:
    """Reads variables out of a text; ``at`` is where it is."""

    def __init__(self, text: str, parse_call_id: bool) -> None:
        self.text = text
        self.at = 0
        self._parse_call_id = parse_call_id

    def variable(self, depth: int = 0) -> _Variable:
        start = self.at
        if not self._take("$"):
            raise ValueError(f"{self._rest(start)}: a variable begins with $")
        if depth > 20:
            raise ValueError(f"{self._rest(start)}: variables are nested too deep")
        bracket = self._take("(")
        if self._take("$"):
            if bracket:
                self._need(")", start)
            return _Variable(_constant(b"$"), transformed=False)
        name = self._name()
        if not name:
            raise ValueError(f"{self._rest(start)}: a name is missing behind $; a lone $ is written $$")
        inner = self._inner(start) if self._take("(") else None
        get = self._getter(name, inner)
        changes = []
        if bracket:
            while self._looking_at("{"):
                changes.append(self._transformation(start, depth))
                if self._looking_at(" ") or self._looking_at("\t"):
                    self._skip(" \t")
            if self._looking_at("["):
                raise ValueError(f"{self._rest(start)}: ${name} has no index")
            self._need(")", start)
        if changes:
            return _Variable(_chain(get, changes), transformed=True)
        return _Variable(get, transformed=False)

    def _getter(self, name: str, inner: str | None) -> Getter:
        if name in _WITH_NAME:
            if not inner:
                raise ValueError(f"${name} needs a name in brackets, as $sipdump(tag) or $TV(sn)")
            return _with_name(name, inner, self._parse_call_id)
        if name in _PLAIN:
            if inner is not None:
                raise ValueError(f"${name} takes no name in brackets")
            return _PLAIN[name]
        instead = f"use {_INSTEAD[name]}" if name in _INSTEAD else f"what is known is {_KNOWN}"
        raise ValueError(f"${name} is not known in an event route, which has no parsed message; {instead}")

    def _transformation(self, start: int, depth: int) -> Change:
        self.at += 1  # the bracket
        at = self.at
        while self.at < len(self.text) and self.text[self.at] not in ",}":
            self.at += 1
        name = self.text[at : self.at].strip().lower()
        make = _TRANSFORMATIONS.get(name)
        if make is None:
            raise ValueError(f"{{{name}}} is not known; there are: {', '.join(_TRANSFORMATIONS)}")
        arguments = _Arguments(self, name, depth)
        change = make(arguments)
        self._skip(_BLANK)
        self._need("}", start)
        return change

    def _inner(self, start: int) -> str:
        at, depth = self.at, 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == ")":
                if depth == 0:
                    self.at += 1
                    return self.text[at : self.at - 1]
                depth -= 1
            depth += char == "("
            self.at += 1
        raise ValueError(f"{self._rest(start)}: the bracket is not closed")

    def _name(self) -> str:
        found = _NAME.match(self.text, self.at)
        name = found[0] if found else ""
        self.at += len(name)
        return name

    def _looking_at(self, char: str) -> bool:
        return self.text.startswith(char, self.at)

    def _take(self, char: str) -> bool:
        found = self._looking_at(char)
        self.at += found
        return found

    def _need(self, char: str, start: int) -> None:
        if not self._take(char):
            found = repr(self.text[self.at]) if self.at < len(self.text) else "the end"
            raise ValueError(f"{self._rest(start)}: expected {char} where {found} stands")

    def _skip(self, chars: str) -> None:
        while self.at < len(self.text) and self.text[self.at] in chars:
            self.at += 1

    def _rest(self, start: int) -> str:
        return self.text[start : start + 60]

    # what transformations ask for

    def number(self, name: str, depth: int) -> Callable[[Record], int | None]:
        self._comma(name)
        self._skip(_BLANK)
        if self._looking_at("$"):
            get = self.variable(depth + 1).get
            return lambda record: value if isinstance(value := get(record), int) else None
        found = re.compile(r"[+-]?[ \t\n]*[0-9]{1,9}").match(self.text, self.at)
        if not found:
            raise ValueError(f"{{{name}}} needs a number or a variable, not {self._rest(self.at)!r}")
        self.at = found.end()
        value = int("".join(found[0].split()))
        return lambda _: value

    def text_argument(
        self, name: str, depth: int, *, comma: bool = False, empty: bool = False, escapes: bool = False
    ) -> Callable[[Record], bytes | None]:
        self._comma(name)
        self._skip(_BLANK)
        if self._looking_at("$"):
            get = self.variable(depth + 1).get
            return lambda record: text_of(get(record)) or None
        at = self.at
        while self.at < len(self.text) and self.text[self.at] not in "\t\n,}":
            self.at += 1
        if comma and self._looking_at(","):
            self.at += 1
        value = _encode(self.text[at : self.at])
        if not (value or empty):
            raise ValueError(
                f"{{{name}}} needs a text behind the comma, where blanks do not count; {{s.select,0, }} cuts at one"
            )
        if escapes:
            value = _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), value)
        return lambda _: value

    def separator(self, name: str) -> bytes:
        self._comma(name)
        char = self.text[self.at : self.at + 1]
        if char == "\\":
            char = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}.get(self.text[self.at + 1 : self.at + 2], "")
            self.at += 1
        self.at += 1
        separator = _encode(char)
        if len(separator) != 1:
            raise ValueError(f"{{{name}}} needs one ASCII character to split at; escapes are \\n \\r \\t \\\\")
        return separator

    def _comma(self, name: str) -> None:
        self._skip(_BLANK)
        if not self._take(","):
            raise ValueError(f"{{{name}}} needs more parameters, after commas")

    def has_argument(self) -> bool:
        return self._looking_at(",")


@attrs.frozen
class _Arguments:
    """What stands behind the name of a transformation."""

    scanner: _Scanner
    name: str
    depth: int

    def number(self) -> Callable[[Record], int | None]:
        return self.scanner.number(self.name, self.depth)

    def optional_number(self) -> Callable[[Record], int | None]:
        return self.number() if self.scanner.has_argument() else lambda _: 0

    def text(self, *, empty: bool = False, escapes: bool = False) -> Callable[[Record], bytes | None]:
        return self.scanner.text_argument(self.name, self.depth, empty=empty, escapes=escapes)

    def char(self) -> Callable[[Record], bytes | None]:
        """A text of which the first byte counts; it may be a comma."""
        get = self.scanner.text_argument(self.name, self.depth, comma=True)
        return lambda record: value[:1] if (value := get(record)) else None

    def separator(self) -> bytes:
        return self.scanner.separator(self.name)


def _chain(get: Getter, changes: list[Change]) -> Getter:
    if len(changes) == 1:
        change = changes[0]

        def one(record: Record) -> Value:
            value = get(record)
            if value is None:
                return None
            value = change(record, value)
            return None if isinstance(value, bytes) and len(value) > MAX_VALUE else value

        return one

    def several(record: Record) -> Value:
        value = get(record)
        for change in changes:
            if value is None:
                return None
            value = change(record, value)
            if isinstance(value, bytes) and len(value) > MAX_VALUE:
                return None
        return value

    return several


# --- the transformations ---------------------------------------------------------------------------------------------


def _of_text(change: Callable[[bytes], Value]) -> Callable[[_Arguments], Change]:
    """Make a transformation without parameters from a function of the value as a string."""
    return lambda _: lambda _, value: change(text_of(value))


_INT = re.compile(rb"[+-]?[0-9]*")


def to_int(text: bytes) -> int | None:
    """Read a C int as Kamailio does (str2sint): a sign and digits, where the empty string is 0."""
    if len(text) > 20 or not _INT.fullmatch(text):
        return None
    value = int(text) if text not in (b"", b"+", b"-") else 0
    return value if _INT_MIN <= value <= _INT_MAX else None


def _int(_: _Arguments) -> Change:
    def change(_: Record, value: int | bytes) -> Value:
        if isinstance(value, int):
            return value
        number = to_int(value)
        if number is None or b"%d" % number == value:
            return number
        read = _Read(number)
        read.text = value
        return read

    return change


def _unhex(text: bytes) -> Value:
    try:
        return binascii.unhexlify(text[: len(text) // 2 * 2])
    except (binascii.Error, ValueError):
        return None


def _unbase64(text: bytes) -> Value:
    # Kamailio takes any other character for some bits; here such a text has no value
    if not text or len(text) % 4:
        return None if text else b""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        return None


def _padded(text: bytes) -> bytes:
    return text + b"=" * (-len(text) % 4)


_URL_SAFE = bytes.maketrans(b"-_+/", b"+/**")  # what is of the other alphabet becomes what is of none


def _unbase64url(text: bytes) -> Value:
    return _unbase64(text.translate(_URL_SAFE)) or None


_COMMON = {b"'": b"\\'", b'"': b'\\"', b"\\": b"\\\\", b"\0": b"\\0"}
_UNCOMMON = {escaped: plain for plain, escaped in _COMMON.items()}
_ALNUM = (string.ascii_letters + string.digits).encode()


def _escape_common(text: bytes) -> bytes:
    return re.sub(rb"['\"\\\0]", lambda found: _COMMON[found[0]], text)


def _unescape_common(text: bytes) -> bytes:
    return re.sub(rb"\\['\"\\0]", lambda found: _UNCOMMON[found[0]], text)


def _percent(plain: bytes) -> Callable[[bytes], bytes]:
    table = [bytes([byte]) if byte in _ALNUM + plain else b"%%%02x" % byte for byte in range(256)]
    return lambda text: b"".join([table[byte] for byte in text])


_urlencode = _percent(b"-_.~")
_PERCENT = re.compile(rb"%([0-9a-fA-F]{2})")
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")


def _escape(plain: bytes) -> Callable[[bytes], Value]:
    quote = _percent(plain)
    return lambda text: quote(text) if _PRINTABLE.fullmatch(text) else None


def _unescape(text: bytes) -> Value:
    plain, count = _PERCENT.subn(lambda found: bytes([int(found[1], 16)]), text)
    if count != text.count(b"%") or not all(32 <= int(code, 16) <= 126 for code in _PERCENT.findall(text)):
        return None
    return plain


def _urldecode(text: bytes) -> bytes:
    return _PERCENT.sub(lambda found: bytes([int(found[1], 16)]), text.replace(b"+", b" "))


def _unwrap(pairs: bytes) -> Callable[[bytes], bytes]:
    wrapped = {(pairs[at], pairs[at + 1]) for at in range(0, len(pairs), 2)}
    return lambda text: text[1:-1] if len(text) > 1 and (text[0], text[-1]) in wrapped else text


def _substr(arguments: _Arguments) -> Change:
    offset, length = arguments.number(), arguments.number()

    def change(record: Record, value: int | bytes) -> Value:
        text, start, count = text_of(value), offset(record), length(record)
        if start is None or count is None or count < 0:
            return None
        if start >= len(text) or -start > len(text):
            return None
        start = start if start >= 0 else len(text) + start
        return text[start : start + count] if count else text[start:]

    return change


def _select(arguments: _Arguments) -> Change:
    index, separator = arguments.number(), arguments.separator()

    def change(record: Record, value: int | bytes) -> Value:
        text, at = text_of(value), index(record)
        if at is None:
            return None
        if at >= 0:
            parts = text.split(separator, at + 1) if at < len(text) + 1 else []
            return parts[at] if at < len(parts) else b""
        parts = text.rsplit(separator, -at) if -at <= len(text) + 1 else []
        return parts[at] if -at <= len(parts) else b""

    return change


def _strip(arguments: _Arguments) -> Change:
    count, tail = arguments.number(), arguments.name == "s.striptail"

    def change(record: Record, value: int | bytes) -> Value:
        text, number = text_of(value), count(record)
        if number is None:
            return None
        if number <= 0:
            return text
        return text[:-number] if tail else text[number:]

    return change


def _stripto(arguments: _Arguments) -> Change:
    char = arguments.text()

    def change(record: Record, value: int | bytes) -> Value:
        text, to = text_of(value), char(record)
        if to is None:
            return None
        at = text.find(to[:1])
        return text[at:] if at >= 0 else b""

    return change


def _prefixes(arguments: _Arguments) -> Change:
    limit, quote = arguments.optional_number(), b"'" if arguments.name.endswith("quoted") else b""

    def change(record: Record, value: int | bytes) -> Value:
        text, most = text_of(value), limit(record)
        if most is None:
            return None
        most = most if 0 < most < len(text) else len(text)
        if most * most // 2 > MAX_VALUE:
            return None
        return b",".join([quote + text[:length] + quote for length in range(1, most + 1)])

    return change


def _replace(arguments: _Arguments) -> Change:
    old_text, new_text = arguments.text(), arguments.text(empty=True)

    def change(record: Record, value: int | bytes) -> Value:
        text, old, new = text_of(value), old_text(record), new_text(record)
        if old is None or new is None:
            return None
        if len(text) + text.count(old) * (len(new) - len(old)) > MAX_VALUE:
            return None
        return text.replace(old, new)

    return change


def _rm(arguments: _Arguments) -> Change:
    old_text = arguments.text(escapes=True)

    def change(record: Record, value: int | bytes) -> Value:
        old = old_text(record)
        return None if old is None else text_of(value).replace(old, b"")

    return change


def _cut(arguments: _Arguments) -> Change:
    """``before``, ``after``, ``rbefore``, ``rafter``: the part before or after the first or the last such character."""
    kind, char = arguments.name[2:], arguments.char()

    def change(record: Record, value: int | bytes) -> Value:
        text, to = text_of(value), char(record)
        if to is None:
            return None
        at = text.rfind(to) if kind.startswith("r") else text.find(to)
        if kind.endswith("before"):
            return text[:at] if at >= 0 else text
        return text[at + 1 :] if at >= 0 else b""

    return change


def _count(arguments: _Arguments) -> Change:
    char = arguments.char()
    return lambda record, value: None if (to := char(record)) is None else text_of(value).count(to)


def _ftime(arguments: _Arguments) -> Change:
    form = arguments.text()

    def change(record: Record, value: int | bytes) -> Value:
        seconds, wanted = to_int(value) if isinstance(value, bytes) else value, form(record)
        if seconds is None or wanted is None:
            return None
        return _strftime(wanted.decode("utf-8", "surrogateescape"), _local(seconds)) or b""

    return change


def _line_at(arguments: _Arguments) -> Change:
    index = arguments.number()

    def change(record: Record, value: int | bytes) -> Value:
        at = index(record)
        text = text_of(value)
        if at is None or not text:
            return None
        if at < 0:
            # a line end at the very end has no line behind it
            body = text.removesuffix(b"\n")
            lines = body.rsplit(b"\n", -at) if -at <= len(body) + 1 else []
            found = lines[at] if -at <= len(lines) else b""
        else:
            lines = text.split(b"\n", at + 1) if at <= len(text) else []
            found = lines[at] if at < len(lines) else b""
        return found.removesuffix(b"\r")

    return change


def _line_sw(arguments: _Arguments) -> Change:
    prefix = arguments.text()

    def change(record: Record, value: int | bytes) -> Value:
        text, start = text_of(value), prefix(record)
        if start is None or not text:
            return None
        at = 0 if text.startswith(start) else text.find(b"\n" + start) + 1
        if not at and not text.startswith(start):
            return b""
        end = text.find(b"\n", at)
        return text[at : end if end >= 0 else len(text)].removesuffix(b"\r")

    return change


def _line_count(text: bytes) -> int | None:
    return text.count(b"\n") + (not text.endswith(b"\n")) if text else None


def _hash(name: str) -> Callable[[_Arguments], Change]:
    return _of_text(lambda text: hashlib.new(name, text, usedforsecurity=False).hexdigest().encode())


_TRANSFORMATIONS: Mapping[str, Callable[[_Arguments], Change]] = {
    "s.len": _of_text(len),
    "s.int": _int,
    "s.substr": _substr,
    "s.select": _select,
    "s.strip": _strip,
    "s.striptail": _strip,
    "s.stripto": _stripto,
    "s.before": _cut,
    "s.after": _cut,
    "s.rbefore": _cut,
    "s.rafter": _cut,
    "s.trim": _of_text(lambda text: text.strip(_TRIM)),
    "s.ltrim": _of_text(lambda text: text.lstrip(_TRIM)),
    "s.rtrim": _of_text(lambda text: text.rstrip(_TRIM)),
    "s.rm": _rm,
    "s.rmws": _of_text(lambda text: text.translate(None, _TRIM)),
    "s.replace": _replace,
    "s.tolower": _of_text(bytes.lower),
    "s.toupper": _of_text(bytes.upper),
    "s.unquote": _of_text(_unwrap(b"\"\"''")),
    "s.unbracket": _of_text(_unwrap(b"()[]{}<>")),
    "s.numeric": _of_text(lambda text: re.sub(rb"[^0-9]", b"", text)),
    "s.count": _count,
    "s.prefixes": _prefixes,
    "s.prefixes.quoted": _prefixes,
    "s.md5": _hash("md5"),
    "s.sha256": _hash("sha256"),
    "s.sha384": _hash("sha384"),
    "s.sha512": _hash("sha512"),
    "s.encode.hexa": _of_text(lambda text: text.hex().encode()),
    "s.decode.hexa": _of_text(_unhex),
    "s.encode.base64": _of_text(base64.b64encode),
    "s.decode.base64": _of_text(_unbase64),
    "s.encode.base64t": _of_text(lambda text: base64.b64encode(text).rstrip(b"=")),
    "s.decode.base64t": _of_text(lambda text: _unbase64(_padded(text))),
    "s.encode.base64url": _of_text(base64.urlsafe_b64encode),
    "s.decode.base64url": _of_text(_unbase64url),
    "s.encode.base64urlt": _of_text(lambda text: base64.urlsafe_b64encode(text).rstrip(b"=")),
    "s.decode.base64urlt": _of_text(lambda text: _unbase64url(_padded(text))),
    "s.escape.common": _of_text(_escape_common),
    "s.unescape.common": _of_text(_unescape_common),
    "s.escape.user": _of_text(_escape(b"-_.!~*'()&=+$,;?")),
    "s.unescape.user": _of_text(_unescape),
    "s.escape.param": _of_text(_escape(b"-_.!~*'()[]/:&+$")),
    "s.unescape.param": _of_text(_unescape),
    "s.escape.csv": _of_text(lambda text: b'"' + text.replace(b'"', b'""') + b'"'),
    "s.urlencode.param": _of_text(_urlencode),
    "s.urldecode.param": _of_text(_urldecode),
    "s.ftime": _ftime,
    "line.at": _line_at,
    "line.sw": _line_sw,
    "line.count": _of_text(_line_count),
}
