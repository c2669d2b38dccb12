"""Extended regular expressions: as the C library has them."""

import ctypes
import ctypes.util
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipdump_core.posix_re import Pattern


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("b", "abc", (1, 2)),
        ("a|ab|abc", "xabcd", (1, 4)),
        ("(a|ab)(c|bcd)", "abcd", (0, 4)),
        ("x*", "aaa", (0, 0)),
        ("[]a]+", "x]a]", (1, 4)),
        ("[^]a]", "]ab", (2, 3)),
        (r"[\d]+", r"1\d", (1, 3)),
        ("[[:digit:]_]+", "a1_2", (1, 4)),
        ("a{2}", "aaa", (0, 2)),
        ("a{2,}", "aaaa", (0, 4)),
        ("a{,2}", "aaaa", (0, 2)),
        (r"\.", "a.", (1, 2)),
        (r"\bb", "ab b", (3, 4)),
        (r"\w+\s\S", "ab c", (0, 4)),
        ("^b", "a\nb", None),
        ("()", "", (0, 0)),
        ("a)", "a)", (0, 2)),
    ],
)
def test_a_search(pattern: str, text: str, found: tuple[int, int] | None) -> None:
    match = Pattern(pattern).search(text)
    assert (match and match[0]) == found


def test_groups() -> None:
    assert Pattern("(a)(b)?(c)").search("xac") == [(1, 3), (1, 2), None, (2, 3)]


def test_case_and_lines() -> None:
    assert Pattern("ä[a-c]", ignore_case=True).fullmatch("ÄB")
    assert Pattern("^b.?$", newline=True).search("a\nb\nc") == [(2, 3)]


@pytest.mark.parametrize(
    "pattern", ["(", "[a", "*a", "a|*", "a{2,1}", "a{}", "[[:no:]]", "[b-a]", "\\", "^*", r"(a)\1"]
)
def test_what_is_no_expression(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Pattern(pattern)


class _Place(ctypes.Structure):
    _fields_ = [("start", ctypes.c_int), ("end", ctypes.c_int)]


ATOMS = ["a", "b", "c", ".", "[ab]", "[^a]", "(a|b)", "(ab|a)", "(c)", r"\.", "[[:alpha:]]", r"\w", "[a-c]", "[]a]"]
PIECES = st.builds("".join, st.tuples(st.sampled_from(ATOMS), st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}"])))
BRANCHES = st.lists(PIECES, min_size=1, max_size=4).map("".join)


@pytest.mark.skipif(sys.platform != "linux", reason="compares with glibc")
@settings(max_examples=300, deadline=None)
@given(st.lists(BRANCHES, min_size=1, max_size=3).map("|".join), st.text("abcAB.]", max_size=8), st.booleans())
def test_the_c_library_finds_the_same(pattern: str, text: str, ignore_case: bool) -> None:
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    compiled, places = ctypes.create_string_buffer(512), (_Place * 1)()
    assert library.regcomp(compiled, pattern.encode(), 1 | (2 if ignore_case else 0)) == 0
    missed = library.regexec(compiled, text.encode(), 1, places, 0)
    library.regfree(compiled)
    match = Pattern(pattern, ignore_case=ignore_case).search(text)
    assert (match and match[0]) == (None if missed else (places[0].start, places[0].end))
