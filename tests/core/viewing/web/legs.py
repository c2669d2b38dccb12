"""Calls for the page's tests: one of three legs with 60 messages, and those of somebody who means harm."""

from itertools import pairwise

from sipdump_core.record import Record
from tests.core.reading.traffic import at

LEGS = ("leg-a@192.0.2.10", "leg-b@203.0.113.1", "leg-c@203.0.113.7")
PHONE, PROXY, SBC, GATEWAY, APP = "192.0.2.10", "203.0.113.1", "203.0.113.7", "198.51.100.30", "203.0.113.20"
HOSTILE = (
    "<script>document.title='taken'</script>",
    "a/b/../c%2f d",
    "..",
    '"><img src=x onerror=alert(1)>',
    "rtl\u202egnp.exe",
    "{{7*7}}{%raw%}",
    "bytes-\udcff\udcfe@x",
    "' onfocus='alert(1)",
    "]]></style><style>*{display:none}",
    "x" * 3000,
)
"""Call-IDs that try to be something else."""
SDP = (
    "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 8 0 101\r\n"
    "a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n"
)


def message(
    first: str,
    call_id: str,
    time_us: int,
    src: str,
    dst: str,
    *,
    cseq: str,
    branch: str,
    tagged: bool,
    via: str,
    headers: str = "",
    body: str = "",
    users: tuple[str, str] = ("alice", "bob"),
) -> Record:
    kind = "Content-Type: application/sdp\r\n" if body else ""
    to = f"<sip:{users[1]}@example.com>" + (";tag=2" if tagged else "")
    buf = (
        f"{first}\r\nVia: SIP/2.0/UDP {via}:5060;branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\n"
        f"From: <sip:{users[0]}@example.com>;tag=1\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n"
        f"{headers}{kind}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode("utf-8", "surrogateescape")
    return Record.of(
        buf, time_us=time_us, tag="rcv", pid=7, procno=2, proto="udp", af="ipv4",
        src_ip=src, src_port=5060, dst_ip=dst, dst_port=5060, node="edge-1",
    )  # fmt: skip


def leg(call_id: str, path: tuple[str, ...], began: int, headers: str = "", updates: int = 2) -> list[Record]:
    """Return a call over some hops, with session descriptions, a retransmission, and changes within the dialog."""
    found: list[Record] = []

    def hop(first: str, at_us: int, cseq: str, *, back: bool, tagged: bool, body: str = "") -> int:
        hops = list(pairwise(path))
        for number, (src, dst) in enumerate(reversed(hops) if back else hops):
            via = path[len(hops) - 1 - number] if back else src
            branch = f"{cseq.replace(' ', '')}{via}{call_id}"
            ends = (dst, src) if back else (src, dst)
            found.append(
                message(first, call_id, at_us, *ends, cseq=cseq, branch=branch, tagged=tagged, via=via,
                        headers=headers if first.startswith("INVITE") else "", body=body)
            )  # fmt: skip
            at_us += 1500
        return at_us

    offer, answer = SDP.format(ip=path[0], port=4002), SDP.format(ip=path[-1], port=6000)
    uri = "sip:bob@example.com"
    hop(f"INVITE {uri} SIP/2.0", began, "1 INVITE", back=False, tagged=False, body=offer)
    first = found[-1]
    found.append(first.__class__(first.time_us + 500_000, first.flow, first.buf))  # sent again
    hop("SIP/2.0 100 Trying", began + 520_000, "1 INVITE", back=True, tagged=False)
    hop("SIP/2.0 180 Ringing", began + 900_000, "1 INVITE", back=True, tagged=True)
    hop("SIP/2.0 200 OK", began + 3_000_000, "1 INVITE", back=True, tagged=True, body=answer)
    hop(f"ACK {uri} SIP/2.0", began + 3_010_000, "1 ACK", back=False, tagged=True)
    for number in range(updates):
        when = began + 10_000_000 + number * 5_000_000
        hop(f"UPDATE {uri} SIP/2.0", when, f"{number + 2} UPDATE", back=False, tagged=True)
        hop("SIP/2.0 200 OK", when + 20_000, f"{number + 2} UPDATE", back=True, tagged=True)
    hop(f"BYE {uri} SIP/2.0", began + 60_000_000, "9 BYE", back=False, tagged=True)
    hop("SIP/2.0 200 OK", began + 60_020_000, "9 BYE", back=True, tagged=True)
    return found


def three_legs(began: int = at("10:32:07")) -> list[list[Record]]:
    """Return one call of three legs, which the header X-CID links, with 60 messages."""
    return [
        leg(LEGS[0], (PHONE, PROXY, SBC), began, updates=3),
        leg(LEGS[1], (SBC, APP, GATEWAY), began + 20_000, f"X-CID: {LEGS[0]}\r\n", updates=3),
        leg(LEGS[2], (APP, "203.0.113.40"), began + 40_000, f"X-CID: {LEGS[0]}\r\n", updates=2),
    ]


def hostile(began: int = at("11:00:00")) -> list[list[Record]]:
    """Return calls in which every header tries to be markup."""
    evil = "<b onclick=alert(1)>x</b>\u202e"
    headers = f"User-Agent: {evil}\r\nSubject: </pre><script>alert(2)</script>\r\n"
    found = []
    for number, call_id in enumerate(HOSTILE):
        invite = message(
            "INVITE sip:<i>b</i>@example.com SIP/2.0", call_id, began + number * 1_000_000, PHONE, PROXY,
            cseq="1 INVITE", branch=f"h{number}", tagged=False, via=PHONE, headers=headers,
            users=("<u>a</u>", '"&lt;b'),
        )  # fmt: skip
        answer = message(
            "SIP/2.0 486 </text><script>alert(3)</script>", call_id, began + number * 1_000_000 + 20_000, PROXY, PHONE,
            cseq="1 INVITE", branch=f"h{number}", tagged=True, via=PHONE, headers=headers, users=("<u>a</u>", '"&lt;b'),
        )  # fmt: skip
        found.append([invite, answer])
    return found
