# ruff: noqa: E501 - headers stand here as they are on the wire
"""Masks whole messages: what it leaves, how long bodies are, what cannot be parsed."""

import attrs
import pytest

from sipdump_core.calls.message import Message
from sipdump_core.masking.masker import DROP, STORE, Masker, Rules
from sipdump_core.masking.users import Tokens
from sipdump_core.testing import record

KEY = b"0123456789abcdef"
TOKENS = Tokens(KEY)
ALICE, BOB = TOKENS.stand_in(b"alice"), TOKENS.stand_in(b"bob")
USERS = Rules(users=TOKENS)
HEAD = b"INVITE sip:bob@example.com SIP/2.0\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n"


def masked(rules: Rules, buf: bytes) -> bytes:
    found = Masker(rules).message(buf)
    assert found is not None
    return found


def message(kind: bytes, body: bytes, more: bytes = b"") -> bytes:
    return HEAD + more + b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(body), body)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'From: "Alice" <sip:alice@h;x=1>;tag=1', b'From: "%b" <sip:%b@h;x=1>;tag=1' % (TOKENS.stand_in(b"Alice"), ALICE)),
        (b"t:Bob B <sip:bob@h>", b"t:%b <sip:%b@h>" % (TOKENS.stand_in(b"Bob B"), BOB)),
        (b"To: sip:bob:secret@h;tag=1", b"To: sip:%b@h;tag=1" % BOB),
        (b"To: Bob B sip:bob@h", b"To: %b sip:%b@h" % (TOKENS.stand_in(b"Bob B"), BOB)),
        (b'm: <sip:bob@h>, "Bob" sip:bob@h;x="y"', b'm: <sip:%b@h>, "%b" sip:%b@h;x="y"' % (BOB, TOKENS.stand_in(b"Bob"), BOB)),
        (b'From: "Bob, B. C"', b'From: "%b"' % TOKENS.stand_in(b"Bob, B. C")),
        (b"From: B. Bob , alice;tag=1,bob@h", b"From: %b , %b;tag=1,%b@h" % (TOKENS.stand_in(b"B. Bob"), ALICE, BOB)),
        (b'm: <sip:bob@h>, "alice <bob@h>', b'm: <sip:%b@h>, "%b<%b@h>' % (BOB, ALICE, BOB)),
        (b"To: h.example.com;tag=1", None),
        (b"Contact: *", b"Contact: *"),
        (b"Contact: <sip:10.0.0.1:5060;lr>;+sip.instance=\"<urn:uuid:1>\"", None),
        (b"To: <urn:service:sos>", None),
        (b'To: "" <sip:h>', None),
        (b"To: <sip:10.0.0.1>", None),
        (b"Via: SIP/2.0/UDP h;branch=z9hG4bK1", None),
        (b"Call-ID: 493012345@h", None),
        (b"User-Agent: sipp", None),
        (b"Subject: hotel:12 (sip)", None),
        (b"Call-Info: <http://h/alice>;purpose=icon", None),
        (b"Replaces: 1@h;to-tag=1;from-tag=2", None),
        (b"Identity: x", b"Identity: redacted"),
        (b"Authorization: Basic eA==", b"Authorization: Basic redacted"),
        (b'Authorization: Digest username="alice", response="1"', b'Authorization: Digest username="%b", response="1"' % ALICE),
        (b'Authorization: Digest username="alice@h", uri="sip:bob@h"', b'Authorization: Digest username="%b@h", uri="sip:%b@h"' % (ALICE, BOB)),
    ],
)  # fmt: skip
def test_users_in_headers(line: bytes, expected: bytes | None) -> None:
    made = b"SIP/2.0 200 OK\r\n" + line + b"\r\n\r\n"
    assert masked(USERS, made) == (made if expected is None else b"SIP/2.0 200 OK\r\n" + expected + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'Authorization: Digest username="a", realm="r", nonce="n", uri="sip:h", response="5", algorithm=MD5',
         b'Authorization: Digest username="a", realm="r", nonce="redacted", uri="sip:h", response = "redacted", algorithm=MD5'),
        (b"Proxy-Authorization: Digest cnonce=x,qop=auth , nc=00000001",
         b"Proxy-Authorization: Digest cnonce=redacted,qop=auth , nc=00000001"),
        (b"Authorization: Bearer a.b.c", b"Authorization: Bearer redacted"),
        (b"Authorization: secret", b"Authorization: redacted"),
        (b'WWW-Authenticate: Digest realm="r", nonce="n", opaque="", qop="auth,auth-int", stale=FALSE, Basic realm="r"',
         b'WWW-Authenticate: Digest realm="r", nonce="redacted", opaque="redacted", qop="auth,auth-int", stale=FALSE, Basic realm="r"'),
        (b'Authentication-Info: nextnonce="n", qop=auth, rspauth="r"',
         b'Authentication-Info: nextnonce="redacted", qop=auth, rspauth="redacted"'),
    ],
)  # fmt: skip
def test_credentials_keep_their_syntax(line: bytes, expected: bytes) -> None:
    made = b"SIP/2.0 200 OK\r\n" + line + b"\r\n\r\n"
    assert masked(Rules(credentials=True), made) == b"SIP/2.0 200 OK\r\n" + expected + b"\r\n\r\n"


def test_content_length_stays_right_and_a_wrong_one_as_wrong_as_it_was() -> None:
    made = message(b"text/plain", b"call sip:bob@example.com")
    found = Message(masked(USERS, made))
    assert found.body == b"call sip:%b@example.com" % BOB
    assert found.header("content-length") == str(len(found.body))
    wrong = made.replace(b"Content-Length: 24", b"l :\r\n 30")
    assert b"l :\r\n %d\r\n" % (30 + len(BOB) - 3) in masked(USERS, wrong)


def test_bodies_go_by_method_in_requests_and_replies() -> None:
    rules = Rules(bodies=["MESSAGE", "INFO"])
    for first, cseq, hidden in (
        (b"MESSAGE sip:bob@h SIP/2.0", b"1 MESSAGE", True),
        (b"SIP/2.0 200 OK", b"1 INFO", True),
        (b"INVITE sip:bob@h SIP/2.0", b"1 INVITE", False),
        (b"SIP/2.0 200 OK", b"1 INVITE", False),
    ):
        head = first + b"\r\nCSeq: " + cseq + b"\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
        assert masked(rules, head + b"hello") == head + (b"xxxxx" if hidden else b"hello")
    assert masked(Rules(bodies=["*"]), message(b"text/plain", b"hello")).endswith(b"\r\n\r\nxxxxx")


def test_several_messages_in_one_record_are_masked_each() -> None:
    one = message(b"text/plain", b"sip:bob@h", b"X-Secret: 1\r\n")
    rules = attrs.evolve(USERS, headers=["X-Secret"])
    assert masked(rules, one + one + b"\r\n\r\n") == masked(rules, one) * 2 + b"\r\n\r\n"
    assert masked(rules, message(b"text/plain", b"") * 3_000).count(BOB) == 3_000


@pytest.mark.parametrize("length", [b"Content-Length: 3", b"Content-Length: 5000", b"Content-Length: x", b"X: y"])
def test_a_message_behind_a_wrong_length_is_masked_all_the_same(length: bytes) -> None:
    first = message(b"text/plain", b"hello\r\n").replace(b"Content-Length: 7", length)
    second = HEAD + b"X-Secret: 1\r\nFrom: Alice <sip:bob@h>\r\ny: 1\r\n\r\n"
    found = masked(attrs.evolve(USERS, headers=["X-Secret"]), first + second)
    head = HEAD.replace(b"bob", BOB) + b"X-Secret: redacted\r\nFrom: %b <sip:%b@h>\r\ny: redacted\r\n\r\n"
    assert found.endswith(b"\r\n\r\nhello\r\n" + head % (TOKENS.stand_in(b"Alice"), BOB))
    found = masked(Rules(headers=["X-Secret"]), first + second)
    assert found.endswith(b"\r\n\r\nhello\r\n" + second.replace(b"t: 1", b"t: redacted"))


def test_a_line_in_a_body_that_is_no_header_costs_the_body_alone() -> None:
    made = message(b"message/sipfrag", b"SIP/2.0 200 OK\r\nno header\r\n")
    assert masked(USERS, made) == message(b"message/sipfrag", b"x" * 27).replace(b"bob", BOB)


@pytest.mark.parametrize(
    "buf",
    [
        b"hello",
        b"\x00\x01\x02",
        b"INVITE sip:a@b\r\nCall-ID: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        HEAD + b"no header\r\n\r\n",
        HEAD + b": x\r\n\r\n",
        HEAD + b"A: b\rAuthorization: Basic x\r\n\r\n",
        HEAD + b"A: b\r\n Authorization: Basic x\r\n\r\n",
        HEAD + b"\xa0Authorization: Basic x\r\n\r\n",
        HEAD + b"A: b\r\n\x0bAuthorization: Basic x\r\n\r\n",
    ],
)
def test_what_cannot_be_parsed_is_masked_dropped_or_stored(buf: bytes) -> None:
    rules = Rules(credentials=True, users=TOKENS)
    masker = Masker(rules)
    assert masker.message(buf) == b"x" * len(buf)
    assert masker.unparsed == 1
    assert Masker(attrs.evolve(rules, unparsed=STORE)).message(buf) is buf
    dropping = Masker(attrs.evolve(rules, unparsed=DROP))
    assert dropping.mask(record(buf)) is None
    assert Masker(Rules()).message(buf) is buf


@pytest.mark.parametrize("buf", [b"", b"\r\n\r\n", b"\0\0\0\0", b" \n"])
def test_a_keep_alive_stays(buf: bytes) -> None:
    assert Masker(Rules(credentials=True)).message(buf) is buf
    assert Masker(USERS).message(buf) is buf


@pytest.mark.parametrize("kind", [b"application/sdp\r\nContent-Encoding: gzip", b"application/isup", b"text/vcard"])
def test_a_body_that_cannot_be_read_goes_by_itself(kind: bytes) -> None:
    made = message(kind, b"12345")
    assert masked(USERS, made).endswith(b"\r\n\r\nxxxxx")
    assert masked(attrs.evolve(USERS, unparsed=STORE), made).endswith(b"\r\n\r\n12345")
    assert Masker(attrs.evolve(USERS, unparsed=DROP)).message(made) is None


def test_a_record_with_nothing_to_hide_is_the_same_object() -> None:
    one = record(b"SIP/2.0 200 OK\r\nCall-ID: 1\r\n\r\n")
    for rules in (Rules(credentials=True, keys=True), USERS):
        assert Masker(rules).mask(one) is one
    other = record(message(b"text/plain", b""))
    changed = Masker(USERS).mask(other)
    assert changed is not None
    assert attrs.evolve(changed, buf=other.buf) == other


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "filling",
    [b"sip:", b"@", b'"', b'"\\', b"<sip:", b"%3A", b"sip:a@", b"a@", b";rn=1", b"\r\n ", b"sip:a@b,", b"\r\na=crypto:1",
     b"\r\n--x", b"a=b,", b"x= ", b"?a=", b"%26", b"%3F%2", b"%2525", b"?%61%3D", b"\r\no=a b", b"a "],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", [b"From: %b", b"Authorization: Digest %b", b"Content-Type: multipart/mixed;boundary=x\r\n\r\n%b"]
)
def test_hostile_messages_take_no_longer_than_their_length_asks_for(place: bytes, filling: bytes) -> None:
    buf = HEAD + place % (filling * (200_000 // len(filling))) + b"\r\n\r\n"
    assert Masker(Rules(credentials=True, keys=True, users=TOKENS)).message(buf)  # a square would take minutes
