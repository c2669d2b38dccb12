"""Killed in the middle of erasing and thinning: each record is there or gone, never twice, and a next run ends it."""

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from sipdump_core.admin.command import main
from sipdump_core.drivers import discovery
from sipdump_core.drivers.base import Site
from sipdump_core.drivers.batch import Batch
from sipdump_core.drivers.rewriting import Change
from sipdump_core.lifecycle import holds
from sipdump_core.pipeline.dead_letter import DeadLetter, DeadLetters
from sipdump_core.pipeline.spool_rewriting import SpoolJournals
from sipdump_core.record import Record
from sipdump_core.segment import Segment
from sipdump_core.sip import call_id
from tests.core.admin.run import run
from tests.core.lifecycle.rewrites import KINDS, START, calls, ids, jsonl, make, store
from tests.core.pipeline.test_spool import Remote, RemoteOptions
from tests.core.reading.stores import PREFIX
from tests.core.reading.traffic import at, call
from tests.core.reading.traffic import record as message

ROUNDS = 50


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment(kind: str, tmp_path: Path) -> None:
    """50 rounds over all kinds: what is killed is the process that rewrites, at a moment by chance."""
    backend = make(tmp_path, kind)
    names = [f"c{number}" for number in range(12)]
    segments = [store(backend, calls(*names), START + 60 * hour) for hour in range(3)]
    whole = ids(backend)
    gone: set[str] = set()
    took = 0.01
    for number in range(ROUNDS // len(KINDS) + 1):
        goes = names[number % (len(names) - 1)]
        change = Change({*gone, goes}) if number % 2 else Change(set(names) - gone - {goes}, others=True)
        gone.add(goes)
        began = time.monotonic()
        child = os.fork()
        if not child:
            try:
                for stored in segments:
                    backend.rewrite(stored, change)  # type: ignore[attr-defined]
            finally:
                os._exit(0)
        time.sleep(random.uniform(0, 1.5 * took))
        os.kill(child, 9)
        os.waitpid(child, 0)
        found = ids(backend)
        for name in names:
            count = found.count(name)
            per_segment = whole.count(name) // 3
            assert count % per_segment == 0, "half a call"
            assert count <= whole.count(name), "twice"
            assert count == whole.count(name) or name in gone, "lost"
        for stored in segments:
            backend.rewrite(stored, change)  # type: ignore[attr-defined]
        took = max(took, min(0.3, time.monotonic() - began))
        assert ids(backend) == [each for each in whole if each not in gone]
        assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".rewrite")] == []


@pytest.mark.parametrize("what", ["erase", "prune"])
def test_commands_that_are_killed_lose_nothing_and_end_when_run_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 rounds each, over all backends of files, dead letters and a spool at once."""
    drivers = [*discovery.take_stock().drivers, discovery.Driver("jsonl", "j", "1", jsonl().JsonlBackend)]
    drivers.append(discovery.Driver("remote", "r", "1", Remote))
    monkeypatch.setattr("sipdump_core.plan.take_stock", lambda *_: discovery.Stock(drivers))
    made, folder = tmp_path / "made", tmp_path / "used"
    made.mkdir()
    config = tmp_path / "s.cfg"
    config.write_text(
        f'modparam("sipdump", "folder", "{folder}")\nmodparam("sipdump", "fprefix", "{PREFIX}")\n'
        f'modparam("sipdump", "mode", 1)\nmodparam("sipdump", "backend", "remote")\n'
        f'modparam("sipdump", "keep", "method=OPTIONS age=1")\nmodparam("sipdump", "keep", "state=failed age=1")\n'
        f'modparam("sipdump_remote", "spool", "{folder}/spool")\n'
    )
    bad = call("bad", at("10:32:02"), status=500)
    parts = (calls("one", "two")[:9], [*calls("one", "two")[9:], *bad, *_options("ping"), *_options("held")])
    for kind in KINDS:
        for hour, records in enumerate(parts):
            store(make(made, kind), records, START + 3600 * hour)
    letter = DeadLetter(make(made, "text").site, "sql", 1 << 20)
    letter.put(Segment.starting(PREFIX, START), Batch([*parts[0], *parts[1]]), "too large")
    letter.close()
    os.utime(letter.path, (START, START))
    shutil.copytree(made, folder)
    assert run(capsys, "hold", "add", "case", "-f", config, "--call-id", "held")[0] == 0
    shutil.copy(folder / holds.FILE, made / holds.FILE)
    (made / "spool").mkdir()
    spooled = SpoolJournals(Remote(RemoteOptions(), Site(str(made), PREFIX)), str(made / "spool"))
    spooled.open(Segment(PREFIX, "2026-11-22--10-00-00", 0, spooled.suffix))
    for records in parts:
        spooled.write(Batch(records))
    spooled.close()

    goes = {"two"} if what == "erase" else {"bad", "ping"}
    command = ["erase", "-f", config, "--call-id", "two"] if what == "erase" else ["prune", "-f", config]

    def found() -> dict[str, Counter[bytes]]:
        there = [*(make(folder, kind) for kind in KINDS), DeadLetters(make(folder, "text").site)]
        there.append(SpoolJournals(Remote(RemoteOptions(), Site(str(folder), PREFIX)), str(folder / "spool")))
        return {
            one.location: Counter(record.buf for record in backend.read(one))
            for backend in there
            for one in backend.segments()
        }

    def again() -> None:
        shutil.rmtree(folder)
        shutil.copytree(made, folder)

    again()
    whole = found()
    began = time.monotonic()
    assert run(capsys, *command)[0] == 0
    took = time.monotonic() - began
    ended = found()
    untouched = [path for path in whole if what == "prune" and path.endswith(".spool")]
    for path, before in whole.items():
        stays = Counter({buf: n for buf, n in before.items() if path in untouched or call_id(buf) not in goes})
        assert ended.get(path, Counter()) == stays, path
    cut = 0
    for _ in range(ROUNDS // 2):
        again()
        child = os.fork()
        if not child:
            try:
                main([str(each) for each in command])
            finally:
                os._exit(0)
        time.sleep(random.uniform(0, 1.1 * took))
        os.kill(child, 9)
        os.waitpid(child, 0)
        now = found()
        cut += now not in (whole, ended)
        for path, before in whole.items():
            assert now.get(path, Counter()) in (before, ended.get(path, Counter())), path
        assert run(capsys, *command)[0] == 0
        assert found() == ended
        assert list(folder.rglob("*.rewrite")) == []
    assert cut, "no round was killed in the middle"


def _options(name: str) -> list[Record]:
    first = message("OPTIONS sip:example.com SIP/2.0", name, at("10:32:03"), cseq="1 OPTIONS")
    return [first, message("SIP/2.0 200 OK", name, at("10:32:03") + 1000, cseq="1 OPTIONS", to_tag="9")]
