"""Expressions of ``#!ifexp``; the values are those that Kamailio 6.1.5 has for them."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.config.expression import evaluate_expression, is_true, printed
from tests.support import examples

DEFINES = {"A": "3", "B": '"str"', "C": "", "N": "007", "Q": "'it'", "V": "6001005", "E": '""'}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0),
        ("1", 1),
        ("3.5", 3.5),
        ("A", "3"),
        ("C", 1),
        ("missing", 0),
        ("B == 'str' && Q == \"it\"", 1),
        ("E", ""),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", 4),
        ("7 - 2 - 1", 4),
        ("7 % 4", 3),
        ("7 / 2", 3.5),
        ("1 << 4 | 1", 17),
        ("6 & 3 ^ 1", 3),
        ("^0", -1),
        ("!missing", 1),
        ("!C", 0),
        ("!  missing", 1),
        ("1 < 2 == 1", 1),
        ("1 || 1 / 0", 1),
        ("0 && 1 / 0", 0),
        ("missing || B", 1),
        ("1, 2", 2),
        ("1 / 0, 2", 2),
        ("x = 2, x * x", 4),
        ("'a' + 1", "a1"),
        ("'a' + 1.5", "a1.5"),
        ("1 + '2'", 3),
        ("V >= 6001000", 1),
        ("V >= 10000000", 1),  # V is a string, so the comparison is one of strings
        ("10000000 <= V", 0),
        ("N == 7", 0),
        ("7 == N", 1),
        ("'\\'' == \"'\"", 1),
        ("16777217", 16777216),  # a C float
        ("0.1 + 0.2 == 0.3", 1),
        ("1 # a comment", 1),
        ("2147483647 + 1 & 1", 0),
        ("2 ** 1000", math.inf),
    ],
)
def test_the_value(text: str, value: float | str) -> None:
    assert evaluate_expression(text, DEFINES) == value


@pytest.mark.parametrize("text", ["1 + 'x'", "1 % 0"])
def test_what_is_not_a_number(text: str) -> None:
    assert math.isnan(float(evaluate_expression(text, DEFINES)))


@pytest.mark.parametrize(
    "text",
    [
        *["1 +", "+ 1", "* 2", "(1", "1)", "1 2", "a b", "f(1)", "1.2.3", "1 = 2", "1 !", "1 !! 2", "'a", "1 // why"],
        *["! missing", "- 'a'", "'a' * 2", "1 / 0", "!B", "1 === 1", "1 ? 2", "()", "-" * 300 + "1", "1+" * 300 + "1"],
        "'" + "x" * 40_000 + "' + '" + "x" * 40_000 + "'",
    ],
)
def test_what_has_no_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        evaluate_expression(text, DEFINES)


def test_what_is_true_and_how_a_value_is_defined() -> None:
    assert [is_true(value) for value in (1.0, 0.0, math.nan, "0", "")] == [True, False, True, True, False]
    assert [printed(value) for value in (7.9, -1.0, "x", math.inf)] == ["7", str(2**64 - 1), "x", str(2**63)]


_WORDS = [
    "1",
    "0",
    "2.5",
    "A",
    "B",
    "C",
    "x",
    '"a"',
    "''",
    "(",
    ")",
    "!",
    " ",
    "=",
    *"+-*/%<>&|^,#$.?",
    "**",
    "<<",
    "==",
]


@examples(300)
@given(st.lists(st.sampled_from(_WORDS), max_size=12).map("".join) | st.text(max_size=20))
def test_any_text_has_a_value_or_is_refused(text: str) -> None:
    with suppress(ValueError):
        value = evaluate_expression(text, DEFINES)
        assert isinstance(value, (int, float, str))
        assert isinstance(value, str) or 0 <= int(printed(value)) < 2**64
