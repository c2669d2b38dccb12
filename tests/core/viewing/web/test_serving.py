"""The server: where it listens, what it prints, what it takes from strangers, and how it ends."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sipdump_core.drivers.query import Query
from sipdump_core.reading.command import main
from sipdump_core.viewing import extras
from sipdump_core.viewing.web import serving
from sipdump_core.viewing.web.gate import HEADERS, Places
from sipdump_core.viewing.web.hub import Hub
from sipdump_core.viewing.web.limits import BusyError
from tests.core.reading.stores import fill, workshop
from tests.core.reading.traffic import call, store
from tests.core.viewing.web.client import Page, page_of
from tests.core.viewing.web.test_search import Waiting
from tests.e2e.peers import until

READ = [sys.executable, "-m", "sipdump_core.reading", "web"]


@contextmanager
def server(*options: str | Path, env: dict[str, str] | None = None) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """Start the command, and return it with the address that it prints."""
    argv = [*READ, "--listen", "127.0.0.1:0", *map(str, options)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("sipdump-read: open http"), process.stderr and process.stderr.read()
            yield process, line.split()[-1]
        finally:
            process.kill()


@contextmanager
def opened(url: str, path: str = "", headers: dict[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
    """Ask for something, and lend the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    with closing(connection):
        connection.request("GET", path or f"{parts.path}?{parts.query}", headers=headers or {})
        with connection.getresponse() as answer:
            yield answer


def get(url: str, path: str = "", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    with opened(url, path, headers) as answer:
        return answer.status, answer.read()


def bearer(url: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {url.rpartition('=')[2]}"}


class TestCommand:
    @pytest.mark.parametrize("where", ["0.0.0.0:8080", "192.0.2.1:80", "[::]:0", "example.com:0"])
    def test_it_listens_on_loopback_alone(self, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["web", "--folder", str(tmp_path), "--listen", where]) == 2
        assert "is not on loopback" in capsys.readouterr().err

    @pytest.mark.parametrize("where", ["", "x", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "::1:80"])
    def test_what_is_no_place_to_listen_is_said(
        self, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["web", "--folder", str(tmp_path), "--listen", where]) == 2
        assert '127.0.0.1:8080"' in capsys.readouterr().err

    @pytest.mark.parametrize("url", ["x", "ftp://x", "https://", "https://x/sub", "https://a@b", "https://x:y"])
    def test_what_is_no_address_of_a_proxy_is_said(
        self, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["web", "--folder", str(tmp_path), "--behind-proxy", url]) == 2
        assert "--behind-proxy" in capsys.readouterr().err

    def test_a_port_that_is_taken_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            assert main(["web", "--folder", str(tmp_path), "--listen", where]) == 1
        assert f"{where}: Address already in use" in capsys.readouterr().err

    def test_a_name_that_is_no_host_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def unknown(*_args: object, **_more: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "create_server", unknown)
        argv = ["web", "--folder", str(tmp_path), "--behind-proxy", "https://x", "--listen", "nosuch.invalid:80"]
        assert main(argv) == 1
        assert "nosuch.invalid:80: Name or service not known" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "bound", ["--max-seconds=0", "--max-seconds=nan", "--max-seconds=inf", "--max-rows=0", "--max-searches=0"]
    )
    def test_every_bound_is_a_bound(self, tmp_path: Path, bound: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["web", "--folder", str(tmp_path), "--listen", "127.0.0.1:0", bound]) == 2
        assert "must be more than 0" in capsys.readouterr().err

    def test_a_token_file_that_is_not_there_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "nosuch"
        assert main(["web", "--folder", str(tmp_path), "--token-file", str(path)]) == 1
        assert capsys.readouterr().err == f"sipdump-read: read {path}: No such file or directory\n"

    def test_a_store_that_is_not_there_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["web", "--folder", "/nosuch", "--listen", "127.0.0.1:0"]) == 2
        assert "there is no such folder" in capsys.readouterr().err

    def test_what_to_install_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(extras, "find_spec", lambda name: None)
        assert main(["web", "--folder", str(tmp_path)]) == 2
        assert "pip install 'sipdump[web]'" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("token", "mode", "why"),
        [("short", 0o600, "at least 32"), ("a" * 40, 0o644, "chmod 600"), ("ü" * 40, 0o600, "")],
    )
    def test_a_token_of_its_own_must_be_secret(
        self, tmp_path: Path, token: str, mode: int, why: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "token"
        path.write_text(token)
        path.chmod(mode)
        assert main(["web", "--folder", str(tmp_path), "--token-file", str(path)]) == 2
        assert why in capsys.readouterr().err


class TestProcess:
    def test_the_address_opens_it_and_sigterm_ends_it_although_somebody_watches(self, tmp_path: Path) -> None:
        with server("--folder", store(tmp_path, call("one@a"))) as (process, url):
            assert get(url)[0] == 303
            assert get(url, "/")[0] == 401
            assert b"one@a" in get(url, "/calls", bearer(url))[1]
            with opened(url, "/live/events", bearer(url)) as events:
                assert events.readline() == b"retry: 2000\n"
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                assert b"event: end" in events.read()
            assert process.wait(10) == 0
            assert time.monotonic() - began < 5
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()

    def test_ctrl_c_ends_it(self, tmp_path: Path) -> None:
        with server("--folder", tmp_path) as (process, _):
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0

    def test_each_start_has_another_token(self, tmp_path: Path) -> None:
        with server("--folder", tmp_path) as (_, first), server("--folder", tmp_path) as (_, second):
            assert first.rpartition("=")[2] != second.rpartition("=")[2]
            assert get(second, f"/?token={first.rpartition('=')[2]}")[0] == 403

    def test_a_proxy_may_bring_a_token_of_its_own(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("proxy" * 8 + "\n")
        path.chmod(0o600)
        with server("--folder", tmp_path, "--token-file", path, "--behind-proxy", "https://sip.example.com") as (
            process, url,
        ):  # fmt: skip
            assert url == f"https://sip.example.com/?token={'proxy' * 8}"
            (port,) = {
                int(line.split()[1].rpartition(":")[2], 16)
                for line in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
                if line.split()[3] == "0A" and line.split()[9] in inodes(process.pid)
            }
            base = f"http://127.0.0.1:{port}"
            headers = {"Host": "sip.example.com", "Authorization": f"Bearer {'proxy' * 8}"}
            assert get(base, "/", headers)[0] == 200
            assert get(base, "/", {"Host": "sip.example.com"})[0] == 401

    def test_live_shows_what_a_backend_stores(self, tmp_path: Path) -> None:
        shop = workshop(tmp_path)
        backend = shop.backend("text", shop.site())
        folder = store(tmp_path, call("old@a"), backends=("text",))
        with server("--folder", folder) as (_, url), opened(url, "/live/events?from=alice", bearer(url)) as events:
            assert events.readline() == b"retry: 2000\n"
            now = time.time()
            fill(backend, call("new@a", int(now * 1e6), seconds=1), now, close=False)
            seen: list[dict[str, object]] = []
            while not seen:
                line = events.readline()
                if line.startswith(b"data:"):
                    seen += json.loads(line[5:])["rows"]
            assert seen[0]["href"] == "/call/new@a"
            backend.close()
            backend.stop()


def inodes(pid: int) -> set[str]:
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(each))
        if match:
            found.add(match[1])
    return found


@contextmanager
def running(folder: Path, page: Page | None = None) -> Iterator[int]:
    """Run a server in a thread, and return its port."""
    page = page or page_of(folder)
    with serving._listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        config = serving._configured(page.desk, Places.local("127.0.0.1", port))
        runner = serving._Server(config, page.desk)
        runner.capture_signals = contextmanager(lambda: iter([None]))  # type: ignore[method-assign]  # no main thread
        thread = threading.Thread(target=lambda: asyncio.run(runner.serve([listener])))
        thread.start()
        until(lambda: runner.started, "it has started")
        yield port
        runner._end()
        thread.join(10)
        assert not thread.is_alive()


class TestFilling:
    def test_a_page_is_sent_while_the_search_goes_on(self, tmp_path: Path) -> None:
        shelf = Waiting(store(tmp_path, call("one@a")))
        page = page_of(tmp_path, shelves=[shelf])
        with running(tmp_path, page) as port:
            base, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {page.desk.keys.token}"}
            with opened(base, "/calls", headers) as answer:
                text = b""
                while b"<tbody" not in text:
                    text += answer.readline()
                assert shelf.reading.wait(10)
                assert not shelf.ended.is_set()
                shelf.go_on.set()
                text += answer.read()
            assert b"one@a" in text
            assert text.endswith(b"</html>")

    def test_a_search_ends_when_its_reader_goes_away(self, tmp_path: Path) -> None:
        shelf = Waiting(store(tmp_path, call("one@a"), call("two@a")))
        page = page_of(tmp_path, shelves=[shelf])
        with running(tmp_path, page) as port:
            base, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {page.desk.keys.token}"}
            with opened(base, "/calls", headers) as answer:
                answer.readline()
                assert shelf.reading.wait(10)
            until(lambda: all(scan.ended for scan in page.desk._scans), "the search is told to end")
            shelf.go_on.set()
            until(lambda: page.desk._running == 0, "its place is free again")


class TestStrangers:
    def test_a_request_has_only_so_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "_REQUEST_SECONDS", 0.3)
        with running(tmp_path) as port:
            silent = socket.create_connection(("127.0.0.1", port))
            slow = socket.create_connection(("127.0.0.1", port))
            with silent, slow:
                slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
                for sock in (silent, slow):
                    sock.settimeout(10)
                    assert sock.recv(100) == b""

    def test_a_request_after_another_one_has_its_own_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serving, "_REQUEST_SECONDS", 0.4)
        with running(tmp_path) as port, socket.create_connection(("127.0.0.1", port)) as sock:
            request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
            sock.settimeout(10)
            sock.sendall(request)
            while b"</html>" not in sock.recv(10_000):
                pass
            sock.sendall(request[:10])
            assert sock.recv(100) == b""

    def test_there_are_only_so_many_connections(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "_CONNECTIONS", 2)
        with running(tmp_path) as port:
            socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
            socks[2].settimeout(10)
            try:
                assert socks[2].recv(1) == b""
            except ConnectionResetError:
                pass
            finally:
                for sock in socks:
                    sock.close()

    @pytest.mark.parametrize(
        "data", [b"\x16\x03\x01\x02\x00garbage\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"A" * (600 << 10)]
    )
    def test_what_is_no_http_is_answered_with_the_headers(self, tmp_path: Path, data: bytes) -> None:
        with running(tmp_path) as port, socket.create_connection(("127.0.0.1", port)) as sock:
            sock.settimeout(10)
            answer = b""
            try:
                sock.sendall(data)
                while more := sock.recv(10_000):
                    answer += more
            except ConnectionError:
                return
            assert answer.startswith(b"HTTP/1.1 400")
            for name, value in HEADERS.items():
                assert f"{name}: {value}".lower().encode() in answer.lower()

    def test_a_call_id_may_be_as_long_as_a_message(self, tmp_path: Path) -> None:
        call_id = "%" * 60_000
        store(tmp_path, call(call_id))
        with server("--folder", tmp_path) as (_, url):
            assert get(url, f"/call/{'%25' * 60_000}", bearer(url))[0] == 200


class TestHub:
    def test_it_follows_only_while_somebody_watches(self, tmp_path: Path) -> None:
        page = page_of(store(tmp_path, call("one@a")))
        hub = page.desk.hub

        def threads() -> list[str]:
            return [each.name for each in threading.enumerate() if each.name == "sipdump-live"]

        before = len(threads())
        one, two = hub.join(Query(), lambda: None), hub.join(Query(), lambda: None)
        assert len(threads()) == before + 1
        hub.leave(one)
        assert len(threads()) == before + 1
        hub.leave(two)
        until(lambda: len(threads()) == before, "it has ended")

    def test_there_are_only_so_many_viewers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sipdump_core.viewing.web.hub._VIEWERS", 1)
        hub: Hub = page_of(tmp_path).desk.hub
        viewer = hub.join(Query(), lambda: None)
        with pytest.raises(BusyError, match="no more may"):
            hub.join(Query(), lambda: None)
        hub.leave(viewer)
        hub.close()
        with pytest.raises(BusyError):
            hub.join(Query(), lambda: None)
