"""What the benchmarks read from the machine: CPU time of tasks, memory, a description."""

import contextlib
import os
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path


def cpu_ns(pid: int | str, tid: int | None = None) -> int:
    """Return the CPU time (user + sys) of a thread, by default a process's main one, in nanoseconds.

    /proc/PID/schedstat counts it exactly; if the kernel lacks that, /proc/PID/stat in ticks of usually 10 ms.
    """
    folder = Path(f"/proc/{pid}/task/{pid if tid is None else tid}")
    with contextlib.suppress(FileNotFoundError):
        return int((folder / "schedstat").read_text().split()[0])
    columns = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(columns[11]) + int(columns[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def own_threads() -> dict[str, int]:
    """Return the CPU time in nanoseconds of each of SipDump's threads in this process, by name."""
    return {
        thread.name: cpu_ns(os.getpid(), thread.native_id)
        for thread in threading.enumerate()
        if thread.name.startswith("sipdump-") and thread.native_id
    }


def process_cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process that still run, in nanoseconds."""
    return sum(cpu_ns(pid, int(tid)) for tid in os.listdir(f"/proc/{pid}/task"))


def children(pid: int | str = "self") -> list[int]:
    """Return the processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def peak_mb(pid: int | str = "self") -> float:
    """Return a process's peak resident memory in MB. (getrusage would report the parent's if that was larger.)"""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) * 1024 / 1e6


def cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def pinned(*only: int) -> Iterator[None]:
    """Pin this thread, and the processes that it starts meanwhile, to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, only)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def describe() -> str:
    """Describe the machine: processor, cores, kernel, Python."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    name = model[1].strip() if model else platform.machine()
    kernel = re.match(r"\d+\.\d+(\.\d+)?", platform.release())
    return (
        f"{len(cores())} cores ({name}), Linux {kernel[0] if kernel else ''}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )
