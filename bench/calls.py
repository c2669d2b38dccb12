"""Traffic of whole calls, as a proxy sees it: the input for measuring sizes and searches.

Generated, and the same each time: each call has its own Call-ID, tags and branches; users and phones are drawn from
small pools; each has an SDP offer and answer; as many calls overlap as are open at once.
"""

import random
from collections.abc import Iterator

from sipdump_core.record import Flow, Record

OPEN = 200
"""Calls in progress at once."""
MESSAGES = 7
"""Messages a call: INVITE, 100, 180, 200, ACK, BYE, 200."""
_PHONES = (
    "Yealink SIP-T46U 108.86.0.118",
    "PolyVVX-VVX_450-UA/6.4.6",
    "Linphone-Desktop/5.2.4 (ubuntu)",
    "Zoiper v2.10",
)
START_US = 1_795_386_431_000_000
"""Time of the first message."""
STEP_US = 100
"""Microseconds from one message to the next."""


def call_id(call: int) -> str:
    """Return the Call-ID of a call by its number."""
    return f"{random.Random(call).getrandbits(96):024x}@198.51.100.{call % 250 + 1}"


def records(calls: int) -> Iterator[Record]:
    """Yield the messages of ``count`` calls in time order, 100 us apart."""
    flows: dict[tuple[str, int], Flow] = {}
    time_us = START_US
    for first in range(0, calls, OPEN):
        batch = [_messages(call, flows) for call in range(first, min(first + OPEN, calls))]
        for step in range(MESSAGES):
            for messages in batch:
                flow, buf = messages[step]
                yield Record(time_us, flow, buf)
                time_us += STEP_US


def _messages(call: int, flows: dict[tuple[str, int], Flow]) -> list[tuple[Flow, bytes]]:
    draw = random.Random(call)
    host = f"198.51.100.{call % 250 + 1}"
    draw.getrandbits(96)  # the Call-ID's
    caller, callee = 49_30_1000000 + draw.randrange(5000), 49_89_2000000 + draw.randrange(5000)
    branch, from_tag, to_tag = (f"{draw.getrandbits(64):016x}" for _ in range(3))
    phone = draw.choice(_PHONES)
    media = draw.randrange(16384, 32766) & ~1

    def flow(tag: str) -> Flow:
        known = flows.get((tag, call % 250))
        if known is None:
            ends = (host, 5060, "192.0.2.10", 5061) if tag == "rcv" else ("192.0.2.10", 5061, host, 5060)
            known = flows[tag, call % 250] = Flow(tag, 4000 + call % 8, call % 8, "tls", "ipv4", *ends)
        return known

    def message(first: str, cseq: str, *, tagged: bool, sdp: bool, request: bool) -> tuple[Flow, bytes]:
        body = (
            f"v=0\r\no=- {call} {call} IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
            f"m=audio {media} RTP/SAVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
            "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
            if sdp
            else ""
        )
        to_part = f";tag={to_tag}" if tagged else ""
        agent = f"User-Agent: {phone}\r\n" if request else "Server: kamailio (5.6.3 (x86_64/linux))\r\n"
        text = (
            f"{first}\r\nVia: SIP/2.0/TLS {host}:5060;rport;branch=z9hG4bK{branch}{cseq[0]}\r\nMax-Forwards: 70\r\n"
            f'From: "User {caller}" <sip:+{caller}@example.com>;tag={from_tag}\r\n'
            f"To: <sip:+{callee}@example.com>{to_part}\r\nCall-ID: {call_id(call)}\r\nCSeq: {cseq}\r\n"
            f"Contact: <sip:+{caller}@{host}:5060;transport=tls>\r\n{agent}"
            "Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO\r\n"
            + ("Content-Type: application/sdp\r\n" if sdp else "")
            + f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        return flow("rcv" if request else "snd"), text.encode()

    target = f"sip:+{callee}@example.com"
    return [
        message(f"INVITE {target} SIP/2.0", "1 INVITE", tagged=False, sdp=True, request=True),
        message("SIP/2.0 100 Trying", "1 INVITE", tagged=False, sdp=False, request=False),
        message("SIP/2.0 180 Ringing", "1 INVITE", tagged=True, sdp=False, request=False),
        message("SIP/2.0 200 OK", "1 INVITE", tagged=True, sdp=True, request=False),
        message(f"ACK {target} SIP/2.0", "1 ACK", tagged=True, sdp=False, request=True),
        message(f"BYE {target} SIP/2.0", "2 BYE", tagged=True, sdp=False, request=True),
        message("SIP/2.0 200 OK", "2 BYE", tagged=True, sdp=False, request=False),
    ]
