"""The process that seals: what it has and has not, and how its death, or its parent's, costs nothing."""

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.errors import StorageError
from sipdump_core.log import Event
from sipdump_parquet import ParquetBackend, sealer
from sipdump_parquet.child import Child
from sipdump_parquet.errors import BusyError, ContentError
from sipdump_parquet.options import WAL_SUFFIX
from tests.backends.parquet.support import SEGMENT, SMALL, calls, leave, make, read, sealed
from tests.backends.parquet.test_crash import everything, flip
from tests.support import record, wait_for

pytestmark = pytest.mark.usefixtures("in_a_child")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer, "_BACKOFF", (0.01, 0.05))


def child_of(backend: ParquetBackend) -> Child:
    assert backend._sealer
    hands = backend._sealer._hands
    assert isinstance(hands, Child)
    return hands


def end(child: Child, number: int) -> None:
    """Kill a process, and wait until it is dead: all its threads."""
    process = wait_for(lambda: child._process)
    os.kill(process.pid, number)
    wait_for(lambda: process.poll() is not None)


def state(pid: int) -> str:
    """The state of a process as proc(5) has it; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


# A program without a guard, as people write them: it stores, and says which process seals. Then it waits.
_PROGRAM = """
import sys
from pathlib import Path
from sipdump_core.drivers.base import Site
from sipdump_core.segment import Segment
from sipdump_parquet import ParquetBackend
from sipdump_parquet.options import ParquetOptions
from tests.support import record

backend = ParquetBackend(ParquetOptions(memory=1 << 16), Site(sys.argv[1], "t-"))
backend.start()
backend.open(Segment("t-", "2026-11-22--23-31-00", 0, ".parquet"))
while not backend._sealer._hands.pid:
    backend.write([record(b"x" * 1000)] * 10)
print(backend._sealer._hands.pid, "pyarrow" in sys.modules, flush=True)
sys.stdin.readline()
backend.close()
backend.stop()
"""


def program(folder: Path) -> "subprocess.Popen[str]":
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", _PROGRAM, str(folder)], cwd=Path(__file__).parents[3], **pipes)


def test_the_process_has_nothing_of_its_parent_and_ends_with_it(tmp_path: Path) -> None:
    with program(tmp_path) as parent:
        assert parent.stdout
        text, imported = parent.stdout.readline().split()
        pid = int(text)
        assert imported == "False", "the parent does without pyarrow"
        wait_for(lambda: b"sipdump_parquet.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())
        wait_for(lambda: Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n")
        assert os.getpgid(pid) != os.getpgid(parent.pid), "Ctrl-C is for the parent alone"
        assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, parent.pid)
        wals = [
            fd
            for fd in os.listdir(f"/proc/{pid}/fd")
            if WAL_SUFFIX in os.readlink(f"/proc/{pid}/fd/{fd}")
            and "flags:\t01" in Path(f"/proc/{pid}/fdinfo/{fd}").read_text()  # open for writing
        ]
        assert wals == []
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, ignored)
        assert state(pid) in ("S", "R", "D")
        parent.kill()
        wait_for(lambda: state(pid) in ("", "Z"))
    assert everything_left(tmp_path)


def everything_left(folder: Path) -> bool:
    """Whether what a killed program had stored is sealed by the next one."""
    results = list(make(folder).recover())
    return [done.error for done in results] == [None] and sealed(folder) == [SEGMENT.name]


def test_a_program_of_one_line_seals(tmp_path: Path) -> None:
    with program(tmp_path) as parent:
        parent.communicate("\n", timeout=100)
        assert parent.returncode == 0
    assert os.listdir(tmp_path) == [SEGMENT.name]


def test_what_is_taken_early_and_what_is_taken_at_last_make_one_file(tmp_path: Path) -> None:
    batch = calls(300, size=700)
    backend = make(tmp_path, memory=SMALL)
    backend.start()
    backend.open(SEGMENT)
    for at in range(0, len(batch), 100):
        backend.write(batch[at : at + 100])
    wait_for(lambda: backend._sealer and backend._sealer._early)
    backend.close()
    backend.stop()
    assert read(tmp_path) == batch
    assert os.listdir(tmp_path) == [SEGMENT.name]


@pytest.mark.usefixtures("quick")
def test_somebody_kills_it_again_and_again(tmp_path: Path) -> None:
    """That is no fault of the contents, however often; what it had taken is taken again."""
    batch = calls(300, size=700)
    backend = make(tmp_path, memory=SMALL)
    backend.start()
    backend.open(SEGMENT)
    child = child_of(backend)
    backend.write(batch[:100])
    for at in range(100, len(batch), 100):
        if at in (100, 300, 700):  # what failed is tried again at twice the size
            wait_for(lambda: child.pid)
            end(child, signal.SIGKILL)
        backend.write(batch[at : at + 100])
    backend.close()
    backend.stop()
    if not sealed(tmp_path):  # the last one was killed at its work, and the stop waited no longer
        list(make(tmp_path).recover())
    assert read(tmp_path) == batch
    assert os.listdir(tmp_path) == [SEGMENT.name]


_HOOK = """
import os
real = os.{step}
def {step}(*args, **kwargs):
    if {when!r} == "after":
        real(*args, **kwargs)
    os.kill(os.getpid(), {number})
os.{step} = {step}
"""


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Has the process, when it starts, import what a test puts there."""

    def put(text: str, name: str = "sitecustomize") -> Path:
        place = tmp_path / "imported"
        place.mkdir()
        (place / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(place))
        return place

    return put


@pytest.mark.parametrize(
    ("number", "kills", "kind"),
    [
        (signal.SIGKILL, [0, 0], StorageError),
        (signal.SIGKILL, [0, 1], ContentError),  # by the kernel, as memory ran out
        (signal.SIGSEGV, [0, 0], ContentError),
        (signal.SIGABRT, [0, 0], ContentError),
    ],
)
def test_what_kills_it_says_whose_fault_that_is(
    tmp_path: Path,
    hook: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kills: list[int],
    kind: type[StorageError],
) -> None:
    place = hook(_HOOK.format(step="link", when="before", number=int(number)))
    monkeypatch.setattr("sipdump_parquet.child._kills", iter(kills * 2).__next__)
    folder = tmp_path / "stored"
    folder.mkdir()
    wal = leave(folder, [record(b"1")])
    backend = make(folder)
    child = Child(backend.opts, backend.site)
    with pytest.raises(StorageError, match=f"was ended by {signal.Signals(number).name}") as caught:
        child.seal(SEGMENT, own=False)
    assert type(caught.value) is kind
    assert wal.exists()
    (place / "sitecustomize.py").unlink()
    done = child.seal(SEGMENT, own=False)  # by another process
    child.close()
    assert done
    assert (done.records, done.location) == (1, str(folder / SEGMENT.name))
    assert child.pid == 0


def test_one_that_ended_while_it_had_nothing_to_do_is_replaced(tmp_path: Path) -> None:
    wal = leave(tmp_path, [record(b"1")], [record(b"2")])
    size = wal.stat().st_size
    backend = make(tmp_path)
    child = Child(backend.opts, backend.site)
    assert child.take(str(wal), size) == size
    for again in (lambda: child.take(str(wal), size), lambda: child.seal(SEGMENT, own=False)):
        end(child, signal.SIGSEGV)
        assert again()
    child.close()
    assert everything(tmp_path) == [1, 2]


@pytest.mark.usefixtures("quick")
def test_contents_that_kill_it_are_kept_aside(tmp_path: Path, hook: Callable[..., Path]) -> None:
    hook(_HOOK.format(step="link", when="before", number=int(signal.SIGSEGV)))
    folder = tmp_path / "stored"
    folder.mkdir()
    backend = make(folder)
    backend.start()
    backend.open(SEGMENT)
    backend.write([record(b"poison")])
    backend.close()
    wait_for(lambda: os.listdir(folder) == [f"{SEGMENT.stem}{WAL_SUFFIX}.damaged"] or None, 60)
    backend.stop()
    assert not backend.health()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["fchmod", "fsync", "link", "unlink"])
def test_a_kill_at_each_step(
    tmp_path: Path, hook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    place = hook(_HOOK.format(step=step, when=when, number=int(signal.SIGKILL)))
    folder = tmp_path / "stored"
    folder.mkdir()
    leave(folder, [record(b"1")], [record(b"2")])
    backend = make(folder)
    child = Child(backend.opts, backend.site)
    with pytest.raises(StorageError, match="SIGKILL"):
        child.seal(SEGMENT, own=True)
    assert sorted(everything(folder)) == [1, 2]
    (place / "sitecustomize.py").unlink()
    child.seal(SEGMENT, own=True)
    child.close()
    assert sorted(everything(folder)) == [1, 2]
    assert os.listdir(folder) == [SEGMENT.name]


@pytest.mark.usefixtures("quick")
def test_a_machine_that_has_no_room_for_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    backend = make(tmp_path)
    backend.start()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        backend.open(SEGMENT)
        backend.write([record(b"1")])
        backend.close()
        health = wait_for(backend.health)
        assert health == ("1 segments cannot be sealed: start the process that seals: Resource temporarily unavailable")
    wait_for(lambda: sealed(tmp_path) == [SEGMENT.name])
    wait_for(lambda: not backend.health())
    backend.stop()


@pytest.mark.usefixtures("quick")
def test_without_a_working_pyarrow_it_says_so_and_keeps_everything(tmp_path: Path, hook: Callable[..., Path]) -> None:
    hook("raise ImportError('libarrow.so: no such file')", "pyarrow")
    folder = tmp_path / "stored"
    folder.mkdir()
    backend = make(folder)
    backend.start()
    backend.open(SEGMENT)
    backend.write([record(b"1")])
    backend.close()
    health = wait_for(backend.health)
    backend.stop()
    assert "ended with status 1 at once: ImportError: libarrow.so: no such file" in health
    assert os.listdir(folder) == [SEGMENT.stem + WAL_SUFFIX]


def test_its_warnings_are_in_the_log_of_its_parent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wal = leave(tmp_path, [record(b"1")], [record(b"2")], [record(b"3")])
    flip(wal, 1)
    backend = make(tmp_path)
    child = Child(backend.opts, backend.site)
    done = child.seal(SEGMENT, own=False)
    child.close()
    (event,) = [e.msg for e in caplog.records if isinstance(e.msg, Event) and "damaged" in e.msg.what]
    assert done
    assert event.fields == {"path": str(wal), "offset": event.fields["offset"], "bytes": done.lost, "kept": done.kept}


def test_what_a_process_has_open_is_busy(tmp_path: Path) -> None:
    writer = make(tmp_path)
    writer.open(SEGMENT)
    writer.write([record(b"1")])
    child = Child(writer.opts, writer.site)
    with pytest.raises(BusyError):
        child.seal(SEGMENT, own=False)
    child.close()
    writer.forget()


@pytest.mark.usefixtures("quick")
def test_what_the_last_run_is_just_letting_go_is_taken_up(tmp_path: Path) -> None:
    """A killed daemon's process may take a moment to end, and has the file locked until then."""
    writer = make(tmp_path)
    writer.open(SEGMENT)
    writer.write([record(b"1")])
    backend = make(tmp_path)
    backend.start()
    assert backend._sealer
    job = backend._sealer._jobs[0]
    wait_for(lambda: job.attempts)
    writer.forget()
    wait_for(lambda: sealed(tmp_path) == [SEGMENT.name])
    backend.stop()


def test_without_work_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer, "_IDLE_SECONDS", 0.1)
    backend = make(tmp_path)
    backend.start()
    backend.open(SEGMENT)
    backend.write([record(b"1")])
    assert child_of(backend).pid == 0, "for so little there is none"
    backend.close()
    wait_for(lambda: sealed(tmp_path))
    wait_for(lambda: child_of(backend).pid == 0)
    backend.stop()
