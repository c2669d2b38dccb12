"""Programs of others over what is redacted: one that cracks digests finds none, one that reads SIP reads all."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.drivers.query import Query
from sipdump_core.errors import SipDumpError
from sipdump_core.reading.store import Store
from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, files
from tests.e2e.peers import need, program

pytestmark = pytest.mark.peer

CORPUS = Path(os.environ.get("SIPDUMP_CORPUS", "/nowhere"))
CRACKER = "/usr/bin/sipdump"  # of Debian's package sipcrack; it has our name
HEAD = b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:alice@h>;tag=1\r\nTo: <sip:alice@h>\r\nCall-ID: 1\r\n"
LOGIN = (
    b"REGISTER sip:h SIP/2.0\r\n" + HEAD + b'CSeq: 2 REGISTER\r\n%b: Digest username="alice", realm="asterisk", '
    b'nonce="4b1d6a5c", uri="sip:h", response="0123456789abcdef0123456789abcdef", algorithm=MD5\r\n'
    b"Content-Length: 0\r\n\r\n"
)
ACCEPTED = b"SIP/2.0 200 OK\r\n" + HEAD + b"CSeq: 2 REGISTER\r\nContent-Length: 0\r\n\r\n"
ALL: dict[str, Any] = {"credentials": 1, "keys": 1, "users": "mask:4"}


def pcap(folder: Path, messages: Sequence[bytes], options: dict[str, Any]) -> Path:
    folder.mkdir()
    with SipDump(enable=1, mode=132 if options else 4, folder=str(folder), backend_options={"redact": options}) as dump:
        for place, message in enumerate(messages):
            dump.received(message, *((A, B) if message.startswith(b"R") else (B, A)), time_us=10**15 + place)
    (path,) = files(folder, ".pcap")
    return path


@pytest.mark.parametrize("header", [b"Authorization", b"Proxy-Authorization"])
@pytest.mark.parametrize("options", [{"credentials": 1}, ALL], ids=["credentials", "all"])
def test_a_cracker_finds_no_login(tmp_path: Path, header: bytes, options: dict[str, Any]) -> None:
    if not os.path.exists(CRACKER):
        need("sipcrack")
    found = []
    for name, given in (("plain", {}), ("redacted", options)):
        path = pcap(tmp_path / name, [LOGIN % header, ACCEPTED], given)
        logins = tmp_path / f"{name}.logins"
        done = subprocess.run([CRACKER, "-p", path, logins], capture_output=True, text=True, timeout=60, check=True)
        assert f"sniffed {len(logins.read_text().splitlines()) if logins.exists() else 0} logins" in done.stdout
        found.append(logins.read_text() if logins.exists() else "")
    assert '"alice"asterisk"REGISTER"' in found[0]
    assert found[1] == ""


def parsed(path: Path) -> list[list[str]]:
    """Return what tshark makes of each packet: request or reply, Call-ID, CSeq, and whether it is malformed."""
    names = ("sip.Method", "sip.Status-Code", "sip.Call-ID", "sip.CSeq", "sip.Content-Length", "_ws.malformed")
    argv = [program("tshark") or "tshark", "-n", "-r", str(path), "-d", "udp.port==5060,sip", "-T", "fields"]
    argv += [part for name in names for part in ("-e", name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("options", [{"credentials": 1, "keys": 1}, ALL], ids=["credentials", "all"])
def test_tshark_parses_what_it_parsed_before(tmp_path: Path, options: dict[str, Any]) -> None:
    need("tshark")
    if not CORPUS.is_dir():
        pytest.skip("no folder of real messages is named by SIPDUMP_CORPUS")
    messages = [path.read_bytes() for path in sorted(CORPUS.rglob("sipmsg/**/*")) if path.is_file()]
    for path in sorted(CORPUS.rglob("*.pcap*")):
        try:
            messages += [record.buf for record in Store.open(files=[path]).records(Query())]
        except SipDumpError:
            continue
    messages = [message for message in messages if 0 < len(message) < 60_000]
    assert len(messages) > 300
    before = parsed(pcap(tmp_path / "plain", messages, {}))
    after = parsed(pcap(tmp_path / "redacted", messages, {**options, "unparsed": "store"}))
    assert len(before) == len(after) == len(messages)
    for message, one, other in zip(messages, before, after, strict=True):
        assert (other[:4], other[5]) == (one[:4], one[5]), message
        assert bool(other[4]) == bool(one[4])
