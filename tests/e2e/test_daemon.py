"""The daemon as a user runs it: its command line, its signals, its exit codes, its log."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sipdump_core.daemon import main
from tests.e2e.peers import Daemon, Stage, free_port, hep3, program, request, sipdumpd_command

HEP = 'modparam("sipdump_hep", "listen", "udp:127.0.0.1:0")'


def run(*options: str) -> "subprocess.CompletedProcess[str]":
    """Run the daemon where it is to end by itself."""
    return subprocess.run([*sipdumpd_command(), *options], capture_output=True, text=True, timeout=60, check=False)


def send(port: int, *messages: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for message in messages:
            sock.sendto(hep3(message), ("127.0.0.1", port))


def stored(daemon: Daemon, *messages: bytes) -> None:
    """Wait until exactly these messages are stored, in this order."""
    daemon.until(lambda: len(daemon.records()) >= len(messages), f"{len(messages)} records")
    assert [record.buf for record in daemon.records()] == list(messages)


BAD = [
    ('modparam("sipdump", "mod", 1)', 'no such parameter (did you mean "mode"?)'),
    ('modparam("sipdump_nosuch", "mode", 1)', "no such module"),
    ('modparam("sipdump", "mode", "1")', "must be an integer"),
    ('modparam("sipdump", "folder", 1)', "must be a string"),
    ('modparam("sipdump", "rotate", 0)', "must be 1 to 2147483647"),
    ('modparam("sipdump", "fprefix", "a/b")', "no slash"),
    ('modparam("sipdump", "mode", 8)', "invalid mode parameter"),
    ('modparam("sipdump", "mode", 1048577)', "no installed backend owns the flag 1048576"),
    ('modparam("sipdump", "folder", "/nonexistent/folder")', "there is no such folder"),
    ('modparam("sipdump", "folder", "{file}")', "there is no such folder"),
    ('modparam("sipdump", "fage" 1)', "expected a comma"),
    ('modparam("sipdump", "fage", )', "modparam is not understood"),
    ('modparam("sipdump_hep", "listen", "127.0.0.1")', "udp:host:port"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line.partition(", ")[2] for line, _ in BAD])
@pytest.mark.parametrize("check", [True, False], ids=["check", "start"])
def test_bad_configuration(
    tmp_path: Path, line: str, message: str, check: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused with the file and line, by ``-c`` and by a start alike."""
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(f"# a comment\n{HEP}\n{line.replace('{file}', str(config))}\n")
    if check:  # within this process, which is quicker; a start that does not refuse it would not end
        status, said = main(["-c", "-f", str(config)]), capsys.readouterr().err
    else:
        done = run("-f", str(config))
        status, said = done.returncode, done.stderr
    assert status == 1
    (error,) = (text for text in said.splitlines() if text.startswith("sipdumpd: "))
    assert f"{config}:3:" in error
    assert message in error
    assert "Traceback" not in said


def test_good_configuration(tmp_path: Path) -> None:
    config = tmp_path / "sipdumpd.cfg"
    config.write_text(f'{HEP}\nmodparam("sipdump", "folder", "{tmp_path}")\n')
    done = run("-c", "-f", str(config))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "config file ok, exiting...")
    assert f"folder       {tmp_path}, files begin with 'kamailio-sipdump-'" in done.stdout
    assert "sipdumpd: warning: nothing is ever deleted: fage is 0" in done.stderr
    assert list(tmp_path.iterdir()) == [config], "a check leaves nothing behind"


def test_missing_configuration(tmp_path: Path) -> None:
    done = run("-c", "-f", str(tmp_path / "none.cfg"))
    assert done.returncode == 1
    assert f"{tmp_path}/none.cfg: cannot read the configuration: No such file or directory" in done.stderr


def test_enable_0_says_so(stage: Stage) -> None:
    daemon = stage.sipdumpd("--modparam=sipdump:enable:i:0")
    daemon.says("enable is 0: nothing will be stored")
    send(daemon.port, request())
    assert daemon.stop() == 0
    assert "disabled=1" in daemon.output()
    assert not list(daemon.folder.iterdir())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_stop_stores_all_and_tells(stage: Stage, how: signal.Signals, proto: str) -> None:
    """What the kernel had taken before the signal is stored, and the summary counts it."""
    daemon = stage.sipdumpd(listen=[f"{proto}:127.0.0.1:0"])
    messages = [request("MESSAGE", number) for number in range(300)]
    daemon.process.send_signal(signal.SIGSTOP)  # so that all stands in the kernel when the signal comes
    if proto == "udp":
        send(daemon.port, *messages)
    else:
        with socket.create_connection(("127.0.0.1", daemon.port), 60) as sock:
            sock.sendall(b"".join(hep3(message, proto=6) for message in messages))
    daemon.process.send_signal(how)
    daemon.process.send_signal(signal.SIGCONT)
    assert daemon.wait() == 0
    assert [record.buf for record in daemon.records()] == messages
    output = daemon.output()
    assert f"stopping signal={how.name}" in output
    (hep,) = (line for line in output.splitlines() if "summary: HEP" in line)
    assert "packets=300" in hep
    assert "records=300" in hep
    assert 'event="summary: records" received=300 ' in output
    for name in ("text", "pcap"):
        assert f'event="summary: backend" name={name} stored=300 dropped=0' in output


def test_sighup_rotates(stage: Stage) -> None:
    daemon = stage.sipdumpd()
    send(daemon.port, request("MESSAGE", 1))
    stored(daemon, request("MESSAGE", 1))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.until(lambda: daemon.output().count("segment sealed") == 2, "both files are sealed")
    send(daemon.port, request("MESSAGE", 2))
    stored(daemon, request("MESSAGE", 1), request("MESSAGE", 2))
    daemon.until(lambda: len(daemon.files(".pcap")) == 2, "a second pcap")
    assert [len(daemon.files(suffix)) for suffix in (".data", ".meta", ".pcap")] == [2, 2, 2]
    assert "rotating now; to read the configuration again, restart" in daemon.output()
    assert daemon.stop() == 0


HARMLESS = [
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR),
    *(signal.SIGRTMIN, signal.SIGRTMIN + 5, signal.SIGRTMAX),
]


def test_signals_without_a_meaning_do_not_kill(stage: Stage) -> None:
    daemon = stage.sipdumpd()
    for number in (*HARMLESS, signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT):
        daemon.process.send_signal(number)
    for name in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGRTMIN+5"):
        daemon.says(f'signal ignored" signal={name}')
    send(daemon.port, request("MESSAGE", 1))
    stored(daemon, request("MESSAGE", 1))
    assert "rotating now" not in daemon.output()
    assert daemon.stop() == 0


def test_modparam_options_replace_the_file_s(stage: Stage) -> None:
    other = stage.path("other")
    other.mkdir()
    daemon = stage.sipdumpd(f"--modparam=sipdump:folder:s:{other}", "--modparam", "sipdump:mode:i:1")
    send(daemon.port, request())
    daemon.until(lambda: [path.suffix for path in sorted(other.iterdir())] == [".data", ".meta"], "files, and no pcap")
    assert daemon.stop() == 0
    assert not list(daemon.folder.iterdir())
    assert len(list(other.iterdir())) == 2


def test_bad_modparam_option() -> None:
    done = run("-c", "--modparam", "sipdump:mode:x:1")
    assert done.returncode == 1
    assert "--modparam=sipdump:mode:x:1: must be MODULE:NAME:TYPE:VALUE" in done.stderr


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_notified(stage: Stage, tmp_path: Path, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@sipdump-test-{free_port()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.settimeout(60)
        daemon = stage.sipdumpd(env={"NOTIFY_SOCKET": name})
        assert sock.recv(100) == b"READY=1"
        assert daemon.stop() == 0
        assert sock.recv(100) == b"STOPPING=1"


def test_stale_segment_is_sealed_without_traffic(stage: Stage) -> None:
    daemon = stage.sipdumpd("--modparam=sipdump:rotate:i:1")
    send(daemon.port, request("MESSAGE", 1))
    daemon.until(lambda: daemon.output().count("segment sealed") == 2, "sealed by time alone")
    opened, sealed = (
        time_of(next(line for line in daemon.output().splitlines() if text in line))
        for text in ('event="segment opened" backend=text', 'event="segment sealed" backend=text')
    )
    assert 0.9 < sealed - opened < 30
    send(daemon.port, request("MESSAGE", 2))
    stored(daemon, request("MESSAGE", 1), request("MESSAGE", 2))
    assert len(daemon.files(".data")) == 2


def time_of(line: str) -> float:
    """Return the time of a log line."""
    found = re.match(r"time=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})\S* ", line)
    assert found
    return time.mktime(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")) + int(found[2]) / 1000


def test_records_are_visible_at_once(stage: Stage) -> None:
    """The promise is 100 ms from arrival to a reader's eyes.

    On a busy machine a single record may wait for the processor, which is no fault of the daemon's: so five of many
    must keep the promise, which they cannot where the daemon itself waits.
    """
    daemon = stage.sipdumpd()
    took: list[float] = []
    for number in range(100):
        message = request("MESSAGE", number)
        begin = time.monotonic()
        send(daemon.port, message)
        daemon.until(lambda message=message: any(message in path.read_bytes() for path in daemon.files(".data")), "it")  # type: ignore[misc]
        took.append(time.monotonic() - begin)
        if sum(seconds < 0.1 for seconds in took) == 5:
            return
    raise AssertionError(took)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_port_in_use(tmp_path: Path, proto: str) -> None:
    kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if proto == "tcp":
            sock.listen()
        where = f"{proto}:127.0.0.1:{sock.getsockname()[1]}"
        done = run(f"--modparam=sipdump_hep:listen:s:{where}", f"--modparam=sipdump:folder:s:{tmp_path}")
    assert done.returncode == 1
    assert f"cannot listen for HEP on {where}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB; mounting one takes rights that not everybody has."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount, umount = program("mount"), program("umount")
    if not mount or not umount:
        pytest.skip("no mount(8)")
    argv = [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    yield folder
    subprocess.run([umount, str(folder)], timeout=60, check=True)


def test_full_disk(small_disk: Path, stage: Stage) -> None:
    """It says that the disk is full, waits, and when there is room again has lost nothing and doubled nothing."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_600_000))
    daemon = stage.sipdumpd(folder=small_disk, mode=1)
    messages = [request("MESSAGE", number, body=b"x" * 1000) for number in range(1000)]
    send(daemon.port, *messages[:500])
    daemon.says("No space left on device")
    send(daemon.port, *messages[500:])
    # the log tells of it once a second, so by then it has been tried more often than a driver's own fault would be
    daemon.until(lambda: daemon.output().count("No space left on device") >= 3, "it goes on trying")
    ballast.unlink()
    daemon.says("backend works again")
    stored(daemon, *messages)
    assert daemon.stop() == 0
    assert "stored=1000 dropped=0" in daemon.output()


def test_out_of_file_descriptors(stage: Stage) -> None:
    """More connections than files may be open: those that fit, and UDP, go on, and when it is over all is well."""
    daemon = stage.sipdumpd(listen=["tcp:127.0.0.1:0", "udp:127.0.0.1:0"], nofile=48)
    tcp, udp = daemon.ports()
    send(udp, request("MESSAGE", 1))
    stored(daemon, request("MESSAGE", 1))
    with ExitStack() as connections:
        first = connections.enter_context(socket.create_connection(("127.0.0.1", tcp), 60))
        for _ in range(100):  # within the backlog, so that none of them waits
            connections.enter_context(socket.create_connection(("127.0.0.1", tcp), 60))
        daemon.says("cannot accept HEP connection")
        begin, cpu = time.monotonic(), cpu_seconds(daemon)
        daemon.until(lambda: daemon.output().count("cannot accept HEP connection") == 3, "told once a second")
        assert cpu_seconds(daemon) - cpu < (time.monotonic() - begin) / 3, "it does not spin on what it cannot accept"
        send(udp, request("MESSAGE", 2))
        stored(daemon, *(request("MESSAGE", number) for number in (1, 2)))
        first.sendall(hep3(request("MESSAGE", 3), proto=6))
        stored(daemon, *(request("MESSAGE", number) for number in (1, 2, 3)))
        # a new segment needs files, and finds none: it must wait for them, not get lost
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: daemon.output().count("segment sealed") == 2, "sealed")
        # waiting connections take what the sealed files have left
        daemon.until(lambda: len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) == 48, "no descriptor is left")
        send(udp, request("MESSAGE", 4))
        daemon.until(lambda: re.search("backend failed.*Too many open files", daemon.output()), "the backend waits")
    with socket.create_connection(("127.0.0.1", tcp), 60) as sock:
        sock.sendall(hep3(request("MESSAGE", 5), proto=6))
        stored(daemon, *(request("MESSAGE", number) for number in range(1, 6)))
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.output()


def cpu_seconds(daemon: Daemon) -> float:
    """Return the processor time that a process has used (proc(5): utime and stime)."""
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_garbage_from_the_network(stage: Stage) -> None:
    """Datagrams and streams of noise are counted, and what comes after them is stored."""
    daemon = stage.sipdumpd(listen=["tcp:127.0.0.1:0", "udp:127.0.0.1:0"])
    tcp, udp = daemon.ports()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for noise in (
            b"",
            b"\0",
            b"HEP3",
            b"HEP3\0\5",
            b"HEP3\xff\xff" + b"x" * 100,
            b"\x1f\x8bnot gzip",
            b"\x02" * 30,
        ):
            sock.sendto(noise, ("127.0.0.1", udp))
    with socket.create_connection(("127.0.0.1", tcp), 60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n" + hep3(request("MESSAGE", 1), proto=6) + b"HEP3\xff\xff cut")
    send(udp, request("MESSAGE", 2))
    daemon.until(lambda: len(daemon.records()) == 2, "both messages")
    assert daemon.stop() == 0
    assert "records=2" in daemon.output()
    malformed = re.search(r"malformed=(\d+)", daemon.output())
    assert malformed
    assert int(malformed[1]) == 9
