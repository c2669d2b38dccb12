"""prune, list, and what else looks after segments."""

import contextlib
import errno
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.folder import RECORDS_XATTR
from sipdump_core.errors import StorageError
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_text import TextBackend
from tests.core.admin.run import run
from tests.core.drivers.test_discovery import install
from tests.support import record, wait_for

PREFIX = "kamailio-sipdump-"


def test_prune(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert len(before) == 6
    code, dry, _ = run(capsys, "prune", "--fage", 172800, "--folder", folder, "--dry-run")
    assert code == 0
    assert dry.count("would prune ") == 2
    assert sorted(folder.iterdir()) == before
    code, out, _ = run(capsys, "prune", "--fage", 172800, "--folder", folder)
    assert code == 0
    (data,) = [line for line in out.splitlines() if line.startswith("pruned ") and ".data " in line]
    assert data.endswith(" bytes")
    size = int(data.split()[-2])
    assert f"text: 1 segments pruned, {size} bytes" in out
    assert "pcap: 1 segments pruned" in out
    assert len(list(folder.iterdir())) == 3
    for age in (["--fagex", "2d"], ["--fage", "2d"], ["--fagex", "172800"]):
        assert run(capsys, "prune", *age, "--folder", folder)[1].splitlines() == [
            "parquet: 0 segments pruned, 0 bytes",
            "pcap: 0 segments pruned, 0 bytes",
            "text: 0 segments pruned, 0 bytes",
        ]


def test_prune_json_and_config(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "k.cfg"
    config.write_text(f'modparam("sipdump", "folder", "{folder}")\nmodparam("sipdump", "fagex", "2d")\n')
    code, out, _ = run(capsys, "prune", "-f", config, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["fage"], result["dry_run"]) == (172800, False)
    assert {row["backend"]: row["segments"] for row in result["backends"]} == {"parquet": 0, "pcap": 1, "text": 1}
    assert all(not Path(path).exists() for row in result["backends"] for path in row["pruned"])


def test_prune_leaves_other_prefixes_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "prune", "--fage", 1, "--folder", folder, "--fprefix", "other-")[0] == 0
    assert len(list(folder.iterdir())) == 6


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["prune"], "no age given"),
        (["prune", "--fage", "0"], "--fage: must be 1 second or more"),
        (["prune", "--fage", "-5"], "--fage: must be 1 second or more"),
        (["prune", "--fagex", "2x"], "--fagex: must be numbers with the units"),
        (["prune", "--fage", "0s"], "--fage: must be 1 second or more"),
        (["prune", "--fagex", "-1"], "--fagex: must be 1 second or more"),
        (["list", "--folder", "/etc/passwd"], "Not a directory (it is a file; name the folder that it is in)"),
        (["list", "-f", "/etc"], "/etc: cannot read the configuration: Is a directory; name the file in it"),
        (["prune", "--fage", "1", "--folder", "/nonexistent"], "list /nonexistent: No such file or directory"),
        (["prune", "--fage", "1", "--fprefix", "a/b"], "no slash"),
        (["list", "--folder", "/nonexistent"], "list /nonexistent: No such file or directory"),
        (["list", "-f", "/nonexistent"], "cannot read the configuration"),
    ],
)
def test_what_cannot_be_done_is_said(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *args)
    assert code == 1
    assert message in err
    assert err.startswith("sipdump-admin: ")


def test_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backend = TextBackend(NoOptions(), Site(str(folder), PREFIX))
    backend.open(Segment(PREFIX, "2099-01-01--00-00-00", 0, ".data"))
    backend.write([record()])
    code, out, _ = run(capsys, "list", "--folder", folder, "--json")
    rows = json.loads(out)
    assert code == 0
    assert len(rows) == 5
    assert [row["state"] for row in rows].count("open") == 1
    assert (rows[-1]["backend"], rows[-1]["state"], rows[-1]["size"]) == ("text", "open", backend.record_size(record()))
    assert rows[-1]["start"].startswith("2099-01-01T00:00:00")
    _, counted, _ = run(capsys, "list", "--folder", folder, "--json", "--count")
    assert sorted(row["records"] for row in json.loads(counted)) == [1, 1, 1, 3, 3]
    _, table, _ = run(capsys, "list", "--folder", folder)
    assert table.splitlines()[0].split() == ["backend", "start", "size", "records", "state", "name"]
    assert len(table.splitlines()) == 6
    backend.close()


def test_list_of_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "--folder", tmp_path)
    assert (code, out.split()) == (0, ["backend", "start", "size", "records", "state", "name"])
    assert json.loads(run(capsys, "list", "--folder", tmp_path, "--json")[1]) == []


@pytest.mark.parametrize(
    "command", [["list"], ["prune", "--fage", "2d"], ["recover"], ["compact"]], ids=lambda command: command[0]
)
def test_a_command_names_the_folder_and_the_prefix(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = run(capsys, *command, "--folder", folder, "--fprefix", "mine-")
    assert err.splitlines()[0] == f"sipdump-admin: segments are {folder}/mine-*"
    _, _, err = run(capsys, *command)
    assert err.splitlines()[0] == (
        f"sipdump-admin: segments are /tmp/{PREFIX}* (the default; name another by -f or --folder)"
    )
    assert run(capsys, *command, "--folder", folder, "--json")[2] == ""


def test_other_segments_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (f"{PREFIX}2026-01-01--00-00-00.jsonl", f"{PREFIX}2026-01-01--00-00-00.parquet.wal", "a b.data"):
        (folder / name).touch()
    for command in (["list"], ["prune", "--fage", "10d"]):
        code, _, err = run(capsys, *command, "--folder", folder)
        assert (code, err.splitlines()[1:]) == (
            0,
            ["sipdump-admin: other files are there: 1 end with '.jsonl', which no installed backend has"],
        )
        code, _, err = run(capsys, *command, "--folder", folder, "--fprefix", "a b-")
        assert (code, err.splitlines()[1:]) == (
            0,
            [f"sipdump-admin: other segments are there: 5 with --fprefix {PREFIX}"],
        )
    code, out, _ = run(capsys, "prune", "--fage", "10d", "--folder", folder, "--fprefix", "a b-", "--json")
    document = json.loads(out)
    assert (document["folder"], document["fprefix"]) == (str(folder), "a b-")
    assert document["other_prefixes"] == {PREFIX: 5}


def test_an_unsealed_segment_of_another_prefix_is_named_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".parquet.wal", ".parquet.wal.damaged", ".parquet"):
        (folder / f"mine-2026-01-01--00-00-00{suffix}").touch()
    _, _, err = run(capsys, "list", "--folder", folder)
    assert err.splitlines()[1:] == ["sipdump-admin: other segments are there: 1 with --fprefix mine-"]


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EACCES, "Permission denied (run this as the user that the files belong to, or as root)"),
        (errno.EIO, "Input/output error (the device reports an I/O error; look at the kernel's log)"),
        (errno.ESTALE, "Stale file handle"),
    ],
)
@pytest.mark.parametrize("command", [["list"], ["list", "--count"], ["prune", "--fage", "10d"]])
def test_what_cannot_be_read_ends_with_1(
    folder: Path,
    command: list[str],
    number: int,
    why: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = sorted(folder.glob("*.data"))[0]
    really = os.open

    def refuse(path: str, *args: int) -> int:
        if path == str(first):
            raise OSError(number, os.strerror(number), path)
        return really(path, *args)

    monkeypatch.setattr("sipdump_core.drivers.folder.os.open", refuse)
    code, out, err = run(capsys, *command, "--folder", folder)
    assert code == 1
    assert f"sipdump-admin: read {first}: {why}" in err.splitlines()
    assert "taken for open" not in err
    assert err.count(str(first)) == 1
    if command[0] == "list":
        assert len(out.splitlines()) == 5
        assert [line.split()[4] for line in out.splitlines() if first.name in line] == ["unreadable"]


def test_counting_goes_on_after_a_segment_that_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.glob("*.data"):
        with contextlib.suppress(OSError):
            os.removexattr(path, RECORDS_XATTR)
    first = sorted(folder.glob("*.data"))[0]
    read = TextBackend.read

    def refuse(self: TextBackend, stored: StoredSegment) -> Iterator[Record]:
        if stored.location == str(first):
            raise StorageError("read", stored.location, "Input/output error")
        return read(self, stored)

    monkeypatch.setattr(TextBackend, "read", refuse)
    code, out, err = run(capsys, "list", "--count", "--folder", folder, "--json")
    assert code == 1
    assert f"sipdump-admin: text: read {first}: Input/output error" in err
    text = {row["location"]: row["records"] for row in json.loads(out) if row["backend"] == "text"}
    assert text[str(first)] is None
    assert None not in [records for location, records in text.items() if location != str(first)]


STRANGER = """
import sys
from sipdump_core import FolderBackend
class B(FolderBackend):
    name = "stranger"
    suffix = ".stranger"
    def encode(self, batch): return b"x"
    def decode(self, file): yield from ()
"""
HANG = "sys.modules['sipdump_free'].wait(60)"


@pytest.fixture
def stranger(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A third party's driver, and a file of it in the folder; what it waits for comes after the test."""
    packages = tmp_path_factory.mktemp("packages")
    free = threading.Event()
    monkeypatch.setitem(sys.modules, "sipdump_free", free)
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.delitem(sys.modules, "sipdump_stranger", raising=False)
    install(packages, "sipdump-stranger", STRANGER, "stranger = sipdump_stranger:B")
    (folder / f"{PREFIX}2026-11-22--23-31-00.stranger").touch()
    yield packages / "sipdump_stranger.py"
    free.set()
    wait_for(lambda: not [each for each in threading.enumerate() if each.name.startswith("sipdump-stranger")])


@pytest.mark.parametrize(
    ("command", "method", "others"),
    [
        (["list"], "segments(self)", ["text", "pcap"]),
        (["list", "--count"], "read(self, stored)", ["text", "pcap"]),
        (["prune", "--fage", "172800"], "segments(self)", ["text: 1 segments pruned", "pcap: 1 segments pruned"]),
        (["prune", "--fage", "0.5"], "delete_many(self, chunk)", []),
        (["recover"], "recover(self)", ["nothing to recover"]),
        (["compact"], "compact(self, **_)", []),
    ],
)
def test_one_that_hangs_does_not_keep_the_others(
    folder: Path, stranger: Path, command: list[str], method: str, others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if command[-1] == "0.5":
        command = ["prune", "--fage", "1"]
        for path in folder.iterdir():
            os.utime(path, (time.time() - 60,) * 2)
        others = ["text: 2 segments pruned", "pcap: 2 segments pruned"]
    stranger.write_text(f"{STRANGER}    def {method}:\n        {HANG}\n        return []\n")
    code, out, err = run(capsys, *command, "--folder", folder, "--timeout", 0.3)
    assert code == 1
    assert "the backend stranger of sipdump-stranger 1.5 has answered nothing for 0.3 s, and is given up" in err
    assert all(text in out for text in others if "nothing" not in text)


def test_where_the_segments_are_may_hang_or_be_wrong(
    folder: Path, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger.write_text(f"{STRANGER}    def where(self):\n        sys.exit(3)\n")
    code, out, err = run(capsys, "list", "--folder", folder)
    assert (code, "SystemExit: 3" in err, ".data" in out) == (1, True, True)


def test_wrong_metadata_is_told_and_stops_nobody(
    folder: Path, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = stranger.parent / "sipdump_stranger-1.5.dist-info"
    (info / "METADATA").unlink()
    (info / "entry_points.txt").write_text("[sipdump.backends]\nstranger = no module\n")
    code, out, err = run(capsys, "list", "--folder", folder)
    assert (code, ".data" in out) == (0, True)
    assert f"sipdump-admin: warning: {info}/entry_points.txt:2: " in err
    assert f"sipdump-admin: warning: {info}/METADATA: " in err
    code, out, err = run(capsys, "backends")
    assert (code, "its entry point must be module:Class, not 'no module'" in out) == (1, True)
    assert f"{info}/entry_points.txt:2: " in err


def test_what_an_import_prints_is_not_in_the_json(
    folder: Path, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger.write_text(f"print('hello')\n{STRANGER}")
    code, out, err = run(capsys, "list", "--folder", folder, "--json")
    assert (code, "stranger" in [row["backend"] for row in json.loads(out)]) == (0, True)
    assert "hello" in err
