"""What a HEP sender does wrong all the time: a line of the log a minute, with the count, the sender and what to do."""

from collections import Counter
from typing import NamedTuple

from sipdump_core.log import Event, log

__all__ = ["Troubles"]

_EVERY_S = 60.0


class _Trouble(NamedTuple):
    what: str
    hint: str


_KINDS = {
    "auth_failed": _Trouble(
        "HEP packets with a wrong auth key, or none, are dropped",
        'set the sender\'s key to that of modparam("sipdump_hep", "auth_key", ...); HEP 1 and 2 have no key',
    ),
    "time_replaced": _Trouble(
        "HEP packets with a missing, impossible or far-off time get the time of their receipt",
        'check the clock of the sender; modparam("sipdump_hep", "time_window", 0) takes all times that are possible',
    ),
    "tls": _Trouble(
        "TLS comes in where plain HEP is expected",
        "switch TLS off at the sender, or put a TLS terminator (stunnel, HAProxy) before sipdumpd",
    ),
}


class Troubles:
    """Counts troubles by kind and sender, and logs them."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def log(self, counts: Counter[tuple[str, str]], now_s: float) -> None:
        """Log the kinds that were not logged for a minute, and take them out of the counts.

        Args:
            counts: how often each kind was met, by the address of the sender.
            now_s: the time on the monotonic clock.
        """
        for kind in {kind for kind, _ in counts}:
            if now_s - self._logged.get(kind, -_EVERY_S) < _EVERY_S:
                continue
            self._logged[kind] = now_s
            of_kind = Counter({peer: count for (one, peer), count in counts.items() if one == kind})
            for peer in of_kind:
                del counts[kind, peer]
            ((worst, _),) = of_kind.most_common(1)
            peers = {"peers": len(of_kind)} if len(of_kind) > 1 else {}
            trouble = _KINDS[kind]
            log.warning(Event(trouble.what, count=of_kind.total(), peer=worst, **peers, hint=trouble.hint))
