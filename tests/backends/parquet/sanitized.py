"""Runs the library in C over messages that are changed at random.

``python -m tests.backends.parquet.sanitized LIBRARY MESSAGES``: the library may be built with sanitizers.
"""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from sipdump_parquet.fields import Puller
from sipdump_speedups import load
from tests.backends.parquet.exact import Exact
from tests.flows import FLOWS

__all__ = ["PIECES", "changed", "differences", "samples"]

PIECES = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b",", b"<", b">", b'"', b"\\", b"@", b"\xff", b"\xc3\xa4",
    b"\r\n ", b"\r\n\r\n", b"SIP/2.0", b"SIP/2.0 200", b"INVITE sip:a@b SIP/2.0\r\n", b"Call-ID: x", b"i", b"f:",
    b"To:", b"From: <sip:a@b>;tag=1\r\n", b"t : ", b"CSeq: 1 ACK", b"cseq:", b"User-Agent: a\r\n", b"Server: b\r\n",
    b"Via:", b"v: x;branch=1\r\n", b"X-CID: 1\r\n", b"sip:", b"sips:", b"tel:1", b";tag=", b";branch=",
    b"1234567890123456789",
)  # fmt: skip


def samples() -> list[bytes]:
    """Return messages to begin with: those of the call flows, and real ones where ``SIPDUMP_CORPUS`` names a folder."""
    real = Path(os.environ.get("SIPDUMP_CORPUS", "/nonexistent"))
    found = [record.buf for flow in FLOWS for record in flow.records]
    return found + [path.read_bytes() for path in sorted(real.rglob("*")) if path.is_file()]


def changed(message: bytes, draw: random.Random) -> bytes:
    """Return a message with a few of its parts removed, doubled, or replaced."""
    for _ in range(draw.randrange(4)):
        begin = draw.randrange(len(message) + 1)
        end = min(len(message), begin + draw.choice((0, 0, 1, 2, 20)))
        middle = draw.choice((b"", draw.choice(PIECES), draw.choice(PIECES), message[begin:end] * 2, draw.randbytes(1)))
        message = message[:begin] + middle + message[end:]
    return message[: draw.randrange(len(message) + 1)] if draw.random() < 0.2 else message


def differences(exact: Exact, puller: Puller, messages: Iterator[bytes]) -> Iterator[str]:
    """Yield how C and Python differ in what they find in messages."""
    for message in messages:
        found = exact.fields(message)
        expected = {name: values[0] for name, values in puller.pull(message, [0, len(message)]).items()}
        if found is not None and found | dict.fromkeys(puller.rare) != expected:
            yield f"{message!r}: {found} in C, {expected} in Python"


def main(library: str, count: int) -> None:
    loaded = load(Path(library))
    if loaded is None:
        sys.exit(f"{library} cannot be loaded")
    exact, draw, begin = Exact(loaded, Puller()), random.Random(1), samples()
    for _ in range(count):
        exact.fields(changed(draw.choice(begin), draw))
    print(f"{count} messages")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
