"""Whose files may be believed, sealed and deleted, in folders where strangers can write (the default is /tmp)."""

import os
import stat

from sipdump_core.errors import StorageError

__all__ = ["is_ours", "is_trusted", "owners", "require_private"]


def owners(folder: str) -> frozenset[int]:
    """Return the users whose files in a folder are trusted: this one, root, and the owner of the folder.

    So root may look after the folder of another user, and not after what strangers put into /tmp.

    Raises:
        OSError: the folder cannot be looked at.
    """
    return frozenset((0, os.geteuid(), os.stat(folder).st_uid))


def is_trusted(uid: int, folder: str) -> bool:
    """Return whether a user is one of the :func:`owners` of a folder, which is looked at only if that decides.

    Raises:
        OSError: the folder cannot be looked at.
    """
    return uid in (0, os.geteuid()) or uid in owners(folder)


def is_ours(path: str) -> bool:
    """Return whether there is a regular file of a trusted user; links are not followed."""
    try:
        status = os.lstat(path)
        return stat.S_ISREG(status.st_mode) and is_trusted(status.st_uid, os.path.dirname(path) or ".")
    except OSError:
        return False


def require_private(folder: str) -> None:
    """Refuse a folder into which others could put files.

    Raises:
        StorageError: it, or the link to it, belongs to another user than this one or root; or it is writable for its
            group or for others.
        OSError: it cannot be looked at.
    """
    why = "others could put segments there"
    found = os.stat(folder)
    for status in (os.lstat(folder), found):
        if status.st_uid not in (0, os.geteuid()):
            hint = f"it belongs to another user ({status.st_uid}): chown it to the daemon's user"
            raise StorageError("open spool", folder, why, hint)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(
            "open spool", folder, why, f"nobody but the daemon's user may write there: chmod go-w {folder}"
        )
