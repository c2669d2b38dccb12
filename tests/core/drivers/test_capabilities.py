"""What a backend can do beyond writing, asked in one way."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.capabilities import (
    Ability,
    Compacts,
    Deletes,
    Lists,
    Merges,
    Opens,
    Reads,
    Recovered,
    Recovers,
    Rewrites,
    Ships,
    can,
)
from sipdump_core.drivers.folder import FolderBackend
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from sipdump_parquet import ParquetBackend
from sipdump_pcap import PcapBackend
from sipdump_s3 import S3Backend
from sipdump_text import TextBackend

ABILITIES: list[type[Ability]] = [Opens, Lists, Deletes, Reads, Rewrites, Merges, Ships, Recovers, Compacts]


class WritesOnly(Backend):
    name = "writes"


class Everything(Backend):
    """Has all methods of its own, the optional ones too."""

    name = "everything"

    def open(self, segment: Segment) -> None: ...
    def close(self) -> None: ...
    def segments(self) -> Iterable[StoredSegment]:
        return ()

    def delete(self, stored: StoredSegment) -> None: ...
    def read(self, stored: StoredSegment) -> Iterator[Record]:
        return iter(())

    def recover(self) -> Iterator[Recovered]:
        return iter(())


class Files(FolderBackend):
    name = "files"


class Decodes(Files):
    def decode(self, file: BinaryIO) -> Iterator[Record]:
        return iter(())


class MergesToo(Decodes):
    def merge(self, paths: Sequence[str], target: str) -> int:
        return 0


@pytest.mark.parametrize(
    ("cls", "abilities"),
    [
        (Backend, []),
        (WritesOnly, []),
        (Everything, [Opens, Lists, Deletes, Reads, Recovers]),
        (Files, [Opens, Lists, Deletes]),
        (Decodes, [Opens, Lists, Deletes, Reads, Rewrites]),
        (MergesToo, [Opens, Lists, Deletes, Reads, Rewrites, Merges]),
        (TextBackend, [Opens, Lists, Deletes, Reads, Rewrites]),
        (PcapBackend, [Opens, Lists, Deletes, Reads, Rewrites]),
        (ParquetBackend, [Opens, Lists, Deletes, Reads, Rewrites, Merges, Recovers, Compacts]),
        (S3Backend, [Opens, Lists, Deletes, Reads, Rewrites, Ships, Recovers, Compacts]),
    ],
)
def test_a_class_has_the_abilities_whose_methods_are_its_own(
    cls: type[Backend], abilities: list[type[Ability]]
) -> None:
    assert [ability for ability in ABILITIES if can(cls, ability)] == abilities
    assert cls.has_lifecycle() == (Lists in abilities)


@pytest.mark.parametrize("cls", [WritesOnly, Everything, Files, Decodes, MergesToo])
def test_an_instance_can_what_its_class_can(cls: type[Backend], tmp_path: Path) -> None:
    backend = cls(NoOptions(), Site(str(tmp_path), "p-"))
    assert [can(backend, ability) for ability in ABILITIES] == [can(cls, ability) for ability in ABILITIES]


def test_one_method_of_two_is_not_enough() -> None:
    class Half(Backend):
        def unshipped(self) -> int:
            return 0

    assert not can(Half, Ships)


def test_an_attribute_that_is_none_is_no_method() -> None:
    class Off(Everything):
        recover = None  # type: ignore[assignment]  # as an author may switch off what is inherited

    assert not can(Off, Recovers)
