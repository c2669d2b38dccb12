"""What ``sipdump-read tui`` takes in a terminal: to its first calls, for a key while a scan goes on, and in memory.

The terminal is a pseudo terminal of 80 columns and 24 lines. The store has the calls of :mod:`bench.reading`. Then
another one is followed, into which generated calls are written at a steady rate.
"""

import os
import pty
import re
import select
import statistics
import struct
import sys
import threading
import time
from fcntl import ioctl
from itertools import islice
from pathlib import Path
from termios import TIOCSWINSZ

import attrs

from bench import calls, reading
from bench.table import Row
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.segment import Segment
from sipdump_text import TextBackend

FIRST_AIM = 1.0
"""Seconds to the first calls."""
KEY_AIM = 50.0
"""Milliseconds for a key."""
PRESSES = 40
RATE = 1000
"""Messages a second."""
SECONDS = 60.0
_COLOURS = re.compile(rb"\x1b\[[0-9;?<>=]*[a-zA-Z]")
_SCREEN = 20_000


class Terminal:
    """``sipdump-read tui`` in a pseudo terminal.

    Args:
        folder: what it reads.
    """

    def __init__(self, folder: Path) -> None:
        self._seen = bytearray()
        self.began = time.perf_counter()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color"}
            command = [sys.executable, "-m", "sipdump_core.reading", "tui", "--folder", str(folder)]
            os.execv(sys.executable, command)
        ioctl(self._fd, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._fd, key)

    def has(self, text: bytes, timeout: float = 60.0) -> float:
        """Return when a text that was not there before was written, a moment of ``time.perf_counter``."""
        self._seen.clear()
        end = time.perf_counter() + timeout
        while time.perf_counter() < end:
            if self._read(0.5) and text in bytes(self._seen):
                return time.perf_counter()
        raise RuntimeError(f"{text!r} was not written")

    def watch(self, seconds: float) -> bytes:
        """Read what is written for a while, and return the last of it without colours."""
        end = time.perf_counter() + seconds
        while (rest := end - time.perf_counter()) > 0:
            self._read(rest)
            del self._seen[:-_SCREEN]
        return _COLOURS.sub(b" ", bytes(self._seen))

    def memory_mb(self) -> tuple[float, float]:
        """Return the resident memory of the terminal and of its reader."""
        return _resident_mb(self.pid), sum(map(_resident_mb, self._children()))

    def cpu_s(self) -> tuple[float, float]:
        """Return the CPU time of the terminal and of its reader, user and system, in seconds."""
        return _cpu_s(self.pid), sum(map(_cpu_s, self._children()))

    def end(self) -> None:
        """Quit."""
        self.press(b"q")
        self.watch(0.5)
        os.close(self._fd)
        os.waitpid(self.pid, 0)

    def _children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def _read(self, timeout: float) -> bool:
        if not select.select([self._fd], [], [], timeout)[0]:
            return False
        data = os.read(self._fd, 65536)
        self._seen += data
        return True


def looked_at(folder: Path, quick: bool) -> list[Row]:
    """Measure it."""
    total = 70_000 if quick else 5_000_000
    (folder / "stores").mkdir()
    filled = reading._fill(folder / "stores", total, 7000, 1)
    rows = [row for name in ("parquet", "text") for row in _first(filled.folder / name, name, total)]
    return rows + _followed(folder / "followed", 5.0 if quick else SECONDS)


def _first(store: Path, name: str, total: int) -> list[Row]:
    terminal = Terminal(store)
    first = terminal.has(b"INVITE") - terminal.began
    what = f"tui: {{}}, {total:,} records, {name}"
    cpu = "{:.2f} s of CPU, its reader {:.2f} s".format(*terminal.cpu_s())
    measured = f"{first:.2f} s ({cpu})"
    rows = [Row(what.format("to the first calls"), measured, "", "", f"at most {FIRST_AIM:g} s", first <= FIRST_AIM)]
    terminal.watch(1.0)
    for key, answer, back, of in ((b"?", b"this help", b"q", "the help"), (b"f", b"Filter:", b"\x15\r", "a prompt")):
        took = []
        for _ in range(PRESSES // 2):
            began = time.perf_counter()
            terminal.press(key)
            took.append((terminal.has(answer) - began) * 1000)
            terminal.watch(0.1)
            terminal.press(back)
            terminal.watch(0.3)
        worst = max(took)
        measured = f"{statistics.median(took):.0f} ms in the median, {worst:.0f} ms at worst"
        aim = f"at most {KEY_AIM:g} ms"
        rows.append(Row(what.format(f"a key that shows {of}, while it reads"), measured, "", "", aim, worst <= KEY_AIM))
    ours, readers = terminal.memory_mb()
    rows.append(Row(what.format("memory"), f"{ours:.0f} MB, its reader {readers:.0f} MB"))
    terminal.end()
    return rows


def _followed(store: Path, seconds: float) -> list[Row]:
    store.mkdir()
    terminal = Terminal(store)
    terminal.has(b"nothing is stored")
    sent: list[int] = []
    writer = threading.Thread(target=lambda: sent.append(_write(store, seconds)))
    writer.start()
    screen = terminal.watch(seconds + 1.5)
    writer.join()
    came = [int(each.replace(b",", b"")) for each in re.findall(rb"([\d,]+) came", screen)]
    ours, readers = terminal.memory_mb()
    terminal.end()
    what = f"tui: following {RATE:,} messages a second for {seconds:.0f} s"
    seen = came[-1] if came else 0
    return [
        Row(f"{what}, messages seen", f"{seen:,} of {sent[0]:,}", "", "", "all", seen == sent[0]),
        Row(f"{what}, memory", f"{ours:.0f} MB, its reader {readers:.0f} MB"),
    ]


def _write(store: Path, seconds: float) -> int:
    """Write generated calls at a steady rate, as they would come now; return how many messages that were."""
    backend = TextBackend(NoOptions(), Site(str(store), "b-"))
    backend.start()
    backend.open(attrs.evolve(Segment.starting("b-", time.time()), suffix=backend.suffix))
    records, sent, began = calls.records(10**9), 0, time.monotonic()
    while (gone := time.monotonic() - began) < seconds:
        due = int(gone * RATE) - sent
        if due:
            now_us = int(time.time() * 1e6)
            backend.write(
                Batch([attrs.evolve(each, time_us=now_us + n) for n, each in enumerate(islice(records, due))])
            )
            backend.flush()
            sent += due
        time.sleep(0.01)
    backend.close()
    backend.stop()
    return sent


def _resident_mb(pid: int) -> float:
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
