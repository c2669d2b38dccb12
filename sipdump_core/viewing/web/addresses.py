"""Addresses of calls, whatever a Call-ID is made of, and links that show one call to somebody else.

A Call-ID is whatever its sender made it: with slashes, percent signs, spaces, bytes that are not UTF-8, or only dots.
In an address it is percent-encoded as a whole; where that would not do, as with ``..``, which browsers resolve, it is
in the query.
"""

import base64
import hmac
import json
import time
from hashlib import sha256
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode

import attrs
from starlette.types import Scope

from sipdump_core.errors import ConfigError

__all__ = ["SHARED", "Shared", "call_path", "named_call", "query_of"]

SHARED = "/shared/"
"""Below it is what a signature opens, without the token."""
_MOST = 200
"""Parameters of an address."""


def call_path(prefix: str, call_id: str, **query: str) -> str:
    """Return the address of a call, or of something of it.

    Args:
        prefix: what it begins with, as ``/call``.
        call_id: the Call-ID.
        query: parameters.
    """
    text = quote(call_id.encode("utf-8", "surrogateescape"), safe="@")
    if not call_id.strip("."):
        query = {"id": call_id, **query}
        text = ""
    tail = f"?{urlencode(query, errors='surrogateescape')}" if query else ""
    return f"{prefix}/{text}{tail}"


def named_call(scope: Scope, prefix: str) -> str:
    """Return the Call-ID that an address names; empty where it names none.

    Args:
        scope: the request.
        prefix: what is before the Call-ID, as ``/call/``.
    """
    given = dict(query_of(scope)).get("id", "")
    raw: bytes = scope["raw_path"]
    return given or unquote_to_bytes(raw.removeprefix(prefix.encode())).decode("utf-8", "backslashreplace")


def query_of(scope: Scope) -> list[tuple[str, str]]:
    """Return the parameters of an address; bytes that are not UTF-8 are escaped, as messages are read.

    Raises:
        ConfigError: there are more than anybody needs.
    """
    text = scope["query_string"].decode("ascii", "replace")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="backslashreplace", max_num_fields=_MOST)
    except ValueError:
        raise ConfigError(f"an address has at most {_MOST} parameters") from None


@attrs.frozen
class Shared:
    """One call that is shown to whoever has a link."""

    call_id: str
    until: int
    """Until when: seconds since the epoch."""
    legs: bool = False
    """Whether its other legs are shown too."""

    def signed(self, key: bytes) -> str:
        """Return it as a part of an address, which nobody else can make."""
        content = json.dumps([self.call_id, self.until, int(self.legs)], separators=(",", ":")).encode()
        return _encode(hmac.digest(key, content, sha256) + content)

    @classmethod
    def opened(cls, text: str, key: bytes, now: float | None = None) -> "Shared | None":
        """Return what a link shows; None where it was not signed with this key, or its time is up."""
        try:
            data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except ValueError:
            return None
        signature, content = data[:32], data[32:]
        if _encode(data) != text or not hmac.compare_digest(signature, hmac.digest(key, content, sha256)):
            return None
        call_id, until, legs = json.loads(content)
        return cls(call_id, until, bool(legs)) if (time.time() if now is None else now) < until else None


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
