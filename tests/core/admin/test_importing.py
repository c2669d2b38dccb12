"""``sipdump-admin import``: files of other places become segments, and nothing of them is lost."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.drivers.base import Filter
from sipdump_core.drivers.discovery import Driver, take_stock
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.drivers.query import Query
from sipdump_core.drivers.syncing import Syncer
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from sipdump_core.sipdump import SipDump
from tests.core.admin.run import run
from tests.core.reading.capture import frames
from tests.core.reading.stores import fill, workshop
from tests.core.reading.traffic import at, call, store
from tests.s3_server import Server
from tests.steps import steps_of
from tests.support import record

CORPUS = Path(os.environ.get("SIPDUMP_CORPUS", "/nowhere"))
PREFIX = "kamailio-sipdump-"

MIXED = [
    record(time_us=at("10:00:00"), tag="rcv", pid=2738, procno=4, proto="wss", node="fra-1"),
    record(
        time_us=at("10:00:01"), tag="snd", pid=1, procno=0, proto="sctp", af="ipv6", src_ip="::1", dst_ip="2001:db8::9"
    ),
    record(b"MESSAGE sip:x SIP/2.0\r\nCall-ID: nul\r\n\r\n\0\xff|||\n====================\n", time_us=at("10:00:02")),
    record(b"no SIP at all", time_us=at("10:00:03"), tag="a tag of mine"),
    record(time_us=at("09:59:59")),  # late
]


def stored(folder: Path, name: str = "") -> list[Record]:
    suffix = {"text": ".data", "pcap": ".pcap", "parquet": ".parquet"}.get(name, "")
    files = sorted(str(path) for path in folder.iterdir() if path.suffix != ".meta" and path.name.endswith(suffix))
    return sorted(Store.open(files=files).records(Query()), key=lambda each: each.time_us)


def plain(records: Sequence[Record], *without: str) -> list[tuple[Any, ...]]:
    fields = ["time_us", "buf", "tag", "pid", "procno", "proto", "src_ip", "src_port", "dst_ip", "dst_port", "node"]
    ordered = sorted(records, key=lambda each: each.time_us)
    return [tuple(getattr(one, field) for field in fields if field not in without) for one in ordered]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def written(folder: Path, name: str, records: Sequence[Record], **more: Any) -> Path:
    """Store records with one of our backends, and return the file."""
    folder.mkdir(exist_ok=True)
    shop = workshop(folder, **more)
    backend = shop.backend(name, shop.site())
    fill(backend, records, records[0].time_us / 1e6)
    (path,) = folder.glob(f"*{backend.suffix}")
    return path


@pytest.mark.parametrize("name", ["text", "pcap", "parquet"])
@pytest.mark.parametrize("to", ["text", "pcap", "parquet"])
def test_our_own_files_keep_what_both_formats_have(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str], name: str, to: str
) -> None:
    source = written(tmp_path / "source", name, MIXED)
    code, out, err = run(capsys, "import", source, "--folder", target, "--to", to)
    assert (code, err) == (0, "")
    assert out == f"{source}: 5 records in 1 segment of {to}\n"
    lost = {"text": {"node"}, "pcap": {"node", "tag", "pid", "procno", "proto"}, "parquet": set()}
    assert plain(stored(target, to), *(lost[name] | lost[to])) == plain(MIXED, *(lost[name] | lost[to]))


def test_the_header_of_mode_8_is_read_and_written(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "source", "pcap", MIXED[:2], mode=12)
    assert b"P-KSR-SIPDump" in source.read_bytes()
    code, _, _ = run(capsys, "import", source, "--folder", target, "--to", "parquet")
    assert code == 0
    assert plain(stored(target), "node", "tag") == plain(MIXED[:2], "node", "tag")


def test_what_was_imported_is_on_the_disk_when_the_command_ends(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "source", "text", MIXED)
    finish = Syncer.finish
    waited: list[bool] = []

    def finishing(syncer: Syncer, seconds: float) -> bool:
        waited.append(finish(syncer, seconds))
        return waited[-1]

    monkeypatch.setattr(Syncer, "finish", finishing)
    steps = steps_of(monkeypatch)
    assert run(capsys, "import", source, "--folder", target, "--to", "text")[0] == 0
    assert waited == [True]
    (data,) = target.glob("*.data")
    assert ("fsync", data.name, source.stat().st_size) in steps
    assert ("fsync", target.name, 0) in steps


@pytest.mark.usefixtures("utc")
def test_several_backends_get_one_segment_under_the_files_name(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "source", "text", MIXED)
    code, out, _ = run(capsys, "import", source, "--folder", target, "--to", "text,pcap,parquet", "--json")
    assert code == 0
    assert json.loads(out) == [{"file": str(source), "records": 5, "segments": 1, "error": None, "problems": []}]
    stem = f"{PREFIX}2026-11-22--10-00-00"
    assert sorted(path.name for path in target.iterdir()) == [
        f"{stem}.data", f"{stem}.meta", f"{stem}.parquet", f"{stem}.pcap",
    ]  # fmt: skip
    assert (target / f"{stem}.data").read_bytes() == source.read_bytes()
    assert (target / f"{stem}.meta").read_text().startswith("v: 1.0\nversion: sipdump ")
    # a store reads the three as one
    assert len(list(Store.open(folders=[str(target)]).records(Query()))) == 5


def test_the_process_table_beside_a_file_comes_along(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "source", "text", MIXED)
    meta = "v: 1.0\nversion: kamailio 5.6.3\nstart: Sun Nov 22 10:00:00 2026\nnrprocs: 1\nprocess: 0 7 main\n"
    source.with_suffix(".meta").write_text(meta)
    run(capsys, "import", source, "--folder", target, "--to", "text")
    (found,) = target.glob("*.meta")
    assert found.read_text() == meta


def test_rotation_and_prefix(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str], live_in: Callable[[str], None]
) -> None:
    live_in("Asia/Kathmandu")  # names are local time, at 45 minutes past UTC's hours
    config = tmp_path / "x.cfg"
    config.write_text(
        f'modparam("sipdump", "folder", "{target}")\nmodparam("sipdump", "mode", 1)\n'
        'modparam("sipdump", "rotate", 3600)\n'
    )
    calls = [call(f"{hour}@a", at(f"{hour}:00:00")) for hour in range(10, 14)]
    source = written(tmp_path / "source", "text", [each for one in calls for each in one])
    code, out, _ = run(capsys, "import", source, "-f", config, "--fprefix", "old-")
    assert code == 0
    assert "24 records in 4 segments of text" in out
    assert [path.name for path in sorted(target.glob("*.data"))] == [
        f"old-2026-11-22--{hour}-45-00.data" for hour in range(15, 19)
    ]


def test_a_foreign_capture(tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packets = [
        frames.ethernet(frames.ipv4(frames.udp(frames.message("one@a")))),
        frames.ethernet(frames.ipv6(frames.tcp(1, frames.message("two@a")), 6), tags=[0x8100]),
        *map(frames.ethernet, frames.fragments4(frames.udp(frames.message("three@a", "x" * 3000)), 1400)),
    ]
    path = tmp_path / "trace.pcapng"
    path.write_bytes(frames.section() + frames.interface() + b"".join(map(frames.enhanced, frames.at(packets))))
    code, out, err = run(capsys, "import", path, "--folder", target, "--to", "parquet", "--node", "lab")
    assert (code, err) == (0, "")
    assert "3 records in 1 segment" in out
    found = [(each.call_id, each.proto, each.tag, each.node, each.time_us - frames.BASE_US) for each in stored(target)]
    assert found == [
        ("one@a", "udp", "cap", "lab", 0), ("two@a", "tcp", "cap", "lab", 1000), ("three@a", "udp", "cap", "lab", 4000),
    ]  # fmt: skip


def test_what_a_capture_lacks_is_reported(tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes(
        frames.pcap([frames.Packet(frames.ethernet(frames.ipv4(frames.udp(frames.message()))), captured=200)])
    )
    code, out, err = run(capsys, "import", path, "--folder", target, "--to", "text")
    assert code == 0
    assert "1 record in 1 segment" in out
    assert err == f"sipdump-admin: the capture is not whole path={path} truncated_messages=1\n"
    code, out, _ = run(capsys, "import", path, "--folder", target, "--to", "text", "--again", "--json")
    assert json.loads(out)[0]["problems"] == [f"the capture is not whole path={path} truncated_messages=1"]


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize("to", ["text", "parquet", "text,pcap"])
def test_a_file_that_was_imported_before_is_refused(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    source = written(tmp_path / "source", "parquet", MIXED)
    other = written(tmp_path / "other", "text", call("other@a", at("10:00:00")))
    assert run(capsys, "import", source, "--folder", target, "--to", to)[0] == 0
    code, out, err = run(capsys, "import", source, other, "--folder", target, "--to", to)
    assert code == 1
    assert f"{source}: import {PREFIX}2026-11-22--10-00-00: it is stored already (--again stores it once more)" in err
    assert f"{other}: 6 records in 1 segment" in out  # of the same second, but another one
    name = to.split(",", maxsplit=1)[0]
    assert len(stored(target, name)) == 11
    assert run(capsys, "import", source, "--folder", target, "--to", to, "--again")[0] == 0
    assert len(stored(target, name)) == 16
    code, _, err = run(capsys, "import", other, other, "--folder", target, "--to", "text", "--fprefix", "x-")
    assert code == 1
    assert "it is stored already" in err


def test_files_that_cannot_be_read(tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path / "source", "text", MIXED)
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 no more")
    code, out, err = run(capsys, "import", bad, good, "--folder", target, "--to", "text")
    assert code == 1
    assert f"sipdump-admin: {bad}: " in err
    assert f"{good}: 5 records" in out
    torn = tmp_path / "torn.pcapng"
    torn.write_bytes(frames.section() + frames.interface() + frames.enhanced(frames.Packet(
        frames.ethernet(frames.ipv4(frames.udp(frames.message()))))) + b"\6\0\0\0\7\0\0\0")  # fmt: skip
    code, out, err = run(capsys, "import", torn, "--folder", target, "--to", "text")
    assert code == 1
    assert "the file is damaged from here on" in err
    assert f"{torn}: 1 record in 1 segment of text" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("import", "/nosuch.data", "--folder", "{target}", "--to", "text"), "there is no such file"),
        (("import", "{good}", "--to", "text"), "say where to store"),
        (("import", "{good}", "--folder", "{target}"), "say in which backends to store"),
        (("import", "{good}", "--folder", "{target}", "--to", "nosuch"), "no such backend is installed"),
        (("import", "{good}", "--folder", "/nosuch", "--to", "text"), "list /nosuch: No such file or directory"),
        (("import", "{other}", "--folder", "{target}", "--to", "text"), "no backend reads such a file"),
    ],
)
def test_wrong_use(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    good = written(tmp_path / "source", "text", MIXED)
    other = tmp_path / "notes.txt"
    other.write_text("hello")
    code, _, err = run(capsys, *(arg.format(target=target, good=good, other=other) for arg in args))
    assert code == 1
    assert message in err
    assert not list(target.iterdir())


def test_into_a_bucket(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str], s3_server: Server, s3_bucket: str
) -> None:
    source = written(tmp_path / "source", "text", MIXED)
    config = tmp_path / "x.cfg"
    config.write_text(
        f'modparam("sipdump", "folder", "{target}")\nmodparam("sipdump", "mode", 32)\n'
        f'modparam("sipdump_s3", "bucket", "{s3_bucket}")\nmodparam("sipdump_s3", "node", "n1")\n'
        f'modparam("sipdump_s3", "endpoint_url", "{s3_server.endpoint}")\n'
    )
    code, out, err = run(capsys, "import", source, "-f", config)
    assert code == 0, err
    assert "5 records in 1 segment of s3" in out
    found = sorted(Store.open(configs=[str(config)]).records(Query()), key=lambda each: each.time_us)
    assert plain(found, "node") == plain(MIXED, "node")
    code, _, err = run(capsys, "import", source, "-f", config)
    assert code == 1
    assert "it is stored already" in err


def test_into_a_third_partys_backend(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sipdump_core.drivers import discovery

    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "examples" / "sipdump-jsonl"))
    import sipdump_jsonl

    known = discovery.take_stock().drivers
    driver = discovery.Driver("jsonl", "sipdump-jsonl", "1", sipdump_jsonl.JsonlBackend)
    monkeypatch.setattr("sipdump_core.plan.take_stock", lambda *_: discovery.Stock([*known, driver]))
    source = written(tmp_path / "source", "text", MIXED)
    code, out, err = run(capsys, "import", source, "--folder", target, "--to", "jsonl")
    assert code == 0, err
    assert "5 records in 1 segment of jsonl" in out
    (path,) = target.glob("*.jsonl")
    assert len(path.read_text().splitlines()) == 5


@pytest.mark.parametrize("method", ["close", "stop"])
def test_an_end_that_hangs_is_interrupted(
    tmp_path: Path, target: Path, method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sipdump_core.drivers import discovery

    class Endless(FolderBackend):
        name = "endless"
        suffix = ".endless"

        def encode(self, batch: Sequence[Record]) -> bytes:
            return b"x" * len(batch)

    def hang(backend: FolderBackend) -> None:
        if method == "stop" or backend._fd >= 0:  # open() calls close(), too
            time.sleep(60)

    monkeypatch.setattr(Endless, method, hang)
    monkeypatch.setattr(Endless, "stop_seconds", 0.2)
    monkeypatch.setattr("sipdump_core.admin.importing.STALL", 0.1)
    before = signal.getsignal(signal.SIGALRM)
    driver = discovery.Driver("endless", "sipdump-endless", "1", Endless)
    known = discovery.take_stock().drivers
    monkeypatch.setattr("sipdump_core.plan.take_stock", lambda *_: discovery.Stock([*known, driver]))
    source = written(tmp_path / "source", "text", MIXED)
    code, _, err = run(capsys, "import", source, "--folder", target, "--to", "endless")
    assert code == 1
    assert "the backend endless has not returned within 0.2 s" in err
    assert [path.read_bytes() for path in target.glob("*.endless")] == [b"xxxxx"]
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_bar_on_a_terminal(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path / "source", "text", MIXED)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = run(capsys, "import", source, "--folder", target, "--to", "text")
    assert code == 0
    assert "import" in err
    assert "messages" in err
    assert "5 records in 1 segment of text" in out


@pytest.mark.skipif(not CORPUS.exists(), reason="no folder with captures is named by SIPDUMP_CORPUS")
@pytest.mark.usefixtures("utc")  # where they were written
def test_kamailios_own_files(tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data,) = CORPUS.rglob("kamailio-sipdump-*.data")
    (pcap,) = CORPUS.rglob("kamailio-sipdump-*.pcap")
    assert run(capsys, "import", data, "--folder", target, "--to", "text,parquet")[0] == 0
    assert (target / data.name).read_bytes() == data.read_bytes()
    assert (target / data.name).with_suffix(".meta").read_bytes() == data.with_suffix(".meta").read_bytes()
    original = list(Store.open(files=[str(data)]).records(Query()))
    assert plain(stored(target, "parquet")) == plain(original)
    again = tmp_path / "again"
    again.mkdir()
    assert run(capsys, "import", pcap, "--folder", again, "--to", "parquet")[0] == 0
    assert plain(stored(again), "tag") == plain(original, "tag")  # mode 13: the header keeps the rest


def test_a_folder_is_full(tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was stored before stays, and the error names the backend's file."""
    source = written(tmp_path / "source", "text", call("one@a"))
    shutil.rmtree(target)
    target.mkdir(mode=0o500)
    if os.access(target, os.W_OK):
        target.rmdir()
        target.symlink_to("/proc/self")  # where nobody can make a file
    code, out, err = run(capsys, "import", source, "--folder", target, "--to", "text")
    assert code == 1
    assert "0 records in 0 segments" in out
    assert str(target) in err


def test_the_store_fixture_is_what_it_says(tmp_path: Path) -> None:
    assert len(stored(store(tmp_path, call("one@a")))) == 6


class Failing(Filter):
    name = "failing"
    prompt = True

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        raise ValueError("no")


def test_nothing_is_imported_past_a_filter_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with SipDump(enable=1, mode=1, folder=str(source)) as dump:
        dump.received(b"secret", ("192.0.2.1", 5060), ("192.0.2.2", 5060))
    (data,) = source.glob("*.data")
    known = take_stock()
    more = [*known.drivers, Driver("failing", "sipdump-failing", "1", Failing)]
    monkeypatch.setattr("sipdump_core.plan.take_stock", lambda blocked=(): attrs.evolve(known, drivers=more))
    code, _, err = run(capsys, "import", data, "--folder", target, "--to", "text,failing")
    assert code == 1
    assert "1 record dropped at the filter failing: it failed" in err
    assert not list(target.iterdir())
