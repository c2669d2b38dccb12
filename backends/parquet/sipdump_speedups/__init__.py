"""An optional library in C, ``fields.c``, for the loop that costs most: pulling the fields out of messages.

It is built when sipdump is installed, if a C compiler is there, and everything works without it. It knows nothing of
Python and is called through ctypes: one build serves every version of Python, and none of Python's headers are needed.
"""

import os
import sys
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctypes import CDLL

__all__ = ["LIBRARY", "MAX_NAME", "MAX_NAMES", "SOURCE", "checksum", "is_wanted", "library", "load"]

SOURCE = Path(__file__).with_name("fields.c")
LIBRARY = Path(__file__).with_name("fields.so")
MAX_NAMES = 64
"""Headers that the library looks for at most."""
MAX_NAME = 255
"""Bytes of a header's name."""


def is_wanted() -> bool:
    """Tell whether the library is to be built and used: ``SIPDUMP_PURE=1`` in the environment switches it off."""
    return os.environ.get("SIPDUMP_PURE", "") in ("", "0")


@lru_cache
def library() -> "CDLL | None":
    """Return the library; None if it was not built, or is switched off."""
    return load(LIBRARY) if is_wanted() else None


def load(path: Path) -> "CDLL | None":
    """Load a library; None if it is missing, was made for another machine or of another version of the source."""
    try:
        import ctypes  # noqa: PLC0415 - a Python may have been built without it
    except ImportError:
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    try:
        found = ctypes.CDLL(str(path))
        if ctypes.c_uint32.in_dll(found, "sipdump_source").value != checksum():
            return None  # its functions may take other arguments
        scan, gather = found.sipdump_scan, found.sipdump_gather
    except (OSError, ValueError, AttributeError):
        return None
    scan.argtypes = [pointer, size, pointer, size, pointer, size, pointer, pointer, pointer]
    gather.argtypes = [pointer, size, pointer, size, pointer, pointer, pointer, size]
    scan.restype = gather.restype = size
    return found if sys.byteorder == "little" else None  # Arrow's numbers would be of the other order


def checksum() -> int:
    """Return the CRC-32 of the source, which a library built of it has, too."""
    return zlib.crc32(SOURCE.read_bytes())
