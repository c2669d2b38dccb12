"""Segments on their way to S3, end to end: the daemon, kill -9 in a loop, and a server that is killed too.

They run against moto's server and, where it is installed, against OpenStack Swift, which checks secrets and sums.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sipdump_s3 import S3Backend
from sipdump_s3.errors import S3Error
from tests.e2e.peers import Stage, hep3, request, until
from tests.e2e.swift import SwiftServer
from tests.s3_faults import FaultProxy, answer, corrupt, cut, lose_answer
from tests.s3_server import Server, objects
from tests.s3_support import backend_of, sent, spool, spooled, stored

ROUNDS = int(os.environ.get("SIPDUMP_CRASH_ROUNDS", "25"))  # with each of the two servers
BIG = os.urandom(1 << 20) * 11
PART = 5 << 20


def swift_as_server(swift: SwiftServer) -> Server:
    variables = {name: value for name, value in swift.environment.items() if name != "AWS_ENDPOINT_URL"}
    return Server(swift.endpoint, variables)


@pytest.fixture(scope="module", params=["moto", "swift"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "moto":
        yield request.getfixturevalue("s3_server")
        return
    with SwiftServer(tmp_path_factory.mktemp("swift")) as swift:
        yield swift_as_server(swift)


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server.enter(monkeypatch)
    with server.bucket() as name:
        yield name


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.endpoint) as made:
        yield made


@pytest.mark.parametrize("checksum", ["sha256", "crc32", "md5", "none"])
@pytest.mark.parametrize("buf", [b"small", BIG], ids=["put", "multipart"])
def test_objects_come_back(proxy: FaultProxy, bucket: str, tmp_path: Path, checksum: str, buf: bytes) -> None:
    backend = backend_of(proxy.endpoint, bucket, tmp_path, checksum=checksum, part_bytes=PART)
    spool(backend, buf)
    sent(backend)
    assert stored(backend) == [buf]
    (listed,) = backend.segments()
    backend.delete(listed)
    backend.delete(listed)
    assert list(backend.segments()) == []


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (corrupt, "checksum mismatch"),
        (cut, "connection cut"),
        (lose_answer, "connection cut"),
        (answer(503, "SlowDown"), "server busy"),
    ],
    ids=["corrupt", "cut", "lose_answer", "busy"],
)
@pytest.mark.parametrize("buf", [b"small" * 99, BIG], ids=["put", "multipart"])
def test_faults_end_by_themselves(
    proxy: FaultProxy, server: Server, bucket: str, tmp_path: Path, fault: Any, state: str, buf: bytes
) -> None:
    backend = backend_of(proxy.endpoint, bucket, tmp_path, part_bytes=PART)
    proxy.on("PUT", "", fault)
    spool(backend, buf)
    (result,) = backend.ship()
    assert isinstance(result.error, S3Error)
    assert result.error.state == state
    sent(backend)
    assert stored(backend) == [buf]
    with server.client() as client:
        assert len(objects(client, bucket)) == 1
        assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_another_content_is_never_overwritten(proxy: FaultProxy, server: Server, bucket: str, tmp_path: Path) -> None:
    for buf in (b"first", b"second"):
        backend = backend_of(proxy.endpoint, bucket, tmp_path)
        spool(backend, buf)
        sent(backend)
    assert sorted(stored(backend)) == [b"first", b"second"]


def test_a_server_that_is_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swift").mkdir()
    with SwiftServer(tmp_path / "swift") as swift:
        server = swift_as_server(swift)
        server.enter(monkeypatch)
        with server.bucket() as bucket:
            backend = backend_of(server.endpoint, bucket, tmp_path, part_bytes=PART, retry_max=1)
            backend.start()
            spool(backend, b"before", second=0)
            until(lambda: not spooled(backend), "the first segment is uploaded")
            swift.kill()
            spool(backend, b"during", second=1)
            spool(backend, BIG, second=2)
            until(lambda: backend.health().startswith("unreachable: "), "the outage is told")
            swift.start()
            until(lambda: not spooled(backend), "the others are uploaded")
            until(lambda: not backend.health(), "all is well again")
            backend.stop()
            assert stored(backend) == [b"before", b"during", BIG]


def test_a_wrong_secret_is_told_and_a_right_one_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a server that checks can show it."""
    (tmp_path / "swift").mkdir()
    with SwiftServer(tmp_path / "swift") as swift:
        server = swift_as_server(swift)
        server.enter(monkeypatch)
        with server.bucket() as bucket:
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
            backend = backend_of(server.endpoint, bucket, tmp_path, retry_max=1)
            backend.start()
            spool(backend, b"one")
            until(lambda: backend.health().startswith("wrong secret: "), "the wrong secret is told")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", swift.secret)
            until(lambda: not spooled(backend), "it is uploaded")
            backend.stop()
            assert stored(backend) == [b"one"]


@pytest.mark.parametrize("kind", ["text", "parquet"])
def test_the_daemon_ships_what_it_stored(stage: Stage, server: Server, bucket: str, kind: str) -> None:
    options = {"bucket": bucket, "endpoint_url": server.endpoint, "format": kind, "node": "n1", "stop_wait": 20}
    argv = [f"--modparam=sipdump_s3:{name}:{'i' if name == 'stop_wait' else 's'}:{v}" for name, v in options.items()]
    daemon = stage.sipdumpd(*argv, mode=33, env=server.environment)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(10):
            sock.sendto(hep3(request("OPTIONS", number)), ("127.0.0.1", daemon.port))
    daemon.until(lambda: len(daemon.records()) == 10, "the text backend has all of them")
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.says('event="segment uploaded" backend=s3')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(hep3(request("BYE", 77)), ("127.0.0.1", daemon.port))
    daemon.until(lambda: len(daemon.records()) == 11, "the last one")
    assert daemon.stop() == 0
    (summary,) = (line for line in daemon.output().splitlines() if "summary: backend" in line and "name=s3" in line)
    assert "stored=11 dropped=0" in summary
    assert "uploaded=2 " in summary
    backend = backend_of(server.endpoint, bucket, daemon.folder, fprefix="kamailio-sipdump-", format=kind)
    assert sorted(stored(backend)) == sorted([*(request("OPTIONS", n) for n in range(10)), request("BYE", 77)])


# A process that forks one writer after the other, each to be killed: so that boto3 is imported once. A writer opens
# segment after segment, and says which records were flushed; now and then one that is uploaded in parts.
_WRITERS = """
import os, sys, time
from pathlib import Path
import sipdump_s3.shipper
from sipdump_core.segment import Segment
from tests.s3_support import PREFIX, backend_of
from tests.support import record

def write(number):
    backend = backend_of(sys.argv[1], sys.argv[2], Path(sys.argv[3]), part_bytes=5 << 20)
    backend.start()
    for n in range(10_000):
        stamp = f"2026-11-{1 + number % 28:02}--{number // 28:02}-{n // 60 % 60:02}-{n % 60:02}"
        backend.open(Segment(PREFIX, stamp, n // 3600, backend.suffix))
        for k in range(3):
            name = f"{number}.{n}.{k}."
            size = 6 << 20 if (n + number) % 15 == 0 and not k else 200
            backend.write([record(name.encode().ljust(size, b"-"))])
            backend.flush()
            os.write(1, f"{name}\\n".encode())
        backend.close()
        while len(os.listdir(backend.spool.folder)) > 5:  # no faster than it is uploaded
            time.sleep(0.001)

for line in sys.stdin:
    child = os.fork()
    if not child:
        write(int(line))
        os._exit(1)
    os.write(1, f"child {child}\\n".encode())
    os.write(1, f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\\n".encode())
"""


def test_kill_9_again_and_again_loses_nothing_and_stores_nothing_twice(
    proxy: FaultProxy, server: Server, bucket: str, tmp_path: Path
) -> None:
    flushed: list[str] = []
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    argv = [sys.executable, "-c", _WRITERS, server.endpoint, bucket, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as writers:
        assert writers.stdin
        assert writers.stdout
        for number in range(ROUNDS):
            print(number, file=writers.stdin, flush=True)
            child = int(writers.stdout.readline().removeprefix("child "))
            timer = threading.Timer(chance.uniform(0.01, 0.4), os.kill, (child, signal.SIGKILL))
            timer.start()
            for line in writers.stdout:
                if line.startswith("ended"):
                    assert line == "ended -9\n"
                    break
                flushed.append(line.strip())
            timer.join()
        writers.stdin.close()
    assert len(flushed) > ROUNDS / 2  # a busy machine does less before it is killed
    backend = backend_of(server.endpoint, bucket, tmp_path, part_bytes=PART, stop_wait=25)
    backend.start()
    until(lambda: not spooled(backend), "what the last kill left is uploaded", 60)
    backend.stop()
    found = Counter(numbers(backend))
    assert [name for name in flushed if found[name] != 1] == [], f"seed {seed}"
    assert [name for name, count in found.items() if count != 1] == [], f"seed {seed}"
    with server.client() as client:
        assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


def numbers(backend: S3Backend) -> Iterator[str]:
    for buf in stored(backend):
        yield buf.rstrip(b"-").decode()
