"""``sipdump-read show``: a ladder in every format, on the terminal and as a file."""

import json
from pathlib import Path

import pytest

from tests.core.reading.run import run
from tests.core.reading.traffic import at, call, store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(
        tmp_path_factory.mktemp("store"),
        call("one@a", at("10:00:00"), headers="X-CID: two@b\r\n"),
        call("two@b", at("10:00:01"), src="203.0.113.1", dst="198.51.100.2"),
        call("alone@a", at("10:00:02")),
    )


def test_the_ladder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "alone@a", "--folder", folder)
    assert (code, err) == (0, "")
    assert "State:           ended by the caller, 200 Because" in out
    arrows = [line for line in out.splitlines() if "▶" in line or "◀" in line]
    assert [next(word for word in ("INVITE", "180", "200", "ACK", "BYE") if word in line) for line in arrows] == [
        "INVITE", "180", "200", "ACK", "BYE", "200",
    ]  # fmt: skip
    assert "\x1b" not in out  # no colour in a pipe


def test_the_width_is_at_least_80(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, narrow, _ = run(capsys, "show", "alone@a", "--folder", folder, "--width", 10)
    _, eighty, _ = run(capsys, "show", "alone@a", "--folder", folder, "--width", 80)
    assert narrow == eighty
    assert max(map(len, eighty.splitlines())) <= 80


def test_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("--name", "192.0.2.10=phone", "--name", "203.0.113.1:5060=proxy")
    _, out, _ = run(capsys, "show", "alone@a", "--folder", folder, *names)
    head = next(line for line in out.splitlines() if "phone" in line)
    assert "proxy" in head
    code, _, err = run(capsys, "show", "alone@a", "--folder", folder, "--name", "phone")
    assert (code, err) == (
        2,
        "sipdump-read: --name: 'phone' does not name an address: write it as \"10.0.0.5=proxy\"\n",
    )


def test_messages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, headers, _ = run(capsys, "show", "alone@a", "--folder", folder, "--headers")
    assert headers.count("CSeq: 1 INVITE") == 3
    _, raw, _ = run(capsys, "show", "alone@a", "--folder", folder, "--raw")
    assert raw.count("Call-ID: alone@a") == 6
    code, _, _ = run(capsys, "show", "alone@a", "--folder", folder, "--raw", "--headers")
    assert code == 2


def test_other_legs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "one@a", "--folder", folder)
    assert code == 0
    assert "Legs:            two@b (x-cid)" in out
    assert "198.51.100.2" not in out
    assert err == "sipdump-read: note: 1 other leg belongs to this call: --legs\n"
    code, out, err = run(capsys, "show", "one@a", "--folder", folder, "--legs")
    assert (code, err) == (0, "")
    assert "198.51.100.2" in out
    assert ("Leg A" in out, "Leg B" in out) == (True, True)
    _, out, _ = run(capsys, "show", "two@b", "--folder", folder, "--format", "json", "--legs")
    calls = json.loads(out)["calls"]
    assert [(one["call_id"], one["legs"]) for one in calls] == [
        ("two@b", [{"call_id": "one@a", "evidence": "x-cid"}]), ("one@a", [{"call_id": "two@b", "evidence": "x-cid"}]),
    ]  # fmt: skip


def test_legs_that_the_operator_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(
        tmp_path,
        call("one@a", at("10:00:00"), headers="X-Ticket: 4711\r\n"),
        call("two@b", at("10:00:00.5"), headers="Subject: about 4711 again\r\n"),
        call("three@c", at("10:00:10"), headers="X-Ticket: 4711;x\r\n"),
    )

    def legs(*options: str) -> list[str]:
        _, out, _ = run(capsys, "show", "one@a", "--folder", tmp_path, "--format", "json", *options)
        return [leg["call_id"] for leg in json.loads(out)["calls"][0]["legs"]]

    assert legs() == []
    assert legs("--leg-header", "X-Ticket") == ["three@c"]
    assert legs("--leg-regex", r"(4711)") == ["three@c", "two@b"]
    assert legs("--leg-guess") == ["two@b"]


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("x.svg", "<svg"), ("x.html", "<!doctype html>"), ("x.HTM", "<!doctype html>"), ("x.mmd", "sequenceDiagram"),
        ("x.json", "{"), ("x.md", ""), ("x.txt", "Call-ID:"),
    ],
)  # fmt: skip
def test_a_file_is_written_as_its_name_ends(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, beginning: str
) -> None:
    path = tmp_path / name
    code, out, err = run(capsys, "show", "alone@a", "--folder", folder, "-o", path)
    assert (code, out, err) == (0, "", "")
    assert path.read_text().lower().startswith(beginning.lower())
    assert list(tmp_path.iterdir()) == [path]


def test_a_format_goes_before_a_name(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "show", "alone@a", "--folder", folder, "-o", tmp_path / "x.svg", "--format", "mermaid")
    assert (tmp_path / "x.svg").read_text().startswith("sequenceDiagram")


def test_files_that_cannot_be_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.svg"
    old.write_text("mine")
    code, _, err = run(capsys, "show", "alone@a", "--folder", folder, "-o", old)
    assert code == 2
    assert "is there already: name another file" in err
    assert old.read_text() == "mine"
    code, _, err = run(capsys, "show", "alone@a", "--folder", folder, "-o", tmp_path / "no" / "x.svg")
    assert code == 1
    assert "No such file or directory" in err
    code, _, err = run(capsys, "show", "alone@a", "--folder", folder, "-o", tmp_path / "x.pcap")
    assert code == 2
    assert "sipdump-read export" in err


def test_not_found(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "nosuch", "--folder", folder, "-o", tmp_path / "x.svg")
    assert (code, out) == (1, "")
    assert "nothing was found in 1 segment of parquet" in err
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = call("one@a")
    broken = type(records[0])(records[0].time_us, records[0].flow, records[0].buf + b"\xff\xfe\0body")
    store(tmp_path / "", [broken, *records[1:]], backends=("text",))
    for form in ("text", "html", "svg", "mermaid", "json", "markdown"):
        path = tmp_path / f"out.{form}"
        code, _, _ = run(capsys, "show", "one@a", "--folder", tmp_path, "--format", form, "-o", path)
        assert code == 0
        path.read_text()
