"""Configuration: modparams in Kamailio's syntax."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipdump_core.config import override, parse_config, parse_modparam_option, read_config
from sipdump_core.errors import ConfigError
from sipdump_core.options import Setting


def values(text: str) -> list[tuple[str, str, int | str]]:
    return [(s.module, s.name, s.value) for s in parse_config(text, "k.cfg")]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('modparam("sipdump", "x", 13)', 13),
        ('modparam("sipdump", "x", -13)', -13),
        ('modparam("sipdump", "x", 0x1F)', 31),
        ('modparam("sipdump", "x", 0640)', 0o640),
        ('modparam("sipdump", "x", 0b101)', 5),
        ('modparam("sipdump", "x", yes)', 1),
        ('modparam("sipdump", "x", off)', 0),
        ('modparam("sipdump", "x", "13")', "13"),
        ("modparam('sipdump', 'x', 'a\\n')", "a\\n"),
        (r'modparam("sipdump", "x", "a\"b\\c\n\x41")', 'a"b\\c\nA'),
        ('modparam("sipdump", "x", "/var/" "spool")', "/var/spool"),
        ('modparam ( "sipdump" , "x" ,\n  "y" ) ;', "y"),
        ('modparam("sipdump", "x", "a # b // c /* d */")', "a # b // c /* d */"),
        ('modparam("sipdump", "x", "pröf")', "pröf"),
        ('modparam("sipdump", "x", "")', ""),
        ('MODPARAM is no keyword; modparam("sipdump", "x", 1)', 1),
    ],
)
def test_a_modparam(line: str, value: int | str) -> None:
    assert values(line) == [("sipdump", "x", value)]


def test_what_is_no_modparam_is_passed_over() -> None:
    text = """#!KAMAILIO
    # modparam("sipdump", "mode", 1)
    // modparam("sipdump", "mode", 2)
    /* modparam("sipdump", "mode", 3)
       #!define X
    */
    loadmodule "sipdump.so"
    debug=2 listen=udp:127.0.0.1:5060
    modparam("sipdump", "mode", 4); modparam("tm", "fr_timer", 30000)
    request_route {
        xlog("modparam(\\"sipdump\\", \\"mode\\", 5)");
        if ($rU =~ "^[0-9']+$") { $var(modparam) = 1 + 2 * (3 - -4); }
    }
    """
    assert values(text) == [("sipdump", "mode", 4), ("tm", "fr_timer", 30000)]


def test_order_and_places() -> None:
    found = parse_config('\nmodparam("a", "b", 1)\n\n  modparam("a", "b", 2)\n', "dir/k.cfg")
    assert [(s.value, s.place) for s in found] == [(1, "dir/k.cfg:2:1"), (2, "dir/k.cfg:4:3")]


@pytest.mark.parametrize(
    "text",
    [
        'modparam("sipdump", "mode")',
        'modparam("sipdump", "mode", )',
        'modparam("sipdump" "mode", 1)',
        'modparam("sipdump", mode, 1)',
        'modparam("sipdump", "mode", 60*60)',
        'modparam("sipdump", "mode", 1',
        'modparam("sipdump", "mode, 1)',
        "modparam()",
    ],
)
def test_a_syntax_error_names_file_line_and_column(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^k\.cfg:3:\d+: modparam is not understood"):
        parse_config("\n\n" + text, "k.cfg")


@pytest.mark.parametrize(
    "line", ["#!ifdef WITH_SIPDUMP", "#!define X 1", "!!endif", 'include_file "x.cfg"', "#!subst /a/b/"]
)
def test_what_would_change_the_meaning_is_refused(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^k\.cfg:2: the preprocessor and includes are not understood"):
        parse_config(f'modparam("sipdump", "mode", 1)\n{line}\n', "k.cfg")


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"^/nonexistent/k\.cfg: cannot read the configuration: No such file"):
        read_config("/nonexistent/k.cfg")


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("sipdump:mode:i:13", ("sipdump", "mode", 13)),
        ("sipdump:mode:i:-1", ("sipdump", "mode", -1)),
        ("sipdump:file_mode:i:0640", ("sipdump", "file_mode", 0o640)),
        ("sipdump:mode:s:13", ("sipdump", "mode", "13")),
        ("sipdump_hep:listen:s:udp:[::1]:9060", ("sipdump_hep", "listen", "udp:[::1]:9060")),
        ("sipdump:fprefix:s:", ("sipdump", "fprefix", "")),
    ],
)
def test_the_option(text: str, setting: tuple[str, str, int | str]) -> None:
    assert parse_modparam_option(text) == Setting(*setting, f"--modparam={text}")


@pytest.mark.parametrize(
    "text", ["", "sipdump", "sipdump:mode:13", "sipdump:mode:x:13", "sipdump:mode:i:abc", "a:b:i:"]
)
def test_a_wrong_option(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--modparam={text}: "):
        parse_modparam_option(text)


def test_an_option_replaces_all_of_its_name() -> None:
    found = override([Setting("a", "x", 1), Setting("a", "x", 2), Setting("a", "y", 3)], [Setting("a", "x", 4)])
    assert [(s.name, s.value) for s in found] == [("y", 3), ("x", 4)]


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('modparam("sipdump",x1)\'\\\n#!/*; '), max_size=80))
def test_any_text_gives_settings_or_a_config_error(text: str) -> None:
    try:
        found = parse_config(text, "k.cfg")
    except ConfigError as error:
        where = error.place
    else:
        where = found[-1].place if found else "k.cfg:"
    assert where.startswith("k.cfg:")
