"""Fields pulled out of messages: against a plain parser, and on real messages."""

import os
import re
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sipdump_core import sip
from sipdump_parquet.fields import FIELDS, Puller
from tests.support import OPTIONS, record

CORPUS = Path(os.environ.get("SIPDUMP_CORPUS", "/nonexistent"))
"""A folder of real messages, one a file, where there is one."""


def pull(*messages: bytes) -> list[dict[str, object]]:
    offsets = list(accumulate(map(len, messages), initial=3))
    rows = Puller().pull(b"xyz" + b"".join(messages), offsets)
    return [dict(zip(FIELDS, row, strict=True)) for row in rows]


def plainly(message: bytes) -> dict[str, object]:
    """The same by splitting lines, header by header."""
    found = dict.fromkeys(FIELDS)
    stripped = message.lstrip(b"\r\n")
    leading = message[: len(message) - len(stripped)]
    head = re.split(rb"\n\r?\n", stripped, maxsplit=1)[0] + b"\n"
    lines = head.split(b"\n")
    if leading.endswith(b"\n"):  # the first line counts as the start line, and as a header
        lines.insert(1, lines[0])
    status = re.match(rb"SIP/\d\.\d[ \t](\d\d\d)(\D|$)", lines[0])
    request = re.match(rb"([A-Za-z0-9.!%*_+`'~-]+)[ \t](.*[ \t])?SIP/\d", lines[0], re.DOTALL)
    if status:
        found["status"] = int(status[1])
    elif request and request[2] and len(request[1]) <= 64:
        found["method"] = request[1].decode()
    headers: dict[bytes, bytes] = {}
    folded: list[bytes] = []
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t") and folded:
            folded[-1] += b"\n" + line
        else:
            folded.append(line)
    for line in folded:
        name, colon, value = line.partition(b":")
        name = name.lower().rstrip(b" \t")
        name = {b"i": b"call-id", b"f": b"from", b"t": b"to"}.get(name, name)
        if colon:
            headers.setdefault(name, b" ".join(value.split()))
    texts = {name: value.decode("utf-8", "backslashreplace") or None for name, value in headers.items()}
    found["call_id"] = texts.get(b"call-id")
    found["user_agent"] = texts.get(b"user-agent") or texts.get(b"server")
    cseq = headers.get(b"cseq", b"").split(b" ")
    if cseq[0].isdigit() and (
        len(cseq) == 1 or (len(cseq) == 2 and re.fullmatch(rb"[A-Za-z0-9.!%*_+`'~-]{1,64}", cseq[1]))
    ):
        found["cseq"] = int(cseq[0]) if len(cseq[0]) <= 18 else None
        found["cseq_method"] = cseq[1].decode() if len(cseq) == 2 else None
    return found


def test_a_request() -> None:
    message = (
        b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n"
        b'From: "Alice; <x>" <sip:alice:secret@example.com;user=phone>;tag=1\r\nTo: <sips:bob%20b@example.com>\r\n'
        b"Call-ID: c1@192.0.2.1\r\nCSeq: 17 INVITE\r\nUser-Agent: Phone 1.0\r\nServer: other\r\n\r\nFrom: <sip:body@x>"
    )
    assert pull(message) == [
        {
            "call_id": "c1@192.0.2.1",
            "method": "INVITE",
            "status": None,
            "cseq": 17,
            "cseq_method": "INVITE",
            "from_user": "alice",
            "to_user": "bob%20b",
            "user_agent": "Phone 1.0",
        }
    ]


def test_a_reply_with_compact_forms_and_folded_lines() -> None:
    message = (
        b"SIP/2.0 486 Busy Here\nf : sip:alice@example.com;tag=1\nT:\n tel:+49-30-1;ext=2\ni: c1\r\n\t@x\n"
        b"CSEQ:  1  \r\n OPTIONS\nserver: \xffserver\n\ni: other"
    )
    assert pull(message) == [
        {
            "call_id": "c1 @x",
            "method": None,
            "status": 486,
            "cseq": 1,
            "cseq_method": "OPTIONS",
            "from_user": "alice",
            "to_user": "+49-30-1",
            "user_agent": "\\xffserver",
        }
    ]


@pytest.mark.parametrize(
    ("value", "user"),
    [
        (b"<sip:a@b>", "a"),
        (b"sip:a@b", "a"),
        (b"sip:a@b;tag=x@y", "a"),
        (b"<sip:b>", None),
        (b"sip:b;tag=1@2", None),
        (b'"<sip:x@y>" <sip:a@b>', "a"),
        (b'"quoted \\" <sip:x@y>" <sip:a@b>', "a"),
        (b'"not ended <sip:a@b>', "a"),
        (b"Alice <SIPS:a;x=1@b>", "a;x=1"),
        (b"<sip:a@b", "a"),
        (b"<sip:@b>", None),
        (b"<sip::secret@b>", None),
        (b"<tel:+1;phone-context=x>", "+1"),
        (b"<http://a@b>", None),
        (b"\xff <sip:\xe4@b>", "\\xe4"),
        (b"<sip:\xc3\xa4@b>", "ä"),
        (b"*", None),
        (b"", None),
    ],
)
def test_users(value: bytes, user: str | None) -> None:
    assert pull(b"X sip:x SIP/2.0\r\nFrom: " + value + b"\r\n\r\n")[0]["from_user"] == user


@pytest.mark.parametrize(
    "message",
    [b"", b"x", b"\r\n\r\n", b"no line end", b"\0" * 100],
)
def test_what_is_no_sip_has_nothing(message: bytes) -> None:
    assert pull(message) == [dict.fromkeys(FIELDS)]


def test_line_ends_before_a_message_are_no_part_of_it() -> None:
    (found,) = pull(b"\r\n\r\nINVITE sip:x SIP/2.0\r\nCall-ID: x\r\n\r\n")
    assert (found["method"], found["call_id"]) == ("INVITE", "x")
    assert record(b"\r\n\r\nINVITE sip:x SIP/2.0\r\nCall-ID: x\r\n\r\n").call_id == "x"


def test_a_number_that_is_too_large_costs_no_method() -> None:
    (found,) = pull(b"X sip:x SIP/2.0\r\nCSeq: 12345678901234567890 INVITE\r\n\r\n")
    assert (found["cseq"], found["cseq_method"]) == (None, "INVITE")


def test_long_values_are_not_remembered() -> None:
    puller = Puller()
    messages = [b"X sip:x SIP/2.0\r\nUser-Agent: %d%b\r\n\r\n" % (n, b"x" * 5000) for n in range(10)]
    offsets = [0]
    for message in messages:
        offsets.append(offsets[-1] + len(message))
    assert [row[-1] for row in puller.pull(b"".join(messages), offsets)] == [f"{n}{'x' * 5000}" for n in range(10)]
    assert sum(len(key or b"") for cache in vars(puller).values() for key in cache) < 1000


def test_of_two_the_first_counts_even_when_it_is_empty() -> None:
    message = b"X sip:x SIP/2.0\ni:\nCall-ID: second\nCSeq: none\nCSeq: 1 X\nf: <sip:a@b>\nFrom: <sip:c@d>\n\n"
    found = pull(message)[0]
    assert (found["call_id"], found["cseq"], found["from_user"]) == (None, None, "a")
    assert sip.call_id(message) is None


def test_messages_do_not_run_into_each_other() -> None:
    first = OPTIONS[: OPTIONS.index(b"c1@")] + b"cut"
    second = b"\nCall-ID: not a header of the first\r\n\r\n"
    assert [row["call_id"] for row in pull(first, second, OPTIONS)] == [
        "cut",
        "not a header of the first",
        "c1@192.0.2.1",
    ]


def test_the_caches_are_bounded() -> None:
    puller = Puller(limit=5)
    for number in range(50):
        message = OPTIONS.replace(b"c1@", b"%d@" % number)
        (row,) = puller.pull(message, [0, len(message)])
        assert row[0] == f"{number}@192.0.2.1"
        assert all(len(cache) <= 5 for cache in vars(puller).values())


PIECES = st.sampled_from(
    [
        b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b"<", b">", b'"', b"@", b"SIP/2.0", b" 200 OK", b"INVITE",
        b"Call-ID", b"i", b"CALL-id: x", b"From: ", b"f:", b"To:", b"t : ", b"CSeq: 1 ACK", b"cseq:", b"User-Agent: a",
        b"Server: b", b"sip:a@b", b"tel:1", b"\xff", b"\xc3\xa4", b"\0", b"Via: x", b"INVITE sip:x SIP/2.0\r\n",
    ]
)  # fmt: skip
MESSAGES = st.one_of(st.lists(PIECES, max_size=25).map(b"".join), st.binary(max_size=60))


@given(st.lists(MESSAGES, min_size=1, max_size=4))
@example([b"X sip:x SIP/2.0\r\nCall-ID:\r\r\n\r\n"])
@example([b"X sip:x SIP/2.0\r\nCall-ID: a\r\n \r\nb\r\n\r\n"])
def test_any_bytes_give_what_plain_parsing_gives(messages: list[bytes]) -> None:
    for message, found in zip(messages, pull(*messages), strict=True):
        expected = plainly(message)
        del expected["from_user"], expected["to_user"]
        assert expected.items() <= found.items()
        assert found["call_id"] == sip.call_id(message)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no folder of real messages is named by SIPDUMP_CORPUS")
def test_real_messages() -> None:
    messages = [path.read_bytes() for path in sorted(CORPUS.rglob("*")) if path.is_file()]
    found = pull(*messages)
    for message, row in zip(messages, found, strict=True):
        expected = plainly(message)
        del expected["from_user"], expected["to_user"]
        assert expected.items() <= row.items()
        assert row["call_id"] == sip.call_id(message)
    assert sum(row["call_id"] is not None for row in found) > len(messages) / 2
    assert sum(row["from_user"] is not None for row in found) > len(messages) / 3


def test_hostile_messages_take_no_longer_than_their_length() -> None:
    """A hang would fail by the suite's patience; these would take hours where time grew with the square."""
    size = 1 << 20
    for piece in (b" ", b'"', b"<", b"\\", b"\n ", b"From:", b"\nf:", b"\r", b'"\\', b"a ", b"\nfrom "):
        many = piece * (size // len(piece))
        pull(b"X" + many, b"X sip:x SIP/2.0\r\nFrom: " + many, b"X sip:x SIP/2.0\r\nFrom: <sip:" + many)
