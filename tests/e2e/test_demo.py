"""The demo of the README, and the example of a program that stores its own traffic."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.e2e.peers import Stage, read_data, request

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_demo_shows_the_main_job() -> None:
    demo = [sys.executable, str(EXAMPLES / "demo.py")]
    done = subprocess.run(demo, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in (
        'modparam("sipdump", "mode", 13)',
        'event="summary: records" received=17 ',
        ".data\n",
        ".meta\n",
        ".pcap\n",
        "process: 0 0 HEP agent id=",
        "tag: rcv\n",
        "INVITE sip:bob@",
        "--- Text and pcap hold the same messages ---\nTrue\n",
        "--- sipdump-read find --user bob --folder FOLDER ---\nbegan (",
        "  ended  200  ",
        "State:           ended by the caller, 200 OK\n",
        "── INVITE (SDP) ──",
    ):
        assert expected in done.stdout, expected


def test_the_demo_offers_the_page(stage: Stage) -> None:
    demo = stage.run([sys.executable, EXAMPLES / "demo.py"], "demo", {"DEMO_WEB": "1"})
    demo.says("sipdump-read: open http://127.0.0.1:")
    found = re.search(r"open (http\S+)", demo.output())
    assert found
    base, _, token = found[1].partition("/?token=")
    request = urllib.request.Request(f"{base}/calls", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert b"3 calls" in answer.read()
    os.killpg(demo.pid, signal.SIGINT)  # as Ctrl-C does
    assert demo.wait() == 0
    assert "Traceback" not in demo.output()


def test_the_program_with_a_tap(stage: Stage) -> None:
    folder = stage.path("stored")
    folder.mkdir()
    program = stage.run([sys.executable, EXAMPLES / "in_process.py", folder, "0"], "in_process")
    program.says("answering on port")
    found = re.search(r"answering on port (\d+)", program.output())
    assert found
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.sendto(request(), ("127.0.0.1", int(found[1])))
        assert sock.recv(65535).startswith(b"SIP/2.0 200 OK\r\n")

    def tags() -> list[str]:
        return [record.tag for path in folder.glob("*.data") for record in read_data(path)]

    program.until(lambda: tags() == ["rcv", "snd"], "request and reply are stored")
