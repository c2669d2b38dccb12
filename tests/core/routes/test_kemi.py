"""Event callbacks in scripts written for Kamailio, in Python and Lua."""

import builtins
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sipdump_core.errors import ConfigError
from sipdump_core.plan import make_plan
from sipdump_core.record import Record
from sipdump_core.settings.kemi import KemiOptions
from sipdump_core.settings.options import Setting, build
from sipdump_core.sipdump import SipDump
from tests.support import OPTIONS, record

LUA = pytest.mark.skipif(find_spec("lupa") is None, reason="lupa is not installed")
BOTH = [".py", pytest.param(".lua", marks=LUA)]
NO_UTF8 = OPTIONS + b"caf\xc3\xa9 \xff\xfe\x00 end"

Run = Callable[..., Any]


class Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.records.append(record)

    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("sipdump")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def settings(tmp_path: Path, *scripts: str, function: str = "ksr_sipdump_event", **params: Any) -> list[Setting]:
    config = tmp_path / "sipdumpd.cfg"
    config.touch()
    values = {"enable": 1, "mode": 3, "folder": str(tmp_path), "event_callback": function, **params}
    loads = [Setting("sipdump_kemi", "load", script, f"{config}:{i}:1") for i, script in enumerate(scripts, 2)]
    return [*loads, *(Setting("sipdump", name, value, f"{config}:9:1") for name, value in values.items())]


@pytest.fixture
def dump(tmp_path: Path) -> Iterator[Callable[..., SipDump]]:
    """Makes a SipDump whose event callback is in a script of this text."""
    dumps: list[SipDump] = []

    def make(text: str, suffix: str = ".py", **params: Any) -> SipDump:
        script = tmp_path / f"callback{suffix}"
        script.write_text(text)
        made = SipDump(settings(tmp_path, script.name, **params))
        dumps.append(made)
        return made

    yield make
    for one in dumps:
        one.close()


def python(body: str) -> str:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"import KSR as KSR\ndef ksr_sipdump_event(msg, evname):\n{lines}\n    return 1\n"


def lua(body: str) -> str:
    return f"function ksr_sipdump_event(evname)\n{body}\nend\n"


def stored(tmp_path: Path) -> list[bytes]:
    """Return the tags of what is stored."""
    found = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.data")))
    return [line.removeprefix(b"tag: ") for line in found.split(b"\n") if line.startswith(b"tag: ")]


SAME = {
    ".py": """
import KSR

def ksr_sipdump_event(msg, evname):
    KSR.info("event " + evname + "\\n")
    KSR.notice(KSR.sipdump.get_tag() + " " + KSR.sipdump.get_src_ip() + " " + KSR.sipdump.get_dst_ip() + "\\n")
    for name in ("tag", "len", "af", "proto", "src_ip", "dst_ip", "src_port", "dst_port"):
        KSR.dbg("%s=%s\\n" % (name, KSR.pv.get("$sipdump(" + name + ")")))
    KSR.warn(KSR.sipdump.get_buf()[:7])
    KSR.err("%d" % len(KSR.pv.get("$sipdump(buf)")))
    KSR.crit("<%s><%s><%s><%s>" % (
        KSR.pv.gete("$null"), KSR.pv.getw("$null"), KSR.pv.getvs("$null", "none"), KSR.pv.getvn("$null", -7)))
    KSR.log("info", "%d %d" % (KSR.pv.geti("$sipdump(src_port)"), KSR.pv.geti("$sipdump(tag)")))
    KSR.log("nosuch", "an error")
    if KSR.pv.is_null("$null") and not KSR.pv.is_null("$sipdump(tag)") and KSR.sipdump.get_tag() == "rcv":
        KSR.set_drop()
        KSR.info("still here\\n")
        KSR.x.exit()
        KSR.info("not here\\n")
    return -1
""",
    ".lua": """
function ksr_sipdump_event(evname)
    KSR.info("event " .. evname .. "\\n")
    KSR.notice(KSR.sipdump.get_tag() .. " " .. KSR.sipdump.get_src_ip() .. " " .. KSR.sipdump.get_dst_ip() .. "\\n")
    for _, name in ipairs{"tag", "len", "af", "proto", "src_ip", "dst_ip", "src_port", "dst_port"} do
        KSR.dbg(name .. "=" .. KSR.pv.get("$sipdump(" .. name .. ")") .. "\\n")
    end
    KSR.warn(KSR.sipdump.get_buf():sub(1, 7))
    KSR.err(#KSR.pv.get("$sipdump(buf)"))
    KSR.crit("<" .. KSR.pv.gete("$null") .. "><" .. KSR.pv.getw("$null") .. "><" .. KSR.pv.getvs("$null", "none") ..
        "><" .. KSR.pv.getvn("$null", -7) .. ">")
    KSR.log("info", KSR.pv.geti("$sipdump(src_port)") .. " " .. KSR.pv.geti("$sipdump(tag)"))
    KSR.log("nosuch", "an error")
    if KSR.pv.is_null("$null") and not KSR.pv.is_null("$sipdump(tag)") and KSR.sipdump.get_tag() == "rcv" then
        KSR.set_drop()
        KSR.info("still here\\n")
        KSR.x.exit()
        KSR.info("not here\\n")
    end
    return false
end
""",
}


@pytest.mark.parametrize("suffix", BOTH)
def test_a_script_sees_the_message_logs_and_drops(
    dump: Callable[..., SipDump], log: Log, tmp_path: Path, suffix: str
) -> None:
    one = dump(SAME[suffix], suffix)
    one.intercept([record(), record(tag="snd")])
    said = [
        (logging.INFO, "event sipdump:msg"),
        (logging.INFO, "rcv 127.0.0.1 127.0.0.1"),
        (logging.DEBUG, "tag=rcv"),
        (logging.DEBUG, f"len={len(OPTIONS)}"),
        (logging.DEBUG, "af=ipv4"),
        (logging.DEBUG, "proto=udp"),
        (logging.DEBUG, "src_ip=127.0.0.1"),
        (logging.DEBUG, "dst_ip=127.0.0.1"),
        (logging.DEBUG, "src_port=5999"),
        (logging.DEBUG, "dst_port=5070"),
        (logging.WARNING, "OPTIONS"),
        (logging.ERROR, str(len(OPTIONS))),
        (logging.CRITICAL, "<><<null>><none><-7>"),
        (logging.INFO, "5999 0"),
        (logging.ERROR, "an error"),
        (logging.INFO, "still here"),
    ]
    # what the callback returns means nothing, so the second one is stored
    seen = [(r.levelno, r.getMessage()) for r in log.records]
    assert [line for line in seen if "segment" not in line[1]][: len(said)] == said
    assert one.stats().route_errors == 0, seen
    one.close()
    assert stored(tmp_path) == [b"snd"]


DROPS = {".py": python("KSR.set_drop()"), ".lua": lua("KSR.set_drop()")}


@pytest.mark.parametrize("suffix", BOTH)
def test_drop_counts_for_received_and_sent(dump: Callable[..., SipDump], tmp_path: Path, suffix: str) -> None:
    one = dump(DROPS[suffix], suffix)
    one.received(OPTIONS, ("192.0.2.1", 5060), ("192.0.2.2", 5060))
    one.sent(OPTIONS, ("192.0.2.2", 5060), ("192.0.2.1", 5060))
    one.close()
    assert (one.stats().route_dropped, stored(tmp_path)) == (2, [])


SENDS = {
    ".py": python("KSR.info(str(KSR.sipdump.send('mine')))\nKSR.set_drop()"),
    ".lua": lua("KSR.info(KSR.sipdump.send('mine')) KSR.set_drop()"),
}


@pytest.mark.parametrize("suffix", BOTH)
def test_send_stores_the_message_under_a_tag_and_runs_no_route(
    dump: Callable[..., SipDump], log: Log, tmp_path: Path, suffix: str
) -> None:
    one = dump(SENDS[suffix], suffix)
    one.intercept([record()])
    one.close()
    assert stored(tmp_path) == [b"mine"]
    assert log.lines().count("1") == 1
    assert one.stats().route_calls == 1
    assert OPTIONS in next(tmp_path.glob("*.data")).read_bytes()


@pytest.mark.parametrize(
    ("suffix", "text"),
    [(".py", python("KSR.sipdump.send('a\\nb')")), pytest.param(".lua", lua("KSR.sipdump.send('a\\nb')"), marks=LUA)],
)
def test_a_tag_that_cannot_be_is_an_error_of_the_callback(
    dump: Callable[..., SipDump], log: Log, suffix: str, text: str
) -> None:
    one = dump(text, suffix)
    one.intercept([record()])
    assert one.stats().route_errors == 1
    assert "control characters" in logging.Formatter().formatException(errors(log)[0])


def errors(log: Log) -> list[Any]:
    return [r.exc_info for r in log.records if r.exc_info]


@pytest.mark.parametrize(
    ("suffix", "text", "place"),
    [
        (".py", python("KSR.info('a')\nraise ValueError('boom')"), "callback.py"),
        (
            ".py",
            python("KSR.set_drop()\nKSR.nosuch.boom()"),
            "sipdump gives scripts no KSR.nosuch; KSR has: alert,",
        ),
        (".py", python("KSR.x.drop()"), "sipdump gives scripts no KSR.x.drop"),
        (".py", python("msg.boom()"), "no msg.boom"),
        (".py", python("KSR.info(1)"), "must be a str, not int"),
        (".py", python("KSR.info()"), "missing 1 required positional argument"),
        pytest.param(".lua", lua("\nerror('boom')"), "callback.lua:3: boom", marks=LUA),
        pytest.param(".lua", lua("KSR.nosuch.boom()"), "callback.lua:2: attempt to index field 'nosuch'", marks=LUA),
        pytest.param(".lua", lua("local x = nil\nx.boom = 1"), "callback.lua:3: attempt to index local 'x'", marks=LUA),
        pytest.param(".lua", lua("error({})"), "an error that is no string", marks=LUA),
        pytest.param(".lua", lua("error('\\255\\254 boom')"), "boom", marks=LUA),
        pytest.param(".lua", lua("KSR.set_drop()\nerror(setmetatable({}, {}))"), "no string", marks=LUA),
    ],
)
def test_an_exception_is_logged_with_its_traceback_and_counted_and_the_record_is_stored(
    dump: Callable[..., SipDump], log: Log, tmp_path: Path, suffix: str, text: str, place: str
) -> None:
    one = dump(text, suffix)
    one.intercept([record(), record()])
    one.close()
    stats = one.stats()
    assert (stats.route_errors, stats.route_dropped, stored(tmp_path)) == (2, 0, [b"rcv"] * 2)
    assert place in logging.Formatter().formatException(errors(log)[0])


EXITS = {
    ".py": ["import sys; sys.exit(3)", "raise SystemExit", "KSR.x.exit()", "exit(0)", "KSR.set_drop(); KSR.x.exit()"],
    ".lua": ["os.exit(3)", "KSR.x.exit()", "KSR.x.drop()", "KSR.set_drop() os.exit()"],
}


@pytest.mark.parametrize(
    ("suffix", "body"),
    [(".py", b) for b in EXITS[".py"]] + [pytest.param(".lua", b, marks=LUA) for b in EXITS[".lua"]],
)
def test_exit_ends_the_callback_alone(
    dump: Callable[..., SipDump], log: Log, tmp_path: Path, suffix: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtins, "exit", sys.exit, raising=False)  # site's closes stdin, which pytest minds
    one = dump(python(body + "\nKSR.info('after')") if suffix == ".py" else lua(body + "\nKSR.info('after')"), suffix)
    one.intercept([record()])
    one.close()
    assert "after" not in log.lines()
    assert one.stats().route_errors == 0
    assert stored(tmp_path) == ([] if "drop" in body else [b"rcv"])


@LUA
def test_exit_is_an_error_that_lua_can_catch_as_in_kamailio(dump: Callable[..., SipDump], log: Log) -> None:
    dump(lua("KSR.info(tostring(select(2, pcall(KSR.x.exit)))) KSR.info('after')"), ".lua").intercept([record()])
    assert [line for line in log.lines() if "segment" not in line] == ["~~ksr~exit~~", "after"]


PASSES_ON = {
    ".py": python(
        "buf = KSR.sipdump.get_buf()\nbuf.encode()\nprint(buf)\n"
        "KSR.info(buf)\nKSR.info('found' if 'end' in buf and 'caf\\u00e9' in buf else 'lost')\n"
        "KSR.info(str(KSR.pv.get('$sipdump(len)')))\nKSR.pv.get('$sipdump(buf)').encode()"
    ),
    ".lua": lua(
        "local buf = KSR.sipdump.get_buf() KSR.info(buf)\nKSR.info(buf:find('end', 1, true) and 'found' or 'lost')\n"
        "KSR.info(#buf) assert(buf:byte(-6) == 254 and buf == KSR.pv.get('$sipdump(buf)'))"
    ),
}


@pytest.mark.parametrize("suffix", BOTH)
def test_bytes_that_are_no_utf8_break_no_callback(dump: Callable[..., SipDump], log: Log, suffix: str) -> None:
    one = dump(PASSES_ON[suffix], suffix)
    one.intercept([record(NO_UTF8)])
    assert one.stats().route_errors == 0, [logging.Formatter().formatException(e) for e in errors(log)]
    lines = [line for line in log.lines() if "segment" not in line]
    assert lines[1:] == ["found", str(len(NO_UTF8))]
    assert lines[0].endswith("caf\u00e9 \\xff\\xfe\x00 end")
    lines[0].encode()


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".py", python("KSR.info(str(KSR.pv.get('$sipdump(call_id)')))")),
        pytest.param(".lua", lua("KSR.info(tostring(KSR.pv.get('$sipdump(call_id)')))"), marks=LUA),
    ],
)
def test_call_id_is_null_unless_parsed(dump: Callable[..., SipDump], log: Log, suffix: str, text: str) -> None:
    dump(text, suffix).intercept([record()])
    dump(text, suffix, parse_call_id=1).intercept([record()])
    assert [line for line in log.lines() if "segment" not in line] == [
        "None" if suffix == ".py" else "nil",
        "c1@192.0.2.1",
    ]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".py", python("KSR.info(str(KSR.pv.get('$nosuch')) + str(KSR.pv.is_null('hello')))")),
        pytest.param(
            ".lua", lua("KSR.info(tostring(KSR.pv.get('$nosuch')) .. tostring(KSR.pv.is_null('hello')))"), marks=LUA
        ),
    ],
)
def test_a_variable_that_is_not_known_is_null_and_logged_once(
    dump: Callable[..., SipDump], log: Log, suffix: str, text: str
) -> None:
    one = dump(text, suffix)
    one.intercept([record()] * 3)
    assert one.stats().route_errors == 0
    assert log.lines().count("NoneTrue" if suffix == ".py" else "niltrue") == 3
    told = [r for r in log.records if r.levelno == logging.ERROR]
    assert len(told) == 2
    assert "$nosuch" in told[0].getMessage()


OBJECT = """
import KSR

class kamailio:
    def __init__(self):
        self.count = 0
    def child_init(self, rank):
        KSR.info("child_init %d" % rank)
        return 0
    def ksr_sipdump_event(self, msg, evname):
        import KSR as Again
        import KSR.pv as pv
        from KSR import sipdump
        self.count += 1
        Again.info("%d %s %s" % (self.count, pv.get("$sipdump(tag)"), sipdump.get_tag()))
        return 1

def mod_init():
    KSR.info("mod_init %r %r" % (KSR.sipdump.get_buf(), KSR.pv.get("$sipdump(tag)")))
    return kamailio()
"""


def test_the_callback_may_be_a_method_of_what_mod_init_returns(dump: Callable[..., SipDump], log: Log) -> None:
    dump(OBJECT).intercept([record(), record()])
    lines = [line for line in log.lines() if "segment" not in line]
    assert lines == ["mod_init '' None", "child_init 1", "1 rcv rcv", "2 rcv rcv"]


def test_a_script_imports_what_stands_beside_it(dump: Callable[..., SipDump], log: Log, tmp_path: Path) -> None:
    (tmp_path / "kemi_helper_of_a_test.py").write_text("import KSR\ndef say(): KSR.info('helped')\n")
    dump("import kemi_helper_of_a_test as h\n" + python("h.say()")).intercept([record()])
    assert "helped" in log.lines()


def test_wrong_scripts_say_where(tmp_path: Path) -> None:
    def refused(text: str | None, name: str = "callback.py", **more: Any) -> str:
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError) as caught:
            make_plan(settings(tmp_path, name, **more))
        return str(caught.value).replace(str(tmp_path), "DIR")

    at = 'DIR/sipdumpd.cfg:2:1: modparam("sipdump_kemi", "load", "callback.py"): '
    assert refused(None) == at + "no such file: DIR/callback.py"
    assert refused("def f(:\n").startswith(at + "cannot load it: DIR/callback.py:1: SyntaxError: ")
    assert refused("x = 1\nimport nosuch_module\n") == (
        at + "cannot load it: DIR/callback.py:2: ModuleNotFoundError: No module named 'nosuch_module'"
    )
    assert refused("\nimport sys\nsys.exit(1)\n") == at + "cannot load it: DIR/callback.py:3: SystemExit: 1"
    assert "DIR/callback.py:2: SystemExit" in refused("def mod_init():\n    exit()\n")
    assert refused("def other(msg, evname): pass\n") == (
        'DIR/sipdumpd.cfg:9:1: modparam("sipdump", "event_callback", "ksr_sipdump_event"): '
        "no such function in callback.py"
    )
    assert "is called with (msg, evname)" in refused("def ksr_sipdump_event(msg): pass\n")
    assert "is called with (msg, evname)" in refused("ksr_sipdump_event = 3\n")
    assert "child_init(1) returned -1" in refused(OBJECT.replace("return 0", "return -1"))
    assert "ZeroDivisionError" in refused(OBJECT.replace("return 0", "1 / 0"))
    with pytest.raises(ConfigError, match='must be "module:function"'):
        make_plan(settings(tmp_path))
    assert "whose name ends in" in refused("", "callback.js")


@LUA
def test_wrong_lua_scripts_say_where(tmp_path: Path) -> None:
    def refused(text: str) -> str:
        (tmp_path / "callback.lua").write_text(text)
        with pytest.raises(ConfigError) as caught:
            make_plan(settings(tmp_path, "callback.lua"))
        return str(caught.value).replace(str(tmp_path), "DIR")

    at = 'DIR/sipdumpd.cfg:2:1: modparam("sipdump_kemi", "load", "callback.lua"): cannot load it: '
    for text, wrong in (
        ("x = = 1\n", ":1: unexpected symbol near '='"),
        ("\nlocal x = nil\nx.y = 1\n", ":3: attempt to index local 'x' (a nil value)"),
    ):
        message = refused(text)  # Lua cuts a long path at its front
        assert message.startswith(at)
        assert message.endswith("/callback.lua" + wrong)
    assert refused("os.exit(1)\n").endswith("cannot load it: it calls exit")
    assert refused("ksr_sipdump_event = 3\n").endswith("no such function in callback.lua")


def test_without_lupa_a_lua_script_is_an_error_that_tells_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lupa.lua51", None)
    (tmp_path / "callback.lua").write_text(lua(""))
    with pytest.raises(ConfigError, match=r'cfg:2:1: .*Lua scripts need lupa: pip install "sipdump\[lua\]"'):
        make_plan(settings(tmp_path, "callback.lua"))


@LUA
def test_several_scripts_and_the_last_that_has_the_function(tmp_path: Path, log: Log) -> None:
    (tmp_path / "a.lua").write_text("function helper() KSR.info('from a') end")
    (tmp_path / "b.lua").write_text(lua("helper() KSR.info('from b')"))
    (tmp_path / "c.py").write_text(python("KSR.info('from c')"))
    (tmp_path / "d.py").write_text("import KSR\nKSR.info('d is loaded')\n")
    with SipDump(settings(tmp_path, "a.lua", "b.lua")) as one:
        one.intercept([record()])
    with SipDump(settings(tmp_path, "a.lua", "b.lua", "c.py", "d.py")) as one:
        one.intercept([record()])
    lines = [line for line in log.lines() if "segment" not in line]
    assert lines == ["from a", "from b", "d is loaded", "from c"]


@LUA
def test_what_lua_scripts_find(dump: Callable[..., SipDump], log: Log) -> None:
    body = """
        assert(_VERSION == "Lua 5.1" and type(KSR.info) == "function" and type(KSR.sipdump.get_buf) == "function")
        assert(python == nil and KSR.nosuch == nil and not package.loaded.python)
        assert(KSR.info() == false and KSR.info(nil) == false and KSR.info({}) == false and KSR.info(1.5) == false)
        assert(KSR.pv.get() == false and KSR.log("info") == false and KSR.set_drop() == false)
        assert(KSR.pv.getvn("$null", "x") == 0 and KSR.pv.getvn("$null", 2.9) == 2)
        assert(unpack and setfenv and loadstring)
    """
    one = dump(lua(body), ".lua")
    one.intercept([record()])
    assert errors(log) == []
    lines = [line for line in log.lines() if "segment" not in line]
    assert lines[:4] == [
        "not enough parameters for: info", "1.5", "not enough parameters for: pv.get", "not enough parameters for: log"
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", BOTH)
def test_threads_see_their_own_records_one_call_at_a_time(
    dump: Callable[..., SipDump], tmp_path: Path, suffix: str
) -> None:
    text = {
        ".py": "count = 0\n"
        + python(
            "global count\ncount += 1\nbefore = count\n"
            "for i in range(50): assert KSR.sipdump.get_tag() == KSR.sipdump.get_buf()\n"
            "assert before == count\nif KSR.sipdump.get_tag() == '1': KSR.set_drop()"
        ),
        ".lua": "count = 0\n"
        + lua(
            "count = count + 1 local before = count\n"
            "for i = 1, 50 do assert(KSR.sipdump.get_tag() == KSR.sipdump.get_buf()) end\n"
            "assert(before == count) if KSR.sipdump.get_tag() == '1' then KSR.set_drop() end"
        ),
    }[suffix]
    one = dump(text, suffix)

    def bring(number: int) -> None:
        for _ in range(50):
            one.intercept([record(str(number).encode(), tag=str(number))])

    threads = [threading.Thread(target=bring, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = one.stats()
    assert (stats.route_calls, stats.route_errors, stats.route_dropped) == (200, 0, 50)
    one.close()
    assert sorted(stored(tmp_path)) == sorted([b"0", b"2", b"3"] * 50)


def test_a_callback_may_bring_a_record_itself(
    dump: Callable[..., SipDump], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "import bridge_of_a_test\ntag = KSR.sipdump.get_tag()\nif tag == 'rcv': bridge_of_a_test.bring()\n"
        "KSR.info(tag + KSR.sipdump.get_tag())\nif tag == 'in': KSR.set_drop()"
    )
    one = dump(python(text))
    bridge: Any = ModuleType("bridge_of_a_test")
    bridge.bring = lambda: one.intercept([record(tag="in")])
    monkeypatch.setitem(sys.modules, "bridge_of_a_test", bridge)
    one.intercept([record()])
    assert [line for line in log.lines() if "segment" not in line] == ["inin", "rcvrcv"]
    assert one.stats().route_dropped == 1


def test_slow_callbacks_are_seen_in_stats(dump: Callable[..., SipDump], log: Log) -> None:
    one = dump("import time\n" + python("if KSR.sipdump.get_tag() == 'slow': time.sleep(0.02)"))
    one.intercept([record(), record(tag="slow"), record()])
    stats = one.stats()
    assert (stats.route_calls, stats.route_slow) == (3, 1)
    assert 20_000 <= stats.route_max_us <= stats.route_total_us < 10_000_000
    assert sum("event route is slow" in line for line in log.lines()) == 1


def test_a_slow_callback_is_seen_while_its_batch_runs(dump: Callable[..., SipDump]) -> None:
    one = dump(python("pass"))
    seen: list[int] = []

    def callback(_: Record) -> None:
        seen.append(one.stats().route_calls)
        time.sleep(0)

    one.event_route(callback)
    one.intercept([record(), record()])
    assert seen == [0, 1]


def test_the_loads_of_kamailios_own_modules_count_where_ours_is_not_given(tmp_path: Path, log: Log) -> None:
    (tmp_path / "routes.py").write_text(python("KSR.info('of kamailio.cfg')"))
    (tmp_path / "ours.py").write_text(python("KSR.info('ours')"))
    theirs = Setting("app_python3", "load", str(tmp_path / "routes.py"), "kamailio.cfg:7:1")
    for given in (settings(tmp_path), settings(tmp_path, "ours.py")):
        with SipDump([theirs, *given]) as one:
            one.intercept([record()])
    assert [line for line in log.lines() if "segment" not in line] == ["of kamailio.cfg", "ours"]


def test_the_older_forms_of_event_callback_stay(tmp_path: Path) -> None:
    (tmp_path / "cb.py").write_text("def drop_all(record): return False\n")
    (tmp_path / "callback.py").write_text(python("pass"))
    given = settings(tmp_path, "callback.py", function="cb.py:drop_all")
    with SipDump(given) as one:
        one.intercept([record()])
        assert one.stats().route_dropped == 1


def test_no_script_is_run_without_the_event_route(tmp_path: Path) -> None:
    (tmp_path / "callback.py").write_text("raise RuntimeError")
    assert make_plan(settings(tmp_path, "callback.py", mode=1)).route is None
    assert make_plan(settings(tmp_path, "callback.py"), to_start=False).route is None
    with pytest.raises(ConfigError, match="RuntimeError"):
        make_plan(settings(tmp_path, "callback.py"))


def test_options() -> None:
    loads = [Setting("sipdump_kemi", "load", name) for name in ("a.py", "b.lua")]
    assert build(KemiOptions, loads).load == ("a.py", "b.lua")


def test_lupa_is_loaded_for_lua_scripts_alone(tmp_path: Path) -> None:
    (tmp_path / "callback.py").write_text(python("pass"))
    code = (
        "import sys\nfrom sipdump_core.settings.options import Setting\nfrom sipdump_core.plan import make_plan\n"
        "import sipdump_core.routes.kemi, sipdump_core.routes.kemi_lua\n"
        f"make_plan([Setting('sipdump', 'mode', 2), Setting('sipdump', 'event_callback', 'ksr_sipdump_event'), "
        f"Setting('sipdump_kemi', 'load', {str(tmp_path / 'callback.py')!r})])\n"
        "assert not [name for name in sys.modules if name.startswith('lupa')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
