"""kill -9 under load: what was seen stays, files read to their last full record, and nothing is overwritten."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sipdump_core import NoOptions, Record, Segment, Site
from sipdump_pcap import PcapBackend
from sipdump_text import TextBackend
from tests.e2e.peers import Daemon, Stage, files, hep3, need, program, read_data, read_pcap, request

FRAMES = 20_000
BURST = 50
ENOUGH = 1_000
"""Records that must be visible before the kill."""


def test_kill_under_load(stage: Stage) -> None:
    daemon = killed(stage)
    data, pcap = daemon.files(".data"), daemon.files(".pcap")
    records = [record for path in data for record in read_data(path)]
    numbers = [int(record.buf.split(b"Call-ID: ")[1].split(b"@")[0]) for record in records]
    assert numbers == sorted(set(numbers)), "in order, and none twice"
    assert all(record.buf == request("OPTIONS", number) for record, number in zip(records, numbers, strict=True))
    assert sum(1 for path in pcap for _ in read_pcap(path)) >= ENOUGH

    before = {path: path.read_bytes() for path in daemon.folder.iterdir()}
    again = stage.sipdumpd(folder=daemon.folder)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(hep3(request("BYE", 77)), ("127.0.0.1", again.port))
    again.until(lambda: any(r.buf == request("BYE", 77) for r in again.records()), "the new record is stored")
    assert again.stop() == 0
    assert {path: path.read_bytes() for path in before} == before, "old files are as they were"
    new = set(daemon.folder.iterdir()) - set(before)
    assert sorted(path.suffix for path in new) == [".data", ".meta", ".pcap"]


def test_taken_names_are_left_alone(stage: Stage) -> None:
    """A crash and a restart within one second, without the luck that this takes: the names of seconds to come exist."""
    folder = stage.path("taken")
    folder.mkdir()
    now = time.time()
    taken = [Segment.starting("kamailio-sipdump-", now + second).stem for second in range(-1, 30)]
    for stem in taken:
        for suffix in (".data", ".pcap"):  # no .meta: it may be what got lost
            (folder / f"{stem}{suffix}").write_text("of an earlier run")
    daemon = stage.sipdumpd(folder=folder)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(hep3(request("BYE", 77)), ("127.0.0.1", daemon.port))
    daemon.says('event="segment opened" backend=text')
    assert daemon.stop() == 0
    assert all(
        (folder / f"{stem}{suffix}").read_text() == "of an earlier run"
        for stem in taken
        for suffix in (".data", ".pcap")
    )
    fresh = [path for path in folder.iterdir() if path.stem not in taken]
    assert sorted(path.suffix for path in fresh) == [".data", ".meta", ".pcap"]
    (stem,) = {path.stem for path in fresh}
    assert stem.removesuffix("-1") in taken
    assert [record.buf for record in read_data(folder / f"{stem}.data")] == [request("BYE", 77)]


def test_torn_tails_read_to_the_last_full_record(stage: Stage) -> None:
    """A kill seldom tears a record, so this does, at every byte of the last one."""
    daemon = killed(stage)
    text, pcap = TextBackend(NoOptions(), Site("", "")), PcapBackend(NoOptions(), Site("", ""))
    for backend, suffix in ((text, ".data"), (pcap, ".pcap")):
        whole = daemon.files(suffix)[-1]
        with whole.open("rb") as file:
            records = list(backend.decode(file))
        assert len(records) > 2
        torn = stage.path(f"torn{suffix}")
        one = writer(stage.folder, backend, records[:2])
        last = len(writer(stage.folder, backend, records[:1]))
        for size in range(last, len(one)):
            torn.write_bytes(one[:size])
            with torn.open("rb") as file:
                assert list(backend.decode(file)) == records[:1], f"{suffix} torn at {size} of {len(one)}"


@pytest.mark.peer
def test_tshark_reads_what_is_left(stage: Stage) -> None:
    need("tshark")
    daemon = killed(stage)
    for path in daemon.files(".pcap"):
        packets = sum(1 for _ in read_pcap(path))
        assert tshark_count(path) == packets > 0
        torn = stage.path("torn.pcap")
        shutil.copyfile(path, torn)
        with torn.open("r+b") as file:
            file.truncate(path.stat().st_size - 7)
        assert tshark_count(torn) in (packets - 1, packets), "7 bytes may have been a torn packet already"


def killed(stage: Stage) -> Daemon:
    """Return a daemon that was killed under load, having checked that everything in its files survived."""
    daemon = stage.sipdumpd()
    with load(daemon.port):
        daemon.until(lambda: len(daemon.records()) >= ENOUGH, f"{ENOUGH} records")
        seen = {path: path.read_bytes() for suffix in (".data", ".pcap") for path in daemon.files(suffix)}
        daemon.process.kill()
        assert daemon.wait() == -9
    for path, content in seen.items():
        assert path.read_bytes().startswith(content), f"{path} lost what a reader had seen"
    visible = sum(1 for path in files(daemon.folder, ".data") for _ in read_data(path))
    assert visible >= ENOUGH
    return daemon


@contextmanager
def load(port: int) -> Iterator[None]:
    """Send frames as fast as is of use while the block runs, and not for ever."""
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(FRAMES):
                sock.sendto(hep3(request("OPTIONS", number)), ("127.0.0.1", port))
                if number % BURST == 0 and stop.wait(0.002):
                    return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def writer(folder: Path, backend: TextBackend | PcapBackend, records: list[Record]) -> bytes:
    """Return the bytes of a file of these records."""
    site = Site(str(folder), "whole-")
    segment = Segment.starting("whole-", 0)
    path = folder / f"{segment.stem}{backend.suffix}"
    path.unlink(missing_ok=True)
    fresh = type(backend)(NoOptions(), site)
    fresh.open(Segment("whole-", segment.stamp, 0, backend.suffix))
    fresh.write(records)
    fresh.close()
    return path.read_bytes()


def tshark_count(path: Path) -> int:
    """Count the packets that tshark reads; of a torn file it says so, and gives the packets before."""
    argv = [program("tshark") or "tshark", "-r", str(path), "-T", "fields", "-e", "frame.number"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 or "cut short" in done.stderr, done.stderr
    return len(done.stdout.splitlines())
