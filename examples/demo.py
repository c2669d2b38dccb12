"""The main job in a few seconds: play a recorded call over HEP into sipdumpd, show the files, and find the call.

The call went from sipp through a real Kamailio, whose siptrace module sent these HEP packets
(see data/record_call.py).
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from sipdump_core import Record, Site
from sipdump_core.sources.hep_stream import FrameReader
from sipdump_pcap import PcapBackend
from sipdump_text import TextBackend

CALL = Path(__file__).parent / "data" / "call.hep"
CONFIG = """\
modparam("sipdump", "enable", 1)
modparam("sipdump", "mode", 13)
modparam("sipdump", "folder", "{folder}")
modparam("sipdump_hep", "listen", "udp:127.0.0.1:0")
modparam("sipdump_hep", "time_window", 0)
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sipdump-demo-") as folder:
        config = Path(folder) / "sipdumpd.cfg"
        config.write_text(CONFIG.format(folder=folder))
        say("The configuration, in Kamailio's syntax", config.read_text())
        command = [sys.executable, "-m", "sipdump_core.daemon", "-f", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
            try:
                log, port = wait_for_start(daemon)
                count = play(port)
            finally:
                daemon.send_signal(signal.SIGTERM)
                rest = daemon.stderr.read() if daemon.stderr else ""
        say(f"The daemon's log, while {count} HEP packets came in", log + rest)
        show(Path(folder))
        offer_page(Path(folder))
    return daemon.returncode


def wait_for_start(daemon: "subprocess.Popen[str]") -> tuple[str, int]:
    log, port = "", 0
    for line in daemon.stderr or ():
        log += line
        found = re.search(r"listening for HEP.*port=(\d+)", line)
        port = int(found[1]) if found else port
        if "sipdumpd started" in line:
            return log, port
    raise SystemExit(f"sipdumpd did not start:\n{log}")


def play(port: int) -> int:
    frames = [frame for frame in FrameReader().feed(CALL.read_bytes()) if isinstance(frame, bytes)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for frame in frames:
            sock.sendto(frame, ("127.0.0.1", port))
    return len(frames)


def show(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.suffix != ".cfg")
    say("The files", "".join(f"{path.stat().st_size:8} {path.name}\n" for path in files))
    meta = next(path for path in files if path.suffix == ".meta")
    say("The .meta file", meta.read_text())
    data = next(path for path in files if path.suffix == ".data")
    first = data.read_bytes().partition(b"||||||||||||||||||||\n")
    say("The first record of the .data file", (first[0] + first[1]).decode())
    site = Site(str(folder), "kamailio-sipdump-")
    text, pcap = TextBackend(None, site), PcapBackend(None, site)
    records = [record for stored in pcap.segments() for record in pcap.read(stored)]
    lines = [
        f"{record.src_ip}:{record.src_port} > {record.dst_ip}:{record.dst_port} {record.proto:4} {first_line(record)}\n"
        for record in records
    ]
    say("The .pcap file, read back", "".join(lines))
    same = [r.buf for r in records] == [r.buf for stored in text.segments() for r in text.read(stored)]
    say("Text and pcap hold the same messages", f"{same}\n")
    if not (same and records):
        raise SystemExit("the demo failed")
    call_id = next(record.call_id for record in records if record.buf.startswith(b"INVITE "))
    find(folder, "find", "--user", "bob", "--folder", str(folder))
    find(folder, "show", str(call_id), "--folder", str(folder), "--width", "80")


def find(folder: Path, *arguments: str) -> None:
    """Run sipdump-read, and show what it prints."""
    command = [sys.executable, "-m", "sipdump_core.reading", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    say("sipdump-read " + " ".join(arguments).replace(str(folder), "FOLDER"), done.stdout)


def offer_page(folder: Path) -> None:
    """Show the call on a page until Ctrl-C, if that is asked for."""
    if os.environ.get("DEMO_WEB") != "1":
        say("In a browser", "DEMO_WEB=1 make demo shows the same on a page.")
        return
    say("In a browser, until Ctrl-C", "Open the address:")
    sys.stdout.flush()
    command = [sys.executable, "-m", "sipdump_core.reading", "web", "--folder", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command) as page:
        try:
            page.wait()
        except KeyboardInterrupt:
            page.wait()
        finally:
            page.terminate()


def first_line(record: Record) -> str:
    return record.buf.partition(b"\r\n")[0].decode()


def say(title: str, text: str) -> None:
    print(f"--- {title} ---\n{text}")


if __name__ == "__main__":
    sys.exit(main())
