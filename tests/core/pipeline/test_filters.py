"""Filters: what they return is all that anything else sees, whatever happens in them."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from sipdump_core.control.commands import Rpc
from sipdump_core.drivers.base import Filter
from sipdump_core.drivers.discovery import Driver
from sipdump_core.errors import ConfigError, DriverError
from sipdump_core.pipeline.filters import Filters
from sipdump_core.plan import make_plan
from sipdump_core.record import Record
from sipdump_core.settings.options import Setting
from sipdump_core.sipdump import SipDump
from sipdump_core.testing import record
from sipdump_core.workshop import Workshop
from sipdump_text import TextBackend
from tests.core.support import A, B, read
from tests.support import wait_for

SECRET = b"SECRET"
TEXT = Driver("text", "sipdump", "1", TextBackend)


class Hiding(Filter):
    """Hides a word, and drops what is named so."""

    name = "hiding"
    flag = 256
    prompt = True

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        kept = [each for each in records if b"drop me" not in each.buf]
        return [
            attrs.evolve(each, buf=each.buf.replace(SECRET, b"...")) if SECRET in each.buf else each for each in kept
        ]

    def stats(self) -> Mapping[str, int]:
        return {"words": 1}


class Late(Hiding):
    """Hides only from what stores."""

    before_route = False


class Numbering(Filter):
    """Adds its mark, so that the order of filters shows."""

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        return [attrs.evolve(each, buf=each.buf + self.name.encode()) for each in records]


def numbering(name_: str, flag_: int = 0, *, late: bool = False) -> Driver:
    class Made(Numbering):
        name, flag, before_route = name_, flag_, not late

    return Driver(name_, f"sipdump-{name_}", "1", Made)


class Waiting(Filter):
    """Waits for a test, as one that asks a server would."""

    name = "waiting"
    seconds = 0.05
    go = threading.Event()

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        self.go.wait()
        return records


def dump(folder: Path, *drivers: Driver, mode: int = 257, **params: Any) -> SipDump:
    settings = [Setting("sipdump", "folder", str(folder)), Setting("sipdump", "enable", 1)]
    settings += [Setting("sipdump", "mode", mode)]
    settings += [Setting("sipdump", "backend", value) for value in params.get("backend", ())]
    return SipDump(plan=make_plan(settings, [TEXT, *drivers]))


def stored(made: SipDump, folder: Path) -> list[Record]:
    """Bring one more record, and return what is stored."""
    made.received(b"three", A, B)
    made.flush()
    return read(folder)


def driver(cls: type[Filter]) -> Driver:
    return Driver(cls.name, "sipdump-more", "1", cls)


def test_what_a_filter_returns_is_stored(tmp_path: Path) -> None:
    with dump(tmp_path, driver(Hiding)) as made:
        for buf in (b"one SECRET", b"drop me", b"two"):
            made.received(buf, A, B)
        made.flush()
        stats = made.stats().filters["hiding"]
        assert (stats.taken, stats.changed, stats.dropped, stats.counters) == (3, 1, {"by the filter": 1}, {"words": 1})
        assert Rpc(made).call("sipdump.stats")[0]["filters"] == {
            "hiding": {"taken": 3, "changed": 1, "dropped": 1, "dropped (by the filter)": 1, "words": 1}
        }
        rows = {row["name"]: row for row in Rpc(made).call("sipdump.backends")}
        assert (rows["hiding"]["kind"], rows["hiding"]["state"]) == ("filter", "on")
    assert [each.buf for each in read(tmp_path)] == [b"one ...", b"two"]


@pytest.mark.parametrize(("cls", "seen"), [(Hiding, [b"a ...", b"b"]), (Late, [b"a SECRET", b"b"])])
def test_the_event_route_sees_what_the_filter_says(tmp_path: Path, cls: type[Filter], seen: list[bytes]) -> None:
    found = []
    with dump(tmp_path, driver(cls), mode=259) as made:
        made.event_route(lambda each: found.append(each.buf))
        made.received(b"a SECRET", A, B)
        made.received(b"b", A, B)
    assert found == seen
    assert [each.buf for each in read(tmp_path)] == [b"a ...", b"b"]


@pytest.mark.parametrize("cls", [Hiding, Late])
def test_what_is_sent_is_filtered_too(tmp_path: Path, cls: type[Filter]) -> None:
    with dump(tmp_path, driver(cls)) as made:
        made.send(record(b"a SECRET"), "mine")
    assert [(each.tag, each.buf) for each in read(tmp_path)] == [("mine", b"a ...")]


def test_filters_run_in_the_order_of_flags_and_then_of_names(tmp_path: Path) -> None:
    drivers = [numbering("a", 1024), numbering("b", 512), numbering("c"), numbering("d"), numbering("e", late=True)]
    with dump(tmp_path, *drivers, mode=1 + 512 + 1024, backend=["e", "d", "c"]) as made:
        made.received(b":", A, B)
        assert [*made.stats().filters] == ["b", "a", "e", "d", "c"]
    assert [each.buf for each in read(tmp_path)] == [b":badce"]


def raising(_: Sequence[Record]) -> Sequence[Record]:
    raise ValueError(f"bad: {SECRET.decode()}")


def leaving(_: Sequence[Record]) -> Sequence[Record]:
    raise SystemExit(SECRET.decode())


@pytest.mark.parametrize("prompt_", [True, False])
@pytest.mark.parametrize(
    "fails",
    [
        raising,
        leaving,
        lambda records: None,
        lambda records: [each.buf for each in records],
        lambda records: [*records, *records],
        iter,
    ],
)
def test_a_filter_that_fails_stores_nothing_and_tells_no_secret(
    tmp_path: Path, fails: Callable[[Any], Any], prompt_: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Filter):
        name, prompt = "failing", prompt_

        def apply(self, records: Sequence[Record]) -> Sequence[Record]:
            return fails(records)  # type: ignore[no-any-return]

    with dump(tmp_path, driver(Failing), mode=1, backend=["failing"]) as made:
        made.received(b"SECRET", A, B)
        made.received(b"SECRET", A, B)
        assert made.stats().filters["failing"].dropped == {"it failed": 2}
    assert read(tmp_path) == []
    (said,) = [each.getMessage() for each in caplog.records if "filter" in each.getMessage()]
    assert said.startswith("a filter failed: its records are dropped, not stored unfiltered filter=failing count=1")
    assert "SECRET" not in caplog.text


def test_a_filter_that_hangs_stores_nothing_and_goes_on_when_it_returns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Waiting.go = threading.Event()
    with dump(tmp_path, driver(Waiting), mode=1, backend=["waiting"]) as made:
        made.received(b"one", A, B)
        made.received(b"two", A, B)
        assert made.stats().filters["waiting"].dropped == {"it hangs": 2}
        thread = next(each for each in threading.enumerate() if each.name == "sipdump-filter-waiting")
        Waiting.go.set()
        wait_for(lambda: stored(made, tmp_path))
    assert "a filter hangs" in caplog.text
    assert {each.buf for each in read(tmp_path)} == {b"three"}
    thread.join(5)
    assert not thread.is_alive()


def test_filters_count_nothing_of_what_never_comes_to_them() -> None:
    filters = Filters([Hiding(None), Late(None)])
    assert list(filters.all([record(b"drop me")])) == []
    assert [(each.taken, each.changed) for each in filters.stats().values()] == [(0, 0)]  # of one name


class Refusing(Hiding):
    name = "refusing"

    def __init__(self, options: Any) -> None:
        raise self.error

    error: Exception = ConfigError("key: it is too short")


@pytest.fixture
def refusing() -> Iterator[type[Refusing]]:
    yield Refusing
    Refusing.error = ConfigError("key: it is too short")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ConfigError("key: it is too short"), ConfigError, "key: it is too short"),
        (RuntimeError("gone"), DriverError, "the filter refusing of sipdump-more 1 cannot be made: RuntimeError: gone"),
    ],
)
def test_a_filter_that_cannot_be_made_refuses_the_start(
    tmp_path: Path, refusing: type[Refusing], error: Exception, kind: type[Exception], text: str
) -> None:
    refusing.error = error
    with pytest.raises(kind, match=text):
        dump(tmp_path, driver(refusing))
    settings = [Setting("sipdump", "folder", str(tmp_path)), Setting("sipdump", "mode", 257)]
    with pytest.raises(kind, match=text):
        Workshop(make_plan(settings, [TEXT, driver(refusing)])).check()


@pytest.mark.parametrize("attribute", [{"seconds": 0}, {"seconds": "5"}, {"before_route": 0}, {"prompt": None}])
def test_a_filter_that_says_nonsense_of_itself_is_refused(tmp_path: Path, attribute: dict[str, Any]) -> None:
    made = type("Made", (Hiding,), attribute)
    with pytest.raises(DriverError, match=f"its {next(iter(attribute))} is "):
        dump(tmp_path, driver(made))


def test_one_that_is_no_filter_is_refused(tmp_path: Path) -> None:
    made = type("Made", (Hiding,), {"__new__": lambda cls, options: object()})
    with pytest.raises(DriverError, match="instead of an instance"):
        dump(tmp_path, driver(made))
    made = type("Made", (Hiding,), {"__init__": lambda self, options: None})
    with pytest.raises(DriverError, match="does not call super"):
        dump(tmp_path, driver(made))
