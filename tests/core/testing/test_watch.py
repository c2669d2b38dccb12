"""What the kit sees of a call."""

import marshal
import os
import pickle
import socket
import sys
import threading
from pathlib import Path

import pytest

from sipdump_core.testing.disk import ballast, mount_small_disk
from sipdump_core.testing.surroundings import changes, surroundings
from sipdump_core.testing.watch import Decoys, at_step, called, closed_once, steps, touching


def test_files_sockets_and_names_are_seen(tmp_path: Path) -> None:
    with touching() as touched:
        (tmp_path / "x").write_bytes(b"")
        (tmp_path / "x").read_bytes()
        os.listdir(tmp_path)
        socket.getaddrinfo("127.0.0.1", 9)
    assert [(one.event, one.writes) for one in touched] == [
        ("open", True), ("open", False), ("os.listdir", False), ("socket.getaddrinfo", True),
    ]  # fmt: skip
    assert str(tmp_path / "x") in str(touched[0])


def test_imports_and_other_threads_are_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_only_here.py").write_text("open(__file__).close()")
    monkeypatch.syspath_prepend(tmp_path)
    with touching() as touched:
        import imported_only_here  # type: ignore[import-not-found]  # noqa: F401

        thread = threading.Thread(target=os.listdir, args=(tmp_path,))
        thread.start()
        thread.join()
    os.listdir(tmp_path)
    assert touched == []


def test_something_is_done_at_each_step_of_a_call() -> None:
    def call() -> list[int]:
        return sorted([len("abc"), max(1, 2)])

    count = steps(call)
    assert count == 3
    for number in range(1, count + 2):
        done: list[int] = []
        assert at_step(number, call, lambda done=done: done.append(1)) == [2, 3]  # type: ignore[misc]  # bound now
        assert len(done) == (number <= count)
    assert sys.getprofile() is None


@pytest.mark.parametrize("loads", [pickle.loads, pickle._loads, marshal.loads], ids=lambda call: call.__module__)  # type: ignore[attr-defined]  # the one in Python
def test_unpickling_is_seen(loads: object) -> None:
    data = marshal.dumps([1]) if loads is marshal.loads else pickle.dumps(Path("x"))
    with touching() as touched, called(("_pickle", "loads"), ("marshal", "loads")) as calls:
        loads(data)  # type: ignore[operator]  # see above
    seen = {*calls, *(one.event.partition(".")[0] for one in touched)}
    assert seen & {"pickle", "marshal", "pickle.loads", "marshal.loads"}


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_number_that_is_closed_again_is_seen(tmp_path: Path, times: int) -> None:
    with Decoys(tmp_path / "decoy") as decoys:
        with closed_once(decoys.open):
            fd = os.open(os.devnull, os.O_RDONLY)
            for _ in range(times):
                os.close(fd)
        assert decoys.gone() == times - 1


def test_what_has_changed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = surroundings()
    assert changes(before) == []
    monkeypatch.setenv("SIPDUMP_TEST", "1")
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert changes(before) == [
        "the environment (SIPDUMP_TEST)", "functions of the standard library (socket.getaddrinfo)",
    ]  # fmt: skip


def test_a_small_disk_is_full_and_nobody_elses(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            why = mount_small_disk(str(tmp_path), 1 << 20)
            (tmp_path / "x").write_bytes(b"x" * 4096) if not why else None
            with ballast(str(tmp_path), 1 << 16):
                free = os.statvfs(tmp_path).f_bfree * os.statvfs(tmp_path).f_frsize
            status = 77 if why else 0 if free == 1 << 16 else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) == 77:
        pytest.skip("no file system can be mounted here")
    assert os.waitstatus_to_exitcode(status) == 0
    assert list(tmp_path.iterdir()) == []
