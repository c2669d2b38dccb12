"""Transformations of pseudo-variables. What Kamailio itself makes of them is in tests/e2e/test_route.py."""

import time

import pytest

from sipdump_core.routes.values import MAX_VALUE
from sipdump_core.routes.variables import compile_format, compile_pv
from tests.support import OPTIONS, record


def value(text: str, buf: bytes = OPTIONS, **fields: object) -> object:
    return compile_pv(text, parse_call_id=True)(record(buf, **fields))


def printed(text: str, buf: bytes = OPTIONS, **fields: object) -> bytes:
    return compile_format(text, parse_call_id=False)(record(buf, **fields))


@pytest.mark.parametrize(
    ("transformations", "text", "expected"),
    [
        ("{s.len}", b"abc", 3),
        ("{s.int}", b"-12", -12),
        ("{s.int}", b"", 0),
        ("{s.int}", b"2147483648", None),
        ("{s.int}", b"0" * 19 + b"1", 1),
        ("{s.int}", b"0" * 20 + b"1", None),
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


def test_results_are_bounded() -> None:
    grow = "{s.replace,a,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}" * 40
    assert value(f"$(sipdump(buf){grow}{{s.len}})", b"a" * 1000) is None
    assert value("$(sipdump(buf){s.prefixes})", b"a" * 65_000) is None
    assert value("$(sipdump(buf){s.encode.hexa}{s.len})", b"a" * 65_535) == 131_070
    assert MAX_VALUE < 2**20


@pytest.mark.parametrize("transformations", ["{s.encode.hexa}", "{s.encode.hexa}{s.decode.hexa}", "{s.len}{s.int}"])
def test_what_grows_too_long_on_the_way_is_null(transformations: str) -> None:
    for size in (MAX_VALUE // 2, MAX_VALUE // 2 + 1):
        found = value(f"$(sipdump(buf){transformations})", b"x" * size)
        if transformations == "{s.len}{s.int}":
            assert found == size
        elif size > MAX_VALUE // 2:
            assert found is None
        else:
            assert isinstance(found, bytes)
            assert found in (b"x" * size, b"78" * size)
