"""An event route in Python: modparam("sipdump", "event_callback", "callback.py:on_message"), with flag 2 in mode."""

from sipdump_core import DROP, Record


def on_message(record: Record) -> object:
    """Keep the OPTIONS pings of load balancers out of the store."""
    if record.buf.startswith(b"OPTIONS ") or b"\r\nCSeq: 1 OPTIONS\r\n" in record.buf:
        return DROP
    return None
