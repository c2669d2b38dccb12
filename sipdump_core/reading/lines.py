"""A message in one line, for a person."""

from datetime import datetime

from sipdump_core.calls.message import Message
from sipdump_core.record import Record

__all__ = ["endpoint", "message_line", "shown"]


def message_line(record: Record) -> str:
    """Return a message as ``tail`` prints it: time, tag, transport, from where to where, what, who, which call."""
    message = Message(record.buf)
    when = (
        datetime.fromtimestamp(record.time_us // 1_000_000).strftime("%H:%M:%S") + f".{record.time_us % 1_000_000:06}"
    )
    users = f"{message.from_.user or message.from_.uri or '-'} > {message.to.user or message.to.uri or '-'}"
    what = f"{message.label} ({message.cseq_method})" if message.status is not None else message.label
    src, dst = endpoint(record.src_ip, record.src_port), endpoint(record.dst_ip, record.dst_port)
    node = f"  {record.node}" if record.node else ""
    line = f"{when}  {record.tag}  {record.proto}  {src} > {dst}  {what}  {users}  {record.call_id or '-'}{node}"
    return shown(line)


def shown(text: str) -> str:
    """Return a text for a terminal: what came from the network must not control it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def endpoint(ip: str, port: int) -> str:
    """Return address and port as ``192.0.2.1:5060`` or ``[2001:db8::1]:5060``."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
