"""docs/tutorial.md, word for word: its files and its commands, in a folder and on ports of the test's own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.peers import free_port, need

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
FOLDER = "/tmp/sipdump-tutorial"
PORTS = ("9060", "5060", "5070", "5080")
BACKGROUND = "&"


def example(text: str, name: str) -> str:
    """Return the file that the tutorial has its reader save under a name."""
    found = re.search(rf"[Ss]ave (?:this|it) as `{re.escape(name)}`[:.]?.*?\n\n((?:    .*\n|\n)+)", text)
    assert found, name
    return re.sub(r"^    ", "", found[1], flags=re.MULTILINE)


def commands(text: str) -> list[str]:
    """Return what the reader types from section 2 on, with a moment after what takes one."""
    typed = re.findall(r"^    \$ (.*)$", text.partition("\n## 2. ")[2], re.MULTILINE)
    slow = ("sipp", "kill", "sipdump-admin rpc")
    return [line + ("\nsleep 2" if line.endswith(BACKGROUND) or line.startswith(slow) else "") for line in typed]


def test_the_tutorial_can_be_followed_word_for_word(tmp_path: Path) -> None:
    need("kamailio", "sipp", "kamcmd", "tshark")
    text = TUTORIAL.read_text().replace(FOLDER, str(tmp_path))
    for port in PORTS:
        text = text.replace(port, str(free_port()))
    for name in ("sipdumpd.cfg", "kamailio.cfg"):
        (tmp_path / name).write_text(example(text, name))
    for folder in ("calls", "run"):
        (tmp_path / folder).mkdir()
    script = "\n".join(["set -x", *commands(text)])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as shell:
        try:
            said = shell.communicate(timeout=90)[0].decode(errors="replace")
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(shell.pid, signal.SIGKILL)
    rows = re.findall(r"^(text|pcap) +\S+ +\d+ +(\S+) +(open|sealed) +kamailio-sipdump-", said, re.MULTILINE)
    first = [("text", "-", "open"), ("pcap", "-", "open")]
    assert rows == [*first, ("text", "39", "sealed"), ("pcap", "39", "sealed"), *first], said
    for expected in (
        'event="sipdumpd started"',
        "tag: rcv\n",
        "Request: INVITE sip:service@127.0.0.1:",
        "oldval: 1\n",
        "oldval: 0\n",
        "rotated: 1\n",
        "pcap: 1 segments to prune",
        "received=52 disabled=0 ",
        'event="summary: backend" name=text stored=52 dropped=0',
    ):
        assert expected in said, f"{expected!r} is not in:\n{said}"
