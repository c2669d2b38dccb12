"""The page in a real browser: search, a call, its messages and files, live traffic, links, strangers, hostile content.

Each view is looked at in light and dark, 360 and 1,440 pixels wide: nothing is wider than the screen, and axe finds
nothing serious. The pictures stay in the folder that SIPDUMP_PICTURES names, if it names one.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium.webdriver.common.keys import Keys

from tests.core.reading.traffic import at, call, register, store
from tests.core.viewing.web.legs import HOSTILE, LEGS, hostile, three_legs
from tests.e2e.browser import Browser, browser, missing
from tests.e2e.peers import SCENARIOS, Child, Stage, free_port, lacking, need, read_pcap

pytestmark = pytest.mark.peer

WIDTHS = (360, 1440)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module", autouse=True)
def _there_is_a_browser() -> None:
    if absent := missing():
        lacking(f"not installed: {absent}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    calls = [
        call(f"call-{number}@192.0.2.10", at("10:00:00") + number * 7_000_000,
             status=[200, 200, 200, 486, 503][number % 5], caller=f"user{number % 17}", callee=f"phone{number % 5}",
             headers=f"User-Agent: {['Snom/10', 'Yealink SIP-T46U', 'Linphone/5.2'][number % 3]}\r\n")
        for number in range(150)
    ]  # fmt: skip
    return store(tmp_path_factory.mktemp("store"), *calls, *three_legs(), register())


@pytest.fixture(scope="module")
def surfer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


class Site(Child):
    """The page, running."""

    @property
    def url(self) -> str:
        """The address that it printed, with the token."""
        found = re.search(r"open (http\S+)", self.output())
        assert found
        return found[1]

    @property
    def base(self) -> str:
        return self.url.partition("/?")[0]


def serve(stage: Stage, *options: str | Path) -> Site:
    argv = [sys.executable, "-m", "sipdump_core.reading", "web", "--listen", "127.0.0.1:0", *options]
    site = Site(argv, stage.path("web.log"), {"PYTHONUNBUFFERED": "1"})
    stage._keep(site)
    site.says("open http")
    return site


def is_well(surfer: Browser) -> None:
    """Check that nothing was complained about, and that nobody else was asked for anything."""
    assert surfer.complaints() == []
    assert surfer.asked() <= {"127.0.0.1"}


def picture(surfer: Browser, name: str) -> None:
    """Take the picture that the documentation shows."""
    if folder := os.environ.get("SIPDUMP_PICTURES"):
        surfer.colours("light")
        surfer.size(1100, 620)
        surfer.shot(Path(folder, f"web-{name}.png"))
        surfer.size(1440)


def looks(surfer: Browser, name: str, *, axe: bool = True) -> None:
    """Look at the page that is open in all ways; what axe says depends on colours and width only in a part."""
    for scheme in SCHEMES:
        surfer.colours(scheme)
        for width in WIDTHS:
            surfer.size(width)
            assert surfer.overflow() <= 0, f"{name} is wider than {width} pixels"
            if folder := os.environ.get("SIPDUMP_PICTURES"):
                surfer.shot(Path(folder, f"{name}-{scheme}-{width}.png"))
        if axe:
            assert surfer.axe("" if scheme == "light" else "color-contrast") == [], f"{name}, {scheme}"


def test_search_call_message_download(stage: Stage, folder: Path, surfer: Browser, tmp_path: Path) -> None:
    site = serve(stage, "--folder", folder)
    surfer.open(site.url)
    surfer.shows("Find a call")
    looks(surfer, "search")
    surfer.find("#line").send_keys("user=alice state=ended", Keys.ENTER)
    surfer.shows("3 calls")
    assert surfer.driver.current_url == f"{site.base}/calls?user=alice&state=ended"
    rows = surfer.all("tbody tr")
    assert [row.find_elements("css selector", "td")[-1].text for row in rows] == [*LEGS[::-1]]
    surfer.open(f"{site.base}/calls")
    surfer.shows("100 calls, and there are more")
    looks(surfer, "calls")
    picture(surfer, "calls")
    surfer.open(f"{site.base}/calls?user=alice&state=ended")
    surfer.all("tbody tr")[-1].find_element("css selector", "a").click()
    surfer.shows("ended by the caller")
    looks(surfer, "call")
    surfer.find("a[href$='legs=1']").click()
    surfer.shows("Leg C")
    looks(surfer, "legs", axe=False)
    picture(surfer, "call")
    surfer.find(".ladder a[href='#m3']").click()
    surfer.shows("3. INVITE (SDP)", "#m3")
    assert "m=audio 4002" in surfer.text("#m3 pre")
    looks(surfer, "message", axe=False)
    picture(surfer, "message")
    surfer.find("body").send_keys("j")
    surfer.shows("4. INVITE", "#m4")
    surfer.find("body").send_keys(Keys.ESCAPE)
    assert not surfer.find("#m4").is_displayed()
    surfer.find("a[href*='/download/pcap/']").click()
    downloads = Path(surfer.folder, "downloads")
    site.until(lambda: list(downloads.glob("*.pcap")), "the file is there")
    (path,) = downloads.glob("*.pcap")
    assert len(list(read_pcap(path))) == 66
    site.says("event=export format=pcap")
    is_well(surfer)


def test_the_overview(stage: Stage, folder: Path, surfer: Browser) -> None:
    site = serve(stage, "--folder", folder)
    surfer.open(site.url)
    surfer.find("a[href='/overview']").click()
    surfer.shows("Overview", "h1")
    looks(surfer, "overview")
    picture(surfer, "overview")
    is_well(surfer)


def test_live_with_kamailio(stage: Stage, surfer: Browser) -> None:
    need("kamailio", "sipp")
    daemon = stage.sipdumpd(mode=16)
    callee = free_port()
    server = stage.kamailio(hep=f"sip:127.0.0.1:{daemon.port}", uas=f"sip:127.0.0.1:{callee}")
    site = serve(stage, "--folder", daemon.folder)
    surfer.open(site.url)
    surfer.open(f"{site.base}/live")
    surfer.shows("Following")
    answering = stage.sipp(SCENARIOS / "callee.xml", callee)
    calling = stage.sipp(SCENARIOS / "caller.xml", free_port(), target=f"127.0.0.1:{server.port}")
    surfer.shows("ended", "#live-calls")
    assert (calling.wait(), answering.wait()) == (0, 0)
    surfer.shows("BYE", "#live-messages")
    looks(surfer, "live")
    picture(surfer, "live")
    surfer.find("#pause").click()
    surfer.shows("Paused")
    link = surfer.find("#live-calls a")
    link.click()
    surfer.shows("Ladder")
    surfer.shows("INVITE", "main")
    is_well(surfer)


def test_without_javascript(stage: Stage, folder: Path, tmp_path: Path) -> None:
    site = serve(stage, "--folder", folder)
    with browser(tmp_path, script=False) as plain:
        plain.open(site.url)
        plain.find("#f-user").send_keys("alice", Keys.ENTER)
        plain.shows("Calls with", "h1")
        plain.find("tbody a").click()
        plain.shows("Ladder")
        plain.find(".ladder a[href='#m1']").click()
        plain.shows("INVITE", "#m1 h2")
        plain.find("#m1 nav a:last-child").click()
        assert not plain.find("#m1").is_displayed()
        plain.open(f"{site.base}/live")
        plain.shows("Without JavaScript this page shows the latest calls")
        assert len(plain.all("tbody tr")) == 50
        plain.open(f"{site.base}/overview")
        plain.shows("Overview", "h1")


def test_a_link_that_was_shared(stage: Stage, folder: Path, surfer: Browser, tmp_path: Path) -> None:
    site = serve(stage, "--folder", folder)
    surfer.open(site.url)
    surfer.open(f"{site.base}/call/{LEGS[0]}")
    surfer.find("a[href^='/share/']").click()
    surfer.find("form.short button").click()
    link = surfer.find("#link").get_attribute("value") or ""
    assert link.startswith(f"{site.base}/shared/")
    looks(surfer, "share")
    is_well(surfer)
    with browser(tmp_path) as other:
        other.open(link)
        other.shows("a call that was shared with you")
        other.shows("Ladder")
        other.find(".ladder a[href='#m1']").click()
        other.shows("INVITE", "#m1 h2")
        looks(other, "shared")
        is_well(other)
        for path in ("/", "/calls", f"/call/{LEGS[0]}", f"/call/{LEGS[1]}", "/live", "/overview"):
            other.open(site.base + path)
            other.shows("Who are you?")


def test_a_stranger(stage: Stage, folder: Path, tmp_path: Path) -> None:
    site = serve(stage, "--folder", folder)
    with browser(tmp_path) as stranger:
        for path, title in (
            ("/", "Who are you?"),
            ("/calls", "Who are you?"),
            ("/?token=wrong", "This token is wrong"),
        ):
            stranger.open(site.base + path)
            stranger.shows(title, "h1")
        looks(stranger, "wrong-token")
        for complaint in stranger.complaints():  # the status itself is all that a browser says of it
            assert "401 (Unauthorized)" in complaint or "403 (Forbidden)" in complaint
        stranger.open(site.base.replace("127.0.0.1", "rebound.localhost") + "/")
        stranger.shows("Refused", "h1")


def test_hostile_content(stage: Stage, tmp_path: Path, surfer: Browser) -> None:
    site = serve(stage, "--folder", store(tmp_path, *hostile()))
    surfer.open(site.url)
    surfer.open(f"{site.base}/calls")
    surfer.shows(f"{len(HOSTILE)} calls")
    looks(surfer, "hostile-calls")
    links = [link.get_attribute("href") or "" for link in surfer.all("tbody a")]
    for link in links:
        surfer.open(link)
        surfer.shows("Ladder")
        surfer.find(".ladder a[href='#m2']").click()
        assert "<script>alert(3)</script>" in surfer.text("#m2")
        assert surfer.driver.title != "taken"
        assert surfer.overflow() <= 0
    looks(surfer, "hostile-call")
    surfer.open(f"{site.base}/live")
    surfer.shows("Following")
    surfer.open(f"{site.base}/calls?line={quote('<script>alert(1)</script> colour=red')}")
    surfer.shows("not a filter")
    complaints = [one for one in surfer.complaints() if "400 (Bad Request)" not in one]
    assert complaints == []
    assert surfer.asked() <= {"127.0.0.1"}
