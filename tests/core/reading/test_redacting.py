"""``--redact``: what every command prints has nothing of what it hides, and is found by it all the same."""

import json
import re
from pathlib import Path

import pytest

from sipdump_core.reading.redacting import parse_redact
from sipdump_core.sipdump import SipDump
from tests.core.reading.run import run
from tests.core.support import A, B, files

SECRETS = ("4930123456", "alice", "Wonderland", "0123456789abcdef0123456789abcdef", "c2VjcmV0", "SECRETKEY", "hello")
INVITE = (
    b"INVITE sip:+4930123456@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n"
    b'From: "Wonderland" <sip:alice@example.com>;tag=1\r\nTo: <sip:+4930123456@example.com>\r\n'
    b"Call-ID: one\r\nCSeq: 1 INVITE\r\nContact: <sip:alice@192.0.2.1>\r\n"
    b'Authorization: Digest username="alice", response="0123456789abcdef0123456789abcdef"\r\n'
    b"Proxy-Authorization: Basic c2VjcmV0\r\nX-Own: hello\r\n"
    b"Content-Type: application/sdp\r\nContent-Length: 89\r\n\r\n"
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:SECRETKEY\r\n"
)
REPLY = (
    b"SIP/2.0 603 Decline\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n"
    b"From: <sip:alice@example.com>;tag=1\r\nTo: <sip:+4930123456@example.com>;tag=2\r\n"
    b"Call-ID: one\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
)
ALL = "credentials,keys,users,headers=X-Own"


@pytest.fixture(params=[1, 16])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    with SipDump(enable=1, mode=request.param, folder=str(folder)) as dump:
        dump.received(INVITE, A, B, time_us=1_795_386_431_000_000)
        dump.sent(REPLY, B, A, time_us=1_795_386_432_000_000)
    return folder


COMMANDS = (
    ("find", "--user", "alice", "--json"),
    ("find", "--grep", "4930123456", "--csv"),
    ("find",),
    ("show", "one", "--raw"),
    ("show", "one", "--format", "html"),
    ("show", "one", "--format", "json"),
    ("tail", "--once", "--raw"),
    ("stats", "--by", "from"),
    ("sql", "select * from messages", "--json"),
    ("sql", "select * from calls", "--csv"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_prints_what_is_redacted(
    store: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *command, "--folder", store, "--redact", ALL)
    assert code == 0, err
    assert [secret for secret in SECRETS if secret in out + err] == []
    assert re.search("u-[0-9a-f]{26}", out)
    _, plain, _ = run(capsys, *command, "--folder", store)
    assert "alice" in plain
    assert not re.search("u-[0-9a-f]{26}", plain)


@pytest.mark.parametrize("ending", ["data", "pcap", "pcapng", "parquet", "jsonl", "html"])
def test_no_export_has_what_is_redacted(
    store: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / f"out.{ending}"
    code, out, err = run(capsys, "export", "--user", "alice", "--folder", store, "--redact", ALL, "-o", output)
    assert code == 0, err
    content = output.read_bytes()
    assert [secret for secret in SECRETS if secret.encode() in content or secret in out + err] == []
    if ending != "html":
        again = tmp_path / "again.jsonl"
        if ending == "jsonl":
            again = output
        else:
            assert run(capsys, "export", "--file", output, "-o", again)[0] == 0
        text = again.read_text()
        assert [secret for secret in SECRETS if secret in text] == []
        rows = [json.loads(line) for line in text.splitlines()]
        assert [row["call_id"] for row in rows] == ["one", "one"]
        tokens = {re.search("From: .*<sip:(.*?)@", row["message"])[1] for row in rows}  # type: ignore[index]
        assert len(tokens) == 1


def test_the_state_of_a_call_stays(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "find", "--folder", store, "--redact", "users=mask:4", "--json")
    (row,) = json.loads(out)
    _, out, _ = run(capsys, "find", "--folder", store, "--json")
    (plain,) = json.loads(out)
    assert (row["from_user"], row["to_user"]) == ("xxxxx", "+493012xxxx")
    changed = {name for name in plain if row[name] != plain[name]}
    assert changed == {"from_user", "from_uri", "to_user", "to_uri", "request_uri"}


def test_a_key_gives_the_tokens_of_the_store(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef\n")
    key.chmod(0o600)
    _, out, _ = run(capsys, "find", "--folder", store, "--redact", f"users=hmac:{key}", "--json")
    assert json.loads(out)[0]["from_user"] == "u-69667e0df153a0f2b5b58cb4be"
    assert files(store, "")


@pytest.mark.parametrize("text", ["", ",", "passwords", "users=", "users=mask:x", "keys=1", "bodies", "headers="])
def test_what_cannot_be_redacted_is_told(store: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"there are: credentials, keys|must be"):
        parse_redact(text)
    code, _, err = run(capsys, "find", "--folder", store, "--redact", text)
    assert code == 2
    assert "--redact" in err
    code, _, err = run(capsys, "find", "--folder", store, "--redact", "users=hmac:/nosuch")
    assert (code, "--redact: there is no key /nosuch" in err) == (2, True)
