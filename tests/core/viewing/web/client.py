"""A client of the page, in process."""

from pathlib import Path
from typing import Any

import attrs
from starlette.testclient import TestClient

from sipdump_core.calls.legs import LegRules
from sipdump_core.reading.redacting import Redactor
from sipdump_core.reading.shelves import Shelf, open_shelves
from sipdump_core.viewing.web.app import make_app
from sipdump_core.viewing.web.desk import Desk
from sipdump_core.viewing.web.gate import Gate, Keys, Places
from sipdump_core.viewing.web.limits import Limits
from sipdump_core.viewing.web.pages import Pages

PORT = 8080
BASE = f"http://127.0.0.1:{PORT}"


@attrs.define
class Page:
    """The page of a store: one client that is in, and any number of strangers."""

    desk: Desk
    app: Gate

    def client(self, base: str = BASE, **more: Any) -> TestClient:
        """Return a client that is not let in."""
        return TestClient(self.app, base, follow_redirects=False, raise_server_exceptions=False, **more)

    def inside(self) -> TestClient:
        """Return a client that has exchanged the token."""
        client = self.client()
        answer = client.get("/", params={"token": self.desk.keys.token})
        assert answer.status_code == 303
        return client


def page_of(
    folder: Path,
    limits: Limits | None = None,
    places: Places | None = None,
    shelves: list[Shelf] | None = None,
    redactor: Redactor | None = None,
) -> Page:
    """Return the page of a folder."""
    shelves = open_shelves(folders=[str(folder)])[0] if shelves is None else shelves
    desk = Desk(
        shelves, LegRules(), Pages([str(each) for each in shelves]), Keys(), limits or Limits(), redactor=redactor
    )
    return Page(desk, make_app(desk, places or Places.local("127.0.0.1", PORT)))
