"""The page of the overview: what its links find, what it says of stores and daemons, and what it lets through."""

import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sipdump_core.calls.legs import LegRules
from sipdump_core.drivers.query import Query
from sipdump_core.reading.overview import Overview, measure
from sipdump_core.reading.searched import Searched
from sipdump_core.reading.shelves import open_shelves
from sipdump_core.reading.store import Store
from sipdump_core.record import Record
from sipdump_core.viewing.daemons import ask, daemons
from sipdump_core.viewing.web import dashboard
from sipdump_core.viewing.web.app import make_app
from sipdump_core.viewing.web.desk import Desk
from sipdump_core.viewing.web.gate import Keys, Places
from sipdump_core.viewing.web.limits import Limits
from sipdump_core.viewing.web.pages import Pages
from sipdump_core.viewing.web.streaming import FLUSH
from sipdump_core.viewing.words import Search
from tests.core.reading.traffic import at, call, register, store

TEN = at("10:00:00")
MINUTE = 60_000_000
NOW = datetime(2026, 11, 23, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script>&\u202e'


def phone(name: str) -> str:
    return f"User-Agent: {name}\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calls of each outcome, in two bursts; some answers come in a later bucket than their INVITE."""
    calls: list[Sequence[Record]] = []
    for number, status in enumerate((200, 200, 486, 503, 404, 487, 408, 302, 500, 603)):
        for burst in range(2):
            time_us = TEN + burst * 10 * MINUTE + number * 2_900_000
            agent = phone(f"Phone/{number % 3}") if number % 4 else ""
            dst = f"203.0.113.{number % 2 + 1}"
            calls.append(call(f"{status}-{number}-{burst}@a", time_us, status=status, headers=agent, dst=dst))
    calls.append(call("hostile@a", TEN + MINUTE, status=500, headers=phone(HOSTILE), caller=HOSTILE[:20]))
    calls.append(call("leg@b", TEN + 1000, status=503, headers="X-CID: 200-0-0@a\r\n"))
    calls.append(register("reg@a", TEN, 401, 200, 503))
    return store(tmp_path_factory.mktemp("store"), *calls)


def client(folder: Path, *, seconds: float = 30.0, configs: Sequence[str] = ()) -> TestClient:
    shelves, _ = open_shelves(folders=[str(folder)])
    keys = Keys()
    desk = Desk(shelves, LegRules(), Pages([str(folder)]), keys, Limits(seconds), configs=configs)
    app = make_app(desk, Places.local("127.0.0.1", 8080))
    return TestClient(
        app,
        base_url="http://127.0.0.1:8080",
        headers={"Authorization": f"Bearer {keys.token}"},
        raise_server_exceptions=False,
    )


def measured(folder: Path, **query: object) -> Overview:
    return measure(Store.open(folders=folder), Query(**query), Searched())  # type: ignore[arg-type]


def behind(folder: Path, url: str) -> set[str]:
    """Return the Call-IDs that a link finds."""
    path, _, query = url.partition("?")
    assert path == "/calls"
    found = Store.open(folders=folder).find(Search.from_url(query).query(NOW), Searched())
    return {one.summary.call_id for one in found}


def test_each_bar_of_calls_finds_the_calls_that_it_counts(folder: Path) -> None:
    overview = measured(folder)
    outcomes = dashboard.charts(overview, dashboard.Links("/", ()))[0]
    counted = 0
    for series in outcomes.series:
        for amount in series.amounts:
            if amount.value:
                assert len(behind(folder, amount.url)) == amount.value, amount.url
                counted += int(amount.value)
    assert counted == overview.total.sessions()["attempts"] == 21


def test_each_failure_finds_the_calls_that_it_counts(folder: Path) -> None:
    by_status, by_agent, by_target = dashboard.rankings(measured(folder), dashboard.Links("/", ()))
    assert {name: amount.value for name, amount, _ in by_status.rows} == {
        "503": 2, "500": 3, "486": 2, "404": 2, "408": 2, "302": 2, "603": 2,
    }  # fmt: skip
    for ranking in (by_status, by_agent, by_target):
        for name, amount, _ in ranking.rows:
            if amount.url:
                assert len(behind(folder, amount.url)) == amount.value, (ranking.title, name)
    # who has no name cannot be asked for
    assert [(name, amount.url) for name, amount, _ in by_agent.rows if not amount.url] == [("none", "")]


def test_points_of_lines_find_the_calls_that_they_measure(folder: Path) -> None:
    ratios, delays = dashboard.charts(measured(folder), dashboard.Links("/", ()))[1:3]
    bucket = next(each for each in measured(folder).buckets if each.tally.states)
    for chart in (ratios, delays):
        point = chart.series[0].amounts[0]
        assert len(behind(folder, point.url)) == bucket.tally.sessions()["attempts"]
    assert "sort=-post_dial_delay" in delays.series[0].amounts[0].url


def test_bars_of_messages_find_the_calls_with_such_messages(folder: Path) -> None:
    overview = measured(folder)
    found = {chart.key: chart for chart in dashboard.charts(overview, dashboard.Links("/", ()))}
    requests = {series.name: series for series in found["requests"].series}
    registers = [amount for amount in requests["REGISTER"].amounts if amount.value]
    assert all(behind(folder, amount.url) == {"reg@a"} for amount in registers)
    failures = next(series for series in found["replies"].series if series.name == "6xx")
    urls = [amount.url for amount in failures.amounts if amount.value]
    assert [behind(folder, url) for url in urls] == [{"603-9-0@a"}, {"603-9-1@a"}]


def test_links_keep_the_filters_of_the_page(folder: Path) -> None:
    search = Search.parse("ip=203.0.113.1 status=5xx last=10d state=failed")
    overview = measured(folder, endpoints=["203.0.113.1"])
    (by_status, *_) = dashboard.rankings(overview, dashboard.Links("/", search.filters.words))
    url = by_status.rows[0][1].url
    words = Search.from_url(url.partition("?")[2]).words
    assert ("ip", "203.0.113.1") in words
    assert [value for name, value in words if name == "status"] == [by_status.rows[0][0]]
    assert not any(name == "last" for name, _ in words)


def test_the_page(folder: Path) -> None:
    answer = client(folder).get("/overview")
    assert answer.status_code == 200
    text = answer.text
    assert "style=" not in text
    assert re.findall(r"<script(?![^>]* src=)", text) == []
    for chart in ("outcomes", "ratios", "pdd", "setup", "requests", "replies", "registrations"):
        assert f'id="{chart}"' in text
    # all that the network made up is text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;\\u202e" in text
    assert "parquet" in text
    assert text.count("<svg") == text.count("</svg>")


def test_every_link_of_the_page_is_understood(folder: Path) -> None:
    page = client(folder)
    text = page.get("/overview?ip=203.0.113.0/24").text
    links = {unescape(link) for link in re.findall(r'href="(/(?:calls|overview)\?[^"]*)"', text)}
    assert len(links) > 50
    for link in links:
        Search.from_url(link.partition("?")[2]).query(NOW)
    spans = [link for link in links if link.startswith("/overview")]
    assert all(page.get(span).status_code == 200 for span in spans[:2])


def test_a_span_and_its_mistakes(folder: Path) -> None:
    page = client(folder)
    text = page.get("/overview?since=2026-11-22T10:09:00Z&until=2026-11-22T10:12:00Z").text
    assert "<dd>10<small>attempts" in text
    assert "There is no message in this span" in page.get("/overview?since=2020-01-01&until=2020-01-02").text
    for wrong in ("since=tomorrowish", "nosuch=1", "since=2026-01-02&until=2026-01-01"):
        assert page.get(f"/overview?{wrong}").status_code == 400


def test_json_is_that_of_stats(folder: Path) -> None:
    told = client(folder).get("/overview.json").json()
    assert told["total"]["sessions"] == measured(folder).total.sessions()
    assert told["notes"] == told["problems"] == []


def test_the_head_is_sent_before_the_store_is_read(folder: Path) -> None:
    shelves, _ = open_shelves(folders=[str(folder)])
    desk = Desk(shelves, LegRules(), Pages([str(folder)]), Keys(), Limits())
    read: list[str] = []

    class Numbers:
        @property
        def numbers(self) -> None:
            read.append("numbers")

    pieces = desk.pages.pieces("overview.html", page=Numbers(), search=Search(), flush=FLUSH)
    head = "".join(iter(lambda: next(pieces), FLUSH))
    assert "Reading" in head
    assert read == []


def test_an_empty_store(tmp_path: Path) -> None:
    text = client(tmp_path).get("/overview").text
    assert "There is no message in this span" in text
    assert "There is no segment" in text


def test_time_that_is_up(folder: Path) -> None:
    text = client(folder, seconds=1e-6).get("/overview").text
    assert "It took longer than" in text


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """A configuration whose daemon takes connections, and never answers."""
    path = tmp_path / "ctl"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield configuration(tmp_path, path)


def configuration(folder: Path, path: Path) -> Path:
    config = folder / "sipdumpd.cfg"
    config.write_text(
        f'loadmodule "sipdump.so"\nmodparam("sipdump", "folder", "{folder}")\n'
        f'modparam("sipdump_ctl", "binrpc", "unix:{path}")\n'
    )
    return config


def test_a_daemon_that_hangs_costs_less_than_a_second(folder: Path, hung: Path) -> None:
    began = time.monotonic()
    lanes, problems = ask(daemons([str(hung)] * 3, []), patience=0.3)
    assert lanes == []
    assert [problem.partition(": ")[0] for problem in problems] == [str(hung)] * 3
    assert "no answer from unix:" in problems[0]
    assert time.monotonic() - began < 10  # of a machine that does much else
    text = client(folder, configs=[str(hung)]).get("/overview").text
    assert "no answer from unix:" in text
    assert 'id="outcomes"' in text


def test_no_daemon_is_no_error(tmp_path: Path, folder: Path) -> None:
    gone = configuration(tmp_path, tmp_path / "nothing")
    assert ask(daemons([str(gone)], [])) == ([], [])
    bare = tmp_path / "bare.cfg"
    bare.write_text('loadmodule "sipdump.so"\n')
    assert daemons([str(bare)], []) == []
    text = client(folder, configs=[str(gone)]).get("/overview").text
    assert 'id="outcomes"' in text
    assert "<h2>Daemon</h2>" not in text
    assert "problem" not in text


def test_what_answers_strangely(tmp_path: Path) -> None:
    path = tmp_path / "ctl"
    known = daemons([str(configuration(tmp_path, path))], [])

    def answer(data: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(data)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=answer, args=(b"HTTP/1.1 400 Bad Request\r\n\r\n",))
        thread.start()
        lanes, problems = ask(known)
        thread.join()
    assert lanes == []
    assert len(problems) == 1
