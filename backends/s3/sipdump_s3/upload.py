"""Putting one file into the bucket, whole and confirmed, once, whatever went wrong before.

The key is looked at first. An object with this content there is this upload's own, from before a crash or a lost
answer. One with different content is left alone, and the segment gets the next sequence number. An upload counts
when HEAD shows its size, its hash and the sums that the server computed.

An upload in parts notes its id in ``<file>.upload``, so that it continues where it was after a restart. The note is
only a help: without it the upload starts over, and its remains are aborted.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import BinaryIO

from sipdump_core.errors import SegmentExistsError, StorageError
from sipdump_core.log import Event, log
from sipdump_s3.bucket import Bucket
from sipdump_s3.content import Content
from sipdump_s3.errors import S3Error
from sipdump_s3.keys import Keys
from sipdump_s3.options import S3Options

__all__ = ["NOTE_SUFFIX", "Uploader", "read_note"]

NOTE_SUFFIX = ".upload"
_LOOKS = 3  # how often to look at a key that others take and leave meanwhile
_KEYS = 1000  # how many keys to try: a server that says yes to everything must not be asked for ever


class Uploader:
    """Uploads files.

    Args:
        bucket: where to.
        keys: under which keys.
        options: the backend's options.
        go_on: called between two parts; False leaves the rest for later.
        progress: called with the number of bytes done since its last call.
    """

    def __init__(
        self,
        bucket: Bucket,
        keys: Keys,
        options: S3Options,
        go_on: Callable[[], bool] = lambda: True,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.conflicts = 0
        self._bucket = bucket
        self._keys = keys
        self._opts = options
        self._go_on = go_on
        self._progress = progress

    def send(self, file: BinaryIO, key: str, metadata: Mapping[str, str]) -> str:
        """Put a file into the bucket.

        Args:
            file: open for reading, sealed, with a name.
            key: where it goes; if it is taken, the next free one.
            metadata: kept with the object; ASCII, 1 KB in all.

        Returns:
            The key.

        Raises:
            S3Error: the server refuses or does not answer.
            OSError: the file cannot be read.
        """
        content = Content.of(file, self._opts.part_bytes, self._opts.checksum)
        looks, first = 0, key
        while True:
            found = self._bucket.head(key)
            if found is None:
                looks += 1
                if looks > _LOOKS:
                    raise S3Error(
                        "upload", self._bucket.address(key), "it is stored, but cannot be found", state="refused"
                    )
                with contextlib.suppress(SegmentExistsError):  # another one was faster, or an answer of ours got lost
                    self._store(file, key, content, metadata)
            elif not found.claims(content):
                self.conflicts += 1
                if self.conflicts >= _KEYS:
                    reason = f"it is taken by different content, as are the {self.conflicts - 1} keys after it"
                    raise S3Error("upload", self._bucket.address(first), reason, state="refused")
                key = self._keys.next(key)
            elif found.holds(content):
                if key != first:
                    taken, address = self._bucket.address(first), self._bucket.address(key)
                    log.warning(Event("key is taken by different content", key=taken, instead=address))
                _remove_note(file)
                return key
            else:
                self._discard(key)

    def _discard(self, key: str) -> None:
        """Delete an object that claims to be this content, and is not."""
        for _, error in self._bucket.delete([key]):
            if error:
                raise error
        reason = "the object does not hold what was sent; it is deleted, and uploaded again"
        hint = 'look at the network and the server; or set checksum to "none" where the server\'s ETags are no MD5 sums'
        raise S3Error("verify", self._bucket.address(key), reason, hint, "checksum mismatch")

    def _store(self, file: BinaryIO, key: str, content: Content, metadata: Mapping[str, str]) -> None:
        if len(content.parts) > 1:
            self._store_parts(file, key, content, metadata)
            return
        file.seek(0)
        self._bucket.put(key, file.read(), content, metadata)
        self._progress(content.size)

    def _store_parts(self, file: BinaryIO, key: str, content: Content, metadata: Mapping[str, str]) -> None:
        upload = _noted(file, key, content)
        there = self._bucket.parts(key, upload) if upload else None
        if there is None:
            there = {}
            upload = self._bucket.begin(key, content, metadata)
            _write_note(file, key, content, upload)
        checksum = self._bucket.checksum
        etags = []
        for number, part in enumerate(content.parts, 1):
            if not self._go_on():
                raise S3Error("upload", self._bucket.address(key), "interrupted; it continues later", state="stopped")
            stored = there.get(number)
            if stored is None or not self._bucket.is_whole(part, stored):
                file.seek(part.offset)
                etags.append(self._bucket.put_part(key, upload, number, file.read(part.length), part))
            else:
                etags.append(stored[1])
            if self._bucket.checksum != checksum:  # the server turned out not to know what the upload began with
                self._give_up(file, key, upload)
                self._store_parts(file, key, content, metadata)
                return
            self._progress(part.length)
        try:
            self._bucket.complete(key, upload, etags, content)
        except S3Error as error:
            if error.code in ("NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall"):
                self._give_up(file, key, upload)
            raise
        except SegmentExistsError:
            self._give_up(file, key, upload)
            raise

    def _give_up(self, file: BinaryIO, key: str, upload: str) -> None:
        _remove_note(file)
        with contextlib.suppress(StorageError):  # the next start aborts the rest
            self._bucket.abort(key, upload)


def read_note(path: str) -> tuple[str, str]:
    """Return key and id of the upload in a note; empty texts where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            note = json.load(file)
        return str(note["key"]), str(note["upload"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def _identity(key: str, content: Content) -> dict[str, str | int]:
    return {"key": key, "sha256": content.sha256, "part": content.parts[0].length, "checksum": content.checksum}


def _noted(file: BinaryIO, key: str, content: Content) -> str:
    """Return the id of the upload begun for this very content, key and layout; an empty text where there is none."""
    with contextlib.suppress(OSError, ValueError):
        with open(file.name + NOTE_SUFFIX, encoding="utf-8") as note:
            read = json.load(note)
        if isinstance(read, dict) and _identity(key, content).items() <= read.items():
            return str(read.get("upload", ""))
    return ""


def _write_note(file: BinaryIO, key: str, content: Content, upload: str) -> None:
    path = file.name + NOTE_SUFFIX
    with contextlib.suppress(OSError):  # on a full disk; see the module's docstring
        with open(path + "~", "w", encoding="utf-8") as note:
            json.dump({**_identity(key, content), "upload": upload}, note)
        os.replace(path + "~", path)


def _remove_note(file: BinaryIO) -> None:
    for end in (NOTE_SUFFIX, NOTE_SUFFIX + "~"):
        with contextlib.suppress(OSError):
            os.unlink(file.name + end)
