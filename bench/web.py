"""What the page costs: twenty viewers who watch a daemon at work, and a page of a hundred calls."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from bench import calls, traffic
from bench.table import Row
from sipdump_core.drivers.query import Query
from sipdump_core.reading.store import Store

VIEWERS = 20
RATE = 1000
"""Messages a second."""
MEMORY_AIM = 300
"""MB."""
PAGE_AIM = 0.3
"""Seconds."""
_CONFIG = """\
modparam("sipdump", "enable", 1)
modparam("sipdump", "mode", 16)
modparam("sipdump", "folder", "{folder}")
modparam("sipdump_hep", "listen", "udp:127.0.0.1:0")
modparam("sipdump_hep", "time_window", 0)
"""


@attrs.define
class Watched:
    """What one viewer got."""

    messages: int = 0
    lost: int = 0


def watched(folder: Path, quick: bool) -> list[Row]:
    """Let twenty viewers watch for a minute, and then ask for calls."""
    seconds = 5 if quick else 60
    count = RATE * seconds
    store = folder / "watched"
    store.mkdir()
    with _daemon(store) as (daemon, port), _page(store) as (page, url):
        viewers = asyncio.run(_watch(url, port, count, seconds))
        peak = _status(page.pid, "VmHWM") / 1000
        cpu = _cpu(page.pid)
        took = min(_ask(url, "/calls") for _ in range(5 if quick else 20))
        by_user = min(_ask(url, "/calls?ua=Yealink") for _ in range(5 if quick else 20))
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
    stored = sum(1 for _ in Store.open(folders=store).unsorted(Query()))
    seen, lost = sum(viewer.messages for viewer in viewers), sum(viewer.lost for viewer in viewers)
    what = f"{VIEWERS} live viewers at {RATE:,} messages/s for {seconds} s"
    return [
        Row(f"{what}: records that the daemon stored", f"{stored:,}", f"{count:,} sent", "", "all", stored == count),
        Row(f"{what}: messages that a viewer got", f"{seen / VIEWERS:,.0f}", f"{lost / VIEWERS:,.0f} lost"),
        Row(f"{what}: peak memory of the page", f"{peak:.0f} MB", "", "", f"at most {MEMORY_AIM} MB",
            peak <= MEMORY_AIM),
        Row(f"{what}: CPU of the page", f"{cpu / seconds * 100:.0f} % of one core"),
        Row("the latest 100 calls as a page", f"{took:.2f} s", f"{count:,} records", "", f"at most {PAGE_AIM} s",
            took <= PAGE_AIM),
        Row("100 calls of one user agent as a page", f"{by_user:.2f} s", f"{count:,} records", "",
            f"at most {PAGE_AIM} s", by_user <= PAGE_AIM),
    ]  # fmt: skip


@contextmanager
def _daemon(store: Path) -> "Iterator[tuple[subprocess.Popen[str], int]]":
    config = store.parent / "web.cfg"
    config.write_text(_CONFIG.format(folder=store))
    argv = [sys.executable, "-m", "sipdump_core.daemon", "-f", str(config)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = 0
            for line in process.stderr or ():
                found = re.search(r"listening for HEP.*port=(\d+)", line)
                port = int(found[1]) if found else port
                if "sipdumpd started" in line:
                    break
            yield process, port
        finally:
            process.kill()


@contextmanager
def _page(store: Path) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    argv = [sys.executable, "-m", "sipdump_core.reading", "web", "--folder", str(store), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process, (process.stdout.readline() if process.stdout else "").split()[-1]
        finally:
            process.kill()


async def _watch(url: str, port: int, count: int, seconds: float) -> list[Watched]:
    """Watch while messages are sent, and until all have come, or no more do."""
    parts, viewers = urlsplit(url), [Watched() for _ in range(VIEWERS)]
    head = f"GET /live/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {_token(url)}\r\n\r\n"
    tasks, writers = [], []
    for viewer in viewers:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
        writers.append(writer)
        writer.write(head.encode())
        await reader.readuntil(b": hello\n")
        tasks.append(asyncio.create_task(_take(reader, viewer)))
    await asyncio.to_thread(_send, port, count, seconds)
    end = time.monotonic() + 20
    while time.monotonic() < end and any(viewer.messages + viewer.lost < count for viewer in viewers):
        await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    for writer in writers:
        writer.close()
    return viewers


async def _take(reader: asyncio.StreamReader, viewer: Watched) -> None:
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            viewer.messages += len(event["messages"])
            viewer.lost += event["lost"]


def _send(port: int, count: int, seconds: float) -> None:
    records = islice(calls.records(count // calls.MESSAGES + calls.OPEN), count)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))

        def emit(first: int, end: int) -> None:
            for record in islice(records, end - first):
                sock.send(traffic.hep_frame(attrs.evolve(record, time_us=int(time.time() * 1e6))))

        traffic.paced(count, seconds, emit)


def _ask(url: str, path: str) -> float:
    """Return the seconds that a page takes, to its last byte."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)) as connection:
        began = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {_token(url)}"})
        content = connection.getresponse().read()
        took = time.perf_counter() - began
    if content.count(b"<tr data-began") != 100:
        raise RuntimeError(f"{path} has not 100 calls")
    return took


def _token(url: str) -> str:
    return url.rpartition("=")[2]


def _status(pid: int, name: str) -> int:
    """Return a number of /proc/PID/status, in kB."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
