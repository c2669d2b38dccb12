"""Pseudo-variables and transformations. What Kamailio itself makes of them is in tests/e2e/test_route.py."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipdump_core.record import Record
from sipdump_core.routes.transformations import TRANSFORMATIONS
from sipdump_core.routes.values import MAX_VALUE
from sipdump_core.routes.variables import (
    _PLAIN,
    _SIPDUMP,
    _TIME,
    _TIMEVAL,
    compile_format,
    compile_pv,
)
from tests.support import OPTIONS, record


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
    ("transformations", "text", "expected"),
    [
        ("{s.len}", b"abc", 3),
        ("{s.int}", b"-12", -12),
        ("{s.int}", b"", 0),
        ("{s.int}", b"2147483648", None),
        ("{s.int}", b"12a", None),
        ("{s.substr,1,2}", b"abcd", b"bc"),
        ("{s.substr,-3,2}", b"abcd", b"bc"),
        ("{s.substr,1,0}", b"abcd", b"bcd"),
        ("{s.substr,4,1}", b"abcd", None),
        ("{s.substr,-5,1}", b"abcd", None),
        ("{s.select,1,,}", b"a,b,c", b"b"),
        ("{s.select,-1,,}", b"a,b,c", b"c"),
        ("{s.select,5,,}", b"a,b,c", b""),
        ("{s.select,0, }", b"OPTIONS sip:a", b"OPTIONS"),
        (r"{s.select,1,\n}", b"a\nb", b"b"),
        ("{s.strip,2}", b"abcd", b"cd"),
        ("{s.striptail,2}", b"abcd", b"ab"),
        ("{s.strip,9}", b"abcd", b""),
        ("{s.stripto,c}", b"abcd", b"cd"),
        ("{s.stripto,x}", b"abcd", b""),
        ("{s.before,b}", b"abcb", b"a"),
        ("{s.before,x}", b"abcb", b"abcb"),
        ("{s.after,b}", b"abcb", b"cb"),
        ("{s.after,x}", b"abcb", b""),
        ("{s.rbefore,b}", b"abcbd", b"abc"),
        ("{s.rafter,b}", b"abcbd", b"d"),
        ("{s.after,,}", b"a,b", b"b"),
        ("{s.trim}", b" \t\r\nab \n", b"ab"),
        ("{s.ltrim}", b" ab ", b"ab "),
        ("{s.rtrim}", b" ab ", b" ab"),
        ("{s.rm,b}", b"abcb", b"ac"),
        (r"{s.rm,\r\n}", b"a\r\nb", b"ab"),
        ("{s.rmws}", b"a b\r\n\tc", b"abc"),
        ("{s.replace,b,xy}", b"abcb", b"axycxy"),
        ("{s.replace,b,}", b"abcb", b"ac"),
        ("{s.tolower}", b"AbC\xc9", b"abc\xc9"),
        ("{s.toupper}", b"aBc\xe9", b"ABC\xe9"),
        ("{s.numeric}", b"040/12-3", b"040123"),
        ("{s.count,b}", b"abcb", 2),
        ("{s.prefixes}", b"abc", b"a,ab,abc"),
        ("{s.prefixes.quoted,2}", b"abc", b"'a','ab'"),
        ("{s.unquote}", b'"ab"', b"ab"),
        ("{s.unbracket}", b"<ab>", b"ab"),
        ("{s.md5}", b"abc", b"900150983cd24fb0d6963f7d28e17f72"),
        ("{s.encode.hexa}", b"\xffa", b"ff61"),
        ("{s.decode.hexa}", b"ff613", b"\xffa"),
        ("{s.decode.hexa}", b"fg", None),
        ("{s.encode.base64}", b"ab", b"YWI="),
        ("{s.decode.base64}", b"YWI=", b"ab"),
        ("{s.decode.base64}", b"YWI", None),
        ("{s.encode.base64t}", b"ab", b"YWI"),
        ("{s.decode.base64t}", b"YWI", b"ab"),
        ("{s.encode.base64url}", b"\xfb\xff", b"-_8="),
        ("{s.decode.base64url}", b"-_8=", b"\xfb\xff"),
        ("{s.decode.base64urlt}", b"-_8", b"\xfb\xff"),
        ("{s.escape.common}", b"a'\"\\\0", b"a\\'\\\"\\\\\\0"),
        ("{s.unescape.common}", b"a\\'\\n", b"a'\\n"),
        ("{s.escape.user}", b"a b@", b"a%20b%40"),
        ("{s.escape.user}", b"a\n", None),
        ("{s.unescape.user}", b"a%20b", b"a b"),
        ("{s.unescape.user}", b"a%00", None),
        ("{s.escape.param}", b"a b;", b"a%20b%3b"),
        ("{s.escape.csv}", b'a"b', b'"a""b"'),
        ("{s.urlencode.param}", b"a b~", b"a%20b~"),
        ("{s.urldecode.param}", b"a%20b+c", b"a b c"),
        ("{s.ftime,%Y}", b"86400", b"1970"),
        ("{s.ftime,%Y}", b"x", None),
        ("{line.at,1}", b"a\r\nb\r\nc", b"b"),
        ("{line.at,-1}", b"a\r\nb\r\nc\r\n", b"c"),
        ("{line.at,9}", b"a\r\nb", b""),
        ("{line.sw,b:}", b"a: 1\r\nb: 2\r\n", b"b: 2"),
        ("{line.sw,x:}", b"a: 1\r\nb: 2\r\n", b""),
        ("{line.count}", b"a\r\nb", 2),
        ("{s.len}{s.len}", b"0123456789", 2),
        ("{line.at,0} {s.LEN}", b"abc\r\nd", 3),
        ("{s.substr,0,$(null{s.len})}", b"abc", None),
        ("{s.substr,0,$(sipdump(tag){s.len})}", b"abcde", b"abc"),
        ("{s.rm,$sipdump(tag)}", b"a rcv b", b"a  b"),
    ],
)
def test_transformations(transformations: str, text: bytes, expected: object) -> None:
    assert value(f"$(sipdump(buf){transformations})", text) == expected


def test_a_number_that_was_read_prints_as_it_was_written() -> None:
    assert value("$(sipdump(buf){s.int})", b"007") == 7
    assert printed("$(sipdump(buf){s.int})|$(sipdump(buf){s.int}{s.len})", b"007") == b"007|3"
    assert printed("<$(sipdump(buf){s.int})>", b"") == b"<>"
    assert printed("$(sipdump(buf){s.int})", b"7") == b"7"


def test_transformations_of_numbers() -> None:
    assert value("$(sipdump(src_port){s.len})") == 4
    assert value("$(sipdump(src_port){s.int})") == 5999
    assert value("$(sipdump(src_port){s.substr,0,2})") == b"59"
    assert value("$(Ts{s.ftime,%Y})", time_us=0) == time.strftime("%Y", time.localtime(0)).encode()


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


def test_results_are_bounded() -> None:
    grow = "{s.replace,a,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}" * 40
    assert value(f"$(sipdump(buf){grow}{{s.len}})", b"a" * 1000) is None
    assert value("$(sipdump(buf){s.prefixes})", b"a" * 65_000) is None
    assert value("$(sipdump(buf){s.encode.hexa}{s.len})", b"a" * 65_535) == 131_070
    assert MAX_VALUE < 2**20


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
@settings(max_examples=500, deadline=None)
def test_no_record_makes_a_variable_raise(name: str, transformations: list[str], any_record: Record) -> None:
    try:
        form = compile_format(f"$({name}{''.join(transformations)})", parse_call_id=True)
    except ValueError:
        return
    assert isinstance(form(any_record), bytes)


@given(st.text(alphabet="$(){}[],s.lenTV ipdumbf01\\%", max_size=40))
@settings(max_examples=500, deadline=None)
def test_any_text_compiles_or_is_refused(text: str) -> None:
    try:
        form = compile_format(text, parse_call_id=True)
    except ValueError:
        return
    assert isinstance(form(record()), bytes)
