"""Nobody gets in but who has the token, from a page of ours, and only to read."""

from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse, Response

from sipdump_core.viewing.web.gate import HEADERS, Places
from tests.core.reading.traffic import call, store
from tests.core.viewing.web.client import BASE, PORT, Page, page_of

PATHS = ["/", "/calls", "/call/one@a", "/live", "/live/events", "/overview", "/static/style.css", "/share/one@a",
         "/download/pcap/one@a", "/nosuch"]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(store(tmp_path_factory.mktemp("store"), call("one@a")))


def guarded(answer: object) -> bool:
    headers = getattr(answer, "headers")  # noqa: B009 - whatever client it came from
    return all(headers.get(name) == value for name, value in HEADERS.items())


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_there_is_nothing(page: Page, path: str) -> None:
    answer = page.client().get(path)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "one@a" not in answer.text
    assert guarded(answer)


@pytest.mark.parametrize("token", ["", "x", "ü", "%00", "A" * 43, "A" * 5000])
def test_a_wrong_token_is_refused(page: Page, token: str) -> None:
    answer = page.client().get(f"/?token={token}")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert guarded(answer)


def test_the_token_is_exchanged_for_a_cookie(page: Page) -> None:
    client = page.client()
    answer = client.get("/calls", params={"user": "alice", "token": page.desk.keys.token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/calls?user=alice")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"sipdump-{PORT}=")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "Max-Age" not in cookie
    assert "expires" not in cookie.lower()
    assert page.desk.keys.token not in cookie
    assert guarded(answer)
    assert client.get("/").status_code == 200


def test_from_another_page_our_own_page_asks_again_because_a_strict_cookie_would_not_come_along(page: Page) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = page.client().get("/call/%22%3E", params={"token": page.desk.keys.token}, headers=headers)
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/call/%22%3E">' in answer.text
    assert "set-cookie" in answer.headers


def test_bytes_that_are_not_utf_8_come_along_with_the_token(page: Page) -> None:
    answer = page.client().get(f"/calls?user=%ff&token={page.desk.keys.token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/calls?user=%FF")


def test_no_address_leads_to_another_host(page: Page) -> None:
    answer = page.client().get(BASE + "//evil.example/", params={"token": page.desk.keys.token})
    assert answer.headers["location"] == "/evil.example/"


def test_a_bearer_token_opens_it_too(page: Page) -> None:
    client = page.client()
    assert client.get("/", headers={"Authorization": f"Bearer {page.desk.keys.token}"}).status_code == 200
    assert client.get("/", headers={"Authorization": "Bearer x"}).status_code == 401
    assert client.get("/", headers={"Authorization": f"Basic {page.desk.keys.token}"}).status_code == 401


@pytest.mark.parametrize(
    "cookie", ["", "x", "sipdump-8080", "sipdump-8080=", "sipdump-8080=x; sipdump-8080=y", "=;;\x07=", "a" * 4000]
)
def test_another_cookie_does_not(page: Page, cookie: str) -> None:
    assert page.client().get("/", headers={"Cookie": cookie}).status_code == 401


def test_the_cookie_counts_beside_those_of_others(page: Page) -> None:
    cookie = f"a=b; sipdump-{PORT}=old; sipdump-{PORT}={page.desk.keys.session}; c[]=d"
    assert page.client().get("/", headers={"Cookie": cookie}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:81", "127.0.0.1:8080.evil.example", ""])
def test_another_host_is_refused_even_with_the_cookie(page: Page, host: str) -> None:
    client = page.inside()
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 403
    assert guarded(answer)


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080"])
def test_all_names_of_loopback_are_ours(page: Page, host: str) -> None:
    headers = {"Host": host, "Authorization": f"Bearer {page.desk.keys.token}"}
    assert page.client().get("/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1:8080"}, 403),
        ({"Origin": BASE}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_other_pages_get_nothing(page: Page, headers: dict[str, str], status: int) -> None:
    assert page.inside().get("/", headers=headers).status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/calls", "/call/one@a", "/nosuch"])
def test_only_get(page: Page, method: str, path: str) -> None:
    answer = page.inside().request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    assert guarded(answer)


@pytest.mark.parametrize("path", [*PATHS[:4], *PATHS[5:], "/calls?nosuch=1", "/calls?since=never", "/live?status=x"])
def test_every_answer_has_the_headers(page: Page, path: str) -> None:
    answer = page.inside().get(path)
    assert answer.status_code in (200, 303, 400, 404)
    assert guarded(answer)


def test_a_view_that_breaks_is_an_answer_with_the_headers(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(*_: object) -> Response:
        raise RuntimeError("a secret")

    gate = page_of(Path("/nonexistent"), shelves=[])
    gate.app._app = broken  # type: ignore[assignment]  # whatever is behind the gate
    answer = gate.inside().get("/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert guarded(answer)
    assert "a secret" in caplog.text


def test_no_view_can_loosen_the_policy(page: Page) -> None:
    gate = page_of(Path("/nonexistent"), shelves=[])
    gate.app._app = PlainTextResponse("x", headers={"Content-Security-Policy": "default-src *"})
    answer = gate.inside().get("/")
    assert answer.headers.get_list("content-security-policy") == [HEADERS["Content-Security-Policy"]]


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy


@pytest.mark.parametrize("path", ["/", "/calls", "/call/one@a", "/live", "/share/one@a", "/overview"])
def test_pages_have_neither_scripts_nor_styles_of_their_own(page: Page, path: str) -> None:
    text = page.inside().get(path).text
    assert "<style" not in text
    assert " style=" not in text
    assert "<script>" not in text
    assert " onclick" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/app.py",
        "/static/",
        "/download/../../etc/passwd/one@a",
        "/download/..%2f/one@a",
        "/download/parquet/one@a",
        "/call/../../etc/passwd",
    ],
)
def test_no_path_reaches_the_file_system(page: Page, path: str) -> None:
    answer = page.inside().get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


class TestBehindAProxy:
    def test_its_address_is_ours_and_loopback_too(self, tmp_path: Path) -> None:
        places = Places.local("127.0.0.1", PORT).behind("https://sip.example.com")
        page = page_of(store(tmp_path, call()), places=places)
        token = page.desk.keys.token
        answer = page.client("https://sip.example.com").get("/", params={"token": token})
        assert answer.status_code == 303
        assert answer.headers["set-cookie"].startswith("__Host-sipdump=")
        assert "Secure" in answer.headers["set-cookie"]
        for host in ("sip.example.com", "sip.example.com:443", "127.0.0.1:8080"):
            for origin in ("https://sip.example.com", "https://sip.example.com:443"):
                headers = {"Host": host, "Origin": origin, "Authorization": f"Bearer {token}"}
                assert page.client().get("/", headers=headers).status_code == 200
        for headers in ({"Host": "evil.example"}, {"Host": "sip.example.com", "Origin": "http://sip.example.com"}):
            assert page.client().get("/", headers={**headers, "Authorization": f"Bearer {token}"}).status_code == 403

    def test_without_an_address_the_proxy_checks_hosts_and_the_token_is_still_needed(self, tmp_path: Path) -> None:
        page = page_of(store(tmp_path, call()), places=Places.local("127.0.0.1", PORT).behind(None))
        headers = {"Host": "any.example", "Authorization": f"Bearer {page.desk.keys.token}"}
        assert page.client().get("/", headers=headers).status_code == 200
        assert page.client().get("/", headers={"Host": "any.example"}).status_code == 401
        assert page.client().get("/", headers={**headers, "Origin": "https://other.example"}).status_code == 403
        assert page.client().get("/", headers={**headers, "Origin": "https://any.example"}).status_code == 200
