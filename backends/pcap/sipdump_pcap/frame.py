"""The layout of a packet: classic pcap, and Ethernet, IP and UDP headers.

Classic pcap (draft-ietf-opsawg-pcap): magic a1b2c3d4 in host byte order, version 2.4, Ethernet. Each message is one
UDP datagram over IPv4 (TTL 128) or IPv6, whatever its transport was, with MAC addresses of zero (source:
``sipdump_write_pcap`` of Kamailio 5.6.3). That module leaves every checksum 0; here the IPv4 header's is right, and so
is the UDP checksum on IPv6, where 0 is illegal (RFC 8200, section 8.1).
"""

import socket
import struct

import attrs

from sipdump_core.record import AFS, Flow

__all__ = [
    "FILE_HEADER",
    "IPV4",
    "IPV4_HEADERS",
    "IPV4_MIDDLE",
    "IPV4_PAYLOAD",
    "IPV4_START",
    "IPV6",
    "IPV6_HEADERS",
    "IPV6_MIDDLE",
    "IPV6_PAYLOAD",
    "IPV6_START",
    "LINKTYPE_ETHERNET",
    "MAGIC",
    "MAGIC_NANOSECONDS",
    "PACKET_HEADER",
    "SNAPLEN",
    "Frame",
    "frame_of",
    "udp_checksum",
]

SNAPLEN = 262_144
"""Bytes that a packet may keep of a frame: libpcap's maximum, as tcpdump has it. Kamailio's module writes 65535."""
MAGIC = 0xA1B2C3D4
MAGIC_NANOSECONDS = 0xA1B23C4D
LINKTYPE_ETHERNET = 1
FILE_HEADER = struct.Struct("=IHHiIII")
PACKET_HEADER = struct.Struct("=IIII")
IPV4 = struct.Struct(">16sH6sH12sHH")
"""Ethernet, IPv4 and UDP headers: before, IP length, between, IP checksum, after, UDP length, UDP checksum."""
IPV6 = struct.Struct(">18sH2s36sHH")
"""Ethernet, IPv6 and UDP headers: before, IP length, between, after, UDP length, UDP checksum."""
IPV4_HEADERS = 14 + 20 + 8
IPV6_HEADERS = 14 + 40 + 8
IPV4_PAYLOAD = 65535 - 20 - 8
"""Bytes of the longest datagram's payload: IPv4's length counts its own header (RFC 791)."""
IPV6_PAYLOAD = 65535 - 8
"""The same over IPv6, whose length does not (RFC 8200)."""
_MACS = bytes(12)
IPV4_START = _MACS + b"\x08\0\x45\0"
"""What our frames and Kamailio's begin with, up to IPv4's length field."""
IPV4_MIDDLE = b"\0\0\0\0\x80\x11"
"""What they have between length and checksum: identification and fragment 0, TTL 128, UDP."""
IPV6_START = _MACS + b"\x86\xdd\x60\0\0\0"
"""The same up to IPv6's length field, with a flow label of 0."""
IPV6_MIDDLE = b"\x11\0"
"""What they have between length and addresses: UDP, hop limit 0."""


@attrs.frozen
class Frame:
    """What the frames of one flow have in common."""

    flow: Flow
    """Kept alive, so that no other flow can get its id."""
    before: bytes
    """Ethernet header, and IP header up to its length field."""
    between: bytes
    """The IP header between the fields that vary with the length."""
    after: bytes
    """The IP addresses and the UDP ports."""
    sum: int
    """One's complement sum of what never changes, for the checksum."""
    headers: int
    """Length of all headers in bytes."""
    longest: int
    """Bytes of the longest frame that IP allows."""

    def foreign(self) -> "Frame":
        """Return the same with an IP header that neither flag 8 nor Kamailio makes: identification or flow label 1."""
        if self.headers == IPV4_HEADERS:
            return attrs.evolve(self, between=b"\0\1" + self.between[2:], sum=_fold(self.sum + 1))
        return attrs.evolve(self, before=self.before[:-1] + b"\1")

    def headers_of(self, buf: bytes) -> bytes:
        """Return the headers of the frame for a payload, which IP must allow."""
        length = len(buf) + 8
        if self.headers == IPV6_HEADERS:
            check = udp_checksum(self, length, buf)
            return IPV6.pack(self.before, length, self.between, self.after, length, check)
        check = self.sum + length + 20
        check = 0xFFFF - (check & 0xFFFF) - (check >> 16)
        return IPV4.pack(self.before, length + 20, self.between, check, self.after, length, 0)


def frame_of(flow: Flow) -> Frame:
    """Return what the frames of a flow have in common."""
    family = AFS[flow.af]
    addresses = socket.inet_pton(family, flow.src_ip) + socket.inet_pton(family, flow.dst_ip)
    ports = struct.pack(">HH", flow.src_port, flow.dst_port)
    if flow.af == "ipv4":
        words = struct.unpack(">11H", IPV4_START[-2:] + IPV4_MIDDLE + addresses + bytes(6))
        longest = IPV4_HEADERS + IPV4_PAYLOAD
        return Frame(flow, IPV4_START, IPV4_MIDDLE, addresses + ports, _fold(sum(words)), IPV4_HEADERS, longest)
    constant = sum(struct.unpack(">18H", addresses + ports)) + socket.IPPROTO_UDP
    longest = IPV6_HEADERS + IPV6_PAYLOAD
    return Frame(flow, IPV6_START, IPV6_MIDDLE, addresses + ports, constant, IPV6_HEADERS, longest)


def udp_checksum(frame: Frame, length: int, buf: bytes) -> int:
    """Return the UDP checksum over IPv6 (RFC 768, RFC 8200).

    A one's complement sum of 16-bit words is the remainder of division by 65535, because 65536 leaves 1.

    Args:
        frame: of the datagram's flow.
        length: the datagram's, with its header, in bytes.
        buf: the payload.
    """
    words = int.from_bytes(buf, "big") << (8 * (len(buf) & 1))
    return 0xFFFF - (words + frame.sum + 2 * length) % 0xFFFF or 0xFFFF


def _fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
