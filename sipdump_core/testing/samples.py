"""Records to try a backend with: what real traffic holds, and what an attacker would send."""

import random
from typing import Any

from sipdump_core.record import PROTOS, Record

__all__ = ["CALL_IDS", "EXTREMES", "FIELDS", "MESSAGES", "OPTIONS", "called", "mixed", "noise", "numbered", "record"]

OPTIONS = (
    b"OPTIONS sip:bob@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n"
    b"To: <sip:b@c>\r\nCall-ID: c1@192.0.2.1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)
_TIME_US = 1_795_386_431_765_284


def record(buf: bytes = OPTIONS, **fields: Any) -> Record:
    """Make a record; fields that are not given get distinguishable values.

    Args:
        buf: the message.
        fields: any of :meth:`sipdump_core.Record.of`.
    """
    values = {
        "time_us": _TIME_US,
        "tag": "rcv",
        "pid": 2738,
        "procno": 2,
        "src_ip": "127.0.0.1",
        "src_port": 5999,
        "dst_ip": "127.0.0.1",
        "dst_port": 5070,
    }
    return Record.of(buf, **{**values, **fields})


def with_body(body: bytes) -> bytes:
    """Return a SIP message with a body and the right Content-Length."""
    return b"MESSAGE sip:x SIP/2.0\r\nCall-ID: body\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311 - the same bytes in each run


# fmt: off - one message a line
MESSAGES = {
    "plain": OPTIONS,
    "nul": OPTIONS.replace(b"bob", b"b\0b"),
    "nul_alone": b"\0",
    "nul_at_end": OPTIONS + b"\0\0",
    "eight_bit": OPTIONS.replace(b"bob", bytes(range(128, 256))),
    "all_bytes": with_body(bytes(range(256))),
    "latin1": "MESSAGE sip:jörg SIP/2.0\r\n\r\nÄÖÜ".encode("latin-1"),
    "utf8": "MESSAGE sip:jörg SIP/2.0\r\n\r\n☎ \U0001f4de e\u0301 \u2028".encode(),
    "utf8_not_quite": b"\xed\xa0\x80 \xc0\x80 \xf4\x90\x80\x80 \xe2\x82",
    "byte_order_mark": b"\xef\xbb\xbf" + OPTIONS,
    "utf16": OPTIONS.decode().encode("utf-16"),
    "escapes": b"\\n \\x00 \\u0000 %s %00 {} {0} &amp; \" ' ` \t \x1b[0m \x1a $(x)",
    "base64": b"T1BUSU9OUw==",
    "number": b"0",
    "json": b'{"buf": null}',
    "no_final_newline": b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 3\r\n\r\nabc",
    "no_blank_line": b"OPTIONS sip:x SIP/2.0\r\nVia: x",
    "one_line_no_end": b"just garbage of no line",
    "line_feeds_only": OPTIONS.replace(b"\r\n", b"\n"),
    "carriage_returns_only": OPTIONS.replace(b"\r\n", b"\r"),
    "white_space_around": b" \t\r\n" + OPTIONS + b"\r\n\r\n \t\n",
    "newline": b"\n",
    "keep_alive": b"\r\n\r\n",
    "space": b" ",
    "single_byte": b"x",
    "empty": b"",
    "separators_in_body": with_body(b"||||||||||||||||||||\n====================\nx"),
    "wrong_content_length": b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 9999\r\n\r\nabc",
    "huge_content_length": b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 9999999999999999999\r\n\r\nabc",
    "trailer_at_end": b"MESSAGE sip:x SIP/2.0\r\n\r\nabc||||||||||||||||||||\n",
    "two_messages": OPTIONS + OPTIONS,
    "long": with_body(b"long" * 15000),
    "kib_64": with_body(_noise(1 << 16)),
    "kib_64_less_1": _noise((1 << 16) - 1),
    "mib": with_body(_noise(1 << 20)),
}
"""Messages by their peculiarity."""

# fmt: on


def called(call_id: bytes, number: int = 0, header: bytes = b"Call-ID") -> bytes:
    """Return a message with a Call-ID, and a number in its CSeq."""
    head = b"OPTIONS sip:bob@192.0.2.2 SIP/2.0\r\n%b: %b\r\nCSeq: %d OPTIONS\r\n" % (header, call_id, number)
    return head + b"Content-Length: 0\r\n\r\n"


CALL_IDS = {
    "nul": b"nul\0in@192.0.2.1",
    "nul_at_end": b"nul@192.0.2.1\0",
    "eight_bit": bytes(range(128, 256)) + b"@x",
    "utf8": "jörg☎@x".encode(),
    "bytes_255": b"a" * 255,
    "bytes_256": b"a" * 256,
    "bytes_4096": b"b" * 4096,
    "bytes_4096_noise": bytes(33 + n * 7919 % 90 for n in range(4096)),
    "folded": b"folded\r\n in@two",
    "folded_often": b"folded\r\n\t in\r\n   many\n lines@x",
    "folded_at_once": b"\r\n later@x",
    "white_space": b" \t around@x \t ",
    "quotes": b'\'; DROP TABLE "x" -- %_*?[x]\\',
    "slashes": b"../../etc/passwd",
    "controls": b"\x01\x1b[0m\x7f@x",
    "case": b"CASE@X",
    "other_case": b"case@x",
    "number": b"0",
    "empty": b"",
}
"""Call-IDs as they are in a message, by their peculiarity."""

# fmt: off - one value a line
_TAGS = (
    "",
    "snd",
    "pröfung ☎ \U0001f4de",
    "||||||||||||||||||||: ===== ~~~~",
    " around ",
    "a\u0085b\u2028c\u2029d\u00a0e\ufeff",
    "'; DROP TABLE records; --",
    '"quoted", \\back\\slash \\n',
    "../../../tmp/x",
    "/etc/passwd",
    "%s %00 {0} $HOME `id`",
    "None",
    "null",
    "0",
    "true",
    "rcv",
    "RCV",
    "x" * 300,
    "e\u0301",
    "é",
    "-",
    "tag: rcv",
    "a=b&c=d",
    "*",
    "?[x]",
    "_",
)

FIELDS: dict[str, list[dict[str, Any]]] = {
    "ipv4": [
        {"src_ip": "192.0.2.1", "dst_ip": "198.51.100.2"},
        {"src_ip": "0.0.0.0", "dst_ip": "255.255.255.255"},  # noqa: S104 - a record's address, nothing is bound
        {"src_ip": "10.0.0.1", "dst_ip": "10.0.0.10"},
    ],
    "ipv6": [
        {"af": "ipv6", "src_ip": "2001:db8::1", "dst_ip": "::1"},
        {"af": "ipv6", "src_ip": "::ffff:192.0.2.1", "dst_ip": "::"},
        {"af": "ipv6", "src_ip": "fe80::1", "dst_ip": "2001:db8:1:2:3:4:5:6"},
        {"af": "ipv6", "src_ip": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "dst_ip": "2001:db8::1:0:0:1"},
    ],
    "ports": [{"src_port": a, "dst_port": b} for a, b in ((0, 65535), (65535, 1), (5060, 5061), (256, 32768))],
    "protos": [
        {"proto": proto, **family}
        for proto in PROTOS
        for family in ({}, {"af": "ipv6", "src_ip": "2001:db8::1", "dst_ip": "::1"})
    ],
    "tags": [{"tag": tag} for tag in _TAGS],
    "nodes": [{"node": node} for node in _TAGS],
    "processes": [{"pid": pid, "procno": no} for pid, no in ((0, 0), (1, 0), (4194304, 255), (2**31 - 1, 70000))],
    "times": [
        {"time_us": seconds * 1_000_000 + micros}
        for seconds, micros in (
            (0, 0),
            (0, 1),
            (1_795_386_431, 0),
            (1_795_386_431, 7),
            (1_795_386_431, 70),
            (1_795_386_431, 999_999),
            (1_795_386_431, 100_000),
            (1_774_747_800, 5),
            (1_792_890_000, 5),
            (2**31 - 1, 1),
            (2**31, 1),
            (2**32 - 1, 999_999),
        )
    ],
}
"""Values of a record's fields, by what they test: each makes one record."""
# fmt: on

EXTREMES = {
    "a Call-ID of 4,096 bytes": record(called(CALL_IDS["bytes_4096_noise"])),
    "a Call-ID of 65,000 bytes": record(called(b"c" * 65_000)),
    "a Call-ID with a NUL": record(called(CALL_IDS["nul"])),
    "a Call-ID of 8-bit bytes": record(called(CALL_IDS["eight_bit"])),
    "a message of 4 MiB": record(with_body(_noise(1 << 22))),
    "a tag of 5,000 characters": record(tag="x" * 5000),
    "a node of 5,000 characters": record(node="x" * 5000),
    "a correlation id of 5,000 characters": record(correlation_id="x" * 5000),
    "a correlation id with a NUL": record(correlation_id="a\0b"),
    "a correlation id that is no Unicode": record(correlation_id="a\ud800"),
    "a time far in the future": record(time_us=(2**32 - 1) * 1_000_000 + 999_999),
    "the largest process number": record(pid=2**31 - 1, procno=2**31 - 1),
}
"""Records that a store may refuse, by what is at fault."""


def numbered(count: int, first: int = 0) -> list[Record]:
    """Return records that differ by a number in their message and in their time."""
    flow = record().flow
    return [Record(_TIME_US + n, flow, b"%d %b" % (n, OPTIONS)) for n in range(first, first + count)]


def noise(count: int, first: int = 0) -> list[Record]:
    """Return incompressible records of 300 bytes, the same for the same numbers."""
    flow = record().flow
    return [
        Record(_TIME_US + n, flow, random.Random(n).randbytes(300))  # noqa: S311 - the same bytes in each run
        for n in range(first, first + count)
    ]


def mixed(count: int, seed: int) -> list[Record]:
    """Return records with any length and any fields, the same for the same seed; some occur more than once."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible mix
    fields = [one for group in FIELDS.values() for one in group]
    messages = list(MESSAGES.values())
    made: list[Record] = []
    for _ in range(count):
        if made and chance.random() < 0.2:
            made.append(chance.choice(made))
            continue
        buf = chance.choice(messages)[: chance.choice((None, 1, 100))] + chance.randbytes(chance.choice((0, 0, 3, 200)))
        made.append(record(buf[:5000], **chance.choice(fields)))
    return made
