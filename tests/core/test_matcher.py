"""The expressions of ``=~``: the same matches as the C library's regexec, in linear time."""

import ctypes
import ctypes.util
import functools
import platform
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipdump_core.matcher import Matcher

REG_EXTENDED, REG_ICASE, REG_NOSUB = 1, 2, 8
LC_ALL_MASK = 8127
HOSTILE = [b"a" * 65_000 + b"b", b"ab" * 32_500, b"INVITE sip:" * 5_900, b"\n" * 65_000]


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


def regexec(source: bytes, text: bytes) -> bool | None:
    """Ask the C library, in Kamailio's locale; None where it doesn't take the expression."""
    before = libc().uselocale(c_locale())
    try:
        compiled = ctypes.create_string_buffer(512)
        if libc().regcomp(compiled, source, REG_EXTENDED | REG_ICASE | REG_NOSUB):
            return None
        found = libc().regexec(compiled, text, 0, None, 0) == 0
        libc().regfree(compiled)
        return bool(found)
    finally:
        libc().uselocale(before)


only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other flags")

_ATOMS = [b" ", *rb"""a b A . [ab] [^a] \w \W _ [[:alpha:]] \. [a-c] []a] [^]a] [A-] [\a]""".split()]
atoms = st.sampled_from(_ATOMS)
texts = st.lists(st.sampled_from([b"a", b"b", b"A", b"_", b" ", b".", b"c", b"]", b"\\", b"\xe9"]), max_size=9)


def larger(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    quantifiers = st.sampled_from([b"*", b"+", b"?", b"{2}", b"{1,2}", b"{0,}", b"{,2}"])
    return st.one_of(
        st.tuples(inner, inner).map(b"".join),
        st.tuples(inner, inner).map(lambda pair: b"(" + b"|".join(pair) + b")"),
        st.tuples(inner, inner).map(b"|".join),
        st.tuples(inner, quantifiers).map(lambda pair: b"(" + pair[0] + b")" + pair[1]),
    )


# Anchors stand outside of groups and after no newline, for glibc finds matches there that are none: "bb" for "(^b)+$",
# "aa" for "(a\b){2}", "\n" for ".^".
branches = st.tuples(
    st.sampled_from([b"", b"^", rb"\b", rb"\<"]),
    st.recursive(atoms, larger, max_leaves=8),
    st.sampled_from([b"", b"$", rb"\b", rb"\>"]),
)
sources = st.lists(branches.map(b"".join), min_size=1, max_size=2).map(b"|".join)


@only_glibc
@given(sources, st.lists(texts.map(b"".join), min_size=1, max_size=8))
@settings(max_examples=400, deadline=None)
def test_as_the_c_library(source: bytes, subjects: list[bytes]) -> None:
    try:
        matcher = Matcher(source)
    except ValueError:
        return
    for subject in subjects:
        expected = regexec(source, subject)
        if expected is not None:
            assert matcher.search(subject) == expected, (source, subject)


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
        (b"(^|\n)Call-ID: *[0-9]+", b"X\r\nCall-ID:   5", True),
        (rb"10\.0\.0\.[0-9]{1,3}$", b"10.0.0.250", True),
        (rb"10\.0\.0\.[0-9]{1,3}$", b"10a0.0.250", False),
        (b"\xc3\xa9", "é".encode(), True),
        (b"\xc3\x89", "é".encode(), False),  # letters of ASCII only have a case
    ],
)
def test_search(source: bytes, text: bytes, found: bool) -> None:
    assert Matcher(source).search(text) is found


@pytest.mark.parametrize("source", [b"(a", b"a{2,1}", b"[[:foo:]]", rb"(a)\1", b"[a", b"(" * 2000, b"(a{99}){99}"])
def test_what_is_no_expression(source: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Matcher(source)


@pytest.mark.parametrize(
    "source",
    [b"^(a+)+$", b"(a|a)*c", b".*x.*y", b"(a*)*c", b"a.*b.*c.*d$", b"[ab]+z", b"(.*)(.*)(.*)z", b"INVITE.*bob"],
)
def test_time_is_linear(source: bytes) -> None:
    matcher = Matcher(source)
    start = time.process_time()
    for text in HOSTILE:
        matcher.search(text)
    assert time.process_time() - start < 5.0  # it takes about 0.02 s; a search that backtracks takes hours


def test_memory_is_bounded() -> None:
    matcher = Matcher(b"(a|b)*a(a|b){11}c")  # it has 4096 states
    text = bytes(b"ab"[(number * 2654435761 >> 16) & 1] for number in range(20_000))
    assert not matcher.search(text)
    assert matcher.search(text + b"a" * 12 + b"c")
    assert len(matcher._states) <= 1000
