"""Rules of retention: how long which calls are kept, as ``method=REGISTER,OPTIONS state=done backend=s3 age=3d``."""

import re

import attrs

from sipdump_core.calls.summary import CALL_STATES
from sipdump_core.settings.options import duration

__all__ = ["Rule", "parse_rule"]

_METHOD = re.compile(r"[A-Z][A-Z0-9_.-]*")
_LONGEST = 2**31 - 1
_KEYS = "method, state, backend and age"


@attrs.frozen
class Rule:
    """How long some calls are kept."""

    text: str
    """As it was written."""
    age_s: int
    """Seconds that a call is kept after the last write of the last segment that has a message of it."""
    methods: frozenset[str] = frozenset()
    """The methods of the first requests of calls; none: any."""
    states: frozenset[str] = frozenset()
    """What became of them, see :data:`~sipdump_core.calls.summary.CALL_STATES`; none: anything."""
    backend: str = ""
    """The backend that it is for; empty: all."""


def parse_rule(text: str) -> Rule:
    """Read a rule.

    Raises:
        ValueError: a word of it is not understood; the error names the word.
    """
    found: dict[str, str] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if name not in ("method", "state", "backend", "age") or not equals or not value:
            raise ValueError(f"{word!r} is not understood; a rule has {_KEYS}, as method=REGISTER,OPTIONS age=3d")
        if name in found:
            raise ValueError(f"{word!r}: {name} is there twice; write its values with commas between")
        found[name] = value
    if "age" not in found:
        raise ValueError('it says no age; add one, as "age=30d"')
    methods = [each.upper() for each in found.get("method", "").split(",")] if "method" in found else []
    for method in methods:
        if not _METHOD.fullmatch(method):
            raise ValueError(f"method={found['method']}: {method!r} is no method")
    states = found["state"].lower().split(",") if "state" in found else []
    for state in states:
        if state not in CALL_STATES:
            raise ValueError(f"state={found['state']}: {state!r} is no state; there are: {', '.join(CALL_STATES)}")
    return Rule(text, _age(found["age"]), frozenset(methods), frozenset(states), found.get("backend", ""))


def _age(text: str) -> int:
    try:
        age = int(text) if text.isascii() and text.isdigit() else duration(text)
    except ValueError as error:
        raise ValueError(f"age={text}: {error}") from None
    if not 0 < age <= _LONGEST:
        raise ValueError(f"age={text}: must be 1 to {_LONGEST} seconds")
    return age
