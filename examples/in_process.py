"""A Python SIP stack that stores its own traffic: an asyncio UDP server that answers every request, tapped."""

import asyncio
import contextlib
import sys
from typing import Any

from sipdump_core import SipDump, tap_datagram


class Server(asyncio.DatagramProtocol):
    """Answers 200 OK."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        keep = (b"via:", b"from:", b"to:", b"call-id:", b"cseq:")
        lines = [line for line in data.split(b"\r\n") if line.lower().startswith(keep)]
        self.transport.sendto(b"\r\n".join([b"SIP/2.0 200 OK", *lines, b"Content-Length: 0", b"", b""]), addr)


async def main(folder: str, port: int) -> None:
    with SipDump(enable=1, mode=13, folder=folder, queue_full="drop") as dump:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: tap_datagram(Server(), dump), local_addr=("127.0.0.1", port)
        )
        print(f"answering on port {transport.get_extra_info('sockname')[1]}, storing in {folder}", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            transport.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5060))
