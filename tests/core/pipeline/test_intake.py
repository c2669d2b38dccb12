"""The intake: the bounded queue in front of the writer."""

import threading
from pathlib import Path

from sipdump_core.sipdump import SipDump
from tests.core.support import A, B, Probe, files, plan, probe, read
from tests.support import record


def test_a_full_queue_drops_with_a_count(tmp_path: Path) -> None:
    release = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue=10, queue_full="drop"))
    probe(made).on_write = lambda: release.wait(30)
    made.intercept([record(b"%d" % n) for n in range(1000)])
    made.intercept([record(b"x")] * 10)
    stats = made.stats()
    assert stats.queue_dropped >= 990
    release.set()
    assert made.close()
    final = made.stats()
    total = final.backends["probe"].stored + sum(final.backends["probe"].dropped.values()) + final.queue_dropped
    assert total == final.received == 1010


def test_the_queue_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    release = threading.Event()
    made = SipDump(plan=plan(tmp_path, Probe, queue_bytes=1000, queue_full="drop", wait=1_000_000))
    made.intercept([record(b"x" * 400)] * 5)
    assert made.stats().queue_dropped == 3
    made.intercept([record(b"x" * 5000)])
    assert made.stats().queue_dropped == 4
    release.set()
    made.close()
    with SipDump(plan=plan(tmp_path, Probe, queue_bytes=1000, queue_full="drop")) as other:
        other.intercept([record(b"x" * 5000)])  # one always finds room
        assert other.stats().queue_dropped == 0


def test_records_of_many_threads_are_all_stored_in_each_ones_order(tmp_path: Path) -> None:
    with SipDump(enable=1, mode=5, folder=tmp_path, queue=64) as dump:

        def bring(number: int) -> None:
            for n in range(500):
                dump.received(b"%d %d" % (number, n), A, B)

        threads = [threading.Thread(target=bring, args=(n,), name=f"worker {n}") for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = read(tmp_path)
    for number in range(4):
        assert [one.buf for one in found if one.buf.startswith(b"%d " % number)] == [
            b"%d %d" % (number, n) for n in range(500)
        ]
    (meta,) = files(tmp_path, ".meta")
    assert meta.read_text().count("thread worker") == 4
    assert len({one.procno for one in found}) == 4
