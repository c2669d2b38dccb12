"""Run the fuzzer (atheris, libFuzzer) over each target: ``python -m tests.fuzz [TARGET ...] [--seconds N]``.

A target takes any bytes, and must end in time, in bounded memory, with nothing raised but what its documentation names.
A finding ends the run, and leaves the input in a file that libFuzzer names.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from sipdump_core.config.reader import parse_config
from sipdump_core.control.binrpc import decode_values, take_request
from sipdump_core.control.http import take_http
from sipdump_core.control.jsonrpc import take_document
from sipdump_core.errors import ConfigError, FormatError
from sipdump_core.log import log
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Record
from sipdump_core.routes.event_route import Callback
from sipdump_core.routes.script import compile_route
from sipdump_core.settings.hep import HepOptions
from sipdump_core.sources.hep_decoder import HepDecoder
from sipdump_core.sources.hep_stream import FrameReader

_RECORD = Record.of(
    b"INVITE sip:x SIP/2.0\r\nCall-ID: 1\r\n\r\n\0\xff",
    time_us=1,
    src_ip="192.0.2.1",
    src_port=5060,
    dst_ip="192.0.2.2",
    dst_port=5060,
)
_SEEDS = {
    "binrpc": [bytes.fromhex("a1031323c931ac910f73697064756d702e656e61626c65001001")],
    "jsonrpc": [
        b'{"jsonrpc": "2.0", "method": "sipdump.enable", "params": [1], "id": 1}',
        b"POST /RPC HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    ],
    "hep": [b"HEP3\0\x16\0\0\0\x09\0\x0a\0\0\0\1\0\0\0\x0f\0\6", b"\1\x10\2\x11\0\1\0\2\0\0\0\0\0\0\0\0x", b"\x1f\x8b"],
    "config": [
        b'#!define X 5\n#!ifdef X\nmodparam("sipdump", "mode", X)\n#!else\n#!endif\n/* # */ #!subst "/a/b/g"\n',
        b'event_route[sipdump:msg] { if ($sipdump(tag)=="rcv") drop(); }',
    ],
    "route": [
        b'if ($sipdump(len) > 5 && $sipdump(buf) =~ "a.*b") { xlog("L_INFO", "$(sipdump(buf){s.substr,0,5})\\n"); }'
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--one", choices=TARGETS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return _fuzz(args.one, args.seconds)
    for name in args.targets or TARGETS:
        print(f"--- {name}, {args.seconds} s", flush=True)
        # a process each: libFuzzer ends its own
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(args.seconds)]
        if subprocess.run(command, check=False).returncode:
            return 1
    return 0


def _fuzz(name: str, seconds: int) -> int:
    import atheris

    log.disabled = True
    corpus = iter(_SEEDS[name])
    target = TARGETS[name]

    def one(data: bytes) -> None:
        target(data)

    for seed in corpus:
        one(seed)
    atheris.instrument_all()
    options = [
        f"-max_total_time={seconds}",
        "-rss_limit_mb=1024",
        "-timeout=10",
        "-max_len=4096",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()
    return 0


def _binrpc(data: bytes) -> None:
    _allow(FormatError, decode_values, data)
    buffer = bytearray(data)
    while buffer:
        before = len(buffer)
        if _allow(FormatError, take_request, buffer) is None or len(buffer) == before:
            return


def _jsonrpc(data: bytes) -> None:
    for take in (take_document, take_http):
        buffer = bytearray(data)
        while buffer:
            before = len(buffer)
            if _allow(FormatError, take, buffer) is None or len(buffer) == before:
                break


def _hep(data: bytes) -> None:
    decoder = HepDecoder(HepOptions(), ProcessTable(0))
    for _ in range(2):  # the second time by the layout that it remembers
        _allow(FormatError, decoder.decode, data, ("192.0.2.1", 5060), 1_700_000_000_000_000)
    for frame in FrameReader().feed(data):
        if isinstance(frame, bytes):
            _allow(FormatError, decoder.decode, frame, ("192.0.2.1", 5060), 1_700_000_000_000_000)


def _config(data: bytes) -> None:
    _allow(ConfigError, parse_config, data.decode("utf-8", "surrogateescape"), "fuzz.cfg")


def _route(data: bytes) -> None:
    text = "event_route[sipdump:msg] {\n" + data.decode("utf-8", "surrogateescape") + "\n}\n"
    config = _allow(ConfigError, parse_config, text, "fuzz.cfg")
    for block in config.event_routes.values() if config else ():
        route: Callback | None = _allow(ConfigError, compile_route, block, parse_call_id=True)
        if route:
            route(_RECORD)


def _allow(allowed: type[Exception], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except allowed:
        return None


TARGETS: dict[str, Callable[[bytes], None]] = {
    "binrpc": _binrpc,
    "jsonrpc": _jsonrpc,
    "hep": _hep,
    "config": _config,
    "route": _route,
}

if __name__ == "__main__":
    sys.exit(main())
