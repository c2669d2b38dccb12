"""The event route in Kamailio's script language: the same text run by a real Kamailio and by sipdump.

Kamailio's own sipdump writes down what its route saw, and the same records go through ours.
"""

import logging
import re
import socket
import time
from pathlib import Path

import pytest

from sipdump_core.config.reader import parse_config
from sipdump_core.log import log
from sipdump_core.record import Record
from sipdump_core.routes.script import compile_route
from tests.e2e.peers import Kamailio, Seen, Stage, hep3, need, request, until

FORMATS = [
    "plain text, 100% of it",
    "$sipdump(tag) $sipdump(len) $sipdump(af) $sipdump(proto)",
    "$sipdump(src_ip):$sipdump(src_port) -> $sipdump(dst_ip):$sipdump(dst_port)",
    "$(sipdump(buf))",
    "$(sipdump(buf){s.len})",
    "$sipdump(tag){s.len} $(sipdump(tag){s.len})",
    "$$ $$$$ $sipdump(tag)$sipdump(tag)",
    "$null $(null) $(null{s.len})",
    "$(sipdump(tag){s.int})|$(sipdump(src_port){s.int})",
    "$(sipdump(buf){s.substr,0,7})|$(sipdump(buf){s.substr,3,0})",
    "$(sipdump(buf){s.substr,-5,2})|$(sipdump(buf){s.substr,-5,0})|$(sipdump(buf){s.substr,99999,1})",
    "$(sipdump(buf){s.substr,-99999,1})|$(sipdump(tag){s.substr,1,99})|$(sipdump(tag){s.substr,3,1})",
    "$(sipdump(buf){s.select,0, })|$(sipdump(buf){s.select,-1, })|$(sipdump(buf){s.select,99, })",
    "$(sipdump(src_ip){s.select,1,.})|$(sipdump(src_ip){s.select,-1,.})|$(sipdump(src_ip){s.select,-5,.})",
    "$(sipdump(buf){s.select,1,,})",
    "$(sipdump(buf){s.strip,3})|$(sipdump(tag){s.strip,9})|$(sipdump(tag){s.strip,0})",
    "$(sipdump(buf){s.striptail,3})|$(sipdump(tag){s.striptail,3})",
    "$(sipdump(buf){s.stripto,:})|$(sipdump(tag){s.stripto,x})",
    "$(sipdump(buf){s.before,:})|$(sipdump(tag){s.before,x})|$(sipdump(tag){s.before,r})",
    "$(sipdump(buf){s.after,:})|$(sipdump(tag){s.after,x})|$(sipdump(tag){s.after,v})",
    "$(sipdump(buf){s.trim})|$(sipdump(buf){s.ltrim})|$(sipdump(buf){s.rtrim})|",
    "$(sipdump(buf){s.rm,SIP})|$(sipdump(buf){s.rmws})",
    "$(sipdump(buf){s.replace,sip,telephone})|$(sipdump(buf){s.replace,:,})",
    "$(sipdump(buf){s.tolower})|$(sipdump(buf){s.toupper})|$(sipdump(len){s.toupper})",
    "$(sipdump(buf){s.numeric})|$(sipdump(buf){s.count,:})|$(sipdump(buf){s.count,,})",
    "$(sipdump(tag){s.prefixes})|$(sipdump(tag){s.prefixes,2})|$(sipdump(tag){s.prefixes.quoted})",
    "$(sipdump(buf){s.md5})|$(sipdump(buf){s.sha256})|$(sipdump(tag){s.sha384})|$(sipdump(tag){s.sha512})",
    "$(sipdump(buf){s.encode.hexa})|$(sipdump(buf){s.encode.hexa}{s.decode.hexa})",
    "$(sipdump(buf){s.encode.base64})|$(sipdump(buf){s.encode.base64}{s.decode.base64})",
    "$(sipdump(buf){s.encode.base64t})|$(sipdump(buf){s.encode.base64t}{s.decode.base64t})",
    "$(sipdump(tag){s.encode.base64url})|$(sipdump(tag){s.encode.base64url}{s.decode.base64url})",
    "$(sipdump(buf){s.escape.common})|$(sipdump(buf){s.escape.common}{s.unescape.common})",
    "$(sipdump(buf){line.at,0}{s.escape.user})|$(sipdump(buf){s.escape.user})",
    "$(sipdump(buf){line.at,0}{s.escape.user}{s.unescape.user})|$(sipdump(src_ip){s.unescape.user})",
    "$(sipdump(buf){line.at,0}{s.escape.param})|$(sipdump(buf){s.escape.csv})",
    "$(sipdump(buf){s.urlencode.param})|$(sipdump(buf){s.urlencode.param}{s.urldecode.param})",
    "$(sipdump(buf){s.unquote})|$(sipdump(buf){s.unbracket})",
    "$(sipdump(buf){line.at,0})|$(sipdump(buf){line.at,1})|$(sipdump(buf){line.at,-1})|$(sipdump(buf){line.at,99})",
    "$(sipdump(buf){line.sw,Call-ID:})|$(sipdump(buf){line.sw,X:})|$(sipdump(buf){line.count})",
    "$(sipdump(buf){line.sw,CSeq:}{s.select,1, }{s.int})",
    "$(sipdump(buf){s.select,2,|}{s.int}) $(sipdump(buf){s.select,3,|}{s.int}) $(sipdump(buf){s.select,4,|}{s.int})",
    "$(sipdump(buf){s.select,5,|}{s.int}) $(sipdump(buf){s.select,6,|}{s.int}) $(sipdump(buf){s.select,8,|}{s.int})",
    "$(sipdump(buf){s.select,8,|}{s.int}{s.len}) $(sipdump(buf){s.select,9,|}{s.int})",
    "$(sipdump(buf){s.substr,0,$(sipdump(tag){s.len})})|$(sipdump(buf){s.rm,$sipdump(tag)})",
    "$(sipdump(len){s.len})|$(sipdump(len){s.substr,0,1})|$(sipdump(len){s.select,0,.})",
    "$pp $(Ts{s.len}) $(TV(sn){s.len})",
    "$(sipdump(src_port){s.ftime,%Y-%m-%d})|$(sipdump(tag){s.ftime,%Y})",
]
CONDITIONS = [
    '$sipdump(tag) == "rcv"',
    '"rcv" == $sipdump(tag)',
    '$sipdump(tag) != "rcv"',
    '$sipdump(tag) == "RCV"',
    '$sipdump(tag) eq "rcv"',
    '$sipdump(tag) ne "rcv"',
    "$sipdump(tag)",
    "!$sipdump(tag)",
    "$sipdump(len)",
    "$sipdump(len) > 100",
    "$sipdump(len) >= 1 && $sipdump(len) <= 60",
    '$sipdump(len) == "40"',
    "$(sipdump(buf){s.len}) == $sipdump(len)",
    '$sipdump(dst_ip) == "127.0.0.1"',
    "$sipdump(dst_ip) == 127",
    "$sipdump(dst_ip) > 0",
    "$sipdump(src_port) > $sipdump(dst_port)",
    *(f"{left} == $(sipdump(buf){{s.select,{at},|}})" for at in range(1, 11) for left in (5, 16, 12, -3, 0, -1, 7)),
    *(f"$(sipdump(buf){{s.select,{at},|}}) {what}" for at in range(1, 11) for what in ("== 5", "< 6", "ieq 5", "")),
    *(f"$(sipdump(buf){{s.select,{at},|}}{{s.int}}) == 5" for at in range(1, 11)),
    "-1",
    "-1 && 1",
    "-1 || 0",
    "-1 && $sipdump(len)",
    "$(sipdump(buf){s.select,4,|}) && 1",
    "$(sipdump(buf){s.select,4,|}) && 2",
    "$(sipdump(buf){s.select,4,|}) && $sipdump(len)",
    "1 && $(sipdump(buf){s.select,4,|})",
    "$(sipdump(buf){s.select,4,|}) || 0",
    "$(sipdump(buf){s.select,4,|}) || $(sipdump(buf){s.select,0,|})",
    "!$(sipdump(buf){s.select,4,|})",
    '$null == ""',
    "$null == 0",
    "$null == 5",
    '$null == "rcv"',
    "$null == $sipdump(tag)",
    "$sipdump(tag) == $null",
    "$sipdump(tag) != $null",
    "$(null{s.len}) == 0",
    "$(sipdump(tag){s.int}) == 0",
    "$(sipdump(tag){s.int}) == $null",
    "$null > -1",
    '$sipdump(len) == ""',
    '$sipdump(len) != ""',
    '"" == $(sipdump(tag){s.strip,9})',
    '$sipdump(buf) =~ "^OPTIONS"',
    '$sipdump(buf) =~ "^options sip:.*\r\nvia:"',
    '$sipdump(buf) =~ "bob|carol"',
    '$sipdump(buf) =~ "^$"',
    '$sipdump(buf) =~ "Call-ID: *[0-9]+@example\\.com"',
    '$sipdump(buf) =~ "(^|\n)User-Agent:[^\r\n]*friendly"',
    '$sipdump(buf) =~ "^[^ ]{3,8} sip:"',
    '$sipdump(buf) =~ "[[:digit:]]{2}$"',
    '$sipdump(buf) =~ ".*.*=.*z"',
    "$sipdump(buf) =~ '\\.example|\\bSIP/2'",
    '$sipdump(len) =~ "^[0-9]+$"',
    '$null =~ "^$"',
    '"text" =~ "X"',
    "1 || 1 && 0",
    "0 && 1 || 1",
    "1 < 2 == 1",
    "2 > 1 == 2",
    "!0 == 1",
    "!$sipdump(tag) == 1",
    "not ($sipdump(len) < 5) and not 0 or 0",
    "0x1F == 31 && 017 == 15 && 101b == 5 && yes && !off",
    "-5 < 3",
    '"5" == 5',
    "strlen($sipdump(tag)) == 3",
    "strempty($null)",
    "defined $null",
    "defined $sipdump(tag) == 1",
]
PROGRAM = r"""
    if ($sipdump(len) < 40) xinfo("@A short@"); else if ($sipdump(len) < 100) { xinfo("@A middle@"); } else {
        if ($sipdump(buf) =~ "^OPTIONS")
            if ($sipdump(tag) == "snd") xinfo("@A out@"); else xinfo("@A in@"); # of the inner one
        /* nothing */ ;
    }
    xlog("@B is an error@"); xlogl("@C has its line@"); xlogl("L_WARN", "@D too@"); xdbgl("@E@");
    xlog('L_ALERT', '@F \n $sipdump(tag)@'); xlog("L_INFO", "@G \"q\" \\ \x41 \101 \q@" "@G2@");
    xalert("@H@"); xbug("@I@"); xcrit("@J@"); xerr("@K@"); xwarn("@L@"); xnotice("@M@"); xdbg("@N@");
    if ($sipdump(buf) =~ "^return") { xinfo("@O@"); return; }
    if ($sipdump(buf) =~ "^exit") { xinfo("@P@"); exit; xinfo("@not reached@"); }
    if ($sipdump(buf) =~ "^drop") { xinfo("@Q@"); drop(); xinfo("@not reached@"); }
    xinfo("@R@");
"""
MESSAGES = [
    request("OPTIONS", 1),
    request("MESSAGE", 22, b'a "body", it\'s <b>, back\\slash {and} more\r\n\r\n'),
    request("INFO", 3, "é ".encode() + bytes([255, 128, 1])).replace(
        b"Content", b"User-Agent: very-Friendly\r\nContent"
    ),
    request("NOTIFY", 4, b"x" * 3000),
    # datagrams under 32 bytes are no messages to Kamailio
    b"no message of SIP at all, but a line\n",
    b"numbers: |5|0x10|+12|-3||99999999999|0xffffffff|007|5 |0x|",
    b'"quoted, and long enough to be taken"',
    b"<bracketed, and long enough to be taken>",
    b"  \t\r\n  padded, and long enough to be taken \r\n\t ",
    b"return, with enough behind it to be taken",
    b"exit, with enough behind it to be taken",
    b"drop, with enough behind it to be taken",
    b"=+%20;,:=+%20;,:=+%20;,:=+%20;,:=+%20;,:",
    b"a" * 40,
]
LEVELS = {
    "ALERT": "CRITICAL", "BUG": "CRITICAL", "CRITICAL": "CRITICAL", "ERROR": "ERROR", "WARNING": "WARNING",
    "NOTICE": "INFO", "INFO": "INFO", "DEBUG": "DEBUG",
}  # fmt: skip


def table_route() -> str:
    """Return a route that prints each format, and what each condition is."""
    lines = [f'xinfo("\x02{number}|{text}\x03\\n");' for number, text in enumerate(FORMATS)]
    for number, text in enumerate(CONDITIONS, len(FORMATS)):
        lines.append(f'if ({text}) xinfo("\x02{number}|true\x03\\n"); else xinfo("\x02{number}|false\x03\\n");')
    return "\n".join(lines) + '\nxinfo("\x02END\x03\\n");\n'


def start_kamailio(stage: Stage, route: str, debug: int = 2) -> Kamailio:
    more = [
        f"debug={debug}",
        'loadmodule "xlog.so"\nmodparam("xlog", "buf_size", 200000)\nmodparam("sipdump", "mode", 3)',
        f"event_route[sipdump:msg] {{\n{route}}}",
    ]
    return stage.kamailio(sipdump=True, more="\n".join(more))


def send_all(server: Kamailio, end: bytes) -> list[Seen]:
    """Send the messages, one after the other, and give what Kamailio's own sipdump has seen."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        for message in MESSAGES:
            before = server.log.read_bytes().count(end)
            sock.sendto(message, ("127.0.0.1", server.port))
            server.until(lambda before=before: server.log.read_bytes().count(end) > before, f"route for {message!r}")  # type: ignore[misc]
    server.until(lambda: len([r for r in server.records() if r.tag == "rcv"]) >= len(MESSAGES), "records")
    # replies may still be on their way into the file
    until(lambda: len(server.records()) == server.log.read_bytes().count(end), "as many records as runs of the route")
    return server.records()


def ours(route: str, seen: list[Seen], caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Run a route on the same records, and give what it says."""
    block = parse_config(f"event_route[sipdump:msg] {{\n{route}}}", "k.cfg").event_routes["sipdump:msg"]
    callback = compile_route(block, parse_call_id=False)
    caplog.clear()
    with caplog.at_level(logging.DEBUG, log.name):
        for one in seen:
            proto, af = one.proto, one.af
            callback(
                Record.of(
                    one.buf, time_us=int(one.time * 1e6), tag=one.tag, pid=one.pid, procno=one.procno, proto=proto,
                    af=af, src_ip=one.src[0], src_port=one.src[1], dst_ip=one.dst[0], dst_port=one.dst[1],
                )
            )  # fmt: skip
    return [(entry.levelname, entry.getMessage()) for entry in caplog.records]


@pytest.mark.peer
def test_formats_and_conditions(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    need("kamailio")
    route = table_route()
    server = start_kamailio(stage, route)
    seen = send_all(server, b"\x02END\x03")
    assert {one.tag for one in seen} == {"rcv", "snd"}
    theirs = [
        text.decode("utf-8", "backslashreplace")
        for text in re.findall(rb"<script>: \x02(.*?)\x03\n", server.log.read_bytes(), re.DOTALL)
    ]
    mine = [text.removeprefix("\x02").removesuffix("\x03") for _, text in ours(route, seen, caplog)]
    table = [*FORMATS, *CONDITIONS]
    each = len(table) + 1
    differences = [
        f"{table[at % each]}\n  of {seen[at // each].line()}\n  Kamailio: {their}\n  sipdump:  {my}"
        for at, (their, my) in enumerate(zip(theirs, mine, strict=False))
        if their != my
    ]
    assert not differences, "\n".join(differences)
    assert len(theirs) == len(mine) == each * len(seen)


@pytest.mark.peer
def test_statements_and_levels(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    need("kamailio")
    # what a route does when it ends early stands in its lines, so the end of each run is marked by who sends
    route = 'xinfo("@START@");\n' + PROGRAM
    server = start_kamailio(stage, route, debug=3)
    seen = send_all(server, b"<script>: @START@")
    said = re.compile(rb" ([A-Z]+): <script>: ((?:\d+:)?@.*?@)(?=\s+\d+\(\d+\) |\n|$)", re.DOTALL)

    def theirs() -> list[tuple[str, str]]:
        first = next(server.folder.parent.glob("*kamailio.cfg")).read_text().split("\n")
        offset = next(number for number, line in enumerate(first) if line.startswith("event_route[sipdump"))
        return [
            (LEVELS[level.decode()], _renumbered(text.decode(), offset))
            for level, text in said.findall(server.log.read_bytes())
        ]

    mine = ours(route, seen, caplog)
    until(lambda: len(theirs()) >= len(mine), "all lines")
    for their, my in zip(theirs(), mine, strict=True):
        assert their == my, f"Kamailio: {their}\nsipdump:  {my}"


def _renumbered(text: str, offset: int) -> str:
    """Count a line number of xlogl from the route on."""
    number, colon, rest = text.partition(":")
    return f"{int(number) - offset}:{rest}" if colon and number.isdigit() else text


@pytest.mark.peer
def test_the_same_file_in_kamailio_and_in_the_daemon(stage: Stage, tmp_path: Path) -> None:
    """One event_route, included by both: the same lines, and a drop that Kamailio 5.6's documentation promises."""
    need("kamailio")
    shared = tmp_path / "route.cfg"
    shared.write_text(
        "event_route[sipdump:msg] {\n"
        '    xinfo("[$sipdump(af)] $sipdump(len) $sipdump(proto) $(sipdump(buf){s.select,0, })\\n");\n'
        '    if ($sipdump(buf) =~ "^NOTIFY" || $sipdump(len) < 40) drop();\n'
        "}\n"
    )
    server = stage.kamailio(
        sipdump=True,
        more=f'loadmodule "xlog.so"\nmodparam("sipdump", "mode", 3)\ninclude_file "{shared}"',
    )
    seen = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for message in MESSAGES[:5]:
            sock.sendto(message, ("127.0.0.1", server.port))
    until(lambda: len([one for one in server.records() if one.tag == "rcv"]) == 5, "Kamailio keeps what it drops")
    seen = [one for one in server.records() if one.tag == "rcv"]

    folder = tmp_path / "ours"
    folder.mkdir()
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(
        f'modparam("sipdump", "enable", 1)\nmodparam("sipdump", "mode", 3)\nmodparam("sipdump", "folder", "{folder}")\n'
        f'modparam("sipdump_hep", "listen", "udp:127.0.0.1:0")\ninclude_file "{shared}"\n'
    )
    daemon = stage.sipdumpd("-f", str(config))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for one in seen:
            sock.sendto(hep3(one.buf, src=one.src, dst=one.dst, when=time.time()), ("127.0.0.1", daemon.port))
    daemon.until(lambda: daemon.output().count("[ipv4]") == 5, "five messages")
    daemon.stop()
    replies = len(server.records()) - len(seen)
    theirs = re.findall(r"<script>: (\[ipv4\].*)", server.output())
    theirs = [line for line in theirs if " SIP/2.0" not in line]
    assert replies > 0
    mine = re.findall(r'event="(\[ipv4\][^"]*)"', daemon.output())
    assert sorted(mine) == sorted(theirs), f"Kamailio: {theirs}\nsipdump:  {mine}"
    daemon.folder = folder
    kept = {one.buf for one in seen if not one.buf.startswith(b"NOTIFY") and len(one.buf) >= 40}
    assert {one.buf for one in daemon.records()} == kept
    assert len(kept) == 3
