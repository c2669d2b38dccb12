"""What those who ask a daemon need: where it takes commands."""

from sipdump_core.settings.ctl import CtlOptions
from sipdump_core.settings.options import Settings, build

__all__ = ["control_socket"]


def control_socket(settings: Settings) -> str:
    """Return the first control socket that a daemon's settings name; empty if there is none.

    Raises:
        ConfigError: an option of ``sipdump_ctl`` is wrong.
    """
    options = build(CtlOptions, settings.of("sipdump_ctl"))
    return str(options.binrpc[0].value) if options.binrpc else ""
