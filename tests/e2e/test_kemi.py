"""The same callback file, run by a real Kamailio and by sipdumpd: the same lines, the same drops."""

import json
import re
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.peers import Daemon, Kamailio, Stage, free_port, has_ipv6, need, until

pytestmark = pytest.mark.peer

ENGINES = {".py": "python", ".lua": "lua"}
MODULES = {".py": "app_python3", ".lua": "app_lua"}
LUPA = pytest.mark.skipif(find_spec("lupa") is None, reason="lupa is not installed")
BOTH = [".py", pytest.param(".lua", marks=LUPA)]

PYTHON = """
import sys
import KSR as KSR

class kamailio:
    def __init__(self):
        self.count = 0

    def child_init(self, rank):
        return 0

    def ksr_request_route(self, msg):
        KSR.sl.send_reply(200, "OK")
        return 1

    def ksr_sipdump_event(self, msg, evname):
        self.count += 1
        text = bytes.fromhex(KSR.pv.get("$(sipdump(buf){s.encode.hexa})"))
        KSR.info("%s %s %s\\n" % (evname, KSR.sipdump.get_tag(), type(KSR.sipdump.get_tag()).__name__))
        KSR.notice("%s > %s\\n" % (KSR.sipdump.get_src_ip(), KSR.sipdump.get_dst_ip()))
        for key in ("tag", "len", "af", "proto", "src_ip", "dst_ip", "src_port", "dst_port"):
            name = "$sipdump(%s)" % key
            KSR.warn("%s %r %r %r %r %r %r %r\\n" % (
                name, KSR.pv.get(name), KSR.pv.gete(name), KSR.pv.getw(name), KSR.pv.getvn(name, -7),
                KSR.pv.getvs(name, "none"), KSR.pv.geti(name), KSR.pv.is_null(name)))
        KSR.err("%r %r %r %r %r %r %r\\n" % (
            KSR.pv.get("$null"), KSR.pv.gete("$null"), KSR.pv.getw("$null"), KSR.pv.getvn("$null", -7),
            KSR.pv.getvs("$null", "none"), KSR.pv.geti("$null"), KSR.pv.is_null("$null")))
        KSR.crit("%r\\n" % KSR.pv.get("$(sipdump(buf){s.len})"))
        for level in ("info", "notice", "warn", "err", "crit", "WARN", "nosuch"):
            KSR.log(level, "level " + level + "\\n")
        if b"drop-me" in text:
            KSR.info("dropping, %r\\n" % KSR.set_drop())
        if b"exit-me" in text:
            sys.exit(1)
        if b"raise-me" in text:
            raise ValueError("boom")
        if b"nosuch-me" in text:
            KSR.nosuch.function()
        if b"binary" not in text:
            KSR.info("%r\\n" % KSR.sipdump.get_buf()[:14])
            KSR.info("%r\\n" % (KSR.pv.get("$sipdump(buf)") == KSR.sipdump.get_buf()))
        return -1 if b"minus" in text else 1

def mod_init():
    return kamailio()
"""

LUA = """
function ksr_request_route()
    KSR.sl.send_reply(200, "OK")
    return 1
end

local function q(value)
    return type(value) .. ":" .. tostring(value)
end

function ksr_sipdump_event(evname)
    local text = KSR.sipdump.get_buf()
    KSR.info(evname .. " " .. q(KSR.sipdump.get_tag()) .. "\\n")
    KSR.notice(KSR.sipdump.get_src_ip() .. " > " .. KSR.sipdump.get_dst_ip() .. "\\n")
    for _, key in ipairs{"tag", "len", "af", "proto", "src_ip", "dst_ip", "src_port", "dst_port"} do
        local name = "$sipdump(" .. key .. ")"
        KSR.warn(name .. " " .. q(KSR.pv.get(name)) .. " " .. q(KSR.pv.gete(name)) .. " " .. q(KSR.pv.getw(name)) ..
            " " .. q(KSR.pv.getvn(name, -7)) .. " " .. q(KSR.pv.getvs(name, "none")) .. " " .. q(KSR.pv.geti(name)) ..
            " " .. q(KSR.pv.is_null(name)) .. "\\n")
    end
    KSR.err(q(KSR.pv.get("$null")) .. " " .. q(KSR.pv.gete("$null")) .. " " .. q(KSR.pv.getw("$null")) .. " " ..
        q(KSR.pv.getvn("$null", -7)) .. " " .. q(KSR.pv.getvs("$null", 5)) .. " " .. q(KSR.pv.geti("$null")) .. " " ..
        q(KSR.pv.is_null("$null")) .. " " .. q(KSR.pv.getvn("$null", "x")) .. " " .. q(KSR.pv.getvn("$null", -2.9)) ..
        "\\n")
    KSR.crit(q(KSR.pv.get("$(sipdump(buf){s.len})")) .. " " .. #text .. "\\n")
    for _, level in ipairs{"info", "notice", "warn", "err", "crit", "WARN", "nosuch"} do
        KSR.log(level, "level " .. level .. "\\n")
    end
    KSR.info(q(KSR.info("a line\\n")) .. q(KSR.info(nil)) .. q(KSR.info({})) .. q(KSR.log("info", "b\\n")) .. "\\n")
    KSR.info(q(KSR.nosuch) .. type(KSR.info) .. type(KSR.pv) .. q(unpack == nil) .. "\\n")
    local ok, problem = pcall(function() KSR.nosuch.function_of() end)
    KSR.info(q(ok) .. q(problem):gsub("^.*: ", "") .. "\\n")
    ok, problem = pcall(KSR.x.exit)
    KSR.info(q(ok) .. q(problem) .. "\\n")
    if text:find("drop-me", 1, true) then KSR.info("dropping, " .. q(KSR.set_drop()) .. "\\n") end
    if text:find("xdrop-it", 1, true) then KSR.x.drop() end
    if text:find("exit-me", 1, true) then KSR.x.exit() end
    if text:find("raise-me", 1, true) then error("boom") end
    if text:find("nosuch-me", 1, true) then KSR.nosuch.function_of() end
    KSR.info(q(text:sub(1, 14)) .. q(KSR.pv.get("$sipdump(buf)") == text) .. q(text:byte(-1)) .. "\\n")
    if text:find("minus", 1, true) then return -1 end
    return false
end
"""

SCRIPTS = {".py": PYTHON, ".lua": LUA}
BODIES = [
    b"", b"plain", b"drop-me", b"exit-me", b"drop-me and exit-me", b"raise-me", b"nosuch-me", b"minus", b"xdrop-it",
    "caf\u00e9".encode(), b"binary \xff\xfe\x00 end", b"binary drop-me \xff", b"x" * 5000, b"the last",
]  # fmt: skip

_THEIRS = re.compile(r"^.*?\d+\(\d+\) (\w+): .*? sr_kemi_core_\w+\(\): (.*)$", re.MULTILINE)
_NAMES = {"NOTICE": "INFO"}


def kamailio_lines(server: Kamailio) -> list[tuple[str, str]]:
    """Return what the callback has logged: levels and lines."""
    return [(_NAMES.get(level, level), line) for level, line in _THEIRS.findall(server.output())]


def our_lines(daemon: Daemon) -> list[tuple[str, str]]:
    """Return the same of ours: the lines of the log that are not the daemon's own."""
    found = []
    for line in daemon.output().split("\n")[:-1]:  # the last one may be half written
        seen = json.loads(line)
        if seen.keys() == {"time", "level", "event"}:
            found.append((seen["level"].upper(), seen["event"].rstrip("\n")))
    return found


def play(port: int, seen: Callable[[], int]) -> int:
    """Send each body in a MESSAGE over UDP, one over TCP and one over IPv6.

    Args:
        port: Kamailio's.
        seen: how many messages and answers both have seen. Several processes of Kamailio log and trace, so the next
            message waits until these have done with the last one; else their order would be anybody's guess.

    Returns:
        How many messages and answers there were.
    """
    count = 0
    for number, body in enumerate([*BODIES, b"over TCP", *([b"over IPv6"] if has_ipv6() else [])]):
        proto = "TCP" if body == b"over TCP" else "UDP"
        family = socket.AF_INET6 if body == b"over IPv6" else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM if proto == "TCP" else socket.SOCK_DGRAM) as sock:
            sock.settimeout(60)
            sock.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
            host, own_port = sock.getsockname()[:2]
            sock.sendall(message(number, body, proto, f"[{host}]:{own_port}" if ":" in host else f"{host}:{own_port}"))
            assert sock.recv(65535).startswith(b"SIP/2.0 200")
        count += 2
        until(lambda count=count: seen() == count, f"message {number} and its answer are seen by both")  # type: ignore[misc]
    return count


def message(number: int, body: bytes, proto: str, via: str) -> bytes:
    head = (
        f"MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/{proto} {via};branch=z9hG4bK{number}\r\n"
        f"From: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>\r\nCall-ID: {number}@example.com\r\n"
        f"CSeq: {number} MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def same(theirs: Sequence[object], ours: Sequence[object], what: str) -> None:
    """Check that both are the same; print both when they differ."""
    if list(theirs) != list(ours):
        shown = [f"{what} differ", "Kamailio:", *map(str, theirs), "sipdumpd:", *map(str, ours)]
        at = next(
            (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
        )
        raise AssertionError(
            "\n".join([*shown, f"first difference at {at}: {theirs[at : at + 1]} {ours[at : at + 1]}"])
        )


def start(stage: Stage, suffix: str, text: str) -> tuple[Kamailio, Daemon]:
    """Start both with one callback file; Kamailio sends ours each message over HEP."""
    script: Path = stage.folder / f"callback{suffix}"
    script.write_text(text)
    hep = free_port()
    daemon = stage.sipdumpd(
        "--modparam=sipdump:fage:i:86400",  # or a warning stands among the script's lines
        f"--modparam=sipdump_kemi:load:s:{script}",
        "--modparam=sipdump:event_callback:s:ksr_sipdump_event",
        "--log-format=json",
        mode=3,
        listen=[f"udp:127.0.0.1:{hep}"],
    )
    engine, module = ENGINES[suffix], MODULES[suffix]
    more = [
        'modparam("sipdump", "mode", 3)',
        'modparam("sipdump", "event_callback", "ksr_sipdump_event")',
        f'loadmodule "{module}.so"',
        f'modparam("{module}", "load", "{script}")',
        f'cfgengine "{engine}"',
    ]
    server = stage.kamailio(sipdump=True, hep=f"sip:127.0.0.1:{hep}", more="\n".join(more))
    return server, daemon


@pytest.mark.parametrize("suffix", BOTH)
def test_the_same_callback_logs_and_drops_the_same(stage: Stage, suffix: str) -> None:
    need("kamailio")
    server, daemon = start(stage, suffix, SCRIPTS[suffix])
    last = ("ERROR", "level nosuch")
    play(server.port, lambda: min(lines.count(last) for lines in (kamailio_lines(server), our_lines(daemon))))
    server.stop()
    assert daemon.stop() == 0
    same(kamailio_lines(server), our_lines(daemon), "the lines of the callback")
    # "snd" is Kamailio's weak point: its drop counts for received messages alone, so the script drops none of those
    theirs, ours = ([r.what() for r in peer.records()] for peer in (server, daemon))
    same([r[:5] for r in theirs], [r[:5] for r in ours], "the stored records")
    # Kamailio's .data files cut a message at a NUL, and both may be compared only up to there
    same([r[5].split(b"\0")[0] for r in theirs], [r[5].split(b"\0")[0] for r in ours], "the stored messages")
    received = [r[5].partition(b"\r\n\r\n")[2] for r in ours if r[0] == "rcv"]
    dropped = [b for b in BODIES if b"drop-me" in b or (suffix == ".lua" and b"xdrop" in b)]
    assert [b for b in BODIES if b not in received] == dropped
    for output in (server.output(), daemon.output()):
        assert "boom" in output


@pytest.mark.parametrize("suffix", BOTH)
def test_drop_counts_for_sent_messages_too_as_documented(stage: Stage, suffix: str) -> None:
    need("kamailio")
    text = SCRIPTS[suffix].split("def ksr_sipdump_event" if suffix == ".py" else "local function q")[0]
    if suffix == ".py":
        text += "def ksr_sipdump_event(self, msg, evname):\n        KSR.set_drop()\n        KSR.info('seen\\n')\n"
        text += "        return 1\n\ndef mod_init():\n    return kamailio()\n"
    else:
        text += "function ksr_sipdump_event(evname)\n    KSR.set_drop()\n    KSR.info('seen\\n')\nend\n"
    server, daemon = start(stage, suffix, text)
    count = play(server.port, lambda: min(len(our_lines(daemon)), len(kamailio_lines(server))))
    server.until(lambda: len(server.records()) == count // 2, "Kamailio stores the sent ones")
    assert {r.tag for r in server.records()} == {"snd"}
    assert daemon.stop() == 0
    assert daemon.records() == []
