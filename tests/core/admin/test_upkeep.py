"""prune, list, and what else looks after segments."""

import json
from pathlib import Path

import pytest

from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.segment import Segment
from sipdump_text import TextBackend
from tests.core.admin.run import run
from tests.support import record

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
