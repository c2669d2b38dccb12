"""Records ``call.hep``: what a real Kamailio's siptrace sends over HEP3 for one call, a REGISTER and an OPTIONS.

Run it from the top of the tree, with Kamailio and sipp installed::

    python -m examples.data.record_call

sipp calls sipp through a record-routing Kamailio on loopback, over UDP, with SDP; then it sends a REGISTER and an
OPTIONS over TCP. ``call.hep`` holds the frames one after another: a HEP3 frame contains its own length.
"""

import socket
import sys
import tempfile
from pathlib import Path

from tests.e2e.peers import SCENARIOS, Stage, free_port, program, request_scenario, taken

FRAMES = Path(__file__).with_name("call.hep")
_CALL = 13
_REQUESTS = 4


def main() -> int:
    """Record."""
    missing = [name for name in ("kamailio", "sipp") if not program(name)]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        Stage(Path(folder)) as stage,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector,
    ):
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(10)
        callee = free_port()
        server = stage.kamailio(
            hep=f"sip:127.0.0.1:{collector.getsockname()[1]}", uas=f"sip:127.0.0.3:{callee};transport=udp"
        )
        target = f"127.0.0.1:{server.port}"
        answering = stage.sipp(SCENARIOS / "callee.xml", callee, "-t", "u1", host="127.0.0.3")
        answering.until(lambda: taken("127.0.0.3", callee, "udp"), "the callee listens")
        stage.sipp(SCENARIOS / "caller.xml", free_port(), "-t", "u1", host="127.0.0.2", target=target)
        frames = [collector.recv(65535) for _ in range(_CALL)]
        for method in ("REGISTER", "OPTIONS"):
            scenario = request_scenario(stage.path(f"{method}.xml"), method)
            stage.sipp(scenario, free_port(), "-t", "t1", host="127.0.0.2", target=target)
            frames += [collector.recv(65535) for _ in range(_REQUESTS // 2)]
    FRAMES.write_bytes(b"".join(frames))
    print(f"{FRAMES}: {len(frames)} frames, {FRAMES.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
