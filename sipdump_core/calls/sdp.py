"""The session description of a message: which media, where to, in which codecs (RFC 8866, RFC 3264)."""

import re
from typing import NamedTuple

from sipdump_core.cache import Cache
from sipdump_core.calls.syntax import text

__all__ = ["Media", "Sdp", "find_sdp"]


class Media(NamedTuple):
    """One media description (a line ``m=`` with what belongs to it)."""

    kind: str
    """``audio``, ``video``, ``image``, ..."""
    address: str
    """Where it is to be sent, from ``c=``; empty if there is none."""
    port: int
    """0 for a stream that is refused."""
    codecs: tuple[str, ...]
    """The names of its formats, as ``PCMA``, without clock rates, in order of preference."""


class Sdp(NamedTuple):
    """A session description."""

    media: tuple[Media, ...]

    @property
    def codecs(self) -> list[str]:
        """The codecs of all streams that are not refused, each once."""
        return list(dict.fromkeys(codec for media in self.media if media.port for codec in media.codecs))

    @property
    def addresses(self) -> list[str]:
        """Address and port of all streams that are not refused, as ``192.0.2.1:4000`` and ``[2001:db8::1]:4000``."""
        return [
            f"[{media.address}]:{media.port}" if ":" in media.address else f"{media.address}:{media.port}"
            for media in self.media
            if media.port and media.address
        ]


_STATIC = {
    "0": "PCMU", "3": "GSM", "4": "G723", "5": "DVI4", "6": "DVI4", "7": "LPC", "8": "PCMA", "9": "G722", "10": "L16",
    "11": "L16", "12": "QCELP", "13": "CN", "14": "MPA", "15": "G728", "16": "DVI4", "17": "DVI4", "18": "G729",
    "25": "CelB", "26": "JPEG", "28": "nv", "31": "H261", "32": "MPV", "33": "MP2T", "34": "H263",
}  # fmt: skip
"""The static payload types of RFC 3551, section 6."""

_CACHED = 2048  # bytes of the longest body that is cached
_FOUND: "Cache[tuple[str, bytes], Sdp]" = Cache(1000)
"""The same ones come on each hop of a call."""
_LINE = re.compile(rb"(?:^|[\r\n])(?:m=([^\r\n]*+)|c=([^\r\n]*+)|a=rtpmap:([^\r\n]*+))")
_BOUNDARY = re.compile(r'boundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)


def find_sdp(content_type: str, body: bytes) -> Sdp | None:
    """Return the session description in a body, or in one of its parts (RFC 5621), or None.

    Args:
        content_type: the value of Content-Type; empty if there is none.
        body: the message's body.
    """
    key = content_type, body
    found = _FOUND.get(key)
    if found is None:  # other bodies are not cached: they are recognized at once
        found = _find(content_type, body)
        if found is not None and len(body) + len(content_type) <= _CACHED:
            _FOUND.keep(key, found)
    return found


def _find(content_type: str, body: bytes) -> Sdp | None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        boundary = _BOUNDARY.search(content_type)
        if boundary is None:
            return None
        separator = b"--" + (boundary[1] or boundary[2]).encode("utf-8", "replace")
        for part in body.split(separator)[1:]:
            head, _, inner = part.replace(b"\r\n", b"\n").partition(b"\n\n")
            if b"application/sdp" in head.lower():
                return _parse(inner)
        return None
    if kind == "application/sdp" or (not kind and body.startswith(b"v=0")):
        return _parse(body)
    return None


def _parse(body: bytes) -> Sdp:
    session_address = ""
    found: list[tuple[list[str], list[str], dict[str, str]]] = []  # m= in words, addresses, rtpmap
    for media, connection, rtpmap in _LINE.findall(body):
        if media:
            found.append((text(media).split(" "), [], {}))
        elif connection:
            words = text(connection).split(" ")
            address = words[2].partition("/")[0] if len(words) > 2 else ""
            if found:
                found[-1][1].append(address)
            else:
                session_address = address
        elif rtpmap and found:
            number, _, name = text(rtpmap).partition(" ")
            found[-1][2][number] = name.partition("/")[0]
    return Sdp(tuple(_media(words, addresses, names, session_address) for words, addresses, names in found))


def _media(words: list[str], addresses: list[str], names: dict[str, str], session_address: str) -> Media:
    digits = words[1].partition("/")[0] if len(words) > 1 else ""
    port = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 5 else 0
    codecs = dict.fromkeys(names.get(number) or _STATIC.get(number, number) for number in words[3:])
    return Media(words[0], addresses[0] if addresses else session_address, port, tuple(codecs))
