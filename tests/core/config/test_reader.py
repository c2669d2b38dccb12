"""Configuration: modparams in Kamailio's syntax."""

import pytest

from sipdump_core.config.reader import override, parse_config, parse_modparam_option, read_config
from sipdump_core.errors import ConfigError
from sipdump_core.plan import make_plan
from sipdump_core.settings.options import Setting


def values(text: str) -> list[tuple[str, str, int | float | str]]:
    return [(s.module, s.name, s.value) for s in parse_config(text, "k.cfg").settings]


@pytest.mark.parametrize(
    "line",
    [
        'modparam("sipdump_hep", "auth_key", 4711)',
        "modparam('sipdump_hep', 'auth_key', 4711)",
        'modparam("sipdump_hep", "auth_kye", "4711")',
        'modparamx("sipdump_heep", "auth_key", "4711")',
        'modparam("sipdump_hep", "auth_key", "4711"',
        'modparam("sipdump_hep", "auth_key", "4711',
        'modparam("sipdump_hep", "auth_key", "4711" "sipdump"',
        'modparam("sipdump_s3", "endpoint_url", "ftp://me:4711@s3.example.com")',
    ],
)
def test_an_error_shows_no_secret(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(parse_config(line, "k.cfg").settings, to_start=False)
    assert caught.value.place.startswith("k.cfg:1:")
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("option", ["sipdump_hep:auth_key:i:4711", "sipdump_hep:auth_kye:s:4711", "x:secret:i:4711x"])
def test_an_error_about_an_option_shows_no_secret(option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan([parse_modparam_option(option)], to_start=False)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('modparam("sipdump", "x", 13)', 13),
        ('modparam("sipdump", "x", -13)', -13),
        ('modparam("sipdump", "x", 0x1F)', 31),
        ('modparam("sipdump", "x", 0640)', 0o640),
        ('modparam("sipdump", "x", 101b)', 5),
        ('modparam("sipdump", "x", - 13)', -13),
        ('modparam("sipdump", "x", inet6)', 10),
        ('modparam("sipdump", "x", 4294967297)', 4294967297),
        ('modparam("sipdump", "x", yes)', 1),
        ('modparam("sipdump", "x", off)', 0),
        ('modparam("sipdump", "x", "13")', "13"),
        ("modparam('sipdump', 'x', 'a\\n')", "a\\n"),
        (r'modparam("sipdump", "x", "\1\12\101\q\x4g\xc3\xb6")', "\\1\nA\\q\x04gö"),
        (r'modparam("sipdump", "x", "a\0b\000c")', "a\\0b"),
        ('modparam("sipdump", "x", "a\\\nb\nc")', "ab\nc"),
        ("modparam('sipdump', 'x', '')", ""),
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
    #!/usr/sbin/kamailio
    # modparam("sipdump", "mode", 1)
    // modparam("sipdump", "mode", 2)
    /* modparam("sipdump", "mode", 3) /* they nest */
       #!define X
    */
    loadmodule "sipdump.so"
    debug=2 listen=udp:127.0.0.1:5060
    modparam("sipdump", "mode", 4); modparam("tm", "fr_timer", 30000)
    request_route {
        xlog("modparam(\\"sipdump\\", \\"mode\\", 5)");
        $var(x) = $(hdr(To){s.substr,0,1}{re.subst,/"'//g});
        if ($rU =~ "^[0-9']+$") { $var(modparam) = 1 + 2 * (3 - -4); }
    }
    """
    assert values(text) == [("sipdump", "mode", 4), ("tm", "fr_timer", 30000)]


def test_order_and_places() -> None:
    found = parse_config('\nmodparam("a", "b", 1)\n\n  modparam("a", "b", 2)\n', "dir/k.cfg").settings
    assert [(s.value, s.place) for s in found] == [(1, "dir/k.cfg:2:1"), (2, "dir/k.cfg:4:3")]


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ('modparam("sipdump", "mode")', 27, "expected a comma, not )"),
        ('modparam("sipdump", "mode", )', 29, "expected a number or a string in quotes, not )"),
        ('modparam("sipdump" "mode", 1)', 28, "expected a string in quotes, not 1"),
        ('modparam("sipdump", mode, 1)', 21, "expected a string in quotes, not mode"),
        ('modparam("sipdump", "mode", 60*60)', 31, "expected ), not *"),
        ('modparam("sipdump", "mode", 0b11)', 29, None),
        ('modparam("sipdump", "mode", 08)', 29, None),
        ('modparam("sipdump", "mode", YES)', 29, None),
        ('modparam("sipdump", "mode", 1', 29, "expected ), after 1"),
        ('modparam("sipdump", "mode", 1; }', 29, None),
        ("modparam('sipdump', 'mode', '1' '2')", 33, None),
        ("modparam()", 10, None),
        ('modparam("sipdump|tm", "x", y)', 29, None),
    ],
)
def test_a_syntax_error_names_file_line_and_column_and_shows_the_line(text: str, column: int, what: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("\n\n  " + text + "\n", "k.cfg")
    message = str(caught.value)
    assert message.startswith(f"k.cfg:3:{column + 2}: modparam is not understood")
    assert message.endswith(f"; in: {text}")
    assert (what or "") in message


@pytest.mark.parametrize("text", ['modparam("sipdump", "mode, 1)', "modparam('sipdump", '"'])
def test_a_string_without_an_end(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^k\.cfg:1:\d+: the string is not closed; in: "):
        parse_config(text, "k.cfg")


def test_what_other_modules_make_of_modparam_is_theirs() -> None:
    text = 'modparam("tm", "x", $new(y))\nmodparam("a(", "x", 1)\nmodparam("sipdump", "mode", 4)\n'
    assert values(text) == [("sipdump", "mode", 4)]


@pytest.mark.parametrize("module", ["sipdump(", "*sipdump", "[sipdump", "sipdump{9999}"])
def test_a_module_that_is_no_expression(module: str) -> None:
    with pytest.raises(ConfigError, match=r"^k\.cfg:1:1: .* no regular expression: .*; in: modparam"):
        parse_config(f'modparam("{module}", "mode", 1)', "k.cfg")


def test_a_list_of_modules_is_an_expression_for_the_whole_name() -> None:
    settings = parse_config(
        'modparam("tm|sipdump", "mode", 4)\nmodparam("SIPDUMP", "rotate", 5)\nmodparam("sip.*_h.p", "tag", "x")\n'
        'modparam("ipdum", "mode", 9)\nmodparam("sip", "mode", 9)\nmodparam("siptrace|s.*q", "mode", 9)\n',
        "k.cfg",
    ).settings
    plan = make_plan(settings, to_start=False)
    assert (plan.params.mode, plan.params.rotate, plan.modules["sipdump_hep"].tag) == (4, 5, "x")
    assert len(plan.settings) == 3


@pytest.mark.parametrize("module", ["sipdump_nosuch", "sipdumps"])
def test_a_module_of_ours_that_there_is_not(module: str) -> None:
    with pytest.raises(ConfigError, match=rf"^k\.cfg:1:1: .*no such module; there are: sipdump, .*; in: .*{module}"):
        make_plan(parse_config(f'modparam("{module}", "mode", 1)', "k.cfg").settings, to_start=False)


def test_a_wrong_value_shows_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(parse_config('\n  modparam("sipdump", "mode", "4") # text\n', "k.cfg").settings, to_start=False)
    assert str(caught.value) == (
        'k.cfg:2:3: modparam("sipdump", "mode", "4"): must be an integer, without quotes; '
        'in: modparam("sipdump", "mode", "4") # text'
    )


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


def test_a_number_without_end_is_refused() -> None:
    assert values(f'modparam("sipdump", "x", {"1" * 100})') == [("sipdump", "x", int("1" * 100))]
    with pytest.raises(ConfigError, match=r"^k\.cfg:1:\d+: the number is too long: 1{20}\.\.\."):
        parse_config(f'modparam("sipdump", "x", {"1" * 101})', "k.cfg")


def test_an_option_replaces_all_of_its_name() -> None:
    found = override([Setting("a", "x", 1), Setting("a", "x", 2), Setting("a", "y", 3)], [Setting("a", "x", 4)])
    assert [(s.name, s.value) for s in found] == [("y", 3), ("x", 4)]


def test_an_option_replaces_what_a_list_of_modules_says() -> None:
    found = override([Setting("a|tm", "x", 1), Setting("b", "x", 2)], [Setting("a", "x", 4)])
    assert [(s.module, s.value) for s in found] == [("b", 2), ("a", 4)]
