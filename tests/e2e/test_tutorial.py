"""docs/tutorial.md, word for word: its files and its commands, in a folder and on ports of the test's own."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.e2e.peers import bound, files, free_port, need, read_data, read_pcap, until

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
FOLDER = "/tmp/sipdump-tutorial"
PORTS = ("9060", "5060", "5070", "5080")


def example(text: str, name: str) -> str:
    """Return the file that the tutorial has its reader save under a name."""
    found = re.search(rf"[Ss]ave (?:this|it) as `{re.escape(name)}`[:.]?.*?\n\n((?:    .*\n|\n)+)", text)
    assert found, name
    return re.sub(r"^    ", "", found[1], flags=re.MULTILINE)


def commands(text: str) -> list[str]:
    """Return what the reader types from section 2 on."""
    return re.findall(r"^    \$ (.*)$", text.partition("\n## 2. ")[2], re.MULTILINE)


def test_the_tutorial_can_be_followed_word_for_word(tmp_path: Path) -> None:
    need("kamailio", "sipp", "kamcmd", "tshark")
    ports = {port: free_port() for port in PORTS}
    text = TUTORIAL.read_text().replace(FOLDER, str(tmp_path))
    for port, ours in ports.items():
        text = text.replace(port, str(ours))
    for name in ("sipdumpd.cfg", "kamailio.cfg"):
        (tmp_path / name).write_text(example(text, name))
    for folder in ("calls", "run"):
        (tmp_path / folder).mkdir()

    def said() -> str:
        return (tmp_path / "said").read_text(errors="replace")

    def stored(count: int) -> bool:
        records = [one for path in files(tmp_path / "calls", ".data") for one in read_data(path)]
        packets = [one for path in files(tmp_path / "calls", ".pcap") for one in read_pcap(path)]
        return len(records) == len(packets) == count

    # A reader goes on when these commands have done what they are for.
    done: dict[str, Callable[[], object]] = {
        "sipdumpd -f sipdumpd.cfg &": lambda: "sipdumpd started" in said(),
        "kamailio -f kamailio.cfg -Y run -DD -E 2>kamailio.log &": lambda: bound(ports["5060"], "udp"),
        f"sipp -sn uas -i 127.0.0.1 -p {ports['5080']} -m 4 -bg": lambda: bound(ports["5080"], "udp"),
        f"sipp -sn uac -i 127.0.0.1 -p {ports['5070']} -m 3 -d 100 127.0.0.1:{ports['5060']}": lambda: stored(39),
        f"sipp -sn uac -i 127.0.0.1 -p {ports['5070']} -m 1 -d 100 127.0.0.1:{ports['5060']}": lambda: stored(52),
        "kill %1": lambda: "summary: backend" in said(),
    }
    typed = commands(text)
    assert done.keys() <= set(typed)
    lines = [line + ("\necho >did; read <goon" if line in done else "") for line in typed]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
    os.mkfifo(tmp_path / "did")
    os.mkfifo(tmp_path / "goon")
    with (
        (tmp_path / "did").open("r+b", buffering=0) as did,
        (tmp_path / "goon").open("r+b", buffering=0) as goon,
        (tmp_path / "said").open("wb") as out,
        subprocess.Popen(
            ["bash", "-c", "\n".join(["set -x", *lines, "wait"])],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        ) as shell,
    ):
        try:
            for line in filter(done.__contains__, typed):
                assert select.select([did], [], [], 60)[0]
                did.readline()
                until(done[line], line, 60)
                goon.write(b"\n")
            shell.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(shell.pid, signal.SIGKILL)
            print(said())
    rows = re.findall(r"^(text|pcap) +\S+ +\d+ +(\S+) +(open|sealed) +kamailio-sipdump-", said(), re.MULTILINE)
    first = [("text", "-", "open"), ("pcap", "-", "open")]
    assert rows == [*first, ("text", "39", "sealed"), ("pcap", "39", "sealed"), *first]
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
        assert expected in said(), f"{expected!r} is not there"
