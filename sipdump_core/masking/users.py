"""What stands for a user: a token made with a key, or the number without its last digits.

A token is ``u-`` and 26 hexadecimal digits: 20 of an HMAC-SHA256 of the user (RFC 2104), and 6 of one of those 20. By
the latter a token is known again, so that masking twice changes nothing, and no user who calls himself ``u-...`` is
taken for one.
"""

import hmac
import os
import re
import secrets
import stat
from typing import Protocol
from urllib.parse import unquote_to_bytes

from sipdump_core.cache import Cache
from sipdump_core.errors import ConfigError

__all__ = ["Digits", "Tokens", "Users", "canonical", "make_users", "parse_users", "read_key"]

SHORTEST_KEY = 16
"""Bytes."""
_LONGEST_KEY = 4096
_LONGEST_CACHED = 256
_NUMBER = re.compile(rb"(\+?)([0-9*#()\-. ]*[0-9][0-9*#()\-. ]*)")
_SEPARATORS = re.compile(rb"[()\-. ]")
_TOKEN = re.compile(rb"u-([0-9a-f]{20})([0-9a-f]{6})")
_SPEC = re.compile(r"(hmac):(.+)|(mask):([1-9]\d?)", re.DOTALL)
_ROUNDS = 3
"""How often a user may be escaped: once in a URI, once more in a URI within that."""


class Users(Protocol):
    """Makes what stands for a user."""

    def stand_in(self, user: bytes) -> bytes:
        """Return what stands for a user: characters that a user part may have (RFC 3261, section 25.1).

        Args:
            user: a user part, without a password; a number, or a display name.
        """

    def asked(self, user: str) -> str:
        """Return the user to look for where somebody asks for one: ``alice``, or ``alice@example.com``."""


class Tokens:
    """Tokens, the same for all who have the key.

    Args:
        key: the key; by default a fresh one, so that one user has one token as long as this object lives.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self._known: Cache[bytes, bytes] = Cache(50_000)

    def stand_in(self, user: bytes) -> bytes:
        """Return a user's token, see :class:`Users`."""
        known = self._known.get(user)
        if known is not None:
            return known
        token = user if user[:2] == b"u-" and self._is_token(user) else self._token(canonical(user))
        return self._known.keep(user, token) if len(user) <= _LONGEST_CACHED else token

    def asked(self, user: str) -> str:
        """Return the token of a user, see :class:`Users`; what has a ``*`` in it stays, and finds no token."""
        name, at, host = user.partition("@")
        if "*" in name:
            return user
        return self.stand_in(name.encode("utf-8", "surrogateescape")).decode() + at + host

    def _token(self, user: bytes) -> bytes:
        body = self._digest(b"user\0" + user, 20)
        return b"u-" + body + self._digest(b"token\0" + body, 6)

    def _is_token(self, user: bytes) -> bool:
        found = _TOKEN.fullmatch(user)
        return found is not None and hmac.compare_digest(self._digest(b"token\0" + found[1], 6), found[2])

    def _digest(self, of: bytes, length: int) -> bytes:
        return hmac.digest(self._key, of, "sha256").hex()[:length].encode()


class Digits:
    """Numbers without their last digits; of users that are no numbers, nothing.

    Args:
        count: how many digits go.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = re.compile(rb"\+?(?:[0-9*#]*x{%d}|x{1,%d})" % (count, count))

    def stand_in(self, user: bytes) -> bytes:
        """Return a number with an ``x`` for each of its last digits, or as many ``x`` as a name has bytes."""
        if self._done.fullmatch(user):
            return user
        number = _NUMBER.fullmatch(_plain(user))
        if number is None:
            return b"x" * len(user)
        digits = _SEPARATORS.sub(b"", number[2])
        hidden = min(self._count, len(digits))
        return number[1] + digits[: len(digits) - hidden] + b"x" * hidden

    def asked(self, user: str) -> str:
        """Return a number as it is stored, see :class:`Users`; others that begin the same are stored so, too."""
        name, at, host = user.partition("@")
        return self.stand_in(name.encode("utf-8", "surrogateescape")).decode() + at + host


def canonical(user: bytes) -> bytes:
    """Return a user in one form: without escapes, a number without ``+``, visual separators (RFC 3966) and parameters.

    The case of letters counts (RFC 3261, section 19.1.4).
    """
    plain = _plain(user)
    number = _NUMBER.fullmatch(plain)
    return _SEPARATORS.sub(b"", number[2]) if number else plain


def _plain(user: bytes) -> bytes:
    """Return a user without escapes and white space around; a number without its parameters, too."""
    for _ in range(_ROUNDS):
        if b"%" not in user:
            break
        user = unquote_to_bytes(user)
    user = b" ".join(user.split())
    name = user.partition(b";")[0]
    return name if name != user and _NUMBER.fullmatch(name) else user


def parse_users(text: str) -> tuple[str, str]:
    """Read ``hmac:PATH`` or ``mask:DIGITS``.

    Raises:
        ValueError: it is neither.
    """
    found = _SPEC.fullmatch(text)
    if found is None:
        raise ValueError('must be "hmac:/path/of/a/key" or "mask:N", where N is how many digits go: 1 to 99')
    return (found[1], found[2]) if found[1] else (found[3], found[4])


def make_users(kind: str, value: str) -> Users:
    """Return what a text means that :func:`parse_users` has read.

    Raises:
        ConfigError: the key cannot be used.
    """
    return Tokens(read_key(value)) if kind == "hmac" else Digits(int(value))


def read_key(path: str) -> bytes:
    """Return the key in a file, without line ends behind it.

    Raises:
        ConfigError: it cannot be read, others may read it, or it is too short.
    """
    make = f"make one with: (umask 077; openssl rand -hex 32 > {path})"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo would block
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            key = file.read(_LONGEST_KEY + 1) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        raise ConfigError(f"there is no key {path}; {make}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"the key {path} cannot be read: {reason}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"the key {path} is no regular file")
    if status.st_mode & 0o007:
        raise ConfigError(f"all users of this machine may get at the key {path}; run: chmod o= {path}")
    key = key.rstrip(b"\r\n")
    if not SHORTEST_KEY <= len(key) <= _LONGEST_KEY:
        wrong = "short: it has" if len(key) < SHORTEST_KEY else "long: it has more than"
        raise ConfigError(
            f"the key {path} is too {wrong} {min(len(key), _LONGEST_KEY)} bytes, and must have {SHORTEST_KEY} to "
            f"{_LONGEST_KEY}; {make}"
        )
    return key
