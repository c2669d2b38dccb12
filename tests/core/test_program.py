"""Our programs: a crash leaves a report, and nothing of a driver keeps them when they have ended."""

import subprocess
import sys
import time

import pytest

from sipdump_core import program

END = "program.GRACE, program._LAST = 0.3, 0.3\nsys.exit(program.as_program('sipdump-x', main))\n"


def run(code: str) -> "subprocess.CompletedProcess[str]":
    script = f"import atexit, ctypes, sys, threading, time\nfrom sipdump_core import program\n{code}\n{END}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "def main():\n    threading.Thread(target=time.sleep, args=(99,), name='theirs').start()\n    return 3",
            "sipdump-x: threads that do not end: theirs; the process ends without waiting for it",
        ),
        (
            "def main():\n    atexit.register(time.sleep, 99)\n    return 3",
            "what was left to do at the exit does not end",
        ),
        ("def main():\n    atexit.register(time.sleep, 99)\n    sys.exit(3)", "what was left to do at the exit"),
    ],
)
def test_neither_threads_nor_what_is_left_for_the_exit_keep_it(code: str, said: str) -> None:
    began = time.monotonic()
    done = run(code.replace("return 3", "print('all of it')\n    return 3"))
    assert (done.returncode, time.monotonic() - began < 50) == (3, True)
    assert said in done.stderr
    assert done.stdout == ("" if "sys.exit" in code else "all of it\n")


def test_what_holds_the_interpreter_is_ended_with_a_report() -> None:
    done = run("def main():\n    atexit.register(ctypes.PyDLL(None).sleep, 99)\n    return 0")
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_what_ends_in_time_is_not_spoken_of() -> None:
    done = run("def main():\n    atexit.register(print, 'bye')\n    return 2")
    assert (done.returncode, done.stdout, done.stderr) == (2, "bye\n", "")


def test_a_crash_leaves_a_report() -> None:
    done = run("def main():\n    ctypes.string_at(0)")
    assert done.returncode < 0
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "in main" in done.stderr


def test_what_a_library_writes_past_it_is_not_taken_for_data() -> None:
    done = run("import os\ndef main():\n    print('a')\n    os.write(1, b'raw')\n    print('b é')\n    return 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\nb é\n", "raw")
    done = run("def main():\n    print('a')\n    return 0\nsys.stdout.close()")
    assert done.returncode == 1  # as without it
    assert "ValueError" in done.stderr


def test_a_reader_that_went_away_is_no_error() -> None:
    code = "import os\nread, write = os.pipe()\nos.close(read)\nos.dup2(write, 1)\n"
    done = run(f"{code}def main():\n    print('a')\n    return 2")
    assert (done.returncode, done.stderr) == (2, "")


def test_the_grace_is_short() -> None:
    assert program.GRACE == 5
