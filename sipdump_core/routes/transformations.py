"""The transformations of pseudo-variables, ``{s.*}`` and ``{line.*}`` (pv_trans.c of Kamailio's module pv).

Each takes a value that is not null to another, in time and memory proportional to the message, and never raises.
"""

import base64
import binascii
import hashlib
import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from sipdump_core.config.variable import Variable
from sipdump_core.record import Record
from sipdump_core.routes.arguments import Arguments
from sipdump_core.routes.values import MAX_VALUE, Getter, NumberText, Value, local, strftime, text_of, to_int

__all__ = ["TRANSFORMATIONS", "transformed"]

Change = Callable[[Record, int | bytes], Value]
"""A transformation: of a value, which is not null, to another."""

_TRIM: Final = b" \t\r\n"


def transformed(get: Getter, transformations: Iterable[str], compile_variable: Callable[[Variable], Getter]) -> Getter:
    """Compile the transformations of a variable.

    Args:
        get: returns the variable's own value.
        transformations: as ``s.select,0, ``, in their order.
        compile_variable: compiles a variable among their parameters.

    Returns:
        What returns the value after all of them; None once one of them fails.

    Raises:
        ValueError: one is unknown, or its parameters are wrong.
    """
    changes = [_compile(text, compile_variable) for text in transformations]
    return _chain(get, changes) if changes else get


def _compile(text: str, compile_variable: Callable[[Variable], Getter]) -> Change:
    end = text.find(",")
    name = text[: end if end >= 0 else len(text)].strip().lower()
    make = TRANSFORMATIONS.get(name)
    if make is None:
        raise ValueError(f"{{{name}}} is not known; there are: {', '.join(TRANSFORMATIONS)}")
    arguments = Arguments(name, text, end if end >= 0 else len(text), compile_variable)
    change = make(arguments)
    arguments.end()
    return change


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


def _of_text(change: Callable[[bytes], Value]) -> Callable[[Arguments], Change]:
    """Make a transformation without parameters from a function of the value as a string."""
    return lambda _: lambda _, value: change(text_of(value))


def _int(_: Arguments) -> Change:
    def change(_: Record, value: int | bytes) -> Value:
        if isinstance(value, int):
            return value
        number = to_int(value)
        if number is None or b"%d" % number == value:
            return number
        read = NumberText(number)
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


_URL_SAFE = bytes.maketrans(b"-_+/", b"+/**")  # letters of the plain alphabet become invalid


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


def _substr(arguments: Arguments) -> Change:
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


def _select(arguments: Arguments) -> Change:
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


def _strip(arguments: Arguments) -> Change:
    count, tail = arguments.number(), arguments.name == "s.striptail"

    def change(record: Record, value: int | bytes) -> Value:
        text, number = text_of(value), count(record)
        if number is None:
            return None
        if number <= 0:
            return text
        return text[:-number] if tail else text[number:]

    return change


def _stripto(arguments: Arguments) -> Change:
    char = arguments.string()

    def change(record: Record, value: int | bytes) -> Value:
        text, to = text_of(value), char(record)
        if to is None:
            return None
        at = text.find(to[:1])
        return text[at:] if at >= 0 else b""

    return change


def _prefixes(arguments: Arguments) -> Change:
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


def _replace(arguments: Arguments) -> Change:
    old_text, new_text = arguments.string(), arguments.string(empty=True)

    def change(record: Record, value: int | bytes) -> Value:
        text, old, new = text_of(value), old_text(record), new_text(record)
        if old is None or new is None:
            return None
        if len(text) + text.count(old) * (len(new) - len(old)) > MAX_VALUE:
            return None
        return text.replace(old, new)

    return change


def _rm(arguments: Arguments) -> Change:
    old_text = arguments.string(escapes=True)

    def change(record: Record, value: int | bytes) -> Value:
        old = old_text(record)
        return None if old is None else text_of(value).replace(old, b"")

    return change


def _cut(arguments: Arguments) -> Change:
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


def _count(arguments: Arguments) -> Change:
    char = arguments.char()
    return lambda record, value: None if (to := char(record)) is None else text_of(value).count(to)


def _ftime(arguments: Arguments) -> Change:
    form = arguments.string()

    def change(record: Record, value: int | bytes) -> Value:
        seconds, wanted = to_int(value) if isinstance(value, bytes) else value, form(record)
        if seconds is None or wanted is None:
            return None
        return strftime(wanted.decode("utf-8", "surrogateescape"), local(seconds)) or b""

    return change


def _line_at(arguments: Arguments) -> Change:
    index = arguments.number()

    def change(record: Record, value: int | bytes) -> Value:
        at = index(record)
        text = text_of(value)
        if at is None or not text:
            return None
        if at < 0:
            # no line follows a line end at the very end
            body = text.removesuffix(b"\n")
            lines = body.rsplit(b"\n", -at) if -at <= len(body) + 1 else []
            found = lines[at] if -at <= len(lines) else b""
        else:
            lines = text.split(b"\n", at + 1) if at <= len(text) else []
            found = lines[at] if at < len(lines) else b""
        return found.removesuffix(b"\r")

    return change


def _line_sw(arguments: Arguments) -> Change:
    prefix = arguments.string()

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


def _hash(name: str) -> Callable[[Arguments], Change]:
    return _of_text(lambda text: hashlib.new(name, text, usedforsecurity=False).hexdigest().encode())


TRANSFORMATIONS: Final[Mapping[str, Callable[[Arguments], Change]]] = {
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
