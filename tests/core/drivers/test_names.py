"""Names in a folder, looked at once."""

import threading
from pathlib import Path

import pytest

from sipdump_core.drivers.names import forget_names, names_in, one_look


def test_within_a_look_names_stay_as_they_were_until_they_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    with one_look():
        with one_look():
            assert names_in(str(tmp_path)) == ["b"]
        (tmp_path / "a").touch()
        assert names_in(str(tmp_path)) == ["b"]
        forget_names(str(tmp_path))
        assert names_in(str(tmp_path)) == ["a", "b"]
    (tmp_path / "c").touch()
    forget_names(str(tmp_path))
    assert names_in(str(tmp_path)) == ["a", "b", "c"]


def test_another_thread_looks_for_itself(tmp_path: Path) -> None:
    """It may be one that was given up, and comes back when the command has long gone on."""
    found: list[object] = []
    with one_look():
        assert names_in(str(tmp_path)) == []
        (tmp_path / "a").touch()
        thread = threading.Thread(target=lambda: found.append(names_in(str(tmp_path))))
        thread.start()
        thread.join()
    assert found == [["a"]]


def test_what_cannot_be_listed_is_an_error_each_time(tmp_path: Path) -> None:
    with one_look():
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                names_in(str(tmp_path / "none"))
        (tmp_path / "none").mkdir()
        assert names_in(str(tmp_path / "none")) == []
