"""Redaction before anything is stored: the core's masker, as a filter with parameters; see docs/redaction.md."""

import re
from collections.abc import Mapping, Sequence

import attrs

from sipdump_core.drivers.base import Filter
from sipdump_core.errors import ConfigError
from sipdump_core.masking.masker import DROP, MASK, STORE, Masker, Rules
from sipdump_core.masking.users import make_users, parse_users
from sipdump_core.record import Record
from sipdump_core.settings.options import Given, one_of, option

__all__ = ["RedactFilter", "RedactOptions"]

_NAME = re.compile(r"[!#$%&'*+.0-9A-Z^_`a-z|~-]+", re.ASCII)


def _names(value: str) -> str | None:
    wrong = [name for name in _split(value) if not _NAME.fullmatch(name)]
    return f"{wrong[0]!r} is no name; write names with commas between" if wrong else None


def _split(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


@attrs.frozen
class RedactOptions:
    """What is redacted; by default nothing."""

    credentials: int = option(
        0,
        help="1: mask digests, nonces and tokens in Authorization and its like, and Identity",
        check=one_of(0, 1),
    )
    keys: int = option(0, help="1: mask keys of media in SDP: a=crypto, k=, a=key-mgmt, a=ice-pwd", check=one_of(0, 1))
    bodies: str = option(
        "", help='methods whose bodies are masked, as "MESSAGE,INFO"; "*" for all; length and type stay', check=_names
    )
    headers: str = option("", help='headers whose values are masked, as "X-Secret, Subject"', check=_names)
    users: Given[tuple[str, str]] | None = option(
        "",
        help='what stands for users: "hmac:/path/of/a/key": tokens; "mask:4": numbers without their last 4 digits',
        parse=parse_users,
    )
    unparsed: str = option(
        MASK,
        help="what becomes of a message, or a body, that cannot be parsed: mask, drop or store",
        check=one_of(MASK, DROP, STORE),
    )
    redact_route: int = option(
        1, help="0: the event route, and what it logs, sees messages as they came", check=one_of(0, 1)
    )


class RedactFilter(Filter):
    """Masks what the parameters name.

    Raises:
        ConfigError: the key of ``users`` cannot be read, is too short, or may be read by others.
    """

    name = "redact"
    flag = 128
    api = 2
    options = RedactOptions
    prompt = True

    def __init__(self, options: RedactOptions) -> None:
        super().__init__(options)
        self.before_route = bool(options.redact_route)
        try:
            users = make_users(*options.users.value) if options.users else None
        except ConfigError as error:
            raise ConfigError(f"users: {error}") from error
        self._masker = Masker(
            Rules(
                bool(options.credentials),
                bool(options.keys),
                _split(options.bodies),
                _split(options.headers),
                users,
                options.unparsed,
            )
        )

    def apply(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return the records masked."""
        mask = self._masker.mask
        return [masked for record in records if (masked := mask(record)) is not None]

    def stats(self) -> Mapping[str, int]:
        """Return how many messages, or bodies of messages, could not be parsed."""
        return {"unparsed": self._masker.unparsed}
