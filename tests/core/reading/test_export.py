"""``sipdump-read export``: each format, opened again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sipdump_core.calls.summary import iso_utc
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.syncing import SYNCER
from sipdump_core.reading.capture.reader import read_capture
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from tests.core.reading.run import run
from tests.core.reading.traffic import at, call, register, store

ROOT = Path(__file__).parents[3]
ONE = call("one@a", at("10:00:00"), headers="X-CID: two@b\r\n", proto="tls")
TWO = call("two@b", at("10:00:01"), status=486)
SIX = call("six@a", at("10:10:00"), src="2001:db8::1", dst="2001:db8::2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("store"), ONE, TWO, SIX, register("reg@a", at("10:20:00")))


def by_time(*calls: list[Record]) -> list[Record]:
    return sorted((record for one in calls for record in one), key=lambda record: record.time_us)


def read(path: Path) -> list[Record]:
    return list(Store.open(files=[str(path)]).records(Query()))


def plain(records: list[Record], *without: str) -> list[tuple[object, ...]]:
    fields = ["time_us", "buf", "tag", "pid", "procno", "proto", "src_ip", "src_port", "dst_ip", "dst_port", "node"]
    return [tuple(getattr(record, field) for field in fields if field not in without) for record in records]


def exported(capsys: pytest.CaptureFixture[str], folder: Path, path: Path, *args: object) -> str:
    code, out, err = run(capsys, "export", "--folder", folder, "-o", path, *args)
    assert (code, out) == (0, ""), err
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []
    return err


def test_text(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = exported(capsys, folder, tmp_path / "x.data", "one@a", "two@b")
    assert err == f"sipdump-read: {tmp_path}/x.data has 2 calls\n"
    assert plain(read(tmp_path / "x.data"), "node") == plain(by_time(ONE, TWO), "node")


def test_parquet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(capsys, folder, tmp_path / "x.parquet")
    everything = by_time(ONE, TWO, SIX, register("reg@a", at("10:20:00")))
    assert plain(read(tmp_path / "x.parquet")) == plain(everything)


def test_pcap(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(capsys, folder, tmp_path / "x.pcap", "one@a", "six@a")
    lost = ("node", "tag", "pid", "procno", "proto")
    assert plain(read(tmp_path / "x.pcap"), *lost) == plain(by_time(ONE, SIX), *lost)


def test_pcap_with_our_header(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(capsys, folder, tmp_path / "x.pcap", "one@a", "--ksr-header")
    assert b"\r\nP-KSR-SIPDump: tls pid=7 pno=2\r\n" in (tmp_path / "x.pcap").read_bytes()
    assert plain(read(tmp_path / "x.pcap"), "node", "tag") == plain(ONE, "node", "tag")


def test_pcapng_keeps_everything(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pcapng"
    exported(capsys, folder, path, "one@a", "six@a", "--name", "192.0.2.10=phone", "--name", "[2001:db8::1]=six")
    assert plain(read(path)) == plain(by_time(ONE, SIX))
    with path.open("rb") as file:
        assert len(list(read_capture(file))) == 12


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
@pytest.mark.parametrize("name", ["x.pcap", "x.pcapng"])
def test_wireshark_opens_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    exported(capsys, folder, tmp_path / name, "--name", "192.0.2.10=phone.example")
    fields = ["frame.time_epoch", "ip.src", "ipv6.src", "udp.srcport", "sip.Call-ID", "frame.comment"]
    options = [part for field in fields for part in ("-e", field)]
    command = ["tshark", "-r", str(tmp_path / name), "-T", "fields", "-E", "separator=|", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    records = by_time(ONE, TWO, SIX, register("reg@a", at("10:20:00")))
    assert [row[:5] for row in rows] == [
        [
            f"{record.time_us // 1_000_000}.{record.time_us % 1_000_000:06}000",
            record.src_ip if record.af == "ipv4" else "", record.src_ip if record.af == "ipv6" else "",
            str(record.src_port), record.call_id,
        ]
        for record in records
    ]  # fmt: skip
    if name == "x.pcapng":
        assert rows[0][5] == "tag=rcv proto=tls pid=7 procno=2 node=fra-1"
        command = ["tshark", "-N", "n", "-r", str(tmp_path / name), "-c", "1", "-T", "fields", "-e", "ip.src_host"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "phone.example\n"


def test_json_lines(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(capsys, folder, tmp_path / "x.jsonl", "one@a")
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert rows[0] == {
        "time": iso_utc(ONE[0].time_us), "tag": "rcv", "pid": 7, "procno": 2, "proto": "tls",
        "src": "192.0.2.10:5060", "dst": "203.0.113.1:5060", "node": "fra-1", "call_id": "one@a",
        "correlation_id": "", "message": ONE[0].buf.decode(),
    }  # fmt: skip


def test_a_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(capsys, folder, tmp_path / "x.html", "one@a")
    page = (tmp_path / "x.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "one@a" in page


def test_a_page_takes_few_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, *(call(f"{number}@a", at("10:00:00")) for number in range(21)))
    code, _, err = run(capsys, "export", "--folder", tmp_path, "-o", tmp_path / "x.html")
    assert code == 2
    assert "a page takes 20 calls" in err
    assert not (tmp_path / "x.html").exists()


def test_legs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(capsys, folder, tmp_path / "one.data", "one@a")
    assert len(read(tmp_path / "one.data")) == 6
    err = exported(capsys, folder, tmp_path / "both.data", "one@a", "--legs")
    assert "has 2 calls" in err
    assert plain(read(tmp_path / "both.data"), "node") == plain(by_time(ONE, TWO), "node")


def test_filters(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(capsys, folder, tmp_path / "x.data", "--status", "486")
    assert plain(read(tmp_path / "x.data"), "node") == plain(TWO, "node")


THIRD_PARTY = """
from sipdump_core import FolderBackend, Record

class LinesBackend(FolderBackend):
    name = "lines"
    suffix = ".lines"

    def encode(self, batch):
        return b"".join(b"%d %s\\n" % (record.time_us, record.buf.hex().encode()) for record in batch)

    def decode(self, file):
        for line in file:
            time_us, buf = line.split()
            yield Record.of(bytes.fromhex(buf.decode()), time_us=int(time_us), src_ip="192.0.2.1", src_port=1,
                            dst_ip="192.0.2.2", dst_port=2)
"""


def test_a_third_partys_format(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "python-entrypoints").mkdir(parents=True)
    (tmp_path / "cache" / "python-entrypoints" / ".disable").touch()
    meta = tmp_path / "site" / "sipdump_lines-1.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: sipdump-lines\nVersion: 1\n")
    (meta / "entry_points.txt").write_text("[sipdump.backends]\nlines = sipdump_lines:LinesBackend\n")
    (tmp_path / "site" / "sipdump_lines.py").write_text(THIRD_PARTY)
    environment = {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def command(*args: str) -> str:
        argv = [sys.executable, "-m", "sipdump_core.reading", *args]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    path = tmp_path / "x.lines"
    command("export", "one@a", "--folder", str(folder), "--format", "lines", "-o", str(path))
    assert len(path.read_bytes().splitlines()) == 6
    (call_,) = json.loads(command("find", "--file", str(path), "--json"))
    assert (call_["call_id"], call_["state"], call_["messages"]) == ("one@a", "ended", 6)


def test_files_that_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.pcap").write_text("mine")
    for args, code, message in [
        (("one@a", "-o", tmp_path / "old.pcap"), 2, "is there already"),
        (("one@a", "-o", tmp_path / "x.txt"), 2, "say the format: a name that ends in .data, .pcap"),
        (("one@a", "-o", tmp_path / "x", "--format", "nosuch"), 2, "no such backend is installed"),
        (("one@a", "-o", tmp_path / "no" / "x.pcap"), 1, "No such file or directory"),
        (("nosuch", "-o", tmp_path / "x.pcap"), 1, "nothing was found"),
        (("one@a",), 2, "required: -o"),
    ]:
        found, out, err = run(capsys, "export", "--folder", folder, *args)
        assert (found, out) == (code, "")
        assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["old.pcap"]
    assert (tmp_path / "old.pcap").read_text() == "mine"


def test_a_draft_is_not_synced_behind_its_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SYNCER, "watch", None)  # by then it has another name, or is gone
    err = exported(capsys, folder, tmp_path / "x.pcapng", "one@a")
    assert err == f"sipdump-read: {tmp_path}/x.pcapng has 1 call\n"


def test_calls_that_are_not_there_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.pcap", "x.html"):
        err = exported(capsys, folder, tmp_path / name, "one@a", "no\x1bsuch", "two@b")
        assert err.splitlines()[1:] == [r"sipdump-read: note: no\x1bsuch was not found"]


def test_an_open_store_is_exported_up_to_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.core.reading.stores import fill, workshop

    shop = workshop(tmp_path)
    backend = shop.backend("parquet", shop.site())
    fill(backend, ONE, ONE[0].time_us / 1e6, close=False)
    try:
        exported(capsys, tmp_path, tmp_path / "x.data")
        assert plain(read(tmp_path / "x.data"), "node") == plain(ONE, "node")
    finally:
        backend.close()
        backend.stop()
