"""Fields pulled out of messages: against a plain parser, and on real messages."""

import os
import re
import time
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sipdump_core import sip
from sipdump_core.cache import Cache
from sipdump_parquet.fields import FIELDS, Puller
from sipdump_parquet.native import NativePuller
from tests.support import OPTIONS, record

CORPUS = Path(os.environ.get("SIPDUMP_CORPUS", "/nonexistent"))
"""A folder of real messages, one a file, where there is one."""


class Pull(Protocol):
    """Pulls the fields out of messages, with the options of a Puller."""

    def __call__(self, *messages: bytes, **options: Any) -> list[dict[str, object]]: ...


@pytest.fixture(scope="module", params=["python", "native"])
def pull(request: pytest.FixtureRequest) -> Pull:
    """In Python, and by the library in C."""
    speedups = request.getfixturevalue("speedups") if request.param == "native" else None

    def pulled(*messages: bytes, **options: Any) -> list[dict[str, object]]:
        puller = Puller(**options)
        return rows(NativePuller(puller, speedups) if speedups else puller, *messages)

    return pulled


def rows(puller: Puller | NativePuller, *messages: bytes) -> list[dict[str, object]]:
    offsets = list(accumulate(map(len, messages), initial=3))
    columns: dict[str, Any] = puller.pull(b"xyz" + b"".join(messages), offsets)
    assert set(columns) >= set(FIELDS)
    values = [column if isinstance(column, list) else column.to_pylist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def plainly(message: bytes) -> dict[str, object]:
    """The same by splitting lines, header by header."""
    found: dict[str, object] = dict.fromkeys(FIELDS)
    stripped = message.lstrip(b"\r\n")
    leading = message[: len(message) - len(stripped)]
    head = re.split(rb"\n\r?\n", stripped, maxsplit=1)[0] + b"\n"
    lines = head.split(b"\n")
    if leading.endswith(b"\n"):  # the first line counts as the start line, and as a header
        lines.insert(1, lines[0])
    status = re.match(rb"(?i:SIP)/\d+\.\d+[ \t]+(\d\d\d)(\D|$)", lines[0])
    request = re.match(rb"([A-Za-z0-9.!%*_+`'~-]+)[ \t](.*[ \t])?(?i:SIP)/\d+\.\d", lines[0], re.DOTALL)
    if status:
        found["status"] = int(status[1])
    elif request and request[2]:
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
        name = {b"i": b"call-id", b"f": b"from", b"t": b"to", b"v": b"via"}.get(name, name)
        if colon:
            headers.setdefault(name, b" ".join(value.split()))
    texts = {name: value.decode("utf-8", "backslashreplace") or None for name, value in headers.items()}
    found["call_id"] = texts.get(b"call-id")
    found["user_agent"] = texts.get(b"user-agent") or texts.get(b"server")
    cseq = headers.get(b"cseq", b"")
    rest = cseq.lstrip(b"0123456789")
    number, method = cseq[: len(cseq) - len(rest)], rest.strip()
    if number:
        found["cseq"] = int(number) if len(number) <= 18 else None
        found["cseq_method"] = method.decode() if re.fullmatch(rb"[A-Za-z0-9.!%*_+`'~-]+", method) else None
    return found


FREELY_PARSED = ("from_user", "to_user", "from_tag", "to_tag", "request_uri_user", "via_branch", "correlation")
"""Fields that ``plainly`` leaves out: each has a table of cases."""


def test_a_request(pull: Pull) -> None:
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
            "from_tag": "1",
            "to_tag": None,
            "request_uri_user": "bob",
            "via_branch": "z9hG4bK1",
            "correlation": None,
        }
    ]


def test_a_reply_with_compact_forms_and_folded_lines(pull: Pull) -> None:
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
            "from_tag": "1",
            "to_tag": None,
            "request_uri_user": None,
            "via_branch": None,
            "correlation": None,
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
def test_users(pull: Pull, value: bytes, user: str | None) -> None:
    assert pull(b"X sip:x SIP/2.0\r\nFrom: " + value + b"\r\n\r\n")[0]["from_user"] == user


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (b"<sip:a@b>;tag=x", "x"),
        (b"<sip:a@b>;TAG=x", "x"),
        (b"<sip:a@b> ; tag = x", "x"),
        (b"<sip:a@b>;tag=x;epid=1", "x"),
        (b"<sip:a@b>;epid=1;tag=x", "x"),
        (b"<sip:a@b>;x;tag=1;tag=2", "1"),
        (b"sip:a@b;tag=x", "x"),
        (b"sip:b;tag=x", "x"),
        (b"<sip:b>;tag=x", "x"),
        (b"tel:+1;tag=x", "x"),
        (b"<sip:a@b;tag=uri>", None),
        (b"<sip:a@b;tag=uri>;tag=x", "x"),
        (b'"x;tag=name" <sip:a@b>;tag=x', "x"),
        (b'"<sip:x>;tag=name" <sip:a@b>', None),
        (b'<sip:a@b>;p=";tag=quoted";tag=x', "x"),
        (b'<sip:a@b>;p="\\";tag=quoted";tag=x', "x"),
        (b"<sip:a@b>;xtag=1", None),
        (b"<sip:a@b>;tag", None),
        (b"<sip:a@b>;tag=", None),
        (b'<sip:a@b>;tag="x"', "x"),
        (b"<sip:a@b>\r\n ;tag=x", "x"),
        (b"<sip:a@b>;tag=\xff", "\\xff"),
        (b"<sip:a@b>", None),
        (b"", None),
    ],
)
def test_tags(pull: Pull, value: bytes, tag: str | None) -> None:
    (found,) = pull(b"X sip:x SIP/2.0\r\nFrom: " + value + b"\r\nt: " + value + b"\r\n\r\n")
    assert (found["from_tag"], found["to_tag"]) == (tag, tag)


@pytest.mark.parametrize(
    ("via", "branch"),
    [
        (b"Via: SIP/2.0/UDP h;branch=z9hG4bK1", "z9hG4bK1"),
        (b"v:SIP/2.0/UDP h;rport;branch=z9hG4bK-a.b~;received=1.2.3.4", "z9hG4bK-a.b~"),
        (b"VIA: SIP / 2.0 / UDP [::1]:5060 ; Branch = x", "x"),
        (b"Via: SIP/2.0/UDP h;branch=x , SIP/2.0/UDP h;branch=y", "x"),
        (b"Via: SIP/2.0/UDP h, SIP/2.0/UDP h;branch=y", None),
        (b'Via: SIP/2.0/UDP h;p=";branch=q";branch=x', "x"),
        (b'Via: SIP/2.0/UDP h;p="a,b";branch=x', "x"),
        (b"Via: SIP/2.0/UDP h;branch=x\r\nVia: SIP/2.0/UDP h;branch=y", "x"),
        (b"Via: SIP/2.0/UDP h\r\n\t;branch=x", "x"),
        (b"Via: SIP/2.0/UDP h\r\nVia: SIP/2.0/UDP h;branch=y", None),
        (b"Via: SIP/2.0/UDP h;xbranch=x", None),
        (b"Via: SIP/2.0/UDP h;branch=", None),
        (b"Via:", None),
        (b"Max-Forwards: 1", None),
    ],
)
def test_the_branch_is_that_of_the_top_via(pull: Pull, via: bytes, branch: str | None) -> None:
    assert pull(b"X sip:x SIP/2.0\r\n" + via + b"\r\n\r\n")[0]["via_branch"] == branch


@pytest.mark.parametrize(
    ("line", "method", "user"),
    [
        (b"INVITE sip:bob@example.com SIP/2.0", "INVITE", "bob"),
        (b"INVITE sips:bob:secret@example.com;transport=tls SIP/2.0", "INVITE", "bob"),
        (b"INVITE sip:user;par=u%40example.net@example.com SIP/2.0", "INVITE", "user;par=u%40example.net"),
        (b"INVITE sip:+1@example.com;user=phone SIP/2.0", "INVITE", "+1"),
        (b"INVITE tel:+1-2;phone-context=x SIP/2.0", "INVITE", "+1-2"),
        (b"INVITE <sip:bob@example.com> SIP/2.0", "INVITE", "bob"),
        (b"REGISTER sip:example.com SIP/2.0", "REGISTER", None),
        (b"OPTIONS soap.beep://192.0.2.1:3002 SIP/2.0", "OPTIONS", None),
        (b"!a-Method0123456789_*+`.%indeed'~ sip:a@b SIP/2.0", "!a-Method0123456789_*+`.%indeed'~", "a"),
        (b"INVITE sip:a@b sip/2.0", "INVITE", "a"),
        (b"INVITE sip:a@b Sip/3.14", "INVITE", "a"),
        (b"INVITE  sip:a@b   SIP/2.0", "INVITE", "a"),
        (b"INVITE sip:a@b HTTP/1.1", None, None),
        (b"INVITE SIP/2.0", None, None),
        (b"M" * 300 + b" sip:a@b SIP/2.0", "M" * 300, "a"),
    ],
)  # fmt: skip
def test_request_lines(pull: Pull, line: bytes, method: str | None, user: str | None) -> None:
    (found,) = pull(line + b"\r\n\r\n")
    assert (found["method"], found["request_uri_user"], found["status"]) == (method, user, None)


@pytest.mark.parametrize("line", [b"SIP/2.0 486 Busy Here", b"sip/2.0 486 ", b"SiP/2.10 486", b"SIP/2.0\t486 \xff"])
def test_the_version_of_a_reply_is_in_any_case(pull: Pull, line: bytes) -> None:
    (found,) = pull(line + b"\r\n\r\n")
    assert (found["status"], found["method"], found["request_uri_user"]) == (486, None, None)


@pytest.mark.parametrize(
    ("value", "number", "method"),
    [
        (b"7 INVITE", 7, "INVITE"),
        (b"7 " + b"M" * 300, 7, "M" * 300),
        (b"7 INV\xe8TE", 7, None),
        (b"7 INVITE x", 7, None),
        (b"7", 7, None),
        (b"7INVITE", 7, "INVITE"),
        (b"007\r\n INVITE", 7, "INVITE"),
        (b"INVITE", None, None),
        (b"-7 INVITE", None, None),
        (b"", None, None),
    ],
)
def test_cseq(pull: Pull, value: bytes, number: int | None, method: str | None) -> None:
    (found,) = pull(b"X sip:x SIP/2.0\r\nCSeq: " + value + b"\r\n\r\n")
    assert (found["cseq"], found["cseq_method"]) == (number, method)


@pytest.mark.parametrize(
    ("headers", "correlation"),
    [
        (b"X-CID: a@b", ["a@b"]),
        (b"x-call-id:  a@b ", ["a@b"]),
        (b"X-CID: a\r\nX-CID: b\r\nX-Call-ID: a", ["a", "b"]),
        (b"Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=47755a9de7794ba387653f2099600ef2",
         ["ab30317f1a784dc48ff824d0d3715d86", "47755a9de7794ba387653f2099600ef2"]),
        (b"Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=" + b"0" * 32, ["ab30317f1a784dc48ff824d0d3715d86"]),
        (b"Session-ID: " + b"0" * 32, None),
        (b'P-Charging-Vector: icid-value="1234bc9876e";icid-generated-at=192.0.2.1', ["1234bc9876e"]),
        (b"P-Charging-Vector: orig-ioi=x; ICID-value = 1234", ["1234"]),
        (b"P-Charging-Vector: orig-ioi=x", None),
        (b"X-My-Id: 7", None),
        (b"X-CID:", None),
        (b"X-CID: a\r\n\r\nX-CID: body", ["a"]),
    ],
)  # fmt: skip
def test_correlation(pull: Pull, headers: bytes, correlation: list[str] | None) -> None:
    (found,) = pull(b"X sip:x SIP/2.0\r\nFrom: <sip:a@b>\r\n" + headers + b"\r\n\r\n")
    assert (found["correlation"], found["from_user"]) == (correlation, "a")


def test_headers_of_ones_own(pull: Pull) -> None:
    message = (
        b"INVITE sip:x SIP/2.0\r\nFrom: <sip:a@b>\r\nx-my-id: 1\r\nP-Asserted-Identity: <sip:a@b>\r\n"
        b"P-ASSERTED-IDENTITY: <tel:+1>\r\nm: <sip:c@d>\r\nX-CID: 2\r\n\r\nX-My-Id: body"
    )
    headers = {"p_asserted_identity": "P-Asserted-Identity", "contact": "Contact", "x_my_id": "X-My-Id", "from": "f"}
    first, second = pull(message, OPTIONS, headers=headers, correlate=["X-My-ID"])
    assert (first["p_asserted_identity"], first["contact"]) == ("<sip:a@b>, <tel:+1>", "<sip:c@d>")
    assert (first["x_my_id"], first["from"], first["from_user"]) == ("1", "<sip:a@b>", "a")
    assert first["correlation"] == ["2", "1"]
    assert (second["p_asserted_identity"], second["contact"], second["correlation"]) == (None, None, None)
    assert second["from"] == "<sip:a@b>;tag=1"


@pytest.mark.parametrize(
    "message",
    [b"", b"x", b"\r\n\r\n", b"no line end", b"\0" * 100],
)
def test_what_is_no_sip_has_nothing(pull: Pull, message: bytes) -> None:
    assert pull(message) == [dict.fromkeys(FIELDS)]


def test_line_ends_before_a_message_are_no_part_of_it(pull: Pull) -> None:
    (found,) = pull(b"\r\n\r\nINVITE sip:x SIP/2.0\r\nCall-ID: x\r\n\r\n")
    assert (found["method"], found["call_id"]) == ("INVITE", "x")
    assert record(b"\r\n\r\nINVITE sip:x SIP/2.0\r\nCall-ID: x\r\n\r\n").call_id == "x"


def test_a_number_that_is_too_large_costs_no_method(pull: Pull) -> None:
    (found,) = pull(b"X sip:x SIP/2.0\r\nCSeq: 12345678901234567890 INVITE\r\n\r\n")
    assert (found["cseq"], found["cseq_method"]) == (None, "INVITE")


def test_long_values_are_not_remembered() -> None:
    puller = Puller()
    messages = [b"X sip:x SIP/2.0\r\nUser-Agent: %d%b\r\n\r\n" % (n, b"x" * 5000) for n in range(10)]
    assert [row["user_agent"] for row in rows(puller, *messages)] == [f"{n}{'x' * 5000}" for n in range(10)]
    assert sum(len(key or b"") for cache in caches(puller) for key in cache) < 1000


def caches(puller: Puller) -> list[Cache[Any, Any]]:
    return [cache for cache in vars(puller).values() if isinstance(cache, Cache)]


def test_of_two_the_first_counts_even_when_it_is_empty(pull: Pull) -> None:
    message = b"X sip:x SIP/2.0\ni:\nCall-ID: second\nCSeq: none\nCSeq: 1 X\nf: <sip:a@b>\nFrom: <sip:c@d>\n\n"
    found = pull(message)[0]
    assert (found["call_id"], found["cseq"], found["from_user"]) == (None, None, "a")
    assert sip.call_id(message) is None


def test_messages_do_not_run_into_each_other(pull: Pull) -> None:
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
        (row,) = rows(puller, message)
        assert row["call_id"] == f"{number}@192.0.2.1"
        assert all(len(cache) <= 5 for cache in caches(puller))


PIECES = st.sampled_from(
    [
        b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b"<", b">", b'"', b"@", b"SIP/2.0", b" 200 OK", b"INVITE",
        b"Call-ID", b"i", b"CALL-id: x", b"From: ", b"f:", b"To:", b"t : ", b"CSeq: 1 ACK", b"cseq:", b"User-Agent: a",
        b"Server: b", b"v: x;branch=1", b"X-CID: 1", b",", b"sip:a@b", b"tel:1", b"\xff", b"\xc3\xa4", b"\0", b"Via: x",
        b"INVITE sip:x SIP/2.0\r\n",
    ]
)  # fmt: skip
MESSAGES = st.one_of(st.lists(PIECES, max_size=25).map(b"".join), st.binary(max_size=60))


@given(st.lists(MESSAGES, min_size=1, max_size=4))
@example([b"X sip:x SIP/2.0\r\nCall-ID:\r\r\n\r\n"])
@example([b"X sip:x SIP/2.0\r\nCall-ID\r\nCall-ID: a\r\n\r\n"])
@example([b"X sip:x SIP/2.0\r\nCall-ID: a\r\nx\n\r\n b\r\ni: c\r\n\r\n"])
@example([b"X sip:x SIP/2.0\r\nX: a\n\r\nCall-ID: c\r\n\r\n"])
@example([b"X sip:x SIP/2.0\r\nCall-ID: a\r\n \r\nb\r\n\r\n"])
def test_any_bytes_give_what_plain_parsing_gives(pull: Pull, messages: list[bytes]) -> None:
    for message, found in zip(messages, pull(*messages), strict=True):
        expected = plainly(message)
        for name in FREELY_PARSED:
            del expected[name]
        assert expected.items() <= found.items()
        assert found["call_id"] == sip.call_id(message)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no folder of real messages is named by SIPDUMP_CORPUS")
def test_real_messages(pull: Pull) -> None:
    messages = [path.read_bytes() for path in sorted(CORPUS.rglob("*")) if path.is_file()]
    found = pull(*messages)
    for message, row in zip(messages, found, strict=True):
        expected = plainly(message)
        for name in FREELY_PARSED:
            del expected[name]
        assert expected.items() <= row.items()
        assert row["call_id"] == sip.call_id(message)
    assert sum(row["call_id"] is not None for row in found) > len(messages) / 2
    assert sum(row["from_user"] is not None for row in found) > len(messages) / 3


def test_hostile_messages_take_no_longer_than_their_length(pull: Pull) -> None:
    """These would take hours where time grew with the square."""
    begin = time.process_time()
    size = 1 << 18
    for piece in (
        b" ",
        b'"',
        b"<",
        b"\\",
        b"\n ",
        b"From:",
        b"\nf:",
        b"\r",
        b'"\\',
        b"a ",
        b"\nfrom ",
        b";",
        b"; ",
        b';"',
        b";branch",
        b"\nv:",
    ):
        many = piece * (size // len(piece))
        pull(b"X" + many, b"X sip:x SIP/2.0\r\nFrom: " + many, b"X sip:x SIP/2.0\r\nFrom: <sip:" + many)
        pull(
            b"X sip:x SIP/2.0\r\nFrom: <sip:a@b>" + many,
            b"X sip:x SIP/2.0\r\nVia: x;" + many,
            b"X " + many + b" SIP/2.0",
        )
        pull(b"X sip:x SIP/2.0\r\nP-Charging-Vector: " + many, b"X sip:x SIP/2.0\r\nSession-ID: " + many)
    assert time.process_time() - begin < 60
