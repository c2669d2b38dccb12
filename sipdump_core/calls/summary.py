"""What happened in a call, in the fields that ``sipdump-read find --json`` prints."""

from datetime import UTC, datetime
from typing import Any

import attrs

__all__ = ["CALL_STATES", "KINDS", "Leg", "Summary", "iso_utc"]

KINDS = ("call", "register", "subscribe", "publish", "message", "options", "other")
"""What a Call-ID is used for, by its first request's method."""

CALL_STATES = (
    "ended", "answered", "challenged", "cancelled", "failed", "refused", "calling", "ringing", "timed-out",
    "registered", "unregistered", "done",
)  # fmt: skip
"""What became of it; see :attr:`Summary.state`."""


@attrs.frozen
class Leg:
    """Another Call-ID that belongs to the same call."""

    call_id: str
    evidence: str
    """Why: hep, x-cid, x-call-id, session-id, icid, suffix, header or heuristic."""
    value: str = ""
    """The value that both have."""
    linked_to: str = ""
    """The Call-ID that it was linked with; not the one asked for if the link has several steps."""


@attrs.frozen
class Summary:
    """What happened under one Call-ID. Times are microseconds since the epoch, intervals are seconds."""

    call_id: str
    kind: str
    """One of :data:`KINDS`."""
    began: int
    """Time of the first message."""
    ended: int | None
    """Time of the message that ended it: the BYE, or the final answer; None while it goes on."""
    state: str
    """One of :data:`CALL_STATES`. For a call the first that fits: ``ended`` (2xx to an initial INVITE and a BYE, or a
    BYE and no INVITE seen), ``answered`` (2xx), then by the last final answer that the caller got ``challenged`` (401,
    407), ``cancelled`` (487), ``failed`` (408, 5xx) or ``refused`` (other 3xx to 6xx); without one ``cancelled``
    (CANCEL on the first hop), ``calling`` or ``ringing`` (the latest INVITE or 101 to 199 is younger than 180 s), else
    ``timed-out``. For a REGISTER answered 2xx ``registered``, ``unregistered`` if every expiry is 0, ``done`` without
    Contact. For other kinds ``done`` for 2xx, else as for a call."""
    status: int | None
    """The final answer that decided, of all tries."""
    reason: str | None
    """Its reason phrase."""
    warning: str | None
    """Its Warning header."""
    release: list[str]
    """The Reason headers of BYE, CANCEL and final answers (RFC 3326), each once, in order."""
    from_user: str | None
    from_uri: str | None
    to_user: str | None
    to_uri: str | None
    request_uri: str | None
    """This and the four above are from the initial request, on its first hop."""
    src: str
    """The address that the call came from, as ``192.0.2.1:5060`` or ``[2001:db8::1]:5060``."""
    dst: str
    """The address of what answered, or of what was tried last."""
    hops: list[str]
    """All addresses from ``src`` to ``dst``, in the order of the path."""
    nodes: list[str]
    """The capture nodes that saw it, in that order."""
    messages: int
    """Messages sent on any hop, including retransmissions; each counts once, however many nodes saw it."""
    retransmissions: int
    """Copies of one message on one hop, beyond the first."""
    post_dial_delay: float | None
    """From the first INVITE to the first 101 to 199, else to the 2xx, on the first hop (RFC 6076)."""
    setup_time: float | None
    """From the first INVITE to the 2xx, on the first hop."""
    duration: float | None
    """From the 2xx to the BYE."""
    ended_by: str | None
    """Who sent the BYE: ``caller`` or ``callee``."""
    codecs: list[str]
    """The codecs of the SDP answer to the initial INVITE, else of the offer."""
    media: list[str]
    """The addresses of all session descriptions, as ``192.0.2.1:4000``."""
    legs: list[Leg]
    """Other Call-IDs of the same call."""
    gaps: list[str]
    """What seems to be missing, as ``no BYE seen``."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them: times in ISO format, legs as objects of ``call_id`` and ``evidence``."""
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(Summary)}
        fields["began"] = iso_utc(self.began)
        fields["ended"] = None if self.ended is None else iso_utc(self.ended)
        fields["legs"] = [{"call_id": leg.call_id, "evidence": leg.evidence} for leg in self.legs]
        return fields


def iso_utc(time_us: int) -> str:
    """Return a time in UTC, to the microsecond, as ``2026-11-22T22:27:11.765284Z``; far years are clamped.

    Args:
        time_us: microseconds since the epoch.
    """
    seconds, rest = divmod(min(max(time_us, _FIRST_US), _LAST_US), 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:06}Z"


_FIRST_US, _LAST_US = -2_208_988_800_000_000, 253_402_300_799_999_999  # the years 1900 to 9999
