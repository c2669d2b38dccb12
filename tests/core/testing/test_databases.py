"""The recipe for databases: its code does what the page says."""

import asyncio
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from sipdump_core import Batch, StorageError
from sipdump_core.testing.samples import CALL_IDS, called, numbered, record

PAGE = Path(__file__).parents[3] / "docs" / "databases.md"


def code(name: str) -> dict[str, Any]:
    """Run a block of the page, and return its names."""
    (text,) = re.findall(rf"^```python\n(# {name}\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(text, name, "exec"), names)
    return names


@pytest.fixture
def db() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def columns(db: sqlite3.Connection) -> set[str]:
    return {row[1] for row in db.execute("PRAGMA table_info(records)")}


def test_a_database_of_any_older_version_becomes_the_newest(db: sqlite3.Connection) -> None:
    schema = code("schema.py")
    steps = schema["STEPS"]
    for version in range(len(steps) + 1):
        old = sqlite3.connect(":memory:", isolation_level=None)
        for step in steps[:version]:
            old.execute(step)
        old.execute(f"PRAGMA user_version = {version}")
        for _ in range(2):  # the second time there is nothing to do
            schema["migrate"](old)
        assert columns(old) == {"id", "segment", "time_us", "buf", "call_key"}
        assert old.execute("PRAGMA user_version").fetchone() == (len(steps),)


def test_a_newer_database_is_left_alone(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="it has version 99"):
        code("schema.py")["migrate"](db)
    assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_migration_that_fails_changes_nothing(db: sqlite3.Connection) -> None:
    schema = code("schema.py")
    schema["STEPS"].append("CREATE TABLE segments (again)")
    with pytest.raises(sqlite3.OperationalError):
        schema["migrate"](db)
    assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert db.execute("PRAGMA user_version").fetchone() == (0,)


def test_a_batch_whose_answer_was_lost_is_stored_once(db: sqlite3.Connection) -> None:
    code("schema.py")["migrate"](db)
    write = code("store.py")["write"]
    batch = Batch(numbered(3))
    for segment, each in ((1, batch), (2, batch), (2, Batch(numbered(2)))):
        write(db, segment, each)
    assert db.execute("SELECT segment, count(*) FROM records GROUP BY 1").fetchall() == [(1, 3), (2, 2)]


def test_a_batch_that_fails_is_not_known(db: sqlite3.Connection) -> None:
    code("schema.py")["migrate"](db)
    write = code("store.py")["write"]
    batch = Batch([record(), record(time_us=2**70)])
    with pytest.raises(OverflowError):
        write(db, 1, batch)
    assert db.execute("SELECT count(*) FROM batches").fetchone() == (0,)
    write(db, 1, batch.part([0]))
    assert db.execute("SELECT count(*) FROM records").fetchone() == (1,)


def test_a_key_has_a_bound_and_tells_call_ids_apart() -> None:
    call_key = code("store.py")["call_key"]
    ids = {record(called(call_id)).call_id for call_id in CALL_IDS.values()}
    keys = {call_key(each) for each in ids}
    assert len(keys) == len(ids)
    assert max(len(key) for key in keys if key) < 255
    assert call_key("c1@x") == b"c1@x"


def test_a_call_of_the_bridge_ends_in_time_and_its_thread_with_it() -> None:
    bridge = code("bridge.py")["Bridge"]()
    ended = threading.Event()

    async def answer() -> int:
        return 7

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    assert bridge.call(answer(), 5) == 7
    with pytest.raises(TimeoutError):
        bridge.call(hang(), 0.01)
    assert ended.wait(60), "the coroutine goes on"
    bridge.close()
    assert "client" not in {thread.name for thread in threading.enumerate()}
