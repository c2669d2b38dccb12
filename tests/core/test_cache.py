"""Caches that are bounded: in entries, and in bytes over all peers."""

import gc
import weakref

import pytest

from sipdump_core.cache import Cache, Memory, Remembered, Weighed


def test_one_more_than_the_limit_empties_a_cache() -> None:
    cache: Cache[int, str] = Cache(2)
    assert [cache.keep(n, str(n)) for n in range(3)] == ["0", "1", "2"]
    assert cache == {2: "2"}


def test_a_weighed_cache_tells_what_it_takes() -> None:
    charged: list[int] = []
    cache: Weighed[tuple[str, bytes], int] = Weighed(charged.append, 1000, limit=2)
    cache.keep(("a", bytes(50_000)), 1)
    assert 51_000 < charged[0] < 51_500
    cache.keep(("a", bytes(50_000)), 2)  # the same one
    assert cache[("a", bytes(50_000))] == 2
    assert len(charged) == 1
    cache.keep(("a", b""), 1)
    cache.keep(("b", b""), 1)  # one too many
    assert sum(charged[:2]) == -charged[2]
    assert sum(charged) == charged[3] < 2000
    cache.clear()
    cache.clear()
    assert sum(charged) == 0


def test_those_who_do_not_come_again_are_forgotten_first() -> None:
    memory: Memory[int, Remembered] = Memory(limit=1000, share=500)
    regular = memory.begin(0, Remembered(), 100)
    for stranger in range(1, 200):
        memory.begin(stranger, Remembered(), 100)
        regular.used = True
        assert memory.size == sum(peer.size for peer in memory.values()) <= 1000
    assert memory[0] is regular
    assert len(memory) == 10
    assert 199 in memory


def test_one_that_takes_too_much_is_forgotten_and_costs_no_other() -> None:
    memory: Memory[str, Remembered] = Memory(limit=1000, share=500)
    memory.begin("small", Remembered(), 100).used = False
    greedy = memory.begin("greedy", Remembered(), 100)
    for _ in range(10):
        memory.charge("greedy", 100)
    assert set(memory) == {"small"}
    assert memory.size == 100
    assert memory.begin("greedy", Remembered(), 100) is not greedy


@pytest.mark.parametrize("again", [False, True])
def test_what_is_forgotten_gives_its_bytes_back(again: bool) -> None:
    memory: Memory[str, Remembered] = Memory(limit=1000, share=500)
    gone = weakref.ref(memory.begin("one", Remembered(), 100))
    memory.charge("one", 50)
    if again:
        memory.begin("one", Remembered(), 30)
    memory.forget("one")
    memory.forget("one")
    memory.charge("one", 50)
    gc.collect()
    assert (memory.size, len(memory), gone()) == (0, 0, None)
