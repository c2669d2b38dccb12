"""A segment is followed while it grows, and over its sealing; a merged one names what it was made of."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sipdump_core.drivers.capabilities import Dates, DescribesFiles, Follows, Searches, SearchesFiles, Unites, can
from sipdump_core.errors import StorageError
from sipdump_core.record import Record
from sipdump_core.segment import StoredSegment
from sipdump_parquet import ParquetBackend
from tests.backends.parquet.support import SEGMENT, calls, make, write

RECORDS = calls(30)


def the_segment(backend: ParquetBackend) -> StoredSegment:
    (stored,) = backend.segments()
    return stored


@pytest.fixture
def backend(tmp_path: Path) -> ParquetBackend:
    made = make(tmp_path)
    made.start()
    made.open(SEGMENT)
    return made


def test_it_has_the_abilities() -> None:
    assert all(can(ParquetBackend, each) for each in (Dates, DescribesFiles, Follows, Searches, SearchesFiles, Unites))


def test_nothing_is_missed_or_comes_twice_while_it_grows_and_is_sealed(backend: ParquetBackend) -> None:
    found: list[Record] = []
    place = 0
    reader = make(Path(backend.site.folder))
    for first in range(0, len(RECORDS), 7):
        if first == 105:
            backend.flush()
        backend.write(RECORDS[first : first + 7])
        records, place = reader.follow(the_segment(reader), place)
        found += records
    assert found == RECORDS
    assert reader.follow(the_segment(reader), place) == ([], len(RECORDS))
    open_as = the_segment(reader)
    backend.close()
    backend.stop()
    assert the_segment(reader).sealed
    assert reader.follow(open_as, place) == ([], len(RECORDS))  # as it was listed before
    records, place = reader.follow(open_as, 40)
    assert (list(records), place) == (RECORDS[40:], len(RECORDS))


def test_the_end_is_a_place(backend: ParquetBackend) -> None:
    backend.write(RECORDS[:10])
    records, place = backend.follow(the_segment(backend), -1)
    assert (list(records), place) == ([], 10)
    backend.write(RECORDS[10:])
    records, place = backend.follow(the_segment(backend), place)
    assert list(records) == RECORDS[10:]
    backend.close()
    backend.stop()
    assert backend.follow(the_segment(backend), -1) == ((), len(RECORDS))


def test_a_place_within_a_frame(backend: ParquetBackend) -> None:
    backend.write(RECORDS[:50])
    records, place = backend.follow(the_segment(backend), 20)
    assert (list(records), place) == (RECORDS[20:50], 50)
    backend.close()
    backend.stop()


def test_a_torn_end_is_read_when_it_is_whole(backend: ParquetBackend) -> None:
    backend.write(RECORDS[:10])
    wal = Path(backend.site.folder, "t-2026-11-22--23-31-00.parquet.wal")
    size = wal.stat().st_size
    backend.write(RECORDS[10:])
    whole = wal.read_bytes()
    for cut in (size, size + 1, size + 30, len(whole) - 1):
        wal.write_bytes(whole[:cut])
        records, place = backend.follow(the_segment(backend), 10)
        assert (list(records), place) == ([], 10)
    wal.write_bytes(whole)
    assert list(backend.follow(the_segment(backend), 10)[0]) == RECORDS[10:]
    backend.close()
    backend.stop()


def test_only_what_is_new_is_read(backend: ParquetBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.write(RECORDS[:100])
    _, place = backend.follow(the_segment(backend), 0)
    backend.write(RECORDS[100:])
    starts = []
    scan = ParquetBackend.follow.__globals__["wal"].scan

    def spy(file: object, start: int = 0, wanted: object = None) -> object:
        starts.append(start)
        return scan(file, start, wanted)

    monkeypatch.setattr("sipdump_parquet.wal.scan", spy)
    backend.follow(the_segment(backend), place)
    assert starts[0] > 1000
    backend.close()
    backend.stop()


def test_many_records_come_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipdump_parquet.backend._FOLLOWED", 50)
    write(tmp_path, RECORDS)
    reader = make(tmp_path)
    found: list[Record] = []
    place = 0
    while True:
        records, place = reader.follow(the_segment(reader), place)
        if not records:
            break
        assert len(records) <= 50
        found += records
    assert found == RECORDS


def test_what_is_gone_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    reader = make(tmp_path)
    stored = the_segment(reader)
    reader.delete(stored)
    with pytest.raises(StorageError) as caught:
        reader.follow(stored, 0)
    assert caught.value.of_absence


def test_a_result_of_results_names_the_first_segments(tmp_path: Path) -> None:
    names = []
    for number in range(4):
        segment = SEGMENT.__class__(SEGMENT.prefix, SEGMENT.stamp, 10 * number, SEGMENT.suffix)
        write(tmp_path, RECORDS[:10], segment=segment)
        names.append(segment)
        backend = make(tmp_path)
        list(backend.compact(min_age=0))
        stored = the_segment(backend)
        assert list(backend.united(stored)) == (names if number else [])


def test_a_result_of_an_older_version_names_what_it_was_made_of(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path, RECORDS[:10], segment=SEGMENT if not number else SEGMENT.next())
    backend = make(tmp_path)
    list(backend.compact(min_age=0))
    stored = the_segment(backend)
    table = pq.read_table(stored.location)
    merged = json.dumps([{"name": SEGMENT.name, "sha256": "0" * 64}])
    pq.write_table(table.replace_schema_metadata({"sipdump.merged": merged}), stored.location)
    assert list(make(tmp_path).united(stored)) == [SEGMENT]


def test_the_newest_record_is_known_of_a_sealed_segment(tmp_path: Path, backend: ParquetBackend) -> None:
    backend.write(RECORDS)
    assert backend.newest(the_segment(backend)) is None
    backend.close()
    backend.stop()
    assert backend.newest(the_segment(backend)) == max(record.time_us for record in RECORDS)
    pq.write_table(pq.read_table(tmp_path / SEGMENT.name), tmp_path / SEGMENT.name, write_statistics=False)
    assert backend.newest(the_segment(backend)) is None
