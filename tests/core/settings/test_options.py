"""Options: typed values from modparams."""

import attrs
import pytest

from sipdump_core.errors import ConfigError
from sipdump_core.settings.options import (
    Given,
    Setting,
    Settings,
    at_least,
    build,
    describe,
    duration,
    in_range,
    one_of,
    option,
    permissions,
)


@attrs.frozen
class Options:
    number: int = option(1, unit="seconds", help="a number", check=in_range(0, 9))
    text: str = option("x", help="a text", check=one_of("x", "y"))
    several: tuple[str, ...] = option((), help="several")


def test_defaults() -> None:
    assert build(Options, []) == Options(1, "x", ())


def test_the_last_of_several_counts_and_repeatable_ones_add_up() -> None:
    given: list[tuple[str, int | str]] = [("number", 2), ("several", "a"), ("number", 3), ("several", "b")]
    assert build(Options, [Setting("m", n, v) for n, v in given]) == Options(3, "x", ("a", "b"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "numbr",
            1,
            r'modparam\("m", "numbr", 1\): no such parameter \(did you mean "number"\?\); there are: number, ',
        ),
        ("zzz", 1, r"no such parameter; there are: number, text, several"),
        ("number", "1", r'modparam\("m", "number", "1"\): must be an integer, without quotes'),
        ("number", True, r"must be an integer"),
        ("number", 10, r"must be 0 to 9"),
        ("text", 1, r"must be a string, in quotes"),
        ("text", "z", r"must be one of: x, y"),
        ("several", 1, r"must be a string"),
    ],
)
def test_what_is_refused(name: str, value: int | str, message: str) -> None:
    with pytest.raises(ConfigError, match="^k.cfg:7:1: .*" + message):
        build(Options, [Setting("m", name, value, "k.cfg:7:1")])


def _halves(value: str) -> tuple[str, str]:
    left, dash, right = value.partition("-")
    if not dash:
        raise ValueError('must be "left-right"')
    return left, right


@attrs.frozen
class Parsed:
    one: Given[tuple[str, str]] | None = option("", help="one", parse=_halves)
    several: tuple[Given[tuple[str, str]], ...] = option(("a-b",), help="several", parse=_halves)
    number: Given[str] = option(7, help="a number", parse=str)


def test_an_option_is_parsed_once_and_keeps_its_setting() -> None:
    given = [Setting("m", "several", f"{n}-x", f"k.cfg:{n}:1") for n in (1, 2)]
    options = build(Parsed, [Setting("m", "one", "l-r", "k.cfg:7:1"), *given, Setting("m", "number", 9)])
    assert options.one is not None
    assert options.one.value == ("l", "r")
    assert str(options.one.error("taken")) == 'k.cfg:7:1: modparam("m", "one", "l-r"): taken'
    assert [(each.value, each.setting) for each in options.several] == [
        (("1", "x"), given[0]),
        (("2", "x"), given[1]),
    ]
    assert options.number.value == "9"


def test_parsed_options_have_parsed_defaults_and_an_empty_text_is_none() -> None:
    options = build(Parsed, [Setting("m", "one", "")])
    assert (options.one, options.number.value) == (None, "7")
    assert [each.value for each in options.several] == [("a", "b")]
    assert [(row["type"], row["default"]) for row in describe(Parsed)] == [
        ("str", ""),
        ("str, repeatable", ("a-b",)),
        ("int", 7),
    ]


def test_parsed_options_are_made_of_plain_values_in_python_too() -> None:
    options = Parsed(one="l-r", several=("x-y",))  # type: ignore[arg-type]  # the converter takes them
    assert options == Parsed(Given.of("l-r", _halves), (Given.of("x-y", _halves),))
    assert options.one is not None
    assert str(options.one.error("taken")) == '"l-r": taken'
    with pytest.raises(ValueError, match='must be "left-right"'):
        Parsed(one="l")  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("one", "l", 'must be "left-right"'),
        ("several", "", 'must be "left-right"'),
        ("one", 1, "must be a string"),
        ("number", "1", "must be an integer"),
    ],
)
def test_what_cannot_be_parsed_names_its_place(name: str, value: int | str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf'^k.cfg:7:1: modparam\("m", "{name}", .*{message}'):
        build(Parsed, [Setting("m", name, value, "k.cfg:7:1")])


def test_settings_are_looked_up_by_module_and_name() -> None:
    settings = Settings([Setting("a", "x", 1), Setting("b", "x", 2), Setting("a", "y", 3), Setting("a", "x", 4)])
    assert [s.value for s in settings.of("a")] == [1, 3, 4]
    assert [s.value for s in settings.of("a", "x")] == [1, 4]
    assert [s.value for s in settings.of(("a", "b"), "x")] == [1, 2, 4]
    assert settings.last("a", "x", 0).value == 4
    assert settings.last("a", "z", 0) == Setting("a", "z", 0, "default")


def _fails(value: int) -> str | None:
    raise AttributeError(f"no {value}")


@attrs.frozen
class Hostile:
    checked: int = option(1, help="its check is wrong", check=_fails)
    validated: int = attrs.field(default=1, validator=attrs.validators.in_((1, 2)))  # type: ignore[arg-type,unused-ignore]  # attrs' types vary


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("checked", r'modparam\("m", "checked", 3\): it cannot be checked: AttributeError: no 3'),
        ("validated", r"the parameters of m: ValueError: .*'validated' must be in \(1, 2\)"),
    ],
)
def test_whatever_a_drivers_options_raise_names_the_place(name: str, error: str) -> None:
    with pytest.raises(ConfigError, match=f"^k.cfg:7:1: {error}"):
        build(Hostile, [Setting("m", name, 3, "k.cfg:7:1")])


def test_checks() -> None:
    assert at_least(3)(3) is None
    assert at_least(3)(2) == "must be 3 or more"


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        (0, None),
        (0o777, None),
        (640, "must be 0000 to 0777, octal with a leading 0; 640 is decimal, octal is 0640"),
        (0o1777, "must be 0000 to 0777, octal with a leading 0"),
        (-1, "must be 0000 to 0777, octal with a leading 0"),
    ],
)
def test_permissions(value: int, refusal: str | None) -> None:
    assert permissions()(value) == refusal
    assert permissions(1)(0) == "must be 0001 to 0777, octal with a leading 0"


def test_describe() -> None:
    assert describe(Options)[0] == {
        "name": "number",
        "type": "int",
        "unit": "seconds",
        "default": 1,
        "help": "a number",
    }
    assert [row["type"] for row in describe(Options)] == ["int", "str", "str, repeatable"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2d", 172800), ("2d6h40m30s", 196830), ("30s", 30), ("90m", 5400), ("1h1s", 3601), (" 5m ", 300)],
)
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "d", "5x", "5s2d", "-5s", "2d 6h", "1.5h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be numbers with the units"):
        duration(text)


def test_both_ends_of_a_range_are_in_it() -> None:
    assert [in_range(1, 5)(value) for value in (0, 1, 5, 6)] == ["must be 1 to 5", None, None, "must be 1 to 5"]
    assert [at_least(1)(value) for value in (0, 1)] == ["must be 1 or more", None]


@attrs.frozen
class Typed:
    """Options of the types that a modparam has no form for."""

    fast: bool = option(False, help="do it fast")
    rate: float = option(0.5, help="how often", check=at_least(0))


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (1, True),
        (0, False),
        ("yes", True),
        ("No", False),
        ("on", True),
        ("off", False),
        ("true", True),
        ("FALSE", False),
    ],
)
def test_a_bool_is_1_or_0_or_a_word(value: int | str, meant: bool) -> None:
    assert build(Typed, [Setting("m", "fast", value)]).fast is meant


@pytest.mark.parametrize(("value", "meant"), [("0.25", 0.25), (2, 2.0), ("1e3", 1000.0), (0.75, 0.75)])
def test_a_float_is_a_string_or_an_integer(value: float | str, meant: float) -> None:
    rate = build(Typed, [Setting("m", "rate", value)]).rate
    assert (rate, type(rate)) == (meant, float)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fast", 2, "must be 1 or 0"),
        ("fast", "maybe", "must be 1 or 0"),
        ("rate", "fast", "must be a number"),
        ("rate", "nan", "must be a number"),
        ("rate", "inf", "must be a number"),
        ("rate", "", "must be a number"),
        ("rate", "-1", "must be 0 or more"),
    ],
)
def test_what_is_no_bool_or_float_names_its_place(name: str, value: int | str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf'^k.cfg:7:1: modparam\("m", "{name}", .*{message}'):
        build(Typed, [Setting("m", name, value, "k.cfg:7:1")])


def test_bools_and_floats_are_described() -> None:
    assert [(row["type"], row["default"]) for row in describe(Typed)] == [("bool", False), ("float", 0.5)]
