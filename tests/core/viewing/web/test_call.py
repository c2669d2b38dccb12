"""The page of a call, its files, and the link that shows it to others."""

import json
import re
import time
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipdump_core.viewing.web import desk
from sipdump_core.viewing.web.addresses import Shared, call_path, named_call
from sipdump_core.viewing.web.gate import HEADERS
from sipdump_core.viewing.web.views import call as view
from tests.core.reading.traffic import call, store
from tests.core.viewing.web.client import BASE, Page, page_of
from tests.core.viewing.web.legs import HOSTILE, LEGS, hostile, three_legs


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(store(tmp_path_factory.mktemp("store"), *three_legs(), *hostile(), call("other@a")))


def test_a_call_has_what_happened_its_ladder_its_messages_and_its_media(page: Page) -> None:
    text = unescape(page.inside().get(f"/call/{LEGS[0]}").text)
    assert "ended by the caller, 200 OK" in text
    assert "Post-dial delay" in text
    assert text.count('<a href="#m') >= 26
    assert 'id="m1"' in text
    assert "m=audio 4002 RTP/AVP 8 0 101" in text
    assert "192.0.2.10:4002" in text
    assert "PCMA, PCMU, telephone-event" in text
    assert "+0.500 s" in text
    assert f'href="/call/{LEGS[1]}"' in text
    assert "(x-cid)" in text


def test_the_legs_are_drawn_together(page: Page) -> None:
    text = page.inside().get(f"/call/{LEGS[0]}?legs=1").text
    for leg in LEGS:
        assert leg in text
    assert "Leg C" in text
    assert text.count('<section class="message"') == 63
    assert f"/download/pcap/{LEGS[0]}?legs=1" in text


def test_a_call_that_is_not_there(page: Page) -> None:
    answer = page.inside().get("/call/nosuch%3Cb%3E@a")
    assert answer.status_code == 404
    assert "Nothing is stored of nosuch&lt;b&gt;@a." in answer.text


def test_a_ladder_of_very_many_messages_is_cut_and_says_so(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_STEPS", 10)
    text = page.inside().get(f"/call/{LEGS[0]}").text
    assert text.count('<section class="message"') == 10
    assert "10 of 26 messages are shown; the files have all." in text


def test_of_a_call_of_a_million_messages_only_some_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_MOST", 10)
    client = page_of(store(tmp_path, *three_legs())).inside()
    text = client.get(f"/call/{LEGS[0]}").text
    assert "there are more than 10 messages, and no more are shown" in text
    assert text.count('<section class="message"') <= 10


@pytest.mark.parametrize(
    ("form", "begins", "kind"),
    [
        ("pcap", b"\xd4\xc3\xb2\xa1", "application/vnd.tcpdump.pcap"),
        ("pcapng", b"\x0a\x0d\x0d\x0a", "application/x-pcapng"),
        ("text", b"Call-ID:", "text/plain; charset=utf-8"),
        ("html", b"<!DOCTYPE html>", "text/html; charset=utf-8"),
        ("json", b"{", "application/json"),
    ],
)
def test_a_call_can_be_had_as_a_file_and_that_is_logged(
    page: Page, form: str, begins: bytes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sipdump")
    answer = page.inside().get(f"/download/{form}/{LEGS[0]}")
    assert answer.status_code == 200
    assert answer.content.startswith(begins)
    assert answer.headers["content-type"] == kind
    assert answer.headers["content-disposition"].startswith(f'attachment; filename="{LEGS[0]}.')
    assert all(answer.headers[name] == value for name, value in HEADERS.items())
    assert f"export format={form} call_id={LEGS[0]}" in caplog.text
    assert b"leg-b" in page.inside().get(f"/download/{form}/{LEGS[0]}?legs=1").content


def test_nothing_stays_on_disk(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert page.inside().get(f"/download/pcapng/{LEGS[0]}").status_code == 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call_id", HOSTILE)
@pytest.mark.parametrize("form", ["pcap", "text", "html", "json"])
def test_no_call_id_is_more_than_a_file_name(page: Page, call_id: str, form: str) -> None:
    shown = call_id.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    answer = page.inside().get(call_path(f"/download/{form}", shown))
    assert answer.status_code == 200
    name = re.fullmatch(r"attachment; filename=\"([A-Za-z0-9@._-]+)\"; filename\*=UTF-8''\S+",
                        answer.headers["content-disposition"])  # fmt: skip
    assert name
    assert not name[1].startswith(".")
    assert len(name[1]) < 100
    if form != "pcap":
        assert "\u202e" not in answer.text
    if form == "html":
        assert "<script>" not in answer.text
    if form == "json":
        assert json.loads(answer.text)["calls"][0]["call_id"] == shown


def shared_link(page: Page, call_id: str = LEGS[0], more: str = "") -> str:
    text = page.inside().get(f"/share/{call_id}?hours=1{more}").text
    link = re.search(r'value="(http[^"]*)"', text)
    assert link
    assert link[1].startswith(BASE + "/shared/")
    return urlsplit(link[1]).path


class TestShare:
    def test_a_link_shows_one_call_to_somebody_who_has_no_token(self, page: Page) -> None:
        answer = page.client().get(shared_link(page))
        assert answer.status_code == 200
        assert "ended by the caller" in answer.text
        assert answer.text.count('<section class="message"') == 26
        assert "set-cookie" not in answer.headers

    def test_it_says_nothing_of_others_and_leads_nowhere(self, page: Page) -> None:
        link = shared_link(page)
        text = page.client().get(link).text
        for other in (LEGS[1], LEGS[2], "/calls", "/live", "/overview", "/share/", 'href="/call', "/tmp"):
            assert other not in text
        hrefs = [one for one in re.findall(r'(?:href|src)="(.*?)"', text) if not one.startswith("#")]
        assert hrefs
        assert all(one.startswith(f"{link}/") for one in hrefs)
        for one in hrefs:
            assert page.client().get(one).status_code == 200

    def test_its_files_are_of_this_call_alone(self, page: Page) -> None:
        link = shared_link(page)
        content = page.client().get(f"{link}/download/json?legs=1&id=other@a").text
        assert [one["call_id"] for one in json.loads(content)["calls"]] == [LEGS[0]]
        assert page.client().get(f"{link}/download/pcap/other@a").status_code == 404

    def test_with_its_legs_if_the_sender_wants_it(self, page: Page) -> None:
        text = page.client().get(shared_link(page, more="&legs=1")).text
        assert LEGS[1] in text
        assert "other@a" not in text

    @pytest.mark.parametrize("rest", ["/calls", "/live/events", "/call/other@a", "/../calls", "/x", "/static/nosuch"])
    def test_nothing_else_is_behind_it(self, page: Page, rest: str) -> None:
        assert page.client().get(BASE + shared_link(page) + rest).status_code in (401, 403, 404)

    def test_its_time_ends(self, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
        link = shared_link(page)
        now = time.time()
        monkeypatch.setattr("sipdump_core.viewing.web.addresses.time.time", lambda: now + 3590)
        assert page.client().get(link).status_code == 200
        monkeypatch.setattr("sipdump_core.viewing.web.addresses.time.time", lambda: now + 3601)
        answer = page.client().get(link)
        assert answer.status_code == 403
        assert "Its time is up" in answer.text

    def test_it_ends_with_the_process(self, page: Page, tmp_path: Path) -> None:
        assert page_of(store(tmp_path, *three_legs())).client().get(shared_link(page)).status_code == 403

    def test_only_who_is_in_can_share(self, page: Page) -> None:
        assert page.client().get(f"/share/{LEGS[0]}?hours=1").status_code == 401

    @pytest.mark.parametrize("hours", ["0", "-1", "99999", "x", "1e9", "²"])
    def test_a_link_lasts_only_so_long(self, page: Page, hours: str) -> None:
        assert "/shared/" not in page.inside().get(f"/share/{LEGS[0]}?hours={hours}").text

    @given(st.text(max_size=60), st.integers(0, 2**40), st.booleans(), st.binary(min_size=32, max_size=32))
    def test_what_was_signed_is_opened(self, call_id: str, until: int, legs: bool, key: bytes) -> None:
        shared = Shared(call_id, until, legs)
        assert Shared.opened(shared.signed(key), key, now=until - 1) == shared
        assert Shared.opened(shared.signed(key), key, now=until) is None

    @given(st.data())
    def test_no_other_text_is_opened(self, data: st.DataObject) -> None:
        key = b"k" * 32
        signed = Shared("one@a", 100).signed(key)
        at = data.draw(st.integers(0, len(signed) - 1))
        other = signed[:at] + data.draw(st.characters(max_codepoint=127)) + signed[at + 1 :]
        if other != signed:
            assert Shared.opened(other, key, now=1) is None
        assert Shared.opened(data.draw(st.text()), key, now=1) is None


@given(st.text(min_size=1, max_size=50))
def test_every_call_id_comes_back_from_its_address(call_id: str) -> None:
    parts = urlsplit(call_path("/call", call_id))
    scope = {"raw_path": parts.path.encode("ascii"), "query_string": parts.query.encode("ascii")}
    assert named_call(scope, "/call/") == call_id
    assert "/" not in parts.path.removeprefix("/call/")
