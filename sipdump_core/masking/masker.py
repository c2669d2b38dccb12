"""The masker: finds in a message what its rules hide, and leaves every other byte as it was.

Where users stay, nearly all messages have nothing to hide: one expression looks for lines that do. All others are taken
apart line by line; lines repeat, in a call and from call to call, so what became of one is remembered.

What cannot be parsed could hide anything. That is a message without SIP's start line, one with a line among its headers
that is none, or with a lone carriage return there, which some take for a line end; and a body that is encoded.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial

import attrs

from sipdump_core.cache import Cache
from sipdump_core.masking import credentials, sdp
from sipdump_core.masking.addresses import Addresses
from sipdump_core.masking.bodies import Bodies, OpaqueError
from sipdump_core.masking.syntax import LONE_CR, NAME, START_LINE, any_name, full_name, has_uri
from sipdump_core.masking.users import Users
from sipdump_core.record import Record

__all__ = ["DROP", "MASK", "STORE", "Masker", "Rules"]

MASK, DROP, STORE = "mask", "drop", "store"
"""What becomes of a message, or a body, that cannot be parsed."""

_ANSWERS = ("authorization", "proxy-authorization")
_CHALLENGES = ("www-authenticate", "proxy-authenticate")
_INFOS = ("authentication-info", "proxy-authentication-info")
_WHOLE = ("identity",)
_IDENTITIES = frozenset(
    {b"f", b"t", b"m", b"r", b"b", b"from", b"to", b"contact", b"p-asserted-identity", b"p-preferred-identity",
     b"p-called-party-id", b"diversion", b"remote-party-id", b"referred-by", b"history-info", b"refer-to",
     b"reply-to", b"p-associated-uri", b"p-served-user", b"p-charge-info"}
)  # fmt: skip
"""Headers that name nothing but users, with their compact forms."""
_ENCODINGS = ("content-encoding", "content-transfer-encoding")
_CONTENT_LENGTH = re.compile(
    rb"\n(?=[CcLl])((?i:content-length|l)[ \t]*:(?:[ \t]|\r?\n[ \t])*)(\d{1,10})(?=[ \t]*\r?(?:\n|\Z))"
)
_CSEQ = re.compile(rb"\n(?i:cseq)[ \t]*:\s*\d+\s+([^\s]+)")
_SIP, _VERSIONS = b"SIP/2.0 ", (b" SIP/2.0\r", b" SIP/2.0")
_REQUEST = re.compile(rb"[\r\n]*([^ \r\n]+) ")
_BLANK = re.compile(rb"[\r\n\0 \t]*")
_END = re.compile(rb"\n(\r?\n)")
_FOLD = (b" ", b"\t")
_SMUGGLED = re.compile(rb"[^!-~]+(?:proxy-|www-)?auth[a-z-]*[ \t]*:", re.IGNORECASE)
_LONGEST_CACHED = 1024
_KEPT_LINES = 20_000

_lone_cr = LONE_CR.search
Value = Callable[[bytes], bytes]


def _full_names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(map(full_name, names))


def _all(methods: Iterable[str]) -> frozenset[str]:
    return frozenset(methods)


@attrs.frozen
class Rules:
    """What is masked."""

    credentials: bool = False
    """Digests, nonces, tokens: what proves who somebody is."""
    keys: bool = False
    """Keys of media in session descriptions."""
    bodies: frozenset[str] = attrs.field(default=frozenset(), converter=_all)
    """The methods whose bodies are masked, in requests and replies; ``*``: all."""
    headers: frozenset[str] = attrs.field(default=frozenset(), converter=_full_names)
    """Names of further headers whose values are masked."""
    users: Users | None = None
    """Makes what stands for users; None: they stay."""
    unparsed: str = MASK
    """``mask``, ``drop`` or ``store``: what becomes of what cannot be parsed."""

    @property
    def active(self) -> bool:
        """Whether anything is masked."""
        return bool(self.credentials or self.keys or self.bodies or self.headers or self.users)


class _UnparsedError(Exception):
    """A message cannot be parsed."""


class Masker:
    """Masks messages. All methods may be called from any thread.

    Args:
        rules: what is masked.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.unparsed = 0
        """Messages, or their bodies, that could not be parsed."""
        users = rules.users
        self._addresses = Addresses(users) if users else None
        self._methods = frozenset(method.upper().encode() for method in rules.bodies)
        self._handlers = self._make_handlers()
        self._lines: Cache[bytes, bytes] = Cache(_KEPT_LINES)
        self._starts: Cache[bytes, bytes] = Cache(_KEPT_LINES)
        self._embedded = frozenset(name for name in self._handlers if len(name) > 1)
        self._bodies = Bodies(rules.credentials, rules.keys, self._addresses, self._head, self._embedded)
        self._suspect = None if users else _suspects(rules).search
        self._hides_in_bodies = bool(rules.credentials or rules.keys or rules.headers or users)

    def mask(self, record: Record) -> Record | None:
        """Return a record with its message masked, itself if there is nothing to mask; None if it is to be dropped."""
        buf = record.buf
        masked = self.message(buf)
        if masked is buf:
            return record
        return None if masked is None else Record(record.time_us, record.flow, masked, record.correlation_id)

    def message(self, buf: bytes) -> bytes | None:
        """Return a message masked, or None if it is to be dropped; the same object if there is nothing to mask."""
        suspect = self._suspect
        if suspect:
            end = buf.find(b"\n")
            if (
                (buf.startswith(_SIP) or buf.endswith(_VERSIONS, 0, end))
                and suspect(buf, end) is None
                and _lone_cr(buf) is None
                and not (b"?" in buf and self._embeds(buf))
                and not (self._methods and self._hides_body(buf))
            ):
                return buf
        if not self.rules.active:
            return buf
        try:
            masked: bytes | None = self._usual(buf) or self._masked(buf)
        except (_UnparsedError, OpaqueError):
            self.unparsed += 1
            if self.rules.unparsed == STORE:
                return buf
            masked = None if self.rules.unparsed == DROP else b"x" * len(buf)
        return buf if masked == buf else masked

    def _usual(self, buf: bytes) -> bytes | None:
        """Return a message masked that is written as nearly all are: every line ends in CRLF, and no header is folded.

        Returns:
            None if it is not, or there is more to see to than its lines.
        """
        head, blank, body = buf.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        if not blank or len(lines) == 1:
            return None
        known, line_ = self._lines.get, self._whole_line
        try:
            found = [known(line) or line_(line) for line in lines[1:]]
        except _UnparsedError:
            return None
        first = self._starts.get(lines[0])
        if first is None:
            start = START_LINE.fullmatch(lines[0])
            if start is None:
                return None
            first = self._start_line(start)
            if len(first) <= _LONGEST_CACHED:
                self._starts.keep(lines[0], first)
        masked = b"\r\n".join([first, *found])
        if not body:
            return masked + blank
        if _behind_body(buf, 0, len(head) + 2, len(head) + 4) != len(buf):
            return None
        masked_body = self._body(buf[: len(head) + 2], body)
        if len(masked_body) != len(body):
            masked = _with_length(masked + b"\r\n", len(masked_body) - len(body))[:-2]
        return masked + blank + masked_body

    def _masked(self, buf: bytes) -> bytes:
        """Return a message masked.

        Raises:
            _UnparsedError: it cannot be parsed.
            OpaqueError: its body cannot, and it is to be dropped for that.
        """
        out: list[bytes] = []
        at = 0
        while at < len(buf):  # what is behind the body may be another message
            start = START_LINE.match(buf, at)
            if start is None:
                if not _BLANK.fullmatch(buf, at):  # a keep-alive (RFC 5626, section 3.5.1)
                    raise _UnparsedError
                out.append(buf[at:])
                break
            masked, at = self._masked_one(buf, start)
            out.append(masked)
        return b"".join(out)

    def _masked_one(self, buf: bytes, start: "re.Match[bytes]") -> tuple[bytes, int]:
        """Return one message masked, and the offset behind it.

        Args:
            buf: has it.
            start: its start line.

        Raises:
            _UnparsedError: it cannot be parsed.
            OpaqueError: its body cannot, and it is to be dropped for that.
        """
        at = start.end()
        blank = _END.search(buf, at - 1)
        end, behind = blank.span(1) if blank else (len(buf), len(buf))
        if _lone_cr(buf, at, end):
            raise _UnparsedError
        lines = buf[at:end]
        head = self._start_line(start) + (self._head(lines) if blank else self._cut_head(lines))
        if behind == len(buf):
            return head + buf[end:], behind
        stop = _behind_body(buf, start.start(), end, behind)
        body = buf[behind:stop]
        masked = self._body(buf[start.start() : end], body)
        more = len(masked) - len(body)
        return (_with_length(head, more) if more else head) + buf[end:behind] + masked, stop

    def _body(self, head: bytes, body: bytes) -> bytes:
        if self._methods and ({b"*", _method(head)} & self._methods):
            return b"x" * len(body)
        if not self._hides_in_bodies:
            return body
        try:
            return self._bodies.masked(head, body)
        except (_UnparsedError, OpaqueError):
            if self.rules.unparsed == DROP:
                raise
            self.unparsed += 1
            return b"x" * len(body) if self.rules.unparsed == MASK else body

    def _embeds(self, buf: bytes) -> bool:
        """Return whether a URI in a message may have a header that is masked."""
        return bool(self._embedded) and credentials.embedded(buf, self._embedded) != buf

    def _hides_body(self, buf: bytes) -> bool:
        """Return whether a message has a body that is masked as a whole."""
        blank = _END.search(buf)
        return blank is not None and blank.end() < len(buf) and bool({b"*", _method(buf)} & self._methods)

    def _start_line(self, start: "re.Match[bytes]") -> bytes:
        line = start[0]
        if start["uri"] is None:
            return line
        at, behind = start.span("uri")
        uri = start["uri"]
        if b"?" in uri:
            uri = credentials.embedded(uri, self._embedded)
        if self._addresses:
            uri = self._addresses.target(uri)
        return line[: at - start.start()] + uri + line[behind - start.start() :]

    def _head(self, head: bytes) -> bytes:
        """Return header lines masked, without the blank line behind them.

        Raises:
            _UnparsedError: a line is no header.
        """
        lines = head.split(b"\n")
        if b"\n " in head or b"\n\t" in head:
            lines = _unfolded(lines)
        known = self._lines.get
        line_ = self._line
        return b"\n".join([known(line) or line_(line) for line in lines])

    def _cut_head(self, head: bytes) -> bytes:
        """Return header lines masked that no blank line ends: of the last one a part may be missing, so it goes."""
        whole_lines, newline, last = head.rpartition(b"\n")
        name, colon, value = last.partition(b":")
        if self._addresses and colon and value.strip():
            return self._head(whole_lines) + newline + self._line(name + colon + credentials.whole(value))
        return self._head(head)

    def _whole_line(self, line: bytes) -> bytes:
        """Return a header line masked that has no fold and no line end.

        Raises:
            _UnparsedError: it is no header, or has one.
        """
        if b"\r" in line or b"\n" in line:
            raise _UnparsedError
        return self._line(line)

    def _line(self, line: bytes) -> bytes:
        """Return a header line masked; it may have folds.

        Raises:
            _UnparsedError: it is no header.
        """
        if not line:
            return line
        name, colon, value = line.partition(b":")
        if not colon or not NAME.fullmatch(name):
            raise _UnparsedError
        kind = name.rstrip().lower()
        handler = self._handlers.get(kind)
        masked = line
        if b"?" in value and self._embedded:
            value = credentials.embedded(value, self._embedded)
            masked = name + colon + value
        if handler:
            masked = name + colon + handler(value)
        elif self._addresses and (kind in _IDENTITIES or has_uri(value)):
            masked = name + colon + self._addresses.header(value, identity=kind in _IDENTITIES)
        return self._lines.keep(line, masked) if len(line) <= _LONGEST_CACHED else masked

    def _make_handlers(self) -> dict[bytes, Value]:
        found: dict[str, Value] = {}
        if self.rules.credentials or self.rules.users:
            for names, handler in (
                (_ANSWERS, credentials.answer),
                (_CHALLENGES, credentials.challenge),
                (_INFOS, credentials.info),
            ):
                made = partial(handler, addresses=self._addresses, secrets=self.rules.credentials)
                found |= dict.fromkeys(names, made)
            found |= dict.fromkeys(any_name(_WHOLE), credentials.whole)
        found |= dict.fromkeys(any_name(self.rules.headers), credentials.whole)
        return {name.encode("latin-1"): handler for name, handler in found.items()}


def _suspects(rules: Rules) -> "re.Pattern[bytes]":
    """Return an expression that is found in a message whose users stay, if there may be anything to mask."""
    names = [*rules.headers, *_ENCODINGS]
    names += [*_ANSWERS, *_CHALLENGES, *_INFOS, *_WHOLE] if rules.credentials else []
    names = any_name(names)
    begins = [name[:2] if name[1:] else name + end for name in names for end in ": \t"]
    endings: dict[str, list[bytes]] = {}
    for name in names:  # without the colon: a line without one makes the message one that cannot be parsed
        ending = re.escape(name[1:].encode("latin-1")) or rb"[ \t]*+:"
        endings.setdefault(name[0], []).append(ending)
    words = [_any_of(first) + b"(?i:%b)" % b"|".join(found) for first, found in endings.items()]
    if rules.keys:
        words.append(sdp.KEY_LINE)
        begins += sdp.KEY_BEGINS
    # two sets of characters rule out nearly every line before any word is tried, and its first letter most words
    screen = b"".join(_any_of(letters) for letters in zip(*begins, strict=True))
    return re.compile(rb"\n[^!-~\n]*+(?=%b)(?:%b)" % (screen, b"|".join(words)))


def _any_of(letters: Iterable[str]) -> bytes:
    """Return an expression for any of some characters, in both cases."""
    both = {case for letter in letters for case in (letter.lower(), letter.upper())}
    return b"[%b]" % b"".join(re.escape(each.encode("latin-1")) for each in sorted(both))


def _unfolded(lines: list[bytes]) -> list[bytes]:
    """Return lines with each fold behind the line that it continues.

    One that reads as a header of credentials stays by itself, and is no header then.
    """
    found: list[bytes] = []
    parts: list[bytes] = []
    for line in lines:
        if line.startswith(_FOLD) and parts and not _SMUGGLED.match(line):
            parts.append(line)
        else:
            found += [b"\n".join(parts)] if parts else []
            parts = [line]
    return [*found, b"\n".join(parts)]


def _with_length(head: bytes, more: int) -> bytes:
    """Return a head whose Content-Length is larger by as many bytes: a right one stays right, a wrong one as wrong."""
    return _CONTENT_LENGTH.sub(lambda found: b"\n" + found[1] + b"%d" % max(0, int(found[2]) + more), head)


def _behind_body(buf: bytes, start: int, end: int, behind: int) -> int:
    """Return where a body ends: at its Content-Length, if another message begins there; else with the buffer."""
    found = _CONTENT_LENGTH.search(buf, start, end)
    stop = behind + int(found[2]) if found else len(buf)
    return stop if stop < len(buf) and START_LINE.match(buf, stop) else len(buf)


def _method(head: bytes) -> bytes:
    """Return the method of a request, or that in the CSeq of a reply."""
    request = _REQUEST.match(head)
    if request and not request[1].upper().startswith(b"SIP/"):
        return request[1].upper()
    found = _CSEQ.search(head)
    return found[1].upper() if found else b""
