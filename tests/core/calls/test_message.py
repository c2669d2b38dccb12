"""Messages are read leniently, and in linear time."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sipdump_core import sip
from sipdump_core.calls.message import Message
from sipdump_core.calls.sdp import Media

CORPUS = Path(os.environ.get("SIPDUMP_CORPUS", "/nowhere"))

BODY = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n"
    b"m=audio 4000/2 RTP/AVP 8 96 101\r\na=rtpmap:96 opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\n"
    b"m=video 0 RTP/AVP 31\r\n"
)
INVITE = (
    b"INVITE sip:bob:secret@example.com;user=phone SIP/2.0\r\n"
    b'Via: SIP/2.0/TLS 192.0.2.1;branch=z9hG4bK-1;rport, SIP/2.0/UDP [2001:DB8::1]:5070 ;x="a,b";branch=z9hG4bK-2\r\n'
    b"v: SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK-3\r\n"
    b'From: "Alice; <x>, \\"A\\"" <sip:alice:secret@example.com;user=phone;tag=no>;tag=1\r\n'
    b"To: <tel:+49-30-1;ext=2>\r\nCall-ID: c1@192.0.2.1\r\nCSeq: 17 INVITE\r\n"
    b'm: "Bob, 2" <sip:bob@192.0.2.2:5070>;expires=60, <sips:b@[2001:db8::2]>\r\nContact:sip:c@x;expires=0\r\n'
    b'Expires: 300\r\nUser-Agent: Phone\r\n 1.0\r\nWarning: 301 x "a, b", 302 y "c"\r\n'
    b"c: application/sdp\r\nl: %d\r\n\r\n%bm=audio 1 RTP/AVP 0\r\nX-Not: in the body" % (len(BODY), BODY)
)


def test_a_request() -> None:
    message = Message(INVITE)
    assert (message.method, message.status, message.reason) == ("INVITE", None, None)
    assert message.request_uri == "sip:bob:secret@example.com;user=phone"
    assert message.request_target == ("bob", "example.com")
    assert (message.call_id, message.cseq, message.cseq_method) == ("c1@192.0.2.1", 17, "INVITE")
    assert (message.from_.host, message.to.host) == ("example.com", "")
    assert message.from_ == (
        "sip:alice:secret@example.com;user=phone;tag=no", "alice", 'Alice; <x>, "A"', "1", None
    )  # fmt: skip
    assert message.to == ("tel:+49-30-1;ext=2", "+49-30-1", "", None, None)
    assert message.vias == (
        ("tls", "192.0.2.1", 5061, "z9hG4bK-1", "z9hG4bK-1@192.0.2.1:5061", True),
        ("udp", "2001:db8::1", 5070, "z9hG4bK-2", "z9hG4bK-2@2001:db8::1:5070", True),
    )
    assert [(contact.uri, contact.user, contact.expires) for contact in message.contacts] == [
        ("sip:bob@192.0.2.2:5070", "bob", 60), ("sips:b@[2001:db8::2]", "b", None), ("sip:c@x", "c", 0),
    ]  # fmt: skip
    assert (message.expires, message.user_agent) == (300, "Phone 1.0")
    assert message.values("warning") == ['301 x "a, b"', '302 y "c"']
    assert message.content_type == "application/sdp"
    assert message.label == "INVITE"


def test_session_description() -> None:
    sdp = Message(INVITE).sdp
    assert sdp is not None
    assert sdp.media == (
        Media("audio", "192.0.2.9", 4000, ("PCMA", "opus", "telephone-event")),
        Media("video", "192.0.2.9", 0, ("H261",)),
    )
    assert (sdp.codecs, sdp.addresses) == (["PCMA", "opus", "telephone-event"], ["192.0.2.9:4000"])


def test_session_description_in_a_part() -> None:
    body = (
        b"--b1\r\nContent-Type: application/pidf+xml\r\n\r\n<x/>\r\n--b1\r\ncontent-type:application/SDP\r\n\r\n"
        b"v=0\r\nm=audio 5004 RTP/AVP 0\r\nc=IN IP6 2001:db8::9\r\n--b1--\r\n"
    )
    head = b'INVITE sip:x SIP/2.0\r\nContent-Type: multipart/mixed;boundary="b1"\r\n\r\n'
    sdp = Message(head + body).sdp
    assert sdp is not None
    assert sdp.addresses == ["[2001:db8::9]:5004"]


def test_a_reply_with_compact_forms_folds_and_bare_line_feeds() -> None:
    message = Message(
        b"sip/2.0 486 Busy  Here\nV: SIP / 2.0 / UDP\n 192.0.2.1:5070;Branch = z9hG4bKa\n"
        b"f : sip:alice@example.com;tag=1\n"
        b"T:\n <sip:bob@example.com>;tag=2\ni: c1\r\n\t@x\nCSEQ:  1  \r\n OPTIONS\nserver: \xffserver\n\ni: other"
    )
    assert (message.status, message.reason, message.label) == (486, "Busy Here", "486 Busy Here")
    assert (message.call_id, message.cseq, message.cseq_method) == ("c1 @x", 1, "OPTIONS")
    assert (message.from_.user, message.from_.tag, message.to.tag) == ("alice", "1", "2")
    assert message.via[:4] == ("udp", "192.0.2.1", 5070, "z9hG4bKa")
    assert message.header("Server") == "\\xffserver"
    assert message.all_headers()[0] == ("V", "SIP / 2.0 / UDP 192.0.2.1:5070;Branch = z9hG4bKa")
    assert message.body == b"i: other"


@pytest.mark.parametrize("buf", [b"", b"x", b"\r\n\r\n", b"no line end", b"\0" * 100, b"SIP/2.0 20 x\r\n\r\n"])
def test_what_is_no_sip(buf: bytes) -> None:
    message = Message(buf)
    assert (message.method, message.status, message.call_id, message.cseq, message.label) == (
        None,
        None,
        None,
        None,
        "?",
    )
    assert message.via == ("", "", 0, "", "", False)
    assert (message.from_.uri, message.to.tag, message.sdp, message.contacts) == ("", None, None, [])


def test_of_two_the_first_counts_even_when_it_is_empty() -> None:
    message = Message(b"X sip:x SIP/2.0\ni:\nCall-ID: second\nCSeq: none\nCSeq: 1 X\nf: <sip:a@b>\nFrom: <sip:c@d>\n\n")
    assert (message.call_id, message.cseq, message.from_.user) == (None, None, "a")


@pytest.mark.parametrize("name", ["Call-ID", "From", "To", "CSeq"])
def test_of_two_in_the_same_form_the_first_counts(name: str) -> None:
    values = {"Call-ID": b"a", "From": b"<sip:a@x>", "To": b"<sip:a@x>", "CSeq": b"1 X"}
    head = b"".join(b"%b: %b\r\n" % (other.encode(), value) for other, value in values.items())
    second = {"Call-ID": b"b", "From": b"<sip:b@x>", "To": b"<sip:b@x>", "CSeq": b"2 Y"}[name]
    message = Message(b"X sip:x SIP/2.0\r\n" + head + b"%b: %b\r\n\r\n" % (name.encode(), second))
    assert (message.call_id, message.from_.user, message.to.user) == ("a", "a", "a")
    assert (message.cseq, message.cseq_method) == (1, "X")


@pytest.mark.parametrize(("digits", "value"), [(10, 9_999_999_999), (18, 10**18 - 1), (19, None), (20, None)])
def test_numbers_without_end_are_none(digits: int, value: int | None) -> None:
    """Nineteen nines do not fit into the 64 bits that stores have for a number."""
    nines = b"9" * digits
    message = Message(
        b"X sip:x SIP/2.0\r\nCSeq: %b X\r\nExpires: %b\r\nm: <sip:a@b>;expires=%b\r\n\r\n" % ((nines,) * 3)
    )
    assert (message.cseq, message.expires, message.contacts[0].expires) == (value, value, value)


def test_line_ends_before_a_message_are_no_part_of_it() -> None:
    message = Message(b"\r\n\r\nINVITE sip:x SIP/2.0\r\nCall-ID: x\r\nSubject: y\r\n\r\nv=0\r\n")
    assert (message.method, message.call_id, message.header("s"), message.body) == ("INVITE", "x", None, b"v=0\r\n")
    assert message.header("subject") == "y"
    assert message.sdp is not None


def everything(message: Message) -> None:
    """Ask a message for all that it has."""
    for name in dir(message):
        if not name.startswith("_") and not callable(getattr(message, name)):
            getattr(message, name)
    for name in ("contact", "reason", "via"):
        message.header(name), message.headers(name), message.values(name)
    message.all_headers()


PIECES = st.sampled_from(
    [
        b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b"<", b">", b'"', b"@", b",", b"\\", b"SIP/2.0", b" 200 OK",
        b"INVITE", b"Call-ID", b"i", b"CALL-id: x", b"From: ", b"f:", b"To:", b"t : ", b"CSeq: 1 ACK",
        b"Via: SIP/2.0/UDP",
        b"m: ", b"sip:a@b", b"tel:1", b";tag=", b";branch=z9hG4bK", b"\xff", b"\xc3\xa4", b"\0", b"v=0", b"m=audio 1",
        b"a=rtpmap:", b"c=IN IP4", b"c: multipart/x;boundary=b", b"--b", b"INVITE sip:x SIP/2.0\r\n",
    ]
)  # fmt: skip
MESSAGES = st.one_of(st.lists(PIECES, max_size=25).map(b"".join), st.binary(max_size=60))


@given(MESSAGES)
@example(b"X sip:x SIP/2.0\r\nCall-ID:\r\r\n\r\n")
@example(b"\r\nCALL-id: x")
@example(b"X sip:x SIP/2.0\r\nCall-ID: a\r\n \r\nb\r\n\r\n")
def test_nothing_raises_on_any_bytes(buf: bytes) -> None:
    message = Message(buf)
    everything(message)
    assert message.call_id == sip.call_id(buf)


@pytest.mark.parametrize(
    "piece",
    [b" ", b'"', b"<", b"\\", b"\n ", b"From:", b"\nf:", b"\r", b'"\\', b"a ", b"\nfrom ", b",", b";", b"; ",
     b"\nVia: ", b"\nm: a", b"m=", b"\nm=audio 1 RTP/AVP 1", b"--b", b";tag", b";branch=", b"/ ", b"[",
     b"sip:", b"\r\n\r", b"<>,"],
)  # fmt: skip
def test_hostile_messages_take_no_longer_than_their_length(piece: bytes) -> None:
    """These would take minutes and hours where time grew with the square."""
    many = piece * ((1 << 17) // len(piece))
    begin = time.process_time()
    everything(Message(b"X" + many))
    for head in (b"From: ", b"Via: SIP/2.0/UDP x", b"m: ", b"c: ", b"c: multipart/x;boundary=b\r\n\r\n",
                 b"c: application/sdp\r\n\r\n"):  # fmt: skip
        everything(Message(b"X sip:x SIP/2.0\r\n" + head + many))
    assert time.process_time() - begin < 10


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no folder of real messages is named by SIPDUMP_CORPUS")
def test_real_messages() -> None:
    messages = [Message(path.read_bytes()) for path in sorted(CORPUS.rglob("*.sip"))]
    for message in messages:
        everything(message)
        assert message.call_id == sip.call_id(message.buf)
    assert sum(message.cseq is not None for message in messages) > len(messages) / 2
