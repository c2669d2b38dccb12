"""sipdump-admin, as an operator runs it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sipdump_core.admin import command as admin
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.segment import Segment
from sipdump_core.sipdump import SipDump
from sipdump_text import TextBackend
from tests.support import record

PREFIX = "kamailio-sipdump-"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two segments, the first three days old."""
    with SipDump(enable=1, mode=5, folder=tmp_path) as dump:
        dump.intercept([record()] * 3)
        assert dump.flush(10)
        dump.rotate()
        dump.intercept([record()])
    first = sorted(p.stem for p in tmp_path.glob("*.data"))[-1]  # "-1" sorts before the plain name
    for path in tmp_path.glob(first + ".*"):
        os.utime(path, (time.time() - 259_200,) * 2)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = admin.main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


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
    assert run(capsys, "prune", "--fagex", "2d", "--folder", folder)[1].splitlines() == [
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


@pytest.mark.parametrize("args", [[], ["nosuch"], ["prune", "--fage", "x"], ["prune", "--fage", "1", "--fagex", "2d"]])
def test_a_wrong_command_line(args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        admin.main(args)
    assert caught.value.code == 2


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


def test_backends(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "backends", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert (rows["text"]["flag"], rows["text"]["suffix"], rows["text"]["distribution"]) == (1, ".data", "sipdump")
    assert (rows["header"]["kind"], rows["header"]["flag"], rows["header"]["suffix"]) == ("transform", 8, None)
    assert {row["state"] for row in rows.values()} == {"loaded"}
    assert "pcap" in run(capsys, "backends")[1]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from sipdump_core.admin import command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'attrs', 'attr', 'stevedore', 'lark', 'asyncio', 'pyarrow', 'boto3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "prune" in done.stdout


def test_the_core_loads_no_backend_pyarrow_or_boto3() -> None:
    code = (
        "import sys, sipdump_core\n"
        "for name in sipdump_core.__all__: getattr(sipdump_core, name)\n"
        "import sipdump_core.daemon, sipdump_core.admin.command\n"
        "heavy = {'pyarrow', 'boto3', 'sipdump_text', 'sipdump_pcap'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m sipdump_core.admin list --folder {folder} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
