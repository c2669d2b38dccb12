"""Metadata of distributions, however broken: each is read by itself, and what is wrong has a place."""

import importlib.metadata
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sipdump_core.drivers.metadata import Entry, entries
from tests.core.drivers.test_discovery import install

GROUP = "sipdump.backends"
CODE = "raise RuntimeError('it was run')"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    install(tmp_path, "sipdump-good", CODE, "good = sipdump_good:B")
    return tmp_path


def info(path: Path, text: bytes | None, *, metadata: str | None = "Name: sipdump-bad\nVersion: 2.0\n") -> Path:
    folder = path / "sipdump_bad-1.5.dist-info"
    folder.mkdir()
    if text is not None:
        (folder / "entry_points.txt").write_bytes(text)
    if metadata is not None:
        (folder / "METADATA").write_text(metadata)
    return folder


def found(path: Path) -> tuple[dict[str, Entry], list[str]]:
    known, notices = entries(GROUP)
    assert "good" in [entry.name for entry in known]
    assert all(notice.place.startswith(str(path)) for notice in notices)
    return {entry.name: entry for entry in known if entry.name != "good"}, [str(notice) for notice in notices]


BAD = b"[sipdump.backends]\nbad = sipdump_bad:B\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"[sipdump.backends]\nbad = sipdump_bad:B\nno equals\n", 3),
        (b"bad = sipdump_bad:B\n[sipdump.backends]\nbad = sipdump_bad:B\n", 1),
        (b"[sipdump.backends]\nbad = sipdump_bad:B\n= x:y\n", 3),
        (b"[sipdump.backends]\nbad = sipdump_bad:B\nworse = not a module\n", 3),
        (b"[sipdump.backends]\nbad = sipdump_bad:B\n[console_scripts\n", 3),
        (b"[sipdump.backends]\nbad = sipdump_bad:B\n\xff\xfe = \x80:\x00\n", 3),
        (b"\x7fELF\x00\xff\n[sipdump.backends]\nbad = sipdump_bad:B\n", 1),
    ],
)
def test_a_wrong_line_is_told_and_the_others_count(path: Path, text: bytes, line: int) -> None:
    folder = info(path, text)
    known, notices = found(path)
    assert (known["bad"].value, known["bad"].distribution, known["bad"].version) == (
        "sipdump_bad:B",
        "sipdump-bad",
        "2.0",
    )
    assert [notice.startswith(f"{folder}/entry_points.txt:{line}: ") for notice in notices] == [True]


@pytest.mark.parametrize("metadata", [None, "", "garbage", "Name: x\n", "Version: 1\n", "Name:\nVersion: 1\n"])
def test_without_a_name_it_is_called_as_its_folder(path: Path, metadata: str | None) -> None:
    folder = info(path, BAD, metadata=metadata)
    known, notices = found(path)
    assert (known["bad"].distribution, known["bad"].version) == ("sipdump-bad", "1.5")
    assert [notice.startswith(f"{folder}/METADATA: ") for notice in notices] == [True]


def test_a_file_that_cannot_be_read_is_told(path: Path) -> None:
    folder = info(path, None)
    os.mkfifo(folder / "entry_points.txt")
    other = path / "sipdump_other-1.dist-info"
    other.mkdir()
    (other / "entry_points.txt").symlink_to("nowhere")
    known, notices = found(path)
    assert known == {}
    assert sorted(re.split(": ", notice)[0] for notice in notices) == [
        f"{folder}/entry_points.txt",
        f"{other}/entry_points.txt",
    ]


def test_a_folder_that_may_not_be_searched_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = info(path, None)
    monkeypatch.setattr(os, "access", lambda each, _: each != str(folder))  # root may search any
    known, notices = found(path)
    assert (known, len(notices)) == ({}, 1)
    assert notices[0].startswith(f"{folder}/entry_points.txt: a distribution cannot be read, and is passed over: ")


def test_nothing_is_said_of_distributions_that_have_none_of_ours(path: Path) -> None:
    info(path, b"[console_scripts]\nx = y\n", metadata=None)
    (path / "egg.egg-info").write_text("Name: egg\n")
    (path / "empty-1.dist-info").mkdir()
    assert found(path) == ({}, [])


def test_an_object_that_is_no_distribution_stops_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Strange(importlib.metadata.Distribution):
        def read_text(self, filename: str) -> str:
            raise SystemExit(3)

        def locate_file(self, path: object) -> Path:
            raise NotImplementedError

    good = list(importlib.metadata.distributions())

    def distributions() -> Iterator[importlib.metadata.Distribution]:
        yield Strange()
        yield from good
        raise RuntimeError("a finder's bug")

    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    known, notices = entries(GROUP)
    assert [entry.name for entry in known] == ["good"]
    assert ["SystemExit: 3" in str(notices[0]), "a finder's bug" in str(notices[1])] == [True, True]


def test_nobody_becomes_first_party_by_its_metadata(path: Path) -> None:
    info(path, BAD, metadata="Name: sipdump\nVersion: 9\n")
    assert found(path)[0]["bad"].distribution == "sipdump-bad"


def test_the_first_of_two_installations_counts(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info(path, BAD)
    second = tmp_path / "second"
    second.mkdir()
    monkeypatch.setattr("sys.path", [str(path), str(second)])
    install(second, "sipdump.BAD", CODE, "bad = other:B")
    assert found(path)[0]["bad"].value == "sipdump_bad:B"
