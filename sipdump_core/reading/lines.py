"""What people and programs read: a message in one line, times, JSON; nothing from the network controls a terminal."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sipdump_core.calls.message import Message
from sipdump_core.log import escaped
from sipdump_core.reading.render.plain import message_text, printable
from sipdump_core.record import Record

__all__ = ["as_json", "counted", "endpoint", "local_time", "message_line", "message_text", "printable"]

_LAST = datetime(9999, 12, 30, tzinfo=UTC)


def message_line(record: Record) -> str:
    """Return a message as ``tail`` prints it: time, tag, transport, from where to where, what, who, which call."""
    message = Message(record.buf)
    users = f"{message.from_.user or message.from_.uri or '-'} > {message.to.user or message.to.uri or '-'}"
    what = f"{message.label} ({message.cseq_method})" if message.status is not None else message.label
    src, dst = endpoint(record.src_ip, record.src_port), endpoint(record.dst_ip, record.dst_port)
    node = f"  {record.node}" if record.node else ""
    when = local_time(record.time_us).strftime("%Y-%m-%d %H:%M:%S.%f")
    line = f"{when}  {record.tag}  {record.proto}  {src} > {dst}  {what}  {users}  {record.call_id or '-'}{node}"
    return printable(line)


def local_time(time_us: int) -> datetime:
    """Return a time in the local zone, as ``TZ`` has it; times that no calendar has are clamped.

    Args:
        time_us: microseconds since the epoch.
    """
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    try:
        when = min(epoch + timedelta(microseconds=max(time_us, 0)), _LAST)
    except OverflowError:
        when = _LAST
    return when.astimezone()


def as_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON in UTF-8; only what a terminal would obey is escaped."""
    return escaped(json.dumps(value, ensure_ascii=False, indent=indent), keep="\n")


def endpoint(ip: str, port: int) -> str:
    """Return address and port as ``192.0.2.1:5060`` or ``[2001:db8::1]:5060``."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with what is counted: ``1 call``, ``2 calls``."""
    return f"{count} {one if count == 1 else many or one + 's'}"
