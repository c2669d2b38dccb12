"""Configuration: what the preprocessor leaves, from where, and that nothing makes it run away."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.config.reader import Config, parse_config, read_config
from sipdump_core.errors import ConfigError
from tests.support import examples, memory_limit

MODE = 'modparam("sipdump", "mode", {})\n'


def modes(text: str, *defines: str) -> list[int | float | str]:
    return [s.value for s in parse_config(text, "k.cfg", defines).settings if s.name == "mode"]


def refused(text: str, *defines: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "k.cfg", defines)
    return str(caught.value)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("#!define A 4\nM(A)", [4]),
        ("!!define A 4\nM(A)", [4]),
        ("#!def A 4\nM(A)", [4]),
        ("#!define A 4\n#!trydef A 5\n#!trydefine B 6\nM(A)M(B)", [4, 6]),
        ("#!define A 4\n#!redef A 5\n#!redefine B 6\nM(A)M(B)", [5, 6]),
        ("#!define A B\n#!define B C\n#!define C 7\nM(A)", [7]),
        ("#!define A 1\nM(AB)".replace("AB", '"AB"'), ["AB"]),
        ("#!define A \nM(A 4)", [4]),
        ('#!define A "x" \\\n  "y"\nM(A "z")', ["xyz"]),
        ('#!define A "x\nM(A y")', ["x y"]),
        ("#!define A M(4)\nA\nA A", [4, 4, 4]),
        ("#!define mode 9\n#!define modparam 9\n#!define on 9\nM(on)M(mode)", [1, 9]),
        ("#!define A 4 /* four */\nM(A)", [4]),
        ("#!ifdef A\nM(1)\n#!else\nM(2)\n#!endif\nM(3)", [2, 3]),
        ("#!ifndef A\nM(1)\n#!else\nM(2)\n#!endif\nM(3)", [1, 3]),
        ("#!define A\n#!ifdef A\n#!ifdef B\nM(1)\n#!else\nM(2)\n#!endif\n#!else\nM(3)\n#!endif\n", [2]),
        ("#!ifdef A\n#!ifdef B\nM(1)\n#!else\nM(2)\n#!endif\n#!else\nM(3)\n#!endif\n", [3]),
        ("#!ifdef A // why\nM(1)\n#!else  \nM(2)\n#!endif \t\n", [2]),
        ("#!define A\n#!ifdef A\nM(1)\n#!else // no directive\nM(2)\n#!endif\n", [1, 2]),
        ("#!ifdef A\n\"it's\n/* #!define A\n#!endif\nM(1)", [1]),
        ("#!ifdef A\nM(1) #!else\nM(2) #!endif\nM(3)", [2, 3]),
        ("// #!ifdef A\n# #!ifdef A\n/* #!ifdef A\n*/M(1)", [1]),
        ('M("#!ifdef A\n")', ["#!ifdef A\n"]),
        ('#!ifdef MOD_sipdump\nM(1)\n#!endif\nloadmodule "a/sipdump.so"\n#!ifdef MOD_sipdump\nM(2)\n#!endif\n', [2]),
        ("#!ifdef KAMAILIO_5_6_3\nM(1)\n#!endif\n", [1]),
        ('#!subst "/four/4/"\nM("four four")', ["4 four"]),
        ('#!subst "/four/4/g"\nM("four four")M(\'four\')', ["4 4", "4"]),
        ('M("four")\n#!subst "/four/4/"\n', ["four"]),
        ('#!subst "/FOUR/4/i"\n#!subst "/4/5/"\nM("fo" "ur")', ["5"]),
        ('#!subst "!/(a|ab)(c|bcd)!<\\\\2-\\\\1>!"\nM("x/abcd")', ["x<bcd-a>"]),
        ('#!subst "/a*/b/g"\nM("xa")', ["xa"]),
        ('#!subst "/^.$/b/g"\n#!subst "/cc.dd/e/s"\nM("x\ny")M("cc\ndd")', ["b\nb", "e"]),
        ('#!substdef "!A!4!g"\nM(A)M("A")', [4, "4"]),
        ('#!substdefs "!A!4!g"\nM(A)M("A")', ["4", "4"]),
        ("#!defenv SIPDUMP_TEST\nM(SIPDUMP_TEST)", [12]),
        ("#!defenvs A=SIPDUMP_TEST\nM(A)", ["12"]),
        ("#!trydefenv SIPDUMP_NONE\n#!ifdef SIPDUMP_NONE\nM(1)\n#!endif\n#!trydefenvs A=SIPDUMP_TEST\nM(A)", ["12"]),
        ('#!substdef "!A!$env(SIPDUMP_TEST)!g"\nM(A)M("xA")', [12, "x12"]),
        ('#!define D 5\nX("$env(SIPDUMP_TEST)$$$(def(D))")X($env(SIPDUMP_TEST))X($defn(D))X(6)', ["12$5", "12", 5, 6]),
        ("#!define A 10\n#!ifexp A >= 2\nM(1)\n#!else\nM(2)\n#!endif\n", [2]),  # of strings: ">= 2" compares them
        ("#!define A 3\n#!ifexp 2 <= A\nM(1)\n#!else\nM(2)\n#!endif\n", [1]),
        ("#!define A \"x\"\n#!ifexp A == 'x' && B == 0\nM(1)\n#!endif\nM(3)", [1, 3]),
        ("#!ifdef A\n#!ifexp 1\nM(1)\n#!else\nM(2)\n#!endif\n#!else\nM(3)\n#!endif\n", [3]),
        ("#!ifexp 1 // an error, which is false\nM(1)\n#!else\nM(2)\n#!endif\n", [2]),
        ("#!ifexp 1 # a comment\nM(1)\n#!endif\n", [1]),
        ("#!ifexp\nM(1)", [1]),
        ("#!defexp A 2 * 3 + 1\n#!defexp B A + 'x'\n#!defexps C 2 ** 3\nM(A)M(C)", [7, "8"]),
        ('#!defexps A "x" + 1\n#!defexp B 1 / 0\n#!ifdef B\nM(A)\n#!endif\n', ["x1"]),
        ("#!define A 1\n#!undef A\n#!ifdef A\nM(1)\n#!else\nM(2)\n#!endif\n#!define A 3\nM(A)", [2, 3]),
        ("#!tryundef A\n#!def A 1\n#!tryundefine A \n#!def A 2\n#!undefine A\n#!define A 4\nM(A)", [4]),
        (
            '#!substdef "!A!$$var(x)!g"\n#!substdef "!B!$(version(num){re.subst,/^(.).*/\\\\1/})!"\nM(4)M("A")',
            [4, "$var(x)"],
        ),
        ("#!ifexp KAMAILIO_VERSION >= 5006000\nM(1)\n#!endif\n#!ifexp OS_NAME == 'linux'\nM(2)\n#!endif\n", [1, 2]),
        ("M(4)\r\n#!define A 5\r\n#!ifdef A\r\nM(A)\r\n#!endif\r\n", [4, 5]),
    ],
)
def test_what_is_left(lines: str, expected: list[int | str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPDUMP_TEST", "12")
    monkeypatch.delenv("SIPDUMP_NONE", raising=False)
    text = lines.replace("X(", 'modparamx("sipdump", "mode", ').replace("M(", 'modparam("sipdump", "mode", ')
    assert modes(text) == expected


def test_options_define_names() -> None:
    text = "#!ifdef A\n" + MODE.format("A") + "#!endif\n#!trydef B 2\n" + MODE.format("B")
    assert modes(text) == [2]
    assert modes(text, "A=1", "B=7") == [1, 7]
    assert modes(text, 'A="x=y"', "C", "D=") == ["x=y", 2]


def test_an_option_says_which_kamailio_the_file_is_for() -> None:
    text = (
        "#!ifdef KAMAILIO_6_1\n"
        + MODE.format(6)
        + "#!endif\n#!ifexp KAMAILIO_VERSION < 5007000\n"
        + MODE.format(5)
        + "#!endif\n"
    )
    assert modes(text) == [5]
    assert modes(text, "KAMAILIO_VERSION=6001005") == [6]
    assert (
        refused(text, "KAMAILIO_VERSION=6.1")
        == "-A KAMAILIO_VERSION=6.1: must be a version as Kamailio counts them, as 6001005 for 6.1.5"
    )


@pytest.mark.parametrize("define", ["", "=1"])
def test_an_option_that_defines_nothing(define: str) -> None:
    assert refused("", define) == f"-A {define}: must be NAME or NAME=VALUE"


def test_names_are_defined_once() -> None:
    assert refused("", "A", "A=2") == "-A A=2: A is already defined"
    assert refused("\n#!define A 1\n", "A") == "k.cfg:2:1: A is already defined; in: #!define A 1"
    assert refused('#!substdef "!A!1!"\n', "A") == 'k.cfg:1:1: A is already defined; in: #!substdef "!A!1!"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n #!ifdef A\n\n", "k.cfg:2:2: there is no #!endif for it"),
        ("#!ifdef A\n#!endif", "k.cfg:1:1: there is no #!endif for it"),
        ("#!ifdef A\n#!endif # A\n", "k.cfg:1:1: there is no #!endif for it"),
        ("x\n#!endif\n", "k.cfg:2:1: there is no #!ifdef for this #!endif; in: #!endif"),
        ("#!define A-B 1\n", "k.cfg:1:1: a name cannot contain '-': A-; in: #!define A-B 1"),
        ("#!define 1\n", "k.cfg:1:1: a name must follow"),
        ("#!elifdef A\n", "k.cfg:1:1: Kamailio does not know #!elifdef"),
        ("#!ifexp A > 1\n", "k.cfg:1:1: there is no #!endif for it"),
        ("#!define A 1\n#!defexp A 1\n", "k.cfg:2:1: A is already defined"),
        ("#!undef A\n", "k.cfg:1:1: A is not defined"),
        ("#!define A\n#!undef A # why\n", "k.cfg:2:1: nothing may follow the name A"),
        ("#!undef A-B\n", "k.cfg:1:1: a name cannot contain '-'"),
        ("#!subst /a/b/\n", "k.cfg:1:1: a string must follow; in: #!subst /a/b/"),
        ("#!subst", "k.cfg:1:1: a string must follow"),
        ('#!subst "/a/b"\n', 'k.cfg:1:9: the substitution is not understood: no / ends the replacement; in: #!subst "'),
        ('#!subst "/a"\n', "k.cfg:1:9: the substitution is not understood: no / ends the expression"),
        ('#!subst "/(a/b/"\n', "k.cfg:1:9: the substitution is not understood: a ( has no )"),
        ('#!subst "/a/b/x"\n', "k.cfg:1:9: the substitution is not understood: there are no other flags"),
        ('#!subst ""\n', "k.cfg:1:9: the substitution is not understood: it must begin with a separator"),
        ('#!subst "/a/$si/"\n' + MODE.format('"a"'), "k.cfg:2:29: #!subst: only $env(NAME), $def(NAME) and $$ have"),
        ("#!defenv SIPDUMP_NONE\n", "k.cfg:1:1: there is no environment variable SIPDUMP_NONE; in: #!defenv SIP"),
        ('modparamx("sipdump", "mode", "$si")', "k.cfg:1:30: only $env(NAME), $def(NAME) and $$ have a value here"),
        ('modparamx("sipdump", "mode", $env(SIPDUMP_NONE))', "k.cfg:1:30: $env(SIPDUMP_NONE) has no value"),
        ("/* a /* b */ c", "k.cfg:1:1: the comment is not closed; in: /* a /* b */ c"),
        ("x $(y(z)", "k.cfg:1:3: the pseudo-variable has no )"),
        ("include_file\n", "k.cfg:1:1: a file name in quotes must follow"),
        ("include_file 'a'\n", "k.cfg:1:1: a file name in quotes and without blanks must follow, not: 'a'"),
        ("event_route[sipdump:msg] ", "k.cfg:1:1: event_route is not understood: expected {, after sipdump:msg"),
        ("event_route[sipdump:msg] x", "k.cfg:1:26: event_route is not understood: expected {, not x"),
        ("event_route {}", "k.cfg:1:1: event_route is not understood"),
        ("event_route[sipdump:msg] { if {", "k.cfg:1:26: the { is not closed"),
        ("event_route[sipdump:msg] {}\nevent_route[sipdump:msg] {}", "k.cfg:2:1: there is an event_route[sipdump:msg]"),
        (MODE.format("1" * 5000), "k.cfg:1:29: the number is too long"),
    ],
)
def test_what_is_wrong_is_shown(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIPDUMP_NONE", raising=False)
    assert refused(text).startswith(message)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.cfg").write_text(text)
    return folder / "k.cfg"


def test_files_are_included_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.cfg").write_text(MODE.format(2) + 'include_file "c.cfg"\n# no end of line')
    (tmp_path / "d" / "c.cfg").write_text(MODE.format(3))
    config = write(
        tmp_path,
        k=f'import_file "none.cfg"\n#!include_file "d/b.cfg"\n{MODE.format(4)}'
        f'#!ifdef X\ninclude_file "none.cfg"\n#!endif\nimport_file "{tmp_path}/d/c.cfg" {MODE.format(5)}'
        '#!subst "/ZZ/c/"\n!!import_file "d/ZZ.cfg"',
    )
    found = read_config(config).settings
    assert [(s.value, s.place) for s in found] == [
        (2, f"{tmp_path}/d/b.cfg:1:1"),
        (3, f"{tmp_path}/d/c.cfg:1:1"),
        (4, f"{config}:3:1"),
        (3, f"{tmp_path}/d/c.cfg:1:1"),
        (5, f"{config}:7:{len(str(tmp_path)) + 24}"),
        (3, f"{tmp_path}/d/c.cfg:1:1"),
    ]


def test_a_condition_may_begin_in_one_file_and_end_in_another(tmp_path: Path) -> None:
    config = write(tmp_path, k=f'include_file "b.cfg"\n{MODE.format(1)}#!endif\n{MODE.format(2)}', b="#!ifdef X\n")
    assert [s.value for s in read_config(config).settings] == [2]
    assert [s.value for s in read_config(config, ["X"]).settings] == [1, 2]


def test_an_error_in_an_included_file_names_it_and_shows_its_line(tmp_path: Path) -> None:
    config = write(tmp_path, k='\n\ninclude_file "b.cfg"\n', b='\n modparam("sipdump", "mode" 1) # b\n')
    with pytest.raises(ConfigError) as caught:
        read_config(config)
    place = f"{tmp_path}/b.cfg:2:29"
    message = 'modparam is not understood: expected a comma, not 1; in: modparam("sipdump", "mode" 1) # b'
    assert (caught.value.place, str(caught.value)) == (place, f"{place}: {message}")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("include_file", "none.cfg", "none.cfg: cannot read the configuration: No such file or directory; in: inc"),
        ("include_file", "none/x.cfg", "No such file or directory"),
        ("include_file", "d", "not a regular file"),
        ("import_file", "d", "not a regular file"),
        ("include_file", "/dev/zero", "not a regular file"),
        ("import_file", "k.cfg", "files include each other more than 10 deep; does one include itself? "),
    ],
)
def test_a_file_that_cannot_be_included(kind: str, name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    config = write(tmp_path, k=f'\n {kind} "{name}"\n')
    with pytest.raises(ConfigError) as caught:
        read_config(config)
    assert str(caught.value).startswith(f"{config}:2:2: ")
    assert message in str(caught.value)


def test_a_file_may_include_itself_where_that_ends(tmp_path: Path) -> None:
    config = write(tmp_path, k=f'#!ifndef X\n#!define X\ninclude_file "k.cfg"\n#!endif\n{MODE.format(1)}')
    assert [s.value for s in read_config(config).settings] == [1, 1]


ROUTE = """\
#!define LIMIT (100 + 1)
#!substdef "!HOST!192.0.2.1!g"
event_route[tm:local-request] { drop; }
event_route [ sipdump:msg ]  {  # here
    #!ifdef NO
    bad }
    #!endif
    if ($sipdump(len) > LIMIT && $sipdump(src_ip) == "HOST") {
        xlog("L_INFO", "} {" 'x "}');  /* } */
        LIMIT;
    }
}
event_route[sipdump:other] {}
modparam("sipdump", "mode", 2)
"""


def test_event_routes_are_cut_out_with_their_places() -> None:
    config = parse_config(ROUTE, "k.cfg")
    assert list(config.event_routes) == ["sipdump:msg", "sipdump:other"]
    assert [s.value for s in config.settings] == [2]
    block = config.event_routes["sipdump:msg"]
    assert (block.name, config.event_routes["sipdump:other"].text) == ("sipdump:msg", "")
    left = """if ($sipdump(len) > (100 + 1) && $sipdump(src_ip) == "192.0.2.1") {
        xlog("L_INFO", "} {" 'x "}');
        (100 + 1);
    }"""
    assert " ".join(block.text.split()) == " ".join(left.split())
    for text, place in [
        ("if", "8:5"),
        ("len)", "8:18"),
        ("(100", "8:25"),
        ("+ 1", "8:25"),
        (") &&", "8:25"),
        ("&&", "8:31"),
        ('"192', "8:54"),
        (".2.1", "8:54"),
        ("xlog", "9:9"),
        ("'x", "9:30"),
        ("(100 + 1);", "10:9"),
        (";\n    }", "10:14"),
    ]:
        assert block.place(block.text.index(text)) == f"k.cfg:{place}", text
    assert block.line(block.text.index("&&")).startswith("if ($sipdump(len) > LIMIT")
    assert block.place(len(block.text)) == "k.cfg:12:1"
    assert config.event_routes["sipdump:other"].place(0) == "k.cfg:13:29"


def test_a_route_in_an_included_file(tmp_path: Path) -> None:
    config = write(tmp_path, k='include_file "b.cfg"\n', b="\n\nevent_route[sipdump:msg] {\n  drop; }\n")
    block = read_config(config).event_routes["sipdump:msg"]
    assert block.place(block.text.index("drop")) == f"{tmp_path}/b.cfg:4:3"
    assert block.line(block.text.index("drop")) == "drop; }"


BOMBS = {
    "itself": "#!define A A\nA",
    "in turn": "#!define A B\n#!define B A\nA",
    "itself, growing": "#!define A A x A\nA",
    "doubling": "#!define A0 x\n" + "".join(f"#!define A{i + 1} A{i} A{i}\n" for i in range(64)) + "A64",
    "doubling strings": '#!define A0 "xxxxxxxxxxxxxxxx"\n'
    + "".join(f"#!define A{i + 1} A{i} A{i}\n" for i in range(64))
    + 'modparam("sipdump", "mode", A64',
    "open strings": '#!define A "\n' + "A\n" * 20000,
    "open comments": "#!define A /*\n" + "A x\n" * 20000,
    "one long line": "#!define A x\n" + "A " * 100000,
    "a growing subst": "".join('#!subst "/x/xxxxxxxxxxxxxxxx/g"\n' for _ in range(64)) + MODE.format('"x"'),
    "repeats in repeats": '#!subst "/((a+)+)+$/b/"\n' + MODE.format('"' + "a" * 20000 + 'b"'),
    "stars": '#!subst "/.*.*.*.*.*.*x/b/"\n' + MODE.format('"' + "a" * 20000 + '"'),
    "a large expression": '#!subst "/((((a{99}){99}){99}){99})/b/"\n',
    "a deep expression": f'#!subst "/{"(" * 900}a{")" * 900}/b/"\n' + MODE.format('"aa"'),
    "deep conditions": "#!ifdef A\n" * 100000,
    "deep braces": "event_route[sipdump:msg] " + "{" * 100000,
    "deep parentheses": "$x" + "(" * 300000,
    "deep comments": "/*" * 300000,
    "many routes": "".join(f"event_route[sipdump:m{i}] {{}}\n" for i in range(5000)),
    "too large": "x" * (1 << 23) + "y",
}


@pytest.mark.parametrize("name", BOMBS)
def test_nothing_runs_away(name: str) -> None:
    start = time.process_time()
    with memory_limit(200 << 20):
        try:
            outcome: Config | ConfigError = parse_config(BOMBS[name], "k.cfg")
        except ConfigError as error:
            outcome = error
    assert time.process_time() - start < 20  # it is to tell seconds from hours
    if isinstance(outcome, ConfigError):
        assert len(str(outcome)) < 2000
        assert outcome.place.startswith("k.cfg:")


def test_files_that_include_each_other_many_times_come_to_an_end(tmp_path: Path) -> None:
    write(tmp_path, **{f"f{i}": f'include_file "f{i + 1}.cfg"\n' * 8 for i in range(9)}, f9="")
    with pytest.raises(ConfigError, match="the configuration is too large"):
        read_config(tmp_path / "f0.cfg")


def test_a_define_that_stands_for_itself_is_named() -> None:
    assert "is the define A defined by itself?; in: x A y" in refused("#!define A A\nx A y\n")


PARTS = [
    *["#!ifexp A == 1\n", "#!ifexp", "#!defexp A 1 + 1\n", "#!defexps B A +", "#!undef A\n", "#!tryundef A\n", "$$(x)"],
    "modparam", "modparamx", "(", ")", ",", '"sipdump"', "'sipdump'", '"mode"', "1", "-", "0x1f", '"', "'", "\\", "\n",
    " ", "#", "//", "/*", "*/", "#!define", "!!define", "#!redef", "#!trydef", "#!ifdef", "#!ifndef", "#!else\n",
    "#!endif\n", "#!subst", "#!substdef", '"/A/B/g"', "'!A!\"x\"!'", "#!defenv ", "PATH", " A ", "B", "A B",
    "event_route", "[sipdump:msg]", "{", "}", ";", "$sipdump(tag)", "$(", "$", "@", "%", "loadmodule", "ö",
    "\udcff", "\0",
    "include_file", "import_file ", '"k.cfg"',
]  # fmt: skip


@examples(300)
@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=40).map("".join))
def test_any_text_gives_a_config_or_a_config_error(text: str) -> None:
    config: Config | ConfigError
    try:
        config = parse_config(text, "k.cfg")
    except ConfigError as error:
        config = error
    if isinstance(config, ConfigError):
        assert config.place.startswith("k.cfg:")
        assert str(config).startswith(config.place)
        return
    for setting in config.settings:
        assert setting.place.startswith("k.cfg:")
    for block in config.event_routes.values():
        for offset in range(len(block.text) + 1):
            assert block.place(offset).startswith("k.cfg:")
            block.line(offset)


@examples(150)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40), st.booleans())
def test_any_string_can_be_said(value: str, define: bool) -> None:
    literal = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if define and "\n" not in literal:
        assert modes(f"#!define V {literal}\n{MODE.format('V')}") == [value]
    assert modes(MODE.format(literal)) == [value]


@examples(150)
@given(st.lists(st.sampled_from([" ", "\n", "/* } */", "# }\n", '"}"', "'{'", "x", "$(a{b})", "{", "}", "1"])))
def test_a_route_is_what_stands_between_its_braces(parts: list[str]) -> None:
    depth = 0
    for part in parts:
        depth += {"{": 1, "}": -1}.get(part, 0)
        if depth < 0:
            break
    text = "event_route[sipdump:msg] {" + " ".join(parts) + "}"
    if depth > 0:
        assert "is not closed" in refused(text)
    elif depth == 0:
        block = parse_config(text, "k.cfg").event_routes["sipdump:msg"]
        left = [part for part in parts if part.strip() and not part.startswith(("/*", "#"))]
        assert block.text.split() == left
