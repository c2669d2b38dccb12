"""What a backend of files promises: about modes and links, and about files that are torn, damaged or forged."""

import contextlib
import os
import random
import stat
import tempfile
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers.base import Backend, Site
from sipdump_core.errors import SipDumpError
from sipdump_core.testing.kit import Kit, tree
from sipdump_core.testing.promise import does_not_apply, promise
from sipdump_core.testing.samples import numbered, record, with_body

__all__ = ["FileChecks"]


class FileChecks(Kit):
    """The checks of files; most ask nothing of other backends."""

    # ---- what is read ----

    @promise
    def test_a_torn_tail_costs_the_tail_only(self, backend: Backend) -> None:
        """Reading a truncated file yields the records at its beginning unchanged, or raises StorageError."""
        stored = self.store(backend, numbered(20))
        if not os.path.isfile(stored.location):
            does_not_apply("the location is not a file that could be cut")
        self.same(backend, numbered(20), self.read(backend, stored))
        content = Path(stored.location).read_bytes()
        for cut in (1, 2, 20, len(content) // 2, len(content) - 5, len(content) - 1, len(content)):
            os.truncate(stored.location, len(content) - cut)
            try:
                found = self.read(backend, stored)
            except SipDumpError:
                continue
            finally:
                Path(stored.location).write_bytes(content)
            self.same(backend, numbered(20)[: len(found)], found)
            assert len(found) < 20, f"{cut} bytes were cut off, and 20 records are read"

    @promise
    def test_damage_is_an_error_of_sipdump(self, backend: Backend) -> None:
        """Reading a file with arbitrary content yields records, or raises an error of sipdump_core."""
        stored = self.store(backend, numbered(5))
        if not os.path.isfile(stored.location):
            does_not_apply("the location is not a file that could be damaged")
        self.same(backend, numbered(5), self.read(backend, stored))
        content = Path(stored.location).read_bytes()
        chance = random.Random(7)  # noqa: S311 - the same damage in each run
        damaged = [
            chance.randbytes(1000),
            bytes(1000),
            b"\xff" * 1000,
            content[50:],
            content + content[: len(content) // 2],
        ]
        damaged += [
            content[:at] + bytes([content[at] ^ chance.randrange(1, 256)]) + content[at + 1 :]
            for at in [*range(min(64, len(content))), *(chance.randrange(len(content)) for _ in range(100))]
        ]
        for data in damaged:
            Path(stored.location).write_bytes(data)
            self.raises_storage_error(lambda: self.read(backend, stored))

    @promise
    def test_a_segment_inside_a_message_is_a_message(self, backend: Backend) -> None:
        """A message may contain the backend's own file format; it stays one message."""
        stored = self.store(backend, [record(), record(b"x")])
        if not os.path.isfile(stored.location):
            does_not_apply("the location is not a file whose content could be sent")
        forged = Path(stored.location).read_bytes()
        batch = [
            record(with_body(part))
            for part in (forged, forged * 2, forged[1:], forged[:-1], forged[len(forged) // 2 :])
        ]
        for second, records in enumerate(([*batch, record(b"last")], batch), 1):
            again = self.store(backend, records, second=second)
            self.same(backend, records, self.read(backend, again))

    # ---- what is written ----

    @promise
    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
    def test_files_have_the_mode_that_was_asked_for(self, site: Site, mode: int) -> None:
        """A segment's file has the permission bits of file_mode, whatever the umask; no file beside it has more."""
        before = os.umask(0o027 if mode == 0o664 else 0)
        try:
            with self.started(attrs.evolve(site, file_mode=mode)) as backend:
                stored = self.store(backend, [record()])
        finally:
            os.umask(before)
        if not os.path.isfile(stored.location):
            does_not_apply("the location is not a file")
        found = stat.S_IMODE(os.stat(stored.location).st_mode)
        assert found == mode, f"file_mode is {mode:o}, the file's mode {found:o}"
        for name, (kind, _) in tree(Path(site.folder)).items():
            if stat.S_ISREG(kind):
                assert not stat.S_IMODE(kind) & ~mode, (
                    f"file_mode is {mode:o}, the mode of {name} {stat.S_IMODE(kind):o}"
                )

    @promise
    def test_links_are_not_followed(self, backend: Backend, tmp_path: Path) -> None:
        """Nothing is written through a link at a segment's name: it may lead anywhere."""
        self.needs_segments(backend)
        target, kept = tmp_path / "target", tmp_path / "kept"
        kept.write_bytes(b"somebody's")
        for second, leads_to in enumerate((target, kept)):
            (Path(backend.site.folder) / self.segment(backend, second).name).symlink_to(leads_to)
            with contextlib.suppress(SipDumpError):
                self.write(backend, [record(b"link")], second=second)
            with contextlib.suppress(SipDumpError):
                backend.close()
        self.write(backend, [record()], second=5)
        self.settle(backend)
        assert not target.exists(), "a file was made through a link"
        assert kept.read_bytes() == b"somebody's", "a file was written through a link"

    @promise
    def test_nothing_is_written_elsewhere(
        self, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is written outside the site's folder, whatever tags and messages contain."""
        (tmp_path / "cwd").mkdir()
        monkeypatch.chdir(tmp_path / "cwd")
        monkeypatch.setenv("HOME", str(tmp_path / "cwd"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cwd"))
        hostile = ["../../escaped", "../escaped", "escaped/x", str(tmp_path / "escaped"), "|touch escaped", ".", ".."]
        self.write(backend, [record(text.encode(), tag=text, node=text) for text in hostile])
        self.settle(backend)
        self.received(backend)
        backend.stop()
        backend.start()
        left = sorted(path.name for path in [*tmp_path.iterdir(), *(tmp_path / "cwd").iterdir()])
        assert left == ["cwd", "store"], f"outside the folder there are now {left}"
