"""Following a folder in which nothing is yet."""

from pathlib import Path

import pytest

from sipdump_core.drivers.query import Query
from sipdump_core.reading.shelves import open_shelves
from sipdump_core.reading.store import Store
from sipdump_core.reading.tail import Follower
from tests.core.reading.stores import fill, workshop
from tests.core.reading.traffic import at, call


@pytest.mark.parametrize("name", ["text", "pcap", "parquet"])
def test_the_first_segment_of_an_empty_folder_is_followed(tmp_path: Path, name: str) -> None:
    shelves, problems = open_shelves(folders=[str(tmp_path)])
    assert problems == []
    follower = Follower(Store(shelves), Query())
    assert list(follower.fresh()) == []
    records = call("first@a", at("10:00:00"))
    shop = workshop(tmp_path)
    backend = shop.backend(name, shop.site())
    fill(backend, records, records[0].time_us / 1e6, close=False)
    try:
        follower._next_look = 0.0
        found = [record.buf for _ in range(2) for record in follower.fresh()]
        assert found == [record.buf for record in records]
    finally:
        backend.close()
        backend.stop()
