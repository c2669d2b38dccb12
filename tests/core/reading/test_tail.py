"""``sipdump-read tail``: the last messages, and then each that comes, once."""

import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from sipdump_core.drivers.base import Site
from sipdump_core.drivers.query import Query
from sipdump_core.reading.command import main
from sipdump_core.reading.shelves import BackendShelf
from sipdump_core.reading.store import Store
from sipdump_core.reading.tail import Follower
from sipdump_core.record import Record
from sipdump_core.sipdump import SipDump
from tests.core.reading.run import run
from tests.core.reading.stores import fill
from tests.core.reading.traffic import at, call, record, store
from tests.support import wait_for

ROOT = Path(__file__).parents[3]
MODES = {"text": 1, "pcap": 4, "parquet": 16, "all": 21}


def numbered(first: int, count: int) -> list[Record]:
    now_us = int(time.time() * 1_000_000)
    return [
        record("OPTIONS sip:x SIP/2.0", f"{number}@a", now_us + number, cseq="1 OPTIONS")
        for number in range(first, first + count)
    ]


def ids(records: Iterator[Record]) -> list[str]:
    return [each.call_id or "" for each in records]


def expected(first: int, count: int) -> list[str]:
    return [f"{number}@a" for number in range(first, first + count)]


@pytest.fixture(params=MODES)
def dump(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SipDump]:
    with SipDump(enable=1, mode=MODES[request.param], folder=tmp_path) as running:
        yield running


def feed(dump: SipDump, first: int, count: int) -> None:
    dump.intercept(numbered(first, count))
    assert dump.flush(60)


def follower(folder: Path, query: Query | None = None) -> Follower:
    return Follower(Store.open(folders=[str(folder)], fprefix="kamailio-sipdump-"), query or Query())


def followed(follower: Follower, count: int) -> list[str]:
    """Wait for some messages, and whether more come than that."""
    found: list[str] = []

    def enough() -> bool:
        found.extend(ids(follower.fresh()))
        return len(found) >= count

    wait_for(enough)
    for _ in range(3):
        follower._next_look = 0.0
        found.extend(ids(follower.fresh()))
    assert follower.problems() == []
    return found


def test_what_comes_is_yielded_once(dump: SipDump, tmp_path: Path) -> None:
    feed(dump, 0, 5)
    following = follower(tmp_path)
    assert ids(iter(following.last(3))) == expected(2, 3)
    assert ids(following.fresh()) == []
    feed(dump, 5, 4)
    assert followed(following, 4) == expected(5, 4)
    feed(dump, 9, 1)
    assert followed(following, 1) == expected(9, 1)


def test_what_came_before_is_not_yielded(dump: SipDump, tmp_path: Path) -> None:
    feed(dump, 0, 5)
    following = follower(tmp_path)
    assert following.last(0) == []
    assert ids(following.fresh()) == []
    feed(dump, 5, 1)
    assert followed(following, 1) == expected(5, 1)


def test_a_store_that_is_empty_at_first(dump: SipDump, tmp_path: Path) -> None:
    following = follower(tmp_path)
    assert following.last(10) == []
    feed(dump, 0, 3)
    assert followed(following, 3) == expected(0, 3)


def test_rotations_lose_nothing_and_repeat_nothing(dump: SipDump, tmp_path: Path) -> None:
    """Segments are sealed while they are followed: of Parquet, that makes other files in another order."""
    feed(dump, 0, 3)
    following = follower(tmp_path)
    following.last(1)
    found: list[str] = []
    draw = random.Random(1)
    first = 3
    for _ in range(12):
        count = draw.randrange(1, 6)
        feed(dump, first, count)
        first += count
        if draw.random() < 0.5:
            found += ids(following.fresh())
        if draw.random() < 0.6:
            dump.rotate()
    dump.intercept(numbered(first, 1))
    assert dump.flush(60)
    found += followed(following, first + 1 - 3 - len(found))
    assert sorted(found, key=lambda each: int(each[:-2])) == expected(3, first + 1 - 3)


def test_filters(dump: SipDump, tmp_path: Path) -> None:
    feed(dump, 0, 2)
    following = follower(tmp_path, Query(call_ids=["1@a", "4@a"]))
    assert ids(iter(following.last(10))) == ["1@a"]
    feed(dump, 2, 5)
    assert followed(following, 1) == ["4@a"]


def test_messages_that_came_between_the_look_and_the_last_ones(dump: SipDump, tmp_path: Path) -> None:
    feed(dump, 0, 2)
    following = follower(tmp_path)
    feed(dump, 2, 2)
    assert ids(iter(following.last(10))) == expected(0, 4)
    feed(dump, 4, 1)
    assert followed(following, 1) == expected(4, 1)


def test_the_same_bytes_at_the_same_moment_are_two_messages(dump: SipDump, tmp_path: Path) -> None:
    following = follower(tmp_path)
    (one,) = numbered(0, 1)
    dump.intercept([one, one])
    assert dump.flush(60)
    assert followed(following, 2) == ["0@a", "0@a"]


def test_a_backend_that_cannot_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "sipdump-jsonl"))
    jsonl = import_module("sipdump_jsonl")
    backend = jsonl.JsonlBackend(jsonl.JsonlOptions(), Site(str(tmp_path), "p-"))
    fill(backend, numbered(0, 5), time.time(), close=False)
    following = Follower(Store([BackendShelf(backend)]), Query())
    assert ids(iter(following.last(2))) == expected(3, 2)
    backend.write(numbered(5, 3))
    backend.flush()
    assert followed(following, 3) == expected(5, 3)
    backend.write(numbered(8, 1))
    backend.close()
    assert followed(following, 1) == expected(8, 1)
    backend.stop()


def test_a_node_is_followed_where_it_is_kept(tmp_path: Path) -> None:
    """Text does not keep nodes: where Parquet has the segment, too, that is read."""
    with SipDump(enable=1, mode=17, folder=tmp_path) as dump:
        following = follower(tmp_path, Query(nodes=["fra-1"]))
        feed(dump, 0, 2)
        assert followed(following, 2) == expected(0, 2)


def test_segments_that_are_pruned_while_they_are_followed(dump: SipDump, tmp_path: Path) -> None:
    feed(dump, 0, 1)
    following = follower(tmp_path)
    dump.rotate()
    feed(dump, 1, 1)
    stems = {path.name.partition(".")[0] for path in tmp_path.iterdir()} - {""}
    stamped = len("kamailio-sipdump-2026-11-27--10-32-00")  # behind it the second one of a second has -1
    older = min(stems, key=lambda stem: (stem[:stamped], len(stem)))
    wait_for(lambda: not (tmp_path / f"{older}.parquet.wal").exists())  # what is being sealed is not pruned
    for path in tmp_path.glob(f"{older}.*"):
        path.unlink(missing_ok=True)
    assert followed(following, 1) == expected(1, 1)


def test_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], live_in: Callable[[str], None]) -> None:
    live_in("Asia/Kathmandu")
    store(tmp_path, call("one@a"), call("two@a", at("10:32:01"), status=486))
    code, out, err = run(capsys, "tail", "--folder", tmp_path, "--once", "-n", 3)
    assert (code, err) == (0, "sipdump-read: times are +0545 (+05:45)\n")
    assert [line.split("  ")[:5] for line in out.splitlines()] == [
        ["2026-11-22 16:17:03.010000", "rcv", "udp", "192.0.2.10:5060 > 203.0.113.1:5060", "ACK"],
        ["2026-11-22 16:17:32.000000", "rcv", "udp", "192.0.2.10:5060 > 203.0.113.1:5060", "BYE"],
        ["2026-11-22 16:17:32.020000", "snd", "udp", "203.0.113.1:5060 > 192.0.2.10:5060", "200 OK (BYE)"],
    ]
    assert out.splitlines()[1].endswith("alice > bob  one@a  fra-1")
    code, out, _ = run(capsys, "tail", "--folder", tmp_path, "--once", "-n", 100)
    assert len(out.splitlines()) == 10
    code, out, _ = run(capsys, "tail", "--folder", tmp_path, "--once", "--call-id", "two@a", "-n", 1, "--raw")
    assert out.splitlines()[1].startswith("ACK sip:bob@example.com")
    assert out.endswith("Content-Length: 0\n\n")
    code, out, err = run(capsys, "tail", "--folder", tmp_path, "--once", "--call-id", "nosuch")
    assert (code, out) == (1, "")
    assert "nothing was found in 1 segment" in err


def test_a_message_of_a_far_future(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = record("OPTIONS sip:x SIP/2.0", "far@a", 2**61, cseq="1 OPTIONS")
    from tests.core.reading.stores import workshop

    shop = workshop(tmp_path)
    fill(shop.backend("parquet", shop.site()), [far], 1_795_386_431)
    code, out, _ = run(capsys, "tail", "--folder", tmp_path, "--once")
    assert code == 0
    assert out.startswith("9999-12-3")


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, message in (("-n x", "'x' is not a whole number"), ("--since foo", "is not a time")):
        code, _, err = run(capsys, "tail", "--folder", tmp_path, *args.split())
        assert code == 2
        assert message in err


def test_ctrl_c_ends_it(
    dump: SipDump, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(dump, 0, 1)
    rounds = itertools.count()
    fresh: Callable[[Follower], Iterator[Record]] = Follower.fresh

    def interrupted(following: Follower) -> Iterator[Record]:
        if next(rounds) == 2:
            import signal

            signal.raise_signal(signal.SIGINT)
        return fresh(following)

    monkeypatch.setattr(Follower, "fresh", interrupted)
    code, out, err = run(capsys, "tail", "--folder", tmp_path)
    assert code == 0
    assert len(out.splitlines()) == 1
    assert "Traceback" not in err
    assert sys.exc_info() == (None, None, None)


@pytest.mark.usefixtures("utc")
def test_it_ends_when_nobody_reads_any_more(
    dump: SipDump, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(dump, 0, 3)
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as read, open(writer, "w", buffering=1) as write:
        fresh: Callable[[Follower], Iterator[Record]] = Follower.fresh

        def left(following: Follower) -> Iterator[Record]:
            assert len(read.read(4096).splitlines()) == 3
            read.close()
            return fresh(following)

        monkeypatch.setattr(Follower, "fresh", left)
        monkeypatch.setattr(sys, "stdout", write)
        assert main(["tail", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "sipdump-read: times are UTC (+00:00)\n"
