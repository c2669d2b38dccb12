"""End to end: HEP over UDP to sipdumpd on one core; and the CPU time of its stages."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import attrs

from bench import machine, traffic, writer
from bench.table import Row, compare
from sipdump_core.drivers.base import Backend
from sipdump_core.net.recvmmsg import Receiver
from sipdump_core.plan import make_plan
from sipdump_core.process_table import ProcessTable
from sipdump_core.record import Record
from sipdump_core.settings.hep import HepOptions
from sipdump_core.settings.options import Setting
from sipdump_core.sources.hep_datagrams import ROUND
from sipdump_core.sources.hep_decoder import HepDecoder
from sipdump_core.sources.hep_round import RoundDecoder
from sipdump_pcap import HeaderTransform

_ROOT = Path(__file__).parent.parent
_DAEMON, _ONE_BY_ONE = "sipdump_core.daemon", "bench.one_by_one"
_RECEIVE = "receive and decode"
LAG = 0.1
_GROWTH = 1.08
_ROUND = 500
_AIMS = {1: 5.0, 13: 6.5}
"""Microseconds of CPU a record for the whole daemon, by mode."""
_RATE = 60_000.0


@attrs.frozen
class Step:
    """The result of one rate."""

    rate: float
    """Datagrams a second, as the sender really sent them."""
    lost: int
    late: bool
    """Whether the files still grew 0.1 s after the last datagram: a backlog that would become a loss."""
    slow_sender: bool
    cpu: dict[str, float]
    """Microseconds a record by thread."""

    @property
    def total(self) -> float:
        """Microseconds a record of all threads."""
        return sum(self.cpu.values())


def end_to_end(folder: Path, quick: bool) -> list[Row]:
    """Find the highest rate that one core sustains."""
    rows = []
    for mode, name in writer.MODES.items():
        if quick and mode != 1:
            continue
        seconds = 0.5 if quick else 2.0
        best, bounded = _search(folder, mode, seconds, 5_000 if quick else 10_000, 2 if quick else 60)
        if best is None:
            rows.append(Row(f"HEP over UDP, one core, {name}", "no rate without loss"))
            continue
        rows.append(
            Row(f"HEP over UDP, one core, without loss, {name}", f"{best.rate:,.0f} records/s",
                "the sender's limit, no loss seen" if bounded else "")
        )  # fmt: skip
        cpu = best.cpu
        rows.append(
            Row(f"CPU a record at that rate, {name}", f"{sum(cpu.values()):.2f} µs",
                ", ".join(f"{thread} {value:.2f}" for thread, value in cpu.items() if thread != "main"))
        )  # fmt: skip
    return rows


def paired(folder: Path, quick: bool) -> list[Row]:
    """Measure the daemon's CPU time at one rate: in rounds, and one datagram at a time, in turns.

    A run that loses anything, because others had the machine for too long, does not count.
    """
    rows = []
    rate, seconds, rounds = (5_000.0, 0.5, 1) if quick else (_RATE, 2.0, 4)
    for mode, name in writer.MODES.items():
        best: dict[str, Step] = {}
        for _ in range(rounds):
            for program in (_DAEMON, _ONE_BY_ONE):
                step = _step(folder, mode, rate, seconds, program)
                if not step.lost and (program not in best or step.total < best[program].total):
                    best[program] = step
        what = f"HEP over UDP to {name}, CPU a record at {rate:,.0f}/s, the whole daemon"
        if len(best) < 2:
            rows.append(Row(what, "no run without loss"))
            continue
        mine, other = best[_DAEMON], best[_ONE_BY_ONE]
        row = compare(what, mine.total, other.total, None, other_is="received and decoded one by one")
        aim = _AIMS[mode]
        rows += [
            attrs.evolve(row, aim=f"at most {aim:g} µs", met=mine.total <= aim),
            compare(f"of that, receiving and decoding, {name}", mine.cpu[_RECEIVE], other.cpu[_RECEIVE], None,
                    other_is="one by one"),
        ]  # fmt: skip
    return rows


def stages(folder: Path, quick: bool) -> list[Row]:
    """Measure each stage in its own loop, as CPU time of the thread that runs it, the least of many rounds."""
    rounds = 5 if quick else 40
    items = traffic.records(_ROUND * 2)
    frames = [traffic.hep_frame(record) for record in items]
    values = {
        "receive, recvmmsg": _least(rounds, lambda: _receive(frames[:_ROUND], _drain_rounds)),
        "receive, recvfrom and time": _least(rounds, lambda: _receive(frames[:_ROUND], _drain)),
        "decode HEP3, in rounds": _least(rounds, lambda: _decode_rounds(frames)),
        "decode HEP3, one by one": _least(rounds, lambda: _decode(frames)),
    }
    with writer.running(folder, 1) as dump:
        before = machine.own_threads()["sipdump-writer"]
        repeats = 20 if quick else 200
        start = time.thread_time_ns()
        for _ in range(repeats):
            dump.intercept(items)
        queued = time.thread_time_ns() - start
        dump.flush()
        time.sleep(0.02)
        spent = machine.own_threads()["sipdump-writer"] - before
        values["queue"] = queued / repeats / len(items) / 1000
        values["dispatch"] = spent / repeats / len(items) / 1000
    values["Call-ID, where an event route reads it"] = _least(rounds, lambda: _call_ids(items))
    text, pcap = writer.backends(5, folder)
    header, bufs = HeaderTransform(None), [item.buf for item in items]
    values["encode text"] = _least(rounds, lambda: _timed(lambda: text.encode(items), len(items)))
    values["P-KSR-SIPDump header"] = _least(rounds, lambda: _timed(lambda: header.apply(items, bufs), len(items)))
    values["encode pcap"] = _least(rounds, lambda: _timed(lambda: pcap.encode(items), len(items)))
    path = folder / "stage"
    data = text.encode(items)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        values["write, to a warm file"] = _least(rounds, lambda: _timed(lambda: _rewrite(fd, data), len(items)))
    finally:
        os.close(fd)
        path.unlink()
    return [Row(f"stage: {name}", f"{value:.2f} µs CPU a record") for name, value in values.items()]


def _call_ids(items: list[Record]) -> float:
    fresh = [Record(item.time_us, item.flow, item.buf) for item in items]  # a record keeps what it has found
    return _timed(lambda: [item.call_id for item in fresh], len(fresh))


def _search(folder: Path, mode: int, seconds: float, start: float, steps: int) -> tuple[Step | None, bool]:
    """Double the rate until a step fails, then go up in small steps from the last good one; retry a failed step once.

    Returns:
        The best step, and whether the sender limited the search.
    """
    best: Step | None = None
    rate, factor = start, 2.0
    for _ in range(steps):
        step = next((s for s in (_step(folder, mode, rate, seconds) for _ in range(2)) if not (s.lost or s.late)), None)
        if step is None:
            if factor == _GROWTH or best is None:
                return best, False
            factor = _GROWTH
            rate = best.rate * factor
            continue
        if step.slow_sender:
            return (step if best is None or step.rate > best.rate else best), True
        best = step
        rate *= factor
    return best, False


def _step(folder: Path, mode: int, rate: float, seconds: float, program: str = _DAEMON) -> Step:
    place = folder / "hep"
    place.mkdir()
    core, *others = machine.cores()
    count = int(rate * seconds)
    try:
        with open(place / "log", "w") as log:
            with machine.pinned(core):
                daemon = subprocess.Popen(command(mode, place, program=program), stderr=log, cwd=_ROOT)
            try:
                port = port_of(place / "log", daemon)
                with machine.pinned(*(others or [core])):
                    sender = subprocess.Popen(
                        [sys.executable, "-m", "bench.sender", str(port), str(count), str(seconds)],
                        stdout=subprocess.PIPE,
                        text=True,
                        cwd=_ROOT,
                    )
                before = _threads(daemon.pid)
                took = float(sender.communicate(timeout=60 + 10 * seconds)[0])
                time.sleep(LAG)
                sizes = _sizes(place)
                time.sleep(0.2)
                after = _threads(daemon.pid)
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(60)
            finally:
                if daemon.poll() is None:
                    daemon.kill()
                    daemon.wait()
        text = (place / "log").read_text()
        stored = min(int(n) for n in re.findall(r"summary: backend\"? name=\w+ stored=(\d+)", text))
        late = _sizes(place) != sizes
    finally:
        shutil.rmtree(place)
    spent = {tid: (time_ns - before.get(tid, 0)) / count / 1000 for tid, time_ns in sorted(after.items())}
    named = dict(zip(_names(mode), spent.values(), strict=False))
    cpu = {**named, "sync": sum(spent.values()) - sum(named.values())}
    return Step(count / took, count - stored, late, took > 1.03 * seconds, cpu)


def command(mode: int, place: Path, *more: str, program: str = _DAEMON) -> list[str]:
    """Return what starts a daemon that listens for HEP.

    Args:
        mode: what it stores.
        place: where to.
        more: further parameters, as ``--modparam`` takes them.
        program: the module that is run.
    """
    settings = (
        "sipdump:enable:i:1",
        f"sipdump:mode:i:{mode}",
        f"sipdump:folder:s:{place}",
        f"sipdump_hep:listen:s:udp:{traffic.SERVER}:0",
        *more,
    )
    return [sys.executable, "-m", program, *itertools.chain(*(("--modparam", s) for s in settings))]


def port_of(log: Path, daemon: "subprocess.Popen[bytes]") -> int:
    """Wait until a daemon listens, and return its port."""
    for _ in range(200):
        time.sleep(0.05)
        text = log.read_text()
        match = re.search(r"listening for HEP.* port=(\d+)", text)
        if match and "sipdumpd started" in text:
            return int(match[1])
        if daemon.poll() is not None:
            break
    raise RuntimeError(f"sipdumpd did not start: {log.read_text()[-500:]}")


def _threads(pid: int) -> dict[int, int]:
    """Return the daemon's CPU nanoseconds by thread."""
    return {int(tid): machine.cpu_ns(pid, int(tid)) for tid in os.listdir(f"/proc/{pid}/task")}


def _names(mode: int) -> list[str]:
    """Return what the daemon's threads do, in the order in which it starts them; what syncs files comes later."""
    plan = make_plan([Setting("sipdump", "mode", mode, "bench")], to_start=False)
    lanes = [driver.name for driver in plan.chosen if driver.cls and issubclass(driver.cls, Backend)]
    return ["main", *lanes, "queue and dispatch", _RECEIVE]


def _sizes(place: Path) -> list[int]:
    return [path.stat().st_size for path in sorted(place.glob("*.*")) if path.suffix in (".data", ".pcap")]


def _least(rounds: int, measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(rounds))


def _timed(work: Callable[[], object], count: int) -> float:
    """Return the microseconds of this thread's CPU time for each of ``count``."""
    start = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - start) / count / 1000


def _receive(frames: list[bytes], drain: Callable[[socket.socket, int], int]) -> float:
    """Time what HepSource does for each datagram, except decoding."""
    with contextlib.ExitStack() as stack:
        receiver, sender = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind((traffic.SERVER, 0))
        receiver.setblocking(False)
        sender.connect(receiver.getsockname())
        waiting = 0
        spent = 0
        for frame in frames:
            sender.send(frame)
            waiting += 1
            if waiting == 50:  # few enough for the smallest default buffer
                spent += drain(receiver, waiting)
                waiting = 0
        return spent / len(frames) / 1000


def _drain(receiver: socket.socket, count: int) -> int:
    receive = receiver.recvfrom
    start = time.thread_time_ns()
    for _ in range(count):
        _, address = receive(65536)
        _ = address[:2], int(time.time() * 1e6)
    return time.thread_time_ns() - start


@cache
def _receiver(sock: socket.socket) -> Receiver:
    return Receiver(sock, ROUND)


def _drain_rounds(receiver: socket.socket, count: int) -> int:
    rounds = _receiver(receiver)
    start = time.thread_time_ns()
    senders, _ = rounds.receive()
    spent = time.thread_time_ns() - start
    assert len(senders) == count
    return spent


def _decode_rounds(frames: list[bytes]) -> float:
    decode = RoundDecoder(HepOptions(), ProcessTable(0.0)).decode_round
    peer = (traffic.SERVER, 40000)
    now = int(time.time() * 1e6)
    stride = 2048
    places = range(0, len(frames) * stride, stride)
    packets = [(peer, at, len(frame)) for at, frame in zip(places, frames, strict=True)]
    buffer = b"".join(frame.ljust(stride) for frame in frames)
    decode(buffer, packets, now, _refuse)
    start = time.thread_time_ns()
    decoded: list[Record] = []
    for at in range(0, len(packets), ROUND):
        decoded += decode(buffer, packets[at : at + ROUND], now, _refuse)
    spent = time.thread_time_ns() - start
    assert len(decoded) == len(frames)
    return spent / len(frames) / 1000


def _refuse(peer: tuple[str, int], error: Exception) -> None:
    raise RuntimeError(f"{peer}: {error}")


def _decode(frames: list[bytes]) -> float:
    decode = HepDecoder(HepOptions(), ProcessTable(0.0)).decode
    peer = (traffic.SERVER, 40000)
    now = int(time.time() * 1e6)
    for frame in frames:
        decode(frame, peer, now)  # a flow's first packets cost more, once
    start = time.thread_time_ns()
    decoded: list[Record] = []
    for frame in frames:
        decoded += decode(frame, peer, now)  # as HepSource does it
    spent = time.thread_time_ns() - start
    assert len(decoded) == len(frames)
    return spent / len(frames) / 1000


def _rewrite(fd: int, data: bytes) -> None:
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, data)
