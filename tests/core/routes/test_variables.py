"""Pseudo-variables and transformations. What Kamailio itself makes of them is in tests/e2e/test_route.py."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.record import Record
from sipdump_core.routes.transformations import TRANSFORMATIONS
from sipdump_core.routes.variables import (
    _PLAIN,
    _SIPDUMP,
    _TIME,
    _TIMEVAL,
    compile_format,
    compile_pv,
)
from tests.support import OPTIONS, examples, record


def value(text: str, buf: bytes = OPTIONS, **fields: object) -> object:
    return compile_pv(text, parse_call_id=True)(record(buf, **fields))


def printed(text: str, buf: bytes = OPTIONS, **fields: object) -> bytes:
    return compile_format(text, parse_call_id=False)(record(buf, **fields))


def test_every_key_of_sipdump() -> None:
    assert value("$sipdump(tag)") == b"rcv"
    assert value("$sipdump(buf)") == OPTIONS
    assert value("$sipdump(len)") == len(OPTIONS)
    assert value("$sipdump(af)") == b"ipv4"
    assert value("$sipdump(proto)") == value("$sipdump(sproto)") == b"udp"
    assert value("$sipdump(sproto)", proto="wss") == b"wss"
    assert (value("$sipdump(src_ip)"), value("$sipdump(src_port)")) == (b"127.0.0.1", 5999)
    assert (value("$sipdump(dst_ip)"), value("$sipdump(dst_port)")) == (b"127.0.0.1", 5070)
    assert value("$sipdump(call_id)") == b"c1@192.0.2.1"


def test_call_id_is_null_without_parse_call_id_or_without_one() -> None:
    assert compile_pv("$sipdump(call_id)", parse_call_id=False)(record()) is None
    assert value("$sipdump(call_id)", b"garbage") is None
    assert printed("$sipdump(call_id)") == b"<null>"


def test_time_and_process() -> None:
    at = 1_795_386_431_765_284
    local = time.localtime(at // 1_000_000)
    assert value("$Ts", time_us=at) == value("$TV(s)", time_us=at) == 1_795_386_431
    assert value("$TV(u)", time_us=at) == 765_284
    assert value("$Tf", time_us=at) == time.asctime(local).encode()
    assert value("$time(year)", time_us=at) == local.tm_year
    assert value("$timef(%H:%M)", time_us=at) == time.strftime("%H:%M", local).encode()
    assert value("$utimef(%Y-%m-%d %H:%M:%S)", time_us=at) == b"2026-11-22 22:27:11"
    assert (value("$utime(wday)", time_us=at), value("$utime(mon)", time_us=at)) == (1, 11)  # a Sunday
    now = value("$TV(sn)")
    assert isinstance(now, int)
    assert abs(now - time.time()) < 5
    assert value("$pp") == 2738
    assert value("$$") == b"$"
    assert value("$null") is None


def test_time_is_local_and_utime_is_not(live_in: Callable[[str], None]) -> None:
    at = 1_795_386_431_765_284
    live_in("Asia/Kathmandu")
    assert value("$timef(%d %H:%M:%S)", time_us=at) == b"23 04:12:11"
    assert value("$utimef(%d %H:%M:%S)", time_us=at) == b"22 22:27:11"
    for name, local, utc in (
        ("sec", 11, 11), ("min", 12, 27), ("hour", 4, 22), ("mday", 23, 22), ("wday", 2, 1), ("yday", 327, 326),
    ):  # fmt: skip
        assert (value(f"$time({name})", time_us=at), value(f"$utime({name})", time_us=at)) == (local, utc)
    assert value("$Tf", time_us=at) == b"Mon Nov 23 04:12:11 2026"
    assert value("$(Ts{s.ftime,%d %H:%M})", time_us=at) == b"23 04:12"
    live_in("Europe/Berlin")
    summer, winter = 1_792_888_200_000_000, 1_792_891_800_000_000  # 02:30 comes twice
    shown = "$timef(%H:%M %z) $time(isdst) $utime(hour) $utime(isdst)"
    assert printed(shown, time_us=summer) == b"02:30 +0200 1 0 0"
    assert printed(shown, time_us=winter) == b"02:30 +0100 0 1 0"


def test_a_text_of_variables() -> None:
    assert printed("[$sipdump(tag)] $sipdump(src_ip):$sipdump(src_port)") == b"[rcv] 127.0.0.1:5999"
    assert printed("no variable, 100%") == b"no variable, 100%"
    assert printed("") == b""
    assert printed("$$5 $(Ts)$(sipdump(tag))", time_us=7_000_000) == b"$5 7rcv"
    assert printed("$sipdump(tag){s.len}") == b"rcv{s.len}"  # no transformation: that takes brackets around it all
    assert printed("\udcff$sipdump(tag)") == b"\xffrcv"  # a byte of a configuration that is no UTF-8


def test_null_prints_as_such_but_a_failed_transformation_prints_nothing() -> None:
    assert printed("<$null|$(null{s.len})|$(sipdump(tag){s.int})>") == b"<<null>||>"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("$ru", "known is"),
        ("$ci", r"sipdump\(call_id\)"),
        ("$hdr(X)", "line.sw"),
        ("$", "a lone"),
        ("", "begins with"),
        ("Ts", "begins with"),
        ("$sipdump(nothing)", r"there are: \$sipdump\(tag\)"),
        ("$sipdump", "needs a name"),
        ("$sipdump()", "needs a name"),
        ("$Ts(x)", "no name"),
        ("$TV(x)", r"\$TV\(sn\)"),
        ("$time(x)", "yday"),
        ("$Ts more", "more after"),
        ("$sipdump(buf){s.len}", "inside brackets"),
        ("$(sipdump(buf){s.nothing})", "s.len"),
        ("$(sipdump(buf){uri.host})", "s.len"),
        ("$(sipdump(buf){s.len)", "s.len"),
        ("$(sipdump(buf)", r"expected \)"),
        ("$(sipdump(buf)[0])", "no index"),
        ("$(sipdump(buf){s.substr,1})", "more parameters"),
        ("$(sipdump(buf){s.substr,a,1})", "a number"),
        ("$(sipdump(buf){s.select,1,ab})", "expected }"),
        ("$(sipdump(buf){s.rm,})", "a text"),
        ("$(Ts{s.len,1})", "expected }"),
    ],
)
def test_what_is_not_known_is_refused(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        compile_pv(text, parse_call_id=True)


def test_what_the_documentation_lists_is_what_there_is() -> None:
    page = (Path(__file__).parents[3] / "docs" / "event_route.md").read_text()
    for name in TRANSFORMATIONS:
        documented = name.replace("decode", "encode").replace("unescape", "escape")
        assert f"`{{{documented}" in page, name
    known = [*_PLAIN, *(f"sipdump({key})" for key in [*_SIPDUMP, "call_id"]), *(f"TV({key})" for key in _TIMEVAL)]
    assert [name for name in known if f"`${name}`" not in page] == []
    assert [key for key in _TIME if f"`{key}`" not in page] == []
    listed = [name for name in re.findall(r"\$(\w+(?:\(\w+\))?)`", page) if not name.endswith("(x)")]
    for name in listed:
        compile_pv(f"${name}", parse_call_id=True)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ValueError, match="too deep"):
        compile_pv("$(Ts{s.strip," * 500 + "$Ts" + "})" * 500, parse_call_id=False)


_ARGUMENTS = ["", ",1", ",-3", ",0,0", ",2,3", ",a", ",a,b", r",\n", ",1,,", ",1, ", ",%Y %s", ",$Ts", ",$sipdump(tag)"]
_NAMES = [
    "sipdump(buf)",
    "sipdump(len)",
    "sipdump(call_id)",
    "Ts",
    "Tf",
    "null",
    "TV(Fn)",
    "time(yday)",
    "timef(%c)",
    "utimef(%s)",
]
_BUFFERS = [OPTIONS, b"%%%x%4", b"=" * 9, b"9" * 30, b"-", b"\n", b"a" * 70_000]
transformation = st.tuples(st.sampled_from(sorted(TRANSFORMATIONS)), st.sampled_from(_ARGUMENTS)).map(
    lambda pair: f"{{{pair[0]}{pair[1]}}}"
)
names = st.sampled_from(_NAMES)
records = st.builds(
    record, st.one_of(st.binary(max_size=200), st.sampled_from(_BUFFERS)), time_us=st.integers(-(2**70), 2**70)
)


@given(names, st.lists(transformation, max_size=4), records)
@examples(200)
def test_no_record_makes_a_variable_raise(name: str, transformations: list[str], any_record: Record) -> None:
    try:
        form = compile_format(f"$({name}{''.join(transformations)})", parse_call_id=True)
    except ValueError:
        return
    assert isinstance(form(any_record), bytes)


@given(st.text(alphabet="$(){}[],s.lenTV ipdumbf01\\%", max_size=40))
@examples(200)
def test_any_text_compiles_or_is_refused(text: str) -> None:
    try:
        form = compile_format(text, parse_call_id=True)
    except ValueError:
        return
    assert isinstance(form(record()), bytes)
