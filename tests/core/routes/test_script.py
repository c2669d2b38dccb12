"""The event route in Kamailio's script language. What Kamailio itself does is in tests/e2e/test_route.py."""

import logging
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.config.reader import parse_config
from sipdump_core.config.route_block import RouteBlock
from sipdump_core.errors import ConfigError
from sipdump_core.plan import make_plan
from sipdump_core.record import Record
from sipdump_core.routes.event_route import DROP, Callback
from sipdump_core.routes.script import compile_route
from sipdump_core.settings.core import MODE_EVENT_ROUTE
from sipdump_core.sipdump import SipDump
from tests.support import OPTIONS, examples, record


def block(text: str) -> RouteBlock:
    """Return the route of a configuration; its text begins at the second line."""
    return parse_config(f"event_route[sipdump:msg] {{\n{text}\n}}\n", "k.cfg").event_routes["sipdump:msg"]


def route(text: str, *, parse_call_id: bool = True) -> Callback:
    return compile_route(block(text), parse_call_id=parse_call_id)


def holds(condition: str, buf: bytes = OPTIONS, **fields: object) -> bool:
    return route(f"if ({condition}) drop;")(record(buf, **fields)) is DROP


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "sipdump")
    return caplog


def said(lines: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(entry.levelname, entry.getMessage()) for entry in lines.records]


def test_the_example_of_our_documentation(lines: pytest.LogCaptureFixture) -> None:
    page = (Path(__file__).parents[3] / "docs" / "event_route.md").read_text()
    example = page.partition("```\n")[2].partition("```")[0]
    routes = parse_config(example, "k.cfg").event_routes
    callback = compile_route(routes["sipdump:msg"], parse_call_id=False)
    assert callback(record()) is DROP
    assert callback(record(OPTIONS.replace(b"OPTIONS", b"INVITE"))) is not DROP
    assert callback(record(b"x" * 2000, tag="snd")) is not DROP
    assert said(lines) == [
        ("INFO", "[rcv] 127.0.0.1:5999 INVITE sip:bob@192.0.2.2 SIP/2.0"),
        ("WARNING", "long message to 127.0.0.1: 2000 bytes"),
    ]


def test_the_route_of_the_documentation(lines: pytest.LogCaptureFixture) -> None:
    assert route('xinfo("[$sipdump(tag)] [[$sipdump(buf)]]\\n");')(record(b"a\r\n\r\n")) is not DROP
    assert said(lines) == [("INFO", "[rcv] [[a\r\n\r\n]]")]


def test_levels_of_the_xlog_family(lines: pytest.LogCaptureFixture) -> None:
    names = ("xalert", "xbug", "xcrit", "xerr", "xwarn", "xnotice", "xinfo", "xdbg")
    route("".join(f'{name}("{name}\\n");' for name in names))(record())
    expected = ["CRITICAL", "CRITICAL", "CRITICAL", "ERROR", "WARNING", "INFO", "INFO", "DEBUG"]
    assert said(lines) == list(zip(expected, names, strict=True))


def test_levels_of_xlog(lines: pytest.LogCaptureFixture) -> None:
    levels = ("L_ALERT", "L_BUG", "L_CRIT", "L_ERR", "L_WARN", "L_NOTICE", "L_INFO", "L_DBG")
    route("".join(f'xlog("{level}", "{level}");' for level in levels) + 'xlog("an error, as in Kamailio");')(record())
    assert [level for level, _ in said(lines)] == [
        "CRITICAL", "CRITICAL", "CRITICAL", "ERROR", "WARNING", "INFO", "INFO", "DEBUG", "ERROR",
    ]  # fmt: skip


def test_xlogl_says_the_line(lines: pytest.LogCaptureFixture) -> None:
    route('# nothing\nxlogl("a");\n\nxlogl("L_INFO", "b\\n"); xdbgl("c");')(record())
    assert said(lines) == [("ERROR", "3:a"), ("INFO", "5:b"), ("DEBUG", "5:c")]


def test_one_newline_at_the_end_is_taken_off(lines: pytest.LogCaptureFixture) -> None:
    route(r'xinfo("a\n\n"); xinfo("b"); xinfo("c\\n");' + "xinfo('d\\n');")(record())
    assert [text for _, text in said(lines)] == ["a\n", "b", "c\\n", "d\\n"]


def test_bytes_that_are_no_text_are_escaped(lines: pytest.LogCaptureFixture) -> None:
    route('xinfo("$sipdump(buf)");')(record(b"\xff\0\xc3\xa9"))
    assert said(lines)[0][1] == "\\xff\0é"


def test_a_text_is_not_made_for_a_level_that_is_off(lines: pytest.LogCaptureFixture) -> None:
    lines.set_level(logging.WARNING, "sipdump")
    route('xinfo("a"); xwarn("b");')(record())
    assert said(lines) == [("WARNING", "b")]


@pytest.mark.parametrize("end", ["drop", "drop()", "drop(1)", "drop 1"])
def test_drop_ends_and_drops(end: str, lines: pytest.LogCaptureFixture) -> None:
    assert route(f'{end}; xinfo("not reached");')(record()) is DROP
    assert route(f"if (1) {{ if (1) {end}; }} exit;")(record(tag="snd")) is DROP
    assert said(lines) == []


@pytest.mark.parametrize(
    "end", ["exit", "exit()", "exit(0)", "return", "return()", "return(0)", "return 1", "return -1"]
)
def test_exit_and_return_end_and_keep(end: str, lines: pytest.LogCaptureFixture) -> None:
    assert route(f'if (1) {{ {end}; }} xinfo("not reached"); drop;')(record()) is not DROP
    assert said(lines) == []


def test_if_and_else(lines: pytest.LogCaptureFixture) -> None:
    text = """
        if ($sipdump(len) == 1) xinfo("one");
        else if ($sipdump(len) == 2) { xinfo("two"); }
        else if $sipdump(len) == 3
            if ($sipdump(tag) == "rcv") xinfo("three, in"); else xinfo("three, out");   // of the inner if
        else { ; xinfo("more"); if (0) { xinfo("never"); } }
        /* and on */ xinfo("end");
    """
    callback = route(text)
    for buf, tag in ((b"1", "rcv"), (b"12", "rcv"), (b"123", "rcv"), (b"123", "snd"), (b"1234", "rcv")):
        callback(record(buf, tag=tag))
    assert [line for _, line in said(lines) if line != "end"] == ["one", "two", "three, in", "three, out", "more"]
    assert len(said(lines)) == 10


@pytest.mark.parametrize("text", ["", ";", ";;", "if (1) ; else drop;", "if (1) {}", "# drop;"])
def test_what_does_nothing(text: str) -> None:
    assert route(text)(record()) is not DROP


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("1", True),
        ("0", False),
        ("yes and not no", True),
        ("0x1F == 31", True),
        ("017 == 15", True),
        ("101b == 5", True),
        ("-5 < 3", True),
        ('"a" == "a"', True),
        ('"5" == 5', True),
        # && before ||, comparisons of order before those of equality, ! before all
        ("1 || 1 && 0", True),
        ("0 && 1 || 1", True),
        ("1 < 2 == 1", True),
        ("!0 == 1", True),
        ("!(1 == 0)", True),
        ("not not 1", True),
        ("1 and 1 and 0", False),
        # what is negative does not hold by itself
        ("-1", False),
        ("-1 && 1", True),
        ("-1 || 0", True),
        ("$(sipdump(tag){s.replace,rcv,-1}) && 1", False),
        ("$(sipdump(tag){s.replace,rcv,-1}) && 2", True),
        ("$(sipdump(tag){s.replace,rcv,-1}) || 0", False),
        ("!-1", False),
        ("0 or 0 or 1", True),
        # the left side says how is compared
        ("$sipdump(len) == $(sipdump(buf){s.len})", True),
        ('$sipdump(src_port) == "5999"', True),
        ("$sipdump(src_ip) == 127", False),
        ('$sipdump(src_ip) == "127.0.0.1"', True),
        ('$sipdump(tag) == "RCV"', False),
        ('$sipdump(tag) != "snd"', True),
        ("5999 == $sipdump(src_port)", True),
        ("0 == $sipdump(tag)", True),  # a string that is no number is 0
        ("$sipdump(tag)", False),
        ("$sipdump(len)", True),
        ("$sipdump(src_port) > $sipdump(dst_port)", True),
        ("$sipdump(src_port) >= 5999 && $sipdump(src_port) <= 5999", True),
        # null is 0 or empty
        ('$null == ""', True),
        ("$null == 0", True),
        ("$null == 5", False),
        ("$null == $sipdump(tag)", False),
        ("$null < 1", True),
        ("$sipdump(tag) == $null", False),
        ("$sipdump(tag) != $null", True),
        ("$(null{s.len}) == $null", True),
        ('$sipdump(len) == ""', False),  # == with the empty string asks whether it is one
        ('$sipdump(len) != ""', True),
        ('"" == $(sipdump(tag){s.strip,9})', True),
        # strings and expressions
        ('$sipdump(buf) =~ "^options .*\r\nvia:"', True),
        ('$sipdump(buf) =~ "^INVITE|^OPTIONS"', True),
        ('$sipdump(buf) !~ "^INVITE"', True),
        ('$sipdump(len) =~ "^[0-9]+$"', True),
        ('$null =~ "^$"', True),
        ('"abc" =~ "B"', True),
        ('$sipdump(tag) eq "rcv"', True),
        ('$sipdump(tag) ne "rcv"', False),
        ("$sipdump(tag) ieq 0", True),
        ("strlen($sipdump(tag)) == 3", True),
        ("strempty($null)", True),
        ("defined $null == 0", True),
        ("defined $sipdump(tag)", True),
        ("$sipdump(call_id) == 'c1@192.0.2.1'", True),
    ],
)
def test_conditions(condition: str, expected: bool) -> None:
    assert holds(condition) is expected


@pytest.mark.parametrize("text", [b"0x10", b"0X10"])
def test_strings_as_numbers(text: bytes) -> None:
    assert holds("16 == $sipdump(buf)", text)
    assert holds("-1 == $sipdump(buf)", b"0xffffffff")
    assert holds("0 == $sipdump(buf)", b"0x")
    assert holds("12 == $sipdump(buf)", b"+12")
    assert holds("0 == $sipdump(buf)", b"99999999999")


def test_call_id_is_null_without_parse_call_id() -> None:
    text = "if ($sipdump(call_id) == $null) drop;"
    assert route(text, parse_call_id=False)(record()) is DROP
    assert route(text, parse_call_id=True)(record()) is not DROP


def test_a_long_chain_of_else_if_and_of_and() -> None:
    chain = " else ".join(f"if ($sipdump(len) == {number}) exit;" for number in range(3000))
    assert route(f"{chain} else drop;")(record(b"x" * 5000)) is DROP
    assert holds(" && ".join(["1"] * 3000))
    assert not holds(" || ".join(["0"] * 3000))


@pytest.mark.parametrize(
    ("text", "column", "hint"),
    [
        ("$var(x) = 1;", 1, "assignments"),
        ('$ru = "x";', 1, "assignments"),
        ('if ($sipdump(tag) = "rcv") drop;', 19, "== compares"),
        ('sipdump_send("a");', 1, "sipdump_send is not supported"),
        ('python_exec("fn");', 1, "event_callback"),
        ('append_hf("X");', 1, "append_hf is not supported; the statements are"),
        ("while (1) { drop; }", 11, "while is not supported"),
        ("switch($sipdump(tag)) { case 1: drop; }", 23, "use if and else if"),
        ("route(X);", 7, "write the statements"),
        ("break;", 6, "use return or exit"),
        ('if (is_method("INVITE")) drop;', 5, "INVITE"),
        ('if (xlog("x")) drop;', 5, "no function has a value"),
        ("if ($sipdump(len) + 1 > 3) drop;", 19, "no arithmetic"),
        ('xinfo("x" . "y");', 11, "no arithmetic"),
        ("if ($x[0] == 1) drop;", 7, "no index"),
        ("if (1 { drop; }", 7, "not understood"),
        ('xinfo("a")', 10, "is a ; or a } missing"),
        ('xinfo("a") xinfo("b");', 12, "a ; is missing"),
        ("drop drop;", 6, "not understood|missing"),
        ('xlog("$ru");', 6, "no parsed message"),
        ("if ($ci == 1) drop;", 5, r"\$sipdump\(call_id\)"),
        ('xinfo("$(sipdump(buf){s.nothing})");', 7, "s.len"),
        ("xlog($sipdump(tag));", 6, "a string in quotes"),
        ("xlog();", 1, "takes a text"),
        ("xinfo();", 1, "takes one text"),
        ('xinfo("a", "b");', 1, "takes one text"),
        ('xlog("L_FOO", "x");', 6, "L_ALERT"),
        ('xlog("LOG_LOCAL0", "L_INFO", "x");', 1, "facilities"),
        ('xlogm("L_INFO", "x");', 1, r"use xlog\(level, text\)"),
        ('log(1, "x");', 1, r"use xlog\(level, text\)"),
        ("if ($sipdump(buf) =~ $sipdump(tag)) drop;", 22, "in quotes"),
        ('if ($sipdump(buf) =~ "(a") drop;', 22, "no regular expression"),
        (r'if ($sipdump(buf) =~ "\\<INVITE") drop;', 22, r"\\< is not supported; write \\b"),
        ('if (5 =~ "5") drop;', 5, "needs a string on its left"),
        ('if ("a" < 3) drop;', 5, "a number is needed"),
        ('if (!"x") drop;', 6, "a number is needed"),
        ('if (5 == "5") drop;', 10, "both as numbers"),
        ("if (99999999999 > 1) drop;", 5, "32 bits"),
        ("if (1) " * 50 + "drop;", None, "nested deeper"),
        ("if (" + "!" * 50 + "1) drop;", None, "nested deeper"),
    ],
)
def test_what_is_outside_of_the_subset_is_refused(text: str, column: int | None, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        route(f'\n  xinfo("before");\n{text}')
    place, _, message = str(caught.value).partition(": ")
    assert place.startswith("k.cfg:4:")
    if column is not None:
        assert place == f"k.cfg:4:{column}"
    assert message.startswith("event_route[sipdump:msg]: ")
    assert text[:30].strip() in message  # the statement itself


def test_it_is_fast() -> None:
    callback = route('if ($sipdump(buf) =~ "^REGISTER" && $sipdump(src_ip) != "192.0.2.1") { xdbg("$sipdump(tag)"); }')
    one = record()
    start = time.process_time()
    for _ in range(20_000):
        callback(one)
    assert (time.process_time() - start) / 20_000 < 50e-6  # it takes about 1 µs


# --- property tests -------------------------------------------------------------------------------------------------

_OPERANDS = (
    "$sipdump(tag)", "$sipdump(buf)", "$sipdump(len)", "$sipdump(call_id)", "$(sipdump(buf){s.int})", "$TV(un)",
    "$null", "$(sipdump(buf){line.at,1})", "$(sipdump(buf){s.substr,3,2})", "$Ts", "0", "-1", "017", '"rcv"',
    '""', "'12'", "yes",
)  # fmt: skip
operands = st.sampled_from(_OPERANDS)
expressions = st.sampled_from(['"^(a+)+$"', '"a|b"', '"."', '""', '"[^\\r\\n]*\\r\\n"', "'\\\\.[0-9]{1,3}$'"])


def conditions(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["==", "!=", "<", ">", "<=", ">=", "&&", "||", "and", "or", "eq", "ne", "ieq"])
    return st.one_of(
        st.tuples(inner, operators, inner).map(" ".join),
        st.tuples(inner, st.sampled_from(["=~", "!~"]), expressions).map(" ".join),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"!{one}"),
        inner.map(lambda one: f"strlen({one})"),
        inner.map(lambda one: f"defined {one}"),
    )


condition = st.recursive(operands, conditions, max_leaves=6)
leaves = st.sampled_from(
    [
        "drop;",
        "exit;",
        "return(1);",
        ";",
        'xinfo("$sipdump(buf)|$sipdump(call_id)|$(sipdump(buf){s.tolower})\\n");',
        'xlogl("$$");',
    ]
)


def statements(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, max_size=3).map(" ".join),
        st.tuples(condition, inner).map(lambda parts: f"if ({parts[0]}) {{ {parts[1]} }}"),
        st.tuples(condition, inner, inner).map(lambda parts: f"if ({parts[0]}) {{ {parts[1]} }} else {{ {parts[2]} }}"),
    )


programs = st.recursive(leaves, statements, max_leaves=6)
any_records = st.builds(
    record,
    st.one_of(st.binary(max_size=100), st.sampled_from([OPTIONS, b"", b"a" * 9000 + b"b", b"12", b"0x1"])),
    tag=st.sampled_from(["rcv", "snd", "own"]),
    time_us=st.integers(-(2**70), 2**70),
)


@given(programs, any_records)
@examples(200)
def test_no_record_makes_a_route_raise(program: str, any_record: Record) -> None:
    try:
        callback = route(program)
    except ConfigError:  # strings where numbers are needed
        return
    assert callback(any_record) in (DROP, None)


_TOKENS = (
    "if", "else", "drop", "exit", "return", "(", ")", "{", "}", ";", ",", "xinfo", "xlog", "while", "==", "=~", "!",
    "&&", '"a"', "'b'", "$sipdump(tag)", "$(", "1", "0x", "-", '"$"', "/*", "# x\n", "\\", "\x00", '"', "\udcff", "é",
)  # fmt: skip
tokens = st.sampled_from(_TOKENS)


@given(st.lists(tokens, max_size=25).map(" ".join))
@examples(200)
def test_any_text_compiles_or_is_refused_with_its_place(text: str) -> None:
    try:
        blocks = parse_config(f"event_route[sipdump:msg] {{\n{text}\n}}\n", "k.cfg").event_routes
    except ConfigError:
        return
    try:
        compile_route(blocks["sipdump:msg"], parse_call_id=False)
    except ConfigError as error:
        assert error.place.startswith("k.cfg:")  # noqa: PT017 - most texts raise, some do not


# --- the plan -------------------------------------------------------------------------------------------------------


def config(text: str, mode: int = MODE_EVENT_ROUTE) -> tuple[list[object], dict[str, RouteBlock]]:
    read = parse_config(f'modparam("sipdump", "enable", 1)\nmodparam("sipdump", "mode", {mode})\n{text}', "k.cfg")
    return list(read.settings), read.event_routes


def never(_: Record, tag: str) -> None:
    raise AssertionError(f"sent as {tag}")


def test_the_plan_runs_the_route(lines: pytest.LogCaptureFixture) -> None:
    settings_, routes = config('event_route[sipdump:msg] { if ($sipdump(tag) == "snd") drop; xinfo("kept"); }')
    plan = make_plan(settings_, event_routes=routes)  # type: ignore[arg-type]
    with SipDump(plan=plan) as dump:
        dump.received(OPTIONS, ("192.0.2.1", 5060), ("192.0.2.2", 5060))
        dump.sent(OPTIONS, ("192.0.2.2", 5060), ("192.0.2.1", 5060))
        assert dump.stats().route_dropped == 1
    assert ("INFO", "kept") in said(lines)


def test_the_route_wins_over_event_callback(lines: pytest.LogCaptureFixture) -> None:
    settings_, routes = config(
        'modparam("sipdump", "event_callback", "nothing.such:here")\nevent_route[sipdump:msg] { drop; }'
    )
    plan = make_plan(settings_, event_routes=routes)  # type: ignore[arg-type]
    assert plan.route is not None
    assert plan.route(never)(record()) is DROP
    SipDump(plan=plan).close()
    assert any("event_callback is not called" in line for _, line in said(lines))


def test_without_the_flag_a_route_is_not_run() -> None:
    settings_, routes = config("event_route[sipdump:msg] { drop; }", mode=1)
    assert make_plan(settings_, event_routes=routes).route is None  # type: ignore[arg-type]


def test_a_bad_route_and_an_unknown_event_stop_the_start() -> None:
    settings_, routes = config("event_route[sipdump:msg] { nonsense(); }")
    with pytest.raises(ConfigError, match=r"k\.cfg:3:28: .*nonsense is not supported"):
        make_plan(settings_, event_routes=routes)  # type: ignore[arg-type]
    settings_, routes = config("event_route[sipdump:mgs] { drop; }")
    with pytest.raises(ConfigError, match=r"k\.cfg:3.*no such event"):
        make_plan(settings_, event_routes=routes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("else drop;", "no if before this else"),
        ("drop; else exit;", "no if before this else"),
        ("{ drop; }", "a block is possible only after if and else"),
        ('if (src_ip == "1.2.3.4") drop;', r"use \$sipdump\(src_ip\)"),
        ("if ($sipdump(src_ip) == 127.0.0.1) drop;", "write an address in quotes"),
        ("if ($sipdump(tag) != null) drop;", r"use \$null"),
        ('xlog(L_INFO, "x");', '"L_INFO", in quotes'),
    ],
)
def test_a_frequent_slip_is_told_with_what_was_meant(text: str, said: str) -> None:
    config = parse_config(f"event_route[sipdump:msg] {{\n{text}\n}}\n", "k.cfg")
    with pytest.raises(ConfigError, match=rf"^k\.cfg:2:\d+: .*{said}"):
        compile_route(config.event_routes["sipdump:msg"], parse_call_id=False)
