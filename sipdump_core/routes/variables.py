"""Kamailio's pseudo-variables, as far as sipdump's event route has use for them.

There is no parsed SIP message in an event route, so there are ``$sipdump(...)``, the time and the process, with the
transformations ``{s.*}`` and ``{line.*}``, as Kamailio 5.6 has them (src/core/pvapi.c; pv_trans.c and pv_time.c of
src/modules/pv). Where Kamailio's documentation and its code differ, the documentation is followed.

A text is compiled once to a closure. A closure returns ``bytes`` for strings, ``int``, or None for null. It never
raises, and takes time and memory in proportion to the message: a value over ``MAX_VALUE`` bytes becomes null.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from sipdump_core.config.variable import Variable, scan_variable
from sipdump_core.record import Record
from sipdump_core.routes.transformations import transformed
from sipdump_core.routes.values import Format, Getter, Value, encode, local, strftime, text_of, utc

__all__ = ["compile_format", "compile_pv"]

_MAX_DEPTH: Final = 20
_STARTED: Final = int(time.time())


def compile_pv(text: str, *, parse_call_id: bool) -> Getter:
    """Compile one pseudo-variable, as ``$Ts``, ``$sipdump(tag)`` or ``$(sipdump(buf){s.len})``.

    Args:
        text: the variable, and nothing after it.
        parse_call_id: whether ``$sipdump(call_id)`` has a value; else it is null.

    Raises:
        ValueError: it is not a variable, or not a known one; the message says what is known.
    """
    variable = scan_variable(text, 0)
    more = text[len(variable.text) :]
    if more:
        hint = "; transformations are written inside brackets, as $(Ts{s.len})" if more.startswith("{") else ""
        raise ValueError(f"{text}: there is more after the variable: {more!r}{hint}")
    return _compile(variable, parse_call_id)


def compile_format(text: str, *, parse_call_id: bool) -> Format:
    """Compile a text with pseudo-variables in it, as xlog takes it.

    A null prints as ``<null>``; a transformation that fails, or is applied to null, prints nothing (as in Kamailio).

    Raises:
        ValueError: see :func:`compile_pv`.
    """
    printers: list[Format] = []
    at = 0
    while at < len(text):
        start = text.find("$", at)
        start = len(text) if start < 0 else start
        if start > at:
            printers.append(_constant(encode(text[at:start])))
        at = start
        if at < len(text):
            variable = scan_variable(text, at)
            printers.append(_printer(variable, parse_call_id))
            at += len(variable.text)
    if len(printers) == 1:
        return printers[0]
    return lambda record: b"".join([printer(record) for printer in printers])


def _compile(variable: Variable, parse_call_id: bool, depth: int = 0) -> Getter:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{variable.text}: variables are nested too deep")
    get = _getter(variable, parse_call_id)
    if variable.index is not None:
        raise ValueError(f"{variable.text}: ${variable.name} has no index")
    return transformed(get, variable.transformations, lambda inner: _compile(inner, parse_call_id, depth + 1))


def _getter(variable: Variable, parse_call_id: bool) -> Getter:
    name, inner = variable.name, variable.inner
    if name == "$":
        return _constant(b"$")
    if name in _WITH_NAME:
        if not inner:
            raise ValueError(f"${name} needs a name in brackets, as $sipdump(tag) or $TV(sn)")
        return _with_name(name, inner, parse_call_id)
    if name in _PLAIN:
        if inner is not None:
            raise ValueError(f"${name} takes no name in brackets")
        return _PLAIN[name]
    instead = f"use {_INSTEAD[name]}" if name in _INSTEAD else f"what is known is {_KNOWN}"
    raise ValueError(f"${name} is not known in an event route, which has no parsed message; {instead}")


def _constant(value: bytes) -> Format:
    return lambda _: value


def _printer(variable: Variable, parse_call_id: bool) -> Format:
    get = _compile(variable, parse_call_id)
    null = b"" if variable.transformations else b"<null>"

    def printer(record: Record) -> bytes:
        value = get(record)
        return null if value is None else text_of(value)

    return printer


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


def _now_us() -> int:
    return time.time_ns() // 1000


def _ctime(seconds: int) -> bytes:
    return time.asctime(local(seconds)).encode()


def _full(time_us: int) -> bytes:
    return b"%s.%06d" % (time.strftime("%Y-%m-%d %H:%M:%S", local(time_us // 1_000_000)).encode(), time_us % 1_000_000)


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
    broken_down = utc if name.startswith("u") else local
    if name.endswith("f"):
        if "\0" in inner:
            raise ValueError(f"${name}: the format holds a NUL")
        return lambda record: strftime(inner, broken_down(record.time_us // 1_000_000))
    if inner not in _TIME:
        raise ValueError(f"${name}({inner}): there are {', '.join(_TIME)}")
    field = _TIME[inner]
    return lambda record: field(broken_down(record.time_us // 1_000_000))


def _one_of(getters: Mapping[str, Getter], name: str, inner: str, known: tuple[str, ...]) -> Getter:
    if inner not in getters:
        raise ValueError(f"${name}({inner}) is not known; there are: {', '.join(f'${name}({key})' for key in known)}")
    return getters[inner]
