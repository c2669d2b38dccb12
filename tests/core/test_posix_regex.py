"""POSIX regular expressions: the same matches as the C library's, in linear time."""

import ctypes
import functools
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.posix_regex import Pattern
from tests.support import examples

REG_EXTENDED, REG_ICASE, REG_NEWLINE, REG_NOSUB = 1, 2, 4, 8
LC_ALL_MASK = 8127
HOSTILE = [b"a" * 65_000 + b"b", b"ab" * 32_500, b"INVITE sip:" * 5_900, b"\n" * 65_000]


class Place(ctypes.Structure):
    _fields_ = [("start", ctypes.c_int), ("end", ctypes.c_int)]


@functools.cache
def libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.newlocale.restype = library.uselocale.restype = ctypes.c_void_p
    library.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    library.uselocale.argtypes = [ctypes.c_void_p]
    return library


@functools.cache
def c_locale() -> int:
    return int(libc().newlocale(LC_ALL_MASK, b"C", None))


def regexec(source: bytes, texts: list[bytes], flags: int) -> list[tuple[int, int] | None] | None:
    """Ask the C library, in Kamailio's locale, for the match in each text; None where it refuses the expression."""
    before = libc().uselocale(c_locale())
    try:
        compiled, places = ctypes.create_string_buffer(512), (Place * 1)()
        if libc().regcomp(compiled, source, REG_EXTENDED | flags):
            return None
        missed = [libc().regexec(compiled, text, 1, places, 0) or (places[0].start, places[0].end) for text in texts]
        libc().regfree(compiled)
        return [None if found == 1 else found for found in missed]
    finally:
        libc().uselocale(before)


only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other flags")

_ATOMS = [
    b" ",
    *rb"""a b A . [ab] [^a] \w \W _ \s \S [[:alpha:]] [[:digit:]_] [^[:space:]] \. [a-c] []a] [^]a] [A-]""".split(),
    *rb"""[\a] [\d] [+--] (c) () (a|b) (ab|a)""".split(),
]
atoms = st.sampled_from(_ATOMS)
texts = st.lists(
    st.sampled_from([b"a", b"b", b"A", b"_", b" ", b".", b"c", b"]", b"\\", b"\xe9", b"-", b"d", b"\n"]), max_size=9
)


def larger(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    quantifiers = st.sampled_from([b"*", b"+", b"?", b"{2}", b"{1,2}", b"{0,}", b"{,2}", b"{,}"])
    return st.one_of(
        st.tuples(inner, inner).map(b"".join),
        st.tuples(inner, inner).map(lambda pair: b"(" + b"|".join(pair) + b")"),
        st.tuples(inner, inner).map(b"|".join),
        st.tuples(inner, quantifiers).map(lambda pair: b"(" + pair[0] + b")" + pair[1]),
    )


# Anchors stand outside of groups and after no newline, for glibc finds matches there that are none: "bb" for "(^b)+$",
# "aa" for "(a\b){2}", "\n" for ".^".
branches = st.tuples(
    st.sampled_from([b"", b"^", rb"\b", rb"\B", rb"\`"]),
    st.recursive(atoms, larger, max_leaves=8),
    st.sampled_from([b"", b"$", rb"\b", rb"\'"]),
)
sources = st.lists(branches.map(b"".join), min_size=1, max_size=2).map(b"|".join)


@only_glibc
@given(sources, st.lists(texts.map(b"".join), min_size=1, max_size=8), st.sampled_from([0, REG_ICASE, REG_NEWLINE, 6]))
@examples(200)
def test_as_the_c_library(source: bytes, subjects: list[bytes], flags: int) -> None:
    expected = regexec(source, subjects, flags)
    if expected is None:
        with pytest.raises(ValueError, match=r"."):
            Pattern(source)
        return
    ignore_case, newline = bool(flags & REG_ICASE), bool(flags & REG_NEWLINE)
    finder = Pattern(source, ignore_case=ignore_case, newline=newline, groups=True)
    matcher = Pattern(source, ignore_case=ignore_case, newline=newline)
    for subject, span in zip(subjects, expected, strict=True):
        found = finder.find(subject)
        assert (found[0] if found else None) == span, (source, subject)
        assert matcher.search(subject) == (span is not None), (source, subject)
        if span == (0, len(subject)):
            assert matcher.fullmatch(subject), (source, subject)


@pytest.mark.parametrize(
    ("source", "text", "found"),
    [
        (b"b", b"abc", (1, 2)),
        (b"a|ab|abc", b"xabcd", (1, 4)),
        (b"(a|ab)(c|bcd)", b"abcd", (0, 4)),
        (b"x*", b"aaa", (0, 0)),
        (b"[]a]+", b"x]a]", (1, 4)),
        (b"[^]a]", b"]ab", (2, 3)),
        (rb"[\d]+", rb"1\d", (1, 3)),
        (b"[[:digit:]_]+", b"a1_2", (1, 4)),
        (b"a{2}", b"aaa", (0, 2)),
        (b"a{2,}", b"aaaa", (0, 4)),
        (b"a{,2}", b"aaaa", (0, 2)),
        (rb"\.", b"a.", (1, 2)),
        (rb"\bb", b"ab b", (3, 4)),
        (rb"\w+\s\S", b"ab c", (0, 4)),
        (b"^b", b"a\nb", None),
        (b"()", b"", (0, 0)),
        (b"a)", b"a)", (0, 2)),
        (b"a*?", b"aaa", (0, 3)),  # of Perl, no lazy one
    ],
)
def test_the_match_that_is_found(source: bytes, text: bytes, found: tuple[int, int] | None) -> None:
    match = Pattern(source, groups=True).find(text)
    assert (match and match[0]) == found


def test_groups() -> None:
    assert Pattern(b"(a)(b)?(c)", groups=True).find(b"xac") == [(1, 3), (1, 2), (-1, -1), (2, 3)]


def test_a_search_goes_on_where_it_is_told() -> None:
    assert Pattern(b"a", groups=True).find(b"aXa", 1) == [(2, 3)]
    assert Pattern(b"^a|x", groups=True).find(b"aaa", 1) is None


def test_case_and_lines() -> None:
    assert Pattern("ä[a-c]".encode(), ignore_case=True).fullmatch("äB".encode())
    assert not Pattern("ä".encode(), ignore_case=True).fullmatch("Ä".encode())  # the C locale knows ASCII only
    assert Pattern(b"^b.?$", newline=True, groups=True).find(b"a\nb\nc") == [(2, 3)]


@pytest.mark.parametrize(
    ("source", "text", "matches"),
    [
        (b"sipdump", b"SipDump", True),
        (b"sipdump", b"sipdump_text", False),
        (b"sipdump|tm", b"tm", True),
        (b"^sip", b"sip", True),
        (b"^sip", b"sips", False),
        (b"s.p(s)?", b"sips", True),
        (b"", b"", True),
    ],
)
def test_fullmatch(source: bytes, text: bytes, matches: bool) -> None:
    assert Pattern(source, ignore_case=True).fullmatch(text) is matches


@pytest.mark.parametrize(
    ("source", "text", "found"),
    [
        (b"^options", b"OPTIONS sip:a@b", True),
        (b"^sip", b"OPTIONS\nsip", False),  # no line but the whole has a beginning
        (b"a$", b"a\n", False),
        (b"a.*z", b"a\r\n\0z", True),  # . is any byte
        (b"", b"", True),
        (b"^$", b"", True),
        (b"INVITE|REGISTER", b"a register", True),
        (b"^INVITE |^ACK ", b"ack sip:a", True),
        (rb"^\B", b"", True),
        (b"^a$", b"a\n", False),
        (b"^INVITE |ACK ", b"an ack ", True),
        (b"call", b"a Call-ID", True),
        (b"(^|\n)Call-ID: *[0-9]+", b"X\r\nCall-ID:   5", True),
        (rb"10\.0\.0\.[0-9]{1,3}$", b"10.0.0.250", True),
        (rb"10\.0\.0\.[0-9]{1,3}$", b"10a0.0.250", False),
        (b"\xc3\xa9", "é".encode(), True),
        (b"\xc3\x89", "é".encode(), False),  # letters of ASCII only have a case
        (b"\xc9", b"\xe9", False),
        (rb"^\(\?i\)\z", b"(?i)z", True),  # nothing of Perl
    ],
)
def test_search(source: bytes, text: bytes, found: bool) -> None:
    assert Pattern(source, ignore_case=True).search(text) is found


@pytest.mark.parametrize(
    "source",
    [
        *rb"( (a [a *a a|* a{2,1} a{} a{x a{1 [[:no:]] [b-a] \ ^* $+ (a)\1 [[.a.]] [[=a=]] \<a a\>".split(),
        b"(" * 1000,
        b"(" * 2000,
        b"(a{99}){99}",
        b"a{1001}",
        b"a" * 1025,
        b"([a-z]{30}|[b-y]{30}){40}",
    ],
)
def test_what_is_no_expression(source: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Pattern(source)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (rb"\<sip", r"write \\b"),
        (rb"sip\>", r"write \\b"),
        (rb"(a)\1", "write out"),
        (b"[[.-.]]", "write the characters"),
        (b"[[=e=]]", "write the characters"),
        (b"a{x", r"written \\{"),
        (b"a{1001}", "more than 1000"),
    ],
)
def test_an_error_says_what_to_write_instead(source: bytes, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        Pattern(source)


@pytest.mark.parametrize(
    "source",
    [
        *rb"^(a+)+$ (a|a)*c .*x.*y (a*)*c a.*b.*c.*d$ [ab]+z (.*)(.*)(.*)z INVITE.*bob".split(),
        b"(a?){500}a{500}",
        b"((a{0,30}){0,30}){0}b",
        b"[" + b"[.a.]" * 200,
        b"(((((a*)*)*)*)*)*c",
    ],
)
def test_time_is_linear(source: bytes) -> None:
    start = time.process_time()
    for groups in (False, True):
        try:
            pattern = Pattern(source, ignore_case=True, groups=groups)
        except ValueError:
            continue
        for text in HOSTILE:
            pattern.search(text)
            if groups:
                pattern.find(text)
    assert time.process_time() - start < 5.0  # it takes about 0.05 s; a search that backtracks takes hours


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("source", [b"(a|b)*a(a|b){11}c", b"(a|b)*a(a|b){20}c"])  # up to 2**21 states
def test_memory_is_bounded(source: bytes) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    pattern = Pattern(source)
    text = bytes(b"ab"[(number * 2654435761 >> 16) & 1] for number in range(200_000)) + b"c"
    before = resident()
    assert pattern.search(text) in (True, False)
    assert pattern.search(b"x" + text + b"a" * 21 + b"c")
    assert resident() - before < 16 << 20


def test_a_word_and_a_start_need_no_re2() -> None:
    code = """if True:
        import sys
        from sipdump_core.posix_regex import Pattern
        assert Pattern(b"sipdump", ignore_case=True).fullmatch(b"sipdump")
        assert Pattern(b"^INVITE |^ACK ", ignore_case=True).search(b"ack sip:a")
        sys.exit("re2" in sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_share_a_pattern() -> None:
    pattern = Pattern(b"a.*b.*[c-d]+", groups=True)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(pattern.find, [b"xaab" + b"y" * length + b"cd" for length in range(200)]))
    assert found == [[(1, 6 + length)] for length in range(200)]
