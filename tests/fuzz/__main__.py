"""Run the fuzzer (atheris, libFuzzer) over each target: ``python -m tests.fuzz [TARGET ...] [--seconds N]``.

A target takes any bytes, and must end in time, in bounded memory, with nothing raised but what its documentation names.
A finding ends the run, and leaves the input in a file that libFuzzer names.

``fields`` compares the library in C with Python. With clang it is searched by the library's own branches, too, and what
it must not read or compute ends the run::

    LD_PRELOAD=$(python -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so PYTHONMALLOC=malloc \
        CC=clang CFLAGS='-g -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined' \
        ASAN_OPTIONS=detect_leaks=0 python -m tests.fuzz fields --seconds 3600
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
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
from sipdump_parquet.fields import Puller
from sipdump_speedups import load
from sipdump_speedups.build import build
from tests.backends.parquet.exact import Exact

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
    "fields": [
        b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nCSeq: 17 INVITE\r\n"
        b'From: "A" <sip:a@b>;tag=1\r\nTo: <sips:b@c>\r\nCall-ID: c1@192.0.2.1\r\nUser-Agent: Phone 1.0\r\n\r\nFrom: x',
        b"SIP/2.0 486 Busy Here\nf : <sip:a@b>;tag=1;x\nT:\n tel:+49-30-1;ext=2\ni: c1\nCSEQ:  1  X\nserver: x y\n\n",
        b"BYE sips:b SIP/2.0\r\nv:SIP/2.0/TLS h;rport;branch=x,SIP/2.0/UDP y\r\nX-CID: 1\r\nSession-ID: 2\r\n\r\n",
    ],
}
_WORDS = (
    rb"\x0d\x0a", rb"\x0a\x20", rb"\x0d\x0a\x0d\x0a", b"SIP/2.0", b"SIP/2.0 200 OK", b"INVITE sip:", b"CSeq: 1 ACK",
    b"Call-ID:", b"From:", b"To:", b"Via:", b"User-Agent:", b"Server:", b";branch=", b";tag=", b"<sip:", b"@b>", b"i:",
)  # fmt: skip
"""What libFuzzer cannot guess, as it wants it."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--corpus", type=Path, help="a folder of inputs to begin with, which is added to")
    parser.add_argument("--one", choices=TARGETS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return _fuzz(args.one, args.seconds, args.corpus)
    for name in args.targets or TARGETS:
        print(f"--- {name}, {args.seconds} s", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            # a process each: libFuzzer ends its own
            command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(args.seconds)]
            if subprocess.run([*command, "--corpus", str(args.corpus or folder)], check=False).returncode:
                return 1
    return 0


def _fuzz(name: str, seconds: int, folder: Path) -> int:
    import atheris

    log.disabled = True
    target = TARGETS[name]

    def one(data: bytes) -> None:
        target(data)

    for number, seed in enumerate(_SEEDS[name]):
        one(seed)
        (folder / f"seed-{number}").write_bytes(seed)
    words = folder.with_name(folder.name + ".dict")
    words.write_bytes(b"".join(b'"%b"\n' % word for word in _WORDS))
    if name != "fields":  # what its Python does is in expressions, which have no branches to see
        atheris.instrument_all()
    options = [
        f"-max_total_time={seconds}",
        "-rss_limit_mb=1024",
        "-timeout=10",
        "-max_len=4096",
        "-print_final_stats=1",
        f"-dict={words}",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], one)
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


@lru_cache
def _pullers() -> list[tuple[Puller, Exact]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fields.so")
        refusal = build(path)
        library = load(path)
        if library is None:
            sys.exit(f"the library cannot be built: {refusal}")
        own = {"contact": "Contact", "c": "Content-Type"}
        pullers = [Puller(headers, limit=100) for headers in ({}, own)]
        return [(puller, Exact(library, puller)) for puller in pullers]


def _fields(data: bytes) -> None:
    for puller, exact in _pullers():
        found = exact.fields(data)
        if found is None:
            continue
        expected = {name: values[0] for name, values in puller.pull(data, [0, len(data)]).items()}
        found |= dict.fromkeys(puller.rare)
        if found != expected:
            raise AssertionError(f"in C {found}, in Python {expected}")


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
    "fields": _fields,
}

if __name__ == "__main__":
    sys.exit(main())
