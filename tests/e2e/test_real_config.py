"""Configurations, read by us and by a real Kamailio.

``kamailio -c`` names each sipdump parameter that it doesn't know, with its type. So a modparam of an unknown name shows
whether the branch that it stands in is live, and, as the name is a string like any other, what a string's value is.
"""

import itertools
import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipdump_core.config.reader import read_config
from sipdump_core.errors import ConfigError, SipDumpError
from sipdump_core.plan import make_plan
from tests.e2e.peers import Stage, need, program, sipdumpd_command
from tests.support import examples

pytestmark = pytest.mark.peer

REAL = Path("/etc/kamailio/kamailio.cfg")
NAMES = ("WITH_MYSQL", "WITH_NAT", "WITH_TLS", "WITH_DEBUG", "WITH_AUTH", "WITH_RTPENGINE", "WITH_JSONRPC")
BASE = 'loadmodule "sipdump.so"\nlisten=udp:127.0.0.1:5999\nauto_aliases=no\nlog_stderror=yes\n'
END = "\nrequest_route { exit; }\n"
_UNKNOWN = re.compile(
    rb"parameter <((?:(?!parameter <).)*?)> of type <\d+:(\w+)> not found in module <sipdump>", re.DOTALL
)


def kamailio(config: Path, defines: Sequence[str] = ()) -> tuple[bool, list[tuple[bytes, str]], str]:
    """Let Kamailio check a configuration: whether it takes it, and the unknown parameters with their types."""
    argv: list[str | Path] = [
        program("kamailio") or "kamailio",
        "-f",
        config,
        "-c",
        "-E",
        "-m",
        "16",
        "-Y",
        config.parent,
    ]
    options = [part for define in defines for part in ("-A", define)]
    env = {**os.environ, "SIPDUMP_TEST": "12"}
    done = subprocess.run(
        [*argv, *options], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env=env, check=False
    )
    found = [(name, kind.decode()) for name, kind in _UNKNOWN.findall(done.stderr)]
    return done.returncode == 0, found, done.stderr.decode(errors="backslashreplace")


def ours(config: Path, defines: Sequence[str] = ()) -> list[tuple[bytes, str]]:
    """Return the sipdump parameters that we find, in the same form."""
    return [
        (s.name.encode("utf-8", "surrogateescape"), "int" if isinstance(s.value, int) else "string")
        for s in read_config(config, defines).settings
        if s.is_for("sipdump")
    ]


def probed(text: str) -> str:
    """Put a sipdump line behind each directive of a configuration that stands outside its routes."""
    lines, inserted = [], itertools.count()
    values = itertools.cycle(("1", '"x"', "DBGLEVEL", "-FLT_NATS", "PROBE", "yes", "0x1f"))
    settings, routes, body = text.partition("\nrequest_route {")
    assert routes
    for line in settings.split("\n"):
        lines.append(line)
        if re.match(r"#!(ifn?def|else|endif|KAMAILIO|trydef)", line):
            if line == "#!KAMAILIO":
                lines.append('loadmodule "sipdump.so"\n#!trydef DBGLEVEL_ 1\n#!define PROBE "probe"')
            value = next(values)
            # the file defines these somewhere in its first lines
            value = "7" if value[0] in "D-" and "FLB_NATSIPPING" not in "\n".join(lines) else value
            lines.append(f'modparam("sipdump|nosuch", PROBE "_{next(inserted)}", {value})')
    return "\n".join(lines) + routes + body + '\n#!ifdef WITH_NAT\nmodparam("sipdump", "last", PROBE)\n#!endif\n'


@pytest.mark.parametrize("size", range(len(NAMES) + 1))
def test_debians_configuration_with_each_combination_of_options(size: int, tmp_path: Path) -> None:
    need("kamailio")
    if not REAL.exists():
        pytest.skip(f"no {REAL}")
    config = tmp_path / "kamailio.cfg"
    config.write_text(probed(REAL.read_text()))
    # without a database the file is no configuration where one is used, and what Kamailio skips then is its own affair
    combinations = [("DBURL='x'", *names) for names in itertools.combinations(NAMES, size)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda names: kamailio(config, names), combinations))
    for names, (_, theirs, log) in zip(combinations, answers, strict=True):
        assert len(theirs) > 20, log
        assert (names, ours(config, names)) == (names, theirs)


def test_the_daemon_takes_debians_configuration(tmp_path: Path) -> None:
    need("kamailio")
    if not REAL.exists():
        pytest.skip(f"no {REAL}")
    text = REAL.read_text().replace(
        "# ----- sanity params -----",
        f'#!ifdef WITH_NAT\nmodparam("sipdump", "mode", MODE)\n#!endif\nmodparam("sipdump", "folder", "{tmp_path}")\n',
    )
    (tmp_path / "kamailio.cfg").write_text(text)
    command: list[str | Path] = [*sipdumpd_command(), "-c", "-f", tmp_path / "kamailio.cfg"]
    for options, code, said in [
        ([], 0, "config file ok"),
        (["-A", "WITH_NAT", "-A", "MODE=5"], 0, "config file ok"),
        (["-A", "WITH_NAT"], 1, "kamailio.cfg:345:29: modparam is not understood"),
        (["-A", "WITH_NAT", "-A", "MODE=0"], 1, 'modparam("sipdump", "mode", 0)'),
        (["-A", "FLT_ACC"], 1, "FLT_ACC is already defined; in: #!define FLT_ACC 1"),
    ]:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


CASES = {
    "plain": 'modparam("sipdump","mode",1)\n',
    "unknown": 'modparam("sipdump","nosuch",1)\n',
    "semicolon": 'modparam("sipdump","mode",1);\n',
    "nested comment": '/* a /* b */ modparam("sipdump","nosuch",1) */\n',
    "ifdef and text": '#!define X\n#!ifdef X // x\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "else and text": '#!define X\n#!ifdef X\n#!else // x\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "endif and text": "#!define X\n#!ifdef X\n#!endif // x\n",
    "endif alone": "#!endif\n",
    "else alone": "#!else\n",
    "else twice": '#!ifdef X\n#!else\n#!else\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "directive in a line": 'modparam("sipdump","mode",1) #!ifndef X\n#!else\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "directive in a skipped comment": '#!ifdef X\n# x #!endif\nmodparam("sipdump","nosuch",1)\n',
    "strings side by side": 'modparam("sipdump","folder","/t" "mp")\n',
    "ticks side by side": "modparam('sipdump','folder','/t' 'mp')\n",
    "strings and a comment": 'modparam("sipdump","folder","/t" /* x */ "mp")\n',
    "define and string": '#!define A "/t"\nmodparam("sipdump","folder",A "mp")\n',
    "string and define": '#!define A "mp"\nmodparam("sipdump","folder","/t" A)\n',
    "YES": 'modparam("sipdump","mode",YES)\n',
    "yes": 'modparam("sipdump","mode",yes)\n',
    "Yes": 'modparam("sipdump","mode",Yes)\n',
    "0b11": 'modparam("sipdump","mode",0b11)\n',
    "11b": 'modparam("sipdump","mode",11b)\n',
    "08": 'modparam("sipdump","mode",08)\n',
    "0X1": 'modparam("sipdump","mode",0X1)\n',
    "+1": 'modparam("sipdump","mode",+1)\n',
    "1+1": 'modparam("sipdump","mode",1+1)\n',
    "(1)": 'modparam("sipdump","mode",(1))\n',
    "string for int": 'modparam("sipdump","mode","1")\n',
    "int for string": 'modparam("sipdump","folder",1)\n',
    "undef": '#!define X 1\n#!undef X\n#!ifdef X\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "defined twice": "#!define X 1\n#!define X 1\n",
    "redef": '#!define X "a"\n#!redefine X 1\nmodparam("sipdump","mode",X)\n',
    "trydef": '#!define X 1\n#!trydef X "a"\nmodparam("sipdump","mode",X)\n',
    "!!": '!!define X 1\n!!ifdef X\nmodparam("sipdump","mode",X)\n!!endif\n',
    "list": 'modparam("sipdump|nosuch","mode",1)\n',
    "list, unknown": 'modparam("tm|s.*","nosuch",1)\n',
    "SIPDUMP": 'modparam("SIPDUMP","mode",1)\n',
    "no expression": 'modparam("sipdump(","mode",1)\n',
    "MOD_": '#!ifdef MOD_sipdump\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "KAMAILIO_5_6_3": '#!ifdef KAMAILIO_5_6_3\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "A-B": "#!define A-B 1\n",
    "1A": '#!define 1A 1\nmodparam("sipdump","mode",A)\n',
    "define with a comment": '#!define A 1 # comment\nmodparam("sipdump","mode",A)\n',
    "define over lines": '#!define A 1 \\\n  \nmodparam("sipdump","mode",A)\n',
    "define of a statement": '#!define A modparam("sipdump","nosuch",1)\nA\n',
    "define of nothing": '#!define A\nmodparam("sipdump","mode",A 1)\n',
    "define of a known word": '#!define mode 1\nmodparam("sipdump","mode",mode)\n',
    "subst": '#!subst "/XX/mode/"\nmodparam("sipdump","XX",1)\n',
    "subst in ticks": "#!subst '/XX/mode/'\nmodparam('sipdump','XX',1)\n",
    "subst too late": 'modparam("sipdump","XX",1)\n#!subst "/XX/mode/"\n',
    "substdef": '#!substdef "!XX!1!g"\nmodparam("sipdump","mode",XX)\n',
    "substdefs": '#!substdefs "!XX!/tmp!g"\nmodparam("sipdump","folder",XX)\n',
    "subst without an end": '#!subst "/XX/"\n',
    "subst without quotes": "#!subst /XX/mode/\n",
    "subst of no expression": '#!subst "/(X/a/"\n',
    "subst with a flag": '#!subst "/X/a/q"\n',
    "defenv": '#!defenv SIPDUMP_TEST\nmodparam("sipdump","mode",SIPDUMP_TEST)\n',
    "defenvs": '#!defenvs A=SIPDUMP_TEST\nmodparam("sipdump","fprefix",A)\n',
    "defenv of nothing": "#!defenv SIPDUMP_NONE\n",
    "trydefenv of nothing": "#!trydefenv SIPDUMP_NONE\n",
    "modparamx": 'modparamx("sipdump","fprefix","$env(SIPDUMP_TEST)")\n',
    "modparamx, variable": 'modparamx("sipdump","fprefix",$env(SIPDUMP_TEST))\n',
    "modparam, variable": 'modparam("sipdump","fprefix",$env(SIPDUMP_TEST))\n',
    "//!define": '//!define X 1\n#!ifdef X\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "# !define": '# !define X 1\n#!ifdef X\nmodparam("sipdump","nosuch",1)\n#!endif\n',
    "one route twice": "event_route[sipdump:msg] { exit; }\nevent_route[sipdump:msg] { exit; }\n",
    "blanks in a route's head": "event_route [ sipdump:msg ] { exit; }\n",
    "a define of a route's name": "#!define msg x\nevent_route[sipdump:msg] { exit; }\n",
    "backslash": 'modparam\\\n("sipdump","mode",1)\n',
    "odd characters": '\f\v modparam("sipdump","mode",1) \x01\n',
    "include": 'include_file "bad.cfg"\n',
    "include below": 'include_file\n"bad.cfg"\n',
    "include in ticks": "include_file 'good.cfg'\n",
    "include of nothing": 'include_file "none.cfg"\n',
    "import of nothing": 'import_file "none.cfg"\n',
    "import": 'import_file "bad.cfg"\n',
    "#!include_file": '#!include_file "bad.cfg"\n',
    "include with a blank": 'include_file "a b.cfg"\n',
    "include with a semicolon": 'include_file "good.cfg";\n',
    "include and more": 'include_file "good.cfg" modparam("sipdump","nosuch",1)\n',
    "include of itself": 'include_file "itself.cfg"\n',
    "include of itself, once": 'include_file "once.cfg"\n',
    "include and subst": '#!subst "/Z/bad/"\ninclude_file "Z.cfg"\n',
    "include and define": '#!define F "good.cfg"\ninclude_file F\n',
    "include of an open condition": 'include_file "open.cfg"\n#!endif\n',
    "include of half a statement": 'include_file "half.cfg"\n"mp")\n',
    "include, no end of line": 'include_file "define.cfg"\nmodparam("sipdump","mode",X)\n',
}
FILES = {
    "bad.cfg": 'modparam("sipdump","nosuch",1)\n',
    "good.cfg": "\n",
    "a b.cfg": "\n",
    "itself.cfg": 'include_file "itself.cfg"\n',
    "once.cfg": '#!ifndef G\n#!define G\ninclude_file "once.cfg"\n#!endif\n',
    "open.cfg": "#!ifdef NO\n",
    "half.cfg": 'modparam("sipdump","folder","/t"',
    "define.cfg": "#!define X 1",
}


def test_the_same_is_taken_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("kamailio")
    monkeypatch.setenv("SIPDUMP_TEST", "12")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    configs = {name: tmp_path / f"k{number}.cfg" for number, name in enumerate(CASES)}
    for name, text in CASES.items():
        configs[name].write_text(BASE + text + END)
    with ThreadPoolExecutor(4) as pool:
        theirs = dict(zip(CASES, (taken for taken, *_ in pool.map(kamailio, configs.values())), strict=True))
    found: dict[str, str] = {}
    for name, config in configs.items():
        try:
            make_plan(read_config(config).settings, to_start=False)
        except SipDumpError as error:
            found[name] = str(error)
    differing = {name: found.get(name, "taken") for name in CASES if theirs[name] == (name in found)}
    assert differing == ({"undef": "taken"} if theirs["undef"] is False else {})  # a comment for an older Kamailio


LITERALS = st.one_of(
    st.lists(
        st.lists(
            st.sampled_from([*"abxnrt0127QR '#!/*{$;", r"\\", r"\"", "\\", "\\n", "\\x4", "\\12", "é", "\n", "\t"])
        )
        .map("".join)
        .filter(lambda text: re.fullmatch(r'(?:[^"\\]|\\.)*', text, re.DOTALL))
        .map(lambda text: f'"{text}"'),
        min_size=1,
        max_size=3,
    ).map(" \n".join),
    st.text('abQR\\"n#1/* \n', max_size=12).map(lambda text: f"'{text}'"),
)
RULES = st.lists(
    st.builds(
        "{}{}{}{}{}{}".format,
        st.just("!"),
        st.sampled_from(["a", "(a|ab)(x|bx)", "[0-9]+", "^a", "x$", ".", "[^a]", "a+b?", r"\\.", "Q", "(Q)|(R)"]),
        st.just("!"),
        st.sampled_from(["z", r"<\\1>", r"\\0\\0", "", r"\\2\\n", "QR"]),
        st.just("!"),
        st.sampled_from(["", "g", "i", "gi", "gs"]),
    ),
    max_size=3,
)


@settings(examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rules=RULES, literals=st.lists(LITERALS, min_size=1, max_size=30))
def test_strings_have_the_same_value(rules: list[str], literals: list[str], tmp_path: Path) -> None:
    need("kamailio")
    config = tmp_path / "k.cfg"
    lines = [f'#!subst "{rule}"' for rule in rules] + [f"#!define Q{i} {i}" for i in range(3)]
    lines += [f'modparam("sipdump", {literal}, {i})' for i, literal in enumerate(literals)]
    config.write_text(BASE.replace("\nlisten", "\n\nlisten") + "\n".join(lines) + END)
    _, theirs, log = kamailio(config)
    found: list[tuple[bytes, str]] | str
    try:
        found = ours(config)
    except ConfigError as error:
        found = str(error)
    if isinstance(found, str):  # one rule has made another wrong
        assert "the substitution is not understood" in found
        assert "parse error" in log
    else:
        assert found == theirs, log


NUMBERS = [
    "0", "7", "12", "-3", "- 3", "010", "-010", "0777", "0x1f", "0xFF", "-0x10", "101b", "0b", "1b", "-11b",
    "yes", "no", "on", "off", "true", "false", "enable", "disable", "inet", "inet6", "IPv4", "ipv6", "2147483647",
]  # fmt: skip


def test_numbers_have_the_same_value(stage: Stage) -> None:
    need("kamailio")
    lines = "".join(
        f'$var(x) = {number}; xlog("L_ERR", "VALUE {i}=$var(x);\\n");\n' for i, number in enumerate(NUMBERS)
    )
    more = f'loadmodule "xlog.so"\nevent_route[core:worker-one-init] {{\n{lines}}}\n'
    server = stage.kamailio(more=more)
    server.says(f"VALUE {len(NUMBERS) - 1}=")
    theirs = {NUMBERS[int(i)]: int(value) for i, value in re.findall(r"VALUE (\d+)=(-?\d+);", server.output())}
    config = stage.path("numbers.cfg")
    config.write_text("".join(f'modparam("sipdump", "x", {number})\n' for number in NUMBERS))
    assert dict(zip(NUMBERS, (s.value for s in read_config(config).settings), strict=True)) == theirs
