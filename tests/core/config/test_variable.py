"""Where pseudo-variables end, and what they are made of."""

import pytest

from sipdump_core.config.variable import Variable, scan_variable, variable_end


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("$Ts", Variable("$Ts", "Ts")),
        ("$Ts more", Variable("$Ts", "Ts")),
        ("$$x", Variable("$$", "$")),
        ("$($)x", Variable("$($)", "$")),
        ("$$(x)", Variable("$$", "$")),
        ("$a.b?(c)d", Variable("$a.b?(c)", "a.b?", "c")),
        ("$(Ts)", Variable("$(Ts)", "Ts")),
        ("$x(a(b)c)d)", Variable("$x(a(b)c)", "x", "a(b)c")),
        ("$(x(y)[2]{s.len}{s.int} )", Variable("$(x(y)[2]{s.len}{s.int} )", "x", "y", "2", ("s.len", "s.int"))),
        (
            "$(version(num){re.subst,/^([0-9]{1,2})\\.(.*)$/\\1/}{s.len}))",
            Variable(
                "$(version(num){re.subst,/^([0-9]{1,2})\\.(.*)$/\\1/}{s.len})",
                "version",
                "num",
                None,
                ("re.subst,/^([0-9]{1,2})\\.(.*)$/\\1/", "s.len"),
            ),
        ),
        ("$(x{s.rm,)})", Variable("$(x{s.rm,)})", "x", None, None, ("s.rm,)",))),
        ("$x{s.len}", Variable("$x", "x")),
    ],
)
def test_a_variable(text: str, variable: Variable) -> None:
    assert scan_variable(f"..{text}", 2) == variable


@pytest.mark.parametrize("text", ["", "x", "$", "$-", "$()", "$(x", "$x(", "$(x(y)z)", "$(x{s.len)", "$(x[1)", "$($"])
def test_what_is_no_variable(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        scan_variable(text, 0)


@pytest.mark.parametrize(
    ("text", "end"), [("$x", 2), ("$x y", 2), ("$$x", 2), ("$x(a(b))c", 8), ("$(x{s.rm,(})", -1), ("$(x{y}) z", 7)]
)
def test_where_a_script_ends_a_variable(text: str, end: int) -> None:
    assert variable_end(text, 0) == end
