"""Makes text from the network safe to show: nothing moves the cursor, changes colours or reverses the direction."""

import unicodedata

from sipdump_core.calls.summary import Summary, iso_utc

__all__ = ["cells", "facts", "fitted", "leg_letter", "message_text", "printable", "seconds", "wrapped"]


def printable(text: str) -> str:
    """Return text with unprintable characters escaped, as ``\\x1b`` and ``\\u202e``; line ends, too."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def message_text(buf: bytes, *, headers_only: int | None = None) -> str:
    """Return a message as lines of printable text.

    Args:
        buf: the message.
        headers_only: the offset at which to end.
    """
    text = buf[:headers_only].decode("utf-8", "backslashreplace").replace("\r\n", "\n").rstrip("\n")
    return "\n".join("\t".join(printable(part) for part in line.split("\t")) for line in text.split("\n"))


def cells(text: str) -> int:
    """Return how many columns a text takes on a terminal (UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def fitted(text: str, width: int) -> str:
    """Return text cut to a number of columns, with ``…`` at its end if anything was cut."""
    if cells(text) <= width:
        return text
    while text and cells(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…" if width > 0 else ""


def wrapped(text: str, width: int) -> list[str]:
    """Return an address or a name in lines of at most ``width`` columns, the port on its own line if need be."""
    if cells(text) <= width:
        return [text]
    host, colon, port = text.rpartition(":")
    if colon and port.isdigit():
        return [*wrapped(host, width), f":{port}"]
    cut = text.rfind(".", 1, width + 1)  # a number is not torn apart
    cut = cut if cut > 0 else width
    return [text[:cut], *wrapped(text[cut:], width)]


def leg_letter(number: int) -> str:
    """Return what a leg is called in a ladder of several: A for the first one."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def seconds(value: float | None) -> str:
    """Return an interval as people read it, as ``2.003 s``."""
    return "" if value is None else f"{value:.3f} s"


def facts(summary: Summary) -> list[tuple[str, str]]:
    """Return what is known about a call, as names and printable values."""
    answer = " ".join(str(one) for one in (summary.status, summary.reason) if one)
    state = f"{summary.state} by the {summary.ended_by}" if summary.ended_by else summary.state
    found = [
        ("Call-ID", summary.call_id),
        ("Kind", "" if summary.kind == "call" else summary.kind),
        ("State", f"{state}, {answer}" if answer else state),
        ("From", summary.from_uri or ""),
        ("To", summary.to_uri or ""),
        ("Request URI", summary.request_uri or ""),
        ("Began", iso_utc(summary.began)),
        ("Ended", "" if summary.ended is None else iso_utc(summary.ended)),
        ("Post-dial delay", seconds(summary.post_dial_delay)),
        ("Setup", seconds(summary.setup_time)),
        ("Duration", seconds(summary.duration)),
        ("Path", " → ".join(summary.hops)),
        ("Nodes", ", ".join(summary.nodes)),
        ("Messages", _messages(summary)),
        ("Codecs", ", ".join(summary.codecs)),
        ("Media", ", ".join(summary.media)),
        ("Warning", summary.warning or ""),
        ("Release", ", ".join(summary.release)),
        ("Legs", ", ".join(f"{leg.call_id} ({leg.evidence})" for leg in summary.legs)),
        ("Missing", ", ".join(summary.gaps)),
    ]
    return [(name, printable(value)) for name, value in found if value]


def _messages(summary: Summary) -> str:
    repeated = summary.retransmissions
    if not repeated:
        return f"{summary.messages}"
    return f"{summary.messages} ({repeated} retransmission{'s' if repeated > 1 else ''})"
