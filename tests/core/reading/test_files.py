"""Files that commands write: whole or not at all, and never over another one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sipdump_core.errors import ConfigError, StorageError
from sipdump_core.reading.files import new_file, refuse_old, replaced_file, write_new


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with new_file(str(path)) as draft:
        Path(draft).write_text("half")
        assert not path.exists()
        Path(draft).write_text("all of it")
    assert path.read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [path]


def write(path: Path, meanwhile: Callable[[], object]) -> None:
    with new_file(str(path)) as draft:
        Path(draft).write_text("mine")
        meanwhile()


def fail() -> None:
    raise ZeroDivisionError


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_never_overwritten(tmp_path: Path) -> None:
    old = tmp_path / "x"
    with pytest.raises(StorageError, match="File exists"):
        write(old, lambda: old.write_text("came meanwhile"))
    assert old.read_text() == "came meanwhile"
    with pytest.raises(StorageError, match="there is such a file already"):
        write_new(str(old), b"mine")
    with pytest.raises(ConfigError, match="is there already"):
        refuse_old(str(old))
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is there already"):
        refuse_old(str(dangling))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        write_new(str(tmp_path / "no" / "x"), b"")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    old = tmp_path / "x"
    old.write_text("old")
    with pytest.raises(ZeroDivisionError), replaced_file(str(old)):
        fail()
    assert old.read_text() == "old"
    with replaced_file(str(old)) as draft:
        Path(draft).write_text("new")
    assert old.read_text() == "new"
    with replaced_file(str(old)):
        pass  # nothing was found, and nothing written
    assert old.read_text() == "new"
    with pytest.raises(StorageError, match="not a regular file"), replaced_file(str(tmp_path)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
