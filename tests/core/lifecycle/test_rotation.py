"""Rotation: when a segment is full or stale."""

from sipdump_core.lifecycle.rotation import Rotation
from tests.support import record


def test_rotation_by_time() -> None:
    rotation = Rotation(7200)
    rotation.begin(50.0)
    assert rotation.deadline == 7250.0
    assert rotation.take([record()] * 1000) == 1000


def test_rotation_by_records_is_exact() -> None:
    rotation = Rotation(7200, records=5)
    assert [rotation.take([record()] * 3) for _ in range(3)] == [3, 2, 0]
    rotation.begin(0)
    assert rotation.take([record()] * 9) == 5


def test_rotation_by_size_counts_the_largest_file_and_never_refuses_the_first_record() -> None:
    rotation = Rotation(7200, size=100, sizes=[lambda r: len(r.buf), lambda r: 2 * len(r.buf)])
    assert rotation.take([record(b"x" * 20)] * 9) == 2  # 2 * 20 * 2 = 80, a third would make 120
    assert rotation.take([record(b"x" * 20)]) == 0
    rotation.begin(0)
    assert rotation.take([record(b"x" * 999), record(b"x")]) == 1
    rotation.begin(0)
    assert rotation.take([record(b"x" * 50), record(b"x")]) == 1


def test_rotation_by_size_counts_what_a_file_begins_with() -> None:
    rotation = Rotation(7200, size=100, sizes=[lambda r: len(r.buf)], preambles=[24])
    rotation.begin(0)
    assert rotation.take([record(b"x" * 20)] * 9) == 3
