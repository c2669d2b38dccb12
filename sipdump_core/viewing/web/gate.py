"""Who gets in: only who has the token, from a page of ours, to read; and what each answer tells the browser.

The checks follow OWASP's advice for services on localhost: ``Host`` is checked against DNS rebinding, ``Origin`` and
``Sec-Fetch-Site`` against other pages, the token against other users of the machine.
"""

import hmac
import secrets
from collections.abc import Collection, Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

import attrs
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sipdump_core.log import Event, Limit, log
from sipdump_core.viewing.web.addresses import SHARED
from sipdump_core.viewing.web.pages import Pages

__all__ = ["HEADERS", "Gate", "Keys", "Places", "log_export"]

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""What each answer has, also errors and downloads."""
_TOKEN_BYTES = 32


@attrs.frozen
class Keys:
    """The secrets of one process; they end with it."""

    token: str = attrs.field(factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES), repr=False)
    """Opens the page."""
    session: str = attrs.field(factory=lambda: secrets.token_urlsafe(_TOKEN_BYTES), repr=False)
    """The value of the cookie that the token is exchanged for."""
    signing: bytes = attrs.field(factory=lambda: secrets.token_bytes(_TOKEN_BYTES), repr=False)
    """Signs links that show one call."""


@attrs.frozen
class Places:
    """Where the page is reached.

    Args:
        hosts: values of ``Host`` that are ours, in lower case; None: any, because a proxy checks them.
        origins: values of ``Origin`` that are ours.
        secure: whether browsers reach it by HTTPS, through a proxy.
        cookie: the cookie's name: browsers share cookies between all ports of a machine.
    """

    hosts: frozenset[str] | None
    origins: frozenset[str]
    secure: bool
    cookie: str

    @classmethod
    def local(cls, host: str, port: int) -> "Places":
        """Return those of a page that listens on loopback."""
        names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host.lower()}
        hosts = _with_port(names, port, 80)
        return cls(hosts, frozenset(f"http://{each}" for each in hosts), False, f"sipdump-{port}")

    def behind(self, url: str | None) -> "Places":
        """Return those of the same page behind a proxy.

        Args:
            url: where browsers reach the proxy, as ``https://sip.example.com``; None: the proxy checks that.
        """
        if url is None:
            return attrs.evolve(self, hosts=None, origins=frozenset())
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        default = 443 if secure else 80
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        hosts = _with_port({name}, parts.port or default, default)
        return Places(
            (self.hosts or frozenset()) | hosts,
            self.origins | {f"{parts.scheme}://{each}" for each in hosts},
            secure,
            "__Host-sipdump" if secure else self.cookie,
        )

    def refused(self, headers: Headers) -> str:
        """Return why a request cannot come from our own page; empty where it can."""
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if not host or (self.hosts is not None and host not in self.hosts):
            return "this is not an address of this page"
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin, host):
            return "the request comes from another page"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return "the request comes from another page"
        return ""

    def _is_ours(self, origin: str, host: str) -> bool:
        if self.hosts is None:
            return origin.lower() in (f"http://{host}", f"https://{host}")
        return origin.lower() in self.origins


class Gate:
    """Lets in who has the token, and puts :data:`HEADERS` on each answer.

    Args:
        app: what is behind it.
        keys: the secrets.
        places: where the page is reached.
        pages: draws the pages of refusals.
    """

    def __init__(self, app: ASGIApp, keys: Keys, places: Places, pages: Pages) -> None:
        self._app = app
        self._keys = keys
        self._places = places
        self._pages = pages
        self._limit = Limit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _guarded(message.get("headers", ()))
            await send(message)

        try:
            answer = self._answer(scope)
            await (answer or self._app)(scope, receive, guarded)
        except Exception as error:
            self._limit.warn("view", "a view failed", path=scope["path"], error=error, traceback=True)
            if started:
                raise
            await self._outside(500, "This went wrong here", "The log says more.")(scope, receive, guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """Return the answer where a request goes no further."""
        headers = Headers(scope=scope)
        if reason := self._places.refused(headers):
            self._refuse(scope, reason)
            return self._outside(403, "Refused", reason.capitalize() + ".")
        if scope["method"] != "GET":
            answer = self._outside(405, "Only GET", "This page is only read.")
            answer.headers["Allow"] = "GET"
            return answer
        if scope["path"].startswith(SHARED):
            return None
        given = [value for name, value in _query(scope) if name == "token"]
        if given:
            return self._exchange(scope, headers, given[0])
        if self._is_known(headers):
            return None
        answer = self._outside(
            401, "Who are you?", "Open the address with the token that sipdump-read web printed at its start."
        )
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _is_known(self, headers: Headers) -> bool:
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(value.strip(), self._keys.token):
            return True
        return any(_same(cookie, self._keys.session) for cookie in _cookies(headers, self._places.cookie))

    def _exchange(self, scope: Scope, headers: Headers, token: str) -> Response:
        """Exchange the token for a cookie, and lead to the same page without it."""
        if not _same(token, self._keys.token):
            self._refuse(scope, "a wrong token")
            return self._outside(
                403, "This token is wrong", "Each start has another one: open the address that was printed last."
            )
        rest = urlencode([each for each in _query(scope) if each[0] != "token"], errors="surrogateescape")
        path = scope.get("raw_path", b"/").decode("ascii")
        target = "/" + path.lstrip("/") + (f"?{rest}" if rest else "")  # "//host" would be another host
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            answer = Response(status_code=303, headers={"Location": target})
        else:  # a Strict cookie goes along only with what our own page asks for
            answer = self._pages.page("entered.html", target=target)
        answer.set_cookie(self._places.cookie, self._keys.session, httponly=True, samesite="strict",
                          secure=self._places.secure)  # fmt: skip
        return answer

    def _outside(self, status: int, title: str, text: str) -> Response:
        return self._pages.problem(status, title, text, inside=False)

    def _refuse(self, scope: Scope, reason: str) -> None:
        client = scope.get("client")
        self._limit.warn(reason, "a request was refused", reason=reason, client=client[0] if client else "")


def _same(given: str, secret: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())


def _with_port(names: Collection[str], port: int, default: int) -> frozenset[str]:
    return frozenset(f"{name}:{port}" for name in names) | (frozenset(names) if port == default else frozenset())


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="surrogateescape")


def _cookies(headers: Headers, name: str) -> list[str]:
    """Return the values of a cookie; a page on another port may have set more."""
    found = []
    for header in headers.getlist("cookie"):
        for part in header.split(";"):
            try:
                cookie = SimpleCookie(part)
            except CookieError:
                continue
            if name in cookie:
                found.append(cookie[name].value)
    return found


def _guarded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return an answer's headers with :data:`HEADERS`, which no view changes."""
    ours = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
    return [each for each in headers if each[0].lower() not in ours] + list(ours.items())


def log_export(what: str, call_id: str, scope: Scope) -> None:
    """Log that something was taken out."""
    client = scope.get("client")
    forwarded = Headers(scope=scope).get("x-forwarded-for", "")
    log.info(Event("export", format=what, call_id=call_id, client=client[0] if client else "", forwarded_for=forwarded))
