"""Routes of a Kamailio whose messages sipdump_forward.py, beside this file, hands to sipdumpd."""

from typing import Any

import KSR  # type: ignore[import-not-found]  # Kamailio itself has it
from sipdump_forward import Forward  # type: ignore[import-not-found]


class Kamailio(Forward):  # type: ignore[misc]
    """The event callback, ksr_sipdump_event, and child_init are inherited."""

    def ksr_request_route(self, msg: Any) -> int:
        if KSR.is_MESSAGE():
            # where the script says KSR.sipdump.send("cfg"): Kamailio runs no event callback for that, so
            self.sipdump_forward_send(msg, "cfg")
        if KSR.is_method_in("ROM"):
            KSR.sl.sl_send_reply(200, "OK")
            return 1
        if KSR.siputils.has_totag() > 0:
            if KSR.rr.loose_route() > 0:
                KSR.tm.t_relay()
            return 1
        KSR.rr.record_route()
        KSR.tm.t_relay()
        return 1


def mod_init() -> Kamailio:
    return Kamailio()
