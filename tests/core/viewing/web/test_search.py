"""Searches: each is an address; the calls come as they are found; nothing runs for ever."""

import re
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest

from sipdump_core.drivers.query import Query
from sipdump_core.reading.redacting import parse_redact, redactor_of
from sipdump_core.reading.shelves import Shelved, open_shelves
from sipdump_core.record import Record
from sipdump_core.viewing.web.addresses import SHARED, Shared, call_path
from sipdump_core.viewing.web.limits import Limits
from tests.core.reading.traffic import at, call, register, store
from tests.core.viewing.web.client import Page, page_of
from tests.core.viewing.web.legs import HOSTILE, hostile


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    calls = [
        call(f"c{number}@a", at("10:00:00") + number * 60_000_000, caller=["alice", "carol"][number % 2],
             status=[200, 200, 503][number % 3])
        for number in range(30)
    ]  # fmt: skip
    return page_of(store(tmp_path_factory.mktemp("store"), *calls, register()))


def listed(text: str) -> list[str]:
    """Return the Call-IDs of a page's rows."""
    return [unescape(one) for one in re.findall(r'<td class="wider call-id">(.*?)</td>', text)]


def test_the_form_has_every_filter_of_find(page: Page) -> None:
    text = page.inside().get("/").text
    names = set(re.findall(r'name="([a-z-]+)"', text))
    assert {"user", "from", "to", "ip", "method", "status", "state", "ua", "node", "proto", "grep", "since", "until",
            "last", "call-id", "line"} <= names  # fmt: skip


def test_calls_are_listed_the_newest_first(page: Page) -> None:
    assert listed(page.inside().get("/calls?user=alice&method=INVITE").text) == [
        f"c{number}@a" for number in range(28, -1, -2)
    ]


@pytest.mark.parametrize(
    ("sent", "address"),
    [
        ("/calls?line=user%3Dalice+state%3Dfailed", "/calls?user=alice&state=failed"),
        ("/calls?line=--user+alice+--state+failed", "/calls?user=alice&state=failed"),
        ("/calls?line=c1@a", "/calls?call-id=c1%40a"),
        ("/calls?user=alice&state=&since=&ip=", "/calls?user=alice"),
        ("/calls?user=&state=", "/calls"),
        ("/calls?line=", "/calls"),
        ("/live?line=method%3DINVITE", "/live?method=INVITE"),
    ],
)
def test_each_search_is_an_address(page: Page, sent: str, address: str) -> None:
    answer = page.inside().get(sent)
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    assert page.inside().get(address).status_code == 200


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/calls?state=nosuch", "nosuch"), ("/calls?status=x", "status"), ("/calls?since=never", "never"),
        ("/calls?nosuch=1", "nosuch"), ("/calls?line=colour%3Dred", "colour"), ("/calls?grep=/(/", "("),
        ("/calls?leg-regex=(", "at the start"), ("/calls?line=leg-guess", "at the start"),
        ("/calls?since=10:00&last=1h", "--last"), ("/calls?line=%22", "quote"), ("/calls?limit=x", "x"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_said(page: Page, path: str, why: str) -> None:
    answer = page.inside().get(path)
    assert answer.status_code == 400
    alert = re.search(r'role="alert">(.*?)</p>', answer.text)
    assert alert
    assert why in unescape(alert[1])


@pytest.mark.parametrize("path", ["/", "/calls", "/live", "/live/events", "/overview", "/call/x", "/share/x"])
def test_an_address_has_only_so_many_parameters(page: Page, path: str) -> None:
    answer = page.inside().get(path + "?" + "&".join(["user=alice"] * 201))
    if path == "/":  # it has none
        assert answer.status_code == 200
    else:
        assert (answer.status_code, "at most 200 parameters" in answer.text) == (400, True)


def test_what_was_typed_is_still_there(page: Page) -> None:
    text = page.inside().get("/calls?user=alice&state=nosuch").text
    assert 'name="user" value="alice"' in text
    text = page.inside().get("/calls?line=colour%3Dred+%22%3E").text
    assert 'value="colour=red &#34;&gt;"' in text


def test_a_page_has_a_hundred_calls_and_leads_to_more(tmp_path: Path) -> None:
    calls = [call(f"n{number:03}@a", at("10:00:00") + number * 1_000_000) for number in range(250)]
    client = page_of(store(tmp_path, *calls)).inside()
    text = client.get("/calls").text
    assert listed(text) == [f"n{number:03}@a" for number in range(249, 149, -1)]
    assert "100 calls, and there are more" in text
    (older,) = re.findall(r'rel="next" href="(.*?)"', text)
    second = listed(client.get(unescape(older)).text)
    assert second[:100] == [f"n{number:03}@a" for number in range(149, 49, -1)]
    (longer,) = re.findall(r'<a href="(.*?)">more on this page', text)
    assert len(listed(client.get(unescape(longer)).text)) == 250


def test_calls_are_sorted_by_another_column(page: Page) -> None:
    text = page.inside().get("/calls?sort=call_id&limit=5").text
    assert listed(text) == ["c0@a", "c10@a", "c11@a", "c12@a", "c13@a"]
    assert '<th scope="col" class="wider" aria-sort="ascending">' in text


def test_a_time_with_another_offset_than_now_says_so(tmp_path: Path, live_in: Callable[[str], None]) -> None:
    live_in("Europe/Berlin")
    winter = datetime.now().astimezone().utcoffset() == timedelta(hours=1)
    times = {"summer": "2026-07-01T10:00:00+02:00", "winter": "2026-02-01T10:00:00+01:00"}
    calls = [call(name, int(datetime.fromisoformat(when).timestamp() * 1e6)) for name, when in times.items()]
    text = page_of(store(tmp_path, *calls)).inside().get("/calls").text
    marked = re.findall(r'>(2026-\d\d)-01 10:00:00<span class="ms">\.000(\S*?)</span>', text)
    assert marked == [("2026-07", "+0200" if winter else ""), ("2026-02", "" if winter else "+0100")]


def test_all_calls_are_sorted_even_if_a_page_has_fewer(tmp_path: Path) -> None:
    calls = [call(f"n{number}@a", at("10:00:00") + number * 1_000_000) for number in range(30)]
    client = page_of(store(tmp_path, *calls), Limits(rows=20)).inside()
    text = client.get("/calls?sort=call_id&limit=10&until=2026-11-22T10:00:15Z").text
    assert "there are more" in text
    assert "were sorted" not in text
    assert "The latest 20 calls were sorted, and there are more" in client.get("/calls?sort=call_id&limit=10").text


def test_what_cannot_be_read_is_said_everywhere(tmp_path: Path) -> None:
    page = page_of(store(tmp_path, call("one@a")))
    (path,) = tmp_path.glob("*.parquet")
    path.write_bytes(b"PAR1" + b"x" * 2000)
    client = page.inside()
    for address in ("/calls", "/live", "/overview", "/call/one@a"):
        assert str(path) in client.get(address).text, address
    link = SHARED + Shared("one@a", 1 << 40).signed(page.desk.keys.signing)
    answer = page.client().get(link)
    assert (answer.status_code, "not everything could be read" in answer.text) == (404, True)
    assert str(tmp_path) not in answer.text


def test_no_search_lists_more_than_it_may(tmp_path: Path) -> None:
    calls = [call(f"n{number}@a", at("10:00:00") + number * 1_000_000) for number in range(30)]
    client = page_of(store(tmp_path, *calls), Limits(rows=10)).inside()
    for path in ("/calls", "/calls?limit=1000", "/calls?limit=0", "/calls?sort=call_id"):
        text = client.get(path).text
        assert len(listed(text)) == 10
        assert "there are more" in text


class Waiting:
    """A shelf whose only segment is read as far as it is let."""

    def __init__(self, folder: Path) -> None:
        (self._inner,) = open_shelves(folders=[str(folder)])[0]
        self.reading = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()

    def segments(self) -> Iterator[Shelved]:
        for shelved in self._inner.segments():
            yield WaitingSegment(shelved.backend, shelved.stored, shelved.node, shelf=self)

    def __str__(self) -> str:
        return "a slow store"


class WaitingSegment(Shelved):
    def __init__(self, *args: object, shelf: Waiting) -> None:
        super().__init__(*args)  # type: ignore[arg-type]  # as Shelved has them
        object.__setattr__(self, "shelf", shelf)

    def search(self, query: Query) -> Iterator[Record]:
        shelf: Waiting = self.shelf  # type: ignore[attr-defined]  # set above
        try:
            for record in super().search(query):
                yield record
                shelf.reading.set()
                shelf.go_on.wait(30)
        finally:
            shelf.ended.set()


def test_a_search_that_takes_too_long_ends_with_what_it_found(tmp_path: Path) -> None:
    shelf = Waiting(store(tmp_path, call("one@a"), call("two@a", at("10:40:00"))))
    page_of(tmp_path).inside().get("/calls")  # what takes long the first time is not to be what takes too long
    client = page_of(tmp_path, Limits(seconds=0.3), shelves=[shelf]).inside()
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(client.get("/calls").text))
    thread.start()
    assert shelf.reading.wait(10)
    thread.join(0.6)
    shelf.go_on.set()
    thread.join(20)
    assert "It took longer than 0.3 s: this is what was found by then" in answers[0]
    assert "</html>" in answers[0]


def test_only_so_many_searches_run_at_once(tmp_path: Path) -> None:
    shelf = Waiting(store(tmp_path, call("one@a")))
    page = page_of(tmp_path, Limits(searches=1, patience=0), shelves=[shelf])
    client = page.inside()
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(client.get("/calls").text))
    thread.start()
    assert shelf.reading.wait(10)
    for path in ("/calls?user=alice", "/call/one@a", "/download/pcap/one@a", "/live", "/overview"):
        answer = page.inside().get(path)
        assert answer.status_code == 503
        assert "no more may at once" in answer.text
        assert answer.headers["retry-after"] == "5"
    shelf.go_on.set()
    thread.join(20)
    assert listed(answers[0]) == ["one@a"]
    assert page.inside().get("/calls").status_code == 200


def test_one_more_search_waits_for_a_moment(tmp_path: Path) -> None:
    shelf = Waiting(store(tmp_path, call("one@a")))
    page = page_of(tmp_path, Limits(searches=1, patience=60), shelves=[shelf])
    answers: list[str] = []
    client = page.inside()
    threads = [threading.Thread(target=lambda: answers.append(client.get("/calls").text)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert shelf.reading.wait(10)
    shelf.go_on.set()
    for thread in threads:
        thread.join(20)
    assert list(map(listed, answers)) == [["one@a"], ["one@a"]]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(store(tmp_path_factory.mktemp("bad"), *hostile()))


@pytest.mark.parametrize("path", ["/calls", "/live"])
def test_no_header_becomes_markup(bad: Page, path: str) -> None:
    text = bad.inside().get(path).text
    assert "<script>" not in text
    assert "<b onclick" not in text
    assert "<img" not in text
    assert "\u202e" not in text
    assert "&lt;b onclick=alert(1)&gt;x&lt;/b&gt;\\u202e" in text


@pytest.mark.parametrize("call_id", HOSTILE)
def test_every_call_is_reached_from_the_list(bad: Page, call_id: str) -> None:
    client = bad.inside()
    shown = call_id.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    href = call_path("/call", shown)
    links = [
        unescape(one) for one in re.findall(r'<th scope="row" class="time"><a href="(.*?)"', client.get("/calls").text)
    ]
    assert href in links
    answer = client.get(href)
    assert answer.status_code == 200
    assert "\u202e" not in answer.text
    assert "<script>" not in answer.text


def test_bytes_that_are_not_utf_8_are_found_as_they_were_on_the_wire(bad: Page) -> None:
    client = bad.inside()
    assert client.get("/call/bytes-%ff%fe@x").status_code == 200
    assert client.get("/call/" + quote("bytes-\\xff\\xfe@x")).status_code == 200
    assert client.get("/call/a/b/..%2Fc%252f%20d").status_code == 200


class TestRedaction:
    """What ``--redact`` masks is on no page, and users are found by what stands in the store for them."""

    @pytest.fixture
    def masked(self, tmp_path: Path) -> Page:
        redactor = redactor_of(Namespace(redact=[parse_redact("users,credentials")]))
        store(tmp_path, call("one@a", caller="alice", headers='Authorization: Digest response="5ecret"\r\n'))
        return page_of(tmp_path, redactor=redactor)

    @pytest.mark.parametrize(
        "path",
        [
            "/calls",
            "/live",
            "/call/one@a",
            "/download/text/one@a",
            "/download/pcap/one@a",
            "/download/json/one@a",
            "/download/html/one@a",
            "/overview",
        ],
    )
    def test_no_page_shows_what_is_masked(self, masked: Page, path: str) -> None:
        answer = masked.inside().get(path)
        assert answer.status_code == 200
        assert b"alice" not in answer.content.replace(b'placeholder="user=alice', b"").replace(b"a user, as alice", b"")
        assert b"5ecret" not in answer.content

    def test_users_are_found_by_their_names(self, masked: Page) -> None:
        assert listed(masked.inside().get("/calls?user=alice").text) == ["one@a"]
        assert listed(masked.inside().get("/calls?user=nobody").text) == []

    def test_live_shows_it_masked_too(self, masked: Page) -> None:
        hub = masked.desk.hub
        viewer = hub.join(Query(), lambda: None)
        live = hub._live
        assert live is not None
        live.feed(call("two@a", caller="alice"))
        live._publish(call("three@a", caller="alice"))
        text = hub.events(viewer)
        hub.leave(viewer)
        assert "three@a" in text
        assert "alice" not in text


def test_no_word_names_a_file(page: Page) -> None:
    for path in ("/calls?users-key=/etc/passwd", "/live?users-key=/etc/passwd", "/overview?users-key=/etc/passwd",
                 "/live/events?users-key=/etc/passwd", "/calls?line=users-key%3D/etc/passwd"):  # fmt: skip
        answer = page.inside().get(path)
        assert answer.status_code == 400
        assert "is not a filter" in unescape(answer.text)
