"""sipdump-admin new-backend: what it writes, and what it refuses."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sipdump_core.admin import command as admin

FILES = {
    ".github/workflows/test.yml",
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "sipdump_kafka/__init__.py",
    "sipdump_kafka/py.typed",
    "tests/test_kafka.py",
}


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def check(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)  # they run the whole kit
@pytest.mark.parametrize("kind", ["file", "stream", "filter"])
def test_what_it_writes_passes_its_own_tests_and_checks(
    kind: str, tmp_path: Path, mypy_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kafka"
    assert admin.main(["new-backend", "kafka", "--kind", kind, "--dir", str(folder)]) == 0
    assert tree(folder) == FILES
    told = capsys.readouterr().out
    assert all(f"wrote {folder / name}\n" in told for name in FILES)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "sipdump-kafka"
    assert project["entry-points"]["sipdump.backends"] == {
        "kafka": f"sipdump_kafka:Kafka{'Filter' if kind == 'filter' else 'Backend'}"
    }
    check(folder, "ruff", "check")
    check(folder, "ruff", "format", "--check")
    check(folder, "mypy", "--cache-dir", str(mypy_cache))
    check(folder, "pytest", "-q", "-p", "no:cacheprovider")


def test_the_style_is_right_for_every_name(tmp_path: Path) -> None:
    for kind in ("file", "stream", "filter"):
        for name in ("a", "zebra", "x" * 24, "a_b1_2_3c", "class"):
            folder = tmp_path / kind / name
            assert admin.main(["new-backend", name, "--kind", kind, "--dir", str(folder)]) == 0
            assert not [name for name in tree(folder) if re.search(r"@\w+@", (folder / name).read_text())]
    check(tmp_path, "ruff", "check", "--no-cache")
    check(tmp_path, "ruff", "format", "--check", "--no-cache")


@pytest.mark.parametrize("kind", ["file", "stream", "filter"])
def test_only_public_names_are_used(kind: str, tmp_path: Path) -> None:
    assert admin.main(["new-backend", "kafka", "--kind", kind, "--dir", str(tmp_path)]) == 0
    for path in tmp_path.rglob("*.py"):
        found = re.findall(r"^(?:from|import) (sipdump_core\S*)", path.read_text(), re.MULTILINE)
        assert set(found) <= {"sipdump_core", "sipdump_core.testing"}


@pytest.mark.parametrize("kind", ["file", "stream", "filter"])
def test_it_takes_no_flag_and_is_switched_on_by_name(kind: str, tmp_path: Path) -> None:
    assert admin.main(["new-backend", "kafka", "--kind", kind, "--dir", str(tmp_path)]) == 0
    assert "    flag = 0  #" in (tmp_path / "sipdump_kafka" / "__init__.py").read_text()
    assert 'modparam("sipdump", "backend", "kafka")' in (tmp_path / "README.md").read_text()


def test_the_folder_is_named_after_the_distribution_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert admin.main(["new-backend", "kafka"]) == 0
    assert tree(tmp_path / "sipdump-kafka") == FILES


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("text", "there is a backend text already, of the distribution sipdump"),
        ("header", "there is a backend header already"),
        ("core", "sipdump_core is a module of sipdump itself"),
        ("hep", "sipdump_hep is a module of sipdump itself"),
        *(
            (name, "cannot be a backend's name")
            for name in ("", "Kafka", "1st", "a-b", "a b", "a__b", "a_", "_a", "é", "a/b")
        ),
        ("x" * 25, "at most 24 characters"),
        ("a\n", "cannot be a backend's name"),
    ],
)
def test_a_name_that_is_no_good_or_taken_is_refused(
    name: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert admin.main(["new-backend", name, "--dir", str(tmp_path / "d")]) == 1
    assert error in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["file", ".hidden", "sub/file"])
def test_a_folder_that_is_not_empty_is_refused_and_not_touched(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    assert admin.main(["new-backend", "kafka", "--dir", str(tmp_path)]) == 1
    assert f"{tmp_path} exists already and is not an empty folder" in capsys.readouterr().err
    assert tree(tmp_path) == {there}


def test_a_file_at_the_place_of_the_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d").write_text("mine")
    assert admin.main(["new-backend", "kafka", "--dir", str(tmp_path / "d")]) == 1
    assert "exists already and is not an empty folder" in capsys.readouterr().err
    assert admin.main(["new-backend", "kafka", "--dir", str(tmp_path / "d" / "e")]) == 1
    assert "sipdump-admin: write" in capsys.readouterr().err
    assert (tmp_path / "d").read_text() == "mine"
