"""The terminal as a user has it: in a real one (tmux), beside a daemon that stores what a real Kamailio handles."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.reading.traffic import at, call, store
from tests.e2e.peers import Stage, free_port, need, until

pytestmark = pytest.mark.peer
READ = [sys.executable, "-m", "sipdump_core.reading"]


class Screen:
    """A terminal in tmux, with a server of its own."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._folder = folder

    def start(self, *args: str | Path, env: dict[str, str] | None = None) -> None:
        variables = [f"{name}={value}" for name, value in {"LC_ALL": "C.UTF-8", **(env or {})}.items()]
        command = ["env", *variables, *map(str, args)]
        script = self._folder / "run.sh"
        quoted = " ".join(f"'{part}'" for part in command)
        script.write_text(f"cd {self._folder}\n{quoted}\necho ended with $?\nsleep 600\n")
        self._run("new-session", "-d", "-x", "80", "-y", "24", f"sh {script}")

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def has(self, text: str) -> None:
        """Wait until a text is on the screen."""
        try:
            until(lambda: text in self.text, text)
        except AssertionError:
            raise AssertionError(f"{text!r} is not on the screen:\n{self.text}") from None

    @property
    def text(self) -> str:
        return self._run("capture-pane", "-p")

    @property
    def coloured(self) -> str:
        return self._run("capture-pane", "-p", "-e")

    @property
    def pid(self) -> int:
        """The process that the terminal's shell has started."""
        shell = self._run("display-message", "-p", "#{pane_pid}").strip()
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])

    def end(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)

    def _run(self, *args: str) -> str:
        return subprocess.run([*self._tmux, *args], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    need("tmux")
    found = Screen(tmp_path)
    yield found
    found.end()


def test_a_real_call_is_watched_drawn_and_saved(screen: Screen, stage: Stage, tmp_path: Path) -> None:
    need("kamailio", "sipp")
    daemon = stage.sipdumpd(mode=17)
    uas = free_port()
    stage.sipp("uas", uas)
    server = stage.kamailio(hep=f"sip:127.0.0.1:{daemon.port}", uas=f"sip:127.0.0.1:{uas}")
    screen.start(*READ, "tui", "--folder", daemon.folder)
    screen.has("nothing is stored there")
    caller = stage.sipp("uac", free_port(), "-d", "300", target=f"127.0.0.1:{server.port}")
    assert caller.wait() == 0
    screen.has(" ended        INVITE    sipp         service")
    screen.press("Enter")
    screen.has("INVITE (SDP)")
    screen.has("200 OK (SDP)")
    screen.has("BYE")
    screen.has(" messages, 0 errors")
    screen.press("Enter")
    screen.has("INVITE sip:service@127.0.0.1")
    screen.press("Escape")
    screen.has("Ladder of")
    screen.press("F2")
    screen.has("Save 1 call (.pcap")
    screen.press("Enter")
    screen.has("1 call saved: ")
    assert (tmp_path / "calls.pcap").stat().st_size > 1000
    screen.press("F2", "Enter")
    screen.has("Replace it? (y/n)")
    screen.press("n", "q")
    screen.has(" sipdump  ")
    screen.press("q")
    screen.has("ended with 0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(
        tmp_path_factory.mktemp("store"),
        *(call(f"{number}@a", at("10:00:00") + number * 1_000_000, status=503) for number in range(50)),
    )


def test_sizes_keys_and_sixteen_colours(screen: Screen, folder: Path) -> None:
    screen.start(*READ, "tui", "--folder", folder, env={"TERM": "screen"})
    screen.has("50 calls")
    assert "\x1b[31mfailed" in screen.coloured  # one of the 16
    assert "38;5" not in screen.coloured
    assert "38;2" not in screen.coloured
    for width, height in ((120, 40), (200, 60), (40, 10), (80, 24)):
        screen.resize(width, height)
        screen.has("F1 Help")
    screen.press("End", "F7")
    screen.has("Filter:")
    screen.press("state=ended", "Enter")
    screen.has("0 calls")
    screen.press("F9")
    screen.has("50 calls")
    screen.press("F1")
    screen.has("this help")
    screen.press("Escape")
    screen.has("50 calls")
    screen.press("C-c")
    screen.has("ended with 0")


def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(screen: Screen, folder: Path) -> None:
    screen.start(*READ, "tui", "--folder", folder)
    screen.has("50 calls")
    os.kill(screen.pid, signal.SIGTERM)
    screen.has("ended with 0")
    assert "50 calls" not in screen.text


def test_no_colour(screen: Screen, folder: Path) -> None:
    screen.start(*READ, "tui", "--folder", folder, env={"NO_COLOR": "1"})
    screen.has("50 calls")
    assert "[31m" not in screen.coloured
    screen.press("q")


@pytest.mark.parametrize(
    ("args", "env", "error"),
    [
        (["--folder", "/no/such"], {}, "--folder /no/such: there is no such folder"),
        (["--user", ""], {}, "argument --user: an empty user"),
        (["--since", "noon"], {}, "--since: 'noon' is not a time"),
        (["--columns", "size"], {}, "columns: 'size' is not a column"),
        ([], {"TERM": "dumb"}, "tui needs a terminal that can move its cursor"),
    ],
)
def test_what_is_wrong_is_told_on_the_plain_screen(
    screen: Screen, folder: Path, args: list[str], env: dict[str, str], error: str
) -> None:
    screen.start(*READ, "tui", *(args if "--folder" in args else ["--folder", str(folder), *args]), env=env)
    screen.has("ended with 2")
    assert error in screen.text.replace("\n", "")


def test_without_a_terminal_it_says_so(folder: Path) -> None:
    done = subprocess.run(
        [*READ, "tui", "--folder", folder], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm"}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "tui needs a terminal" in done.stderr
