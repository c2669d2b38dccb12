"""The audit log: who erased what and who changed which hold, a JSON object a line, in the store's folder.

The number, or the Call-ID, that was erased is not in it, or erasing would be undone there: only what a slow hash with a
salt of its own makes of it, by which whoever names a number can check whether it was that one.
"""

import base64
import getpass
import hashlib
import json
import os
import socket
import time
from typing import Any

from sipdump_core.clock import local_iso
from sipdump_core.errors import StorageError

__all__ = ["NAME", "note", "sealed_name"]

NAME = "sipdump-audit.log"
_COST = {"n": 1 << 14, "r": 8, "p": 1, "dklen": 24}


def note(folder: str, what: str, **fields: Any) -> None:
    """Append a line, on the disk when this returns.

    Args:
        folder: of the store.
        what: what was done, as ``erase``.
        fields: what belongs to it; of what JSON knows.

    Raises:
        StorageError: it cannot be written.
    """
    line = {"time": local_iso(time.time()), "who": _who(), "host": socket.gethostname(), "what": what, **fields}
    path = os.path.join(folder, NAME)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o640)
        try:
            os.write(fd, json.dumps(line, ensure_ascii=False).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError.from_os("write", path, error) from error


def sealed_name(value: str, salt: bytes | None = None) -> str:
    """Return what stands in the log for a number or a Call-ID: ``scrypt:SALT:HASH``, in base64 (RFC 7914)."""
    salt = salt or os.urandom(12)
    digest = hashlib.scrypt(value.encode("utf-8", "surrogateescape"), salt=salt, **_COST)
    return f"scrypt:{base64.b64encode(salt).decode()}:{base64.b64encode(digest).decode()}"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "?"
    sudo = os.environ.get("SUDO_USER", "")
    return f"{user} ({os.getuid()})" + (f", by sudo from {sudo}" if sudo else "")
