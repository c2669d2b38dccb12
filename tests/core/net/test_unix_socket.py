"""Unix sockets to listen on."""

import fcntl
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from sipdump_core.errors import ConfigError
from sipdump_core.net import unix_socket
from sipdump_core.net.unix_socket import UnixSocket, bind_unix, remove_if_ours
from tests.strangers import needs_root, open_to_all, stranger_locks


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_stale_sockets_are_replaced_and_live_ones_are_not_stolen(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(path)
    sock = bind_unix(path, kind)
    for other in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with pytest.raises(ConfigError, match="another program is listening there"):
            bind_unix(path, other, place="a.cfg:1:1")
    os.unlink(path)
    Path(path).write_text("not ours")
    remove_if_ours(sock)
    sock.close()
    assert Path(path).read_text() == "not ours"
    with pytest.raises(ConfigError, match="no socket"):
        bind_unix(path, kind)
    assert Path(path).read_text() == "not ours"


@pytest.mark.parametrize(
    ("path", "user", "group", "message"),
    [
        ("nosuch/s", "", "", "create its folder"),
        ("s" * 120, "", "", "too long"),
        ("s", "no-such-user", "", "there is no user 'no-such-user'"),
        ("s", "", "no-such-group", "there is no group 'no-such-group'"),
    ],
)
def test_sockets_that_cannot_be_made(tmp_path: Path, path: str, user: str, group: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        bind_unix(str(tmp_path / path), socket.SOCK_STREAM, 0o600, user, group, place="a.cfg:1:1")
    assert str(raised.value).startswith("a.cfg:1:1: ")
    assert list(tmp_path.iterdir()) == []


def test_two_do_not_make_a_socket_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second to find a stale one would remove the first one's new one."""
    monkeypatch.setattr(unix_socket, "_LOCK_TIMEOUT", 0.01)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="its folder stays locked"):
        bind_unix(str(tmp_path / "s"), socket.SOCK_STREAM)
    os.close(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_socket_is_private_until_all_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between bind and the end nobody gets in whom its mode keeps out, whatever the umask."""
    path = tmp_path / "s"
    steps: list[tuple[Any, ...]] = []

    def mode() -> int:
        return stat.S_IMODE(path.lstat().st_mode)

    def bind(sock: UnixSocket, address: str) -> None:
        super(UnixSocket, sock).bind(address)
        steps.append(("bind", mode()))

    def listen(sock: UnixSocket, backlog: int) -> None:
        steps.append(("listen", mode()))
        super(UnixSocket, sock).listen(backlog)

    def chown(where: str, uid: int, gid: int, **how: bool) -> None:
        steps.append(("chown", where, uid, gid, how, mode()))

    monkeypatch.setattr(UnixSocket, "bind", bind)
    monkeypatch.setattr(UnixSocket, "listen", listen)
    monkeypatch.setattr(os, "chown", chown)
    umask = os.umask(0)
    try:
        with bind_unix(str(path), socket.SOCK_STREAM, 0o664, group="123") as sock:
            remove_if_ours(sock)
    finally:
        os.umask(umask)
    assert steps == [
        ("bind", 0o600),
        ("chown", str(path), -1, 123, {"follow_symlinks": False}, 0o600),
        ("listen", 0o664),
    ]


@needs_root
@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_stranger_s_lock_on_the_folder_is_not_waited_for(
    tmp_path: Path, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sipdump_core.net.unix_socket._LOCK_TIMEOUT", 60.0)
    path = str(open_to_all(tmp_path) / "s")
    start = time.monotonic()
    with stranger_locks(tmp_path, kind):
        sock = bind_unix(path, socket.SOCK_STREAM)
    assert time.monotonic() - start < 30
    remove_if_ours(sock)
    sock.close()
    assert os.listdir(tmp_path) == []
