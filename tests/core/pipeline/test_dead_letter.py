"""Dead letters: listed, read, found and pruned like other segments."""

import json
import os
from pathlib import Path

import pytest

from sipdump_core.admin.command import main as admin
from sipdump_core.drivers.base import NoOptions, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.query import Query
from sipdump_core.errors import StorageFullError
from sipdump_core.pipeline.dead_letter import DeadLetter, DeadLetters
from sipdump_core.reading.command import main as read
from sipdump_core.reading.store import Store
from sipdump_core.segment import Segment
from sipdump_text import TextBackend
from tests.core.support import files
from tests.support import record

PREFIX = "kamailio-sipdump-"
SEGMENT = Segment(PREFIX, "2026-11-22--22-27-11")


def letter(folder: Path, backend: str = "db", limit: int = 1 << 20, *, recall: bool = False) -> DeadLetter:
    return DeadLetter(Site(str(folder), PREFIX), backend, limit, recall=recall)


def message(call_id: str) -> bytes:
    return b"OPTIONS sip:bob@example.com SIP/2.0\r\nCall-ID: %b\r\n\r\n" % call_id.encode()


def kept(folder: Path) -> list[bytes]:
    letters = DeadLetters(Site(str(folder), PREFIX))
    return [one.buf for stored in letters.segments() for one in letters.read(stored)]


def test_two_backends_share_a_name(tmp_path: Path) -> None:
    one, two = letter(tmp_path, "one"), letter(tmp_path, "two")
    assert one.put(SEGMENT, Batch([record(b"1")]), "too long") == 1
    assert two.put(SEGMENT, Batch([record(b"2")]), "too long") == 1
    assert one.put(SEGMENT, Batch([record(b"3")]), "too long") == 1
    one.close()
    two.close()
    assert [path.name for path in files(tmp_path, ".dead")] == [f"{SEGMENT.stem}.dead", f"{SEGMENT.stem}-1.dead"]
    assert kept(tmp_path) == [b"1", b"3", b"2"]


def test_all_of_them_are_bounded_together(tmp_path: Path) -> None:
    one, two = letter(tmp_path, "one", 2000), letter(tmp_path, "two", 2000)
    assert one.put(SEGMENT, Batch([record(b"x" * 1000)]), "too long") == 1
    with pytest.raises(StorageFullError, match="dead_max_bytes"):
        two.put(SEGMENT, Batch([record(b"y" * 1000)]), "too long")
    assert kept(tmp_path) == [b"x" * 1000]


@pytest.mark.parametrize("cut", [1, 40, 100])
def test_what_a_crash_cut_off_is_not_taken_for_kept(tmp_path: Path, cut: int) -> None:
    batch = Batch([record(b"%d" % n) for n in range(4)], "batch")
    first = letter(tmp_path)
    first.put(SEGMENT, batch.part([0]), "too long")
    first.put(SEGMENT, batch.part([2]), "too long")
    first.close()
    (path,) = files(tmp_path, ".dead")
    os.truncate(path, path.stat().st_size - cut)
    again = letter(tmp_path, recall=True)
    assert again.put(SEGMENT, batch.part([0, 2]), "too long") == 1
    assert again.put(SEGMENT, batch.part([0, 2]), "too long") == 0
    again.close()
    assert kept(tmp_path) == [b"0", b"2"]


def test_what_another_backend_refused_is_refused_by_this_one_too(tmp_path: Path) -> None:
    batch = Batch([record(b"1")], "batch")
    letter(tmp_path, "one").put(SEGMENT, batch, "too long")
    assert letter(tmp_path, "two", recall=True).put(SEGMENT, batch, "too long") == 1


def test_it_is_listed_counted_found_and_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = letter(tmp_path)
    dead.put(SEGMENT, Batch([record(message(f"call-{n}")) for n in range(3)]), "too long")
    dead.close()
    (path,) = files(tmp_path, ".dead")
    assert admin(["list", "--folder", str(tmp_path), "--count", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["backend"], row["records"], row["state"], row["name"]) == ("dead", 3, "sealed", path.name)
    for where in (["--folder", str(tmp_path)], ["--file", str(path)]):
        assert read(["show", "call-1", *where]) == 0
        assert "OPTIONS" in capsys.readouterr().out
    os.utime(path, (1, 1))
    assert admin(["prune", "--folder", str(tmp_path), "--fage", "60", "--json"]) == 0
    pruned = {each["backend"]: each["segments"] for each in json.loads(capsys.readouterr().out)["backends"]}
    assert pruned["dead"] == 1
    assert not path.exists()


def test_a_record_that_another_backend_has_comes_once(tmp_path: Path) -> None:
    text = TextBackend(NoOptions(), Site(str(tmp_path), PREFIX))
    text.open(Segment(PREFIX, SEGMENT.stamp, 0, ".data"))
    text.write([record(message("both"), time_us=1), record(message("stored"), time_us=2)])
    text.close()
    for backend in ("one", "two"):  # both refuse these
        dead = letter(tmp_path, backend)
        dead.put(SEGMENT, Batch([record(message("both"), time_us=1), record(message("refused"), time_us=3)]), "no")
        dead.close()
    found = list(Store.open(folders=tmp_path).records(Query()))
    assert sorted(one.call_id or "" for one in found) == ["both", "refused", "stored"]
    assert [one.call_id for one in Store.open(folders=tmp_path).records(Query(call_ids="refused"))] == ["refused"]
