"""What is taken for the same object, and what for another one."""

import hashlib
import io

import attrs
import pytest

from sipdump_s3.content import HASH, Content, Found

DATA = b"0123456789" * 3
PARTS = {"one": 100, "three": 10}


def content(checksum: str = "sha256", part_bytes: int = 100) -> Content:
    return Content.of(io.BytesIO(DATA), part_bytes, checksum)


def object_of(made: Content) -> Found:
    return Found(made.size, made.etag, made.composite, {HASH: made.sha256})


@pytest.mark.parametrize("part_bytes", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("checksum", ["sha256", "crc32", "md5"])
def test_one_sum_that_differs_is_enough(checksum: str, part_bytes: int) -> None:
    made = content(checksum, part_bytes)
    found = object_of(made)
    assert found.holds(made)
    other = Content.of(io.BytesIO(DATA[:-1] + b"x"), part_bytes, checksum)
    assert not attrs.evolve(found, etag=other.etag).holds(made)
    assert not attrs.evolve(found, checksum=other.composite).holds(made)
    assert not attrs.evolve(found, size=29).holds(made)
    for etag, sum_ in (("", found.checksum), (found.etag, ""), ("", "")):
        assert attrs.evolve(found, etag=etag, checksum=sum_).holds(made), "what is absent says nothing"


def test_sums_of_an_upload_in_other_parts_are_not_compared() -> None:
    assert attrs.evolve(object_of(content(part_bytes=10)), size=30).holds(content())
    assert object_of(content()).holds(content(part_bytes=10))


def test_without_checksums_the_size_must_do() -> None:
    made = content("none")
    assert attrs.evolve(object_of(made), etag="0" * 32).holds(made)
    assert not attrs.evolve(object_of(made), size=31).holds(made)


def test_an_object_is_of_the_content_that_its_metadata_name() -> None:
    made = content()
    assert attrs.evolve(object_of(made), size=1, etag="x").claims(made), "a part of it: what is to be repaired"
    assert not attrs.evolve(object_of(made), metadata={HASH: "0" * 64}).claims(made)
    bare = attrs.evolve(object_of(made), metadata={})
    assert bare.claims(made)
    assert not attrs.evolve(bare, etag="x").claims(made)
    assert not attrs.evolve(bare, size=31).claims(made)


def test_there_are_no_more_parts_than_s3_takes() -> None:
    data = bytes(20_001)
    made = Content.of(io.BytesIO(data), 1, "none")
    assert len(made.parts) == 6667
    assert sum(part.length for part in made.parts) == len(data)
    assert made.sha256 == hashlib.sha256(data).hexdigest()


def test_a_file_that_gets_shorter_while_it_is_read_is_an_error() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            self.truncate(20)
            return super().read(size)

    with pytest.raises(OSError, match="shorter than its 30 bytes"):
        Content.of(Shrinking(DATA), 100, "md5")
