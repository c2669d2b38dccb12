"""Sends HEP frames over UDP at a pace: ``python -m bench.sender PORT COUNT SECONDS``; prints the seconds it took."""

import socket
import sys
import time

from bench import traffic


def main(port: int, count: int, seconds: float) -> None:
    """Send ``count`` frames, cycling through two thousand prebuilt ones, from one socket as a HEP agent does."""
    frames = [traffic.hep_frame(record) for record in traffic.records(2000)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((traffic.SERVER, port))
        send = sock.send

        def emit(first: int, end: int) -> None:
            for number in range(first, end):
                send(frames[number % 2000])

        start = time.perf_counter()
        traffic.paced(count, seconds, emit)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
