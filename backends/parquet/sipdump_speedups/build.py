"""Builds the library; it needs nothing but the standard library and a C compiler."""

import os
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from sipdump_speedups import SOURCE, checksum

__all__ = ["build"]

_FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-fstack-protector-strong")
_SECONDS = 120


def build(target: Path, flags: Sequence[str] = ()) -> str:
    """Build the library, with the compiler that the variable ``CC`` names, or Python's own, or ``cc``.

    Args:
        target: the file to make; one that is there is replaced, so that a process that runs may go on using it.
        flags: of the compiler, beside those in ``CFLAGS`` and ``LDFLAGS``.

    Returns:
        Why it cannot be built; empty if it was.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    given = [*shlex.split(os.environ.get("CFLAGS", "")), *shlex.split(os.environ.get("LDFLAGS", "")), *flags]
    last = "there is no compiler"
    try:
        for compiler in _compilers():
            command = [*compiler, *_FLAGS, f"-DSIPDUMP_SOURCE={checksum()}u", *given, str(SOURCE), "-o", str(draft)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603 - the user names the compiler
                draft.replace(target)
            except (OSError, subprocess.SubprocessError) as error:
                last = f"{error}: {getattr(error, 'stderr', '') or ''}"
            else:
                return ""
        return last
    finally:
        draft.unlink(missing_ok=True)


def _compilers() -> Iterator[list[str]]:
    given = os.environ.get("CC")
    for each in [given] if given else [sysconfig.get_config_var("CC"), "cc"]:
        if each:
            yield shlex.split(each)
