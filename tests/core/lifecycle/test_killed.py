"""Killed in the middle of erasing and thinning: each record is there or gone, never twice, and a next run ends it."""

import os
import random
import time
from pathlib import Path

import pytest

from sipdump_core.drivers.rewriting import Change
from tests.core.lifecycle.rewrites import KINDS, START, calls, ids, make, store

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
