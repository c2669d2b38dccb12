"""The contract of filters, for redact."""

from typing import Any

from sipdump_core.drivers.base import Filter
from sipdump_core.testing import FilterContract
from sipdump_core.testing.samples import OPTIONS
from sipdump_redact import RedactFilter, RedactOptions

LOGIN = b'REGISTER sip:h SIP/2.0\r\nAuthorization: Digest username="alice", response="5557319055"\r\n\r\n'


class Common(FilterContract):
    """All contracts of it."""

    filter_class = RedactFilter
    parameters: dict[str, Any]

    def make_filter(self) -> Filter:
        return RedactFilter(RedactOptions(**self.parameters))


class TestCredentials(Common):
    """What most have."""

    parameters = {"credentials": 1, "keys": 1}  # noqa: RUF012 - pytest's classes are made anew for each test
    hides = ((LOGIN, b"5557319055"),)
    leaves = (OPTIONS, b"\r\n\r\n", b"SIP/2.0 200 OK\r\n\r\n")


class TestEverything(Common):
    """All of it, after the route, with what cannot be parsed dropped."""

    parameters = {  # noqa: RUF012
        "credentials": 1, "keys": 1, "bodies": "*", "headers": "Subject", "users": "mask:4", "unparsed": "drop",
        "redact_route": 0,
    }  # fmt: skip
    hides = ((LOGIN, b"5557319055"), (LOGIN, b"alice"), (OPTIONS, b"bob"))
    leaves = (b"\r\n\r\n", b"SIP/2.0 200 OK\r\n\r\n")


del Common
