"""Whose files may be believed."""

import os
from pathlib import Path

import pytest

from sipdump_core.errors import StorageError
from sipdump_core.ownership import is_ours, owners, require_private
from tests.strangers import NOBODY, needs_root


def test_a_file_of_this_user_is_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert is_ours(str(tmp_path / "file"))
    assert not is_ours(str(tmp_path / "none"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_regular_file_is_not(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "path"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "file").touch()
        path.symlink_to(tmp_path / "file")
    assert not is_ours(str(path))


@needs_root
def test_root_looks_after_the_folder_of_another_user_but_not_after_strangers(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.chown(file, NOBODY, NOBODY)
    assert not is_ours(str(file))
    os.chown(tmp_path, NOBODY, NOBODY)
    assert is_ours(str(file))
    assert owners(str(tmp_path)) == {0, NOBODY}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_is_not_private(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(StorageError, match=r"others could put segments there .*chmod go-w"):
        require_private(str(tmp_path))
    tmp_path.chmod(0o755)
    require_private(str(tmp_path))


@needs_root
def test_a_folder_of_another_user_is_not_private(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(StorageError, match="belongs to another user"):
        require_private(str(tmp_path))


@needs_root
def test_a_link_of_another_user_is_not_private_wherever_it_leads(tmp_path: Path) -> None:
    """He could let it lead elsewhere."""
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder)
    require_private(str(link))
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(StorageError, match="belongs to another user"):
        require_private(str(link))


@needs_root
def test_root_is_trusted_by_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    os.chown(tmp_path, NOBODY, NOBODY)
    monkeypatch.chdir(tmp_path)  # pytest closes the folders above to others
    os.seteuid(NOBODY)
    try:
        assert is_ours("file")
        assert owners(".") == {0, NOBODY}
    finally:
        os.seteuid(0)
