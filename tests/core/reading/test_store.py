"""The store: several backends as one, calls over the borders of segments, and what cannot be read."""

import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers.base import Backend, NoOptions, Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.query import Query
from sipdump_core.reading import shelves
from sipdump_core.reading.command import main
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import BackendShelf
from sipdump_core.reading.store import Interrupted, Store
from sipdump_core.record import Record
from sipdump_core.segment import Segment, StoredSegment
from tests.core.reading.run import found, run
from tests.core.reading.stores import fill, workshop
from tests.core.reading.traffic import at, call, store

NOBODY = 65534


def asked(store_: Store, **query: object) -> tuple[list[str], Searched]:
    searched = Searched()
    calls = [one.summary.call_id for one in store_.find(Query(**query), searched)]  # type: ignore[arg-type]  # a test's
    return calls, searched


@pytest.mark.parametrize("name", ["text", "pcap", "parquet"])
def test_a_call_over_the_border_of_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The INVITE is at the end of an hour, the BYE at the begin of the next one."""
    store(tmp_path, call("over@a", at("10:59:50"), seconds=20), call("x@a", at("10:00:00")), backends=(name,))
    assert len(list(tmp_path.glob(f"*.{'data' if name == 'text' else name}"))) == 2
    for span in (("10:00Z", "11:00Z"), ("11:00Z", "12:00Z"), ("11:00:10Z", "11:00:13Z")):
        _, out, _ = run(
            capsys, "find", "--folder", tmp_path, "--call-id", "over@a", "--since", f"2026-11-22T{span[0]}",
            "--until", f"2026-11-22T{span[1]}", "--jsonl",
        )  # fmt: skip
        assert '"state": "ended"' in out
        assert '"messages": 6' in out
        assert '"duration": 20.0' in out
    assert found(capsys, "--folder", tmp_path, "--since", "2026-11-22T11:00:13Z") == []
    assert found(capsys, "--folder", tmp_path, "--until", "2026-11-22T10:59:50Z") == ["x@a"]


def test_how_far_around_the_span_the_rest_of_a_call_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, call("long@a", at("10:00:00"), seconds=3000))
    span = ("--since", "2026-11-22T10:50Z", "--until", "2026-11-22T10:51Z")

    def messages(*more: str) -> str:
        _, out, _ = run(capsys, "find", "--folder", tmp_path, *span, "--jsonl", *more)
        return out.partition('"messages": ')[2].partition(",")[0]

    assert messages() == "2"  # the BYE and its answer
    assert messages("--around", "1h") == "6"
    assert messages("--around", "0") == "2"


def test_a_segment_of_several_backends_is_read_once(tmp_path: Path) -> None:
    store(tmp_path, call("one@a"), call("two@a", at("12:00:00")), backends=("text", "pcap", "parquet"))
    opened = Store.open(folders=[str(tmp_path)])
    records = list(opened.records(Query()))
    assert len(records) == 12
    assert opened.searched.backends == {"parquet"}
    for path in tmp_path.glob("*.parquet"):
        path.unlink()
    opened = Store.open(folders=[str(tmp_path)])
    assert len(list(opened.records(Query()))) == 12
    assert opened.searched.backends == {"pcap"}  # not text: a message can forge a record there


def test_what_one_backend_has_pruned_comes_from_another(tmp_path: Path) -> None:
    store(tmp_path, call("one@a"), call("two@a", at("12:00:00")), backends=("text", "parquet"))
    min(tmp_path.glob("*.parquet")).unlink()
    calls, searched = asked(Store.open(folders=[str(tmp_path)]))
    assert calls == ["one@a", "two@a"]
    assert searched.backends == {"text", "parquet"}


def test_two_prefixes_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, call("one@a"), backends=("text",))
    shop = workshop(tmp_path, fprefix="other-")
    fill(shop.backend("text", shop.site()), call("two@a"), at("10:32:00") / 1e6)
    assert found(capsys, "--folder", tmp_path) == ["one@a", "two@a"]
    assert found(capsys, "--folder", tmp_path, "--fprefix", "other-") == ["two@a"]


def test_names_that_are_the_same_in_two_folders_are_two_segments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two collectors that rotate at the full hour."""
    folders = [tmp_path / "fra", tmp_path / "ams"]
    files: list[Path] = []
    for folder in folders:
        folder.mkdir()
        store(folder, call(f"{folder.name}@a"), backends=("text", "pcap"))
        files += folder.glob("*.data")
    assert len({path.name for path in files}) == 1
    assert found(capsys, "--folder", folders[0], "--folder", folders[1]) == ["ams@a", "fra@a"]
    assert found(capsys, "--file", files[0], "--file", files[1]) == ["ams@a", "fra@a"]


def test_what_is_named_twice_is_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, call("one@a"), backends=("text", "pcap"))
    files = [("--file", path) for path in tmp_path.iterdir() if path.suffix != ".meta"]
    config = tmp_path / "x.cfg"
    config.write_text(f'modparam("sipdump", "folder", "{tmp_path}")\nmodparam("sipdump", "mode", 5)\n')
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path)
    for again in (("--folder", tmp_path), ("--folder", link), ("-f", config), *files):
        _, out, _ = run(capsys, "find", "--folder", tmp_path, *again, "--jsonl")
        assert '"messages": 6, "retransmissions": 0' in out


def test_files_of_one_second_are_all_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure made the backend go on in another file of the same second."""
    shop = workshop(tmp_path)
    for number in range(3):
        backend = shop.backend("text", shop.site())
        segment = Segment.starting(backend.site.prefix, at("10:00:00") / 1e6)
        backend.open(attrs.evolve(segment, suffix=backend.suffix, sequence=number))
        backend.write(Batch(call(f"{number}@a")))
        backend.close()
    files = [part for path in tmp_path.glob("*.data") for part in ("--file", path)]
    assert found(capsys, *files) == found(capsys, "--folder", tmp_path) == ["0@a", "1@a", "2@a"]


def test_names_of_another_zone_exclude_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name has the local time of the collector; who reads may be anywhere."""
    for number, zone in enumerate(("Pacific/Kiritimati", "UTC", "Etc/GMT+12")):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        store(tmp_path, call(f"{number}@a"), backends=("text",))
    days = {path.name[17:27] for path in tmp_path.glob("*.data")}
    assert len(days) == 3
    for path in tmp_path.iterdir():
        os.utime(path, (at("11:00:00") / 1e6,) * 2)
    for zone in ("Etc/GMT+12", "UTC", "Pacific/Kiritimati"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        span = ("--since", "2026-11-22T10:30Z", "--until", "2026-11-22T10:33Z")
        assert found(capsys, "--folder", tmp_path, *span) == ["0@a", "1@a", "2@a"]


def test_a_sealed_and_an_open_segment_are_one_store(tmp_path: Path) -> None:
    store(tmp_path, call("one@a", seconds=4000)[:4])
    shop = workshop(tmp_path)
    backend = shop.backend("parquet", shop.site())
    fill(backend, call("one@a", seconds=4000)[4:], at("11:38:42") / 1e6, close=False)
    try:
        (one,) = Store.open(folders=[str(tmp_path)]).find(Query())
        assert (one.summary.state, one.summary.messages) == ("ended", 6)
    finally:
        backend.close()
        backend.stop()


def test_the_age_of_a_call_counts_to_the_newest_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ringing = call("ringing@a", at("10:00:00"))[:2]
    store(tmp_path, ringing, call("last@a", at("10:02:30"), seconds=1), backends=("text",))
    assert found(capsys, "--folder", tmp_path, "--state", "ringing") == ["ringing@a"]
    assert found(capsys, "--folder", tmp_path, "--call-id", "ringing@a", "--state", "ringing") == ["ringing@a"]
    store(tmp_path, call("later@a", at("12:00:00")), backends=("text",))
    assert found(capsys, "--folder", tmp_path, "--state", "ringing") == []
    assert found(capsys, "--folder", tmp_path, "--call-id", "ringing@a", "--state", "timed-out") == ["ringing@a"]


def behead(path: Path) -> None:
    path.write_bytes(path.read_bytes()[50:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(5000))


@pytest.mark.parametrize("harm", [behead, empty, noise])
@pytest.mark.parametrize("name", ["text", "pcap", "parquet"])
def test_a_damaged_segment_is_named_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, harm: Callable[[Path], None]
) -> None:
    store(tmp_path, call("bad@a"), call("good@a", at("12:00:00")), backends=(name,))
    path = min(path for path in tmp_path.iterdir() if path.suffix != ".meta")
    harm(path)
    code, out, err = run(capsys, "find", "--folder", tmp_path, "--jsonl")
    assert code == 0
    assert '"good@a"' in out
    if harm is not empty or name == "parquet":
        assert path.name in err
    assert "Traceback" not in err


def test_a_damaged_segment_is_read_from_another_backend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, call("one@a"), backends=("text", "parquet"))
    (path,) = tmp_path.glob("*.parquet")
    noise(path)
    code, out, err = run(capsys, "find", "--folder", tmp_path, "--jsonl")
    assert code == 0
    assert '"messages": 6' in out
    assert f"{path}" in err
    assert "read from text instead" in err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("what", ["segment", "folder"])
def test_permission_denied(what: str) -> None:
    """In a child process, which gives up root."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        shown, hidden = place / "shown", place / "hidden"
        for folder in (shown, hidden):
            folder.mkdir(mode=0o755)
            store(folder, call(f"{folder.name}@a"))
        (segment,) = shown.glob("*.parquet")
        segment.chmod(0o644)
        (segment,) = hidden.glob("*.parquet")
        segment.chmod(0o600)
        if what == "folder":
            hidden.chmod(0o700)
        said = as_nobody("find", "--folder", str(shown), "--folder", str(hidden), "--jsonl")
        assert str(segment if what == "segment" else hidden) in said
    assert "Permission denied" in said
    assert '"shown@a"' in said
    assert "exit 0" in said


def as_nobody(*args: str) -> str:
    """Run sipdump-read in a child process that gives up root, and return what it prints."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with open(writer, "w", encoding="utf-8") as said_here:
            sys.stdout = sys.stderr = said_here
            os.setuid(NOBODY)
            code = main(args)
            print(f"exit {code}")
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for place in (good, bad):
        place.mkdir()
    store(good, call("one@a"), backends=("text",))
    store(bad, call("two@a"), backends=("text",))
    opened = Store.open(folders=[str(good), str(bad)])
    for path in bad.iterdir():
        path.unlink()
    bad.rmdir()
    calls, searched = asked(opened)
    assert calls == ["one@a"]
    assert any(str(bad) in problem for problem in searched.problems)


def test_a_segment_that_is_pruned_while_it_is_read(tmp_path: Path) -> None:
    calls = [call(f"{number}@a", at("10:00:00") + number * 3_600_000_000) for number in range(3)]
    store(tmp_path, *calls, backends=("text",))
    opened = Store.open(folders=[str(tmp_path)])
    searched = Searched()
    records = opened.unsorted(Query(), searched)
    next(records)
    sorted(tmp_path.glob("*.data"))[1].unlink()
    assert len(list(records)) == 11
    assert searched.problems == []


def test_a_store_that_nobody_can_list_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    store(tmp_path, call("one@a"))
    config = tmp_path / "x.cfg"
    config.write_text(
        f'modparam("sipdump", "folder", "{tmp_path}")\nmodparam("sipdump", "mode", 48)\n'
        'modparam("sipdump_s3", "bucket", "nosuch")\n'
        'modparam("sipdump_s3", "endpoint_url", "http://127.0.0.1:9")\n'
    )
    code, out, err = run(capsys, "find", "-f", config, "--jsonl")
    assert (code, '"one@a"' in out) == (0, True)
    assert "nosuch" in err


class Slow:
    """Stops a scan from within a backend, as Ctrl-C does."""

    def __init__(self, opened: Store, after: int) -> None:
        self.opened, self.after, self.read = opened, after, 0

    def __call__(self, record: Record) -> bool:
        self.read += 1
        if self.read == self.after:
            self.opened.interrupt()
        return True


def test_a_store_whose_listing_hangs_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    class Hangs(Backend):
        name = "hangs"

        def segments(self) -> list[StoredSegment]:
            free.wait(30)
            return []

    monkeypatch.setattr(shelves, "PATIENCE", 0.1)
    store(tmp_path, call("one@a"))
    hanging = BackendShelf(Hangs(NoOptions(), Site(str(tmp_path), "p-", distribution="sipdump-hangs 1")))
    text = shelves.FolderShelf(workshop(tmp_path), str(tmp_path))
    store_ = Store([hanging, text])
    for _ in range(2):  # the second time it is not even asked
        call_ids, searched = asked(store_)
        assert call_ids == ["one@a"]
        (problem,) = set(searched.problems)
        assert "list: the backend hangs of sipdump-hangs 1 has answered nothing for 0.1 s" in problem
    free.set()


def test_an_interrupted_scan_has_found_what_it_has_found(tmp_path: Path) -> None:
    calls = [call(f"{number}@a", at("10:00:00") + number * 3_600_000_000) for number in range(5)]
    store(tmp_path, *calls, backends=("text",))
    opened = Store.open(folders=[str(tmp_path)])
    stop = Slow(opened, 14)
    found_: list[str] = []
    records = opened.unsorted(Query())
    for record in records:
        stop(record)
        found_.append(record.call_id or "")
    assert len(found_) == 14  # in the midst of the third segment
    assert opened.interrupted


def test_an_interrupt_reaches_into_a_backend_that_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [call(f"{number}@a", at("10:00:00") + number * 3_600_000_000) for number in range(5)]
    store(tmp_path, *calls, backends=("text",))
    opened = Store.open(folders=[str(tmp_path)])
    stop = Slow(opened, 8)
    monkeypatch.setattr(Query, "matches", lambda self, record: not stop(record))
    assert list(opened.unsorted(Query(methods=["nosuch"]))) == []
    assert stop.read == 8


def test_calls_found_before_an_interrupt_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segments with an answer are read again for all messages of the calls."""
    calls = [call(f"{number}@a", at("10:00:00") + number * 3_600_000_000) for number in range(5)]
    store(tmp_path, *calls, backends=("text",))
    opened = Store.open(folders=[str(tmp_path)])
    stop, matches = Slow(opened, 15), Query.matches

    def slow(self: Query, record: Record) -> bool:
        if not opened.interrupted:
            stop(record)
        return matches(self, record)

    monkeypatch.setattr(Query, "matches", slow)
    found_ = list(opened.find(Query(methods=["BYE"]), legs=False))
    assert [(one.summary.call_id, one.summary.messages) for one in found_] == [("0@a", 6), ("1@a", 6)]


def test_an_interrupt_while_nothing_is_read_raises_nothing(tmp_path: Path) -> None:
    opened = Store.open(folders=[str(tmp_path)])
    opened.interrupt()
    assert list(opened.records(Query())) == []
    assert issubclass(Interrupted, KeyboardInterrupt)  # no backend swallows it


def test_a_great_many_calls_are_found_without_their_legs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sipdump_core.reading.finder._LEGS_OF_CALLS", 3)
    store(tmp_path, *(call(f"{number}@a") for number in range(9)))
    code, out, err = run(capsys, "find", "--folder", tmp_path, "--jsonl")
    assert (code, len(out.splitlines())) == (0, 9)
    assert "too many calls to look for their other legs" in err


def test_a_filter_that_leaves_many_calls_reads_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sipdump_core.reading.finder._MANY", 3)
    calls = [call(f"{number}@a", caller="carol" if number % 2 else "alice") for number in range(20)]
    store(tmp_path, *calls)
    assert len(found(capsys, "--folder", tmp_path, "--from", "carol")) == 10
